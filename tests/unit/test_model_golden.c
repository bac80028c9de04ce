/* test_model_golden.c - losses, logits and every gradient of tiny models as transformers computes them.
 *
 * The cases in tests/golden, and those in the folder that DSTRAIN_GOLDEN names. */
// link: model comm device kernels storage base
#include "test.h"

#include "dstrain/fs.h"
#include "dstrain/safetensors.h"
#include "model_run.h"

#include <math.h>

#define LOSS_LIMIT     1e-6 /* relative */
#define LOGITS_LIMIT   2e-6 /* norm of the difference */
#define GRADIENT_LIMIT 2e-5

struct golden {
    const char *folder; /* borrowed */
    struct ds_safetensors *model, *expected;
    double loss;
    struct model_run run;
};

static char *read_text(const char *folder, const char *name, size_t *bytes)
{
    char path[1024];

    snprintf(path, sizeof path, "%.900s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    char *text = calloc(1, 1 << 16);
    *bytes = fread(text, 1, (1 << 16) - 1, file);
    fclose(file);
    return text;
}

static struct ds_safetensors *open_file(const char *folder, const char *name)
{
    char path[1024];
    struct ds_safetensors *file = NULL;

    snprintf(path, sizeof path, "%.900s/%s", folder, name);
    assert_ok(ds_safetensors_open(ds_fs_posix(), path, &file));
    return file;
}

static void read_config(const char *folder, struct ds_model_config *config)
{
    size_t bytes;
    char *text = read_text(folder, "config.json", &bytes);

    assert_ok(ds_model_config_parse("config.json", text, bytes, config));
    free(text);
}

static double read_loss(const char *folder)
{
    size_t bytes;
    char *text = read_text(folder, "expected.json", &bytes);
    json_t *root = json_loads(text, 0, NULL);
    double loss = json_real_value(json_object_get(root, "loss"));

    json_decref(root);
    free(text);
    return loss;
}

static const struct ds_safetensors_entry *must_find(const struct ds_safetensors *file,
                                                    const char *name)
{
    const struct ds_safetensors_entry *entry = ds_safetensors_find(file, name);

    if (!entry)
        fail_msg("%s has no %s", ds_safetensors_path(file), name);
    return entry;
}

static void load_weights(struct golden *golden)
{
    const struct ds_model *model = golden->run.model;

    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        const struct ds_safetensors_entry *entry = must_find(golden->model, param->name);

        assert_int_equal(entry->elems, param->elems);
        assert_ok(ds_safetensors_read_f32(golden->model, entry, 0, entry->elems,
                                          run_weight(&golden->run, param)));
    }
}

/* Batch 0 of input_ids and labels; the target of a token is its successor's label. */
static void load_batch(struct golden *golden)
{
    struct model_run *run = &golden->run;
    const uint64_t tokens = run->token_count, seq = run->seq_length;
    int64_t *ids = malloc(tokens * sizeof *ids), *labels = malloc(tokens * sizeof *labels);

    assert_ok(ds_safetensors_read(golden->expected, must_find(golden->expected, "input_ids"), 0,
                                  tokens, ids));
    assert_ok(ds_safetensors_read(golden->expected, must_find(golden->expected, "labels"), 0,
                                  tokens, labels));
    for (uint64_t t = 0; t < tokens; t++) {
        run->ids[t] = (int32_t)ids[t];
        run->targets[t] = (t + 1) % seq == 0 ? DS_IGNORE_INDEX : (int32_t)labels[t + 1];
    }
    run_count_tokens(run);
    free(ids);
    free(labels);
}

static void golden_open(struct golden *golden, const char *folder)
{
    struct ds_model_config config;

    *golden = (struct golden){.folder = folder};
    read_config(folder, &config);
    golden->model = open_file(folder, "model.safetensors");
    golden->expected = open_file(folder, "expected.safetensors");
    golden->loss = read_loss(folder);
    const struct ds_safetensors_entry *ids = must_find(golden->expected, "input_ids");
    run_open(&golden->run, &config, ids->shape[1] * ids->shape[2], ids->shape[2]);
    load_weights(golden);
    load_batch(golden);
}

static void golden_close(struct golden *golden)
{
    run_close(&golden->run);
    ds_safetensors_close(golden->model);
    ds_safetensors_close(golden->expected);
}

/* |got - want| / |want| */
static double distance(const struct golden *golden, const char *name, const float *got,
                       uint64_t count)
{
    const struct ds_safetensors_entry *entry = must_find(golden->expected, name);
    float *want = malloc(count * sizeof *want);
    double difference = 0, size = 0;

    assert_int_equal(entry->elems, count);
    assert_ok(ds_safetensors_read_f32(golden->expected, entry, 0, count, want));
    for (uint64_t i = 0; i < count; i++) {
        double d = (double)got[i] - (double)want[i];

        difference += d * d;
        size += (double)want[i] * (double)want[i];
    }
    free(want);
    return sqrt(difference / size);
}

static double worst_gradient(struct golden *golden)
{
    const struct ds_model *model = golden->run.model;
    double worst = 0;

    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        char name[128];

        snprintf(name, sizeof name, "grad.%s", param->name);
        double d = distance(golden, name, run_grad(&golden->run, param), param->elems);
        if (!(d <= GRADIENT_LIMIT))
            fail_msg("%s: %s is off by %.3g", golden->folder, name, d);
        worst = d > worst ? d : worst;
    }
    return worst;
}

static double logits_distance(struct golden *golden)
{
    struct model_run *run = &golden->run;
    const struct ds_block *head = &run->model->blocks[run->model->block_count - 1];
    const uint64_t V = run->model->config.vocab_size, T = run->token_count, half = T / 2;
    struct ds_pass pass = run_pass(run, head);
    float *logits = malloc(T * V * sizeof *logits);
    const float *x = run_forward(run);

    assert_ok(head->ops->logits(head, &pass, x, 0, half, logits));
    assert_ok(head->ops->logits(head, &pass, x, half, T - half, logits + half * V));
    assert_ok(run->device->ops->stream_sync(run->stream));
    double d = distance(golden, "logits", logits, T * V);
    free(logits);
    return d;
}

static void check_case(const char *folder)
{
    struct golden golden;

    golden_open(&golden, folder);
    double logits = logits_distance(&golden);
    double loss = run_loss(&golden.run, 1, 0);
    double off = fabs(loss / golden.loss - 1);
    run_backward(&golden.run, RUN_TOGETHER, 0);
    double gradient = worst_gradient(&golden);
    printf("%s: loss %.9g off by %.2g, logits %.2g, worst gradient %.2g\n", folder, loss, off,
           logits, gradient);
    if (!(off <= LOSS_LIMIT) || !(logits <= LOGITS_LIMIT))
        fail_msg("%s: loss or logits are off", folder);
    assert_true(fabs(run_loss(&golden.run, 0, 0) - loss) < 1e-12); /* evaluation sees the same */
    run_loss(&golden.run, 1, 0);
    run_backward(&golden.run, RUN_APART, 0);
    assert_true(worst_gradient(&golden) <= GRADIENT_LIMIT);
    golden_close(&golden);
}

/* A folder of cases: each sub-folder whose config.json says a family that we have. */
static int check_folder(const char *folder)
{
    static const char *const known[] = {"llama", "qwen"};
    char **names = NULL, path[1024];
    size_t count = 0;
    int checked = 0;

    assert_int_equal(ds_fs_posix()->ops->readdir(ds_fs_posix(), folder, &names, &count), 0);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < sizeof known / sizeof *known; j++)
            if (strncmp(names[i], known[j], strlen(known[j])) == 0) {
                snprintf(path, sizeof path, "%s/%s", folder, names[i]);
                check_case(path);
                checked++;
            }
    free(names);
    return checked;
}

static void own_cases_agree_with_transformers(void **state)
{
    (void)state;
    assert_true(check_folder(DS_SOURCE_DIR "/tests/golden") >= 2);
}

static void given_cases_agree_with_transformers(void **state)
{
    const char *folder = getenv("DSTRAIN_GOLDEN");

    (void)state;
    if (!folder) {
        print_message("DSTRAIN_GOLDEN names no folder\n");
        skip();
    }
    assert_true(check_folder(folder) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_cases_agree_with_transformers),
        cmocka_unit_test(given_cases_agree_with_transformers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
