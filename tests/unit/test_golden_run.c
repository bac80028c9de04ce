// link: launch
// private: launch
/* A run's checkpoint as it was when format version 1 was written first: states of a model, counters, what the search for
 * spikes remembers. Every later version goes on from it, in any layout. With a folder as its argument the program
 * writes there what lies in tests/golden/run_1; the digest below is of its weights. */
#include "test.h"
#include "tiny_run.h"

#include "config/config.h"

#include "dstrain/checkpoint.h"
#include "dstrain/digest.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define GOLDEN DS_SOURCE_DIR "/tests/golden/run_1"

enum { STEPS = 5, MORE = 3, SEED = 20261122, SAMPLES = 40 };

static const char weights[] = "7ae651c09690acea06a9dd532d076908";

static char *folder, *data;
static const char *const root = "./checkpoints";

static struct ds_config config;

/* Keys that are not here are as they are where nobody sets them: one that is new changes nothing. */
static struct tiny_case case_of(uint32_t ranks, uint32_t tensor, uint64_t steps)
{
    struct tiny_case c = {.ranks = ranks,
                          .tensor = tensor,
                          .stage = 3,
                          .steps = steps,
                          .global_batch = 4,
                          .micro_batch = 1,
                          .layers = 1,
                          .seed = SEED,
                          .data = data};
    struct ds_config small;

    tiny_config(&c, &small);
    ds_config_preset(&config);
    config.run = small.run;
    config.parallel = small.parallel;
    config.zero = small.zero;
    config.train.steps = steps;
    config.train.global_batch_size = c.global_batch;
    config.train.micro_batch_size = c.micro_batch;
    config.train.seq_length = TINY_SEQ;
    config.model.vocab_size = small.model.vocab_size;
    config.model.hidden_size = 16;
    config.model.intermediate_size = 24;
    config.model.num_hidden_layers = 1;
    config.model.num_attention_heads = 4;
    config.model.num_key_value_heads = 2;
    snprintf(config.data.train, sizeof config.data.train, "%s", data);
    config.data.format = DS_DATA_SAFETENSORS;
    strcpy(config.data.tokenizer, "bytes"); /* as it was where nobody set it */
    config.precision.exp_avg_sq = DS_PRECISION_BF16;
    config.schedule.warmup_steps = 2;
    config.schedule.decay_steps = STEPS + MORE;
    config.checkpoint.interval = 1000; /* at the end */
    config.checkpoint.keep = 2;
    snprintf(config.checkpoint.dir, sizeof config.checkpoint.dir, "%s", root);
    c.config = &config;
    return c;
}

static void copy_tree(const char *to, const char *from)
{
    struct ds_fs *fs = ds_fs_posix();
    char **names;
    size_t count;

    assert_int_equal(ds_fs_mkdirs(fs, to, 0755), 0);
    assert_int_equal(ds_fs_readdir(fs, from, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        char to_path[1024], from_path[1024], *text;
        struct ds_fs_stat stat;
        size_t bytes;

        snprintf(to_path, sizeof to_path, "%s/%s", to, names[i]);
        snprintf(from_path, sizeof from_path, "%s/%s", from, names[i]);
        assert_int_equal(ds_fs_stat(fs, from_path, &stat), 0);
        if (stat.is_directory) {
            copy_tree(to_path, from_path);
            continue;
        }
        assert_ok(ds_fs_read_file(fs, from_path, 1 << 24, &text, &bytes));
        assert_ok(ds_fs_write_file(fs, to_path, text, bytes));
        free(text);
    }
    free(names);
}

static void digest_text(const struct tiny_result *result, char text[DS_DIGEST_TEXT_BYTES])
{
    const struct ds_digest digest =
        ds_digest_of(result->params, result->param_elems * sizeof *result->params);

    ds_digest_text(&digest, text);
}

static void version_1_goes_on_in_any_layout(void **state)
{
    static const uint32_t layouts[][2] = {{1, 1}, {2, 1}, {4, 2}, {2, 2}}; /* ranks, tensor */

    (void)state;
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        struct tiny_case c = case_of(layouts[i][0], layouts[i][1], STEPS);
        struct tiny_result loaded, rest;
        char text[DS_DIGEST_TEXT_BYTES];

        copy_tree(root, GOLDEN);
        tiny_run(&c, &loaded);
        assert_int_equal(loaded.status, DS_OK);
        assert_int_equal(loaded.steps, 0);
        digest_text(&loaded, text);
        assert_string_equal(text, weights);
        config.train.steps = STEPS + MORE;
        tiny_run(&c, &rest);
        assert_int_equal(rest.status, DS_OK);
        assert_int_equal(rest.steps, STEPS + MORE);
        assert_int_equal(rest.skipped, 1);
        for (uint64_t step = STEPS; step < STEPS + MORE; step++)
            assert_true(isfinite(rest.loss[step]) && rest.loss[step] > 0);
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
        tiny_result_fini(&loaded);
        tiny_result_fini(&rest);
    }
}

/* What a run keeps beside its states and configuration has the names that it had then. */
static void version_1_is_what_a_run_writes(void **state)
{
    struct tiny_case c = case_of(2, 1, STEPS);
    const struct ds_manifest_id id = {1, STEPS};
    struct ds_manifest then, now;
    struct tiny_result result;

    (void)state;
    strcpy(config.debug.inject, "nan:1:3");
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), GOLDEN, &id, &then));
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &id, &now));
    for (uint32_t i = 0; i < then.state.count; i++) {
        const char *name = then.state.items[i].name;

        if (strncmp(name, "config.", 7) != 0 && !ds_values_get(&now.state, name))
            fail_msg("'%s' is not written any more", name);
    }
    assert_int_equal(now.catalogue.count, then.catalogue.count);
    ds_manifest_fini(&then);
    ds_manifest_fini(&now);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
    tiny_result_fini(&result);
}

static int write_golden(const char *to)
{
    struct tiny_case c = case_of(2, 1, STEPS);
    char text[DS_DIGEST_TEXT_BYTES];
    struct tiny_result result;

    strcpy(config.debug.inject, "nan:1:3"); /* a step that was left out */
    tiny_run(&c, &result);
    if (result.status != DS_OK)
        return 1;
    copy_tree(to, root);
    digest_text(&result, text);
    printf("weights: %s\n", text);
    tiny_result_fini(&result);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_1_goes_on_in_any_layout),
        cmocka_unit_test(version_1_is_what_a_run_writes),
    };
    int failed;

    ds_log.is_leader = 0;
    folder = tiny_folder();
    if (chdir(folder) != 0) /* the file that a run reads has one name for ever */
        return 1;
    data = tiny_data(".", SEED, SAMPLES);
    failed = argc == 2 ? write_golden(argv[1]) : cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
