// link: device kernels base
// tsan
/* test_device.c - order on the cpu device: streams, events, and what deferred mode shows. One body
 * for all four devices of the rig; what only one mode promises is tested in that mode. */
#include "device_rig.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

struct cell_args {
    int *cell;
    int value;
};

static ds_status slow_store_work(void *self, int *done)
{
    struct cell_args *args = self;

    ds_clock_sleep_ns(ds_clock_system(), 200000);
    *args->cell = args->value;
    *done = 1;
    return DS_OK;
}

/* ---- order */

static void a_stream_runs_its_works_in_order(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    struct trace trace = {0};
    int next[2] = {0, 1};

    for (int i = 0; i < 200; i++)
        note(i % 2 ? rig.b : rig.a, &trace, i);
    assert_ok(rig.ops->stream_sync(rig.a));
    assert_ok(rig.ops->stream_sync(rig.b));
    assert_int_equal(trace.count, 200);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(trace.tags[i], next[trace.tags[i] % 2]);
        next[trace.tags[i] % 2] += 2;
    }
    rig_close(&rig);
}

/* A value is stored on the worker's stream and copied out on another; what the host then has. */
static int hand_over(void **state, uint64_t seed, int with_wait)
{
    struct rig rig = rig_open(state, seed);
    int *cell = take(&rig, DS_MEMORY_DEVICE, sizeof *cell);
    int *result = take(&rig, DS_MEMORY_PINNED, sizeof *result);
    struct cell_args args = {cell, 7};
    int value;

    assert_ok(rig.ops->call(rig.worker, slow_store_work, &args, sizeof args));
    if (with_wait)
        assert_ok(ds_stream_after(rig.a, rig.worker, rig.event));
    assert_ok(rig.ops->copy(rig.a, result, cell, sizeof *cell));
    assert_ok(rig.ops->stream_sync(rig.a));
    value = *result;
    assert_ok(rig.ops->stream_sync(rig.worker));
    rig.ops->release(rig.device, DS_MEMORY_DEVICE, cell, sizeof *cell);
    rig.ops->release(rig.device, DS_MEMORY_PINNED, result, sizeof *result);
    rig_close(&rig);
    return value;
}

static void a_wait_orders_two_streams(void **state)
{
    uint64_t seed = test_seed(__func__);

    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(hand_over(state, seed + i, 1), 7);
}

/* Inline the order would be the host's and the clock's, so there is nothing to see. */
static void a_missing_wait_shows_for_some_seed(void **state)
{
    uint64_t seed = test_seed(__func__);
    int wrong_count = 0, right_count = 0;

    for (uint64_t i = 0; i < 100; i++) {
        int is_right = hand_over(state, seed + i, 0) == 7;
        wrong_count += !is_right;
        right_count += is_right;
    }
    assert_true(wrong_count > 0 && right_count > 0);
}

static void an_earlier_wait_does_not_see_a_later_record(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    atomic_int flag = 0;

    call(rig.worker, set_work, &flag, 1);
    assert_ok(ds_stream_after(rig.a, rig.worker, rig.event));
    call(rig.worker, until_work, &flag, 2);
    assert_ok(rig.ops->event_record(rig.event, rig.worker)); /* comes only after the flag is 2 */
    assert_ok(rig.ops->stream_sync(rig.a));
    assert_int_equal(flag, 1);
    call(rig.a, set_work, &flag, 2);
    assert_ok(rig.ops->event_sync(rig.event));
    rig_close(&rig);
}

static void an_event_that_was_never_recorded_has_come(void **state)
{
    struct rig rig = rig_open(state, 1);
    int done = 0;

    assert_ok(rig.ops->event_query(rig.event, &done));
    assert_true(done);
    assert_ok(rig.ops->event_sync(rig.event));
    assert_ok(rig.ops->stream_wait(rig.a, rig.event));
    rig_close(&rig);
}

static void asking_for_an_event_brings_it_in_the_end(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    atomic_int flag = 0;
    int done = 0;

    call(rig.a, countdown_work, NULL, 100);
    call(rig.worker, set_work, &flag, 1);
    assert_ok(ds_stream_after(rig.a, rig.worker, rig.event));
    assert_ok(rig.ops->event_record(rig.event, rig.a));
    while (!done) /* however often; main's alarm ends it */
        assert_ok(rig.ops->event_query(rig.event, &done));
    assert_int_equal(flag, 1);
    rig_close(&rig);
}

/* ---- time */

/* Three stamps around two works of a millisecond, on one stream. */
static void stamp_works(struct rig *rig, struct ds_stream *stream, uint64_t *at_ns)
{
    for (int i = 0; i < 3; i++) {
        assert_ok(rig->ops->stream_stamp(stream, &at_ns[i]));
        if (i < 2)
            assert_ok(rig->ops->call(stream, sleep_work, NULL, 0));
    }
}

static void stamps_are_in_the_order_of_their_stream(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    struct ds_stream *const streams[] = {rig.a, rig.worker};

    for (int i = 0; i < 2; i++) {
        uint64_t *at_ns = take(&rig, DS_MEMORY_PINNED, 3 * sizeof *at_ns);
        const uint64_t before_ns = ds_clock_mono_ns(ds_clock_system());

        stamp_works(&rig, streams[i], at_ns);
        assert_true(!is_deferred(state) || at_ns[0] == 0); /* the stream has not come to it */
        assert_ok(rig.ops->stream_sync(streams[i]));
        assert_true(at_ns[0] >= before_ns);
        assert_true(at_ns[1] >= at_ns[0] + 1000000 && at_ns[2] >= at_ns[1] + 1000000);
        assert_true(at_ns[2] <= ds_clock_mono_ns(ds_clock_system()));
        rig.ops->release(rig.device, DS_MEMORY_PINNED, at_ns, 3 * sizeof *at_ns);
    }
    rig_close(&rig);
}

static void a_stamp_behind_a_wait_is_later_than_what_was_waited_for(void **state)
{
    const uint64_t seed = test_seed(__func__);

    for (uint64_t i = 0; i < 20; i++) {
        struct rig rig = rig_open(state, seed + i);
        uint64_t *at_ns = take(&rig, DS_MEMORY_PINNED, 3 * sizeof *at_ns);

        assert_ok(rig.ops->call(rig.worker, sleep_work, NULL, 0));
        assert_ok(rig.ops->stream_stamp(rig.worker, &at_ns[0]));
        assert_ok(rig.ops->stream_stamp(rig.a, &at_ns[1]));
        assert_ok(ds_stream_after(rig.a, rig.worker, rig.event));
        assert_ok(rig.ops->stream_stamp(rig.a, &at_ns[2]));
        assert_ok(rig.ops->stream_sync(rig.a));
        assert_true(at_ns[0] > 0 && at_ns[1] > 0);
        assert_true(at_ns[2] >= at_ns[0] && at_ns[2] >= at_ns[1]);
        rig.ops->release(rig.device, DS_MEMORY_PINNED, at_ns, 3 * sizeof *at_ns);
        rig_close(&rig);
    }
}

/* ---- deferred */

static void deferred_runs_nothing_before_a_wait_and_nothing_behind_the_awaited(void **state)
{
    uint64_t seed = test_seed(__func__);

    for (uint64_t i = 0; i < 50; i++) {
        struct rig rig = rig_open(state, seed + i);
        struct trace trace = {0};

        note(rig.a, &trace, 0);
        assert_ok(rig.ops->event_record(rig.event, rig.a));
        note(rig.a, &trace, 1);
        assert_int_equal(trace.count, 0);
        assert_ok(rig.ops->event_sync(rig.event));
        assert_int_equal(trace.count, 1);
        assert_ok(rig.ops->stream_sync(rig.a));
        assert_int_equal(trace.count, 2);
        rig_close(&rig);
    }
}

/* Which of 6 works on 2 streams were run by a wait for the fourth of one, as bits in order. */
static uint32_t free_order(void **state, uint64_t seed)
{
    struct rig rig = rig_open(state, seed);
    struct trace trace = {0};
    uint32_t order = 1;

    for (int i = 0; i < 4; i++) {
        note(rig.a, &trace, 0);
        note(rig.b, &trace, 1);
    }
    assert_ok(rig.ops->stream_sync(rig.a));
    for (int i = 0; i < trace.count; i++)
        order = order << 1 | (uint32_t)trace.tags[i];
    rig_close(&rig);
    return order;
}

static void deferred_order_comes_from_the_seed(void **state)
{
    uint64_t seed = test_seed(__func__);
    uint32_t first = 0;
    int other_count = 0;

    for (uint64_t i = 0; i < 50; i++) {
        uint32_t order = free_order(state, seed + i);

        assert_int_equal(order, free_order(state, seed + i));
        if (i == 0)
            first = order;
        other_count += order != first;
    }
    assert_true(other_count > 10);
}

static sigjmp_buf fault_jump;

static void on_fault(int number)
{
    siglongjmp(fault_jump, number);
}

static int host_read_faults(const void *at)
{
    struct sigaction action = {.sa_handler = on_fault}, before;
    volatile int faults = 1;

    sigaction(SIGSEGV, &action, &before);
    if (sigsetjmp(fault_jump, 1) == 0) {
        (void)*(const volatile unsigned char *)at;
        faults = 0;
    }
    sigaction(SIGSEGV, &before, NULL);
    return faults;
}

static void host_code_cannot_read_device_memory_in_deferred_mode(void **state)
{
    struct rig rig = rig_open(state, 1);
    int *cell = take(&rig, DS_MEMORY_DEVICE, sizeof *cell);
    int *result = take(&rig, DS_MEMORY_PINNED, sizeof *result);
    struct cell_args args = {cell, 7};
    int *late;

    assert_int_equal(host_read_faults(cell), is_deferred(state));
    assert_ok(rig.ops->call(rig.a, slow_store_work, &args, sizeof args));
    assert_ok(rig.ops->copy(rig.a, result, cell, sizeof *cell));
    assert_ok(rig.ops->stream_sync(rig.a));
    assert_int_equal(*result, 7);
    late = take(&rig, DS_MEMORY_DEVICE, sizeof *late);
    assert_int_equal(host_read_faults(cell), is_deferred(state));
    assert_int_equal(host_read_faults(late), is_deferred(state));
    rig_close(&rig); /* takes what device memory is left along */
    munmap(result, 4096);
}

/* A collective that is not done may still be read by its peers: nothing faults until it is. */
static void device_memory_stays_open_while_a_work_does(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    unsigned char *memory = take(&rig, DS_MEMORY_DEVICE, 4096);
    atomic_int flag = 0;
    int done = 0;

    call(rig.a, until_work, &flag, 1);
    assert_ok(rig.ops->event_record(rig.event, rig.a));
    assert_ok(rig.ops->event_query(rig.event, &done));
    assert_false(done);
    assert_false(host_read_faults(memory));
    atomic_store(&flag, 1);
    assert_ok(rig.ops->event_sync(rig.event));
    assert_int_equal(host_read_faults(memory), is_deferred(state));
    rig_close(&rig);
}

static const struct CMUnitTest tests[] = {
    FOR_EACH_BACKEND(a_stream_runs_its_works_in_order),
    FOR_EACH_BACKEND(a_wait_orders_two_streams),
    FOR_DEFERRED(a_missing_wait_shows_for_some_seed),
    FOR_EACH_BACKEND(an_earlier_wait_does_not_see_a_later_record),
    FOR_EACH_BACKEND(an_event_that_was_never_recorded_has_come),
    FOR_EACH_BACKEND(asking_for_an_event_brings_it_in_the_end),
    FOR_EACH_BACKEND(stamps_are_in_the_order_of_their_stream),
    FOR_EACH_BACKEND(a_stamp_behind_a_wait_is_later_than_what_was_waited_for),
    FOR_DEFERRED(deferred_runs_nothing_before_a_wait_and_nothing_behind_the_awaited),
    FOR_DEFERRED(deferred_order_comes_from_the_seed),
    FOR_EACH_BACKEND(host_code_cannot_read_device_memory_in_deferred_mode),
    FOR_EACH_BACKEND(device_memory_stays_open_while_a_work_does),
};

int main(void)
{
    alarm(200); /* a deadlock ends here */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
