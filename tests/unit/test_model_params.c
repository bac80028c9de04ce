/* test_model_params.c - which parameters a model has, where they lie, and their first values. */
// link: model base
#include "test.h"

#include "dstrain/model.h"
#include "dstrain/zero.h"

#include <math.h>

struct released {
    const char *name;
    enum ds_family family;
    uint64_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
    int is_tied;
    uint64_t elems, tensors; /* tensors 0: not known */
};

/* models.md 1.4 and 2.1 */
/* clang-format off */
static const struct released models[] = {
    {"Llama-2-7B",           DS_FAMILY_LLAMA, 4096, 32, 32, 32, 128, 11008,  32000, 0,  6738415616, 291},
    {"Llama-3-8B",           DS_FAMILY_LLAMA, 4096, 32, 32,  8, 128, 14336, 128256, 0,  8030261248, 291},
    {"Llama-3.2-1B",         DS_FAMILY_LLAMA, 2048, 16, 32,  8,  64,  8192, 128256, 1,  1235814400, 146},
    {"DeepSeek-LLM-7B",      DS_FAMILY_LLAMA, 4096, 30, 32, 32, 128, 11008, 102400, 0,  6910365696, 0},
    {"DeepSeek-LLM-67B",     DS_FAMILY_LLAMA, 8192, 95, 64,  8, 128, 22016, 102400, 0, 67425001472, 0},
    {"R1-Distill-Qwen-1.5B", DS_FAMILY_QWEN2, 1536, 28, 12,  2, 128,  8960, 151936, 0,  1777088000, 339},
    {"R1-Distill-Qwen-7B",   DS_FAMILY_QWEN2, 3584, 28, 28,  4, 128, 18944, 152064, 0,  7615616512, 339},
    {"Qwen2.5-1.5B",         DS_FAMILY_QWEN2, 1536, 28, 12,  2, 128,  8960, 151936, 1,  1543714304, 0},
    {"Qwen3-0.6B",           DS_FAMILY_QWEN3, 1024, 28, 16,  8, 128,  3072, 151936, 1,   596049920, 310},
};
/* clang-format on */
#define MODEL_COUNT (sizeof models / sizeof *models)

static struct ds_model_config config_of(const struct released *r)
{
    struct ds_model_config c;

    ds_model_config_default(r->family, &c);
    c.hidden_size = r->hidden;
    c.num_hidden_layers = r->layers;
    c.num_attention_heads = r->heads;
    c.num_key_value_heads = r->kv_heads;
    c.head_dim = r->head_dim;
    c.intermediate_size = r->intermediate;
    c.vocab_size = r->vocab;
    c.tie_word_embeddings = r->is_tied;
    return c;
}

static struct ds_model *open_released(const struct released *r)
{
    struct ds_model_config c = config_of(r);
    struct ds_model *model = NULL;

    assert_ok(ds_model_open(&c, NULL, &model));
    return model;
}

static void released_models_have_their_published_totals(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODEL_COUNT; i++) {
        struct ds_model *model = open_released(&models[i]);

        if (model->elems_total != models[i].elems)
            fail_msg("%s: %llu parameters", models[i].name, (unsigned long long)model->elems_total);
        if (models[i].tensors)
            assert_int_equal(model->param_count, models[i].tensors);
        ds_model_close(model);
    }
}

static void check_unit(const struct ds_model *model, uint32_t index)
{
    const struct ds_unit *unit = &model->units[index];
    uint64_t end = 0;

    for (uint32_t i = 0; i < unit->param_count; i++) {
        const struct ds_param *param = &model->params[unit->param_start + i];
        int joins = i > 0 && param->fuse_group == param[-1].fuse_group;

        assert_int_equal(param->unit, index);
        assert_true(param->offset >= end); /* no overlap */
        assert_true(param->offset < end + DS_ZERO_GROUP_ELEMS);
        assert_true(joins ? param->offset == end : param->offset % DS_ZERO_GROUP_ELEMS == 0);
        end = param->offset + param->elems;
    }
    assert_int_equal(unit->elems, end);
}

/* Odd sizes, all biases: alignment gaps everywhere. */
static struct ds_model_config odd_config(void)
{
    struct ds_model_config c;

    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    c.vocab_size = 509;
    c.hidden_size = 20;
    c.intermediate_size = 37;
    c.num_hidden_layers = 3;
    c.num_attention_heads = 7;
    c.num_key_value_heads = 1;
    c.head_dim = 6;
    c.has_qkv_bias = c.has_o_bias = c.has_mlp_bias = 1;
    return c;
}

static void parameters_fill_their_units_in_order(void **state)
{
    struct ds_model_config odd = odd_config();
    struct ds_model *model = NULL;

    (void)state;
    assert_ok(ds_model_open(&odd, NULL, &model));
    for (uint32_t i = 0; i < model->unit_count; i++)
        check_unit(model, i);
    ds_model_close(model);
    model = open_released(&models[8]);
    uint32_t next = 0;
    for (uint32_t i = 0; i < model->unit_count; i++) {
        check_unit(model, i);
        assert_int_equal(model->units[i].param_start, next); /* consecutive */
        next += model->units[i].param_count;
    }
    assert_int_equal(next, model->param_count);
    ds_model_close(model);
}

static const struct ds_param *must_find(const struct ds_model *model, const char *name)
{
    const struct ds_param *param = ds_model_find(model, name);

    if (!param)
        fail_msg("no parameter %s", name);
    return param;
}

static void check_run(const struct ds_model *model, const char *const *names, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        const struct ds_param *before = must_find(model, names[i - 1]);
        const struct ds_param *param = must_find(model, names[i]);

        assert_int_equal(param->fuse_group, before->fuse_group);
        assert_int_equal(param->offset, before->offset + before->elems);
    }
    for (uint32_t i = 0; i < model->param_count; i++) { /* and nobody else is in the group */
        const struct ds_param *first = must_find(model, names[0]), *other = &model->params[i];
        int is_member = 0;

        for (size_t j = 0; j < count; j++)
            is_member |= strcmp(other->name, names[j]) == 0;
        if (other->unit == first->unit)
            assert_int_equal(other->fuse_group == first->fuse_group, is_member);
    }
}

#define LAYER "model.layers.1."
static void what_one_product_computes_lies_without_a_gap(void **state)
{
    static const char *const weights[] = {LAYER "self_attn.q_proj.weight",
                                          LAYER "self_attn.k_proj.weight",
                                          LAYER "self_attn.v_proj.weight"};
    static const char *const biases[] = {LAYER "self_attn.q_proj.bias",
                                         LAYER "self_attn.k_proj.bias",
                                         LAYER "self_attn.v_proj.bias"};
    static const char *const gate_up[] = {LAYER "mlp.gate_proj.weight", LAYER "mlp.up_proj.weight"};
    static const char *const down[] = {LAYER "mlp.down_proj.weight"};
    struct ds_model_config odd = odd_config();
    struct ds_model *model = NULL;

    (void)state;
    assert_ok(ds_model_open(&odd, NULL, &model));
    check_run(model, weights, 3);
    check_run(model, biases, 3);
    check_run(model, gate_up, 2);
    check_run(model, down, 1);
    ds_model_close(model);
}

static void shapes_are_those_of_files(void **state)
{
    struct ds_model *model = open_released(&models[8]); /* head_dim is not hidden / heads */
    const struct ds_param *q = must_find(model, "model.layers.27.self_attn.q_proj.weight");
    const struct ds_param *k = must_find(model, "model.layers.27.self_attn.k_proj.weight");
    const struct ds_param *o = must_find(model, "model.layers.27.self_attn.o_proj.weight");
    const struct ds_param *norm = must_find(model, "model.layers.0.self_attn.q_norm.weight");

    (void)state;
    assert_true(q->shape[0] == 2048 && q->shape[1] == 1024 && q->tp_split == DS_TP_ROWS);
    assert_true(k->shape[0] == 1024 && k->shape[1] == 1024);
    assert_true(o->shape[0] == 1024 && o->shape[1] == 2048 && o->tp_split == DS_TP_COLUMNS);
    assert_true(norm->dim_count == 1 && norm->shape[0] == 128 && !norm->is_matrix);
    assert_null(ds_model_find(model, "lm_head.weight")); /* tied */
    assert_null(ds_model_find(model, "model.layers.28.self_attn.q_proj.weight"));
    ds_model_close(model);
}

static void a_tied_head_uses_two_units(void **state)
{
    struct ds_model *tied = open_released(&models[2]), *untied = open_released(&models[0]);
    const struct ds_block *head = &tied->blocks[tied->block_count - 1];

    (void)state;
    assert_int_equal(tied->block_count, 18);
    assert_int_equal(head->kind, DS_BLOCK_HEAD);
    assert_int_equal(head->unit_count, 2);
    assert_int_equal(head->units[0], tied->unit_count - 1);
    assert_int_equal(head->units[1], 0);
    head = &untied->blocks[untied->block_count - 1];
    assert_int_equal(head->unit_count, 1);
    assert_int_equal(untied->units[untied->unit_count - 1].param_count, 2);
    ds_model_close(tied);
    ds_model_close(untied);
}

static void initial_values_do_not_depend_on_the_cut(void **state)
{
    struct ds_model_config odd = odd_config();
    struct ds_model *model = NULL;
    uint64_t seed = test_seed("initial_values_do_not_depend_on_the_cut");
    float whole[509 * 20], part[509 * 20];

    (void)state;
    assert_ok(ds_model_open(&odd, NULL, &model));
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];

        ds_model_init_values(model, param, seed, 0, param->elems, whole);
        for (uint64_t start = 0; start < param->elems; start += 1 + param->elems / 7) {
            uint64_t count = param->elems - start < 13 ? param->elems - start : 13;

            ds_model_init_values(model, param, seed, start, count, part);
            assert_memory_equal(part, whole + start, count * sizeof(float));
        }
    }
    ds_model_close(model);
}

static void initial_matrices_are_normal_with_the_configured_width(void **state)
{
    struct ds_model_config c = odd_config();
    struct ds_model *model = NULL;
    const uint64_t count = 200 * 300;
    float *values = malloc(count * sizeof *values);
    double sum = 0, squares = 0;

    (void)state;
    c.vocab_size = 300;
    c.hidden_size = 200;
    c.initializer_range = 0.07;
    assert_ok(ds_model_open(&c, NULL, &model));
    ds_model_init_values(model, must_find(model, "model.embed_tokens.weight"), 5, 0, count, values);
    for (uint64_t i = 0; i < count; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    /* three standard errors of a normal sample */
    assert_true(fabs(sum / (double)count) < 3 * 0.07 / sqrt((double)count));
    assert_true(fabs(sqrt(squares / (double)count) / 0.07 - 1) < 3 / sqrt(2.0 * (double)count));
    ds_model_init_values(model, must_find(model, "model.norm.weight"), 5, 0, 200, values);
    for (int i = 0; i < 200; i++)
        assert_true(values[i] == 1.0f);
    ds_model_init_values(model, must_find(model, LAYER "self_attn.o_proj.bias"), 5, 0, 200, values);
    for (int i = 0; i < 200; i++)
        assert_true(values[i] == 0.0f);
    free(values);
    ds_model_close(model);
}

static void no_two_parameters_start_alike(void **state)
{
    struct ds_model_config odd = odd_config();
    struct ds_model *model = NULL;
    float first[64], value[4], other_seed[4];
    size_t count = 0;

    (void)state;
    assert_ok(ds_model_open(&odd, NULL, &model));
    for (uint32_t i = 0; i < model->param_count; i++) {
        if (!model->params[i].is_matrix)
            continue;
        ds_model_init_values(model, &model->params[i], 1, 0, 4, value);
        ds_model_init_values(model, &model->params[i], 2, 0, 4, other_seed);
        assert_true(value[0] != other_seed[0]);
        for (size_t j = 0; j < count; j++)
            assert_true(first[j] != value[0]);
        first[count++] = value[0];
    }
    ds_model_close(model);
}

/* performance.md section 0: 6N with the head and without the embedding, causal attention */
static void flops_are_those_of_the_causal_convention(void **state)
{
    struct ds_model *llama2 = open_released(&models[0]), *llama32 = open_released(&models[2]);

    (void)state;
    assert_true(fabs(ds_model_flops_per_token(llama2, 0) / 1e9 - 39.64) < 0.005);
    assert_true(fabs(ds_model_flops_per_token(llama2, 4096) / 1e9 - 42.86) < 0.005);
    assert_true(fabs(ds_model_flops_per_token(llama32, 4096) / 1e9 - 8.22) < 0.005);
    ds_model_close(llama2);
    ds_model_close(llama32);
}

/* A stage is never given the embedding for nothing; but nothing multiplies there, so it has no FLOPs. */
static void an_embedding_costs_its_traffic_and_no_flops(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct ds_model *model = open_released(&models[i]);
        const double embedding = ds_model_block_cost(model, 0, 4096);
        double others = 0;

        for (uint32_t b = 1; b < model->block_count; b++)
            others += ds_model_block_cost(model, b, 4096);
        assert_true(ds_model_flops_per_token(model, 4096) == others);
        assert_true(embedding >= 3 * 4 * (double)model->config.hidden_size);
        assert_true(embedding < ds_model_block_cost(model, 1, 4096) / 10);
        ds_model_close(model);
    }
}

/* Every matrix multiplies once in each of the three; attention once on the way up, twice on the way back to
 * its inputs. */
static void a_layers_cost_is_forward_input_and_weight(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct ds_model *model = open_released(&models[i]);
        const struct ds_model_config *c = &model->config;
        const struct ds_unit *unit = &model->units[model->blocks[1].units[0]];
        const double attention = 2.0 * 4096 * (double)(c->num_attention_heads * c->head_dim);
        const struct ds_block_cost layer = ds_model_block_cost_parts(model, 1, 4096);
        const struct ds_block_cost head =
            ds_model_block_cost_parts(model, model->block_count - 1, 4096);
        double elems = 0;

        for (uint32_t p = unit->param_start; p < unit->param_start + unit->param_count; p++)
            if (model->params[p].is_matrix)
                elems += (double)ds_param_whole_elems(&model->params[p]);
        assert_true(layer.weight == 2 * elems);
        assert_true(layer.forward == layer.weight + attention);
        assert_true(layer.input == layer.weight + 2 * attention);
        assert_true(head.forward == 2.0 * (double)(c->vocab_size * c->hidden_size));
        assert_true(head.input == head.forward && head.weight == head.forward);
        ds_model_close(model);
    }
}

static void a_config_that_contradicts_itself_makes_no_model(void **state)
{
    struct ds_model_config c = odd_config();
    struct ds_model *model = NULL;

    (void)state;
    c.num_key_value_heads = 2; /* 7 heads */
    assert_int_equal(ds_model_open(&c, NULL, &model), DS_ERR_DATA);
    c = odd_config();
    c.has_o_bias = 0; /* no llama file can say that */
    assert_int_equal(ds_model_open(&c, NULL, &model), DS_ERR_DATA);
    c = odd_config();
    c.vocab_size = 0;
    assert_int_equal(ds_model_open(&c, NULL, &model), DS_ERR_DATA);
    assert_null(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(released_models_have_their_published_totals),
        cmocka_unit_test(parameters_fill_their_units_in_order),
        cmocka_unit_test(what_one_product_computes_lies_without_a_gap),
        cmocka_unit_test(shapes_are_those_of_files),
        cmocka_unit_test(a_tied_head_uses_two_units),
        cmocka_unit_test(initial_values_do_not_depend_on_the_cut),
        cmocka_unit_test(initial_matrices_are_normal_with_the_configured_width),
        cmocka_unit_test(no_two_parameters_start_alike),
        cmocka_unit_test(flops_are_those_of_the_causal_convention),
        cmocka_unit_test(an_embedding_costs_its_traffic_and_no_flops),
        cmocka_unit_test(a_layers_cost_is_forward_input_and_weight),
        cmocka_unit_test(a_config_that_contradicts_itself_makes_no_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
