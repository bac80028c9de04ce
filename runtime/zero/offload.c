/* offload.c - strips of states on their way between their homes and the slots in which they are updated. One stream
 * brings them, another takes them back, so that both directions of a link work at once; nothing here waits on the
 * host.
 *
 * What is fetched waits for all that was evicted before it in the list: the slot is free then, and so is, from the
 * last step, the strip itself. */
#include "zero.h"

#include <stdlib.h>

struct zero_state *zero_state_at(struct zero_unit *unit, enum ds_zero_kind kind)
{
    struct zero_state *const states[] = {[DS_ZERO_PARAM] = &unit->param,
                                         [DS_ZERO_MASTER] = &unit->master,
                                         [DS_ZERO_EXP_AVG] = &unit->exp_avg,
                                         [DS_ZERO_EXP_AVG_SQ] = &unit->exp_avg_sq,
                                         [DS_ZERO_GRAD] = &unit->grad};

    return states[kind];
}

struct zero_state *zero_state_of(struct zero_unit *unit, enum ds_zero_kind kind)
{
    struct zero_state *state = zero_state_at(unit, kind);

    return state->shard || state->away ? state : NULL;
}

uint8_t *zero_state_run(const struct zero_state *state, uint64_t start, uint64_t *count)
{
    if (start >= state->near_elems)
        return element(state->away, state->dtype, start - state->near_elems);
    if (*count > state->near_elems - start)
        *count = state->near_elems - start;
    return element(state->shard, state->dtype, start);
}

/* ---- slots */

/* The longest strip that is away: the first one of its unit, no other is longer. */
static uint64_t slot_elems(const struct ds_zero_options *o)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < o->unit_count; i++) {
        const struct ds_zero_strips *strips = &o->units[i].strips;
        const uint32_t first = ds_zero_strip_first_away(strips);
        if (o->units[i].elems == 0 || first >= ds_zero_strip_count(strips))
            continue;
        const uint64_t elems = ds_zero_strip_at(strips, first).count;
        most = elems > most ? elems : most;
    }
    return most;
}

static size_t kind_bytes(const struct ds_zero_options *o, enum ds_zero_kind kind)
{
    const struct ds_zero_dtypes *d = &o->dtypes;
    const enum ds_dtype dtypes[] = {d->param, d->master == DS_MASTER_REMAINDER16 ? DS_I16 : DS_F32,
                                    d->exp_avg, d->exp_avg_sq, d->gradient};

    if (o->homes.home[kind] == DS_HOME_DEVICE || (kind == DS_ZERO_MASTER && !has_master(d)))
        return 0;
    return dtype_bytes(dtypes[kind], slot_elems(o));
}

uint64_t zero_strip_slot_bytes(const struct ds_zero_options *options)
{
    uint64_t bytes = 0;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        bytes += kind_bytes(options, kind);
    return bytes;
}

static ds_status open_slot(struct ds_zero *zero, struct zero_strip_slot *slot)
{
    slot->unit = NO_SLOT;
    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        void *at = NULL;
        DS_TRY(ds_memory_take(zero->options.memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_SLOTS,
                              kind_bytes(&zero->options, kind), &at));
        slot->at[kind] = at;
    }
    return zero->device_ops->event_open(zero->options.device, &slot->fetched);
}

ds_status zero_travel_open(struct ds_zero *zero)
{
    const uint32_t count = zero->options.is_training ? zero->options.slots.strip_count : 0;
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_device *device = zero->options.device;
    struct zero_travel *travel = &zero->travel;

    if (!zero->options.load)
        return DS_OK;
    DS_TRY(ops->event_open(device, &travel->updated));
    DS_TRY(ops->event_open(device, &travel->evicted));
    DS_TRY(ops->event_open(device, &travel->loaded));
    travel->slots = calloc(count + 1u, sizeof *travel->slots);
    if (!travel->slots)
        return ds_fail(DS_ERR_NO_MEMORY, "%u slots of states", count);
    travel->slot_count = count;
    for (uint32_t i = 0; i < count; i++)
        DS_TRY(open_slot(zero, &travel->slots[i]));
    return zero->options.is_training ? zero_grads_open(zero) : DS_OK;
}

void zero_travel_close(struct ds_zero *zero)
{
    struct zero_travel *travel = &zero->travel;

    for (uint32_t i = 0; i < travel->slot_count; i++)
        zero_close_event(zero, travel->slots[i].fetched);
    zero_close_event(zero, travel->updated);
    zero_close_event(zero, travel->evicted);
    zero_close_event(zero, travel->loaded);
    zero_grads_close(zero);
    free(travel->slots);
}

/* ---- ways */

static struct zero_strip_slot *strip_slot(struct ds_zero *zero, uint32_t slot)
{
    DS_ASSERT(slot < zero->travel.slot_count);
    return &zero->travel.slots[slot];
}

/* Every kind of the strip that is away, in one direction; a gradient has had its day. */
static ds_status move(struct ds_zero *zero, const struct zero_strip_slot *slot, int is_fetch)
{
    struct zero_unit *u = unit_at(zero, slot->unit);
    const struct ds_span strip = ds_zero_strip_at(&u->strips, slot->strip);
    struct ds_stream *stream = is_fetch ? zero->options.load : zero->options.store;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        const struct zero_state *state = zero_state_of(u, kind);
        if (!state || strip.start < state->near_elems || (kind == DS_ZERO_GRAD && !is_fetch))
            continue;
        uint8_t *home = element(state->away, state->dtype, strip.start - state->near_elems);
        DS_TRY(zero->device_ops->copy(stream, is_fetch ? slot->at[kind] : home,
                                      is_fetch ? home : slot->at[kind],
                                      dtype_bytes(state->dtype, strip.count)));
    }
    return DS_OK;
}

ds_status ds_zero_fetch(struct ds_zero *zero, uint32_t unit, uint32_t strip, uint32_t slot)
{
    struct zero_strip_slot *place = strip_slot(zero, slot);
    struct zero_travel *travel = &zero->travel;
    uint32_t span;

    DS_ASSERT(place->unit == NO_SLOT);
    place->unit = unit;
    place->strip = strip;
    DS_TRY(zero->device_ops->stream_wait(zero->options.load, travel->evicted));
    if (unit_at(zero, unit)->stored)
        DS_TRY(zero->device_ops->stream_wait(zero->options.load, unit_at(zero, unit)->stored));
    DS_TRY(ds_timeline_wait(zero->options.timeline, DS_TIMELINE_LOAD, DS_TIMELINE_FETCH, &span));
    DS_TRY(move(zero, place, 1));
    DS_TRY(ds_timeline_end(zero->options.timeline, span));
    return zero->device_ops->event_record(place->fetched, zero->options.load);
}

ds_status ds_zero_evict(struct ds_zero *zero, uint32_t unit, uint32_t strip, uint32_t slot)
{
    struct zero_strip_slot *place = strip_slot(zero, slot);
    struct zero_travel *travel = &zero->travel;

    DS_ASSERT(place->unit == unit && place->strip == strip);
    DS_TRY(ds_stream_after(zero->options.store, zero->options.compute, travel->updated));
    DS_TRY(move(zero, place, 0));
    place->unit = NO_SLOT;
    travel->is_evicting = 1;
    return zero->device_ops->event_record(travel->evicted, zero->options.store);
}

/* A shard may be near at its start and away behind that. */
ds_status zero_load_weights(struct ds_zero *zero, const struct zero_unit *unit,
                            struct ds_event *idle, uint8_t *whole)
{
    const struct zero_state *param = &unit->param;
    const uint64_t elems = unit->layout.shard_elems;
    struct ds_stream *load = zero->options.load;
    uint32_t span;

    DS_TRY(zero->device_ops->stream_wait(load, idle));
    DS_TRY(zero->device_ops->stream_wait(load, unit->updated));
    DS_TRY(zero->device_ops->stream_wait(load, zero->travel.evicted));
    DS_TRY(ds_timeline_wait(zero->options.timeline, DS_TIMELINE_LOAD, DS_TIMELINE_FETCH, &span));
    for (uint64_t at = 0, run; at < elems; at += run) {
        run = elems - at;
        const uint8_t *from = zero_state_run(param, at, &run);
        DS_TRY(zero->device_ops->copy(load,
                                      element(whole, param->dtype, elems * zero->shard_rank + at),
                                      from, dtype_bytes(param->dtype, run)));
    }
    return ds_timeline_end(zero->options.timeline, span);
}

/* ---- who waits for them */

ds_status zero_wait_loaded(struct ds_zero *zero, struct ds_event *event)
{
    uint32_t span;

    DS_TRY(ds_timeline_wait(zero->options.timeline, DS_TIMELINE_COMPUTE, DS_TIMELINE_WAIT_OFFLOAD,
                            &span));
    DS_TRY(zero->device_ops->stream_wait(zero->options.compute, event));
    return ds_timeline_end(zero->options.timeline, span);
}

ds_status zero_wait_fetched(struct ds_zero *zero, uint32_t unit, uint32_t strip, uint32_t slot)
{
    const struct zero_strip_slot *place = strip_slot(zero, slot);

    DS_ASSERT(place->unit == unit && place->strip == strip);
    return zero_wait_loaded(zero, place->fetched);
}

ds_status ds_zero_evicted(const struct ds_zero *zero, struct ds_stream *stream)
{
    if (!zero->travel.is_evicting)
        return DS_OK;
    return zero->device_ops->stream_wait(stream, zero->travel.evicted);
}

ds_status ds_zero_join(struct ds_zero *zero)
{
    DS_TRY(ds_zero_evicted(zero, zero->options.compute));
    zero->travel.is_evicting = 0;
    return DS_OK;
}
