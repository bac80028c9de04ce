/* offload_grads.c - accumulators that are away: window by window what is there comes into one of two slots, the sum over
 * ranks of a micro-batch is added, and it goes back; of the last micro-batch the sums of squares are made on the
 * way, so that the norm has nothing left to fetch. Additions are on the comm stream, as those of near ones. */
#include "zero.h"

static size_t slot_bytes(const struct ds_zero_options *o)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < o->unit_count; i++) {
        const struct ds_zero_strips *strips = &o->units[i].strips;
        const uint64_t near = strips->near_elems[DS_ZERO_GRAD];
        if (o->units[i].elems == 0 || near >= strips->elems)
            continue;
        const uint64_t away = strips->elems - near;
        const uint64_t elems = away < strips->strip_elems ? away : strips->strip_elems;
        most = elems > most ? elems : most;
    }
    return dtype_bytes(o->dtypes.gradient, most);
}

uint64_t zero_grad_slot_bytes(const struct ds_zero_options *options)
{
    return ZERO_GRAD_SLOTS * slot_bytes(options);
}

ds_status zero_grads_open(struct ds_zero *zero)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_device *device = zero->options.device;
    const size_t bytes = slot_bytes(&zero->options);

    for (int i = 0; i < ZERO_GRAD_SLOTS && bytes > 0; i++) {
        struct zero_grad_slot *slot = &zero->travel.grads[i];
        void *at = NULL;
        DS_TRY(ds_memory_take(zero->options.memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_SLOTS, bytes,
                              &at));
        slot->at = at;
        DS_TRY(ops->event_open(device, &slot->loaded));
        DS_TRY(ops->event_open(device, &slot->summed));
        DS_TRY(ops->event_open(device, &slot->idle));
    }
    return DS_OK;
}

void zero_grads_close(struct ds_zero *zero)
{
    for (int i = 0; i < ZERO_GRAD_SLOTS; i++) {
        zero_close_event(zero, zero->travel.grads[i].loaded);
        zero_close_event(zero, zero->travel.grads[i].summed);
        zero_close_event(zero, zero->travel.grads[i].idle);
    }
}

ds_status zero_grads_rejoin(struct ds_zero *zero)
{
    for (int i = 0; i < ZERO_GRAD_SLOTS; i++)
        if (zero->travel.grads[i].idle)
            DS_TRY(
                zero->device_ops->event_record(zero->travel.grads[i].idle, zero->options.compute));
    return DS_OK;
}

/* What was accumulated of the window before, behind what took it home. */
static ds_status bring(struct ds_zero *zero, const struct zero_unit *u,
                       const struct zero_grad_slot *slot, struct ds_span window)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_stream *stream = zero_grad_stream(zero, u);

    DS_TRY(ops->stream_wait(stream, slot->idle));
    DS_TRY(ops->stream_wait(stream, u->stored));
    DS_TRY(zero_bring(zero, stream, &u->grad, window.start, window.count, slot->at));
    DS_TRY(ops->event_record(slot->loaded, stream));
    return ops->stream_wait(zero->options.comm, slot->loaded);
}

static ds_status accumulate_window(struct ds_zero *zero, struct zero_unit *u,
                                   const struct zero_window *window, uint8_t *part, int is_last)
{
    const struct ds_device_ops *ops = zero->device_ops;
    struct ds_stream *comm = zero->options.comm, *store = zero->options.store;
    struct zero_grad_slot *slot = &zero->travel.grads[zero->travel.grad_turn];

    zero->travel.grad_turn = (zero->travel.grad_turn + 1) % ZERO_GRAD_SLOTS;
    if (u->is_reduced)
        DS_TRY(bring(zero, u, slot, window->span));
    else
        DS_TRY(ops->stream_wait(comm, slot->idle));
    DS_TRY(zero_add_part(zero, u, slot->at, part, window->span.count));
    if (is_last)
        DS_TRY(zero_window_pieces(zero, u, window, slot->at, comm));
    DS_TRY(ds_stream_after(store, comm, slot->summed));
    DS_TRY(zero_take_home(zero, &u->grad, window->span.start, window->span.count, slot->at));
    return ops->event_record(slot->idle, store);
}

ds_status zero_accumulate_away(struct ds_zero *zero, struct zero_unit *u, uint8_t *part,
                               int is_last)
{
    const enum ds_dtype dtype = zero->options.dtypes.reduce;

    for (uint32_t i = u->near_windows; i < u->window_count; i++)
        DS_TRY(accumulate_window(zero, u, &u->windows[i],
                                 element(part, dtype, u->windows[i].span.start), is_last));
    zero->travel.is_storing = 1;
    return zero->device_ops->event_record(u->stored, zero->options.store);
}
