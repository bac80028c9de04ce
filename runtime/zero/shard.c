/* shard.c - owned shards written and read by the host, in fp32, outside a step. What is stored otherwise is
 * converted here, by all cores: device memory is not the host's to touch.
 *
 * What is written passes through one of two places of pinned memory: while one is on its way to the device,
 * the caller makes the next piece and this file converts it into the other. */
#include "zero.h"

#include "dstrain/clones.h"
#include "dstrain/master.h"

#include <string.h>

enum {
    STAGING_ELEMS_MAX = 1 << 20, /* some 100 us of a GPU's link: long beside a call's own time */
    SHARE_ELEMS = 16384          /* what one core converts at a time */
};

/* ---- the places */

/* A piece as it lies there: the param's elements, behind them the master's where it is another state. */
struct piece {
    uint64_t count;
    void *param, *master;
    enum ds_dtype param_dtype, master_dtype;
    int has_master;
};

static enum ds_dtype master_dtype(const struct ds_zero_dtypes *dtypes)
{
    return dtypes->master == DS_MASTER_REMAINDER16 ? DS_I16 : DS_F32;
}

static size_t staged_bytes(const struct ds_zero_options *options, uint64_t elems)
{
    const struct ds_zero_dtypes *d = &options->dtypes;

    return dtype_bytes(d->param, elems) +
           (options->is_training && has_master(d) ? dtype_bytes(master_dtype(d), elems) : 0);
}

static uint64_t staging_elems(const struct ds_zero *zero)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < zero->options.unit_count; i++)
        if (zero->units[i].layout.shard_elems > most)
            most = zero->units[i].layout.shard_elems;
    return most < STAGING_ELEMS_MAX ? most : STAGING_ELEMS_MAX;
}

ds_status zero_staging_open(struct ds_zero *zero)
{
    const struct ds_zero_options *o = &zero->options;
    const uint64_t elems = staging_elems(zero);

    zero->staging_elems = elems;
    for (int i = 0; i < 2; i++) {
        DS_TRY(ds_memory_take(o->memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                              staged_bytes(o, elems), &zero->staging[i].at));
        DS_TRY(zero->device_ops->event_open(o->device, &zero->staging[i].sent));
    }
    return DS_OK;
}

void zero_staging_close(struct ds_zero *zero)
{
    for (int i = 0; i < 2; i++)
        if (zero->staging[i].sent)
            zero->device_ops->event_close(zero->staging[i].sent);
}

static struct piece piece_in(const struct zero_staging *place, const struct zero_unit *u,
                             uint64_t count)
{
    return (struct piece){
        .count = count,
        .param = place->at,
        .master = (uint8_t *)place->at + dtype_bytes(u->param.dtype, count + (count & 1)),
        .param_dtype = u->param.dtype,
        .master_dtype = u->master.dtype,
        .has_master = u->master.shard || leaves(&u->master),
    };
}

/* ---- conversions */

DS_CLONES static void weights_of(uint16_t *to, const float *from, uint64_t count)
{
    DS_NO_OVERLAP for (uint64_t i = 0; i < count; i++) to[i] = ds_master_weight(from[i]);
}

DS_CLONES static void remainders_of(int16_t *to, const float *from, uint64_t count)
{
    DS_NO_OVERLAP for (uint64_t i = 0; i < count; i++) to[i] = ds_master_remainder(from[i]);
}

DS_CLONES static void join(float *to, const uint16_t *weights, const int16_t *remainders,
                           uint64_t count)
{
    DS_NO_OVERLAP for (uint64_t i = 0; i < count; i++) to[i] =
        ds_master_join(weights[i], remainders[i]);
}

/* A weight follows its master as the optimizer has it. */
static void pack(const struct piece *p, uint64_t start, uint64_t count, const float *from)
{
    void *param = element(p->param, p->param_dtype, start);

    if (p->param_dtype == DS_BF16)
        weights_of(param, from, count);
    else
        (void)ds_dtype_from_f32(param, p->param_dtype, from, count);
    if (!p->has_master)
        return;
    if (p->master_dtype == DS_I16)
        remainders_of((int16_t *)p->master + start, from, count);
    else
        (void)ds_dtype_from_f32((float *)p->master + start, DS_F32, from, count);
}

static void unpack(const struct piece *p, uint64_t start, uint64_t count, float *to)
{
    const void *param = element(p->param, p->param_dtype, start);

    if (!p->has_master)
        (void)ds_dtype_to_f32(to, param, p->param_dtype, count);
    else if (p->master_dtype == DS_I16)
        join(to, param, (const int16_t *)p->master + start, count);
    else
        (void)ds_dtype_to_f32(to, (const float *)p->master + start, DS_F32, count);
}

static uint64_t share_at(uint64_t at, uint64_t count)
{
    return count - at < SHARE_ELEMS ? count - at : SHARE_ELEMS;
}

static void pack_all(const struct piece *p, const float *from)
{
#pragma omp parallel for schedule(static) if (p->count > SHARE_ELEMS)
    for (uint64_t at = 0; at < p->count; at += SHARE_ELEMS)
        pack(p, at, share_at(at, p->count), from + at);
}

static void unpack_all(const struct piece *p, float *to)
{
#pragma omp parallel for schedule(static) if (p->count > SHARE_ELEMS)
    for (uint64_t at = 0; at < p->count; at += SHARE_ELEMS)
        unpack(p, at, share_at(at, p->count), to + at);
}

/* ---- pieces */

/* Between a piece of pinned memory and the elements of a state from `start` on, near and away; what lives in files the
 * host copies itself, and at once. */
static ds_status copy_state(struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                            uint64_t count, uint8_t *host, int is_write)
{
    for (uint64_t done = 0, run; done < count; done += run) {
        run = count - done;
        if (state->is_filed && start + done >= state->near_elems) {
            DS_TRY(zero_files_edit(zero, state, start + done, run,
                                   element(host, state->dtype, done), is_write));
            continue;
        }
        uint8_t *at = zero_state_run(state, start + done, &run);
        uint8_t *piece = element(host, state->dtype, done);
        DS_TRY(zero->device_ops->copy(zero->options.compute, is_write ? at : piece,
                                      is_write ? piece : at, dtype_bytes(state->dtype, run)));
    }
    return DS_OK;
}

static ds_status write_piece(struct ds_zero *zero, const struct zero_unit *u, uint64_t start,
                             uint64_t count, const float *from)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct zero_staging *place = &zero->staging[zero->staging_turn];
    const struct piece piece = piece_in(place, u, count);
    struct ds_stream *stream = zero->options.compute;

    zero->staging_turn ^= 1;
    if (place->is_sent)
        DS_TRY(ops->event_sync(place->sent));
    pack_all(&piece, from);
    DS_TRY(copy_state(zero, &u->param, start, count, piece.param, 1));
    if (piece.has_master)
        DS_TRY(copy_state(zero, &u->master, start, count, piece.master, 1));
    place->is_sent = 1;
    return ops->event_record(place->sent, stream);
}

/* What was written before is there, and its place free: the stream is one. */
static ds_status read_piece(struct ds_zero *zero, const struct zero_unit *u, uint64_t start,
                            uint64_t count, float *to)
{
    const struct ds_device_ops *ops = zero->device_ops;
    const struct piece piece = piece_in(&zero->staging[0], u, count);
    struct ds_stream *stream = zero->options.compute;

    if (!piece.has_master || piece.master_dtype == DS_I16)
        DS_TRY(copy_state(zero, &u->param, start, count, piece.param, 0));
    if (piece.has_master)
        DS_TRY(copy_state(zero, &u->master, start, count, piece.master, 0));
    DS_TRY(ops->stream_sync(stream));
    unpack_all(&piece, to);
    return DS_OK;
}

static uint64_t piece_at(const struct ds_zero *zero, uint64_t at, uint64_t count)
{
    return count - at < zero->staging_elems ? count - at : zero->staging_elems;
}

ds_status ds_zero_write_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                              const float *from)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(!u->pack && start + count <= u->layout.shard_elems);
    DS_TRY(ds_zero_join(zero));
    for (uint64_t at = 0; at < count; at += zero->staging_elems)
        DS_TRY(write_piece(zero, u, start + at, piece_at(zero, at, count), from + at));
    return DS_OK;
}

ds_status ds_zero_read_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                             float *to)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(!u->pack && start + count <= u->layout.shard_elems);
    DS_TRY(ds_zero_join(zero));
    for (uint64_t at = 0; at < count; at += zero->staging_elems)
        DS_TRY(read_piece(zero, u, start + at, piece_at(zero, at, count), to + at));
    return DS_OK;
}

/* Bytes of a packed unit, by the same two places. */
static ds_status write_bytes(struct ds_zero *zero, const struct zero_state *to, uint64_t start,
                             uint64_t count, const uint8_t *from)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct zero_staging *place = &zero->staging[zero->staging_turn];

    zero->staging_turn ^= 1;
    if (place->is_sent)
        DS_TRY(ops->event_sync(place->sent));
    memcpy(place->at, from, count);
    DS_TRY(copy_state(zero, to, start, count, place->at, 1));
    place->is_sent = 1;
    return ops->event_record(place->sent, zero->options.compute);
}

ds_status ds_zero_write_packed(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                               const void *from)
{
    const struct zero_unit *u = unit_at(zero, unit);
    const uint64_t most = staged_bytes(&zero->options, zero->staging_elems);
    const struct ds_span shard = ds_zero_layout_shard(&u->layout, zero->shard_rank);
    const struct ds_span owned =
        ds_zero_layout_owned(&u->layout, zero->shard_rank, (struct ds_span){start, count});

    DS_ASSERT(u->pack);
    DS_TRY(ds_zero_join(zero));
    for (uint64_t done = 0; done < owned.count; done += most)
        DS_TRY(write_bytes(zero, &u->param, owned.start + done - shard.start,
                           owned.count - done < most ? owned.count - done : most,
                           (const uint8_t *)from + (owned.start + done - start)));
    return DS_OK;
}

/* A moment alone, by the same two places. */
static ds_status write_moment(struct ds_zero *zero, const struct zero_state *to, uint64_t start,
                              uint64_t count, const float *from)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct zero_staging *place = &zero->staging[zero->staging_turn];

    zero->staging_turn ^= 1;
    if (place->is_sent)
        DS_TRY(ops->event_sync(place->sent));
    (void)ds_dtype_from_f32(place->at, to->dtype, from, count);
    DS_TRY(copy_state(zero, to, start, count, place->at, 1));
    place->is_sent = 1;
    return ops->event_record(place->sent, zero->options.compute);
}

ds_status ds_zero_write_moment(struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                               uint64_t start, uint64_t count, const float *from)
{
    struct zero_unit *u = unit_at(zero, unit);
    const struct zero_state *to = zero_state_of(u, kind);

    DS_ASSERT(kind == DS_ZERO_EXP_AVG || kind == DS_ZERO_EXP_AVG_SQ);
    DS_ASSERT(to && start + count <= u->layout.shard_elems);
    DS_TRY(ds_zero_join(zero));
    const uint64_t most =
        staged_bytes(&zero->options, zero->staging_elems) / ds_dtype_bytes(to->dtype);
    for (uint64_t at = 0; at < count; at += most)
        DS_TRY(
            write_moment(zero, to, start + at, count - at < most ? count - at : most, from + at));
    return DS_OK;
}

uint64_t ds_zero_shard_elems(const struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                             enum ds_dtype *dtype)
{
    struct zero_unit *u = unit_at(zero, unit);
    const struct zero_state *state = zero_state_of(u, kind);

    *dtype = state ? state->dtype : DS_F32;
    return state ? u->layout.shard_elems : 0;
}

int ds_zero_has_away(const struct ds_zero *zero)
{
    int has = 0;

    for (int kind = DS_ZERO_PARAM; kind <= DS_ZERO_EXP_AVG_SQ; kind++)
        has |= zero->options.homes.home[kind] != DS_HOME_DEVICE;
    return has;
}

/* A block at a time, of which the first half may not be asked for. */
static ds_status view_block(struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                            uint64_t count, struct ds_stream *stream, struct ds_zero_view *out)
{
    struct ds_swap_slot slot;
    uint64_t offset;
    const uint32_t block = zero_block_at(zero, state, start, &count, &offset);

    DS_TRY(ds_swap_queue(zero->travel.swap, DS_SWAP_COPY, block, &slot));
    *out = (struct ds_zero_view){ds_tensor1(slot.at + offset, state->dtype, count), 1, slot.empty};
    return ds_stream_await(stream, slot.full);
}

ds_status ds_zero_shard(struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind, uint64_t start,
                        uint64_t count, struct ds_stream *stream, struct ds_zero_view *out)
{
    struct zero_unit *u = unit_at(zero, unit);
    const struct zero_state *state = zero_state_of(u, kind);
    const int is_away = state && start >= state->near_elems;

    DS_ASSERT(state && start + count <= u->layout.shard_elems);
    if (is_away && state->is_filed)
        return view_block(zero, state, start, count, stream, out);
    uint8_t *at = zero_state_run(state, start, &count);
    *out = (struct ds_zero_view){ds_tensor1(at, state->dtype, count), is_away, NULL};
    return DS_OK;
}

/* The host waits between what was written and what is gathered: no event is needed on either side. */
ds_status ds_zero_publish(struct ds_zero *zero)
{
    DS_TRY(zero_files_flush(zero));
    DS_TRY(zero->device_ops->stream_sync(zero->options.compute));
    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        const struct zero_unit *u = &zero->units[i];
        if (u->param.whole)
            DS_TRY(zero_gather(zero, u, &u->param));
        if (u->master.whole)
            DS_TRY(zero_gather(zero, u, &u->master));
    }
    return zero->device_ops->stream_sync(zero->options.comm);
}

ds_status ds_zero_publish_moments(struct ds_zero *zero)
{
    DS_TRY(zero_files_flush(zero));
    DS_TRY(zero->device_ops->stream_sync(zero->options.compute));
    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        const struct zero_unit *u = &zero->units[i];
        if (u->exp_avg.whole)
            DS_TRY(zero_gather(zero, u, &u->exp_avg));
        if (u->exp_avg_sq.whole)
            DS_TRY(zero_gather(zero, u, &u->exp_avg_sq));
    }
    return zero->device_ops->stream_sync(zero->options.comm);
}
