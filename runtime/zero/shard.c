/* shard.c - owned shards written and read by the host, in fp32; blocking, outside a step. What is stored
 * otherwise is converted here, a piece at a time: device memory is not the host's to touch. */
#include "zero.h"

#include "dstrain/master.h"

enum { PIECE_ELEMS = 4096 };

/* A piece of a shard as it is stored. */
struct piece {
    uint16_t param[PIECE_ELEMS]; /* where it is not fp32 */
    int16_t remainder[PIECE_ELEMS];
};

static ds_status copy_now(struct ds_zero *zero, void *to, const void *from, size_t bytes)
{
    DS_TRY(zero->device_ops->copy(zero->options.compute, to, from, bytes));
    return zero->device_ops->stream_sync(zero->options.compute);
}

static ds_status put(struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                     uint64_t count, const void *from)
{
    if (!state->shard)
        return DS_OK;
    return copy_now(zero, element(state->shard, state->dtype, start), from,
                    dtype_bytes(state->dtype, count));
}

static ds_status get(struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                     uint64_t count, void *to)
{
    return copy_now(zero, to, element(state->shard, state->dtype, start),
                    dtype_bytes(state->dtype, count));
}

/* A weight follows its master as the optimizer has it. */
static ds_status write_piece(struct ds_zero *zero, const struct zero_unit *u, uint64_t start,
                             uint64_t count, const float *from)
{
    struct piece piece;

    if (u->param.dtype == DS_BF16)
        for (uint64_t i = 0; i < count; i++)
            piece.param[i] = ds_master_weight(from[i]);
    else
        (void)ds_dtype_from_f32(piece.param, u->param.dtype, from, count);
    for (uint64_t i = 0; i < count; i++)
        piece.remainder[i] = ds_master_remainder(from[i]);
    DS_TRY(put(zero, &u->param, start, count, piece.param));
    return put(zero, &u->master, start, count,
               u->master.dtype == DS_I16 ? (const void *)piece.remainder : from);
}

static ds_status read_piece(struct ds_zero *zero, const struct zero_unit *u, uint64_t start,
                            uint64_t count, float *to)
{
    struct piece piece;

    if (u->master.shard && u->master.dtype == DS_F32)
        return get(zero, &u->master, start, count, to);
    DS_TRY(get(zero, &u->param, start, count, piece.param));
    if (!u->master.shard) {
        (void)ds_dtype_to_f32(to, piece.param, u->param.dtype, count);
        return DS_OK;
    }
    DS_TRY(get(zero, &u->master, start, count, piece.remainder));
    for (uint64_t i = 0; i < count; i++)
        to[i] = ds_master_join(piece.param[i], piece.remainder[i]);
    return DS_OK;
}

ds_status ds_zero_write_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                              const float *from)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(start + count <= u->layout.shard_elems);
    if (u->param.dtype == DS_F32)
        return put(zero, &u->param, start, count, from);
    for (uint64_t at = 0; at < count; at += PIECE_ELEMS)
        DS_TRY(write_piece(zero, u, start + at, count - at < PIECE_ELEMS ? count - at : PIECE_ELEMS,
                           from + at));
    return DS_OK;
}

ds_status ds_zero_read_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                             float *to)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(start + count <= u->layout.shard_elems);
    if (u->param.dtype == DS_F32)
        return get(zero, &u->param, start, count, to);
    for (uint64_t at = 0; at < count; at += PIECE_ELEMS)
        DS_TRY(read_piece(zero, u, start + at, count - at < PIECE_ELEMS ? count - at : PIECE_ELEMS,
                          to + at));
    return DS_OK;
}

/* Shards were written while the host waited, and it waits here: no event is needed on either side. */
ds_status ds_zero_publish(struct ds_zero *zero)
{
    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        const struct zero_unit *u = &zero->units[i];
        if (u->param.whole)
            DS_TRY(zero_gather(zero, u, &u->param));
        if (u->master.whole)
            DS_TRY(zero_gather(zero, u, &u->master));
    }
    return zero->device_ops->stream_sync(zero->options.comm);
}
