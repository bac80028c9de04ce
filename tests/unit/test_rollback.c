// link: launch
// cost: 40
// tsan
// timeout: 10800
/* Training that goes wrong goes back, on all ranks together, and on without the data that it went wrong with: it ends with
 * the bits of a run on data that lack what was left out. Where going back does not help, or there is nothing to go back
 * to, the run ends with a status of its own. Training that goes well is left alone. */
#include "hooked_disk.h"
#include "saved_run.h"

#include "dstrain/random.h"
#include "dstrain/safetensors.h"

#include <stdatomic.h>
#include <stdio.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum {
    FIRST_ROW = 1,
    ROW_STRIDE = 4,
    LASTS = 1,
    IS_SHORT = 1
}; /* every thread and every wait is in it */
#else
enum { FIRST_ROW = 0, ROW_STRIDE = 1, LASTS = 4, IS_SHORT = 0 };
#endif
enum { STEPS = 80, INTERVAL = 10, SKIP = 12, BATCH = 8, SAMPLES = (STEPS + 40) * BATCH };

static char run_dir[512], mirror[512];
static uint64_t seed; /* of the data, and the first of runs */
static const char *inject;
static int rollback, compute, has_mirror;
static uint64_t skip = SKIP;

/* Numbers that go on as they began: a few dozen steps learn that. Without samples [begin, end). */
static char *make_data(const char *name, uint64_t begin, uint64_t end)
{
    const uint64_t samples = SAMPLES - (end - begin);
    struct ds_safetensors_item items[2] = {{"input_ids", DS_I64, 2, {samples, TINY_SEQ}},
                                           {"labels", DS_I64, 2, {samples, TINY_SEQ}}};
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 7);
    struct ds_safetensors_writer *writer = NULL;
    int64_t *ids = malloc(SAMPLES * TINY_SEQ * sizeof *ids), *at = ids;
    char *path = malloc(512);

    for (uint64_t i = 0; i < SAMPLES; i++)
        for (uint64_t t = 0; t < TINY_SEQ && !(i >= begin && i < end); t++)
            *at++ = (int64_t)((ds_random_below(random, i, TINY_VOCAB) + t) % TINY_VOCAB);
    snprintf(path, 512, "%s/%s.safetensors", saved.folder, name);
    assert_ok(ds_safetensors_create(ds_fs_posix(), path, items, 2, NULL, &writer));
    assert_ok(ds_safetensors_write(writer, 0, 0, samples * TINY_SEQ, ids));
    assert_ok(ds_safetensors_write(writer, 1, 0, samples * TINY_SEQ, ids));
    assert_ok(ds_safetensors_commit(writer));
    free(ids);
    return path;
}

/* ---- runs */

/* What a rollback reads goes to where states live, of stage 3 to files. */
static void live_in_files(struct ds_config *config)
{
    if (config->zero.stage != 3)
        return;
    config->offload.params = config->offload.exp_avg = (struct ds_home_key){DS_HOME_NVME, 1};
    config->offload.exp_avg_sq = config->offload.grads = (struct ds_home_key){DS_HOME_NVME, 0.5};
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", saved.folder);
}

static void with_rollback(struct ds_config *config)
{
    config->data.shuffle = 0; /* batch b is samples [(b - 1) * BATCH, b * BATCH) */
    config->optimizer.learning_rate = 1e-2;
    config->schedule.kind = DS_LR_CONSTANT;
    config->precision.compute = compute;
    config->offload.updates = seed & 1 ? DS_UPDATES_KEY_LATE : DS_UPDATES_KEY_END;
    if (seed & 2)
        config->offload.activations = (struct ds_home_key){DS_HOME_HOST, 1};
    live_in_files(config);
    config->checkpoint.rollback = rollback;
    config->checkpoint.rollback_skip = skip;
    if (has_mirror)
        snprintf(config->checkpoint.mirror, sizeof config->checkpoint.mirror, "%s", mirror);
    snprintf(config->run.dir, sizeof config->run.dir, "%s", run_dir);
    snprintf(config->debug.inject, sizeof config->debug.inject, "%s", inject ? inject : "");
}

static void undisturbed(struct ds_config *config)
{
    without_checkpoints(config);
    config->offload.updates = DS_UPDATES_KEY_END;
    config->offload.params = config->offload.exp_avg = (struct ds_home_key){0};
    config->offload.activations = (struct ds_home_key){0};
    config->offload.exp_avg_sq = config->offload.grads = (struct ds_home_key){0};
    config->debug.inject[0] = '\0';
}

static struct tiny_case base_case(void)
{
    return (struct tiny_case){.ranks = 1,
                              .stage = 3,
                              .steps = STEPS,
                              .global_batch = BATCH,
                              .micro_batch = 1,
                              .layers = 2,
                              .data = saved.data,
                              .adjust = with_checkpoints};
}

static void forget(void)
{
    saved_forget(saved.root);
    saved_forget(mirror);
    saved_forget(run_dir);
    inject = NULL;
    compute = DS_PRECISION_FP32;
    has_mirror = 0;
}

/* What the newest incident file says; how many there are. */
struct incident {
    size_t count;
    uint64_t to_step, first, last; /* batches left out */
    char text[1024];
};

static uint64_t number_behind(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

static struct incident read_incident(void)
{
    struct incident incident = {.count = 0};
    char path[600], **names = NULL, *text;
    size_t bytes;

    snprintf(path, sizeof path, "%s/incidents", run_dir);
    if (ds_fs_readdir(ds_fs_posix(), path, &names, &incident.count) != 0)
        return incident;
    snprintf(path, sizeof path, "%s/incidents/%s", run_dir, names[incident.count - 1]);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, sizeof incident.text - 1, &text, &bytes));
    memcpy(incident.text, text, bytes + 1);
    incident.to_step = number_behind(text, "\"to_step\": ");
    incident.first = number_behind(text, "\"left_out_first\": ");
    incident.last = number_behind(text, "\"left_out_last\": ");
    free(names);
    free(text);
    return incident;
}

/* ---- what helps */

/* From a run on data that lack those samples, so nothing of ours has skipped them there. */
static void assert_ends_as_without(struct tiny_case c, const struct tiny_result *got,
                                   const struct incident *incident, uint64_t from)
{
    char *rest = make_data("rest", (incident->first - 1) * BATCH, incident->last * BATCH);

    c.data = rest;
    struct tiny_result want = saved_run(c, STEPS, undisturbed);
    assert_same_run(got, &want, from);
    tiny_result_fini(&want);
    free(rest);
}

static const char *also_says; /* NULL: nothing */

static void check_spike(const struct tiny_case *c, uint64_t at)
{
    char text[64];
    struct tiny_result result;
    struct capture capture;

    snprintf(text, sizeof text, "labels:all:%llu-%llu", (unsigned long long)at,
             (unsigned long long)at + 4);
    inject = text;
    capture_begin(&capture);
    tiny_run(c, &result);
    const char *said = capture_end(&capture);
    const struct incident incident = read_incident();
    if (result.status != DS_OK || incident.count != 1)
        fail_msg("%u ranks, labels of batch %llu: %s, %zu incidents: %s", c->ranks,
                 (unsigned long long)at, ds_status_text(result.status), incident.count, said);
    assert_non_null(strstr(said, "back to the checkpoint of step"));
    if (also_says && !strstr(said, also_says))
        fail_msg("%u ranks: it does not say '%s': %s", c->ranks, also_says, said);
    assert_true(incident.to_step < at && incident.to_step % saved.interval == 0);
    assert_int_equal(incident.first, at - skip / 2);
    assert_true(incident.last >= at + 4);
    assert_int_equal(result.steps, STEPS);
    inject = NULL;
    assert_ends_as_without(*c, &result, &incident, 0);
    tiny_result_fini(&result);
}

static void a_spike_is_gone_behind_and_left_out(void **state)
{
    static const struct {
        uint32_t ranks, tensor, pipeline;
        int stage, mode, precision;
    } rows[] = {{1, 1, 1, 3, DS_DEVICE_INLINE, DS_PRECISION_FP32},
                {4, 1, 1, 3, DS_DEVICE_DEFERRED, DS_PRECISION_FP32},
                {4, 2, 2, 1, DS_DEVICE_INLINE, DS_PRECISION_FP32},
                {2, 1, 1, 0, DS_DEVICE_INLINE, DS_PRECISION_BF16},
                {4, 1, 2, 2, DS_DEVICE_DEFERRED, DS_PRECISION_FP16}};

    (void)state;
    for (size_t i = FIRST_ROW; i < sizeof rows / sizeof *rows; i += ROW_STRIDE) {
        struct tiny_case c = base_case();

        c.ranks = rows[i].ranks;
        c.tensor = rows[i].tensor;
        c.pipeline = rows[i].pipeline;
        c.stage = rows[i].stage;
        c.mode = rows[i].mode;
        compute = rows[i].precision;
        saved.seed = seed + i;
        has_mirror = i == 1;
        check_spike(&c, 46 + i);
        forget();
    }
}

#define STANDSTILL_NS 2000000000u /* no step for so long: the run waits */
static _Atomic uint64_t stepped_ns;
static _Atomic int
    is_held; /* the first block that goes to the mirror was, until the run waited for it */

static void tell_step(const struct ds_step_report *report)
{
    (void)report;
    atomic_store(&stepped_ns, ds_clock_mono_ns(ds_clock_system()));
}

static int hold_up_mirror(const struct disk_call *call)
{
    const struct ds_clock *clock = ds_clock_system();

    if (strcmp(call->what, "pwrite") != 0 || !strstr(call->path, "/mirror/data") ||
        atomic_exchange(&is_held, 1))
        return 0;
    while (ds_clock_mono_ns(clock) - atomic_load(&stepped_ns) < STANDSTILL_NS)
        ds_clock_sleep_ns(clock, 1000000);
    return 0;
}

/* Copies are the last thing that training would end for. */
static void a_mirror_that_is_slow_costs_time(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        struct tiny_case c = base_case();

        c.ranks = ranks;
        c.fs = hooked_disk(hold_up_mirror);
        c.step = tell_step;
        saved.seed = seed + ranks;
        has_mirror = 1;
        tell_step(NULL);
        atomic_store(&is_held, 0);
        check_spike(&c, 46);
        assert_true(atomic_load(&is_held));
        forget();
    }
}

static void let_it_be_saved(const struct ds_step_report *report)
{
    (void)report;
    ds_clock_sleep_ns(ds_clock_system(), 10000000u);
}

/* ---- a call to the mirror that does not return, and a clock that hurries from there on */

#define HURRY 100
static _Atomic uint64_t hung_at_ns;
static _Atomic int may_return, has_returned;

static int hang_at_mirror(const struct disk_call *call)
{
    const struct ds_clock *clock = ds_clock_system();
    uint64_t none = 0;

    if (strcmp(call->what, "pwrite") != 0 || !strstr(call->path, "/mirror/data") ||
        !atomic_compare_exchange_strong(&hung_at_ns, &none, ds_clock_mono_ns(clock)))
        return 0;
    while (!atomic_load(&may_return))
        ds_clock_sleep_ns(clock, 1000000);
    atomic_store(&has_returned, 1);
    return 0;
}

static uint64_t hurried_mono_ns(void *self)
{
    const uint64_t now_ns = ds_clock_mono_ns(ds_clock_system()),
                   since_ns = atomic_load(&hung_at_ns);

    (void)self;
    return since_ns > 0 && now_ns > since_ns ? since_ns + HURRY * (now_ns - since_ns) : now_ns;
}

/* Going back, and on, needs no mirror. What hangs there is left behind, on one rank, and ends by itself. */
static void a_mirror_that_hangs_is_left_behind(void **state)
{
    struct ds_clock hurried = *ds_clock_system();
    struct ds_fs *disk = hooked_disk(hang_at_mirror); /* which a thread may still be at */

    (void)state;
    hurried.mono_ns = hurried_mono_ns;
    also_says = "no checkpoints are copied there any more";
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        struct tiny_case c = base_case();

        c.ranks = ranks;
        c.fs = disk;
        c.clock = &hurried;
        c.step = let_it_be_saved;
        saved.seed = seed + ranks;
        has_mirror = 1;
        atomic_store(&hung_at_ns, 0);
        atomic_store(&may_return, 0);
        atomic_store(&has_returned, 0);
        check_spike(&c, 46);
        assert_false(atomic_load(&has_returned));
        atomic_store(&may_return, 1);
        while (!atomic_load(&has_returned))
            ds_clock_sleep_ns(ds_clock_system(), 1000000);
        ds_clock_sleep_ns(ds_clock_system(), 50000000); /* and it has ended */
        forget();
    }
    also_says = NULL;
}

/* Where the newest checkpoints are all from where it went wrong, or from what is left out before: an older one stays. */
static void retention_leaves_one_to_go_back_to(void **state)
{
    (void)state;
    saved.interval = 1;
    saved.keep = 1;
    skip = 40;
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        struct tiny_case c = base_case();

        c.ranks = ranks;
        c.step = let_it_be_saved;
        saved.seed = seed + ranks;
        has_mirror = ranks == 2;
        check_spike(&c, 56 + 5 * ranks);
        forget();
    }
    saved.interval = INTERVAL;
    saved.keep = 100;
    skip = SKIP;
}

/* The last steps have no step behind them that could tell. */
static void a_spike_in_the_last_steps_is_seen(void **state)
{
    struct tiny_case c = base_case();
    struct tiny_result result;
    struct capture capture;

    (void)state;
    c.ranks = 2;
    for (uint64_t last = STEPS; last > STEPS - LASTS; last--) {
        char text[64];

        snprintf(text, sizeof text, "labels:all:%llu-%llu", (unsigned long long)last - 2,
                 (unsigned long long)last);
        inject = text;
        capture_begin(&capture);
        tiny_run(&c, &result);
        (void)capture_end(&capture);
        const struct incident incident = read_incident();
        assert_int_equal(result.status, DS_OK);
        assert_int_equal(incident.count, 1);
        assert_ends_as_without(c, &result, &incident, 0);
        tiny_result_fini(&result);
        forget();
    }
}

/* ---- what is left out stays left out */

/* Removes what the epoch of the rollback has saved: it was killed before that. */
static void remove_saves_of(uint64_t epoch)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_checkpoint_list all;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), saved.root, &all));
    for (size_t i = 0; i < all.count; i++) {
        ds_checkpoint_manifest_path(saved.root, &all.entries[i].id, path);
        if (all.entries[i].id.epoch == epoch)
            assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    }
    ds_checkpoint_list_fini(&all);
}

/* Of the first epoch, those of steps behind `step`; how many of them are buried. */
static size_t count_behind(uint64_t step, size_t *buried)
{
    struct ds_checkpoint_list all;
    size_t count = 0;

    *buried = 0;
    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), saved.root, &all));
    for (size_t i = 0; i < all.count; i++) {
        const int is_behind = all.entries[i].id.epoch == 1 && all.entries[i].id.step > step;

        count += is_behind;
        *buried += is_behind && all.entries[i].standing == DS_CHECKPOINT_BURIED;
    }
    ds_checkpoint_list_fini(&all);
    return count;
}

static uint64_t pause_ns, last_step;
static size_t behind, buried;

/* Looks when a step comes again: later saves let what is buried go. */
static void go_slowly(const struct ds_step_report *report)
{
    if (report->step <= last_step)
        behind = count_behind(report->step - 1, &buried);
    last_step = report->step;
    ds_clock_sleep_ns(ds_clock_system(), pause_ns);
}

/* Not only does nobody go on from it: it says so itself. The disk must keep up, for one to be there. */
static void what_was_saved_behind_a_spike_is_buried(void **state)
{
    (void)state;
    for (pause_ns = 2000000u; behind == 0; pause_ns *= 2) {
        struct tiny_case c = base_case();
        struct tiny_result result;
        struct capture capture;

        assert_true(pause_ns < 1000000000u);
        last_step = 0;
        c.step = go_slowly;
        c.steps = 60;
        inject = "labels:all:48-52";
        capture_begin(&capture);
        tiny_run(&c, &result);
        (void)capture_end(&capture);
        assert_int_equal(result.status, DS_OK);
        assert_int_equal(buried, behind);
        tiny_result_fini(&result);
        forget();
    }
}

static void a_later_launch_leaves_out_the_same(void **state)
{
    (void)state;
    for (int was_killed = 0; was_killed < 3;
         was_killed++) { /* 2: on another host, which has the mirror alone */
        struct tiny_case c = base_case();
        struct tiny_result result;
        struct capture capture;

        c.ranks = 2;
        c.steps = 60;
        has_mirror = was_killed == 2;
        inject = "labels:all:47-51";
        capture_begin(&capture);
        tiny_run(&c, &result);
        (void)capture_end(&capture);
        const struct incident incident = read_incident();
        assert_int_equal(result.status, DS_OK);
        assert_int_equal(incident.count, 1);
        tiny_result_fini(&result);
        if (was_killed == 1)
            remove_saves_of(2);
        if (was_killed == 2)
            saved_forget(saved.root);
        c.steps = STEPS;
        tiny_run(&c, &result);
        assert_int_equal(result.status, DS_OK);
        assert_int_equal(read_incident().count, 1); /* it does not go wrong again */
        assert_ends_as_without(c, &result, &incident, was_killed == 1 ? incident.to_step : 60);
        tiny_result_fini(&result);
        forget();
    }
}

/* ---- what does not help */

static void expect_diverged(const struct tiny_case *c, const char *words, size_t incidents)
{
    struct tiny_result result;
    struct capture capture;

    capture_begin(&capture);
    tiny_run(c, &result);
    const char *said = capture_end(&capture);
    if (result.status != DS_ERR_DIVERGED || !strstr(said, words))
        fail_msg("%s: %s", ds_status_text(result.status), said);
    assert_int_equal(read_incident().count, incidents);
    tiny_result_fini(&result);
    forget();
}

static void what_does_not_help_ends_the_run(void **state)
{
    struct tiny_case c = base_case();

    (void)state;
    c.ranks = 4;
    c.tensor = c.pipeline = 2;
    inject = "rate:all:47-47";
    expect_diverged(&c, "going back and leaving data out has not helped", 2);
    inject =
        "labels:all:47-120"; /* far more than is left out: found again at once, by what was usual before */
    expect_diverged(&c, "going back and leaving data out has not helped", 2);
    inject = "rate:all:5-5";
    expect_diverged(&c, "there is no checkpoint from before", 0);
}

/* Each launch goes back once and is killed before it has saved anything behind that. */
static void what_was_tried_counts_in_later_launches(void **state)
{
    struct tiny_case c = base_case();
    struct incident incident = {.first = 1}; /* nothing is left out so far */
    struct capture capture;
    char text[64];

    (void)state;
    c.steps = 60;
    for (uint64_t tried = 1; tried <= 2; tried++) {
        const uint64_t at = 47 + incident.last + 1 - incident.first; /* of step 47 */
        struct tiny_result result;

        snprintf(text, sizeof text, "labels:all:%llu-%llu", (unsigned long long)at,
                 (unsigned long long)at + 4);
        inject = text;
        capture_begin(&capture);
        tiny_run(&c, &result);
        const char *said = capture_end(&capture);
        incident = read_incident();
        if (result.status != DS_OK || incident.count != tried)
            fail_msg("%s, %zu incidents: %s", ds_status_text(result.status), incident.count, said);
        assert_int_equal(number_behind(incident.text, "\"attempt\": "), tried);
        tiny_result_fini(&result);
        remove_saves_of(2 * tried);
    }
    inject = "rate:all:47-47";
    expect_diverged(&c, "going back and leaving data out has not helped", 2);
}

static void off_is_off(void **state)
{
    struct tiny_case c = base_case();
    struct tiny_result result;

    (void)state;
    rollback = DS_ROLLBACK_OFF;
    inject = "labels:all:47-51";
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_true(result.loss[48] > 3);
    assert_int_equal(read_incident().count, 0);
    rollback = DS_ROLLBACK_AUTO;
    tiny_result_fini(&result);
    forget();
}

/* ---- many */

static void every_spike_is_found_and_nothing_else_is(void **state)
{
    const uint64_t runs = test_is_long() ? 20 : 1;

    (void)state;
    for (uint64_t i = 0; i < runs; i++) {
        struct tiny_case c = base_case();
        struct tiny_result result;

        c.ranks = 1 + (uint32_t)i % 2;
        saved.seed = seed + 100 + i;
        check_spike(&c, 40 + ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 9), i, 30));
        forget();
        c.steps = test_is_long() ? TINY_STEPS_MAX : 2 * STEPS; /* several epochs of it */
        tiny_run(&c, &result);
        assert_int_equal(result.status, DS_OK);
        assert_int_equal(read_incident().count, 0);
        tiny_result_fini(&result);
        forget();
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_spike_is_gone_behind_and_left_out),
        cmocka_unit_test(a_mirror_that_is_slow_costs_time),
        cmocka_unit_test(a_mirror_that_hangs_is_left_behind),
        cmocka_unit_test(retention_leaves_one_to_go_back_to),
        cmocka_unit_test(a_spike_in_the_last_steps_is_seen),
        cmocka_unit_test(what_was_saved_behind_a_spike_is_buried),
        cmocka_unit_test(a_later_launch_leaves_out_the_same),
        cmocka_unit_test(what_does_not_help_ends_the_run),
        cmocka_unit_test(what_was_tried_counts_in_later_launches),
        cmocka_unit_test(off_is_off),
        cmocka_unit_test(every_spike_is_found_and_nothing_else_is),
    };
    static const struct CMUnitTest of_threads[] = {
        cmocka_unit_test(a_spike_is_gone_behind_and_left_out),
    };
    int failed;

    saved_begin("test_rollback", 0);
    saved.interval = INTERVAL;
    saved.also = with_rollback;
    seed = saved.seed;
    saved.data = make_data("all", 0, 0);
    snprintf(mirror, sizeof mirror, "%s/mirror", saved.folder);
    snprintf(run_dir, sizeof run_dir, "%s/run", saved.folder);
    failed = IS_SHORT ? cmocka_run_group_tests(of_threads, NULL, NULL)
                      : cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
