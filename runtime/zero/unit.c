/* unit.c - a unit's way through a step: gathered into a slot, released, its gradient brought home, its
 * shard updated and made known. Everything here queues; nothing waits on the host. The compute stream
 * waits for gathers, the comm stream for arithmetic, through events. */
#include "zero.h"

#include <stddef.h>

ds_status zero_comm_after_compute(struct ds_zero *zero)
{
    return ds_stream_after(zero->options.comm, zero->options.compute, zero->handover);
}

/* The compute stream goes on after `event`; where that stops the host, the time is booked. */
static ds_status compute_waits(struct ds_zero *zero, struct ds_event *event)
{
    const uint64_t begin_ns = ds_clock_mono_ns(zero->options.clock);
    ds_status st = zero->device_ops->stream_wait(zero->options.compute, event);

    zero->waited_ns += ds_clock_mono_ns(zero->options.clock) - begin_ns;
    return st;
}

ds_status zero_compute_after_comm(struct ds_zero *zero)
{
    DS_TRY(zero->device_ops->event_record(zero->handover, zero->options.comm));
    return compute_waits(zero, zero->handover);
}

uint64_t ds_zero_waited_ns(const struct ds_zero *zero)
{
    return zero->waited_ns;
}

const struct ds_zero_layout *ds_zero_unit_layout(const struct ds_zero *zero, uint32_t unit)
{
    return &unit_at(zero, unit)->layout;
}

/* ---- weights */

static struct zero_slot *slot_of(struct zero_slots *slots, uint32_t slot)
{
    DS_ASSERT(slot < slots->count);
    return &slots->slots[slot];
}

ds_status ds_zero_prefetch(struct ds_zero *zero, uint32_t unit, uint32_t slot)
{
    struct zero_unit *u = unit_at(zero, unit);
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_stream *comm = zero->options.comm;

    if (weights_stay(zero) || u->is_gathering)
        return DS_OK;
    struct zero_slot *place = slot_of(&zero->weight_slots[u->slot_class], slot);
    DS_ASSERT(place->holder == NO_SLOT);
    place->holder = unit;
    u->weight_slot = slot;
    u->is_gathering = 1;
    DS_TRY(ops->stream_wait(comm, place->idle));
    DS_TRY(ops->stream_wait(comm, u->updated));
    DS_TRY(ds_comm_all_gather(zero->options.shard, u->param_shard, place->at, u->layout.shard_elems,
                              DS_F32, comm));
    return ops->event_record(u->ready, comm);
}

ds_status ds_zero_acquire(struct ds_zero *zero, uint32_t unit, uint32_t slot)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_TRY(ds_zero_prefetch(zero, unit, slot));
    u->holds++;
    return compute_waits(zero, u->ready);
}

ds_status ds_zero_release(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(u->holds > 0);
    if (--u->holds > 0 || weights_stay(zero))
        return DS_OK;
    struct zero_slot *place = slot_of(&zero->weight_slots[u->slot_class], u->weight_slot);
    place->holder = NO_SLOT;
    u->weight_slot = NO_SLOT;
    u->is_gathering = 0;
    return zero->device_ops->event_record(place->idle, zero->options.compute);
}

void *ds_zero_weights(const struct ds_zero *zero, uint32_t unit)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(u->holds > 0);
    if (weights_stay(zero))
        return u->param_whole;
    return zero->weight_slots[u->slot_class].slots[u->weight_slot].at;
}

/* ---- gradients */

ds_status ds_zero_grad_acquire(struct ds_zero *zero, uint32_t unit, uint32_t slot, int *is_started)
{
    struct zero_unit *u = unit_at(zero, unit);
    struct ds_stream *compute = zero->options.compute;

    *is_started = u->grad_slot != NO_SLOT;
    if (*is_started)
        return DS_OK;
    struct zero_slot *place = slot_of(&zero->grad_slots[u->slot_class], slot);
    DS_ASSERT(place->holder == NO_SLOT);
    place->holder = unit;
    u->grad_slot = slot;
    DS_TRY(compute_waits(zero, place->idle));
    for (uint32_t i = 0; i < u->gap_count; i++) {
        struct ds_fill_args gap = {place->at + f32_bytes(u->gaps[i].start),
                                   f32_bytes(u->gaps[i].count)};
        DS_TRY(zero->kernels->fill(compute, &gap));
    }
    return DS_OK;
}

void *ds_zero_grads(const struct ds_zero *zero, uint32_t unit)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(u->grad_slot != NO_SLOT);
    return zero->grad_slots[u->slot_class].slots[u->grad_slot].at;
}

/* The sum over ranks lies in this rank's part of the slot; onto the accumulator with it. */
static ds_status accumulate(struct ds_zero *zero, struct zero_unit *u, float *part)
{
    const uint64_t count = u->layout.shard_elems;

    if (!u->is_reduced)
        return zero->device_ops->copy(zero->options.comm, u->grad_shard, part, f32_bytes(count));
    struct ds_add_args args = {ds_tensor1(u->grad_shard, DS_F32, count),
                               ds_tensor1(part, DS_F32, count)};
    return zero->kernels->add(zero->options.comm, &args);
}

ds_status ds_zero_reduce(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);
    struct ds_stream *comm = zero->options.comm;
    const uint64_t count = u->layout.shard_elems;

    DS_ASSERT(u->grad_slot != NO_SLOT);
    struct zero_slot *place = slot_of(&zero->grad_slots[u->slot_class], u->grad_slot);
    float *local = (float *)(void *)place->at;
    float *part = local + count * zero->shard_rank;

    DS_TRY(zero_comm_after_compute(zero));
    DS_TRY(ds_comm_reduce_scatter(zero->options.shard, local, part, count, DS_F32, comm));
    DS_TRY(ds_comm_all_reduce(zero->options.replica, part, count, DS_F32, DS_REDUCE_SUM, comm));
    DS_TRY(accumulate(zero, u, part));
    u->is_reduced = 1;
    u->is_grad_gathered = 0;
    place->holder = NO_SLOT;
    u->grad_slot = NO_SLOT;
    return zero->device_ops->event_record(place->idle, comm);
}

/* ---- the end of a step */

ds_status ds_zero_norm(struct ds_zero *zero, struct ds_step_record *record)
{
    struct ds_stream *compute = zero->options.compute;
    double *sums = zero->piece_sums;

    DS_TRY(zero_compute_after_comm(zero));
    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        struct zero_unit *u = &zero->units[i];
        const uint64_t count = u->layout.shard_elems, pieces = count / DS_NORM_PIECE;
        struct ds_norm_pieces_args args = {ds_tensor1(u->grad_shard, DS_F32, count),
                                           ds_tensor1(sums, DS_F64, pieces)};
        DS_TRY(zero->kernels->norm_pieces(compute, &args));
        sums += pieces;
        u->is_reduced = 0;
    }
    struct ds_norm_sum_args total = {ds_tensor1(zero->piece_sums, DS_F64, zero->piece_count),
                                     record};
    DS_TRY(zero->kernels->norm_sum(compute, &total));

    _Static_assert(offsetof(struct ds_step_record, norm_squared) ==
                       offsetof(struct ds_step_record, loss_sum) + sizeof(double),
                   "one message sums both");
    DS_TRY(zero_comm_after_compute(zero));
    DS_TRY(ds_comm_all_reduce(zero->options.shard, &record->loss_sum, 2, DS_F64, DS_REDUCE_SUM,
                              zero->options.comm));
    DS_TRY(ds_comm_all_reduce(zero->options.replica, &record->loss_sum, 1, DS_F64, DS_REDUCE_SUM,
                              zero->options.comm));
    return zero_compute_after_comm(zero);
}

ds_status ds_zero_sum_tokens(struct ds_zero *zero, struct ds_step_record *record)
{
    DS_TRY(zero_comm_after_compute(zero));
    DS_TRY(ds_comm_all_reduce(zero->options.shard, &record->trained_tokens, 1, DS_U64,
                              DS_REDUCE_SUM, zero->options.comm));
    DS_TRY(ds_comm_all_reduce(zero->options.replica, &record->trained_tokens, 1, DS_U64,
                              DS_REDUCE_SUM, zero->options.comm));
    return zero_compute_after_comm(zero);
}

/* Stage 0 updates everything everywhere: its whole gradient comes together here. */
static ds_status gather_gradient(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);

    if (zero->options.stage != 0 || zero->shard_count == 1 || u->is_grad_gathered)
        return DS_OK;
    u->is_grad_gathered = 1;
    DS_TRY(ds_comm_all_gather(zero->options.shard, u->grad_shard, u->grad_whole,
                              u->layout.shard_elems, DS_F32, zero->options.comm));
    return zero->device_ops->event_record(u->ready, zero->options.comm);
}

void ds_zero_update_part(const struct ds_zero *zero, uint32_t unit, uint64_t *start,
                         uint64_t *count)
{
    const struct ds_zero_layout *layout = &unit_at(zero, unit)->layout;
    const int is_whole = zero->options.stage == 0;

    *start = is_whole ? 0 : layout->shard_elems * zero->shard_rank;
    *count = is_whole ? layout->full_elems : layout->shard_elems;
}

static struct ds_zero_state state_of(const struct ds_zero *zero, uint32_t unit)
{
    const struct zero_unit *u = unit_at(zero, unit);
    const int is_whole = zero->options.stage == 0;
    float *param = is_whole ? u->param_whole : u->param_shard;
    uint64_t start, count;

    ds_zero_update_part(zero, unit, &start, &count);
    return (struct ds_zero_state){
        .master = ds_tensor1(param, DS_F32, count),
        .param = ds_tensor1(param, DS_F32, count),
        .grad = ds_tensor1(is_whole ? u->grad_whole : u->grad_shard, DS_F32, count),
        .exp_avg = ds_tensor1(u->exp_avg, DS_F32, count),
        .exp_avg_sq = ds_tensor1(u->exp_avg_sq, DS_F32, count),
        .start = start,
        .count = count,
    };
}

ds_status ds_zero_update_begin(struct ds_zero *zero, uint32_t unit, struct ds_zero_state *out)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_TRY(gather_gradient(zero, unit));
    if (unit + 1 < zero->options.unit_count) /* the next one travels while this one is updated */
        DS_TRY(gather_gradient(zero, unit + 1));
    if (zero->options.stage == 0)
        DS_TRY(compute_waits(zero, u->ready));
    *out = state_of(zero, unit);
    return DS_OK;
}

ds_status ds_zero_update_end(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);
    struct ds_stream *comm = zero->options.comm;

    DS_TRY(zero->device_ops->event_record(u->updated, zero->options.compute));
    if (zero->options.stage == 0 || zero->options.stage == 3 || zero->shard_count == 1)
        return DS_OK;
    DS_TRY(zero->device_ops->stream_wait(comm, u->updated));
    DS_TRY(ds_comm_all_gather(zero->options.shard, u->param_shard, u->param_whole,
                              u->layout.shard_elems, DS_F32, comm));
    return zero->device_ops->event_record(u->ready, comm);
}

/* ---- outside a step */

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
    return copy_now(zero, u->param_shard + start, from, f32_bytes(count));
}

ds_status ds_zero_read_shard(struct ds_zero *zero, uint32_t unit, uint64_t start, uint64_t count,
                             float *to)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(start + count <= u->layout.shard_elems);
    return copy_now(zero, to, u->param_shard + start, f32_bytes(count));
}

/* Shards were written while the host waited, and it waits here: no event is needed on either side. */
ds_status ds_zero_publish(struct ds_zero *zero)
{
    struct ds_stream *comm = zero->options.comm;

    for (uint32_t i = 0; weights_stay(zero) && i < zero->options.unit_count; i++) {
        struct zero_unit *u = &zero->units[i];
        DS_TRY(ds_comm_all_gather(zero->options.shard, u->param_shard, u->param_whole,
                                  u->layout.shard_elems, DS_F32, comm));
    }
    return zero->device_ops->stream_sync(comm);
}
