/* comm_threads.c - ranks that are threads of one process, for tests: one body runs on any layout
 * without mpirun, leaks and races show to the sanitizers, and a debugger sees all ranks at once. */
#include "shared.h"

#include <stdlib.h>
#include <string.h>

static ds_status threads_create(const struct ds_clock *clock, size_t bytes, size_t bytes_min,
                                void *handle, void **at, size_t *got_bytes)
{
    void *memory = NULL;

    (void)clock;
    (void)bytes_min;
    if (posix_memalign(&memory, 4096, bytes) != 0)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a group of threads (%zu bytes)", bytes);
    memcpy(handle, &memory, sizeof memory);
    *at = memory;
    *got_bytes = bytes;
    return DS_OK;
}

static ds_status threads_attach(const void *handle, void **at)
{
    memcpy(at, handle, sizeof *at);
    return DS_OK;
}

static void threads_settle(const void *handle)
{
    (void)handle;
}

static void threads_detach(struct shared_segment *segment)
{
    if (atomic_fetch_sub(&segment->user_count, 1) == 1)
        free(segment);
}

static const struct ds_comm_ops threads_ops = {
    .name = "threads",
    .caps = DS_COMM_CAP_WORKER,
    .all_reduce = shared_all_reduce,
    .all_gather = shared_all_gather,
    .reduce_scatter = shared_reduce_scatter,
    .broadcast = shared_broadcast,
    .barrier = shared_barrier,
    .exchange = shared_exchange,
    .split = shared_split,
    .open_data = shared_open_data,
    .poison = shared_poison,
    .close = shared_close,
};

static const struct shared_source threads_source = {
    .ops = &threads_ops,
    .create = threads_create,
    .attach = threads_attach,
    .settle = threads_settle,
    .detach = threads_detach,
};

/* All ranks of the world and its groups look at one job. */
static ds_status open_ranks(struct shared_segment *segment, struct comm_job *job, uint32_t size,
                            const struct ds_comm *model, struct ds_comm **out)
{
    struct ds_comm rank = *model;
    ds_status st = DS_OK;

    for (rank.rank = 0; rank.rank < size && st == DS_OK; rank.rank++)
        st = shared_comm_new(&threads_source, segment, job, &rank, &out[rank.rank]);
    return st;
}

ds_status ds_comm_threads_open(uint32_t size, const struct ds_clock *clock, uint64_t deadline_ns,
                               struct ds_comm **out)
{
    struct comm_job *job = calloc(1, sizeof *job);
    char handle[SHARED_HANDLE_BYTES];
    struct ds_comm model;
    size_t bytes = shared_bytes(size, SHARED_SLOT_BYTES);
    void *at = NULL;
    ds_status st;

    DS_ASSERT(size > 0);
    for (uint32_t rank = 0; rank < size; rank++)
        out[rank] = NULL;
    if (job == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for %u ranks", size);
    comm_init(&model, &threads_ops, 0, size, clock, deadline_ns, "world");
    DS_TRY_GOTO(st, threads_create(clock, bytes, bytes, handle, &at, &bytes), fail);
    shared_format(at, size, bytes);
    DS_TRY_GOTO(st, open_ranks(at, job, size, &model, out), fail);
    return DS_OK;

fail:
    for (uint32_t rank = 0; rank < size; rank++)
        free(out[rank]);
    free(at);
    free(job);
    return st;
}

void ds_comm_threads_close(struct ds_comm **world, uint32_t size)
{
    struct comm_job *job = size > 0 ? ((struct shared_comm *)world[0])->job : NULL;

    for (uint32_t rank = 0; rank < size; rank++) {
        shared_close(world[rank]);
        world[rank] = NULL;
    }
    free(job);
}
