/* executor_arithmetic.c - blocks forward and backward: where everything of a piece lies now, and who has to have left it. */
#include "executor_private.h"

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

ds_status executor_forward(struct ds_executor *x, const struct ds_action *action)
{
    struct ds_pass pass;
    struct streams at;

    DS_TRY(pass_of(x, action, &pass));
    DS_TRY(streams_of(x, action, &at));
    return block_of(x, action)->ops->forward(block_of(x, action), &pass, at.x, at.out);
}

ds_status executor_loss(struct ds_executor *x, const struct ds_action *action)
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

ds_status executor_backward(struct ds_executor *x, const struct ds_action *action)
{
    return backward(x, action, DS_BACKWARD_INPUT | DS_BACKWARD_WEIGHT);
}

ds_status executor_backward_input(struct ds_executor *x, const struct ds_action *action)
{
    return backward(x, action, DS_BACKWARD_INPUT);
}

ds_status executor_backward_weight(struct ds_executor *x, const struct ds_action *action)
{
    return backward(x, action, DS_BACKWARD_WEIGHT);
}
