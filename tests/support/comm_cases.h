/* comm_cases.h - what must hold of every communicator, whatever its backend: run by test_comm_threads.c
 * in the threads of one process and by mp_comm.c under mpirun. A case is called by all ranks of a group
 * at once. It never returns early: it counts what does not hold, and the caller asserts. Expected
 * values are computed here, one element after the other in rank order, so backends that pass have the
 * same bits. */
#ifndef DSTRAIN_COMM_CASES_H
#define DSTRAIN_COMM_CASES_H

#include "dstrain/comm.h"
#include "dstrain/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct comm_case {
    struct ds_comm *comm;
    struct ds_device *device; /* with a stream: buffers are its memory */
    struct ds_stream *stream; /* NULL: host memory, blocking calls */
    uint32_t stream_flags;
    uint64_t seed; /* the same on all ranks */
    int fault_count;
};

#define case_check(c, condition) case_check_at((c), (condition), #condition, __LINE__)

static inline void case_check_at(struct comm_case *c, int holds, const char *text, int line)
{
    if (holds)
        return;
    if (c->fault_count++ < 5)
        fprintf(stderr, "comm_cases.h:%d: %s, %s group, rank %u of %u: %s does not hold\n", line,
                c->comm->ops->name, c->comm->group, c->comm->rank, c->comm->size, text);
}

/* ---- buffers: host memory, or a device's with a way in and out */

static inline void *case_take(struct comm_case *c, size_t bytes)
{
    void *at = NULL;

    if (c->stream == NULL)
        at = calloc(1, bytes + 1);
    else
        case_check(c,
                   c->device->ops->alloc(c->device, DS_MEMORY_DEVICE, bytes + 1, 0, &at) == DS_OK);
    return at;
}

static inline void case_give(struct comm_case *c, void *at, size_t bytes)
{
    if (c->stream == NULL)
        free(at);
    else
        c->device->ops->release(c->device, DS_MEMORY_DEVICE, at, bytes + 1);
}

static inline void case_put(struct comm_case *c, void *to, const void *from, size_t bytes)
{
    if (c->stream == NULL)
        memcpy(to, from, bytes);
    else
        case_check(c, c->device->ops->copy(c->stream, to, from, bytes) == DS_OK);
}

static inline void case_sync(struct comm_case *c)
{
    if (c->stream != NULL)
        case_check(c, c->device->ops->stream_sync(c->stream) == DS_OK);
}

/* Does `at` hold these bytes once the stream has come that far? */
static inline void case_expect(struct comm_case *c, const void *at, const void *want, size_t bytes,
                               const char *what)
{
    uint8_t *got = malloc(bytes + 1);

    if (bytes > 0)
        case_put(c, got, at, bytes);
    case_sync(c);
    if (memcmp(got, want, bytes) != 0) {
        fprintf(stderr, "%s, %zu bytes:\n", what, bytes);
        case_check(c, !"the expected bytes are there");
    }
    free(got);
}

/* ---- values: sums depend on the order of the additions */

static inline uint64_t case_hash(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline double case_real(uint32_t rank, size_t i)
{
    static const double scales[] = {1e8, 1, -1e8, 3e-3, 7e4, -1, 1e-7, 16777217};
    uint64_t hash = case_hash(i * 1000003u + rank + 1);

    return scales[hash % 8] * (1 + (double)((hash >> 8) & 0xffff) / 65536);
}

/* Of 16 bits: sums that rounding in between would change, and now and then a large or tiny one. */
static inline float case_half(uint32_t rank, size_t i)
{
    static const float scales[] = {1, 1, -1, 0.01f, 100, -100, 20000, 1e-7f};
    uint64_t hash = case_hash(i * 1000003u + rank + 1);

    return scales[hash % 8] * (1 + (float)((hash >> 8) & 0xffff) / 65536);
}

static inline void case_value(void *to, enum ds_dtype dtype, uint32_t rank, size_t i)
{
    uint64_t hash = case_hash(i * 1000003u + rank + 1);
    float half = case_half(rank, i);

    switch (dtype) {
    case DS_BF16:
    case DS_F16:
        (void)ds_dtype_from_f32(to, dtype, &half, 1);
        break;
    case DS_F32:
        *(float *)to = (float)case_real(rank, i);
        break;
    case DS_F64:
        *(double *)to = case_real(rank, i) * 1e3;
        break;
    default:
        memcpy(to, &hash, ds_dtype_bytes(dtype));
    }
}

#define CASE_FOLD(type, sum_type)                                               \
    do {                                                                        \
        type a = *(type *)to, b = *(const type *)with;                          \
        *(type *)to = op == DS_REDUCE_SUM   ? (type)((sum_type)a + (sum_type)b) \
                      : op == DS_REDUCE_MAX ? (a > b ? a : b)                   \
                                            : (a < b ? a : b);                  \
    } while (0)

static inline void case_fold(void *to, const void *with, enum ds_dtype dtype, enum ds_reduce op)
{
    switch (dtype) {
    case DS_F32:
        CASE_FOLD(float, float);
        break;
    case DS_F64:
        CASE_FOLD(double, double);
        break;
    case DS_I32:
        CASE_FOLD(int32_t, uint32_t);
        break;
    case DS_I64:
        CASE_FOLD(int64_t, uint64_t);
        break;
    default:
        CASE_FOLD(uint64_t, uint64_t);
    }
}

/* In fp32 over all ranks, rounded once. */
static inline void case_reduced_half(void *to, enum ds_dtype dtype, enum ds_reduce op,
                                     uint32_t size, size_t i)
{
    uint16_t half;
    float sum = 0, next;

    for (uint32_t rank = 0; rank < size; rank++) {
        case_value(&half, dtype, rank, i);
        (void)ds_dtype_to_f32(&next, &half, dtype, 1);
        if (rank == 0)
            sum = next;
        else
            case_fold(&sum, &next, DS_F32, op);
    }
    (void)ds_dtype_from_f32(to, dtype, &sum, 1);
}

/* Element `i` of all ranks, folded in rank order. */
static inline void case_reduced(void *to, enum ds_dtype dtype, enum ds_reduce op, uint32_t size,
                                size_t i)
{
    uint8_t next[8];

    if (dtype == DS_BF16 || dtype == DS_F16) {
        case_reduced_half(to, dtype, op, size, i);
        return;
    }
    case_value(to, dtype, 0, i);
    for (uint32_t rank = 1; rank < size; rank++) {
        case_value(next, dtype, rank, i);
        case_fold(to, next, dtype, op);
    }
}

static inline void *case_filled(enum ds_dtype dtype, uint32_t rank, size_t start, size_t count)
{
    size_t elem_bytes = ds_dtype_bytes(dtype);
    uint8_t *at = malloc(count * elem_bytes + 8);

    for (size_t i = 0; i < count; i++)
        case_value(at + i * elem_bytes, dtype, rank, start + i);
    return at;
}

static inline void *case_sums(enum ds_dtype dtype, enum ds_reduce op, uint32_t size, size_t count)
{
    size_t elem_bytes = ds_dtype_bytes(dtype);
    uint8_t *at = malloc(count * elem_bytes + 8);

    for (size_t i = 0; i < count; i++)
        case_reduced(at + i * elem_bytes, dtype, op, size, i);
    return at;
}

/* ---- cases */

static inline void case_all_reduce_of(struct comm_case *c, enum ds_dtype dtype, enum ds_reduce op,
                                      size_t count)
{
    size_t bytes = count * ds_dtype_bytes(dtype);
    void *mine = case_filled(dtype, c->comm->rank, 0, count);
    void *want = case_sums(dtype, op, c->comm->size, count);
    void *data = case_take(c, bytes);

    case_put(c, data, mine, bytes);
    case_check(c, ds_comm_all_reduce(c->comm, data, count, dtype, op, c->stream) == DS_OK);
    case_expect(c, data, want, bytes, "all_reduce");
    case_give(c, data, bytes);
    free(mine);
    free(want);
}

/* one element; odd counts; around the borders of a small message, of a slot of the shared segment,
 * of several slots */
static const size_t case_counts[] = {1,    2,    3,    7,     16,     17,     63,     1000,
                                     1023, 1024, 1025, 40009, 131072, 131073, 300007, 0};

#if defined(__SANITIZE_THREAD__)
#define CASE_COUNT_MAX 50000 /* it looks at orders of accesses, not at borders, and is slow */
#else
#define CASE_COUNT_MAX SIZE_MAX
#endif

static inline void case_sums_are_in_rank_order(struct comm_case *c)
{
    for (size_t i = 0; i < sizeof case_counts / sizeof case_counts[0]; i++)
        if (case_counts[i] <= CASE_COUNT_MAX)
            case_all_reduce_of(c, DS_F32, DS_REDUCE_SUM, case_counts[i]);
}

static inline void case_every_dtype_and_operation(struct comm_case *c)
{
    static const enum ds_dtype dtypes[] = {DS_F32, DS_F64, DS_BF16, DS_F16, DS_I32, DS_I64, DS_U64};

    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (int op = DS_REDUCE_SUM; op <= DS_REDUCE_MIN; op++) {
            case_all_reduce_of(c, dtypes[d], (enum ds_reduce)op, 33);
            case_all_reduce_of(c, dtypes[d], (enum ds_reduce)op, 5001);
        }
}

/* more than all the staging of any backend: several rounds of mpi, too */
static inline void case_larger_than_staging(struct comm_case *c)
{
    if (CASE_COUNT_MAX < 1100003)
        return;
    case_all_reduce_of(c, DS_F32, DS_REDUCE_SUM, 1100003);
    case_all_reduce_of(c, DS_F64, DS_REDUCE_SUM, 600011);
    case_all_reduce_of(c, DS_BF16, DS_REDUCE_SUM, 2300003);
}

static inline void case_scatter_of(struct comm_case *c, enum ds_dtype dtype, size_t count,
                                   int is_in_place)
{
    size_t elem_bytes = ds_dtype_bytes(dtype), part = count * elem_bytes;
    size_t bytes = part * c->comm->size;
    void *mine = case_filled(dtype, c->comm->rank, 0, count * c->comm->size);
    uint8_t *want = case_sums(dtype, DS_REDUCE_SUM, c->comm->size, count * c->comm->size);
    uint8_t *send = case_take(c, bytes), *apart = case_take(c, part);
    uint8_t *recv = is_in_place ? send + c->comm->rank * part : apart;

    case_put(c, send, mine, bytes);
    case_check(c, ds_comm_reduce_scatter(c->comm, send, recv, count, dtype, c->stream) == DS_OK);
    case_expect(c, recv, want + c->comm->rank * part, part, "reduce_scatter");
    if (!is_in_place)
        case_expect(c, send, mine, bytes, "what reduce_scatter was given");
    case_give(c, send, bytes);
    case_give(c, apart, part);
    free(mine);
    free(want);
}

static inline void case_reduce_scatter(struct comm_case *c)
{
    for (size_t i = 0; i < sizeof case_counts / sizeof case_counts[0]; i++)
        if (case_counts[i] <= CASE_COUNT_MAX)
            case_scatter_of(c, DS_F32, case_counts[i], (int)(i & 1));
    case_scatter_of(c, DS_F32, 3, 0);
    case_scatter_of(c, DS_F32, 1025, 0);
    case_scatter_of(c, DS_F64, 4099, 1);
    case_scatter_of(c, DS_BF16, 1, 0);
    case_scatter_of(c, DS_BF16, 5003, 1);
    case_scatter_of(c, DS_F16, 40009, 0);
    case_scatter_of(c, DS_I32, 37, 1);
    case_scatter_of(c, DS_I64, 77777, 0);
    case_scatter_of(c, DS_U64, 1, 0);
}

static inline void case_gather_of(struct comm_case *c, enum ds_dtype dtype, size_t count,
                                  int is_in_place)
{
    size_t part = count * ds_dtype_bytes(dtype), bytes = part * c->comm->size;
    uint8_t *want = malloc(bytes + 1);
    uint8_t *recv = case_take(c, bytes), *apart = case_take(c, part);
    uint8_t *send = is_in_place ? recv + c->comm->rank * part : apart;

    for (size_t i = 0; i < bytes; i++)
        want[i] = (uint8_t)case_hash(i + 5);
    case_put(c, send, want + c->comm->rank * part, part);
    case_check(c, ds_comm_all_gather(c->comm, send, recv, count, dtype, c->stream) == DS_OK);
    case_expect(c, recv, want, bytes, "all_gather");
    case_give(c, recv, bytes);
    case_give(c, apart, part);
    free(want);
}

static inline void case_all_gather(struct comm_case *c)
{
    for (size_t i = 0; i < sizeof case_counts / sizeof case_counts[0]; i++)
        if (case_counts[i] <= CASE_COUNT_MAX)
            case_gather_of(c, DS_F32, case_counts[i], (int)(i & 1));
    case_gather_of(c, DS_U8, 1, 1);
    case_gather_of(c, DS_U8, 600001, 0); /* a slot and a bit */
    case_gather_of(c, DS_BF16, 4097, 0);
    case_gather_of(c, DS_F64, 3, 1);
    case_gather_of(c, DS_F32, (9u << 20) / 4 / c->comm->size + 5, 0); /* many slots */
}

/* scatter the sums, gather them: what all_reduce gives, to the bit */
static inline void case_scatter_and_gather_are_all_reduce(struct comm_case *c)
{
    const size_t count = 12347, part = count * 4, bytes = part * c->comm->size;
    void *mine = case_filled(DS_F32, c->comm->rank, 0, count * c->comm->size);
    uint8_t *whole = case_take(c, bytes), *parts = case_take(c, bytes), *host = malloc(bytes);
    uint8_t *own = parts + c->comm->rank * part;

    case_put(c, whole, mine, bytes);
    case_put(c, parts, mine, bytes);
    case_check(c, ds_comm_all_reduce(c->comm, whole, count * c->comm->size, DS_F32, DS_REDUCE_SUM,
                                     c->stream) == DS_OK);
    case_check(c, ds_comm_reduce_scatter(c->comm, parts, own, count, DS_F32, c->stream) == DS_OK);
    case_check(c, ds_comm_all_gather(c->comm, own, parts, count, DS_F32, c->stream) == DS_OK);
    case_put(c, host, whole, bytes);
    case_sync(c);
    case_expect(c, parts, host, bytes, "reduce_scatter and all_gather");
    case_give(c, whole, bytes);
    case_give(c, parts, bytes);
    free(host);
    free(mine);
}

static inline void case_broadcast_of(struct comm_case *c, size_t bytes, uint32_t root)
{
    uint8_t *want = malloc(bytes + 1), *data = case_take(c, bytes);

    for (size_t i = 0; i < bytes; i++)
        want[i] = (uint8_t)case_hash(i + root);
    if (c->comm->rank == root)
        case_put(c, data, want, bytes);
    case_check(c, ds_comm_broadcast(c->comm, data, bytes, root, c->stream) == DS_OK);
    case_expect(c, data, want, bytes, "broadcast");
    case_give(c, data, bytes);
    free(want);
}

static inline void case_broadcast(struct comm_case *c)
{
    for (uint32_t root = 0; root < c->comm->size; root++) {
        case_broadcast_of(c, 1, root);
        case_broadcast_of(c, 4097, root);
    }
    case_broadcast_of(c, 3000001, c->comm->size - 1);
}

/* Queued one behind the other, looked at once: calls of one communicator run in their order. */
static inline void case_several_in_flight(struct comm_case *c)
{
    enum { CALLS = 12 };
    const size_t count = 5003, bytes = count * 4;
    void *mine = case_filled(DS_F32, c->comm->rank, 0, count);
    void *want = case_sums(DS_F32, DS_REDUCE_SUM, c->comm->size, count);
    void *data[CALLS];

    for (int i = 0; i < CALLS; i++) {
        data[i] = case_take(c, bytes);
        case_put(c, data[i], mine, bytes);
    }
    for (int i = 0; i < CALLS; i++)
        case_check(c, ds_comm_all_reduce(c->comm, data[i], count, DS_F32, DS_REDUCE_SUM,
                                         c->stream) == DS_OK);
    for (int i = 0; i < CALLS; i++) {
        case_expect(c, data[i], want, bytes, "one of several all_reduces");
        case_give(c, data[i], bytes);
    }
    free(mine);
    free(want);
}

/* The order of the calls counts, not the order in which streams happen to be driven. */
static inline void case_two_streams(struct comm_case *c)
{
    enum { CALLS = 8 };
    const size_t count = 5003, bytes = count * 4;
    struct comm_case other = *c;
    void *mine = case_filled(DS_F32, c->comm->rank, 0, count);
    void *want = case_sums(DS_F32, DS_REDUCE_SUM, c->comm->size, count);
    void *data[CALLS];

    if (c->stream != NULL) /* both are driven alike: a worker each, or the main thread */
        case_check(c,
                   c->device->ops->stream_open(c->device, c->stream_flags, &other.stream) == DS_OK);
    for (int i = 0; i < CALLS; i++) {
        struct comm_case *on = i % 2 ? &other : c;

        data[i] = case_take(c, bytes);
        case_put(on, data[i], mine, bytes);
        case_check(c, ds_comm_all_reduce(c->comm, data[i], count, DS_F32, DS_REDUCE_SUM,
                                         on->stream) == DS_OK);
    }
    for (int i = CALLS; i-- > 0;) {
        case_expect(i % 2 ? &other : c, data[i], want, bytes, "all_reduce on one of two streams");
        case_give(c, data[i], bytes);
    }
    if (c->stream != NULL)
        c->device->ops->stream_close(other.stream);
    c->fault_count = other.fault_count > c->fault_count ? other.fault_count : c->fault_count;
    free(mine);
    free(want);
}

static inline void case_not_a_number_wins(struct comm_case *c)
{
    for (uint32_t rank = 0; rank < c->comm->size; rank++) {
        float low = c->comm->rank == rank ? NAN : (float)c->comm->rank, high = low;

        case_check(c, ds_comm_all_reduce(c->comm, &low, 1, DS_F32, DS_REDUCE_MIN, NULL) == DS_OK);
        case_check(c, ds_comm_all_reduce(c->comm, &high, 1, DS_F32, DS_REDUCE_MAX, NULL) == DS_OK);
        case_check(c, isnan(low) && isnan(high));
    }
}

static inline void case_agreement_carries_the_worst(struct comm_case *c)
{
    for (uint32_t rank = 0; rank < c->comm->size; rank++) {
        ds_status verdict = DS_OK;
        ds_status local = c->comm->rank == rank ? DS_ERR_CONFIG : DS_ERR_IO;

        case_check(c, ds_comm_agree(c->comm, local, &verdict) == DS_OK);
        case_check(c, verdict == DS_ERR_CONFIG);
        case_check(c, ds_comm_agreed(c->comm, DS_OK) == DS_OK);
    }
}

/* Color: parity; key: backwards; the last rank stays out. Then both groups talk at the same time. */
static inline void case_split(struct comm_case *c)
{
    const uint32_t rank = c->comm->rank, size = c->comm->size;
    const int is_out = size > 1 && rank == size - 1;
    const uint32_t members =
        (size > 1 ? size - 1 : size) / 2 + (rank % 2 == 0 ? (size > 1 ? size - 1 : size) % 2 : 0);
    int32_t sum = (int32_t)rank, want = 0;
    struct ds_comm *group = NULL;

    case_check(c, ds_comm_split(c->comm, is_out ? -1 : (int)(rank % 2), -(int)rank, "half",
                                &group) == DS_OK);
    case_check(c, is_out == (group == NULL));
    if (group == NULL)
        return;
    for (uint32_t r = rank % 2; r < (size > 1 ? size - 1 : size); r += 2)
        want += (int32_t)r;
    case_check(c, group->size == members && strcmp(group->group, "half") == 0);
    case_check(c, group->deadline_ns == c->comm->deadline_ns);
    case_check(c, group->rank == members - 1 - rank / 2);
    case_check(c, ds_comm_all_reduce(group, &sum, 1, DS_I32, DS_REDUCE_SUM, NULL) == DS_OK);
    case_check(c, sum == want);
    case_check(c, ds_comm_barrier(group) == DS_OK);
    ds_comm_close(group);
}

#include "exchange_cases.h"

struct comm_case_row {
    const char *name;
    void (*run)(struct comm_case *c);
    int is_blocking; /* has no form for streams, or is too slow to repeat for each */
};

/* Copies past the cache, and pieces enough that a backend has tried which copies to make: all of them
 * leave the same bits. Not a row: it takes long. */
static inline void case_large(struct comm_case *c)
{
    const size_t count = (9u << 20) / sizeof(float) + 5;

    case_all_reduce_of(c, DS_F32, DS_REDUCE_SUM, count);
    case_scatter_of(c, DS_F32, count, 0);
    case_gather_of(c, DS_F32, count, 0);
    case_broadcast_of(c, count * sizeof(float), c->comm->size - 1);
}

static const struct comm_case_row comm_case_rows[] = {
    {"sums are in rank order", case_sums_are_in_rank_order, 0},
    {"every dtype and operation", case_every_dtype_and_operation, 0},
    {"larger than the staging", case_larger_than_staging, 1},
    {"reduce_scatter", case_reduce_scatter, 0},
    {"all_gather", case_all_gather, 0},
    {"scatter and gather are all_reduce", case_scatter_and_gather_are_all_reduce, 0},
    {"broadcast", case_broadcast, 0},
    {"several in flight", case_several_in_flight, 0},
    {"two streams", case_two_streams, 0},
    {"random exchanges", case_random_exchanges, 0},
    {"both directions at once", case_both_directions_at_once, 0},
    {"calls need not match", case_calls_need_not_match, 0},
    {"no message waits for another", case_no_message_waits_for_another, 0},
    {"exchanges on two streams", case_exchanges_on_two_streams, 0},
    {"not a number wins", case_not_a_number_wins, 1},
    {"agreement carries the worst", case_agreement_carries_the_worst, 1},
    {"split", case_split, 1},
};
#define COMM_CASE_COUNT (sizeof comm_case_rows / sizeof comm_case_rows[0])

/* How the calls of a case are driven. */
enum comm_drive { COMM_BLOCKING, COMM_WORKER, COMM_MAIN, COMM_DEFERRED, COMM_DRIVE_COUNT };
static const char *const comm_drive_names[] = {"blocking", "worker", "main", "deferred"};

/* All rows over one communicator. `seed`: the same on all ranks. */
static inline int comm_cases_run(struct ds_comm *comm, enum comm_drive drive, uint64_t seed)
{
    const struct ds_device_options options = {.mode = drive == COMM_DEFERRED ? DS_DEVICE_DEFERRED
                                                                             : DS_DEVICE_INLINE,
                                              .seed = seed + comm->rank,
                                              .thread_count = 1,
                                              .clock = ds_clock_system()};
    struct comm_case c = {.comm = comm, .seed = seed};

    if (drive != COMM_BLOCKING) {
        case_check(&c, ds_device_cpu_ops.open(0, &options, &c.device) == DS_OK);
        c.stream_flags = drive == COMM_WORKER ? DS_STREAM_WORKER : 0;
        case_check(&c, c.device->ops->stream_open(c.device, c.stream_flags, &c.stream) == DS_OK);
    }
    for (size_t i = 0; i < COMM_CASE_COUNT; i++) {
        int before = c.fault_count;

        if (drive != COMM_BLOCKING && comm_case_rows[i].is_blocking)
            continue;
        comm_case_rows[i].run(&c);
        if (c.fault_count > before && comm->rank == 0)
            fprintf(stderr, "case '%s', %s, seed %llu\n", comm_case_rows[i].name,
                    comm_drive_names[drive], (unsigned long long)seed);
    }
    if (drive != COMM_BLOCKING) {
        c.device->ops->stream_close(c.stream);
        c.device->ops->close(c.device);
    }
    return c.fault_count;
}

#endif
