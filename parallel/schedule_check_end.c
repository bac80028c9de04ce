/* schedule_check_end.c - the checker's part on the end of a step: the verdict over all gradients, then every strip of
 * every unit updated once, in order; one that is away between its fetch and its eviction, alone in its slot. */
#include "schedule_checker.h"

enum { STRIP_FETCHED = 1, STRIP_UPDATED = 2 };

static int needs_tied_reduce(const struct ds_schedule_shape *shape)
{
    return shape->is_training && shape->stage_count > 1 && shape->tied_unit != DS_NO_UNIT &&
           (shape->stage == 0 || shape->stage + 1 == shape->stage_count);
}

static int all_reduced(const struct checker *c, uint32_t unit)
{
    return c->user_count[unit] == 0 || c->reduced[unit] == c->shape->micro_count;
}

static ds_status play_tied_reduce(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, needs_tied_reduce(c->shape) && action->unit == c->shape->tied_unit,
            "the unit is not tied here");
    PROMISE(c, all_reduced(c, action->unit), "a gradient is missing");
    PROMISE(c, !c->tied_count++ && !c->is_decided, "tied twice or too late");
    return DS_OK;
}

static ds_status play_norm(struct checker *c)
{
    for (uint32_t i = 0; i < c->shape->unit_count; i++)
        PROMISE(c, all_reduced(c, i), "a gradient is missing");
    PROMISE(c, c->tied_count || !needs_tied_reduce(c->shape), "the tied gradient is half");
    c->is_decided = 1;
    return DS_OK;
}

/* ---- strips */

static uint32_t strip_count(const struct checker *c, uint32_t unit)
{
    const struct ds_zero_strips *strips = c->shape->strips;

    return strips && strips[unit].elems > 0 ? ds_zero_strip_count(&strips[unit]) : 1;
}

static int is_away(const struct checker *c, const struct ds_action *action)
{
    const struct ds_zero_strips *strips = c->shape->strips;

    return strips && strips[action->unit].elems > 0 &&
           action->strip >= ds_zero_strip_first_away(&strips[action->unit]);
}

/* Does the gradient travel with the strip? */
static int has_gradient(const struct checker *c, const struct ds_action *action)
{
    const struct ds_zero_strips *strips = &c->shape->strips[action->unit];

    return ds_zero_strip_at(strips, action->strip).start >= strips->near_elems[DS_ZERO_GRAD];
}

static ds_status play_update(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, c->is_decided, "state would change before the verdict");
    PROMISE(c, action->unit == c->update_count && action->strip == c->updated_strips,
            "strips are updated once, in order");
    if (++c->updated_strips == strip_count(c, action->unit)) {
        c->updated_strips = 0;
        c->update_count++;
    }
    if (!is_away(c, action)) {
        PROMISE(c, action->slot == DS_NO_SLOT, "a slot for what is in device memory");
        return DS_OK;
    }
    PROMISE(c, action->slot < c->list->slots.strip_count, "a slot that is not in the plan");
    struct checker_strip *place = &c->strips[action->slot];
    PROMISE(c,
            place->what == STRIP_FETCHED && place->unit == action->unit &&
                place->strip == action->strip,
            "the strip was not fetched there");
    place->what = STRIP_UPDATED;
    return DS_OK;
}

static ds_status play_travel(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, action->slot < c->list->slots.strip_count, "a slot that is not in the plan");
    PROMISE(c, action->strip < strip_count(c, action->unit) && is_away(c, action),
            "the strip is not away");
    struct checker_strip *place = &c->strips[action->slot];
    if (action->kind == DS_ACTION_FETCH) {
        PROMISE(c, !place->what, "the slot is somebody's");
        PROMISE(c, !has_gradient(c, action) || all_reduced(c, action->unit),
                "its gradient is not all there");
        *place = (struct checker_strip){STRIP_FETCHED, action->unit, action->strip};
        return DS_OK;
    }
    PROMISE(c,
            place->what == STRIP_UPDATED && place->unit == action->unit &&
                place->strip == action->strip,
            "evicted without being updated");
    place->what = 0;
    return DS_OK;
}

/* ---- all of it */

static void skip_other_stages(struct checker *c)
{
    while (c->update_count < c->shape->unit_count && c->user_count[c->update_count] == 0)
        c->update_count++;
}

ds_status checker_play_end(struct checker *c)
{
    const struct ds_action *action = &c->list->actions[c->at];

    if (action->kind == DS_ACTION_NORM)
        return play_norm(c);
    PROMISE(c, action->unit < c->shape->unit_count && c->user_count[action->unit] > 0,
            "the unit is not of this stage");
    if (action->kind == DS_ACTION_TIED_REDUCE)
        return play_tied_reduce(c, action);
    if (action->kind != DS_ACTION_UPDATE)
        return play_travel(c, action);
    skip_other_stages(c);
    return play_update(c, action);
}

ds_status checker_all_updated(struct checker *c)
{
    skip_other_stages(c);
    PROMISE(c, !c->shape->is_training || c->update_count == c->shape->unit_count,
            "a unit was not updated");
    for (uint32_t i = 0; i < c->list->slots.strip_count; i++)
        PROMISE(c, !c->strips[i].what, "a strip is away from home at the end");
    return DS_OK;
}
