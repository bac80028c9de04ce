// link: comm device kernels base
// ranks: 2 4
// gpu
/* mp_nccl.c - communicators between GPUs: what they move is what was sent, whole numbers are added exactly, floats
 * to rounding and with the same bits on every rank and again; a rank that does not come ends the waits of
 * the others. Ranks share a GPU where there are not enough. */
#include "capture.h"
#include "comm_cases.h"
#include "mp.h"

#include "dstrain/plugin.h"

#include <unistd.h>

#define DEADLINE_NS    60000000000u
#define SHORT_DEADLINE 2000000000u

static const struct ds_device_ops *gpu;
static struct ds_device *device;
static struct ds_stream *stream;

static uint32_t local_count(const char *name)
{
    const char *text = getenv(name);

    return text ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

static int open_device(void **state)
{
    const uint32_t gpus = (uint32_t)gpu->count();
    const uint32_t local_rank = local_count("OMPI_COMM_WORLD_LOCAL_RANK");
    const uint32_t locals = local_count("OMPI_COMM_WORLD_LOCAL_SIZE");
    const struct ds_device_options options = {.thread_count = 1,
                                              .clock = ds_clock_system(),
                                              .rank = world->rank,
                                              .sharer_count = (locals + gpus - 1) / gpus};

    (void)state;
    return gpu->open((int)(local_rank % gpus), &options, &device) != DS_OK ||
           gpu->stream_open(device, 0, &stream) != DS_OK;
}

static int close_device(void **state)
{
    (void)state;
    gpu->stream_close(stream);
    gpu->close(device);
    return 0;
}

static struct ds_comm *open_group(const char *name)
{
    struct ds_comm *group = NULL;

    mp_assert(gpu->comm->open_data(world, name, &group) == DS_OK);
    mp_assert(strcmp(group->ops->name, "nccl") == 0 && strcmp(group->group, name) == 0);
    mp_assert(group->rank == world->rank && group->size == world->size);
    return group;
}

/* Everybody with everybody, in calls that match: connected, whatever comes next. */
static void meet(struct ds_comm *group)
{
    struct ds_message messages[DS_MESSAGES_MAX];
    uint32_t count = 0;

    for (uint32_t peer = 0; peer < group->size; peer++) {
        if (peer == group->rank)
            continue;
        messages[count++] = (struct ds_message){.peer = peer, .is_send = 1};
        messages[count++] = (struct ds_message){.peer = peer};
    }
    mp_assert(ds_comm_exchange(group, messages, count, stream) == DS_OK);
}

static void expect_case(void (*run)(struct comm_case *c))
{
    struct comm_case c = {
        .device = device, .stream = stream, .seed = mp_seed("nccl"), .comm = open_group("data")};

    meet(c.comm);
    run(&c);
    case_sync(&c);
    ds_comm_close(c.comm);
    mp_assert(c.fault_count == 0);
}

/* ---- exact */

static void whole_numbers(struct comm_case *c)
{
    static const enum ds_dtype dtypes[] = {DS_I32, DS_I64, DS_U64};
    static const size_t counts[] = {1, 7, 1023, 40009, 300007, 0};

    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (int op = DS_REDUCE_SUM; op <= DS_REDUCE_MIN; op++)
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
                case_all_reduce_of(c, dtypes[d], (enum ds_reduce)op, counts[i]);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        case_scatter_of(c, DS_I32, counts[i], 1);
        case_scatter_of(c, DS_I64, counts[i], 0);
    }
}

static void whole_numbers_are_added_exactly(void **state)
{
    (void)state;
    expect_case(whole_numbers);
}

static void what_is_gathered_is_what_was_sent(void **state)
{
    (void)state;
    expect_case(case_all_gather);
    expect_case(case_broadcast);
}

static void messages_arrive(void **state)
{
    (void)state;
    expect_case(case_both_directions_at_once);
    expect_case(case_random_exchanges);
    expect_case(case_exchanges_on_two_streams);
}

static void messages_do_not_wait_for_each_other(void **state)
{
    (void)state;
    expect_case(case_no_message_waits_for_another);
    expect_case(case_calls_need_not_match);
}

static void several(struct comm_case *c)
{
    enum { CALLS = 300 }; /* more than are watched at once */
    const size_t bytes = 5003 * sizeof(int32_t);
    void *mine = case_filled(DS_I32, c->comm->rank, 0, 5003);
    void *want = case_sums(DS_I32, DS_REDUCE_SUM, c->comm->size, 5003);
    uint8_t *data = case_take(c, bytes * CALLS);

    for (size_t i = 0; i < CALLS; i++)
        case_put(c, data + i * bytes, mine, bytes);
    for (size_t i = 0; i < CALLS; i++)
        case_check(c, ds_comm_all_reduce(c->comm, data + i * bytes, 5003, DS_I32, DS_REDUCE_SUM,
                                         c->stream) == DS_OK);
    for (size_t i = 0; i < CALLS; i += 99)
        case_expect(c, data + i * bytes, want, bytes, "one of several all_reduces");
    case_give(c, data, bytes * CALLS);
    free(mine);
    free(want);
}

static void many_calls_are_in_flight(void **state)
{
    (void)state;
    expect_case(several);
}

static void ranks_meet_in_a_barrier(void **state)
{
    struct ds_comm *group = open_group("data");
    ds_status st = DS_OK;

    (void)state;
    for (int i = 0; i < 20 && st == DS_OK; i++)
        st = ds_comm_barrier(group);
    ds_comm_close(group);
    mp_assert(st == DS_OK);
}

/* ---- floats: near the sum in fp64, equal on all ranks and again */

static double value_of(const uint8_t *at, enum ds_dtype dtype)
{
    float value = 0;
    double wide;

    if (dtype == DS_F64) {
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
    (void)ds_dtype_to_f32(&value, at, dtype, 1);
    return value;
}

static double epsilon_of(enum ds_dtype dtype)
{
    return dtype == DS_F64   ? 0x1p-52
           : dtype == DS_F32 ? 0x1p-23
           : dtype == DS_F16 ? 0x1p-10
                             : 0x1p-7;
}

/* Every addition is off by half a unit in the last place of a sum that is no larger than all parts. */
static int is_near(const uint8_t *got, enum ds_dtype dtype, uint32_t size, size_t i)
{
    uint8_t part[8];
    double sum = 0, all = 0;

    for (uint32_t rank = 0; rank < size; rank++) {
        case_value(part, dtype, rank, i);
        sum += value_of(part, dtype);
        all += fabs(value_of(part, dtype));
    }
    if (dtype == DS_F16 && all > 65504) /* on the way it may pass what fp16 holds */
        return 1;
    return fabs(value_of(got, dtype) - sum) <= size * epsilon_of(dtype) * all + 1e-7;
}

static void sum_of(struct comm_case *c, enum ds_dtype dtype, size_t count, uint8_t *to)
{
    const size_t bytes = count * ds_dtype_bytes(dtype);
    void *mine = case_filled(dtype, c->comm->rank, 0, count);
    void *data = case_take(c, bytes);

    case_put(c, data, mine, bytes);
    case_check(c,
               ds_comm_all_reduce(c->comm, data, count, dtype, DS_REDUCE_SUM, c->stream) == DS_OK);
    case_put(c, to, data, bytes);
    case_sync(c);
    case_give(c, data, bytes);
    free(mine);
}

static void floats_of(struct comm_case *c, enum ds_dtype dtype, size_t count)
{
    const size_t elem_bytes = ds_dtype_bytes(dtype), bytes = count * elem_bytes;
    uint8_t *first = malloc(bytes), *again = malloc(bytes), *leaders = malloc(bytes);
    size_t far = 0;

    sum_of(c, dtype, count, first);
    sum_of(c, dtype, count, again);
    case_check(c, memcmp(first, again, bytes) == 0);
    memcpy(leaders, first, bytes);
    MPI_Bcast(leaders, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    case_check(c, memcmp(first, leaders, bytes) == 0);
    for (size_t i = 0; i < count; i++)
        if (!is_near(first + i * elem_bytes, dtype, c->comm->size, i) && far++ == 0)
            print_error("%s, element %zu of %zu: %.9g\n", ds_dtype_name(dtype), i, count,
                        value_of(first + i * elem_bytes, dtype));
    case_check(c, far == 0);
    free(first);
    free(again);
    free(leaders);
}

static void floats(struct comm_case *c)
{
    static const enum ds_dtype dtypes[] = {DS_F32, DS_F64, DS_BF16, DS_F16};

    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        floats_of(c, dtypes[d], 1);
        floats_of(c, dtypes[d], 100003);
    }
}

static void floats_are_added_to_rounding_and_alike(void **state)
{
    (void)state;
    expect_case(floats);
}

/* ---- what cannot be, and ranks that do not come */

static void host_memory_is_refused(void **state)
{
    struct ds_comm *group = open_group("data");
    struct capture capture;
    float here = 1;
    ds_status st;

    (void)state;
    capture_begin(&capture);
    st = ds_comm_all_reduce(group, &here, 1, DS_F32, DS_REDUCE_SUM, NULL);
    const char *text = capture_end(&capture);
    mp_assert(st == DS_ERR_UNSUPPORTED);
    mp_assert(strstr(text, "data group: all_reduce: NCCL works on the GPU's memory") != NULL);
    ds_comm_close(group);
}

/* The last rank sleeps through the deadline and does not call. */
static void a_rank_that_does_not_come_ends_the_wait(void **state)
{
    struct ds_comm *group = open_group("shard");
    const int is_late = world->rank == world->size - 1;
    const uint64_t begin_ns = ds_clock_mono_ns(world->clock);
    struct capture capture;
    ds_status st = DS_OK, again = DS_ERR_COMM;
    void *data = NULL;

    (void)state;
    mp_assert(ds_comm_barrier(group) == DS_OK); /* connected */
    mp_assert(gpu->alloc(device, DS_MEMORY_DEVICE, 4096, 0, &data) == DS_OK);
    group->deadline_ns = SHORT_DEADLINE;
    capture_begin(&capture);
    if (is_late) {
        ds_clock_sleep_ns(world->clock, 3ull * SHORT_DEADLINE);
    } else {
        st = ds_comm_all_reduce(group, data, 1024, DS_F32, DS_REDUCE_SUM, stream);
        if (st == DS_OK)
            st = gpu->stream_sync(stream);
        again = ds_comm_all_reduce(group, data, 1024, DS_F32, DS_REDUCE_SUM, stream);
    }
    const char *text = capture_end(&capture);
    mp_assert(is_late || st == DS_ERR_DEADLINE);
    mp_assert(is_late || again == DS_ERR_COMM);
    mp_assert(is_late || strstr(text, "shard group: all_reduce: a rank has not come") != NULL);
    capture_begin(&capture);
    if (group->ops->poison)
        group->ops->poison(group); /* nobody is left in it: the stream can be waited for */
    st = gpu->stream_sync(stream);
    ds_comm_close(group);
    (void)capture_end(&capture);
    mp_assert(st ==
              (is_late ? DS_OK : DS_ERR_COMM));   /* the late rank has made no call on a stream */
    mp_assert(gpu->stream_sync(stream) == DS_OK); /* and it has left */
    mp_assert(ds_clock_mono_ns(world->clock) - begin_ns < 30000000000u);
    gpu->release(device, DS_MEMORY_DEVICE, data, 4096);
}

static int has_gpu(void)
{
    const struct ds_plugin *plugin;

    if (ds_plugin_load(DS_BINARY_DIR "/libdstrain_cuda.so", &plugin) != DS_OK)
        exit(1);
    gpu = plugin->device;
    return gpu->count() > 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whole_numbers_are_added_exactly, open_device, close_device),
        cmocka_unit_test_setup_teardown(what_is_gathered_is_what_was_sent, open_device,
                                        close_device),
        cmocka_unit_test_setup_teardown(many_calls_are_in_flight, open_device, close_device),
        cmocka_unit_test_setup_teardown(ranks_meet_in_a_barrier, open_device, close_device),
        cmocka_unit_test_setup_teardown(floats_are_added_to_rounding_and_alike, open_device,
                                        close_device),
        cmocka_unit_test_setup_teardown(host_memory_is_refused, open_device, close_device),
        cmocka_unit_test_setup_teardown(messages_arrive, open_device, close_device),
        cmocka_unit_test_setup_teardown(messages_do_not_wait_for_each_other, open_device,
                                        close_device),
        cmocka_unit_test_setup_teardown(a_rank_that_does_not_come_ends_the_wait, open_device,
                                        close_device),
    };

    if (!has_gpu()) {
        printf("skipped: there is no GPU\n");
        return 77;
    }
    return mp_run(tests, DEADLINE_NS);
}
