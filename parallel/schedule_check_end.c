/* schedule_check_end.c - the checker's part on the end of a step: the verdict over all gradients, then every strip of
 * every unit updated once, in order; one that is away between its fetch and its eviction, alone in its slot. Late updates
 * are those of the step before: made before this step gathers the unit, adds to its gradient or has its own verdict. What
 * is fetched ahead of the next list is what this one begins with. */
#include "schedule_checker.h"

enum { STRIP_FETCHED = 1, STRIP_UPDATED = 2, STRIP_AHEAD = 3 };

static int is_late(const struct checker *c)
{
    return c->shape->updates == DS_UPDATES_LATE;
}

static int needs_tied_reduce(const struct ds_schedule_shape *shape)
{
    return shape->is_training && shape->stage_count > 1 && shape->tied_unit != DS_NO_UNIT &&
           (shape->stage == 0 || shape->stage + 1 == shape->stage_count);
}

static int all_reduced(const struct checker *c, uint32_t unit)
{
    return c->user_count[unit] == 0 || !checker_trains(c, unit) ||
           c->reduced[unit] == c->shape->micro_count;
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

int checker_is_updated(const struct checker *c, uint32_t unit)
{
    return !checker_trains(c, unit) || c->updated[unit] == strip_count(c, unit);
}

/* Units in their order at the end of a step; late, in any. */
static ds_status play_turn(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, checker_trains(c, action->unit), "an update of what is frozen");
    PROMISE(c, c->is_decided != is_late(c), "state would change before the verdict on it");
    PROMISE(c, action->strip == c->updated[action->unit] && !checker_is_updated(c, action->unit),
            "strips are updated once, in order");
    PROMISE(c, !is_late(c) || c->reduced[action->unit] == 0, "with the gradient of another step");
    PROMISE(c, is_late(c) || action->unit >= c->updating, "units are updated in order");
    c->updated[action->unit]++;
    c->updating = action->unit;
    return DS_OK;
}

static ds_status play_update(struct checker *c, const struct ds_action *action)
{
    DS_TRY(play_turn(c, action));
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

/* A strip for this list is fetched before it is updated, with the gradient of the step that it is updated for; one for
 * the next list behind its update. */
static ds_status play_fetch(struct checker *c, const struct ds_action *action,
                            struct checker_strip *place)
{
    const int is_updated = action->strip < c->updated[action->unit], is_ahead = action->is_ahead;
    const int is_of_now = is_ahead || !is_late(c);

    PROMISE(c, !place->what, "the slot is somebody's");
    PROMISE(c, !is_ahead || is_late(c), "for a list that does not want it");
    PROMISE(c, is_updated == is_ahead, "fetched for nobody");
    PROMISE(c, is_of_now ? c->is_decided : c->reduced[action->unit] == 0,
            "its gradient is not all there");
    *place =
        (struct checker_strip){is_ahead ? STRIP_AHEAD : STRIP_FETCHED, action->unit, action->strip};
    return DS_OK;
}

static ds_status play_travel(struct checker *c, const struct ds_action *action)
{
    PROMISE(c, action->slot < c->list->slots.strip_count, "a slot that is not in the plan");
    PROMISE(c, action->strip < strip_count(c, action->unit) && is_away(c, action),
            "the strip is not away");
    struct checker_strip *place = &c->strips[action->slot];
    if (action->kind == DS_ACTION_FETCH)
        return play_fetch(c, action, place);
    PROMISE(c,
            place->what == STRIP_UPDATED && place->unit == action->unit &&
                place->strip == action->strip,
            "evicted without being updated");
    place->what = 0;
    return DS_OK;
}

/* ---- all of it */

ds_status checker_play_end(struct checker *c)
{
    const struct ds_action *action = &c->list->actions[c->at];

    if (action->kind == DS_ACTION_NORM)
        return play_norm(c);
    PROMISE(c, action->unit < c->shape->unit_count && c->user_count[action->unit] > 0,
            "the unit is not of this stage");
    if (action->kind == DS_ACTION_TIED_REDUCE)
        return play_tied_reduce(c, action);
    return action->kind == DS_ACTION_UPDATE ? play_update(c, action) : play_travel(c, action);
}

void checker_start_end(struct checker *c)
{
    const struct ds_schedule *list = c->list;

    for (uint32_t i = 0; i < list->action_count && is_late(c); i++) {
        const struct ds_action *action = &list->actions[i];
        if (action->kind == DS_ACTION_FETCH && action->is_ahead &&
            action->slot < list->slots.strip_count)
            c->strips[action->slot] =
                (struct checker_strip){STRIP_FETCHED, action->unit, action->strip};
    }
}

ds_status checker_all_updated(struct checker *c)
{
    for (uint32_t i = 0; i < c->shape->unit_count && c->shape->is_training; i++)
        PROMISE(c, c->user_count[i] == 0 || checker_is_updated(c, i), "a unit was not updated");
    for (uint32_t i = 0; i < c->list->slots.strip_count; i++)
        PROMISE(c, !c->strips[i].what || c->strips[i].what == STRIP_AHEAD,
                "a strip is away from home at the end");
    return DS_OK;
}
