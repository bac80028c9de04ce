// link: launch
// tsan
/* Storage that does not answer costs checkpoints, never the run: a save is given up after its deadline, later ones are
 * left out, and go on when storage answers again. At the end nobody waits for it any longer than that. A disk that is
 * full is not asked every time, and what failed saves leave on it goes; one that is slow has fewer checkpoints. */
#include "hooked_disk.h"
#include "saved_run.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { STEPS = 24, INTERVAL = 2 };

/* ---- a disk on which one call does not return until it is let go */

static const char *stuck_call; /* its name; NULL: none */
static const char *stuck_path; /* what its path has in it */
static atomic_int is_stuck, is_let_go;

static const char *full_for; /* of packs with this in their name none has room; NULL: all have */
static int full_count_max = INT32_MAX; /* so often */
static atomic_int full_count;
static uint64_t slow_bytes_per_s, deadline_s = 60; /* 0: as fast as the disk is */

static int slow_disk(const struct disk_call *call)
{
    if (stuck_call && disk_call_is(call, stuck_call, stuck_path)) {
        atomic_store(&is_stuck, 1);
        while (!atomic_load(&is_let_go))
            usleep(1000);
    }
    if (slow_bytes_per_s > 0 && strcmp(call->what, "pwrite") == 0)
        usleep((useconds_t)(call->bytes * 1000000 / slow_bytes_per_s));
    if (!full_for || !disk_call_is(call, "fallocate", full_for))
        return 0;
    return atomic_fetch_add(&full_count, 1) < full_count_max ? -ENOSPC : 0;
}

/* ---- time: while a call is stuck, who sleeps sleeps long; and a test may let it go by */

static atomic_ulong passed_ns;
static atomic_ulong gone_by; /* the step after which time has gone by; 0: none yet */

static uint64_t mono_ns(void *self)
{
    (void)self;
    return ds_clock_mono_ns(ds_clock_system()) + atomic_load(&passed_ns);
}

static uint64_t real_ns(void *self)
{
    (void)self;
    return ds_clock_real_ns(ds_clock_system());
}

static void sleep_ns(void *self, uint64_t ns)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), ns);
    if (atomic_load(&is_stuck) && !atomic_load(&is_let_go))
        atomic_fetch_add(&passed_ns, 100000000u);
}

static const struct ds_clock clock_of_test = {mono_ns, real_ns, sleep_ns, NULL};

/* ---- runs */

static void with_deadline(struct ds_config *config)
{
    config->run.deadline = (double)deadline_s;
}

static struct tiny_result run(uint64_t steps, saved_adjust *adjust,
                              void (*step)(const struct ds_step_report *report))
{
    struct tiny_case c = saved_case();

    c.fs = hooked_disk(slow_disk);
    c.clock = &clock_of_test;
    c.step = step;
    return saved_run(c, steps, adjust);
}

static void assert_undisturbed(const struct tiny_result *result, uint64_t steps)
{
    struct tiny_result whole = run(steps, without_checkpoints, NULL);

    assert_same_run(result, &whole, 0);
    tiny_result_fini(&whole);
}

static void assert_saved(const struct tiny_result *result, ds_status wanted)
{
    for (uint32_t i = 0; i < result->of.ranks; i++)
        assert_int_equal(result->saved[i], wanted);
}

static void forget(void)
{
    saved_forget(saved.root);
    atomic_store(&is_stuck, 0);
    atomic_store(&is_let_go, 0);
    atomic_store(&gone_by, 0);
    stuck_call = NULL;
}

/* ---- tests */

/* As soon as the call is stuck a save's time goes by; it is let go four steps later. A save goes on between steps, so
 * each of them waits for it a while, on a slow machine a long one. */
static void let_time_go_by(const struct ds_step_report *report)
{
    unsigned long none = 0;

    usleep(10000);
    for (int i = 0; i < 50 && report->step >= 3 && !atomic_load(&is_stuck); i++)
        usleep(10000);
    if (atomic_load(&is_stuck) && atomic_compare_exchange_strong(&gone_by, &none, report->step))
        atomic_fetch_add(&passed_ns, 3 * 60000000000u);
    if (atomic_load(&gone_by) > 0 && report->step >= atomic_load(&gone_by) + 5)
        atomic_store(&is_let_go, 1);
}

static void a_stuck_save_is_given_up_and_later_ones_go_on(void **state)
{
    static const struct {
        const char *call, *path;
        int comes_late; /* what was stuck was the last thing to be done */
    } rows[] = {{"open", "-000000000002-00001-", 0},
                {"pwrite", "-000000000002-00000-", 0},
                {"fsync", "-000000000002-00001-", 0},
                {"fsync", "M-000001-000000000002", 1},
                {"rename", "M-000001-000000000002", 1}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct capture capture;

        stuck_call = rows[i].call;
        stuck_path = rows[i].path;
        capture_begin(&capture);
        struct tiny_result result = run(STEPS, with_checkpoints, let_time_go_by);
        const char *said = capture_end(&capture);
        if (!strstr(said, "checkpoint of step 2 is given up") ||
            !strstr(said, "left out: that of step 2 was given up"))
            fail_msg("%s: %s", rows[i].call, said);
        stuck_call = NULL;
        assert_undisturbed(&result, STEPS);
        tiny_result_fini(&result);
        assert_true(saved_has(saved.root, STEPS));
        assert_int_equal(saved_has(saved.root, 2), rows[i].comes_late);
        assert_int_equal(saved_packs_of(saved.root, 2, NULL), rows[i].comes_late ? 2 : 0);
        forget();
    }
}

/* A disk without room for what rank 1 writes: tries come later and later, and what rank 0 has written goes. At the end all
 * ranks know that nothing is saved. */
static void a_full_disk_is_not_asked_every_time(void **state)
{
    (void)state;
    full_for = "-00001-";
    saved.interval = 1;
    atomic_store(&full_count, 0);
    struct tiny_result result = run(STEPS, with_checkpoints, NULL);
    assert_undisturbed(&result, STEPS);
    assert_saved(&result, DS_ERR_IO);
    tiny_result_fini(&result);
    /* at best of steps 1, 2, 4, 8, 16 and 24, of that twice; a try that is late is later */
    assert_true(atomic_load(&full_count) >= 3 && atomic_load(&full_count) <= 7);
    assert_int_equal(saved_packs(saved.root, "P-", NULL), 0);
    full_for = NULL;
    saved.interval = INTERVAL;
    result = run(STEPS + 2, with_checkpoints, NULL);
    assert_saved(&result, DS_OK);
    tiny_result_fini(&result);
    assert_true(saved_has(saved.root, STEPS + 2));
    forget();
}

/* No later save makes up for the last one, so it is tried once more; a launch that finds it has nothing left to save. */
static void the_last_save_is_tried_twice(void **state)
{
    struct capture capture;

    (void)state;
    saved.interval = STEPS;
    full_for = "-00001-";
    full_count_max = 1;
    atomic_store(&full_count, 0);
    ds_log.is_leader = 1;
    capture_begin(&capture);
    struct tiny_result result = run(STEPS, with_checkpoints, NULL);
    const char *said = capture_end(&capture);
    ds_log.is_leader = 0;
    if (!strstr(said, "checkpoint of step 24 was not written (storage failed)\n"
                      "checkpoint of step 24: tried once more\n") ||
        strstr(said, "training goes on"))
        fail_msg("%s", said);
    assert_int_equal(atomic_load(&full_count), 2);
    full_for = NULL;
    full_count_max = INT32_MAX;
    assert_undisturbed(&result, STEPS);
    assert_saved(&result, DS_OK);
    tiny_result_fini(&result);
    assert_true(saved_has(saved.root, STEPS));
    result = run(STEPS, with_checkpoints, NULL);
    assert_saved(&result, DS_OK);
    tiny_result_fini(&result);
    saved.interval = INTERVAL;
    result = run(STEPS + 2, with_checkpoints, NULL);
    assert_int_equal(saved_went_on_from(&result), STEPS);
    tiny_result_fini(&result);
    forget();
}

static size_t count_words(const char *in, const char *words)
{
    size_t count = 0;

    for (; (in = strstr(in, words)); in++)
        count++;
    return count;
}

/* What the lines about checkpoints that were written say of those that were not. */
static size_t sum_left_out(const char *in)
{
    static const char words[] = " left out until then";
    size_t sum = 0;

    for (const char *at = in; (at = strstr(at, words)); at++) {
        const char *number = at;

        while (number > in && *number != ';')
            number--;
        sum += strtoull(number + 1, NULL, 10);
    }
    return sum;
}

/* A save takes longer than peers may wait, and steps are many in that time: nobody waits, what is due meanwhile is left
 * out and not made later, and the last one is there at the end. That saves are late is told once, and then how many. */
static void a_slow_disk_costs_checkpoints_and_not_a_step(void **state)
{
    struct capture capture;
    size_t due = STEPS / INTERVAL;

    (void)state;
    slow_bytes_per_s = 64 << 10;
    deadline_s = 2;
    ds_log.is_leader = 1;
    capture_begin(&capture);
    struct tiny_result result = run(STEPS, with_checkpoints, NULL);
    const char *said = capture_end(&capture);
    ds_log.is_leader = 0;
    const size_t written = count_words(said, " is written: "), left_out = sum_left_out(said),
                 warned = count_words(said, "is still being written");
    if (warned != 1 || written < 1 || written + left_out != due || left_out < due / 2 ||
        strstr(said, "given up") || strstr(said, "waited "))
        fail_msg("%zu written, %zu left out, said %zu times: %s", written, left_out, warned, said);
    slow_bytes_per_s = 0;
    deadline_s = 60;
    assert_undisturbed(&result, STEPS);
    tiny_result_fini(&result);
    assert_true(saved_has(saved.root, STEPS));
    assert_int_equal(saved_packs(saved.root, "P-", NULL), 2 * written);
    forget();
}

/* The last one of this program: its thread is never let go. */
static void the_end_waits_for_nobody(void **state)
{
    struct capture capture;

    (void)state;
    stuck_call = "fsync";
    stuck_path = "-000000000024-00001-";
    capture_begin(&capture);
    struct tiny_result result = run(STEPS, with_checkpoints, NULL);
    const char *said = capture_end(&capture);
    if (!strstr(said, "checkpoint of step 24 is given up") ||
        !strstr(said, "a call to storage does not return") || strstr(said, "training goes on"))
        fail_msg("%s", said);
    stuck_call = NULL;
    assert_undisturbed(&result, STEPS);
    assert_saved(&result, DS_ERR_IO);
    tiny_result_fini(&result);
    assert_false(saved_has(saved.root, STEPS));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stuck_save_is_given_up_and_later_ones_go_on),
        cmocka_unit_test(a_full_disk_is_not_asked_every_time),
        cmocka_unit_test(the_last_save_is_tried_twice),
        cmocka_unit_test(a_slow_disk_costs_checkpoints_and_not_a_step),
        cmocka_unit_test(the_end_waits_for_nobody),
    };
    int failed;

    saved_begin("test_resume_stuck", 64);
    saved.interval = INTERVAL;
    saved.decay_steps = STEPS + 2;
    saved.also = with_deadline;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
