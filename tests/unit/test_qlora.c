// link: launch
// cost: 60
/* Frozen matrices in NF4 and int8: a run is that of a model whose weights are what the codes stand for, to the bit, on
 * any layout, in less memory; a layout that would cut a block is refused with the numbers. */
#include "capture.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/fs.h"
#include "dstrain/master.h"
#include "dstrain/model.h"
#include "dstrain/quant_file.h"
#include "dstrain/safetensors.h"

#include <stdio.h>

enum { STEPS = 4 };

static char *folder, *data;
static uint64_t seed;

static const char config_text[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 61, "
    "\"hidden_size\": 128, \"intermediate_size\": 256, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 32, "
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"max_position_embeddings\": 64, "
    "\"initializer_range\": 0.08, \"tie_word_embeddings\": false, \"hidden_act\": \"silu\", "
    "\"torch_dtype\": \"float32\"}";

/* ---- a model, and what is left of it when it was quantised */

static void round_to(int compute, float *x, uint64_t count)
{
    const enum ds_dtype dtype = compute == DS_PRECISION_BF16 ? DS_BF16 : DS_F32;
    uint16_t half;

    for (uint64_t i = 0; i < count && dtype != DS_F32; i++) {
        assert_true(ds_dtype_from_f32(&half, dtype, &x[i], 1));
        assert_true(ds_dtype_to_f32(&x[i], &half, dtype, 1));
    }
}

static void through_nf4(float *x, uint64_t count)
{
    const uint64_t blocks = ds_nf4_blocks(count);
    float *absmax = malloc(blocks * sizeof *absmax), *nest = malloc(blocks * sizeof *nest);
    float map[DS_QUANT_MAP];
    uint8_t *codes = malloc(ds_nf4_bytes(count)), *absmax_codes = malloc(blocks);
    struct ds_quantised form = {
        .kind = DS_QUANT_NF4, .absmax_codes = absmax_codes, .nest_absmax = nest, .map = map};

    ds_quant_map(map);
    assert_int_equal(ds_nf4_quantise(x, count, codes, absmax), count);
    ds_nf4_nest(absmax, blocks, map, absmax_codes, nest, &form.offset);
    ds_dequantise(&form, codes, 0, count, x);
    free(absmax);
    free(nest);
    free(codes);
    free(absmax_codes);
}

static void through_int8(float *x, uint64_t rows, uint64_t columns)
{
    float *absmax = malloc(rows * sizeof *absmax);
    int8_t *codes = malloc(rows * columns);
    const struct ds_quantised form = {.kind = DS_QUANT_INT8, .columns = columns, .absmax = absmax};

    assert_int_equal(ds_int8_quantise(x, rows, columns, codes, absmax), rows * columns);
    ds_dequantise(&form, codes, 0, rows * columns, x);
    free(absmax);
    free(codes);
}

/* The parameters as they are computed with where the matrices of layers are stored as `base`. */
static void make_values(const struct ds_model *model, const struct ds_param *param, int base,
                        int compute, float *x)
{
    ds_model_init_values(model, param, seed, 0, param->elems, x);
    if (!param->is_matrix || strncmp(param->name, "model.layers.", 13) != 0 ||
        base == DS_BASE_COMPUTE)
        return;
    if (base == DS_BASE_NF4)
        through_nf4(x, param->elems);
    else
        through_int8(x, param->shape[0], param->shape[1]);
    round_to(compute, x, param->elems);
}

static const char *model_path(int base, int compute)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/model-%d-%d", folder, base, compute);
    return path;
}

static void write_model(int base, int compute)
{
    struct ds_fs *fs = ds_fs_posix();
    struct ds_model_config config;
    struct ds_safetensors_item items[64] = {{0}};
    struct ds_safetensors_writer *writer;
    struct ds_model *model;
    char path[600];
    FILE *file;

    assert_int_equal(ds_fs_mkdir(fs, model_path(base, compute), 0755), 0);
    snprintf(path, sizeof path, "%s/config.json", model_path(base, compute));
    file = fopen(path, "w");
    assert_true(file && fputs(config_text, file) >= 0 && fclose(file) == 0);
    assert_ok(ds_model_config_parse("config", config_text, sizeof config_text - 1, &config));
    assert_ok(ds_model_open(&config, NULL, &model));
    assert_true(model->param_count <= 64);
    for (uint32_t i = 0; i < model->param_count; i++) {
        items[i] = (struct ds_safetensors_item){.name = model->params[i].name,
                                                .dtype = DS_F32,
                                                .dim_count = model->params[i].dim_count};
        memcpy(items[i].shape, model->params[i].shape,
               model->params[i].dim_count * sizeof(uint64_t));
    }
    snprintf(path, sizeof path, "%s/model.safetensors", model_path(base, compute));
    assert_ok(ds_safetensors_create(fs, path, items, model->param_count, NULL, &writer));
    for (uint32_t i = 0; i < model->param_count; i++) {
        float *x = malloc(model->params[i].elems * sizeof *x);

        make_values(model, &model->params[i], base, compute, x);
        assert_ok(ds_safetensors_write(writer, i, 0, model->params[i].elems, x));
        free(x);
    }
    assert_ok(ds_safetensors_commit(writer));
    ds_model_close(model);
}

/* The same as bitsandbytes would write it: matrices of layers quantised, all else as it is. */
static void write_parts(const struct ds_model *model, struct ds_quant_items *matrices,
                        struct ds_safetensors_writer *writer, const size_t *first)
{
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        float *x = malloc(param->elems * sizeof *x);
        struct ds_quant_writer *codes;

        make_values(model, param, DS_BASE_COMPUTE, 0, x);
        if (matrices[i].count == 0) {
            assert_ok(ds_safetensors_write(writer, first[i], 0, param->elems, x));
        } else {
            assert_ok(ds_quant_write_begin(&matrices[i], writer, first[i], &codes));
            assert_ok(ds_quant_write(codes, x, param->elems));
            assert_ok(ds_quant_write_end(codes));
        }
        free(x);
    }
}

static void write_quantised(int base, const char *to)
{
    static struct ds_quant_items matrices[64];
    static struct ds_safetensors_item items[64 * DS_QUANT_ITEMS_MAX];
    struct ds_safetensors_writer *writer;
    struct ds_model_config config;
    struct ds_model *model;
    size_t first[64], count = 0;
    char path[600];
    FILE *file;

    assert_int_equal(ds_fs_mkdir(ds_fs_posix(), to, 0755), 0);
    snprintf(path, sizeof path, "%s/config.json", to);
    file = fopen(path, "w");
    assert_true(file &&
                fprintf(file,
                        "%.*s, \"quantization_config\": {\"quant_method\": "
                        "\"bitsandbytes\"}}",
                        (int)sizeof config_text - 2, config_text) > 0 &&
                fclose(file) == 0);
    assert_ok(ds_model_config_parse("config", config_text, sizeof config_text - 1, &config));
    assert_ok(ds_model_open(&config, NULL, &model));
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        const struct ds_quant_form form = {base == DS_BASE_NF4 ? DS_QUANT_NF4 : DS_QUANT_INT8,
                                           DS_F32, param->shape[0], param->shape[1], 1};

        first[i] = count;
        matrices[i].count = 0;
        if (param->is_matrix && strncmp(param->name, "model.layers.", 13) == 0) {
            assert_ok(ds_quant_describe(&form, param->name, &matrices[i]));
            memcpy(items + count, matrices[i].items, matrices[i].count * sizeof *items);
            count += matrices[i].count;
            continue;
        }
        items[count] = (struct ds_safetensors_item){
            .name = param->name, .dtype = DS_F32, .dim_count = param->dim_count};
        memcpy(items[count++].shape, param->shape, param->dim_count * sizeof(uint64_t));
    }
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    assert_ok(ds_safetensors_create(ds_fs_posix(), path, items, count, NULL, &writer));
    write_parts(model, matrices, writer, first);
    assert_ok(ds_safetensors_commit(writer));
    ds_model_close(model);
}

/* ---- runs */

static struct {
    const char *path;
    int base, compute;
    uint64_t interval;         /* of checkpoints */
    struct ds_home_key params; /* where they live */
    uint64_t block_size;       /* 0: the usual */
    int dora;                  /* lengths are those of what the codes stand for */
} now;

static void adjust(struct ds_config *config)
{
    snprintf(config->model.path, sizeof config->model.path, "%s", now.path);
    config->lora.r = 4;
    config->lora.alpha = 8;
    config->lora.dora = now.dora;
    config->lora.base = now.base;
    config->precision.compute = now.compute;
    config->optimizer.learning_rate = 1e-2;
    config->offload.params = now.params;
    if (now.block_size)
        config->offload.block_size = now.block_size;
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", folder);
}

static const struct layout {
    uint32_t ranks, tensor, pipeline;
    int stage, mode, recompute, schedule;
} layouts[] = {
    {1, 1, 1, 0, 0, DS_RECOMPUTE_NONE, DS_PIPELINE_1F1B},
    {1, 1, 1, 3, 1, DS_RECOMPUTE_FULL, DS_PIPELINE_1F1B},
    {2, 1, 1, 3, 1, DS_RECOMPUTE_NONE, DS_PIPELINE_1F1B},
    {2, 1, 1, 1, 0, DS_RECOMPUTE_SELECTIVE, DS_PIPELINE_1F1B},
    {3, 1, 1, 3, 0, DS_RECOMPUTE_FULL, DS_PIPELINE_1F1B},
    {2, 2, 1, 2, 1, DS_RECOMPUTE_NONE, DS_PIPELINE_1F1B},
    {2, 1, 2, 3, 1, DS_RECOMPUTE_NONE, DS_PIPELINE_1F1B},
    {4, 2, 1, 3, 1, DS_RECOMPUTE_FULL, DS_PIPELINE_1F1B},
    {4, 1, 2, 3, 0, DS_RECOMPUTE_NONE, DS_PIPELINE_ZERO_BUBBLE},
};

static struct tiny_case case_of(const struct layout *l)
{
    return (struct tiny_case){.ranks = l->ranks,
                              .tensor = l->tensor,
                              .pipeline = l->pipeline,
                              .stage = l->stage,
                              .mode = l->mode,
                              .recompute = l->recompute,
                              .schedule = l->schedule,
                              .steps = STEPS,
                              .global_batch = 12,
                              .micro_batch = 2,
                              .seed = seed,
                              .data = data,
                              .adjust = adjust};
}

static struct tiny_result run(const struct layout *l, int base, const char *path)
{
    const struct tiny_case c = case_of(l);
    struct tiny_result result;

    now.base = base;
    now.path = path;
    tiny_run(&c, &result);
    if (result.status != DS_OK)
        print_message("ranks %u, tensor %u, pipeline %u, stage %d, base %d\n", l->ranks, l->tensor,
                      l->pipeline, l->stage, base);
    assert_int_equal(result.status, DS_OK);
    return result;
}

static void assert_same(const struct tiny_result *a, const struct tiny_result *b)
{
    assert_memory_equal(a->loss, b->loss, sizeof a->loss);
    assert_memory_equal(a->norm, b->norm, sizeof a->norm);
    assert_memory_equal(&a->eval_loss, &b->eval_loss, sizeof a->eval_loss);
    assert_int_equal(a->param_count, b->param_count);
    for (uint32_t i = 0; i < a->param_count; i++)
        if (strstr(a->table[i].name, "lora_"))
            assert_memory_equal(a->params + a->table[i].start, b->params + b->table[i].start,
                                a->table[i].elems * sizeof(float));
}

static uint64_t weight_bytes(const struct tiny_result *result, uint32_t rank)
{
    return result->bytes[rank][DS_MEMORY_DEVICE][DS_MEMORY_LABEL_PARAMS];
}

static void compare_layout(const struct layout *l, int base)
{
    char whole[512], codes[512];

    now.dora = (l - layouts) % 2 == (base == DS_BASE_NF4);
    snprintf(whole, sizeof whole, "%s", model_path(DS_BASE_COMPUTE, 0));
    snprintf(codes, sizeof codes, "%s", model_path(base, now.compute));
    struct tiny_result quantised = run(l, base, whole), plain = run(l, DS_BASE_COMPUTE, codes);

    assert_same(&quantised, &plain);
    assert_true(quantised.loss[STEPS - 1] > 0 && quantised.loss[STEPS - 1] != quantised.loss[0]);
    for (uint32_t rank = 0; rank < l->ranks && now.compute == DS_PRECISION_FP32; rank++)
        assert_true(weight_bytes(&quantised, rank) < weight_bytes(&plain, rank) / 2);
    tiny_result_fini(&quantised);
    tiny_result_fini(&plain);
}

static void compare_all(int base, int compute)
{
    now.compute = compute;
    write_model(base, compute);
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        compare_layout(&layouts[i], base);
}

static void nf4_is_the_run_of_what_its_codes_stand_for(void **state)
{
    (void)state;
    compare_all(DS_BASE_NF4, DS_PRECISION_FP32);
    compare_all(DS_BASE_NF4, DS_PRECISION_BF16);
}

static void int8_is_the_run_of_what_its_codes_stand_for(void **state)
{
    (void)state;
    compare_all(DS_BASE_INT8, DS_PRECISION_FP32);
    compare_all(DS_BASE_INT8, DS_PRECISION_BF16);
}

/* Quantised or not are different runs: the comparison would see one that is not quantised. */
static void codes_are_not_the_weights(void **state)
{
    char whole[512];

    (void)state;
    now.compute = DS_PRECISION_FP32;
    snprintf(whole, sizeof whole, "%s", model_path(DS_BASE_COMPUTE, 0));
    struct tiny_result quantised = run(&layouts[0], DS_BASE_NF4, whole);
    struct tiny_result plain = run(&layouts[0], DS_BASE_COMPUTE, whole);

    assert_true(quantised.loss[0] != plain.loss[0]);
    tiny_result_fini(&quantised);
    tiny_result_fini(&plain);
}

/* A folder that comes quantised is read as what its codes stand for, whoever wants which part of it. */
static void a_quantised_folder_is_the_model_of_its_codes(void **state)
{
    static const int bases[] = {DS_BASE_NF4, DS_BASE_INT8};
    char codes[512], plain[512];

    (void)state;
    now.compute = DS_PRECISION_FP32;
    for (size_t b = 0; b < 2; b++) {
        snprintf(codes, sizeof codes, "%s/codes-%d", folder, bases[b]);
        write_quantised(bases[b], codes);
        snprintf(plain, sizeof plain, "%s", model_path(bases[b], DS_PRECISION_FP32));
        for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i += 5) {
            struct tiny_result a = run(&layouts[i], DS_BASE_COMPUTE, codes);
            struct tiny_result other = run(&layouts[i], DS_BASE_COMPUTE, plain);

            assert_same(&a, &other);
            tiny_result_fini(&a);
            tiny_result_fini(&other);
        }
    }
}

/* Stored in the form of the folder they keep its codes, and what lies beside them: quantised again from what they stand
 * for, absmax would be others. On ranks that have parts of them, too. */
static void codes_of_a_folder_are_kept(void **state)
{
    static const int bases[] = {DS_BASE_NF4, DS_BASE_INT8};
    char codes[512];

    (void)state;
    now.compute = DS_PRECISION_FP32;
    for (size_t b = 0; b < 2; b++) {
        snprintf(codes, sizeof codes, "%s/codes-%d", folder, bases[b]);
        for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i += 7) {
            struct tiny_result kept = run(&layouts[i], bases[b], codes);
            struct tiny_result read = run(&layouts[i], DS_BASE_COMPUTE, codes);

            assert_same(&kept, &read);
            tiny_result_fini(&kept);
            tiny_result_fini(&read);
        }
    }
}

/* Codes live where other parameters may: on the host or in files, all of them or some, in strips of any length. */
static void codes_away_are_the_same_codes(void **state)
{
    static const struct ds_home_key homes[] = {
        {DS_HOME_HOST, 1}, {DS_HOME_NVME, 1}, {DS_HOME_HOST, 0.4}, {DS_HOME_NVME, 0.7}};
    char whole[512];

    (void)state;
    snprintf(whole, sizeof whole, "%s", model_path(DS_BASE_COMPUTE, 0));
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        const int base = i % 3 ? DS_BASE_NF4 : DS_BASE_INT8;

        if (layouts[i].stage < 3)
            continue;
        now.compute = i % 2 ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
        now.params = (struct ds_home_key){DS_HOME_DEVICE, 0};
        struct tiny_result near = run(&layouts[i], base, whole);
        now.params = homes[i % 4];
        now.block_size = i % 2 ? 8192 : 65536;
        struct tiny_result away = run(&layouts[i], base, whole);

        assert_same(&near, &away);
        for (uint32_t rank = 0; rank < layouts[i].ranks; rank++)
            assert_true(weight_bytes(&away, rank) < weight_bytes(&near, rank));
        assert_int_equal(away.filed[0][DS_ZERO_PARAM] > 0, now.params.home == DS_HOME_NVME);
        tiny_result_fini(&near);
        tiny_result_fini(&away);
    }
    now.params = (struct ds_home_key){DS_HOME_DEVICE, 0};
    now.block_size = 0;
}

/* A checkpoint has the factors alone; the launch that goes on quantises again. */
static void checkpointed(struct ds_config *config)
{
    adjust(config);
    config->schedule.decay_steps = 4 * STEPS;
    config->checkpoint.interval = now.interval;
    if (now.interval > 0)
        snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s/checkpoints", folder);
}

static void a_run_goes_on_from_its_factors(void **state)
{
    struct tiny_case c = case_of(&layouts[2]), half;
    struct tiny_result whole, first, rest;
    char path[512];

    (void)state;
    now.compute = DS_PRECISION_BF16;
    now.base = DS_BASE_NF4;
    snprintf(path, sizeof path, "%s", model_path(DS_BASE_COMPUTE, 0));
    now.path = path;
    c.adjust = checkpointed;
    tiny_run(&c, &whole);
    now.interval = STEPS / 2;
    half = c;
    half.steps = STEPS / 2;
    tiny_run(&half, &first);
    tiny_run(&c, &rest);
    now.interval = 0;
    assert_int_equal(whole.status + first.status + rest.status, DS_OK);
    assert_true(rest.loss[0] == 0 &&
                rest.loss[STEPS / 2] != 0); /* it began behind the first half */
    memcpy(rest.loss, whole.loss, STEPS / 2 * sizeof *rest.loss);
    memcpy(rest.norm, whole.norm, STEPS / 2 * sizeof *rest.norm);
    assert_same(&whole, &rest);
    tiny_result_fini(&whole);
    tiny_result_fini(&first);
    tiny_result_fini(&rest);
}

static void narrow(struct ds_config *config)
{
    config->lora.r = 4;
    config->lora.alpha = 8;
    config->lora.base = now.base;
}

/* o_proj of the usual small model is 32 wide: half of that is no block. int8 has none. */
static void a_split_that_cuts_a_block_is_refused(void **state)
{
    const struct layout l = {2, 2, 1, 3, 0, 0, DS_PIPELINE_1F1B};
    struct tiny_case c = case_of(&l);
    struct tiny_result result;
    struct capture capture;

    (void)state;
    c.adjust = narrow;
    now.base = DS_BASE_NF4;
    capture_begin(&capture);
    tiny_run(&c, &result);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, DS_ERR_CONFIG);
    assert_non_null(strstr(said,
                           "o_proj.weight is [32, 32], and tensor rank 0 has its columns 0 to "
                           "15: that cuts a block of 64 numbers; parallel.tensor = 2"));
    tiny_result_fini(&result);
    now.base = DS_BASE_INT8;
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    tiny_result_fini(&result);
}

static int begin(void **state)
{
    (void)state;
    folder = tiny_folder();
    seed = test_seed("test_qlora");
    data = tiny_data(folder, seed, 40);
    write_model(DS_BASE_COMPUTE, 0);
    return 0;
}

static int end(void **state)
{
    (void)state;
    free(data);
    tiny_remove(folder);
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nf4_is_the_run_of_what_its_codes_stand_for),
        cmocka_unit_test(int8_is_the_run_of_what_its_codes_stand_for),
        cmocka_unit_test(codes_are_not_the_weights),
        cmocka_unit_test(a_quantised_folder_is_the_model_of_its_codes),
        cmocka_unit_test(codes_of_a_folder_are_kept), /* those */
        cmocka_unit_test(codes_away_are_the_same_codes),
        cmocka_unit_test(a_run_goes_on_from_its_factors),
        cmocka_unit_test(a_split_that_cuts_a_block_is_refused),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
