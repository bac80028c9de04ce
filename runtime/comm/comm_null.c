/* comm_null.c - any rank of any number of ranks, alone in its process: nothing is sent, nobody is waited
 * for. The planner's communicator; what it "receives" is not touched. */
#include "dstrain/comm.h"

#include <stdio.h>
#include <stdlib.h>

static ds_status null_all_reduce(struct ds_comm *comm, void *data, size_t count,
                                 enum ds_dtype dtype, enum ds_reduce op, struct ds_stream *stream)
{
    (void)comm, (void)data, (void)count, (void)dtype, (void)op, (void)stream;
    return DS_OK;
}

static ds_status null_move(struct ds_comm *comm, const void *send, void *recv, size_t count,
                           enum ds_dtype dtype, struct ds_stream *stream)
{
    (void)comm, (void)send, (void)recv, (void)count, (void)dtype, (void)stream;
    return DS_OK;
}

static ds_status null_broadcast(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                                struct ds_stream *stream)
{
    (void)comm, (void)data, (void)bytes, (void)root, (void)stream;
    return DS_OK;
}

static ds_status null_barrier(struct ds_comm *comm)
{
    (void)comm;
    return DS_OK;
}

static ds_status null_exchange(struct ds_comm *comm, const struct ds_message *messages,
                               uint32_t count, struct ds_stream *stream)
{
    (void)comm, (void)messages, (void)count, (void)stream;
    return DS_OK;
}

/* Colors of ranks that are not here cannot be known: groups are made by `place`. */
static ds_status null_split(struct ds_comm *comm, int color, int key, const char *group,
                            struct ds_comm **out)
{
    (void)comm, (void)color, (void)key, (void)out;
    return ds_fail(DS_ERR_UNSUPPORTED, "group %s: the null communicator knows no other ranks",
                   group);
}

static ds_status null_place(struct ds_comm *comm, uint32_t rank, uint32_t size, const char *group,
                            struct ds_comm **out)
{
    struct ds_comm *placed = calloc(1, sizeof *placed);

    if (!placed)
        return ds_fail(DS_ERR_NO_MEMORY, "group %s", group);
    *placed = *comm;
    placed->rank = rank;
    placed->size = size;
    snprintf(placed->group, sizeof placed->group, "%s", group);
    *out = placed;
    return DS_OK;
}

static void null_close(struct ds_comm *comm)
{
    free(comm);
}

static const struct ds_comm_ops null_ops = {
    .name = "null",
    .caps = DS_COMM_CAP_WORKER,
    .all_reduce = null_all_reduce,
    .all_gather = null_move,
    .reduce_scatter = null_move,
    .broadcast = null_broadcast,
    .barrier = null_barrier,
    .exchange = null_exchange,
    .split = null_split,
    .place = null_place,
    .close = null_close,
};

ds_status ds_comm_null_open(uint32_t rank, uint32_t size, const struct ds_clock *clock,
                            struct ds_comm **out)
{
    const struct ds_comm world = {
        .ops = &null_ops, .deadline_ns = UINT64_MAX, .clock = clock, .missing = DS_COMM_NOBODY};

    DS_ASSERT(rank < size);
    return null_place((struct ds_comm *)(uintptr_t)&world, rank, size, "world", out);
}
