/* schedule_check.c - plays a list and says the first promise it breaks. Every place is followed by
 * what lies in it - "the output of block 3 for micro-batch 2" - so that an action that reads something
 * else, or reads a place that was used again too soon, is found. */
#include "schedule_checker.h"

#include <stdlib.h>
#include <string.h>

enum { DONE_FORWARD = 1, DONE_INPUT = 2, DONE_WEIGHT = 4, DONE_ALL = 7 };

ds_status checker_broken(const struct checker *c, const char *promise)
{
    const struct ds_action *action = &c->list->actions[c->at];

    return ds_fail(
        DS_ERR_CONFIG,
        "schedule: stage %u: action %u (%s, micro-batch %u, block %u, unit %u, slot %u): %s",
        c->shape->stage, c->at, ds_action_names[action->kind], action->micro, action->block,
        action->unit, action->slot, promise);
}

/* ---- what lies where */

static size_t cell_of(const struct checker *c, uint32_t micro, uint32_t block)
{
    return (size_t)block * c->shape->micro_count + micro;
}

static uint32_t content_of(const struct checker *c, enum content what, uint32_t micro,
                           uint32_t block)
{
    return (uint32_t)((size_t)what * c->shape->block_count * c->shape->micro_count +
                      cell_of(c, micro, block) + 1);
}

static uint32_t *pool_of(const struct checker *c, enum content what, uint32_t *count)
{
    *count = what == CONTENT_SAVED  ? c->list->saved_slot_count
             : what == CONTENT_HELD ? c->list->held_slot_count
             : what == CONTENT_KEPT ? c->list->home_count
                                    : c->list->stream_slot_count;
    return what == CONTENT_SAVED  ? c->saved
           : what == CONTENT_HELD ? c->held
           : what == CONTENT_KEPT ? c->homes
                                  : c->streams;
}

static ds_status reads(const struct checker *c, enum content what, uint32_t place, uint32_t micro,
                       uint32_t block)
{
    uint32_t count, *pool = pool_of(c, what, &count);

    PROMISE(c, place < count, "a place that is not in the plan");
    PROMISE(c, pool[place] == content_of(c, what, micro, block),
            "what is read there is something else");
    return DS_OK;
}

static ds_status writes(const struct checker *c, enum content what, uint32_t place, uint32_t micro,
                        uint32_t block)
{
    uint32_t count, *pool = pool_of(c, what, &count);

    PROMISE(c, place < count, "a place that is not in the plan");
    pool[place] = content_of(c, what, micro, block);
    return DS_OK;
}

/* ---- arithmetic */

static int block_is_here(const struct ds_schedule_shape *shape, uint32_t block)
{
    for (uint32_t v = shape->stage; v < shape->stage_count * shape->chunk_count;
         v += shape->stage_count)
        if (shape->chunk_first[v] <= block && block < shape->chunk_first[v + 1])
            return 1;
    return 0;
}

/* a block's units are all held (weights) or all have a place (gradients) */
static int all_units(const struct checker *c, uint32_t block, const uint8_t *flags)
{
    const struct ds_schedule_block *b = &c->shape->blocks[block];

    for (uint32_t i = 0; i < b->unit_count; i++)
        if (!flags[b->units[i]] && (flags == c->is_held || checker_trains(c, b->units[i])))
            return 0;
    return 1;
}

static ds_status adds_gradient(struct checker *c, const struct ds_action *action)
{
    const struct ds_schedule_block *b = &c->shape->blocks[action->block];

    PROMISE(c, all_units(c, action->block, c->is_announced), "no place for the gradient");
    for (uint32_t i = 0; i < b->unit_count; i++) {
        if (!checker_trains(c, b->units[i]))
            continue;
        if (c->added[b->units[i]]++ == 0)
            c->grad_micro[b->units[i]] = action->micro;
        PROMISE(c, c->grad_micro[b->units[i]] == action->micro,
                "another micro-batch's gradient is there");
    }
    return DS_OK;
}

static ds_status play_forward(struct checker *c, const struct ds_action *action, uint8_t *done)
{
    const int is_layer = action->block > 0;

    PROMISE(c, !*done, "forward twice");
    PROMISE(c, action->out != action->x, "a forward in place");
    if (is_layer) {
        DS_TRY(reads(c, CONTENT_OUTPUT, action->x, action->micro, action->block - 1));
        DS_TRY(writes(c, CONTENT_SAVED, action->slot, action->micro, action->block));
    }
    *done = DONE_FORWARD;
    return writes(c, CONTENT_OUTPUT, action->out, action->micro, action->block);
}

static ds_status play_loss(struct checker *c, const struct ds_action *action, uint8_t *done)
{
    PROMISE(c, !*done, "loss twice");
    PROMISE(c, action->micro == c->loss_count++, "losses are not added in order");
    DS_TRY(reads(c, CONTENT_OUTPUT, action->x, action->micro, action->block - 1));
    *done = DONE_ALL;
    if (!c->shape->is_training) {
        PROMISE(c, action->out == DS_NO_SLOT, "a gradient that nobody wants");
        return DS_OK;
    }
    PROMISE(c, action->out != action->x, "a loss in place");
    DS_TRY(adds_gradient(c, action));
    return writes(c, CONTENT_GRADIENT, action->out, action->micro, action->block);
}

static ds_status play_recompute(struct checker *c, const struct ds_action *action,
                                const uint8_t *done)
{
    PROMISE(c, *done == DONE_FORWARD, "not between its two turns");
    PROMISE(c, c->shape->recomputes && action->block > 0, "nothing to make again");
    DS_TRY(reads(c, CONTENT_OUTPUT, action->x, action->micro, action->block - 1));
    return writes(c, CONTENT_SAVED, action->slot, action->micro, action->block);
}

/* All parts of a layer's backward read these. */
static ds_status reads_backward(struct checker *c, const struct ds_action *action)
{
    DS_TRY(reads(c, CONTENT_GRADIENT, action->dy, action->micro, action->block + 1));
    if (action->block == 0)
        return DS_OK;
    DS_TRY(reads(c, CONTENT_OUTPUT, action->x, action->micro, action->block - 1));
    return reads(c, CONTENT_SAVED, action->slot, action->micro, action->block);
}

static ds_status play_backward(struct checker *c, const struct ds_action *action, uint8_t *done)
{
    PROMISE(c, *done == DONE_FORWARD, "not after its forward, or twice");
    DS_TRY(reads_backward(c, action));
    DS_TRY(adds_gradient(c, action));
    *done = DONE_ALL;
    if (action->block == 0)
        return DS_OK;
    PROMISE(c, action->out != action->x, "the gradient over the input");
    return writes(c, CONTENT_GRADIENT, action->out, action->micro, action->block);
}

static ds_status play_backward_input(struct checker *c, const struct ds_action *action,
                                     uint8_t *done)
{
    PROMISE(c, *done == DONE_FORWARD && action->block > 0, "not after its forward, or twice");
    PROMISE(c, action->out != action->x && action->out != action->dy,
            "the weight part still reads what would be overwritten");
    DS_TRY(reads_backward(c, action));
    *done |= DONE_INPUT;
    DS_TRY(writes(c, CONTENT_HELD, action->held, action->micro, action->block));
    return writes(c, CONTENT_GRADIENT, action->out, action->micro, action->block);
}

static ds_status play_backward_weight(struct checker *c, const struct ds_action *action,
                                      uint8_t *done)
{
    PROMISE(c, *done == (action->block > 0 ? DONE_FORWARD | DONE_INPUT : DONE_FORWARD),
            "not after the input part, or twice");
    DS_TRY(reads_backward(c, action));
    if (action->block > 0)
        DS_TRY(reads(c, CONTENT_HELD, action->held, action->micro, action->block));
    *done = DONE_ALL;
    return adds_gradient(c, action);
}

static ds_status play_by_kind(struct checker *c, const struct ds_action *action, uint8_t *done)
{
    switch ((int)action->kind) {
    case DS_ACTION_FORWARD:
        return play_forward(c, action, done);
    case DS_ACTION_LOSS:
        return play_loss(c, action, done);
    case DS_ACTION_RECOMPUTE:
        return play_recompute(c, action, done);
    case DS_ACTION_BACKWARD:
        return play_backward(c, action, done);
    case DS_ACTION_BACKWARD_INPUT:
        return play_backward_input(c, action, done);
    default:
        return play_backward_weight(c, action, done);
    }
}

static ds_status play_arithmetic(struct checker *c, const struct ds_action *action)
{
    const struct ds_schedule_shape *shape = c->shape;
    const int needs_no_weights = action->kind == DS_ACTION_BACKWARD_WEIGHT ||
                                 (action->block == 0 && action->kind != DS_ACTION_FORWARD);

    PROMISE(c, action->micro < shape->micro_count && action->block < shape->block_count,
            "out of range");
    PROMISE(c, block_is_here(shape, action->block), "the block is not of this stage");
    PROMISE(c, (action->kind == DS_ACTION_LOSS) == (action->block + 1 == shape->block_count),
            "the last block is the loss");
    PROMISE(c, shape->is_training || action->kind <= DS_ACTION_LOSS, "nothing is trained");
    PROMISE(c, needs_no_weights || all_units(c, action->block, c->is_held), "weights are not held");
    DS_TRY(play_by_kind(c, action, &c->done[cell_of(c, action->micro, action->block)]));
    memset(c->is_announced, 0, shape->unit_count);
    return DS_OK;
}

/* ---- to the host and back */

/* What is read is nobody's any more. */
static ds_status leaves(struct checker *c, enum content what, uint32_t place, uint32_t micro,
                        uint32_t block)
{
    uint32_t count, *pool = pool_of(c, what, &count);

    DS_TRY(reads(c, what, place, micro, block));
    pool[place] = 0;
    return DS_OK;
}

static ds_status play_evict(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, action->home < c->list->home_count, "a place that is not in the plan");
    PROMISE(c, c->homes[action->home] == 0, "the place is somebody's");
    DS_TRY(leaves(c, CONTENT_OUTPUT, action->x, action->micro, action->block - 1));
    if (!c->shape->recomputes)
        DS_TRY(leaves(c, CONTENT_SAVED, action->slot, action->micro, action->block));
    return writes(c, CONTENT_KEPT, action->home, action->micro, action->block);
}

static ds_status play_kept(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, c->shape->is_training, "nothing is trained");
    PROMISE(c, action->micro < c->shape->micro_count && action->block > 0, "out of range");
    PROMISE(c, action->block + 1 < c->shape->block_count && block_is_here(c->shape, action->block),
            "the block is no layer of this stage");
    PROMISE(c, c->done[cell_of(c, action->micro, action->block)] == DONE_FORWARD,
            "not between its two turns");
    PROMISE(c, !c->list->home_has_saved == (c->shape->recomputes || c->list->home_count == 0),
            "places for something else");
    if (action->kind == DS_ACTION_EVICT_KEPT)
        return play_evict(c, action);
    DS_TRY(leaves(c, CONTENT_KEPT, action->home, action->micro, action->block));
    DS_TRY(writes(c, CONTENT_OUTPUT, action->x, action->micro, action->block - 1));
    if (c->shape->recomputes) {
        PROMISE(c, action->slot == DS_NO_SLOT, "nothing was saved");
        return DS_OK;
    }
    return writes(c, CONTENT_SAVED, action->slot, action->micro, action->block);
}

/* ---- messages */

/* Does the message cross the border of two parts, from the one stage to the other? */
static int crosses(const struct ds_schedule_shape *shape, const struct ds_transfer *t)
{
    const uint32_t parts = shape->stage_count * shape->chunk_count;

    for (uint32_t v = 0; v + 1 < parts && t->peer != shape->stage; v++) {
        const uint32_t border = shape->chunk_first[v + 1];
        const uint32_t below = v % shape->stage_count, above = (v + 1) % shape->stage_count;
        const int goes_up = !t->is_gradient, is_from_here = t->is_send != 0;
        if (t->block != (goes_up ? border - 1 : border))
            continue;
        return shape->stage == (goes_up == is_from_here ? below : above) &&
               t->peer == (goes_up == is_from_here ? above : below);
    }
    return 0;
}

static ds_status play_transfer(struct checker *c, const struct ds_transfer *t)
{
    const enum content what = t->is_gradient ? CONTENT_GRADIENT : CONTENT_OUTPUT;
    uint8_t **once = t->is_send ? c->sent : c->received;

    PROMISE(c,
            t->micro < c->shape->micro_count && t->block < c->shape->block_count &&
                crosses(c->shape, t),
            "a message that leads nowhere");
    PROMISE(c, !once[t->is_gradient != 0][cell_of(c, t->micro, t->block)]++,
            "a message travels twice");
    return t->is_send ? reads(c, what, t->slot, t->micro, t->block)
                      : writes(c, what, t->slot, t->micro, t->block);
}

static ds_status play_exchange(struct checker *c, const struct ds_action *action)
{
    const struct ds_transfer *t = &c->list->transfers[action->transfer_start];
    const uint32_t count = action->transfer_count;

    PROMISE(c,
            action->transfer_start == c->transfer_count && count > 0 &&
                count <= DS_EXCHANGE_TRANSFERS_MAX &&
                count <= c->list->transfer_count - c->transfer_count,
            "not the next messages");
    c->transfer_count += count;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < i; j++)
            PROMISE(c, t[i].slot != t[j].slot, "one place for two messages");
    for (uint32_t i = 0; i < count; i++)
        DS_TRY(play_transfer(c, &t[i]));
    return DS_OK;
}

/* ---- all of it */

static ds_status play(struct checker *c, const struct ds_action *action)
{
    switch (action->kind) {
    case DS_ACTION_BEGIN:
        PROMISE(c, c->at == 0, "the step has begun already");
        return DS_OK;
    case DS_ACTION_PREFETCH:
    case DS_ACTION_ACQUIRE:
    case DS_ACTION_RELEASE:
    case DS_ACTION_GRAD_ACQUIRE:
    case DS_ACTION_REDUCE:
        return checker_play_unit(c);
    case DS_ACTION_FORWARD:
    case DS_ACTION_LOSS:
    case DS_ACTION_RECOMPUTE:
    case DS_ACTION_BACKWARD:
    case DS_ACTION_BACKWARD_INPUT:
    case DS_ACTION_BACKWARD_WEIGHT:
        return play_arithmetic(c, action);
    case DS_ACTION_EXCHANGE:
        return play_exchange(c, action);
    case DS_ACTION_EVICT_KEPT:
    case DS_ACTION_FETCH_KEPT:
        return play_kept(c, action);
    case DS_ACTION_TIED_REDUCE:
    case DS_ACTION_NORM:
    case DS_ACTION_FETCH:
    case DS_ACTION_UPDATE:
    case DS_ACTION_EVICT:
        return checker_play_end(c);
    case DS_ACTION_KIND_COUNT:
        break;
    }
    return checker_broken(c, "no such action");
}

ds_status checker_play(struct checker *c)
{
    DS_TRY(play(c, &c->list->actions[c->at]));
    c->at++;
    return DS_OK;
}

ds_status checker_end(struct checker *c)
{
    const struct ds_schedule_shape *shape = c->shape;
    const uint8_t done = shape->is_training ? DONE_ALL : DONE_FORWARD;

    c->at -= c->at > 0; /* what is missing is missing after the last */
    for (uint32_t i = 0; i < shape->unit_count; i++)
        PROMISE(c, !c->is_gathered[i] && !c->has_grad[i], "a unit is held at the end");
    for (uint32_t b = 0; b < shape->block_count; b++)
        for (uint32_t m = 0; block_is_here(shape, b) && m < shape->micro_count; m++)
            PROMISE(c, (c->done[cell_of(c, m, b)] & done) == done, "a block was left out");
    for (uint32_t i = 0; i < c->list->home_count; i++)
        PROMISE(c, c->homes[i] == 0, "what a layer keeps is on the host at the end");
    PROMISE(c, c->transfer_count == c->list->transfer_count, "a message was left out");
    return checker_all_updated(c);
}

/* Tables one after another in two allocations. */
static void cut_tables(struct checker *c)
{
    const size_t units = c->shape->unit_count;
    const size_t cells = (size_t)c->shape->micro_count * c->shape->block_count;
    uint32_t **per_unit[] = {&c->weight_slot, &c->grad_slot,  &c->reduced, &c->user_count,
                             &c->added,       &c->grad_micro, &c->updated};
    uint8_t **flags[] = {&c->is_gathered, &c->is_held, &c->has_grad, &c->is_announced};
    uint8_t **per_cell[] = {&c->done, &c->sent[0], &c->sent[1], &c->received[0], &c->received[1]};
    uint32_t *number = c->numbers;
    uint8_t *flag = c->flags;

    for (size_t i = 0; i < sizeof per_unit / sizeof *per_unit; i++, number += units)
        *per_unit[i] = number;
    for (uint32_t k = 0; k < DS_ZERO_SLOT_CLASSES; k++) {
        c->weight_holder[k] = number;
        c->grad_holder[k] = number += c->list->slots.weight_count[k];
        number += c->list->slots.grad_count[k];
    }
    c->streams = number;
    c->saved = number += c->list->stream_slot_count;
    c->held = number += c->list->saved_slot_count;
    c->homes = number + c->list->held_slot_count;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++, flag += units)
        *flags[i] = flag;
    for (size_t i = 0; i < sizeof per_cell / sizeof *per_cell; i++, flag += cells)
        *per_cell[i] = flag;
}

ds_status checker_init(struct checker *c, const struct ds_schedule_shape *shape,
                       const struct ds_schedule *list)
{
    const size_t units = shape->unit_count, cells = (size_t)shape->micro_count * shape->block_count;
    size_t numbers = 7 * units + list->stream_slot_count + list->saved_slot_count +
                     list->held_slot_count + list->home_count + 1;

    for (uint32_t k = 0; k < DS_ZERO_SLOT_CLASSES; k++)
        numbers += list->slots.weight_count[k] + list->slots.grad_count[k];
    *c = (struct checker){.shape = shape, .list = list};
    c->numbers = calloc(numbers, sizeof *c->numbers);
    c->flags = calloc(4 * units + 5 * cells, 1);
    c->strips = calloc(list->slots.strip_count + 1u, sizeof *c->strips);
    if (!c->numbers || !c->flags || !c->strips)
        return ds_fail(DS_ERR_NO_MEMORY, "to check a schedule of %zu units", units);
    cut_tables(c);
    for (uint32_t b = 0; b < shape->block_count; b++)
        for (uint32_t i = 0; block_is_here(shape, b) && i < shape->blocks[b].unit_count; i++)
            c->user_count[shape->blocks[b].units[i]]++;
    checker_start_end(c);
    return DS_OK;
}

void checker_fini(struct checker *c)
{
    free(c->numbers);
    free(c->flags);
    free(c->strips);
    *c = (struct checker){0};
}

ds_status ds_schedule_check(const struct ds_schedule_shape *shape,
                            const struct ds_schedule *schedule)
{
    struct checker checker;
    ds_status st = checker_init(&checker, shape, schedule);

    while (st == DS_OK && checker.at < schedule->action_count)
        st = checker_play(&checker);
    if (st == DS_OK)
        st = checker_end(&checker);
    checker_fini(&checker);
    return st;
}
