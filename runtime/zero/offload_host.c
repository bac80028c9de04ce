/* offload_host.c - strips that the host updates. What the optimizer alone has of them never leaves its home: the gradient comes
 * into a slot of pinned memory and the new weights go from there, as far as either lives on the device. A word tells the
 * host's thread that the gradient is there, another one the stream that the weights are; nothing here waits.
 *
 * The gradients of a step are final with its verdict, so what is fetched waits for that. What returns does, too: the word
 * comes behind it, but by the event the stream becomes part of a capture. */
#include "zero.h"

enum { WORD_BYTES = 64 }; /* apart from each other: threads and streams write them */

/* ---- what comes and goes by slots */

/* Does the host read what is stored of a weight on the device? Else it is made of the master. */
static int reads_param(const struct ds_zero_dtypes *d)
{
    return !has_master(d) || d->master == DS_MASTER_REMAINDER16;
}

static int is_staged(const struct zero_unit *u, const struct zero_state *state, uint64_t start)
{
    return (state == &u->param || state == &u->grad) && start < state->near_elems;
}

/* The longest such strip of any unit. */
static uint64_t staged_elems(const struct ds_zero *zero, enum ds_zero_kind kind)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < zero->options.unit_count; i++) {
        struct zero_unit *u = &zero->units[i];
        const uint64_t start = u->strips.elems - u->strips.host_elems;
        const uint64_t elems = u->strips.host_elems < u->strips.strip_elems ? u->strips.host_elems
                                                                            : u->strips.strip_elems;
        if (is_here(u) && elems > most && is_staged(u, zero_state_at(u, kind), start))
            most = elems;
    }
    return most;
}

static ds_status take_pinned(struct ds_zero *zero, size_t bytes, void *at)
{
    return ds_memory_take(zero->options.memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_SLOTS, bytes, at);
}

static ds_status open_slot(struct ds_zero *zero, struct zero_strip_slot *slot)
{
    const struct ds_zero_dtypes *d = &zero->options.dtypes;
    void *at = NULL;

    DS_TRY(take_pinned(zero, dtype_bytes(d->param, staged_elems(zero, DS_ZERO_PARAM)), &at));
    slot->host[DS_ZERO_PARAM] = at;
    DS_TRY(take_pinned(zero, dtype_bytes(d->gradient, staged_elems(zero, DS_ZERO_GRAD)), &at));
    slot->host[DS_ZERO_GRAD] = at;
    DS_TRY(take_pinned(zero, 2 * WORD_BYTES, &at));
    slot->go = at;
    slot->done = slot->go + WORD_BYTES / sizeof *slot->go;
    return DS_OK;
}

ds_status zero_host_open(struct ds_zero *zero)
{
    struct zero_travel *travel = &zero->travel;
    int has_any = 0;

    for (uint32_t i = 0; i < zero->options.unit_count && zero->options.is_training; i++) {
        if (!is_here(&zero->units[i]) || !has_host_strips(&zero->units[i]))
            continue;
        DS_TRY(zero->device_ops->event_open(zero->options.device, &zero->units[i].returned));
        has_any = 1;
    }
    if (!has_any)
        return DS_OK;
    for (uint32_t i = 0; i < travel->slot_count; i++)
        DS_TRY(open_slot(zero, &travel->slots[i]));
    DS_TRY(zero->device_ops->event_open(zero->options.device, &travel->graded));
    return zero->device_ops->event_open(zero->options.device, &travel->returned);
}

void zero_host_close(struct ds_zero *zero)
{
    for (uint32_t i = 0; i < zero->options.unit_count; i++)
        zero_close_event(zero, zero->units[i].returned);
    zero_close_event(zero, zero->travel.graded);
    zero_close_event(zero, zero->travel.returned);
}

/* ---- ways */

/* A kind of the strip in the slot, between there and the device; none where it lives on the host. */
static ds_status move(struct ds_zero *zero, const struct zero_strip_slot *slot,
                      enum ds_zero_kind kind, struct ds_stream *stream, int is_fetch)
{
    struct zero_unit *u = unit_at(zero, slot->unit);
    const struct ds_span strip = ds_zero_strip_at(&u->strips, slot->strip);
    const struct zero_state *state = zero_state_at(u, kind);

    if (!is_staged(u, state, strip.start))
        return DS_OK;
    uint8_t *near = zero_near_strip(zero, state, strip.start);
    return zero->device_ops->copy(stream, is_fetch ? slot->host[kind] : near,
                                  is_fetch ? near : slot->host[kind],
                                  dtype_bytes(state->dtype, strip.count));
}

/* Accumulators that are at home came there on the same stream. */
ds_status zero_host_fetch(struct ds_zero *zero, struct zero_strip_slot *slot)
{
    struct zero_unit *u = unit_at(zero, slot->unit);
    struct ds_stream *store = zero->options.store;

    DS_TRY(zero->device_ops->stream_wait(store, slot->evicted));
    DS_TRY(zero->device_ops->stream_wait(store, u->returned));
    DS_TRY(zero->device_ops->stream_wait(store, zero->travel.graded));
    DS_TRY(zero_wait_reader(zero, &u->held_away, store));
    DS_TRY(move(zero, slot, DS_ZERO_GRAD, store, 1));
    if (reads_param(&zero->options.dtypes))
        DS_TRY(move(zero, slot, DS_ZERO_PARAM, store, 1));
    zero->travel.is_storing = 1;
    return ds_stream_signal(store, slot->go);
}

ds_status zero_host_evict(struct ds_zero *zero, struct ds_stream *stream,
                          struct zero_strip_slot *slot)
{
    const uint32_t unit = slot->unit;
    struct zero_unit *u = unit_at(zero, unit);
    const int is_last = slot->strip + 1 == ds_zero_strip_count(&u->strips);
    struct ds_stream *load = zero->options.load;

    DS_TRY(zero->device_ops->stream_wait(load, zero->travel.graded));
    DS_TRY(ds_stream_await(load, slot->done));
    DS_TRY(move(zero, slot, DS_ZERO_PARAM, load, 0));
    slot->unit = NO_SLOT;
    zero->travel.is_returning = 1;
    DS_TRY(zero->device_ops->event_record(slot->evicted, load));
    DS_TRY(zero->device_ops->event_record(u->returned, load));
    DS_TRY(zero->device_ops->event_record(zero->travel.returned, load));
    if (!is_last || u->param.near_elems == 0) /* weights from the host wait on load */
        return DS_OK;
    u->waits = DS_TIMELINE_WAIT_OFFLOAD;
    DS_TRY(zero_wait_loaded(zero, stream, u->returned));
    return zero_unit_updated(zero, stream, unit);
}

ds_status zero_host_join(struct ds_zero *zero)
{
    struct zero_travel *travel = &zero->travel;

    if (travel->is_returning)
        DS_TRY(zero->device_ops->stream_wait(zero->options.compute, travel->returned));
    travel->is_returning = 0;
    return DS_OK;
}

ds_status zero_host_rejoin(struct ds_zero *zero)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_stream *compute = zero->options.compute;

    if (!zero->travel.graded)
        return DS_OK;
    for (uint32_t i = 0; i < zero->options.unit_count; i++)
        if (zero->units[i].returned)
            DS_TRY(ops->event_record(zero->units[i].returned, compute));
    DS_TRY(ops->event_record(zero->travel.returned, compute));
    return ops->event_record(zero->travel.graded, compute);
}

/* ---- for the host */

static struct ds_tensor view(const struct zero_strip_slot *slot, struct zero_unit *u,
                             enum ds_zero_kind kind, struct ds_span strip)
{
    const struct zero_state *state = zero_state_at(u, kind);

    if (!state->shard && !state->away)
        return ds_tensor1(NULL, state->dtype, strip.count);
    if (strip.start < state->near_elems)
        return ds_tensor1(slot->host[kind], state->dtype, strip.count);
    return ds_tensor1(element(state->away, state->dtype, strip.start - state->near_elems),
                      state->dtype, strip.count);
}

struct ds_zero_host_strip ds_zero_host_strip(const struct ds_zero *zero, uint32_t unit,
                                             uint32_t index, uint32_t slot)
{
    struct zero_unit *u = unit_at(zero, unit);
    const struct ds_span strip = ds_zero_strip_at(&u->strips, index);
    uint64_t start, count;

    DS_ASSERT(slot < zero->travel.slot_count && ds_zero_strip_on_host(&u->strips, index));
    const struct zero_strip_slot *place = &zero->travel.slots[slot];
    ds_zero_update_part(zero, unit, &start, &count);
    return (struct ds_zero_host_strip){
        .state = {.master = view(place, u,
                                 u->param.dtype == DS_F32 ? DS_ZERO_PARAM : DS_ZERO_MASTER, strip),
                  .param = view(place, u, DS_ZERO_PARAM, strip),
                  .grad = view(place, u, DS_ZERO_GRAD, strip),
                  .exp_avg = view(place, u, DS_ZERO_EXP_AVG, strip),
                  .exp_avg_sq = view(place, u, DS_ZERO_EXP_AVG_SQ, strip),
                  .start = start + strip.start,
                  .count = strip.count},
        .go = place->go,
        .done = place->done,
    };
}
