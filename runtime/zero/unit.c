/* unit.c - a unit's way through a step: gathered into a slot, released, its gradient brought home.
 * Everything here queues; nothing waits on the host. The compute stream waits for gathers, the comm
 * stream for arithmetic, through events. */
#include "zero.h"

ds_status zero_comm_after_compute(struct ds_zero *zero)
{
    return ds_stream_after(zero->options.comm, zero->options.compute, zero->handover);
}

/* The compute stream goes on after `event`, which the comm stream brings. Where that talks to nobody it is an
 * order and no wait for others. */
static ds_status compute_waits(struct ds_zero *zero, struct ds_event *event)
{
    struct ds_timeline *timeline = zero->is_alone ? NULL : zero->options.timeline;
    uint32_t span;

    DS_TRY(ds_timeline_wait(timeline, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_COMM, &span));
    DS_TRY(zero->device_ops->stream_wait(zero->options.compute, event));
    return ds_timeline_end(timeline, span);
}

/* The comm stream goes on after `event`, which arithmetic brings. Before NORM only: see timeline.h. */
static ds_status comm_waits(struct ds_zero *zero, struct ds_event *event)
{
    uint32_t span;

    DS_TRY(ds_timeline_wait(zero->options.timeline, DS_TIMELINE_COMM, DS_TIMELINE_WAIT_COMPUTE,
                            &span));
    DS_TRY(zero->device_ops->stream_wait(zero->options.comm, event));
    return ds_timeline_end(zero->options.timeline, span);
}

ds_status zero_compute_after_comm(struct ds_zero *zero)
{
    DS_TRY(zero->device_ops->event_record(zero->handover, zero->options.comm));
    return compute_waits(zero, zero->handover);
}

ds_status zero_gather(struct ds_zero *zero, const struct zero_unit *unit,
                      const struct zero_state *state)
{
    return ds_comm_all_gather(zero->options.shard, state->shard, state->whole,
                              unit->layout.shard_elems, state->dtype, zero->options.comm);
}

ds_status zero_gather_ready(struct ds_zero *zero, struct zero_unit *unit,
                            const struct zero_state *state)
{
    DS_TRY(zero_gather(zero, unit, state));
    unit->is_coming = 1;
    return zero->device_ops->event_record(unit->ready, zero->options.comm);
}

ds_status zero_wait_ready(struct ds_zero *zero, struct zero_unit *unit)
{
    if (!unit->is_coming)
        return DS_OK;
    unit->is_coming = 0;
    if (zero->shard_count == 1) /* nobody gathers: it comes from its home */
        return zero_wait_loaded(zero, zero->options.compute, unit->ready);
    return compute_waits(zero, unit->ready);
}

const struct ds_zero_layout *ds_zero_unit_layout(const struct ds_zero *zero, uint32_t unit)
{
    DS_ASSERT(unit < zero->options.unit_count);
    return &zero->units[unit].layout;
}

static ds_status record_again(struct ds_zero *zero, const struct zero_slots *slots)
{
    for (uint32_t i = 0; i < slots->count; i++)
        DS_TRY(zero->device_ops->event_record(slots->slots[i].idle, zero->options.compute));
    return DS_OK;
}

ds_status ds_zero_rejoin(struct ds_zero *zero)
{
    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        struct zero_unit *u = &zero->units[i];
        u->is_coming = u->is_updating = 0;
        if (is_here(u) && !weights_stay(u))
            DS_TRY(zero->device_ops->event_record(u->updated, zero->options.compute));
        if (u->stored)
            DS_TRY(zero->device_ops->event_record(u->stored, zero->options.compute));
    }
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        DS_TRY(record_again(zero, &zero->weight_slots[c]));
        DS_TRY(record_again(zero, &zero->grad_slots[c]));
    }
    DS_TRY(zero_travel_rejoin(zero));
    return zero_comm_after_compute(zero);
}

/* ---- weights */

static struct zero_slot *slot_of(struct zero_slots *slots, uint32_t slot)
{
    DS_ASSERT(slot < slots->count);
    return &slots->slots[slot];
}

/* From everyone's shard, which is in device memory. */
static ds_status gather_near(struct ds_zero *zero, struct zero_unit *u, struct zero_slot *place)
{
    const struct zero_state gathered = {.dtype = u->param.dtype,
                                        .shard = u->param.shard,
                                        .whole = u->pack ? place->packed : place->at};

    DS_TRY(comm_waits(zero, place->idle));
    DS_TRY(comm_waits(zero, u->updated));
    return zero_gather_ready(zero, u, &gathered);
}

/* The own part comes from its home into the place where gathering would put it, and is sent from there. */
static ds_status gather_away(struct ds_zero *zero, struct zero_unit *u, struct zero_slot *place)
{
    uint8_t *whole = u->pack ? place->packed : place->at;
    const struct zero_state gathered = {
        .dtype = u->param.dtype,
        .shard = element(whole, u->param.dtype, u->layout.shard_elems * zero->shard_rank),
        .whole = whole};

    DS_TRY(zero_load_weights(zero, u, place->idle, whole));
    if (zero->shard_count == 1) {
        u->is_coming = 1;
        return zero->device_ops->event_record(u->ready, zero->options.load);
    }
    DS_TRY(zero->device_ops->event_record(zero->travel.loaded, zero->options.load));
    DS_TRY(comm_waits(zero, zero->travel.loaded));
    return zero_gather_ready(zero, u, &gathered);
}

ds_status ds_zero_prefetch(struct ds_zero *zero, uint32_t unit, uint32_t slot)
{
    struct zero_unit *u = unit_at(zero, unit);

    if (weights_stay(u) || u->is_gathering)
        return DS_OK;
    struct zero_slot *place = slot_of(&zero->weight_slots[u->slot_class], slot);
    DS_ASSERT(place->holder == NO_SLOT);
    place->holder = unit;
    u->weight_slot = slot;
    u->is_gathering = 1;
    if (u->param.whole) /* packed, and here */
        return DS_OK;
    return leaves(&u->param) ? gather_away(zero, u, place) : gather_near(zero, u, place);
}

ds_status ds_zero_acquire(struct ds_zero *zero, uint32_t unit, uint32_t slot)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_TRY(ds_zero_prefetch(zero, unit, slot));
    u->holds++;
    DS_TRY(zero_wait_ready(zero, u));
    DS_TRY(zero_wait_updated(zero, u));
    return u->pack ? zero_unpack(zero, u) : DS_OK;
}

ds_status ds_zero_release(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(u->holds > 0);
    if (--u->holds > 0 || weights_stay(u))
        return DS_OK;
    struct zero_slot *place = slot_of(&zero->weight_slots[u->slot_class], u->weight_slot);
    place->holder = NO_SLOT;
    u->weight_slot = NO_SLOT;
    u->is_gathering = 0;
    u->is_unpacked = 0;
    return zero->device_ops->event_record(place->idle, zero->options.compute);
}

void *ds_zero_weights(const struct ds_zero *zero, uint32_t unit)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(u->holds > 0);
    if (weights_stay(u))
        return u->param.whole;
    return zero->weight_slots[u->slot_class].slots[u->weight_slot].at;
}

/* ---- gradients */

ds_status ds_zero_grad_acquire(struct ds_zero *zero, uint32_t unit, uint32_t slot, int *is_started)
{
    struct zero_unit *u = unit_at(zero, unit);
    struct ds_stream *compute = zero->options.compute;
    const enum ds_dtype dtype = zero->options.dtypes.reduce;

    *is_started = u->grad_slot != NO_SLOT || (zero->grads_stay && u->is_reduced);
    if (zero->grads_stay)
        u->grad_slot = slot; /* says that it is being made */
    if (*is_started || zero->grads_stay)
        return DS_OK;
    struct zero_slot *place = slot_of(&zero->grad_slots[u->slot_class], slot);
    DS_ASSERT(place->holder == NO_SLOT);
    place->holder = unit;
    u->grad_slot = slot;
    DS_TRY(compute_waits(zero, place->idle));
    for (uint32_t i = 0; i < u->gap_count; i++) {
        struct ds_fill_args gap = {element(place->at, dtype, u->gaps[i].start),
                                   dtype_bytes(dtype, u->gaps[i].count)};
        DS_TRY(zero->kernels->fill(compute, &gap));
    }
    return DS_OK;
}

void *ds_zero_grads(const struct ds_zero *zero, uint32_t unit)
{
    const struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(u->grad_slot != NO_SLOT);
    if (zero->grads_stay)
        return u->grad.shard; /* of one rank: the whole */
    return zero->grad_slots[u->slot_class].slots[u->grad_slot].at;
}

/* The sum over ranks at `part` onto these elements of the accumulator, the first of a step over them. */
ds_status zero_add_part(struct ds_zero *zero, const struct zero_unit *u, uint8_t *onto,
                        uint8_t *part, uint64_t count)
{
    const enum ds_dtype dtype = zero->options.dtypes.reduce;
    const struct ds_tensor to = ds_tensor1(onto, u->grad.dtype, count);
    const struct ds_tensor from = ds_tensor1(part, dtype, count);
    struct ds_stream *comm = zero->options.comm;

    if (count == 0)
        return DS_OK;
    if (u->is_reduced)
        return zero->kernels->add(comm, &(struct ds_add_args){to, from});
    if (dtype != u->grad.dtype)
        return zero->kernels->cast(comm, &(struct ds_cast_args){to, from});
    return zero->device_ops->copy(comm, to.data, part, dtype_bytes(dtype, count));
}

/* What several ranks each saw a part of becomes whole on all of them. */
static ds_status sum_partial(struct ds_zero *zero, const struct ds_zero_unit_spec *spec,
                             uint8_t *local)
{
    const enum ds_dtype dtype = zero->options.dtypes.reduce;

    for (uint32_t i = 0; i < spec->sum_count; i++) {
        const struct ds_zero_sum *sum = &spec->sums[i];
        DS_TRY(ds_comm_all_reduce(sum->over, element(local, dtype, sum->span.start),
                                  sum->span.count, dtype, DS_REDUCE_SUM, zero->options.comm));
    }
    return DS_OK;
}

ds_status ds_zero_reduce(struct ds_zero *zero, uint32_t unit, int is_last)
{
    struct zero_unit *u = unit_at(zero, unit);
    struct ds_stream *comm = zero->options.comm;
    const enum ds_dtype dtype = zero->options.dtypes.reduce;
    const uint64_t count = u->layout.shard_elems;

    DS_ASSERT(u->grad_slot != NO_SLOT);
    if (zero->grads_stay) {
        u->is_reduced = 1;
        u->grad_slot = NO_SLOT;
        return DS_OK;
    }
    struct zero_slot *place = slot_of(&zero->grad_slots[u->slot_class], u->grad_slot);
    uint8_t *part = element(place->at, dtype, count * zero->shard_rank);

    DS_TRY(zero->device_ops->event_record(zero->handover, zero->options.compute));
    DS_TRY(comm_waits(zero, zero->handover));
    DS_TRY(sum_partial(zero, &zero->options.units[unit], place->at));
    DS_TRY(ds_comm_reduce_scatter(zero->options.shard, place->at, part, count, dtype, comm));
    DS_TRY(ds_comm_all_reduce(zero->options.replica, part, count, dtype, DS_REDUCE_SUM, comm));
    DS_TRY(zero_add_part(zero, u, u->grad.shard, part, u->grad.near_elems));
    if (leaves(&u->grad))
        DS_TRY(zero_accumulate_away(zero, u, part, is_last));
    u->is_reduced = 1;
    u->is_grad_gathered = 0;
    place->holder = NO_SLOT;
    u->grad_slot = NO_SLOT;
    return zero->device_ops->event_record(place->idle, comm);
}
