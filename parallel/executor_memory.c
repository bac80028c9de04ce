/* executor_memory.c - what the executor takes for a plan: places of activations, of streams and of what layers keep, what
 * blocks derive, and their workspace. */
#include "executor_private.h"

#include <stdlib.h>

size_t executor_stream_bytes(const struct ds_executor *x)
{
    const struct ds_model *model = x->options.model;

    return (size_t)ds_model_stream_tokens(model, x->options.tokens_per_micro) *
           model->config.hidden_size * ds_dtype_bytes(model->share.compute);
}

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

size_t executor_saved_bytes(const struct ds_executor *x, const struct ds_action *action)
{
    return saved_bytes(block_of(x, action), x->options.tokens_per_micro);
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

/* What blocks of tensor ranks work in, and so what they exchange, may be registered with their group. */
static int registers(const struct ds_executor *x)
{
    return x->options.registers && has_tensor_ranks(x);
}

static ds_status take_workspace(struct ds_executor *x)
{
    const size_t bytes = bytes_max(x, workspace_bytes);
    void *at = NULL;

    if (!registers(x))
        return take(x, DS_MEMORY_LABEL_WORKSPACE, bytes, &x->workspace);
    DS_TRY(ds_memory_take_symmetric(x->options.memory, DS_MEMORY_LABEL_WORKSPACE, bytes, &at));
    x->workspace = at;
    return DS_OK;
}

static ds_status take_places(struct ds_executor *x, uint32_t count, size_t bytes,
                             struct places *out)
{
    return registers(x) ? places_open_symmetric(x->options.memory, count, bytes, out)
                        : places_open(x->options.memory, DS_MEMORY_DEVICE, count, bytes, out);
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
                            .input_bytes = executor_stream_bytes(x)};
    DS_TRY(kept_open(&x->kept, o->memory, o->plan->home_count,
                     o->plan->home_has_saved ? bytes_max(x, saved_bytes) : 0));
    if (x->kept.swap)
        ds_zero_heed_files(o->zero, x->kept.swap);
    return DS_OK;
}

static ds_status take_memory(struct ds_executor *x)
{
    const struct ds_schedule *plan = x->options.plan;
    const struct ds_device_ops *ops = x->options.device->ops;

    DS_TRY(take_places(x, plan->saved_slot_count, bytes_max(x, saved_bytes), &x->saved));
    DS_TRY(take_places(x, plan->held_slot_count, bytes_max(x, held_bytes), &x->held));
    DS_TRY(take_places(x, plan->stream_slot_count, executor_stream_bytes(x), &x->streams));
    DS_TRY(take_homes(x));
    DS_TRY(take_derived(x));
    if (!x->options.is_training)
        DS_TRY(take(x, DS_MEMORY_LABEL_ACTIVATIONS,
                    x->options.model->config.vocab_size * sizeof(float), &x->logits));
    DS_TRY(take_workspace(x));
    if (plan->updates == DS_UPDATES_LATE)
        DS_TRY(take(x, DS_MEMORY_LABEL_WORKSPACE, sizeof *x->decided, &x->decided));
    if (has_tensor_ranks(x))
        DS_TRY(ds_tensor_stream_open(x->options.device, &x->tensor_stream));
    return ops->event_open(x->options.device, &x->handover);
}

static ds_status register_part(struct ds_executor *x, void *at, size_t bytes)
{
    return bytes > 0 ? ds_comm_register_memory(x->options.tensor, at, bytes) : DS_OK;
}

static ds_status register_places(struct ds_executor *x, const struct places *places, size_t bytes)
{
    for (uint32_t i = 0; i < places->count; i++)
        DS_TRY(register_part(x, places->places[i].at, bytes));
    return DS_OK;
}

ds_status ds_executor_register(struct ds_executor *x)
{
    if (!registers(x))
        return DS_OK;
    DS_TRY(register_places(x, &x->saved, bytes_max(x, saved_bytes)));
    DS_TRY(register_places(x, &x->held, bytes_max(x, held_bytes)));
    DS_TRY(register_places(x, &x->streams, executor_stream_bytes(x)));
    return register_part(x, x->workspace, bytes_max(x, workspace_bytes));
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
    executor_close_graphs(x);
    free(x);
}
