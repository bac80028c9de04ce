// link: launch
// private: launch
/* Clocks of hosts are made one: what happened at one moment stands at one time, to the error that the trace states, which
 * is true. */
#include "test.h"
#include "trace_case.h"
#include "trace_clock.h"

#include "dstrain/random.h"

#include <jansson.h>

static uint64_t seed;

/* The first span of every rank was stamped at one moment, by clocks that are hours apart. */
static void ranks_of_hosts_land_on_one_time(void **state)
{
    struct hosts hosts = hosts_open();
    double at[3] = {-1, -1, -1}, error[3] = {0};
    const json_t *event;
    json_t *trace;
    size_t i;

    (void)state;
    run_hosts(&hosts);
    trace = read_from(hosts.fs);
    json_array_foreach(json_object_get(trace, "traceEvents"), i, event)
    {
        const uint32_t rank = (uint32_t)number(event, "pid");
        if (strcmp(string(event, "ph"), "X") == 0 && at[rank] < 0)
            at[rank] = number(event, "ts");
        if (strcmp(string(event, "name"), "process_labels") == 0)
            error[rank] = number(json_object_get(event, "args"), "clock_error_ns") * 1e-3;
    }
    assert_true(at[0] > 0 && error[0] == 0);
    for (int r = 1; r < 3; r++) {
        assert_true(error[r] > 0 && error[r] < 1e6); /* microseconds; and it is true: */
        assert_true(at[r] >= at[0] - error[r] - 2e-3 && at[r] <= at[0] + error[r] + 2e-3);
    }
    json_decref(trace);
    ds_fs_sim_close(hosts.fs);
}

/* Two clocks `ahead` apart meet: both come, then both leave, in any order and after any time. */
static struct ds_trace_bounds meet(struct ds_random random, uint64_t meetings, int64_t ahead_ns)
{
    struct ds_trace_bounds bounds = {INT64_MIN, INT64_MAX};
    uint64_t now_ns = 1000000000000;

    for (uint64_t i = 0; i < meetings; i++) {
        uint64_t t[4];
        for (uint64_t k = 0; k < 4; k++)
            t[k] = now_ns + (k / 2) * 5000 + ds_random_below(random, 4 * i + k, 5000);
        const struct ds_trace_meeting root = {t[0], t[2]};
        const struct ds_trace_meeting own = {t[1] + (uint64_t)ahead_ns, t[3] + (uint64_t)ahead_ns};
        ds_trace_bounds_narrow(&bounds, own, root);
        now_ns += 20000;
    }
    return bounds;
}

static void bounds_hold_the_true_offset_and_clocks_of_one_host_are_one(void **state)
{
    const int64_t aheads_ns[] = {0, 1000000, -1000000, 86400000000000, -500000000000};

    (void)state;
    for (uint64_t n = 0; n < 200; n++)
        for (int k = 0; k < 5; k++) {
            struct ds_trace_clock clock;
            const struct ds_trace_bounds bounds =
                meet(ds_random_of(seed, DS_RANDOM_TEST, n), 1 + n % 16, aheads_ns[k]);
            const int64_t ahead_ns = aheads_ns[k];
            ds_trace_clock_of(bounds, &clock);
            assert_true(bounds.low_ns <= ahead_ns && ahead_ns <= bounds.high_ns);
            assert_true(clock.offset_ns <= ahead_ns + (int64_t)clock.error_ns &&
                        clock.offset_ns >= ahead_ns - (int64_t)clock.error_ns);
            assert_true(clock.error_ns <= 10000);
            assert_true(k > 0 || (clock.offset_ns == 0 && clock.error_ns == 0));
        }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_of_hosts_land_on_one_time),
        cmocka_unit_test(bounds_hold_the_true_offset_and_clocks_of_one_host_are_one),
    };

    ds_log.is_leader = 0;
    seed = test_seed("test_trace_clock");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
