/* executor.c - obeys the list; the only place where blocks, units and time meet. Blocks never learn that
 * their weights were elsewhere a moment ago; units never learn what a block is. It decides nothing. */
#include "dstrain/executor.h"

#include "dstrain/accounts.h"

#include <stdlib.h>

struct ds_executor {
    /* owns: device memory of the run's ledger, borrowed from it */
    uint8_t **saved; /* [plan->saved_slot_count] */
    float **streams; /* [plan->stream_slot_count] residual stream and its gradient, [T, C] */
    uint8_t *workspace;
    /* borrows */
    struct ds_executor_options options;
    const struct ds_kernel_ops *kernels;
    float *logits; /* of one token; NULL while training */
    /* of the list being run */
    const struct ds_schedule *list;
    uint64_t predict_row;
    int is_predicting;
    uint8_t grads_add[DS_BLOCK_UNITS_MAX];
};

static size_t stream_bytes(const struct ds_executor *x)
{
    return (size_t)x->options.tokens_per_micro * x->options.model->config.hidden_size *
           sizeof(float);
}

static ds_status take(struct ds_executor *x, enum ds_memory_label label, size_t bytes, void *at)
{
    return ds_memory_take(x->options.memory, DS_MEMORY_DEVICE, label, bytes, at);
}

static size_t saved_bytes_max(const struct ds_executor *x)
{
    const struct ds_model *model = x->options.model;
    size_t most = 0;

    for (uint32_t b = 0; b < model->block_count; b++) {
        const struct ds_block *block = &model->blocks[b];
        size_t bytes = block->ops->saved_bytes(block, x->options.tokens_per_micro);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static size_t workspace_bytes_max(const struct ds_executor *x)
{
    const struct ds_model *model = x->options.model;
    size_t most = 0;

    for (uint32_t b = 0; b < model->block_count; b++) {
        const struct ds_block *block = &model->blocks[b];
        size_t bytes = block->ops->workspace_bytes(block, x->options.tokens_per_micro);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static ds_status take_memory(struct ds_executor *x)
{
    const struct ds_schedule *plan = x->options.plan;

    for (uint32_t i = 0; i < plan->saved_slot_count; i++)
        DS_TRY(take(x, DS_MEMORY_LABEL_ACTIVATIONS, saved_bytes_max(x), &x->saved[i]));
    for (uint32_t i = 0; i < plan->stream_slot_count; i++)
        DS_TRY(take(x, DS_MEMORY_LABEL_ACTIVATIONS, stream_bytes(x), &x->streams[i]));
    if (!x->options.is_training)
        DS_TRY(take(x, DS_MEMORY_LABEL_ACTIVATIONS,
                    x->options.model->config.vocab_size * sizeof(float), &x->logits));
    return take(x, DS_MEMORY_LABEL_WORKSPACE, workspace_bytes_max(x), &x->workspace);
}

ds_status ds_executor_open(const struct ds_executor_options *options, struct ds_executor **out)
{
    struct ds_executor *x = calloc(1, sizeof *x);
    ds_status st;

    if (!x)
        return ds_fail(DS_ERR_NO_MEMORY, "the executor");
    x->options = *options;
    x->kernels = options->device->ops->kernels;
    x->saved = calloc(options->plan->saved_slot_count + 1u, sizeof *x->saved);
    x->streams = calloc(options->plan->stream_slot_count + 1u, sizeof *x->streams);
    if (!x->saved || !x->streams)
        st = ds_fail(DS_ERR_NO_MEMORY, "the executor's tables");
    else
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
    free(x->saved);
    free(x->streams);
    free(x);
}

/* ---- actions */

static const struct ds_block *block_of(const struct ds_executor *x, const struct ds_action *action)
{
    return &x->options.model->blocks[action->block];
}

/* Where everything of this piece of arithmetic lies now. */
static struct ds_pass pass_of(struct ds_executor *x, const struct ds_action *action)
{
    const struct ds_block *block = block_of(x, action);
    struct ds_pass pass = {
        .stream = x->options.compute,
        .kernels = x->kernels,
        .batch = &x->options.batches[action->micro],
        .record = x->options.record,
        .rotary = x->options.rotary,
        .saved = action->slot == DS_NO_SLOT ? NULL : x->saved[action->slot],
        .workspace = x->workspace,
        .is_training = x->list->is_training,
    };
    const int is_backward = action->kind == DS_ACTION_BACKWARD;
    const int makes_grads = is_backward || (action->kind == DS_ACTION_LOSS && pass.is_training);

    for (uint32_t i = 0; i < block->unit_count && i < DS_BLOCK_UNITS_MAX; i++) {
        if (!is_backward || block->kind != DS_BLOCK_EMBEDDING)
            pass.weights[i] = ds_zero_weights(x->options.zero, block->units[i]);
        if (makes_grads) {
            pass.grads[i] = ds_zero_grads(x->options.zero, block->units[i]);
            pass.grads_add[i] = x->grads_add[i];
        }
    }
    return pass;
}

static float *stream_at(const struct ds_executor *x, uint32_t place)
{
    return place == DS_NO_SLOT ? NULL : x->streams[place];
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
    struct ds_pass pass = pass_of(x, action);

    return block_of(x, action)->ops->forward(block_of(x, action), &pass, stream_at(x, action->x),
                                             stream_at(x, action->out));
}

static ds_status do_recompute(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_pass pass = pass_of(x, action);

    return block_of(x, action)->ops->forward(block_of(x, action), &pass, stream_at(x, action->x),
                                             NULL);
}

static ds_status do_loss(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_pass pass = pass_of(x, action);

    if (x->is_predicting)
        return block_of(x, action)->ops->logits(block_of(x, action), &pass, stream_at(x, action->x),
                                                x->predict_row, 1, x->logits);
    return block_of(x, action)->ops->loss(block_of(x, action), &pass, stream_at(x, action->x),
                                          stream_at(x, action->out));
}

static ds_status do_backward(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_pass pass = pass_of(x, action);

    return block_of(x, action)->ops->backward(
        block_of(x, action), &pass, DS_BACKWARD_INPUT | DS_BACKWARD_WEIGHT, stream_at(x, action->x),
        stream_at(x, action->dy), stream_at(x, action->out));
}

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
    return ds_zero_reduce(x->options.zero, action->unit);
}

static ds_status do_norm(struct ds_executor *x, const struct ds_action *action)
{
    (void)action;
    return ds_optim_verdict(x->options.optim, x->options.record);
}

static ds_status do_update(struct ds_executor *x, const struct ds_action *action)
{
    return ds_optim_update(x->options.optim, action->unit, x->options.record);
}

typedef ds_status executor_do(struct ds_executor *x, const struct ds_action *action);
static executor_do *const executor_table[DS_ACTION_KIND_COUNT] = {
    [DS_ACTION_BEGIN] = do_begin,
    [DS_ACTION_FORWARD] = do_forward,
    [DS_ACTION_LOSS] = do_loss,
    [DS_ACTION_RECOMPUTE] = do_recompute,
    [DS_ACTION_BACKWARD] = do_backward,
    [DS_ACTION_PREFETCH] = do_prefetch,
    [DS_ACTION_ACQUIRE] = do_acquire,
    [DS_ACTION_RELEASE] = do_release,
    [DS_ACTION_GRAD_ACQUIRE] = do_grad_acquire,
    [DS_ACTION_REDUCE] = do_reduce,
    [DS_ACTION_NORM] = do_norm,
    [DS_ACTION_UPDATE] = do_update,
};

ds_status ds_executor_run(struct ds_executor *x, const struct ds_schedule *list)
{
    DS_ASSERT(list->saved_slot_count <= x->options.plan->saved_slot_count);
    DS_ASSERT(list->stream_slot_count <= x->options.plan->stream_slot_count);
    DS_ASSERT(x->options.is_training || !list->is_training);
    x->list = list;
    for (uint32_t i = 0; i < list->action_count; i++) {
        const struct ds_action *action = &list->actions[i];
        struct ds_record *record = NULL;
        uint32_t span;

        if (x->options.recorder)
            record = ds_record_begin(x->options.recorder, i, action->kind, action->micro,
                                     action->unit, action->block);
        DS_TRY(ds_timeline_action(x->options.timeline, ds_action_row(action->kind), i, &span));
        DS_TRY(executor_table[action->kind](x, action));
        DS_TRY(ds_timeline_end(x->options.timeline, span));
        if (record)
            ds_record_end(x->options.recorder, record);
    }
    return DS_OK;
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
