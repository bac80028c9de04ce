/* offload.c - strips of states on their way between their homes and the slots in which they are updated. One stream
 * brings them, another takes them back, so that both directions of a link work at once; nothing here waits on the
 * host.
 *
 * What is fetched waits for what was evicted from its slot, and for what was evicted of its unit: the strip itself may
 * have left last from another one. */
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

    return state->shard || leaves(state) ? state : NULL;
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
        if (o->units[i].elems == 0 || o->units[i].is_frozen ||
            first >= ds_zero_strip_count(strips) || ds_zero_strip_on_host(strips, first))
            continue;
        const uint64_t elems = ds_zero_strip_at(strips, first).count;
        most = elems > most ? elems : most;
    }
    return most;
}

enum ds_dtype zero_kind_dtype(const struct ds_zero_dtypes *d, enum ds_zero_kind kind)
{
    const enum ds_dtype dtypes[] = {d->param, d->master == DS_MASTER_REMAINDER16 ? DS_I16 : DS_F32,
                                    d->exp_avg, d->exp_avg_sq, d->gradient};

    return dtypes[kind];
}

static size_t kind_bytes(const struct ds_zero_options *o, enum ds_zero_kind kind)
{
    if (o->homes.home[kind] == DS_HOME_DEVICE ||
        (kind == DS_ZERO_MASTER && !has_master(&o->dtypes)))
        return 0;
    return dtype_bytes(zero_kind_dtype(&o->dtypes, kind), slot_elems(o));
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
    DS_TRY(zero->device_ops->event_open(zero->options.device, &slot->evicted));
    DS_TRY(zero->device_ops->event_open(zero->options.device, &slot->fetched_grad));
    return zero->device_ops->event_open(zero->options.device, &slot->fetched);
}

static ds_status open_units(struct ds_zero *zero)
{
    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        struct zero_unit *u = &zero->units[i];
        if (is_here(u) && ds_zero_strip_first_away(&u->strips) < ds_zero_strip_count(&u->strips))
            DS_TRY(zero->device_ops->event_open(zero->options.device, &u->evicted));
    }
    return DS_OK;
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
    DS_TRY(ops->event_open(device, &travel->gone));
    DS_TRY(open_units(zero));
    travel->slots = calloc(count + 1u, sizeof *travel->slots);
    if (!travel->slots)
        return ds_fail(DS_ERR_NO_MEMORY, "%u slots of states", count);
    travel->slot_count = count;
    for (uint32_t i = 0; i < count; i++)
        DS_TRY(open_slot(zero, &travel->slots[i]));
    DS_TRY(zero_host_open(zero));
    return zero->options.is_training ? zero_grads_open(zero) : DS_OK;
}

void zero_travel_close(struct ds_zero *zero)
{
    struct zero_travel *travel = &zero->travel;

    for (uint32_t i = 0; i < travel->slot_count; i++) {
        zero_close_event(zero, travel->slots[i].fetched);
        zero_close_event(zero, travel->slots[i].evicted);
        zero_close_event(zero, travel->slots[i].fetched_grad);
    }
    for (uint32_t i = 0; zero->units && i < zero->options.unit_count; i++)
        zero_close_event(zero, zero->units[i].evicted);
    zero_close_event(zero, travel->updated);
    zero_close_event(zero, travel->evicted);
    zero_close_event(zero, travel->loaded);
    zero_close_event(zero, travel->gone);
    zero_host_close(zero);
    zero_grads_close(zero);
    free(travel->slots);
}

/* ---- ways */

static struct zero_strip_slot *strip_slot(struct ds_zero *zero, uint32_t slot)
{
    DS_ASSERT(slot < zero->travel.slot_count);
    return &zero->travel.slots[slot];
}

static ds_status bring_block(struct ds_zero *zero, uint32_t block, uint64_t offset, uint8_t *to,
                             size_t bytes)
{
    struct ds_stream *load = zero->options.load;
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(zero->travel.swap, DS_SWAP_LOAD, block, &slot));
    DS_TRY(ds_stream_await(load, slot.full));
    DS_TRY(zero->device_ops->copy(load, to, slot.at + offset, bytes));
    return ds_stream_signal(load, slot.empty);
}

ds_status zero_bring(struct ds_zero *zero, struct ds_stream *stream, const struct zero_state *state,
                     uint64_t start, uint64_t count, uint8_t *to)
{
    DS_ASSERT(start >= state->near_elems);
    if (!state->is_filed)
        return zero->device_ops->copy(stream, to,
                                      element(state->away, state->dtype, start - state->near_elems),
                                      dtype_bytes(state->dtype, count));
    DS_ASSERT(stream == zero->options.load);
    for (uint64_t done = 0, run; done < count; done += run) {
        uint64_t offset;
        run = count - done;
        const uint32_t block = zero_block_at(zero, state, start + done, &run, &offset);
        DS_TRY(bring_block(zero, block, offset, element(to, state->dtype, done),
                           dtype_bytes(state->dtype, run)));
    }
    return DS_OK;
}

ds_status zero_take_home(struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                         uint64_t count, const uint8_t *from)
{
    struct ds_stream *store = zero->options.store;
    const size_t bytes = dtype_bytes(state->dtype, count);
    struct ds_swap_slot slot;
    uint64_t offset, run = count;

    DS_ASSERT(start >= state->near_elems);
    if (!state->is_filed)
        return zero->device_ops->copy(
            store, element(state->away, state->dtype, start - state->near_elems), from, bytes);
    const uint32_t block = zero_block_at(zero, state, start, &run, &offset);
    DS_ASSERT(offset == 0 && run == count &&
              bytes == ds_swap_block_bytes(zero->travel.swap, block));
    DS_TRY(ds_swap_queue(zero->travel.swap, DS_SWAP_STORE, block, &slot));
    DS_TRY(ds_stream_await(store, slot.empty));
    DS_TRY(zero->device_ops->copy(store, slot.at, from, bytes));
    return ds_stream_signal(store, slot.full);
}

/* Every kind of the strip that is away, in one direction, but its gradient. */
static ds_status move(struct ds_zero *zero, const struct zero_strip_slot *slot, int is_fetch)
{
    struct zero_unit *u = unit_at(zero, slot->unit);
    const struct ds_span strip = ds_zero_strip_at(&u->strips, slot->strip);

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        const struct zero_state *state = zero_state_of(u, kind);
        if (!state || strip.start < state->near_elems || kind == DS_ZERO_GRAD)
            continue;
        if (is_fetch)
            DS_TRY(zero_bring(zero, zero->options.load, state, strip.start, strip.count,
                              slot->at[kind]));
        else
            DS_TRY(zero_take_home(zero, state, strip.start, strip.count, slot->at[kind]));
    }
    return DS_OK;
}

/* It is at home late, when what is fetched ahead for other strips should have come long since, and never goes back. */
static ds_status fetch_gradient(struct ds_zero *zero, struct zero_strip_slot *slot)
{
    const struct ds_device_ops *ops = zero->device_ops;
    const struct zero_unit *u = unit_at(zero, slot->unit);
    const struct ds_span strip = ds_zero_strip_at(&u->strips, slot->strip);
    struct ds_stream *stream = zero_grad_stream(zero, u);

    slot->has_grad = leaves(&u->grad) && strip.start >= u->grad.near_elems;
    if (!slot->has_grad)
        return DS_OK;
    DS_TRY(ops->stream_wait(stream, slot->evicted));
    DS_TRY(ops->stream_wait(stream, u->stored));
    DS_TRY(zero_bring(zero, stream, &u->grad, strip.start, strip.count, slot->at[DS_ZERO_GRAD]));
    return ops->event_record(slot->fetched_grad, stream);
}

ds_status ds_zero_fetch(struct ds_zero *zero, uint32_t unit, uint32_t strip, uint32_t slot,
                        int is_ahead)
{
    struct zero_strip_slot *place = strip_slot(zero, slot);
    struct ds_timeline *timeline = is_ahead ? NULL : zero->options.timeline;
    struct ds_stream *load = zero->options.load;
    uint32_t span;

    DS_ASSERT(place->unit == NO_SLOT);
    place->unit = unit;
    place->strip = strip;
    if (ds_zero_strip_on_host(&unit_at(zero, unit)->strips, strip))
        return zero_host_fetch(zero, place);
    place->is_coming = 1;
    DS_TRY(zero->device_ops->stream_wait(load, place->evicted));
    DS_TRY(zero->device_ops->stream_wait(load, unit_at(zero, unit)->evicted));
    DS_TRY(ds_timeline_wait(timeline, DS_TIMELINE_LOAD, DS_TIMELINE_FETCH, &span));
    DS_TRY(move(zero, place, 1));
    DS_TRY(ds_timeline_end(timeline, span));
    DS_TRY(zero->device_ops->event_record(place->fetched, load));
    return fetch_gradient(zero, place);
}

ds_status ds_zero_evict(struct ds_zero *zero, struct ds_stream *stream, uint32_t unit,
                        uint32_t strip, uint32_t slot)
{
    struct zero_strip_slot *place = strip_slot(zero, slot);
    struct zero_travel *travel = &zero->travel;
    struct ds_stream *store = zero->options.store;

    DS_ASSERT(place->unit == unit && place->strip == strip);
    if (ds_zero_strip_on_host(&unit_at(zero, unit)->strips, strip))
        return zero_host_evict(zero, stream, place);
    DS_TRY(ds_stream_after(store, stream, travel->updated));
    DS_TRY(move(zero, place, 0));
    place->unit = NO_SLOT;
    travel->is_evicting = travel->is_storing = 1;
    DS_TRY(zero->device_ops->event_record(place->evicted, store));
    DS_TRY(zero->device_ops->event_record(unit_at(zero, unit)->evicted, store));
    return zero->device_ops->event_record(travel->evicted, store);
}

/* A shard may be near at its start and away behind that. */
ds_status zero_load_weights(struct ds_zero *zero, const struct zero_unit *unit,
                            struct ds_event *idle, uint8_t *whole)
{
    const struct zero_state *param = &unit->param;
    const uint64_t elems = unit->layout.shard_elems, near = param->near_elems;
    uint8_t *to = element(whole, param->dtype, elems * zero->shard_rank);
    struct ds_stream *load = zero->options.load;
    uint32_t span;

    DS_TRY(zero->device_ops->stream_wait(load, idle));
    DS_TRY(zero->device_ops->stream_wait(load, unit->updated));
    DS_TRY(zero->device_ops->stream_wait(load, unit->evicted));
    DS_TRY(ds_timeline_wait(zero->options.timeline, DS_TIMELINE_LOAD, DS_TIMELINE_FETCH, &span));
    DS_TRY(zero->device_ops->copy(load, to, param->shard, dtype_bytes(param->dtype, near)));
    DS_TRY(zero_bring(zero, load, param, near, elems - near, element(to, param->dtype, near)));
    return ds_timeline_end(zero->options.timeline, span);
}

/* ---- who waits for them */

ds_status zero_wait_loaded(struct ds_zero *zero, struct ds_stream *stream, struct ds_event *event)
{
    uint32_t span;

    DS_TRY(ds_timeline_wait(zero->options.timeline, zero_row_of(zero, stream),
                            DS_TIMELINE_WAIT_OFFLOAD, &span));
    DS_TRY(zero->device_ops->stream_wait(stream, event));
    return ds_timeline_end(zero->options.timeline, span);
}

ds_status zero_wait_fetched(struct ds_zero *zero, struct ds_stream *stream, uint32_t unit,
                            uint32_t strip, uint32_t slot)
{
    const struct zero_strip_slot *place = strip_slot(zero, slot);

    DS_ASSERT(place->unit == unit && place->strip == strip);
    DS_TRY(zero_wait_loaded(zero, stream, place->fetched));
    return place->has_grad ? zero_wait_loaded(zero, stream, place->fetched_grad) : DS_OK;
}

ds_status ds_zero_evicted(const struct ds_zero *zero, struct ds_stream *stream)
{
    if (zero->travel.is_evicting)
        DS_TRY(zero->device_ops->stream_wait(stream, zero->travel.evicted));
    if (zero->travel.is_returning)
        DS_TRY(zero->device_ops->stream_wait(stream, zero->travel.returned));
    return DS_OK;
}

ds_status ds_zero_join(struct ds_zero *zero)
{
    struct ds_stream *compute = zero->options.compute;
    struct zero_travel *travel = &zero->travel;

    for (uint32_t i = 0; i < travel->slot_count; i++) {
        struct zero_strip_slot *place = &travel->slots[i];
        if (place->unit != NO_SLOT && place->is_coming)
            DS_TRY(zero->device_ops->stream_wait(compute, place->fetched));
        if (place->unit != NO_SLOT && place->is_coming && place->has_grad)
            DS_TRY(zero->device_ops->stream_wait(compute, place->fetched_grad));
        place->is_coming = 0;
    }
    if (travel->is_storing)
        DS_TRY(ds_stream_after(compute, zero->options.store, travel->gone));
    travel->is_evicting = travel->is_storing = 0;
    return zero_host_join(zero);
}

/* Every event of a list before this one that one waits for: see ds_zero_rejoin. */
ds_status zero_travel_rejoin(struct ds_zero *zero)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_stream *compute = zero->options.compute;
    struct zero_travel *travel = &zero->travel;

    for (uint32_t i = 0; i < travel->slot_count; i++) {
        DS_TRY(ops->event_record(travel->slots[i].fetched, compute));
        DS_TRY(ops->event_record(travel->slots[i].fetched_grad, compute));
        DS_TRY(ops->event_record(travel->slots[i].evicted, compute));
    }
    for (uint32_t i = 0; i < zero->options.unit_count; i++)
        if (zero->units[i].evicted)
            DS_TRY(ops->event_record(zero->units[i].evicted, compute));
    if (travel->evicted)
        DS_TRY(ops->event_record(travel->evicted, compute));
    DS_TRY(zero_host_rejoin(zero));
    return zero_grads_rejoin(zero);
}
