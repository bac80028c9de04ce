// link: device kernels base
// tsan
/* test_device_work.c - works on the cpu device: arguments, failures, progress, memory. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "allocations.h"
#include "device_rig.h"

#include <unistd.h>

/* ---- arguments, failures, progress */

static void arguments_are_copied_at_the_call(void **state)
{
    struct rig rig = rig_open(state, 1);
    struct trace trace = {0};
    struct note_args args = {&trace, 0};
    atomic_int flag = 0;

    call(rig.a, until_work, &flag, 1); /* inline, too, the works lie in the queue for a while */
    for (int i = 0; i < 10; i++) {
        args.tag = i;
        assert_ok(rig.ops->call(rig.a, note_work, &args, sizeof args));
    }
    args = (struct note_args){NULL, -1};
    flag = 1;
    assert_ok(rig.ops->stream_sync(rig.a));
    assert_int_equal(trace.count, 10);
    for (int i = 0; i < 10; i++)
        assert_int_equal(trace.tags[i], i);
    rig_close(&rig);
}

static void a_failure_stays_and_comes_back_from_every_wait(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    atomic_int flag = 0;
    struct flag_args failing = {&flag, 1, DS_ERR_COMM, NULL};
    struct flag_args later = {&flag, 2, DS_ERR_IO, NULL};

    assert_ok(rig.ops->call(rig.worker, set_work, &failing, sizeof failing));
    assert_ok(rig.ops->call(rig.worker, set_work, &later, sizeof later));
    assert_ok(rig.ops->event_record(rig.event, rig.worker));
    assert_int_equal(rig.ops->event_sync(rig.event), DS_ERR_COMM); /* it completes all the same */
    assert_int_equal(rig.ops->stream_sync(rig.worker), DS_ERR_COMM);
    assert_int_equal(rig.ops->stream_sync(rig.worker), DS_ERR_COMM);
    assert_int_equal(flag, 1); /* the later work was skipped, and its failure with it */
    assert_ok(rig.ops->stream_sync(rig.b));
    assert_int_equal(rig.ops->stream_wait(rig.b, rig.event), DS_ERR_COMM);
    assert_ok(rig.ops->call(rig.b, set_work, &later, sizeof later));
    assert_int_equal(rig.ops->stream_sync(rig.b),
                     DS_ERR_COMM); /* who waited for it takes it over */
    assert_int_equal(flag, 1);
    call(rig.a, set_work, &flag, 3);
    assert_ok(rig.ops->stream_sync(rig.a));
    assert_int_equal(flag, 3);
    rig_close(&rig);
}

/* b failed by itself before it waited for the failed worker: its own failure is what it tells. */
static void the_first_failure_of_a_stream_is_the_one_that_stays(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    atomic_int flag = 0;
    struct flag_args own = {&flag, 1, DS_ERR_IO, NULL}, other = {&flag, 1, DS_ERR_COMM, NULL};

    assert_ok(rig.ops->call(rig.b, set_work, &own, sizeof own));
    call(rig.worker, countdown_work, NULL, 1000);
    assert_ok(rig.ops->call(rig.worker, set_work, &other, sizeof other));
    assert_ok(rig.ops->event_record(rig.event, rig.worker));
    (void)rig.ops->stream_wait(rig.b, rig.event); /* may know of one of the failures already */
    assert_int_equal(rig.ops->stream_sync(rig.b), DS_ERR_IO);
    assert_int_equal(rig.ops->stream_sync(rig.worker), DS_ERR_COMM);
    assert_int_equal(rig.ops->stream_sync(rig.b), DS_ERR_IO);
    rig_close(&rig);
}

/* The worker's work would be done by one that comes behind the failed one, and is skipped. */
static void a_stream_that_has_failed_waits_for_nobody(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    atomic_int flag = 0, other = 0;
    struct flag_args failing = {&other, 1, DS_ERR_COMM, NULL};

    call(rig.worker, until_work, &flag, 1);
    assert_ok(rig.ops->event_record(rig.event, rig.worker));
    assert_ok(rig.ops->call(rig.b, set_work, &failing, sizeof failing));
    (void)rig.ops->stream_wait(rig.b, rig.event); /* may know of the failure already */
    call(rig.b, set_work, &flag, 1);
    assert_int_equal(rig.ops->stream_sync(rig.b), DS_ERR_COMM);
    assert_int_equal(flag, 0);
    flag = 1;
    assert_ok(rig.ops->stream_sync(rig.worker));
    rig_close(&rig);
}

struct beside_args {
    atomic_int *flag;
    int *was_set;
};

/* Takes 50 ms, and 5 s if the flag stays 0. */
static ds_status beside_work(void *self, int *done)
{
    struct beside_args *args = self;

    for (int i = 0; i < 100 && (i == 0 || !atomic_load(args->flag)); i++)
        ds_clock_sleep_ns(ds_clock_system(), 50000000);
    *args->was_set = atomic_load(args->flag);
    *done = 1;
    return DS_OK;
}

static void a_worker_goes_on_during_a_work_of_another_stream(void **state)
{
    struct rig rig = rig_open(state, 1);
    atomic_int flag = 0;
    int was_set = 0;
    struct beside_args args = {&flag, &was_set};

    call(rig.worker, countdown_work, NULL, 100);
    call(rig.worker, set_work, &flag, 1);
    assert_ok(rig.ops->call(rig.a, beside_work, &args, sizeof args));
    assert_true(was_set);
    rig_close(&rig);
}

static void works_that_wait_for_other_streams_do_not_deadlock(void **state)
{
    uint64_t seed = test_seed(__func__);

    for (uint64_t i = 0; i < 20; i++) {
        struct rig rig = rig_open(state, seed + i);
        atomic_int flag = 0;
        struct trace trace = {0};

        call(rig.a, until_work, &flag, 2);
        note(rig.a, &trace, 0); /* queues behind it */
        call(rig.worker, until_work, &flag, 1);
        call(rig.worker, set_work, &flag, 2);
        call(rig.b, countdown_work, NULL, 50);
        call(rig.b, set_work, &flag, 1);
        assert_ok(rig.ops->stream_sync(rig.a));
        assert_int_equal(trace.count, 1);
        rig_close(&rig);
    }
}

/* The host waits for a worker, the worker for an open work of a stream that only the host drives. */
static void waiting_for_a_worker_drives_the_other_streams(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    atomic_int flag = 0;

    call(rig.a, countdown_work, NULL, 2000);
    assert_ok(ds_stream_after(rig.worker, rig.a, rig.event));
    call(rig.worker, set_work, &flag, 1);
    assert_ok(rig.ops->stream_sync(rig.worker));
    assert_int_equal(flag, 1);
    rig_close(&rig);
}

static void every_call_tries_the_open_works_of_all_streams(void **state)
{
    struct rig rig = rig_open(state, 1);
    struct trace trace = {0};
    atomic_int flag = 0;

    call(rig.a, countdown_work, NULL, 10);
    call(rig.a, set_work, &flag, 1);
    for (int i = 0; i < 20; i++)
        note(rig.b, &trace, i);
    assert_int_equal(flag, 1);
    rig_close(&rig);
}

static void the_end_of_a_long_work_wakes_the_host(void **state)
{
    struct rig rig = rig_open(state, 1);
    atomic_int flag = 1;
    int was_set = 0;
    struct beside_args args = {&flag, &was_set};

    for (int i = 0; i < 2; i++) {
        assert_ok(rig.ops->call(rig.worker, beside_work, &args, sizeof args));
        assert_ok(rig.ops->stream_sync(rig.worker));
        assert_int_equal(was_set, 1);
    }
    rig_close(&rig);
}

static void a_queue_of_thousands_keeps_order_and_arguments_in_place(void **state)
{
    struct rig rig = rig_open(state, 1);
    struct trace *trace = calloc(1, sizeof *trace);
    atomic_int flag = 0;

    call(rig.a, until_work, &flag, 1);
    (void)rig.ops->event_record(rig.event, rig.a);
    for (int i = 0; i < 10000; i++) {
        int done;

        note(rig.a, trace, i);
        assert_ok(rig.ops->event_query(rig.event, &done)); /* tries the open work */
    }
    flag = 1;
    assert_ok(rig.ops->stream_sync(rig.a));
    assert_int_equal(trace->count, 10000);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(trace->tags[i], i);
    rig_close(&rig);
    free(trace);
}

static void closing_a_stream_drains_it(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    struct ds_stream *plain, *worker;
    atomic_int first = 0, second = 0;

    assert_ok(rig.ops->stream_open(rig.device, 0, &plain));
    assert_ok(rig.ops->stream_open(rig.device, DS_STREAM_WORKER, &worker));
    call(plain, countdown_work, NULL, 1000);
    call(plain, set_work, &first, 1);
    call(worker, countdown_work, NULL, 1000);
    call(worker, set_work, &second, 1);
    assert_ok(rig.ops->event_record(rig.event, worker));
    rig.ops->stream_close(plain);
    rig.ops->stream_close(worker);
    assert_int_equal(first, 1);
    assert_int_equal(second, 1);
    assert_ok(rig.ops->event_sync(rig.event)); /* an event outlives its stream */
    rig_close(&rig);
}

/* ---- memory */

/* What a step does, in small: a gather on the worker, arithmetic after it, a copy back. */
static void small_step(struct rig *rig, int *cell, int *result, atomic_int *flag)
{
    for (int i = 0; i < 20; i++) {
        call(rig->worker, set_work, flag, i);
        assert_ok(ds_stream_after(rig->a, rig->worker, rig->event));
        call(rig->a, countdown_work, NULL, i % 3);
        assert_ok(rig->ops->copy(rig->a, cell, result, sizeof *cell));
        assert_ok(ds_stream_after(rig->b, rig->a, rig->event));
        assert_ok(rig->ops->copy(rig->b, result, cell, sizeof *cell));
    }
    assert_ok(rig->ops->stream_sync(rig->b));
}

static void a_steady_step_allocates_nothing(void **state)
{
    struct rig rig = rig_open(state, test_seed(__func__));
    int *cell = take(&rig, DS_MEMORY_DEVICE, sizeof *cell);
    int result = 0;
    atomic_int flag = 0;

    if (!ALLOCATIONS_ARE_COUNTED) {
        rig_close(&rig);
        skip(); /* the sanitizer owns malloc */
    }
    small_step(&rig, cell, &result, &flag);
    allocations_begin();
    for (int i = 0; i < 100; i++)
        small_step(&rig, cell, &result, &flag);
    allocations_end();
    assert_int_equal(allocations_told("a steady step") + atomic_load(&allocations.foreign), 0);
    allocations_begin(); /* and the count does see one */
    assert_non_null(take(&rig, DS_MEMORY_DEVICE, 4096));
    allocations_end();
    assert_true(atomic_load(&allocations.own) > 0);
    rig_close(&rig);
}

static void memory_is_zeroed_and_on_a_page(void **state)
{
    static const size_t sizes[] = {1, 4096, 5000, 3u << 20};
    struct rig rig = rig_open(state, 1);
    unsigned char *copy = calloc(1, sizes[3]), *zeros = calloc(1, sizes[3]);

    for (int kind = 0; kind < DS_MEMORY_KIND_COUNT; kind++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            unsigned char *at = take(&rig, (enum ds_memory_kind)kind, sizes[i]);

            assert_int_equal((uintptr_t)at % 4096, 0);
            memset(copy, 1, sizes[i]);
            assert_ok(rig.ops->copy(rig.a, copy, at, sizes[i]));
            assert_ok(rig.ops->stream_sync(rig.a));
            assert_memory_equal(copy, zeros, sizes[i]);
            rig.ops->release(rig.device, (enum ds_memory_kind)kind, at, sizes[i]);
        }
    free(copy);
    free(zeros);
    rig_close(&rig);
}

static void the_device_says_what_it_is(void **state)
{
    struct rig rig = rig_open(state, 1);
    char text[256];
    size_t left = 0;

    rig.ops->describe(rig.device, text, sizeof text);
    printf("%s\n", text);
    assert_memory_equal(text, "cpu: ", 5);
    assert_non_null(
        strstr(text, is_deferred(state) ? ", 1 thread, deferred" : ", 1 thread, inline"));
    assert_int_equal(rig.ops->count(), 1);
    assert_true(rig.ops->caps & DS_DEVICE_CAP_COMPUTES);
    assert_true(rig.ops->caps & DS_DEVICE_CAP_HOST_MEMORY);
    assert_ok(rig.ops->memory_left(rig.device, &left));
    assert_true(left > (1u << 20));
    rig_close(&rig);
}

static const struct CMUnitTest tests[] = {
    FOR_EACH_BACKEND(arguments_are_copied_at_the_call),
    FOR_EACH_BACKEND(a_failure_stays_and_comes_back_from_every_wait),
    FOR_EACH_BACKEND(the_first_failure_of_a_stream_is_the_one_that_stays),
    FOR_EACH_BACKEND(a_stream_that_has_failed_waits_for_nobody),
    FOR_INLINE(a_worker_goes_on_during_a_work_of_another_stream),
    FOR_EACH_BACKEND(works_that_wait_for_other_streams_do_not_deadlock),
    FOR_EACH_BACKEND(waiting_for_a_worker_drives_the_other_streams),
    FOR_INLINE(every_call_tries_the_open_works_of_all_streams),
    FOR_EACH_BACKEND(the_end_of_a_long_work_wakes_the_host),
    FOR_EACH_BACKEND(a_queue_of_thousands_keeps_order_and_arguments_in_place),
    FOR_EACH_BACKEND(closing_a_stream_drains_it),
    FOR_EACH_BACKEND(a_steady_step_allocates_nothing),
    FOR_EACH_BACKEND(memory_is_zeroed_and_on_a_page),
    FOR_EACH_BACKEND(the_device_says_what_it_is),
};

int main(void)
{
    alarm(200); /* a deadlock ends here */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
