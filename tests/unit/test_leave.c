// link: launch
// tsan
// cost: 40
/* A run that is asked to leave, on whichever rank and at whatever moment, ends on all of them behind the same step, with
 * its checkpoint committed; another launch goes on from there with the bits of the run that nobody disturbed. */
#include "hooked_disk.h"
#include "saved_run.h"

#include "dstrain/random.h"

#include <errno.h>
#include <stdatomic.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { ROW_STRIDE = 2, STEP_STRIDE = 6 }; /* every thread and every wait is in each */
#else
enum { ROW_STRIDE = 1, STEP_STRIDE = 3 };
#endif
enum { STEPS = 16, RANKS = 4 };

/* ---- asking: rank r in its n-th step, counted from 0 */

static atomic_uint looks[RANKS], asked_rank, asked_step;

static int ask(uint32_t rank)
{
    return atomic_fetch_add(&looks[rank], 1) == atomic_load(&asked_step) &&
           rank == atomic_load(&asked_rank);
}

static void ask_at(uint32_t rank, uint32_t step)
{
    for (int i = 0; i < RANKS; i++)
        atomic_store(&looks[i], 0);
    atomic_store(&asked_rank, rank);
    atomic_store(&asked_step, step);
}

static void with_late_updates(struct ds_config *config)
{
    with_checkpoints(config);
    config->offload.updates = DS_UPDATES_KEY_LATE;
}

static void check(struct tiny_case c, const struct tiny_result *whole, uint32_t rank, uint32_t step)
{
    struct tiny_result first, rest;

    ask_at(rank, step);
    c.adjust = step % 2 ? with_late_updates : with_checkpoints;
    c.leave = ask;
    tiny_run(&c, &first);
    if (first.status != (step + 2 < STEPS ? DS_LEAVE : DS_OK))
        fail_msg("asked rank %u in step %u: %s", rank, step + 1, ds_status_text(first.status));
    if (first.status == DS_LEAVE && first.steps != step + 2)
        fail_msg("asked in step %u it leaves behind step %llu", step + 1,
                 (unsigned long long)first.steps);
    assert_int_equal(saved_newest(saved.root), first.steps);
    assert_memory_equal(first.loss, whole->loss, first.steps * sizeof *whole->loss);
    c.leave = NULL;
    tiny_run(&c, &rest);
    assert_int_equal(rest.status, DS_OK);
    assert_same_run(&rest, whole, first.steps);
    saved_forget(saved.root);
    tiny_result_fini(&first);
    tiny_result_fini(&rest);
}

static void all_ranks_leave_behind_the_same_step(void **state)
{
    static const struct {
        uint32_t tensor, pipeline;
        int stage, mode;
    } rows[] = {
        {1, 1, 3, DS_DEVICE_DEFERRED}, {2, 2, 1, DS_DEVICE_INLINE}, {1, 2, 2, DS_DEVICE_DEFERRED}};
    uint64_t drawn = 0;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i += ROW_STRIDE) {
        struct tiny_case c = {.ranks = RANKS,
                              .tensor = rows[i].tensor,
                              .pipeline = rows[i].pipeline,
                              .stage = rows[i].stage,
                              .mode = rows[i].mode,
                              .steps = STEPS,
                              .global_batch = 8,
                              .micro_batch = 1,
                              .data = saved.data,
                              .adjust = without_checkpoints};
        struct tiny_result whole;

        tiny_run(&c, &whole);
        assert_int_equal(whole.status, DS_OK);
        saved.interval = 4; /* one is due where it leaves, is being written there, or none is */
        for (uint32_t step = 0; step < STEPS; step += test_is_long() ? 1 : STEP_STRIDE) {
            const struct ds_random random = ds_random_of(saved.seed, DS_RANDOM_TEST, 3);
            check(c, &whole, (uint32_t)ds_random_below(random, drawn++, RANKS), step);
        }
        tiny_result_fini(&whole);
    }
}

/* ---- storage that fails for a moment */

static atomic_uint manifests; /* that were to get their names */
static unsigned fail_count;   /* the first of them do not */

static int fail_commits(const struct disk_call *call)
{
    return disk_call_is(call, "rename", "/manifests/") &&
                   atomic_fetch_add(&manifests, 1) < fail_count
               ? -EIO
               : 0;
}

/* The packs of the first try stay, since nobody knows whether the manifest will. */
static void a_commit_that_fails_once_does_not_keep_it(void **state)
{
    struct tiny_case c = {.ranks = RANKS,
                          .stage = 3,
                          .steps = STEPS,
                          .global_batch = 8,
                          .micro_batch = 1,
                          .data = saved.data,
                          .adjust = with_checkpoints,
                          .leave = ask,
                          .fs = hooked_disk(fail_commits)};

    (void)state;
    for (fail_count = 0; fail_count <= 2; fail_count++) {
        struct tiny_result result;
        struct capture capture;

        saved.interval = STEPS;
        atomic_store(&manifests, 0);
        ask_at(1, 4);
        capture_begin(&capture);
        tiny_run(&c, &result);
        const char *said = capture_end(&capture);
        if (result.status != (fail_count < 2 ? DS_LEAVE : DS_ERR_IO))
            fail_msg("%u commits fail: %s: %s", fail_count, ds_status_text(result.status), said);
        assert_int_equal(atomic_load(&manifests), fail_count < 2 ? fail_count + 1 : 2);
        assert_int_equal(saved_newest(saved.root), fail_count < 2 ? result.steps : 0);
        saved_forget(saved.root);
        tiny_result_fini(&result);
    }
}

static void without_checkpoints_it_says_so_and_goes_on(void **state)
{
    struct tiny_case c = {.ranks = 1,
                          .stage = 0,
                          .steps = 4,
                          .global_batch = 2,
                          .micro_batch = 2,
                          .data = saved.data,
                          .adjust = without_checkpoints,
                          .leave = ask};
    struct capture capture;
    struct tiny_result result;

    (void)state;
    ask_at(0, 1);
    capture_begin(&capture);
    tiny_run(&c, &result);
    assert_non_null(strstr(capture_end(&capture), "checkpoint.interval = 0"));
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(result.steps, 4);
    tiny_result_fini(&result);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ranks_leave_behind_the_same_step),
        cmocka_unit_test(a_commit_that_fails_once_does_not_keep_it),
        cmocka_unit_test(without_checkpoints_it_says_so_and_goes_on),
    };
    int failed;

    saved_begin("test_leave", 64);
    saved.decay_steps = STEPS - 3;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
