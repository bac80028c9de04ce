// link: launch
// timeout: 10800
/* A run may be stopped behind any of its steps: across warm-up and decay, borders of epochs and gradients that are
 * accumulated, the launches that follow one another give the bits of one launch, whatever the clock on the wall says
 * meanwhile, and however long the machine has been up. A step that is not finite on one rank changes nothing on any,
 * and nothing of it is in a checkpoint. */
#include "saved_run.h"

#include "dstrain/random.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

enum { STEPS = 200, WARMUP = 40, DECAY = 150, STOPS = 10, BATCH = 8, SAMPLES = 8 * BATCH - 3 };

static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 3), drawn++, bound);
}

/* ---- a clock on the wall that is set again and again, by an hour or a year */

static atomic_ulong looks;

/* Since the machine started, which every launch may find at another time. */
static _Atomic int64_t boot_ns;

static uint64_t mono_ns(void *self)
{
    (void)self;
    return ds_clock_mono_ns(ds_clock_system()) + (uint64_t)atomic_load(&boot_ns);
}

static void boot(void)
{
    const int64_t day_ns = 86400 * (int64_t)1000000000;
    const int64_t since_ns[] = {1000000000, day_ns / 24, day_ns, 400 * day_ns, 10000 * day_ns};

    atomic_store(&boot_ns, since_ns[draw(5)] - (int64_t)ds_clock_mono_ns(ds_clock_system()));
}

static uint64_t real_ns(void *self)
{
    static const int64_t by_s[] = {0, 3600, -3600, 365 * 86400, -365 * 86400};
    const unsigned long look = atomic_fetch_add(&looks, 1);

    (void)self;
    return ds_clock_real_ns(ds_clock_system()) + (uint64_t)by_s[look % 5] * 1000000000u;
}

static void sleep_ns(void *self, uint64_t ns)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), ns);
}

static const struct ds_clock set_clock = {mono_ns, real_ns, sleep_ns, NULL};

/* ---- runs */

static void with_warmup(struct ds_config *config)
{
    config->schedule.warmup_steps = WARMUP;
}

static struct tiny_case case_of(int stage)
{
    return (struct tiny_case){.ranks = 2,
                              .stage = stage,
                              .mode = stage & 1 ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE,
                              .global_batch = BATCH,
                              .micro_batch = 1,
                              .layers = 1,
                              .data = saved.data};
}

/* ---- stops */

/* One launch, from behind step `from` to `to`: its numbers are those of the whole. */
static void launch(const struct tiny_case *c, uint64_t from, uint64_t to,
                   const struct tiny_result *whole)
{
    if (c->clock)
        boot();
    struct tiny_result part = saved_run(*c, to, with_checkpoints);

    for (uint64_t i = 0; i < to; i++) {
        const double loss = i < from ? 0 : whole->loss[i], norm = i < from ? 0 : whole->norm[i];

        if (memcmp(&part.loss[i], &loss, sizeof loss) != 0 ||
            memcmp(&part.norm[i], &norm, sizeof norm) != 0)
            fail_msg("stage %d, stopped behind step %llu: step %llu has loss %.17g norm %.9g, "
                     "undisturbed %.17g, %.9g",
                     c->stage, (unsigned long long)from, (unsigned long long)i + 1, part.loss[i],
                     part.norm[i], loss, norm);
    }
    assert_int_equal(part.last.tokens, to == STEPS ? whole->last.tokens : part.last.tokens);
    if (to == STEPS)
        assert_memory_equal(part.params, whole->params, whole->param_elems * sizeof(float));
    tiny_result_fini(&part);
    assert_int_equal(saved_newest(saved.root), to);
}

static void check_stops(struct tiny_case c, const uint8_t is_stop[STEPS])
{
    struct tiny_result whole = saved_run(c, STEPS, without_checkpoints);
    uint64_t from = 0;

    saved.interval = 2 * STEPS; /* at the end of each launch */
    for (uint64_t to = 1; to <= STEPS; to++)
        if (is_stop[to - 1] || to == STEPS) {
            launch(&c, from, to, &whole);
            from = to;
        }
    saved_forget(saved.root);
    tiny_result_fini(&whole);
}

static void a_run_stops_behind_any_step(void **state)
{
    uint8_t is_stop[STEPS] = {0};

    (void)state;
    if (test_is_long()) {
        memset(is_stop, 1, sizeof is_stop);
        for (int stage = 0; stage <= 3; stage++)
            check_stops(case_of(stage), is_stop);
        return;
    }
    for (int i = 0; i < STOPS; i++)
        is_stop[draw(STEPS)] = 1;
    check_stops(case_of((int)draw(4)), is_stop);
}

static void a_clock_that_is_set_changes_nothing(void **state)
{
    struct tiny_case c = case_of(3);
    uint8_t is_stop[STEPS] = {0};

    (void)state;
    for (int i = 0; i < (test_is_long() ? 70 : 5); i++) /* some twice */
        is_stop[draw(STEPS)] = 1;
    c.clock = &set_clock;
    atomic_store(&looks, 0);
    check_stops(c, is_stop);
}

/* A save behind each of the last steps: that of the very last waits for the one before it, whose numbers may not have
 * been read yet. */
static void the_last_step_is_saved_however_late_the_one_before_it_is(void **state)
{
    (void)state;
    saved.interval = 1;
    for (int i = 0; i < 4; i++) {
        struct tiny_result result = saved_run(case_of(i), 3, with_checkpoints);

        assert_int_equal(saved_newest(saved.root), 3);
        saved_forget(saved.root);
        tiny_result_fini(&result);
    }
}

/* ---- steps that are not finite */

static void assert_finite(const struct tiny_result *result)
{
    for (uint64_t i = 0; i < result->param_elems; i++)
        assert_true(isfinite(result->params[i]));
}

static void nothing_that_is_not_finite_is_kept(void **state)
{
    (void)state;
    for (int i = 0; i < (test_is_long() ? 400 : 12); i++) {
        struct tiny_case c = case_of(i % 4);
        const uint64_t bad = 2 + draw(6);
        char inject[32];

        c.ranks = 4;
        saved.interval = 1;
        struct tiny_result before = saved_run(c, bad - 1, with_checkpoints);
        snprintf(inject, sizeof inject, "nan:%u:%u", (unsigned)draw(4), (unsigned)bad);
        c.inject = inject;
        struct tiny_result at = saved_run(c, bad, with_checkpoints); /* saved behind the bad step */
        c.inject = NULL;
        assert_int_equal(at.skipped, 1);
        assert_int_equal(saved_newest(saved.root), bad);
        assert_false(isfinite(at.loss[bad - 1]) && isfinite(at.norm[bad - 1]));
        assert_memory_equal(at.params, before.params, at.param_elems * sizeof *at.params);
        struct tiny_result after = saved_run(c, bad + 2, with_checkpoints);
        assert_int_equal(after.skipped, 1);
        assert_true(isfinite(after.loss[bad + 1]) && isfinite(after.norm[bad + 1]));
        assert_finite(&after); /* weights and moments were */
        saved_forget(saved.root);
        tiny_result_fini(&before);
        tiny_result_fini(&at);
        tiny_result_fini(&after);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_stops_behind_any_step),
        cmocka_unit_test(a_clock_that_is_set_changes_nothing),
        cmocka_unit_test(the_last_step_is_saved_however_late_the_one_before_it_is),
        cmocka_unit_test(nothing_that_is_not_finite_is_kept),
    };
    int failed;

    saved_begin("test_resume_anywhere", SAMPLES);
    saved.keep = 2;
    saved.decay_steps = DECAY;
    saved.also = with_warmup;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
