/* test_merge.c - a model with an adapter added to its matrices gives the logits that peft's merge gives, whatever dtype
 * it is written in as far as that holds them, and as folders only; what does not belong together is refused.
 *
 * The cases in tests/golden that have an adapter, and those in the folder that DSTRAIN_GOLDEN names. */
// link: checkpoint model comm device kernels storage base
#include "test.h"

#include "dstrain/hf.h"
#include "model_run.h"
#include "peak_memory.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOGITS_LIMIT 1e-5 /* |difference| / |logits| */

enum { PATH = 1200 };

static char folder[] = "/tmp/dstrain-merge-XXXXXX";

static struct ds_safetensors *open_file(const char *in, const char *name)
{
    char path[2 * PATH];
    struct ds_safetensors *file = NULL;

    snprintf(path, sizeof path, "%s/%s", in, name);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &file));
    return file;
}

static void load_weights(struct model_run *run, const char *from)
{
    struct ds_safetensors *file = open_file(from, "model.safetensors");

    for (uint32_t i = 0; i < run->model->param_count; i++) {
        const struct ds_param *param = &run->model->params[i];
        const struct ds_safetensors_entry *entry = ds_safetensors_find(file, param->name);

        assert_non_null(entry);
        assert_int_equal(entry->elems, param->elems);
        assert_ok(ds_safetensors_read_f32(file, entry, 0, entry->elems, run_weight(run, param)));
    }
    ds_safetensors_close(file);
}

static void load_batch(struct model_run *run, const struct ds_safetensors *expected)
{
    int64_t *ids = malloc(run->token_count * sizeof *ids);

    assert_ok(ds_safetensors_read(expected, ds_safetensors_find(expected, "input_ids"), 0,
                                  run->token_count, ids));
    for (uint64_t t = 0; t < run->token_count; t++)
        run->ids[t] = (int32_t)ids[t];
    free(ids);
}

/* of the model in `merged` from what peft's gave */
static double logits_distance(const char *golden, const char *merged)
{
    struct ds_safetensors *expected = open_file(golden, "expected.safetensors");
    struct ds_safetensors *wanted = open_file(golden, "lora_merged.safetensors");
    const struct ds_safetensors_entry *shape = ds_safetensors_find(expected, "input_ids");
    const struct ds_safetensors_entry *entry = ds_safetensors_find(wanted, "logits_merged");
    struct ds_model_config config;
    struct model_run run;
    double difference = 0, size = 0;

    assert_ok(ds_hf_read_config(ds_fs_posix(), merged, &config));
    run_open(&run, &config, shape->shape[1] * shape->shape[2], shape->shape[2]);
    load_weights(&run, merged);
    load_batch(&run, expected);
    const struct ds_block *head = &run.model->blocks[run.model->block_count - 1];
    const uint64_t count = run.token_count * config.vocab_size;
    float *got = malloc(count * sizeof *got), *want = malloc(count * sizeof *want);
    struct ds_pass pass = run_pass(&run, head);
    assert_int_equal(entry->elems, count);
    assert_ok(head->ops->logits(head, &pass, run_forward(&run), 0, run.token_count, got));
    assert_ok(ds_safetensors_read_f32(wanted, entry, 0, count, want));
    for (uint64_t i = 0; i < count; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    free(got);
    free(want);
    run_close(&run);
    ds_safetensors_close(expected);
    ds_safetensors_close(wanted);
    return sqrt(difference / size);
}

static ds_status merge_as(const char *base, const char *adapter, const char *to,
                          enum ds_dtype dtype, int is_quantised)
{
    const struct ds_hf_write_options options = {
        .fs = ds_fs_posix(), .folder = to, .dtype = dtype, .is_quantised = is_quantised};
    enum ds_dtype written;
    const ds_status st = ds_hf_merge(base, adapter, NULL, &options, &written);

    if (st == DS_OK)
        assert_int_equal(written, dtype == DS_BOOL ? DS_F32 : dtype);
    return st;
}

static ds_status merge(const char *base, const char *adapter, const char *to, enum ds_dtype dtype)
{
    return merge_as(base, adapter, to, dtype, 0);
}

static void check_case(const char *golden)
{
    static const struct {
        enum ds_dtype dtype;
        double limit;
    } rows[] = {{DS_BOOL, LOGITS_LIMIT}, {DS_F32, LOGITS_LIMIT}, {DS_BF16, 3e-2}};
    char adapter[2 * PATH], to[2 * PATH];

    snprintf(adapter, sizeof adapter, "%s/adapter_final", golden);
    snprintf(to, sizeof to, "%s/merged", folder);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_ok(merge(golden, adapter, to, rows[i].dtype));
        const double off = logits_distance(golden, to);
        printf("%s: logits off by %.2g\n", golden, off);
        if (!(off <= rows[i].limit))
            fail_msg("%s: merged logits are off by %.3g", golden, off);
        assert_false(ds_hf_is_adapter(ds_fs_posix(), to));
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), to), 0);
    }
}

static int check_folder(const char *root)
{
    char **names = NULL, golden[PATH], file[2 * PATH];
    size_t count = 0;
    int checked = 0;

    assert_int_equal(ds_fs_readdir(ds_fs_posix(), root, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        snprintf(golden, sizeof golden, "%s/%s", root, names[i]);
        snprintf(file, sizeof file, "%s/lora_merged.safetensors", golden);
        if (strncmp(names[i], "deepseek", 8) == 0 || access(file, R_OK) != 0)
            continue;
        check_case(golden);
        checked++;
    }
    free(names);
    return checked;
}

static void merged_models_have_the_logits_of_pefts(void **state)
{
    const char *more = getenv("DSTRAIN_GOLDEN");

    (void)state;
    assert_true(check_folder(DS_SOURCE_DIR "/tests/golden") >= 3);
    if (more)
        assert_true(check_folder(more) >= 1);
}

#define CASE(name) DS_SOURCE_DIR "/tests/golden/" name

/* Nothing is left where it is refused. */
static void what_is_of_another_model_is_refused(void **state)
{
    static const struct {
        const char *base, *adapter;
    } rows[] = {{CASE("llama_mha"), CASE("llama_gqa_tied_rope3/adapter_final")},
                {CASE("qwen3_qknorm"), CASE("llama_mha/adapter_final")},
                {CASE("llama_mha"), CASE("llama_mha")},
                {CASE("llama_mha/adapter_final"), CASE("llama_mha/adapter_final")}};
    char to[2 * PATH];
    struct ds_fs_stat stat;

    (void)state;
    snprintf(to, sizeof to, "%s/refused", folder);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const ds_status st = merge(rows[i].base, rows[i].adapter, to, DS_F32);
        if (st != DS_ERR_DATA && st != DS_ERR_IO)
            fail_msg("row %zu: %s", i, ds_status_text(st));
        assert_int_equal(ds_fs_stat(ds_fs_posix(), to, &stat), -ENOENT);
    }
}

/* ---- memory */

enum { VOCAB = 1000, HIDDEN = 256, INNER = 24000, RANK = 4 };

static void write_zeros(const char *path, const struct ds_safetensors_item *items, size_t count)
{
    struct ds_safetensors_writer *writer = NULL;
    float *zeros = calloc((size_t)INNER * HIDDEN, sizeof *zeros);

    assert_non_null(zeros);
    assert_ok(ds_safetensors_create(ds_fs_posix(), path, items, count, NULL, &writer));
    for (size_t i = 0; i < count; i++)
        assert_ok(ds_safetensors_write_f32(
            writer, i, 0, items[i].shape[0] * (items[i].dim_count > 1 ? items[i].shape[1] : 1),
            zeros));
    assert_ok(ds_safetensors_commit(writer));
    free(zeros);
}

static void write_text(const char *in, const char *name, const char *text)
{
    char path[2 * PATH];

    snprintf(path, sizeof path, "%s/%s", in, name);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, text, strlen(text)));
}

#define LAYER "model.layers.0."
#define MATRIX(n, rows, columns) \
    {                            \
        n ".weight", DS_F32, 2,  \
        {                        \
            rows, columns        \
        }                        \
    }
#define VECTOR(n)               \
    {                           \
        n ".weight", DS_F32, 1, \
        {                       \
            HIDDEN              \
        }                       \
    }

static void write_large_model(const char *to)
{
    static const struct ds_safetensors_item items[] = {
        MATRIX("model.embed_tokens", VOCAB, HIDDEN),
        MATRIX("lm_head", VOCAB, HIDDEN),
        VECTOR("model.norm"),
        VECTOR(LAYER "input_layernorm"),
        VECTOR(LAYER "post_attention_layernorm"),
        MATRIX(LAYER "self_attn.q_proj", HIDDEN, HIDDEN),
        MATRIX(LAYER "self_attn.k_proj", HIDDEN, HIDDEN),
        MATRIX(LAYER "self_attn.v_proj", HIDDEN, HIDDEN),
        MATRIX(LAYER "self_attn.o_proj", HIDDEN, HIDDEN),
        MATRIX(LAYER "mlp.gate_proj", INNER, HIDDEN),
        MATRIX(LAYER "mlp.up_proj", INNER, HIDDEN),
        MATRIX(LAYER "mlp.down_proj", HIDDEN, INNER),
    };
    char path[2 * PATH];

    snprintf(path, sizeof path, "%s/model.safetensors", to);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), to, 0750), 0);
    write_zeros(path, items, sizeof items / sizeof *items);
    write_text(to, "config.json",
               "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
               "\"vocab_size\": 1000, \"hidden_size\": 256, \"intermediate_size\": 24000, "
               "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"hidden_act\": \"silu\", "
               "\"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": false}");
}

static void write_its_adapter(const char *to)
{
    static const struct ds_safetensors_item items[] = {
        MATRIX("base_model.model." LAYER "self_attn.q_proj.lora_A", RANK, HIDDEN),
        MATRIX("base_model.model." LAYER "self_attn.q_proj.lora_B", HIDDEN, RANK),
    };
    char path[2 * PATH];

    snprintf(path, sizeof path, "%s/adapter_model.safetensors", to);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), to, 0750), 0);
    write_zeros(path, items, sizeof items / sizeof *items);
    write_text(
        to, "adapter_config.json",
        "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": 4, \"lora_alpha\": 8, "
        "\"target_modules\": [\"q_proj\"]}");
}

/* Twice the largest tensor is less than the model has. Quantised in nf4, too. */
static void merging_takes_less_than_two_tensors(void **state)
{
    const uint64_t largest = (uint64_t)INNER * HIDDEN * sizeof(float);
    char base[2 * PATH], adapter[2 * PATH], to[2 * PATH];
    uint64_t before;

    (void)state;
    snprintf(base, sizeof base, "%s/large", folder);
    snprintf(adapter, sizeof adapter, "%s/adapter", folder);
    snprintf(to, sizeof to, "%s/merged", folder);
    write_large_model(base);
    write_its_adapter(adapter);
    for (int is_quantised = 0; is_quantised < 2; is_quantised++) {
        if (!peak_forget(&before))
            skip();
        assert_ok(merge_as(base, adapter, to, DS_F32, is_quantised));
        const uint64_t taken = peak_since(before);
        print_message("%llu KiB for tensors of up to %llu KiB\n", (unsigned long long)taken / 1024,
                      (unsigned long long)largest / 1024);
        assert_true(taken <= 2 * largest);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_takes_less_than_two_tensors),
        cmocka_unit_test(merged_models_have_the_logits_of_pefts),
        cmocka_unit_test(what_is_of_another_model_is_refused),
    };

    if (!mkdtemp(folder))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)ds_fs_remove_tree(ds_fs_posix(), folder);
    return failed;
}
