// link: launch
// private: launch
// tsan
/* `checkpoint.export`: while training goes on, checkpoints become folders with the bytes that the run would export at
 * their step. One that is being read stays, what comes meanwhile is left out, and what is abandoned leaves nothing. */
#include "test.h"

#include "capture.h"
#include "ranks.h"
#include "tiny_run.h"

#include "trainer/trainer.h"

#include "dstrain/exporter.h"

#include <stdatomic.h>
#include <stdio.h>

enum { PATH = 600 };

static char *folder, *data;
static char root[PATH], dir[PATH], expected[PATH];

/* ---- a disk on which an export waits before it writes its weights */

static struct ds_fs_ops gate_ops;
static struct ds_fs gate = {&gate_ops};
static const char *gate_path; /* the end of the file's path that waits */
static uint64_t gate_step;    /* until `latest` says this step; 0: a while */
static atomic_int gate_is_met;

static int latest_is(uint64_t step)
{
    char path[2 * PATH], want[64], *text = NULL;
    struct ds_fs_stat stat;
    size_t bytes;

    snprintf(path, sizeof path, "%s/latest", root);
    snprintf(want, sizeof want, "-%012llu.json", (unsigned long long)step);
    if (ds_fs_stat(ds_fs_posix(), path, &stat) != 0 ||
        ds_fs_read_file(ds_fs_posix(), path, 4096, &text, &bytes) != DS_OK)
        return 0;
    const int is_it = strstr(text, want) != NULL;
    free(text);
    return is_it;
}

static int gate_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    const size_t bytes = strlen(path), tail = gate_path ? strlen(gate_path) : 0;

    if (gate_path && bytes >= tail && strcmp(path + bytes - tail, gate_path) == 0) {
        atomic_store(&gate_is_met, 1);
        for (int i = 0; i < (gate_step ? 6000 : 30) && !(gate_step && latest_is(gate_step)); i++)
            ds_clock_sleep_ns(ds_clock_system(), 10000000);
    }
    return ds_fs_posix()->ops->open(fs, path, flags, mode);
}

/* ---- runs */

struct run {
    uint64_t steps, interval, export, keep;
    uint32_t ranks, tensor, pipeline;
    int master, exports_itself;
    uint64_t rest_ns; /* after a step, so that its checkpoint is written meanwhile */
    ds_status status;
};

static void run_config(const struct run *run, struct ds_config *config)
{
    const struct tiny_case c = {.ranks = run->ranks ? run->ranks : 1,
                                .tensor = run->tensor,
                                .pipeline = run->pipeline,
                                .stage = 3,
                                .steps = run->steps,
                                .global_batch = 4,
                                .micro_batch = 1,
                                .seed = 9,
                                .data = data};

    tiny_config(&c, config);
    config->schedule.kind = DS_LR_CONSTANT; /* steps do not depend on how many there will be */
    config->precision.compute = run->master ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
    config->precision.master = run->master;
    config->checkpoint.interval = run->interval;
    config->checkpoint.export = run->export;
    config->checkpoint.keep = run->keep ? run->keep : 100;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
    snprintf(config->run.dir, sizeof config->run.dir, "%s", dir);
}

static ds_status on_step(void *user, const struct ds_step_report *report)
{
    (void)report;
    ds_clock_sleep_ns(ds_clock_system(), ((const struct run *)user)->rest_ns);
    return DS_OK;
}

static void run_rank(struct ds_comm *world, void *user)
{
    struct run *run = user;
    struct ds_trainer *t = NULL;
    struct ds_config config;

    run_config(run, &config);
    const struct ds_trainer_options options = {.config = &config,
                                               .mode = DS_TRAINER_TRAIN,
                                               .uses_checkpoints = 1,
                                               .world = world,
                                               .fs = &gate,
                                               .clock = ds_clock_system(),
                                               .on_step = on_step,
                                               .user = run};
    ds_status st = ds_trainer_open(&options, &t);
    if (st == DS_OK)
        st = ds_trainer_run(t);
    if (st == DS_OK && run->exports_itself)
        st = ds_trainer_export(t, expected);
    ds_trainer_close(t);
    if (world->rank == 0)
        run->status = st;
}

static void forget(void)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), dir), 0);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), dir, 0750), 0);
}

static void train(struct run run)
{
    assert_true(run_ranks(run.ranks ? run.ranks : 1, 60000000000u, run_rank, &run));
    assert_int_equal(run.status, DS_OK);
}

/* ---- folders */

static int has(const char *name)
{
    char path[2 * PATH];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return ds_fs_stat(ds_fs_posix(), path, &stat) == 0;
}

static void assert_is_expected(const char *name)
{
    static const char *const files[] = {"config.json", "model.safetensors"};

    for (size_t i = 0; i < 2; i++) {
        char path[2 * PATH], *text[2];
        size_t bytes[2];

        snprintf(path, sizeof path, "%s/%s/%s", dir, name, files[i]);
        assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 24, &text[0], &bytes[0]));
        snprintf(path, sizeof path, "%s/%s", expected, files[i]);
        assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 24, &text[1], &bytes[1]));
        assert_int_equal(bytes[0], bytes[1]);
        assert_memory_equal(text[0], text[1], bytes[0]);
        free(text[0]);
        free(text[1]);
    }
}

/* ---- */

static void a_step_has_the_bytes_that_the_run_would_export(void **state)
{
    static const struct run rows[] = {{.ranks = 1},
                                      {.ranks = 4, .tensor = 2, .pipeline = 2},
                                      {.ranks = 2, .master = DS_MASTER_KEY_REMAINDER16}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct run run = rows[i];

        forget();
        run.steps = run.interval = 4;
        run.exports_itself = 1;
        train(run); /* what is expected */
        forget();
        run.export = 4;
        run.exports_itself = 0;
        for (run.steps = 4; run.steps <= 9; run.steps += run.steps < 8 ? 4 : 1)
            train(run); /* the last one of a launch is waited for */
        assert_is_expected("export-4");
        assert_true(has("export-8"));
        assert_false(has("export-9"));
        assert_false(has("export-8.tmp"));
    }
}

/* Retention would have removed it long before. */
static void what_is_read_stays_and_what_comes_meanwhile_is_left_out(void **state)
{
    struct capture capture;

    (void)state;
    forget();
    train((struct run){.steps = 2, .interval = 2, .exports_itself = 1});
    forget();
    gate_path = "export-2.tmp/model.safetensors.tmp";
    gate_step = 12;
    capture_begin(&capture);
    ds_log.is_leader = 1;
    train((struct run){.steps = 12, .interval = 2, .export = 2, .keep = 1, .rest_ns = 20000000});
    ds_log.is_leader = 0;
    const char *said = capture_end(&capture);
    gate_path = NULL;
    assert_is_expected("export-2");
    assert_non_null(strstr(said, "of step 12 left out: that of step 2 is still being written"));
    assert_non_null(strstr(said, "checkpoint of step 2 is exported"));
    assert_false(has("checkpoints/manifests/M-000001-000000000004.json"));
    assert_false(has("export-12"));
    assert_false(has("export-2.tmp"));
}

/* Whether the launch that goes on has steps left, and on whatever the one before it was ended. */
static void what_was_cut_off_is_made_by_the_next_launch(void **state)
{
    (void)state;
    forget();
    train((struct run){.steps = 4, .interval = 2, .exports_itself = 1});
    for (uint64_t steps = 4; steps <= 5; steps++) {
        char path[2 * PATH];
        struct capture capture;

        forget();
        train((struct run){.steps = 4, .interval = 2, .export = 4});
        snprintf(path, sizeof path, "%s/export-4", dir);
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), path), 0);
        snprintf(path, sizeof path, "%s/export-4.tmp/x", dir);
        assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), path, 0750), 0);
        capture_begin(&capture);
        ds_log.is_leader = 1;
        train((struct run){.steps = steps, .interval = 2, .export = 4, .ranks = 2, .keep = 1});
        ds_log.is_leader = 0;
        const char *said = capture_end(&capture);
        assert_non_null(strstr(said, "export-4.tmp: was not finished"));
        assert_non_null(strstr(said, "export of the checkpoint of step 4 is missing"));
        assert_is_expected("export-4");
        assert_false(has("export-4.tmp"));
        capture_begin(&capture);
        ds_log.is_leader = 1;
        train((struct run){.steps = steps, .interval = 2, .export = 4});
        ds_log.is_leader = 0;
        assert_null(strstr(capture_end(&capture), "export")); /* not again */
    }
}

static void what_is_abandoned_leaves_nothing(void **state)
{
    struct ds_export_model model;
    struct ds_manifest manifest;
    struct ds_exporter *exporter;
    struct capture capture;
    char unfinished[2 * PATH];

    (void)state;
    forget();
    train((struct run){.steps = 2, .interval = 2});
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &(struct ds_manifest_id){1, 2},
                                          &manifest));
    assert_ok(ds_export_model_read("a test", &manifest.state, &model));
    snprintf(unfinished, sizeof unfinished, "%s/export-7.tmp/x", dir);
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), unfinished, 0750), 0);
    const struct ds_exporter_options options = {
        .fs = &gate, .root = root, .folder = dir, .every = 2, .config = model.config};
    capture_begin(&capture);
    assert_ok(ds_exporter_open(&options, &exporter));
    assert_false(has("export-7.tmp"));
    gate_path = "export-2.tmp/model.safetensors.tmp";
    gate_step = 0;
    atomic_store(&gate_is_met, 0);
    ds_exporter_offer(exporter, &(struct ds_manifest_id){1, 3}); /* 2 does not divide it */
    assert_true(ds_exporter_is_idle(exporter));
    ds_exporter_offer(exporter, &manifest.id);
    while (!atomic_load(&gate_is_met))
        ds_clock_sleep_ns(ds_clock_system(), 1000000);
    assert_true(has("export-2.tmp"));
    ds_exporter_close(exporter);
    assert_string_equal(capture_end(&capture), "");
    gate_path = NULL;
    assert_false(has("export-2"));
    assert_false(has("export-2.tmp"));
    ds_manifest_fini(&manifest);
}

static int make_folder(void **state)
{
    (void)state;
    gate_ops = *ds_fs_posix()->ops;
    gate_ops.open = gate_open;
    folder = tiny_folder();
    data = tiny_data(folder, 5, 64);
    snprintf(dir, sizeof dir, "%s/run", folder);
    snprintf(root, sizeof root, "%s/checkpoints", dir);
    snprintf(expected, sizeof expected, "%s/expected", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    free(data);
    tiny_remove(folder);
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_has_the_bytes_that_the_run_would_export),
        cmocka_unit_test(what_is_read_stays_and_what_comes_meanwhile_is_left_out),
        cmocka_unit_test(what_was_cut_off_is_made_by_the_next_launch),
        cmocka_unit_test(what_is_abandoned_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
