/* shard.c - owned shards written and read by the host, in fp32; blocking, outside a step. */
#include "zero.h"

static ds_status copy_now(struct ds_zero *zero, void *to, const void *from, size_t bytes)
{
    DS_TRY(zero->device_ops->copy(zero->options.compute, to, from, bytes));
    return zero->device_ops->stream_sync(zero->options.compute);
}

ds_status ds_zero_write_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                              const float *from)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(start + count <= u->layout.shard_elems);
    return copy_now(zero, element(u->param.shard, DS_F32, start), from, dtype_bytes(DS_F32, count));
}

ds_status ds_zero_read_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                             float *to)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(start + count <= u->layout.shard_elems);
    return copy_now(zero, to, element(u->param.shard, DS_F32, start), dtype_bytes(DS_F32, count));
}

/* Shards were written while the host waited, and it waits here: no event is needed on either side. */
ds_status ds_zero_publish(struct ds_zero *zero)
{
    struct ds_stream *comm = zero->options.comm;

    for (uint32_t i = 0; weights_stay(zero) && i < zero->options.unit_count; i++) {
        const struct zero_unit *u = &zero->units[i];
        if (is_here(u))
            DS_TRY(zero_gather(zero, u, &u->param));
    }
    return zero->device_ops->stream_sync(comm);
}
