// link: device kernels base
/* test_device.c - the cpu device: inline, deferred, and both again through the plugin. One body for
 * all four; what only one mode promises is tested in that mode. */
#include "test.h"

#include "dstrain/device.h"
#include "dstrain/plugin.h"

#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- allocations are counted while `is_counting`; a sanitizer's allocator is left alone */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAN_COUNT 0
#else
#define CAN_COUNT 1
#define VISIBLE   __attribute__((visibility("default")))
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *at, size_t bytes);
VISIBLE void *malloc(size_t bytes);
VISIBLE void *calloc(size_t count, size_t bytes);
VISIBLE void *realloc(void *at, size_t bytes);
#endif
static atomic_int is_counting;
static atomic_int allocation_count;

#if CAN_COUNT
static void count_one(void)
{
    if (is_counting)
        allocation_count++;
}

void *malloc(size_t bytes)
{
    count_one();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    count_one();
    return __libc_calloc(count, bytes);
}

void *realloc(void *at, size_t bytes)
{
    count_one();
    return __libc_realloc(at, bytes);
}

VISIBLE void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    count_one();
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}
#endif

/* ---- the matrix */

struct backend {
    const char *name;
    int is_plugin;
    enum ds_device_mode mode;
};

static struct backend backends[] = {
    {"inline", 0, DS_DEVICE_INLINE},
    {"deferred", 0, DS_DEVICE_DEFERRED},
    {"plugin inline", 1, DS_DEVICE_INLINE},
    {"plugin deferred", 1, DS_DEVICE_DEFERRED},
};

/* An open device with three streams: two of the main thread, one that may have a worker. */
struct rig {
    const struct ds_device_ops *ops;
    struct ds_device *device;
    struct ds_stream *a, *b, *worker;
    struct ds_event *event;
};

static const struct ds_device_ops *find_ops(const struct backend *backend)
{
    const struct ds_plugin *plugin;

    if (!backend->is_plugin)
        return &ds_device_cpu_ops;
    assert_ok(ds_plugin_load(DS_BINARY_DIR "/libdstrain_cpu.so", &plugin));
    assert_ptr_not_equal(plugin->device, &ds_device_cpu_ops);
    return plugin->device;
}

static struct rig rig_open(void **state, uint64_t seed)
{
    const struct backend *backend = *state;
    struct ds_device_options options = {backend->mode, seed, 1, ds_clock_system()};
    struct rig rig = {.ops = find_ops(backend)};

    assert_ok(rig.ops->open(0, &options, &rig.device));
    assert_ok(rig.ops->stream_open(rig.device, 0, &rig.a));
    assert_ok(rig.ops->stream_open(rig.device, 0, &rig.b));
    assert_ok(rig.ops->stream_open(rig.device, DS_STREAM_WORKER, &rig.worker));
    assert_ok(rig.ops->event_open(rig.device, &rig.event));
    return rig;
}

static void rig_close(struct rig *rig)
{
    rig->ops->event_close(rig->event);
    rig->ops->stream_close(rig->a);
    rig->ops->stream_close(rig->b);
    rig->ops->stream_close(rig->worker);
    rig->ops->close(rig->device);
}

static int is_deferred(void **state)
{
    return ((const struct backend *)*state)->mode == DS_DEVICE_DEFERRED;
}

static void *take(struct rig *rig, enum ds_memory_kind kind, size_t bytes)
{
    void *at = NULL;

    assert_ok(rig->ops->alloc(rig->device, kind, bytes, 0, &at));
    return at;
}

/* ---- works */

#define TRACE_MAX 20000

struct trace {
    int count;
    int tags[TRACE_MAX];
};

struct note_args {
    struct trace *trace;
    int tag;
};

static ds_status note_work(void *self, int *done)
{
    struct note_args *args = self;

    args->trace->tags[args->trace->count++] = args->tag;
    *done = 1;
    return DS_OK;
}

static void note(struct ds_stream *stream, struct trace *trace, int tag)
{
    struct note_args args = {trace, tag};

    assert_ok(stream->device->ops->call(stream, note_work, &args, sizeof args));
}

struct flag_args {
    atomic_int *flag;
    int value;
    ds_status st;
    void *address; /* of these arguments at the first try */
};

static ds_status set_work(void *self, int *done)
{
    struct flag_args *args = self;

    atomic_store(args->flag, args->value);
    *done = 1;
    return args->st;
}

/* Not done before the flag has the value; the arguments must not move in the meantime. */
static ds_status until_work(void *self, int *done)
{
    struct flag_args *args = self;

    assert_true(args->address == NULL || args->address == self);
    args->address = self;
    *done = atomic_load(args->flag) == args->value;
    return DS_OK;
}

static ds_status countdown_work(void *self, int *done)
{
    struct flag_args *args = self;

    *done = args->value-- == 0;
    return DS_OK;
}

static void call(struct ds_stream *stream, ds_work_fn work, atomic_int *flag, int value)
{
    struct flag_args args = {flag, value, DS_OK, NULL};

    assert_ok(stream->device->ops->call(stream, work, &args, sizeof args));
}

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
    for (int i = 0; i < 1000000 && !done; i++)
        assert_ok(rig.ops->event_query(rig.event, &done));
    assert_true(done);
    assert_int_equal(flag, 1);
    rig_close(&rig);
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
    assert_ok(rig.ops->event_record(rig.event, rig.worker));
    assert_ok(rig.ops->stream_wait(rig.b, rig.event));
    call(rig.b, set_work, &flag, 2);
    assert_ok(rig.ops->stream_sync(rig.b));
    assert_int_equal(flag, 2);
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

    if (!CAN_COUNT) {
        rig_close(&rig);
        skip(); /* the sanitizer owns malloc */
    }
    small_step(&rig, cell, &result, &flag);
    allocation_count = 0;
    is_counting = 1;
    for (int i = 0; i < 100; i++)
        small_step(&rig, cell, &result, &flag);
    is_counting = 0;
    assert_int_equal(allocation_count, 0);
    is_counting = 1; /* and the count does see one */
    assert_non_null(take(&rig, DS_MEMORY_DEVICE, 4096));
    is_counting = 0;
    assert_true(allocation_count > 0);
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

/* clang-format off */
#define FOR_EACH_BACKEND(test)                                \
    {#test "/inline", test, NULL, NULL, &backends[0]},        \
    {#test "/deferred", test, NULL, NULL, &backends[1]},      \
    {#test "/plugin inline", test, NULL, NULL, &backends[2]}, \
    {#test "/plugin deferred", test, NULL, NULL, &backends[3]}
#define FOR_INLINE(test)                                      \
    {#test "/inline", test, NULL, NULL, &backends[0]},        \
    {#test "/plugin inline", test, NULL, NULL, &backends[2]}
#define FOR_DEFERRED(test)                                    \
    {#test "/deferred", test, NULL, NULL, &backends[1]},      \
    {#test "/plugin deferred", test, NULL, NULL, &backends[3]}
/* clang-format on */

static const struct CMUnitTest tests[] = {
    FOR_EACH_BACKEND(a_stream_runs_its_works_in_order),
    FOR_EACH_BACKEND(a_wait_orders_two_streams),
    FOR_DEFERRED(a_missing_wait_shows_for_some_seed),
    FOR_EACH_BACKEND(an_earlier_wait_does_not_see_a_later_record),
    FOR_EACH_BACKEND(an_event_that_was_never_recorded_has_come),
    FOR_EACH_BACKEND(asking_for_an_event_brings_it_in_the_end),
    FOR_DEFERRED(deferred_runs_nothing_before_a_wait_and_nothing_behind_the_awaited),
    FOR_DEFERRED(deferred_order_comes_from_the_seed),
    FOR_EACH_BACKEND(host_code_cannot_read_device_memory_in_deferred_mode),
    FOR_EACH_BACKEND(device_memory_stays_open_while_a_work_does),
    FOR_EACH_BACKEND(arguments_are_copied_at_the_call),
    FOR_EACH_BACKEND(a_failure_stays_and_comes_back_from_every_wait),
    FOR_INLINE(a_worker_goes_on_during_a_work_of_another_stream),
    FOR_EACH_BACKEND(works_that_wait_for_other_streams_do_not_deadlock),
    FOR_EACH_BACKEND(waiting_for_a_worker_drives_the_other_streams),
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
