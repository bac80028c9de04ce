// link: launch
// private: launch launch/trainer
// timeout: 1800
/* The detector: what leaps is found within three steps of where it began, from any level and scatter; training that goes
 * well, however steeply it falls and however much it scatters, is never found. What it remembers comes back from text. */
#include "trainer.h"

#include "test.h"

#include "dstrain/random.h"

#include <math.h>

static uint64_t seed, drawn;

static double normal(void)
{
    float value;

    ds_random_normal(ds_random_of(seed, DS_RANDOM_TEST, 21), drawn++, 1, 1, &value);
    return (double)value;
}

static double uniform(double from, double to)
{
    return from + (to - from) * ds_random_unit(ds_random_of(seed, DS_RANDOM_TEST, 22), drawn++);
}

/* ---- training, as it goes */

struct course {
    double begin, end, pace;   /* of the loss, which falls exponentially */
    double scatter;            /* of the loss, relative */
    double norm, norm_scatter; /* log-normal */
    uint64_t warmup;           /* the norm rises that long, then falls */
    double norm_limit;
};

static struct course draw_course(void)
{
    return (struct course){.begin = uniform(4, 12),
                           .end = uniform(0.001, 4),
                           .pace = uniform(5, 2000),
                           .scatter = uniform(0, 0.04),
                           .norm = uniform(0.01, 20),
                           .norm_scatter = uniform(0, 0.35),
                           .warmup = (uint64_t)uniform(1, 300),
                           .norm_limit = uniform(0, 1) < 0.5 ? 0 : 1};
}

static struct spikes_step step_of(const struct course *c, uint64_t step)
{
    const double t = (double)step, fall = exp(-t / c->pace);
    const double rise = step < c->warmup ? 0.3 + 0.7 * t / (double)c->warmup : 1;

    return (struct spikes_step){
        .step = step,
        .loss = (c->end + (c->begin - c->end) * fall) * (1 + c->scatter * normal()),
        .norm = c->norm * rise * (0.4 + 0.6 * fall) * exp(c->norm_scatter * normal()),
        .norm_limit = c->norm_limit,
        .is_finite = 1,
        .is_skip_counted = 1};
}

static int is_clipped(const struct course *c)
{
    return c->norm_limit > 0;
}

static void training_that_goes_well_is_left_alone(void **state)
{
    const int courses = test_is_long() ? 400 : 20;

    (void)state;
    for (int i = 0; i < courses; i++) {
        const struct course course = draw_course();
        struct spikes spikes = {.count = 0};

        for (uint64_t step = 1; step <= 3000; step++) {
            struct spikes_step s = step_of(&course, step);
            s.is_finite = ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 23), drawn++, 50) > 0;
            if (step % 97 == 0)
                s.norm *= is_clipped(&course) ? 200 : 5; /* one alone */
            const struct spike spike = spikes_look(&spikes, &s);
            if (spike.kind != SPIKE_NONE)
                fail_msg("course %d, step %llu: %d, %g where %g is usual", i,
                         (unsigned long long)step, spike.kind, spike.value, spike.usual);
        }
    }
}

static void what_leaps_is_found_where_it_began(void **state)
{
    const int courses = test_is_long() ? 2000 : 200;

    (void)state;
    for (int i = 0; i < courses; i++) {
        const struct course course = draw_course();
        const uint64_t at = 40 + (uint64_t)uniform(0, 600);
        const int is_loss = i % 2;
        struct spikes spikes = {.count = 0};
        struct spike spike = {.kind = SPIKE_NONE};
        uint64_t step = 0;

        while (spike.kind == SPIKE_NONE && step < at + 10) {
            struct spikes_step s = step_of(&course, ++step);
            if (step >= at && is_loss)
                s.loss = 3 * course.begin;
            if (step >= at && !is_loss) /* within the limit it would move weights no further */
                s.norm = fmax(40 * course.norm, 2 * course.norm_limit);
            spike = spikes_look(&spikes, &s);
        }
        assert_int_equal(spike.kind, is_loss ? SPIKE_LOSS : SPIKE_NORM);
        assert_int_equal(spike.first, at);
        assert_true(spike.step <= at + SPIKES_ROW - 1 && spike.value > spike.usual);
    }
}

/* ---- rules, one by one */

static struct spikes calm(double loss, double norm, uint32_t steps)
{
    struct spikes spikes = {.count = 0};

    for (uint32_t i = 0; i < steps; i++) {
        const struct spikes_step s = {.step = i + 1,
                                      .loss = loss * (1 + 0.01 * (i % 3)),
                                      .norm = norm,
                                      .is_finite = 1,
                                      .is_skip_counted = 1};
        assert_int_equal(spikes_look(&spikes, &s).kind, SPIKE_NONE);
    }
    return spikes;
}

static enum spike_kind look(struct spikes *spikes, uint64_t step, double loss, double norm,
                            double limit)
{
    const struct spikes_step s = {step, loss, norm, limit, 1, 1};

    return spikes_look(spikes, &s).kind;
}

static void three_in_a_row_or_one_that_is_ten_times_as_large(void **state)
{
    struct spikes spikes = calm(2, 1, 100);

    (void)state;
    for (uint64_t step = 101; step < 200; step += 3) { /* pairs */
        assert_int_equal(look(&spikes, step, 5, 1, 0), SPIKE_NONE);
        assert_int_equal(look(&spikes, step + 1, 5, 9, 0), SPIKE_NONE);
        assert_int_equal(look(&spikes, step + 2, 2, 1, 0), SPIKE_NONE);
    }
    assert_int_equal(look(&spikes, 201, 5, 1, 0), SPIKE_NONE);
    assert_int_equal(look(&spikes, 202, 2, 9, 0), SPIKE_NONE);
    assert_int_equal(look(&spikes, 203, 5, 1, 0), SPIKE_LOSS);
    spikes = calm(2, 1, 100);
    assert_int_equal(look(&spikes, 101, 21, 1, 0), SPIKE_LOSS);
    spikes = calm(2, 1, 100);
    assert_int_equal(look(&spikes, 101, 2, 11, 0), SPIKE_NORM);
    spikes = calm(2, 1, 100);
    assert_int_equal(look(&spikes, 101, 2, 9, 0), SPIKE_NONE);
}

/* A step up from a calm stretch is no leap, however calm it was; nor is one of a loss that is nearly nothing. */
static void a_small_step_from_a_calm_stretch_is_none(void **state)
{
    static const double levels[][3] = {{2, 2.5, 3.5}, {0.001, 0.1, 0.5}}; /* calm, no leap, leap */

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int leaps = 0; leaps < 2; leaps++) {
            struct spikes spikes = calm(levels[i][0], 1, 100);
            enum spike_kind kind = SPIKE_NONE;

            for (uint64_t step = 101; step < 104; step++)
                kind = look(&spikes, step, levels[i][1 + leaps], 1, 0);
            assert_int_equal(kind, leaps ? SPIKE_LOSS : SPIKE_NONE);
        }
}

static void what_clipping_leaves_as_it_is_is_not_too_large(void **state)
{
    struct spikes spikes = calm(2, 0.01, 100);

    (void)state;
    for (uint64_t step = 101; step < 110; step++)
        assert_int_equal(look(&spikes, step, 2, 0.9, 1), SPIKE_NONE);
    spikes = calm(2, 0.01, 100);
    for (uint64_t step = 101; step < 103;
         step++) /* nor is it sure, however large, what one step says */
        assert_int_equal(look(&spikes, step, 2, 1.1, 1), SPIKE_NONE);
    assert_int_equal(look(&spikes, 103, 2, 1.1, 1), SPIKE_NORM);
}

static void a_few_steps_say_nothing(void **state)
{
    struct spikes spikes = calm(2, 1, SPIKES_LEAST - 1);

    (void)state;
    assert_int_equal(look(&spikes, SPIKES_LEAST, 900, 900, 0), SPIKE_NONE);
}

static void steps_that_are_not_finite_are_counted_in_a_row(void **state)
{
    for (int counted = 0; counted < 2; counted++) {
        struct spikes spikes = {.count = 0};
        struct spikes_step bad = {.is_skip_counted = counted, .loss = NAN};

        (void)state;
        for (uint64_t step = 1; step < 100; step++) {
            bad.step = step;
            bad.is_finite = step % SPIKES_NOT_FINITE == 0; /* one too few */
            bad.loss = bad.is_finite ? 2 : NAN;
            assert_int_equal(spikes_look(&spikes, &bad).kind, SPIKE_NONE);
        }
        bad.is_finite = 0;
        struct spike spike = {.kind = SPIKE_NONE};
        for (bad.step = 100; bad.step < 100 + SPIKES_NOT_FINITE; bad.step++)
            spike = spikes_look(&spikes, &bad);
        assert_int_equal(spike.kind, counted ? SPIKE_NOT_FINITE : SPIKE_NONE);
        if (counted)
            assert_int_equal(spike.first, 100);
    }
}

/* ---- as text */

static void what_it_remembers_comes_back(void **state)
{
    static struct rollback then, now;
    struct ds_values values = {.count = 0};

    (void)state;
    for (uint32_t count = 0; count <= 2 * SPIKES_WINDOW; count += 17) {
        then = (struct rollback){.spikes = calm(uniform(1, 5), uniform(0.1, 3), count),
                                 .past_count = count % (ROLLBACKS_AT_ONCE + 1)};
        for (uint32_t i = 0; i < then.past_count; i++)
            then.past[i] = (struct rollback_past){1000 * i + count, 1 + i % 2};
        for (uint64_t i = 0; i < count % 100; i++)
            assert_true(ds_skips_add(&then.skips, (struct ds_batch_range){9 * i + 1, 9 * i + 3}));
        assert_ok(rollback_write(&then, &values));
        assert_ok(rollback_read(&values, &now));
        assert_memory_equal(&now, &then, sizeof now);
    }
    assert_ok(ds_values_set(&values, "rollback.past", "17:1,"));
    ds_log.level = DS_LOG_ERROR + 1;
    assert_int_equal(rollback_read(&values, &now), DS_ERR_DATA);
    assert_ok(ds_values_set(&values, "rollback.past", "17:1"));
    assert_ok(rollback_read(&values, &now));
    for (int i = 0; i < 4; i++) { /* what may be hostile */
        static const char *const bad[] = {"5-3", "1-2,2-3", "0-2", "1-99999999999999999999"};
        assert_ok(ds_values_set(&values, "rollback.skips", bad[i]));
        assert_int_equal(rollback_read(&values, &now), DS_ERR_DATA);
    }
    assert_ok(ds_values_set(&values, "rollback.skips", ""));
    assert_ok(ds_values_set(&values, "rollback.norms", "7fc00000"));
    assert_int_equal(rollback_read(&values, &now), DS_ERR_DATA);
    ds_log.level = DS_LOG_INFO;
    ds_values_fini(&values);
}

static void attempts_are_bounded(void **state)
{
    struct rollback r = {.past_count = 0};

    (void)state;
    assert_int_equal(rollback_attempt(&r, 500, 200), 1);
    r.past[r.past_count++] = (struct rollback_past){500, 1};
    assert_int_equal(rollback_attempt(&r, 700, 200), 2); /* one place */
    assert_int_equal(rollback_attempt(&r, 701, 200), 1);
    r.past[r.past_count++] = (struct rollback_past){700, 2};
    assert_int_equal(rollback_attempt(&r, 450, 200), 0);
    assert_int_equal(rollback_attempt(&r, 900, 200), 0);
    assert_int_equal(rollback_attempt(&r, 901, 200), 1);
    r.past[r.past_count++] = (struct rollback_past){901, 1};
    r.past[r.past_count++] = (struct rollback_past){1102, 1};
    assert_int_equal(rollback_attempt(&r, 1400, 200), 1);
    r.past[r.past_count++] = (struct rollback_past){1400, 1};
    assert_int_equal(rollback_attempt(&r, 1499, 10), 0); /* the sixth */
    assert_int_equal(rollback_attempt(&r, 1501, 10), 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_that_goes_well_is_left_alone),
        cmocka_unit_test(what_leaps_is_found_where_it_began),
        cmocka_unit_test(three_in_a_row_or_one_that_is_ten_times_as_large),
        cmocka_unit_test(a_small_step_from_a_calm_stretch_is_none),
        cmocka_unit_test(what_clipping_leaves_as_it_is_is_not_too_large),
        cmocka_unit_test(a_few_steps_say_nothing),
        cmocka_unit_test(steps_that_are_not_finite_are_counted_in_a_row),
        cmocka_unit_test(what_it_remembers_comes_back),
        cmocka_unit_test(attempts_are_bounded),
    };

    seed = test_seed("test_spikes");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
