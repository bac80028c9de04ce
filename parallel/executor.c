/* executor.c - obeys the list; the only place where blocks, units, messages and time meet. Blocks never
 * learn that their weights were elsewhere a moment ago, nor that their input came from another rank; units
 * never learn what a block is. It decides nothing. */
#include "dstrain/accounts.h"

#include "executor_private.h"

static ds_status do_begin(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_step_begin_args args = {x->options.record, 0};

    (void)action;
    DS_TRY(x->kernels->step_begin(x->options.compute, &args));
    DS_TRY(ds_zero_sum_tokens(x->options.zero, x->options.record));
    args.is_global = 1;
    return x->kernels->step_begin(x->options.compute, &args);
}

/* ---- messages between stages */

/* The comm stream takes over after all arithmetic so far: what is sent is made, what is received has a
 * free place. Arithmetic goes on beside it and waits, place by place, when it comes there. */
static ds_status do_exchange(struct ds_executor *x, const struct ds_action *action)
{
    const struct ds_device_ops *ops = x->options.device->ops;
    const struct ds_transfer *transfers = &x->list->transfers[action->transfer_start];
    struct ds_message messages[DS_EXCHANGE_TRANSFERS_MAX];
    uint32_t span;

    DS_ASSERT(action->transfer_count <= DS_EXCHANGE_TRANSFERS_MAX);
    for (uint32_t i = 0; i < action->transfer_count; i++)
        messages[i] =
            (struct ds_message){x->streams.places[transfers[i].slot].at, executor_stream_bytes(x),
                                transfers[i].peer, (int)transfers[i].is_send};
    DS_TRY(ops->event_record(x->handover, x->options.compute));
    DS_TRY(
        ds_timeline_wait(x->options.timeline, DS_TIMELINE_COMM, DS_TIMELINE_WAIT_COMPUTE, &span));
    DS_TRY(ops->stream_wait(x->options.comm, x->handover));
    DS_TRY(ds_timeline_end(x->options.timeline, span));
    for (uint32_t i = 0; i < action->transfer_count; i++)
        DS_TRY(place_claim(&x->streams.places[transfers[i].slot], x->options.comm));
    DS_TRY(
        ds_comm_exchange(x->options.pipeline, messages, action->transfer_count, x->options.comm));
    for (uint32_t i = 0; i < action->transfer_count; i++)
        DS_TRY(place_leave(&x->streams.places[transfers[i].slot], x->options.comm));
    return DS_OK;
}

/* ---- what layers keep, elsewhere in between */

static struct kept_places kept_places_of(struct ds_executor *x, const struct ds_action *action)
{
    return (struct kept_places){
        .home = &x->kept.homes.places[action->home],
        .input = &x->streams.places[action->x],
        .saved = action->slot == DS_NO_SLOT ? NULL : &x->saved.places[action->slot],
        .saved_bytes = executor_saved_bytes(x, action),
    };
}

static ds_status do_evict_kept(struct ds_executor *x, const struct ds_action *action)
{
    const struct kept_places places = kept_places_of(x, action);

    return kept_evict(&x->kept, &places);
}

static ds_status do_fetch_kept(struct ds_executor *x, const struct ds_action *action)
{
    const struct kept_places places = kept_places_of(x, action);

    return kept_fetch(&x->kept, &places);
}

uint64_t ds_executor_file_bytes(const struct ds_executor *x, uint32_t drive)
{
    return x->kept.swap ? ds_swap_file_bytes(x->kept.swap, drive) : 0;
}

uint64_t ds_executor_filed_of(const struct ds_executor *x, const struct ds_action *action)
{
    if (!x->kept.swap)
        return 0;
    return kept_files_bytes(&x->kept,
                            action->slot == DS_NO_SLOT ? 0 : executor_saved_bytes(x, action));
}

ds_status ds_executor_start_files(struct ds_executor *x, const struct ds_swap_files *files)
{
    return x->kept.swap ? ds_swap_start(x->kept.swap, files) : DS_OK;
}

void ds_executor_abandon_files(struct ds_executor *x)
{
    if (x)
        ds_swap_abandon(x->kept.swap);
}

/* ---- units */

static ds_status do_prefetch(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_prefetch(x->options.zero, action->unit, action->slot);
}

static ds_status do_acquire(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_acquire(x->options.zero, action->unit, action->slot);
}

static ds_status do_release(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_release(x->options.zero, action->unit);
}

static ds_status do_grad_acquire(struct ds_executor *x, const struct ds_action *action)
{
    const struct ds_block *block = block_of(x, action);
    int is_started = 0;

    DS_TRY(ds_zero_grad_acquire(x->options.zero, action->unit, action->slot, &is_started));
    for (uint32_t i = 0; i < block->unit_count && i < DS_BLOCK_UNITS_MAX; i++)
        if (block->units[i] == action->unit)
            x->grads_add[i] = (uint8_t)is_started;
    return DS_OK;
}

static ds_status do_reduce(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_reduce(x->options.zero, action->unit, action->micro + 1 == x->list->micro_count);
}

static ds_status do_tied_reduce(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_tied_reduce(x->options.zero, action->unit);
}

/* ---- late updates, beside the forward pass
 *
 * What they need is there when a list begins, and what needs them waits for them, unit by unit. So they have a stream of
 * their own: a strip is updated when it has come, and its slot is free for the next, whatever arithmetic is at. */

static int goes_beside(const struct ds_executor *x)
{
    return x->options.updates && x->list->is_training && is_late(x->list) &&
           x->part != PART_UPDATES;
}

/* Before the first of them. */
static ds_status lead_updates(struct ds_executor *x, const struct ds_action *action)
{
    if (!goes_beside(x) || !ds_action_is_late(action) || x->updates_beside)
        return DS_OK;
    x->updates_beside = 1;
    return ds_stream_after(x->options.updates, x->options.compute, x->handover);
}

static struct ds_stream *updates_stream(const struct ds_executor *x)
{
    return goes_beside(x) ? x->options.updates : x->options.compute;
}

/* Their verdict is about to change. */
static ds_status join_updates(struct ds_executor *x)
{
    if (!x->updates_beside)
        return DS_OK;
    x->updates_beside = 0;
    return ds_stream_after(x->options.compute, x->options.updates, x->handover);
}

static ds_status do_norm(struct ds_executor *x, const struct ds_action *action)
{
    (void)action;
    DS_TRY(join_updates(x));
    DS_TRY(ds_optim_verdict(x->options.optim, x->options.record));
    return is_late(x->list) ? x->options.device->ops->copy(x->options.compute, x->decided,
                                                           x->options.record, sizeof *x->decided)
                            : DS_OK;
}

static ds_status do_fetch(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_fetch(x->options.zero, action->unit, action->strip, action->slot,
                         (int)action->is_ahead);
}

static ds_status do_update(struct ds_executor *x, const struct ds_action *action)
{
    const struct ds_optim_strip strip = {action->unit, action->strip, action->slot};

    return ds_optim_update(x->options.optim, updates_stream(x), &strip,
                           is_late(x->list) ? x->decided : x->options.record);
}

static ds_status do_evict(struct ds_executor *x, const struct ds_action *action)
{
    return ds_zero_evict(x->options.zero, updates_stream(x), action->unit, action->strip,
                         action->slot);
}

/* ---- the list */

static executor_do *const executor_table[DS_ACTION_KIND_COUNT] = {
    [DS_ACTION_BEGIN] = do_begin,
    [DS_ACTION_FORWARD] = executor_forward,
    [DS_ACTION_LOSS] = executor_loss,
    [DS_ACTION_RECOMPUTE] = executor_forward, /* without an out: only what backward reads */
    [DS_ACTION_BACKWARD] = executor_backward,
    [DS_ACTION_BACKWARD_INPUT] = executor_backward_input,
    [DS_ACTION_BACKWARD_WEIGHT] = executor_backward_weight,
    [DS_ACTION_EXCHANGE] = do_exchange,
    [DS_ACTION_EVICT_KEPT] = do_evict_kept,
    [DS_ACTION_FETCH_KEPT] = do_fetch_kept,
    [DS_ACTION_PREFETCH] = do_prefetch,
    [DS_ACTION_ACQUIRE] = do_acquire,
    [DS_ACTION_RELEASE] = do_release,
    [DS_ACTION_GRAD_ACQUIRE] = do_grad_acquire,
    [DS_ACTION_REDUCE] = do_reduce,
    [DS_ACTION_TIED_REDUCE] = do_tied_reduce,
    [DS_ACTION_NORM] = do_norm,
    [DS_ACTION_FETCH] = do_fetch,
    [DS_ACTION_UPDATE] = do_update,
    [DS_ACTION_EVICT] = do_evict,
};

/* All memory was taken for the plan. */
static int has_slots_for(const struct ds_schedule *plan, const struct ds_schedule *list)
{
    int has = list->saved_slot_count <= plan->saved_slot_count &&
              list->held_slot_count <= plan->held_slot_count &&
              list->stream_slot_count <= plan->stream_slot_count &&
              list->home_count <= plan->home_count &&
              list->home_has_saved <= plan->home_has_saved &&
              list->slots.strip_count <= plan->slots.strip_count;

    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++)
        has = has && list->slots.weight_count[c] <= plan->slots.weight_count[c] &&
              list->slots.grad_count[c] <= plan->slots.grad_count[c];
    return has;
}

static int is_in_part(const struct ds_action *action, enum executor_part part)
{
    return part == PART_ALL || ds_action_is_late(action) == (part == PART_UPDATES);
}

static enum ds_timeline_row row_of(const struct ds_executor *x, enum ds_action_kind kind)
{
    return kind == DS_ACTION_UPDATE && goes_beside(x) ? DS_TIMELINE_UPDATES : ds_action_row(kind);
}

static ds_status obey(struct ds_executor *x, const struct ds_schedule *list,
                      enum executor_part part)
{
    DS_ASSERT(has_slots_for(x->options.plan, list));
    DS_ASSERT(x->options.is_training || !list->is_training);
    x->list = list;
    x->part = part;
    for (uint32_t i = 0; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        struct ds_record *record = NULL;
        uint32_t span;

        if (!is_in_part(action, part))
            continue;
        DS_TRY(lead_updates(x, action));
        if (x->options.recorder)
            record = ds_record_begin(x->options.recorder, i, action->kind, action->micro,
                                     action->unit, action->block);
        DS_TRY(ds_timeline_action(x->options.timeline, row_of(x, action->kind), i, &span));
        DS_TRY(executor_table[action->kind](x, action));
        DS_TRY(ds_timeline_end(x->options.timeline, span));
        if (record)
            ds_record_end(x->options.recorder, record);
    }
    return DS_OK;
}

ds_status executor_obey_marked(struct ds_executor *x, const struct ds_executor_step *step)
{
    const int lacks_updates = is_late(step->list) && !x->pending;
    ds_status st;

    ds_timeline_start(x->options.timeline, step->turn, step->marks);
    st = obey(x, step->list, lacks_updates ? PART_STEP : PART_ALL);
    ds_timeline_stop(x->options.timeline);
    x->pending = is_late(step->list) ? step->list : NULL;
    return st;
}

ds_status ds_executor_run(struct ds_executor *x, const struct ds_schedule *list)
{
    DS_TRY(executor_leave_graph(x));
    return obey(x, list, PART_ALL);
}

ds_status ds_executor_step(struct ds_executor *x, const struct ds_executor_step *step)
{
    DS_TRY(executor_leave_graph(x));
    return executor_obey_marked(x, step);
}

int ds_executor_has_pending(const struct ds_executor *x)
{
    return x->pending != NULL;
}

ds_status ds_executor_finish(struct ds_executor *x)
{
    const struct ds_schedule *list = x->pending;

    if (!list)
        return DS_OK;
    DS_TRY(executor_leave_graph(x));
    x->pending = NULL;
    return obey(x, list, PART_UPDATES);
}

ds_status ds_executor_predict(struct ds_executor *x, const struct ds_schedule *list, uint64_t row,
                              void **logits)
{
    ds_status st;

    DS_ASSERT(x->logits && row < x->options.tokens_per_micro);
    x->predict_row = row;
    x->is_predicting = 1;
    st = ds_executor_run(x, list);
    x->is_predicting = 0;
    *logits = x->logits;
    return st;
}
