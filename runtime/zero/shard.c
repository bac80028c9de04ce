/* shard.c - owned shards written and read by the host, in fp32; blocking, outside a step. What is stored
 * otherwise is converted here, a piece at a time: device memory is not the host's to touch. A piece is large: a
 * GPU's copies cost ten microseconds each, and a model has a billion elements. */
#include "zero.h"

#include "dstrain/master.h"

#include <stdlib.h>

enum { PIECE_ELEMS = 1 << 18 };

/* A piece of a shard as it is stored. */
struct piece {
    uint16_t *param; /* where it is not fp32 */
    int16_t *remainder;
    uint64_t elems_max;
};

static ds_status take_piece(uint64_t count, struct piece *piece)
{
    const uint64_t elems = count < PIECE_ELEMS ? count : PIECE_ELEMS;
    uint16_t *memory = malloc(2 * elems * sizeof *memory + 1);

    if (!memory)
        return ds_fail(DS_ERR_NO_MEMORY, "a piece of %llu elements", (unsigned long long)elems);
    *piece = (struct piece){memory, (int16_t *)(memory + elems), elems};
    return DS_OK;
}

static uint64_t piece_count(const struct piece *piece, uint64_t at, uint64_t count)
{
    return count - at < piece->elems_max ? count - at : piece->elems_max;
}

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
static ds_status write_piece(struct ds_zero *zero, const struct zero_unit *u, struct piece *piece,
                             uint64_t start, uint64_t count, const float *from)
{
    const int has_remainder = u->master.shard && u->master.dtype == DS_I16;

    if (u->param.dtype == DS_BF16)
        for (uint64_t i = 0; i < count; i++)
            piece->param[i] = ds_master_weight(from[i]);
    else
        (void)ds_dtype_from_f32(piece->param, u->param.dtype, from, count);
    for (uint64_t i = 0; has_remainder && i < count; i++)
        piece->remainder[i] = ds_master_remainder(from[i]);
    DS_TRY(put(zero, &u->param, start, count, piece->param));
    return put(zero, &u->master, start, count,
               has_remainder ? (const void *)piece->remainder : from);
}

static ds_status read_piece(struct ds_zero *zero, const struct zero_unit *u, struct piece *piece,
                            uint64_t start, uint64_t count, float *to)
{
    if (u->master.shard && u->master.dtype == DS_F32)
        return get(zero, &u->master, start, count, to);
    DS_TRY(get(zero, &u->param, start, count, piece->param));
    if (!u->master.shard) {
        (void)ds_dtype_to_f32(to, piece->param, u->param.dtype, count);
        return DS_OK;
    }
    DS_TRY(get(zero, &u->master, start, count, piece->remainder));
    for (uint64_t i = 0; i < count; i++)
        to[i] = ds_master_join(piece->param[i], piece->remainder[i]);
    return DS_OK;
}

ds_status ds_zero_write_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                              const float *from)
{
    const struct zero_unit *u = unit_at(zero, unit);
    struct piece piece = {0};
    ds_status st = DS_OK;

    DS_ASSERT(start + count <= u->layout.shard_elems);
    if (u->param.dtype == DS_F32)
        return put(zero, &u->param, start, count, from);
    DS_TRY(take_piece(count, &piece));
    for (uint64_t at = 0; at < count && st == DS_OK; at += piece.elems_max)
        st = write_piece(zero, u, &piece, start + at, piece_count(&piece, at, count), from + at);
    free(piece.param);
    return st;
}

ds_status ds_zero_read_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                             float *to)
{
    const struct zero_unit *u = unit_at(zero, unit);
    struct piece piece = {0};
    ds_status st = DS_OK;

    DS_ASSERT(start + count <= u->layout.shard_elems);
    if (u->param.dtype == DS_F32)
        return get(zero, &u->param, start, count, to);
    DS_TRY(take_piece(count, &piece));
    for (uint64_t at = 0; at < count && st == DS_OK; at += piece.elems_max)
        st = read_piece(zero, u, &piece, start + at, piece_count(&piece, at, count), to + at);
    free(piece.param);
    return st;
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
