/* schedule_check_units.c - the checker's part on units: one holder a slot, gathered before it is held,
 * one micro-batch's gradient at a time, complete when it is reduced, and reduced in micro-batch order. */
#include "schedule_checker.h"

static ds_status take_slot(struct checker *c, uint32_t *holders, uint32_t count)
{
    const struct ds_action *action = &c->list->actions[c->at];

    PROMISE(c, action->slot < count, "a slot that is not in the plan");
    PROMISE(c, holders[action->slot] == 0, "the slot is somebody's");
    holders[action->slot] = action->unit + 1;
    return DS_OK;
}

static ds_status play_gather(struct checker *c, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = c->list->slot_class[unit];

    PROMISE(c,
            !c->shape->is_training || c->shape->updates != DS_UPDATES_LATE ||
                checker_is_updated(c, unit),
            "gathered before its update");
    if (action->kind == DS_ACTION_ACQUIRE) {
        PROMISE(c, !c->is_held[unit], "acquired twice");
        c->is_held[unit] = 1;
        if (c->is_gathered[unit]) {
            PROMISE(c, c->weight_slot[unit] == action->slot, "gathered in another slot");
            return DS_OK;
        }
    }
    PROMISE(c, !c->is_gathered[unit], "gathered twice");
    c->is_gathered[unit] = 1;
    c->weight_slot[unit] = action->slot;
    return take_slot(c, c->weight_holder[slot_class], c->list->slots.weight_count[slot_class]);
}

static ds_status play_release(struct checker *c, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = c->list->slot_class[unit];

    PROMISE(c, c->is_held[unit], "released without being held");
    c->is_held[unit] = c->is_gathered[unit] = 0;
    c->weight_holder[slot_class][c->weight_slot[unit]] = 0;
    return DS_OK;
}

static ds_status play_grad_acquire(struct checker *c, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = c->list->slot_class[unit];

    PROMISE(c, checker_trains(c, unit), "a gradient of what is frozen");
    c->is_announced[unit] = 1;
    if (c->has_grad[unit]) {
        PROMISE(c, c->grad_slot[unit] == action->slot, "its gradient is elsewhere");
        return DS_OK;
    }
    c->has_grad[unit] = 1;
    c->added[unit] = 0;
    c->grad_slot[unit] = action->slot;
    return take_slot(c, c->grad_holder[slot_class], c->list->slots.grad_count[slot_class]);
}

static ds_status play_reduce(struct checker *c, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = c->list->slot_class[unit];

    PROMISE(c, c->has_grad[unit], "no gradient to reduce");
    PROMISE(c, c->added[unit] == c->user_count[unit], "a block has not added to the gradient");
    PROMISE(c, c->reduced[unit] == c->grad_micro[unit], "micro-batches are not added in order");
    c->has_grad[unit] = 0;
    c->reduced[unit]++;
    c->grad_holder[slot_class][c->grad_slot[unit]] = 0;
    return DS_OK;
}

ds_status checker_play_unit(struct checker *c)
{
    const struct ds_action *action = &c->list->actions[c->at];

    PROMISE(c, action->unit < c->shape->unit_count && c->user_count[action->unit] > 0,
            "the unit is not of this stage");
    switch ((int)action->kind) {
    case DS_ACTION_RELEASE:
        return play_release(c, action);
    case DS_ACTION_GRAD_ACQUIRE:
        return play_grad_acquire(c, action);
    case DS_ACTION_REDUCE:
        return play_reduce(c, action);
    default:
        return play_gather(c, action);
    }
}
