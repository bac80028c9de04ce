/* comm.c - the wrappers every caller goes through, agreement, and the world of one rank.
 *
 * A group of one rank never reaches a backend's collectives: there is nothing to exchange, only
 * something to copy where the call is not in place. */
#include "dstrain/comm.h"

#include "combine.h"
#include "wait.h"

#include <stdlib.h>
#include <string.h>

static ds_status copy_own(void *to, const void *from, size_t bytes, struct ds_stream *stream)
{
    if (to == from || bytes == 0)
        return DS_OK;
    if (stream != NULL)
        return stream->device->ops->copy(stream, to, from, bytes);
    memmove(to, from, bytes);
    return DS_OK;
}

ds_status ds_comm_all_reduce(struct ds_comm *comm, void *data, size_t count, enum ds_dtype dtype,
                             enum ds_reduce op, struct ds_stream *stream)
{
    DS_ASSERT(data != NULL || count == 0);
    DS_ASSERT(combine_find(dtype, op) != NULL);
    if (comm->size == 1 || count == 0)
        return DS_OK;
    return comm->ops->all_reduce(comm, data, count, dtype, op, stream);
}

ds_status ds_comm_all_gather(struct ds_comm *comm, const void *send, void *recv, size_t count,
                             enum ds_dtype dtype, struct ds_stream *stream)
{
    DS_ASSERT((send != NULL && recv != NULL) || count == 0);
    if (comm->size == 1)
        return copy_own(recv, send, count * ds_dtype_bytes(dtype), stream);
    if (count == 0)
        return DS_OK;
    return comm->ops->all_gather(comm, send, recv, count, dtype, stream);
}

ds_status ds_comm_reduce_scatter(struct ds_comm *comm, const void *send, void *recv, size_t count,
                                 enum ds_dtype dtype, struct ds_stream *stream)
{
    DS_ASSERT((send != NULL && recv != NULL) || count == 0);
    DS_ASSERT(combine_find(dtype, DS_REDUCE_SUM) != NULL);
    if (comm->size == 1)
        return copy_own(recv, send, count * ds_dtype_bytes(dtype), stream);
    if (count == 0)
        return DS_OK;
    return comm->ops->reduce_scatter(comm, send, recv, count, dtype, stream);
}

ds_status ds_comm_broadcast(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                            struct ds_stream *stream)
{
    DS_ASSERT(data != NULL || bytes == 0);
    DS_ASSERT(root < comm->size);
    if (comm->size == 1 || bytes == 0)
        return DS_OK;
    return comm->ops->broadcast(comm, data, bytes, root, stream);
}

ds_status ds_comm_barrier(struct ds_comm *comm)
{
    return comm->size == 1 ? DS_OK : comm->ops->barrier(comm);
}

ds_status ds_comm_exchange(struct ds_comm *comm, const struct ds_message *messages, uint32_t count,
                           struct ds_stream *stream)
{
    DS_ASSERT(count <= DS_MESSAGES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        DS_ASSERT(messages[i].peer < comm->size && messages[i].peer != comm->rank);
        DS_ASSERT(messages[i].data != NULL || messages[i].bytes == 0);
    }
    return count == 0 ? DS_OK : comm->ops->exchange(comm, messages, count, stream);
}

ds_status ds_comm_split(struct ds_comm *comm, int color, int key, const char *group,
                        struct ds_comm **out)
{
    DS_ASSERT(comm->ops->split != NULL);
    return comm->ops->split(comm, color, key, group, out);
}

ds_status ds_comm_open_data(struct ds_comm *control, const char *group, struct ds_comm **out)
{
    if (control->size == 1)
        return comm_self_like(control, group, out);
    return control->ops->open_data(control, group, out);
}

ds_status ds_comm_register_memory(struct ds_comm *comm, void *at, size_t bytes)
{
    DS_ASSERT(at != NULL && bytes > 0);
    if (comm->size == 1 || comm->ops->register_memory == NULL)
        return DS_OK;
    return comm->ops->register_memory(comm, at, bytes);
}

void ds_comm_close(struct ds_comm *comm)
{
    if (comm != NULL)
        comm->ops->close(comm);
}

ds_status ds_comm_agree(struct ds_comm *control, ds_status local, ds_status *verdict)
{
    int32_t worst = (int32_t)local; /* who failed has logged; peers stay quiet */

    DS_TRY(ds_comm_all_reduce(control, &worst, 1, DS_I32, DS_REDUCE_MAX, NULL));
    *verdict = (ds_status)worst;
    return DS_OK;
}

ds_status ds_comm_agreed(struct ds_comm *control, ds_status local)
{
    ds_status verdict = DS_OK;

    DS_TRY(ds_comm_agree(control, local, &verdict));
    return verdict;
}

/* ---- self: one rank. The wrappers above answer its collectives. */

static ds_status self_split(struct ds_comm *comm, int color, int key, const char *group,
                            struct ds_comm **out)
{
    (void)key;
    if (color >= 0)
        return comm_self_like(comm, group, out);
    *out = NULL;
    return DS_OK;
}

static ds_status self_open_data(struct ds_comm *control, const char *group, struct ds_comm **out)
{
    return comm_self_like(control, group, out);
}

static void self_poison(struct ds_comm *comm)
{
    (void)comm; /* nobody waits for anybody */
}

static void self_close(struct ds_comm *comm)
{
    free(comm);
}

static const struct ds_comm_ops self_ops = {
    .name = "self",
    .caps = DS_COMM_CAP_WORKER,
    .split = self_split,
    .open_data = self_open_data,
    .poison = self_poison,
    .close = self_close,
};

ds_status comm_self_like(const struct ds_comm *parent, const char *group, struct ds_comm **out)
{
    struct ds_comm *comm = malloc(sizeof *comm);

    if (comm == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory for a communicator", group);
    comm_init(comm, &self_ops, 0, 1, parent->clock, parent->deadline_ns, group);
    *out = comm;
    return DS_OK;
}

ds_status ds_comm_self_open(const struct ds_clock *clock, struct ds_comm **out)
{
    const struct ds_comm model = {.clock = clock, .deadline_ns = UINT64_MAX};

    return comm_self_like(&model, "world", out);
}
