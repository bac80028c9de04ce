/* schedule_updates.c - the verdict, what the optimizer updates, strip by strip, and how strips come and go. Those that
 * are away take turns in a few slots: the first are fetched where the verdict stands in the list, which what only copies
 * need not wait for, for the updates behind it or, where those are late, of the next list; each further one when the one
 * before it in its slot has left. */
#include "schedule_maker.h"

#include <stdlib.h>

static ds_status emit(struct ds_schedule *list, enum ds_action_kind kind, uint32_t unit,
                      uint32_t strip)
{
    return list_append(list, (struct ds_action){.kind = kind,
                                                .unit = unit,
                                                .strip = strip,
                                                .slot = DS_NO_SLOT,
                                                .x = DS_NO_SLOT,
                                                .dy = DS_NO_SLOT,
                                                .out = DS_NO_SLOT,
                                                .held = DS_NO_SLOT,
                                                .home = DS_NO_SLOT});
}

ds_status updates_of_unit(const struct ds_schedule_shape *shape, uint32_t unit,
                          struct ds_schedule *list)
{
    const uint32_t strips = shape->strips ? ds_zero_strip_count(&shape->strips[unit]) : 1;

    for (uint32_t i = 0; i < (strips > 0 ? strips : 1); i++)
        DS_TRY(emit(list, DS_ACTION_UPDATE, unit, i));
    return DS_OK;
}

static ds_status emit_verdict(const struct ds_schedule_shape *shape, struct ds_schedule *list)
{
    const int is_end = shape->stage == 0 || shape->stage + 1 == shape->stage_count;

    if (shape->tied_unit != DS_NO_UNIT && shape->stage_count > 1 && is_end)
        DS_TRY(emit(list, DS_ACTION_TIED_REDUCE, shape->tied_unit, 0));
    return emit(list, DS_ACTION_NORM, 0, 0);
}

/* Who waits here for another stage has nothing left that another stage waits for. */
ds_status updates_at_end(const struct ds_schedule_shape *shape, const uint32_t *user_count,
                         struct ds_schedule *list)
{
    DS_TRY(emit_verdict(shape, list));
    for (uint32_t i = 0; i < shape->unit_count && shape->updates == DS_UPDATES_END; i++)
        if (user_count[i] > 0 && unit_is_trained(shape, i))
            DS_TRY(updates_of_unit(shape, i, list));
    return DS_OK;
}

/* ---- coming and going */

/* Copies the list `from` to `list`. Its updates of what is away, in their order, take the slots in turn. */
struct travel {
    const struct ds_schedule_shape *shape;
    const struct ds_schedule *from;
    struct ds_schedule *list;
    uint32_t next; /* of `from`: where to look for what is fetched next */
    uint32_t turn; /* the slot of the next update */
};

static int is_away(const struct ds_schedule_shape *shape, const struct ds_action *action)
{
    const struct ds_zero_strips *strips = shape->strips;

    return action->kind == DS_ACTION_UPDATE && strips && strips[action->unit].elems > 0 &&
           action->strip >= ds_zero_strip_first_away(&strips[action->unit]);
}

static uint32_t count_away(const struct travel *t)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < t->from->action_count; i++)
        count += (uint32_t)is_away(t->shape, &t->from->actions[i]);
    return count;
}

static ds_status move(struct travel *t, enum ds_action_kind kind, const struct ds_action *update,
                      uint32_t slot, int is_ahead)
{
    struct ds_action action = *update;

    action.kind = kind;
    action.slot = slot;
    action.is_ahead = (uint32_t)is_ahead;
    return list_append(t->list, action);
}

static ds_status fetch_next(struct travel *t, uint32_t slot, int is_ahead)
{
    const struct ds_action *actions = t->from->actions;

    while (t->next < t->from->action_count && !is_away(t->shape, &actions[t->next]))
        t->next++;
    if (t->next == t->from->action_count)
        return DS_OK;
    return move(t, DS_ACTION_FETCH, &actions[t->next++], slot, is_ahead);
}

/* What the slots are filled with behind the verdict. */
static ds_status fetch_first(struct travel *t)
{
    t->next = 0;
    for (uint32_t slot = 0; slot < t->list->slots.strip_count; slot++)
        DS_TRY(fetch_next(t, slot, t->shape->updates == DS_UPDATES_LATE));
    return DS_OK;
}

static ds_status update_away(struct travel *t, const struct ds_action *update)
{
    const uint32_t slot = t->turn;

    t->turn = (slot + 1) % t->list->slots.strip_count;
    DS_TRY(move(t, DS_ACTION_UPDATE, update, slot, 0));
    DS_TRY(move(t, DS_ACTION_EVICT, update, slot, 0));
    return fetch_next(t, slot, 0);
}

static ds_status copy_action(struct travel *t, uint32_t at)
{
    const struct ds_action *action = &t->from->actions[at];

    if (is_away(t->shape, action))
        return update_away(t, action);
    DS_TRY(list_append(t->list, *action));
    return action->kind == DS_ACTION_NORM ? fetch_first(t) : DS_OK;
}

/* Late, the list begins with the first strips in their slots. */
static void start(struct travel *t)
{
    const uint32_t away = count_away(t), slots = t->shape->strip_slots;

    DS_ASSERT(away == 0 || slots > 0);
    t->list->slots.strip_count = away < slots ? away : slots;
    for (uint32_t i = 0; t->shape->updates == DS_UPDATES_LATE && i < t->list->slots.strip_count;
         t->next++)
        i += (uint32_t)is_away(t->shape, &t->from->actions[t->next]);
}

ds_status updates_travel(const struct ds_schedule_shape *shape, struct ds_schedule *list)
{
    const struct ds_schedule from = *list;
    struct travel t = {.shape = shape, .from = &from, .list = list};
    ds_status st = DS_OK;

    list->actions = NULL;
    list->action_count = list->action_capacity = 0;
    start(&t);
    for (uint32_t i = 0; i < from.action_count && st == DS_OK; i++)
        st = copy_action(&t, i);
    free(from.actions);
    return st;
}
