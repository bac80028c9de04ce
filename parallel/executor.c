/* executor.c - obeys the list; the only place where blocks, units, messages and time meet. Blocks never
 * learn that their weights were elsewhere a moment ago, nor that their input came from another rank; units
 * never learn what a block is. It decides nothing. */
#include "dstrain/executor.h"
#include "dstrain/accounts.h"

#include "executor_kept.h"

#include <stdlib.h>

/* What of a list is done: where updates are late, these two are done apart where two steps do not follow each other. */
enum executor_part { PART_ALL, PART_STEP, PART_UPDATES };

struct ds_executor {
    /* owns: device memory of the run's ledger, borrowed from it */
    struct places saved;   /* [plan->saved_slot_count] what decoder layers keep */
    struct places held;    /* [plan->held_slot_count] what a backward in two parts keeps */
    struct places streams; /* [plan->stream_slot_count] the residual stream, [tokens here, C] in the
                              compute dtype */
    struct kept kept;      /* [plan->home_count] what decoder layers keep elsewhere */
    void **derived; /* [block_count] what a block makes of its weights once a list; NULL: nothing */
    uint8_t *workspace;
    float *logits;                         /* of one token; NULL while training */
    struct ds_event *handover;             /* compute to comm, or to updates and back */
    struct ds_tensor_stream tensor_stream; /* where there are tensor ranks */
    struct ds_graph *graphs[2];            /* of a turn's steps; NULL: not captured yet */
    int is_behind_graph;                   /* the last list was launched as one */
    struct ds_step_record *decided;        /* what late updates go by: the last step's verdict */
    const struct ds_schedule *pending;     /* whose late updates are to come; NULL: none */
    /* borrows */
    struct ds_executor_options options;
    const struct ds_kernel_ops *kernels;
    /* of the graphs */
    enum ds_timeline_marks graph_marks[2];
    /* of the list being run */
    const struct ds_schedule *list;
    enum executor_part part;
    int updates_beside; /* the stream of updates has taken over in this list */
    uint64_t predict_row;
    int is_predicting;
    uint8_t grads_add[DS_BLOCK_UNITS_MAX];
};

static size_t stream_bytes(const struct ds_executor *x)
{
    const struct ds_model *model = x->options.model;

    return (size_t)ds_model_stream_tokens(model, x->options.tokens_per_micro) *
           model->config.hidden_size * ds_dtype_bytes(model->share.compute);
}

/* ---- memory */

typedef size_t block_bytes_fn(const struct ds_block *block, uint64_t token_count);

static size_t saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    return block->ops->saved_bytes(block, token_count);
}

static size_t held_bytes(const struct ds_block *block, uint64_t token_count)
{
    return block->ops->held_bytes ? block->ops->held_bytes(block, token_count) : 0;
}

static size_t workspace_bytes(const struct ds_block *block, uint64_t token_count)
{
    return block->ops->workspace_bytes(block, token_count);
}

/* What the largest block of this rank's list needs. */
static size_t bytes_max(const struct ds_executor *x, block_bytes_fn *bytes_of)
{
    const struct ds_schedule *plan = x->options.plan;
    size_t most = 0;

    for (uint32_t i = 0; i < plan->action_count; i++) {
        const struct ds_action *action = &plan->actions[i];
        if (action->kind != DS_ACTION_FORWARD && action->kind != DS_ACTION_LOSS)
            continue;
        size_t bytes =
            bytes_of(&x->options.model->blocks[action->block], x->options.tokens_per_micro);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static ds_status take(struct ds_executor *x, enum ds_memory_label label, size_t bytes, void *at)
{
    return ds_memory_take(x->options.memory, DS_MEMORY_DEVICE, label, bytes, at);
}

static ds_status take_places(struct ds_executor *x, uint32_t count, size_t bytes,
                             struct places *out)
{
    return places_open(x->options.memory, DS_MEMORY_DEVICE, count, bytes, out);
}

/* Does a block make here what it derives of its weights? */
static int derives(const struct ds_action *action)
{
    return action->kind == DS_ACTION_FORWARD && action->micro == 0;
}

static ds_status take_derived(struct ds_executor *x)
{
    const struct ds_model *model = x->options.model;
    const struct ds_schedule *plan = x->options.plan;

    x->derived = calloc(model->block_count, sizeof *x->derived);
    if (!x->derived)
        return ds_fail(DS_ERR_NO_MEMORY, "the executor");
    for (uint32_t i = 0; i < plan->action_count; i++) {
        const struct ds_action *action = &plan->actions[i];
        const struct ds_block *block = &model->blocks[action->block];

        if (derives(action) && block->ops->derived_bytes && block->ops->derived_bytes(block) > 0)
            DS_TRY(take(x, DS_MEMORY_LABEL_WORKSPACE, block->ops->derived_bytes(block),
                        &x->derived[action->block]));
    }
    return DS_OK;
}

static ds_status take_homes(struct ds_executor *x)
{
    const struct ds_executor_options *o = &x->options;

    x->kept = (struct kept){.compute = o->compute,
                            .out = o->kept_out,
                            .in = o->kept_in,
                            .timeline = o->timeline,
                            .drive_count = o->kept_drives,
                            .block_bytes = o->kept_block_bytes,
                            .input_bytes = stream_bytes(x)};
    DS_TRY(kept_open(&x->kept, o->memory, o->plan->home_count,
                     o->plan->home_has_saved ? bytes_max(x, saved_bytes) : 0));
    if (x->kept.swap)
        ds_zero_heed_files(o->zero, x->kept.swap);
    return DS_OK;
}

static int has_tensor_ranks(const struct ds_executor *x)
{
    return x->options.tensor && x->options.tensor->size > 1;
}

static ds_status take_memory(struct ds_executor *x)
{
    const struct ds_schedule *plan = x->options.plan;
    const struct ds_device_ops *ops = x->options.device->ops;

    DS_TRY(take_places(x, plan->saved_slot_count, bytes_max(x, saved_bytes), &x->saved));
    DS_TRY(take_places(x, plan->held_slot_count, bytes_max(x, held_bytes), &x->held));
    DS_TRY(take_places(x, plan->stream_slot_count, stream_bytes(x), &x->streams));
    DS_TRY(take_homes(x));
    DS_TRY(take_derived(x));
    if (!x->options.is_training)
        DS_TRY(take(x, DS_MEMORY_LABEL_ACTIVATIONS,
                    x->options.model->config.vocab_size * sizeof(float), &x->logits));
    DS_TRY(take(x, DS_MEMORY_LABEL_WORKSPACE, bytes_max(x, workspace_bytes), &x->workspace));
    if (plan->updates == DS_UPDATES_LATE)
        DS_TRY(take(x, DS_MEMORY_LABEL_WORKSPACE, sizeof *x->decided, &x->decided));
    if (has_tensor_ranks(x))
        DS_TRY(ds_tensor_stream_open(x->options.device, &x->tensor_stream));
    return ops->event_open(x->options.device, &x->handover);
}

ds_status ds_executor_open(const struct ds_executor_options *options, struct ds_executor **out)
{
    struct ds_executor *x = calloc(1, sizeof *x);
    ds_status st;

    if (!x)
        return ds_fail(DS_ERR_NO_MEMORY, "the executor");
    x->options = *options;
    x->kernels = options->device->ops->kernels;
    st = take_memory(x);
    if (st != DS_OK) {
        ds_executor_close(x);
        return st;
    }
    *out = x;
    return DS_OK;
}

void ds_executor_close(struct ds_executor *x)
{
    if (!x)
        return;
    ds_tensor_stream_close(&x->tensor_stream);
    places_close(&x->saved);
    places_close(&x->held);
    places_close(&x->streams);
    kept_close(&x->kept);
    free(x->derived);
    if (x->handover)
        x->options.device->ops->event_close(x->handover);
    for (int turn = 0; turn < 2; turn++)
        if (x->graphs[turn])
            x->options.device->ops->graph_close(x->graphs[turn]);
    free(x);
}

/* ---- arithmetic */

static const struct ds_block *block_of(const struct ds_executor *x, const struct ds_action *action)
{
    return &x->options.model->blocks[action->block];
}

/* Where arithmetic reads or writes `slot`; NULL: nowhere. What another stream still does there comes first. */
static ds_status place_at(struct ds_executor *x, const struct places *places, uint32_t slot,
                          void **at)
{
    uint32_t span;

    *at = NULL;
    if (slot == DS_NO_SLOT)
        return DS_OK;
    struct place *place = &places->places[slot];
    *at = place->at;
    if (!place->user)
        return DS_OK;
    DS_TRY(ds_timeline_wait(
        x->options.timeline, DS_TIMELINE_COMPUTE,
        place->user == x->options.comm ? DS_TIMELINE_WAIT_STAGE : DS_TIMELINE_WAIT_OFFLOAD, &span));
    DS_TRY(place_claim(place, x->options.compute));
    place->user = NULL;
    return ds_timeline_end(x->options.timeline, span);
}

struct streams {
    void *x, *dy, *out;
};

static ds_status streams_of(struct ds_executor *x, const struct ds_action *action,
                            struct streams *to)
{
    DS_TRY(place_at(x, &x->streams, action->x, &to->x));
    DS_TRY(place_at(x, &x->streams, action->dy, &to->dy));
    return place_at(x, &x->streams, action->out, &to->out);
}

static int makes_grads(const struct ds_executor *x, enum ds_action_kind kind)
{
    return kind == DS_ACTION_BACKWARD || kind == DS_ACTION_BACKWARD_WEIGHT ||
           (kind == DS_ACTION_LOSS && x->list->is_training);
}

/* The embedding's backward, and the weight part of any other, read no weights. */
static int reads_weights(const struct ds_block *block, enum ds_action_kind kind)
{
    return kind != DS_ACTION_BACKWARD_WEIGHT &&
           !(kind == DS_ACTION_BACKWARD && block->kind == DS_BLOCK_EMBEDDING);
}

void ds_executor_outside(struct ds_executor *x, struct ds_pass *out)
{
    *out = (struct ds_pass){.stream = x->options.compute,
                            .kernels = x->kernels,
                            .tp = x->options.tensor,
                            .tensor_stream = has_tensor_ranks(x) ? &x->tensor_stream : NULL,
                            .workspace = x->workspace};
}

/* Where everything of this piece of arithmetic lies now, but what goes from block to block. */
static ds_status pass_of(struct ds_executor *x, const struct ds_action *action,
                         struct ds_pass *pass)
{
    const struct ds_block *block = block_of(x, action);

    ds_executor_outside(x, pass);
    pass->batch = &x->options.batches[action->micro];
    pass->record = x->options.record;
    pass->rotary = x->options.rotary;
    pass->timeline = x->options.timeline;
    pass->is_training = x->list->is_training;
    pass->derived = x->derived[action->block];
    pass->derives = derives(action);

    for (uint32_t i = 0; i < block->unit_count && i < DS_BLOCK_UNITS_MAX; i++) {
        if (reads_weights(block, action->kind))
            pass->weights[i] = ds_zero_weights(x->options.zero, block->units[i]);
        if (!makes_grads(x, action->kind) || x->options.model->units[block->units[i]].is_frozen)
            continue;
        pass->grads[i] = ds_zero_grads(x->options.zero, block->units[i]);
        pass->grads_add[i] = x->grads_add[i];
    }
    DS_TRY(place_at(x, &x->saved, action->slot, &pass->saved));
    return place_at(x, &x->held, action->held, &pass->held);
}

static ds_status do_begin(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_step_begin_args args = {x->options.record, 0};

    (void)action;
    DS_TRY(x->kernels->step_begin(x->options.compute, &args));
    DS_TRY(ds_zero_sum_tokens(x->options.zero, x->options.record));
    args.is_global = 1;
    return x->kernels->step_begin(x->options.compute, &args);
}

static ds_status do_forward(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_pass pass;
    struct streams at;

    DS_TRY(pass_of(x, action, &pass));
    DS_TRY(streams_of(x, action, &at));
    return block_of(x, action)->ops->forward(block_of(x, action), &pass, at.x, at.out);
}

static ds_status do_loss(struct ds_executor *x, const struct ds_action *action)
{
    const struct ds_block *head = block_of(x, action);
    struct ds_pass pass;
    struct streams at;

    DS_TRY(pass_of(x, action, &pass));
    DS_TRY(streams_of(x, action, &at));
    if (x->is_predicting)
        return head->ops->logits(head, &pass, at.x, x->predict_row, 1, x->logits);
    return head->ops->loss(head, &pass, at.x, at.out);
}

static ds_status backward(struct ds_executor *x, const struct ds_action *action, uint32_t parts)
{
    struct ds_pass pass;
    struct streams at;

    DS_TRY(pass_of(x, action, &pass));
    DS_TRY(streams_of(x, action, &at));
    return block_of(x, action)->ops->backward(block_of(x, action), &pass, parts, at.x, at.dy,
                                              at.out);
}

static ds_status do_backward(struct ds_executor *x, const struct ds_action *action)
{
    return backward(x, action, DS_BACKWARD_INPUT | DS_BACKWARD_WEIGHT);
}

static ds_status do_backward_input(struct ds_executor *x, const struct ds_action *action)
{
    return backward(x, action, DS_BACKWARD_INPUT);
}

static ds_status do_backward_weight(struct ds_executor *x, const struct ds_action *action)
{
    return backward(x, action, DS_BACKWARD_WEIGHT);
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
        messages[i] = (struct ds_message){x->streams.places[transfers[i].slot].at, stream_bytes(x),
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
        .saved_bytes = saved_bytes(block_of(x, action), x->options.tokens_per_micro),
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
                            action->slot == DS_NO_SLOT
                                ? 0
                                : saved_bytes(block_of(x, action), x->options.tokens_per_micro));
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

static int is_late(const struct ds_schedule *list)
{
    return list->updates == DS_UPDATES_LATE;
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

typedef ds_status executor_do(struct ds_executor *x, const struct ds_action *action);
static executor_do *const executor_table[DS_ACTION_KIND_COUNT] = {
    [DS_ACTION_BEGIN] = do_begin,
    [DS_ACTION_FORWARD] = do_forward,
    [DS_ACTION_LOSS] = do_loss,
    [DS_ACTION_RECOMPUTE] = do_forward, /* without an out: only what backward reads */
    [DS_ACTION_BACKWARD] = do_backward,
    [DS_ACTION_BACKWARD_INPUT] = do_backward_input,
    [DS_ACTION_BACKWARD_WEIGHT] = do_backward_weight,
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

/* Events between the inside of a graph and the outside mean nothing on either side. All that came before is
 * through, so they are recorded again where the next list begins. */
static ds_status rejoin(struct ds_executor *x)
{
    places_forget(&x->saved);
    places_forget(&x->streams);
    places_forget(&x->kept.homes);
    return ds_zero_rejoin(x->options.zero);
}

static ds_status obey_marked(struct ds_executor *x, const struct ds_executor_step *step)
{
    const int lacks_updates = is_late(step->list) && !x->pending;
    ds_status st;

    ds_timeline_start(x->options.timeline, step->turn, step->marks);
    st = obey(x, step->list, lacks_updates ? PART_STEP : PART_ALL);
    ds_timeline_stop(x->options.timeline);
    x->pending = is_late(step->list) ? step->list : NULL;
    return st;
}

static ds_status leave_graph(struct ds_executor *x)
{
    if (x->is_behind_graph)
        DS_TRY(rejoin(x));
    x->is_behind_graph = 0;
    return DS_OK;
}

ds_status ds_executor_run(struct ds_executor *x, const struct ds_schedule *list)
{
    DS_TRY(leave_graph(x));
    return obey(x, list, PART_ALL);
}

ds_status ds_executor_step(struct ds_executor *x, const struct ds_executor_step *step)
{
    DS_TRY(leave_graph(x));
    return obey_marked(x, step);
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
    DS_TRY(leave_graph(x));
    x->pending = NULL;
    return obey(x, list, PART_UPDATES);
}

/* ---- a step as a graph */

/* What files are asked for goes with it. */
static void record_begin(struct ds_executor *x, uint32_t turn)
{
    ds_zero_record_begin(x->options.zero, turn);
    if (x->kept.swap)
        ds_swap_record_begin(x->kept.swap, turn);
}

static void record_end(struct ds_executor *x)
{
    ds_zero_record_end(x->options.zero);
    if (x->kept.swap)
        ds_swap_record_end(x->kept.swap);
}

static ds_status capture(struct ds_executor *x, const struct ds_executor_step *step,
                         struct ds_graph **out)
{
    const struct ds_device_ops *ops = x->options.device->ops;

    DS_TRY(ops->capture_begin(x->options.compute));
    DS_TRY(rejoin(x));
    record_begin(x, step->turn);
    const ds_status st = obey_marked(x, step);
    record_end(x);
    DS_TRY(st);
    DS_TRY(ds_stream_after(x->options.compute, x->options.comm, x->handover));
    DS_TRY(ds_zero_join(x->options.zero));
    DS_TRY(kept_join(&x->kept));
    return ops->capture_end(x->options.compute, out);
}

/* The graph of the step's turn, with its marks. Others are rare: a few steps are looked at, and then no more. */
static ds_status have_graph(struct ds_executor *x, const struct ds_executor_step *step)
{
    struct ds_graph **graph = &x->graphs[step->turn];

    if (*graph && x->graph_marks[step->turn] == step->marks)
        return DS_OK;
    if (*graph)
        x->options.device->ops->graph_close(*graph);
    *graph = NULL;
    x->graph_marks[step->turn] = step->marks;
    return capture(x, step, graph);
}

/* Before it all that other streams still have, behind it whatever the comm stream gets next. */
ds_status ds_executor_step_graph(struct ds_executor *x, const struct ds_executor_step *step)
{
    struct ds_stream *compute = x->options.compute, *comm = x->options.comm;

    DS_ASSERT(step->turn < 2 && x->options.device->ops->capture_begin);
    DS_ASSERT(!is_late(step->list) || x->pending);
    DS_TRY(ds_stream_after(compute, comm, x->handover));
    DS_TRY(ds_zero_join(x->options.zero));
    DS_TRY(kept_join(&x->kept));
    DS_TRY(have_graph(x, step));
    x->is_behind_graph = 1;
    DS_TRY(ds_zero_record_launch(x->options.zero, step->turn));
    if (x->kept.swap)
        DS_TRY(ds_swap_launch(x->kept.swap, step->turn));
    DS_TRY(x->options.device->ops->graph_launch(compute, x->graphs[step->turn]));
    return ds_stream_after(comm, compute, x->handover);
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
