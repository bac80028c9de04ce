/* schedule_updates.c - the end of a step: the verdict, and behind it what the optimizer updates, strip by strip. Those
 * that are away take turns in a few slots: the first are fetched while backward still works, each further one when
 * the one before it in its slot has left. */
#include "schedule_maker.h"

struct walk {
    const struct ds_schedule_shape *shape;
    const uint32_t *user_count;
    uint32_t unit, strip;
};

static uint32_t strip_count(const struct walk *w)
{
    const uint32_t count = w->shape->strips ? ds_zero_strip_count(&w->shape->strips[w->unit]) : 1;

    return count > 0 ? count : 1;
}

static int is_away(const struct walk *w)
{
    return w->shape->strips && w->shape->strips[w->unit].elems > 0 &&
           w->strip >= ds_zero_strip_first_away(&w->shape->strips[w->unit]);
}

static int is_at_end(const struct walk *w)
{
    return w->unit >= w->shape->unit_count;
}

/* Strips of the units of this stage, in their order. */
static void next_strip(struct walk *w)
{
    if (++w->strip < strip_count(w))
        return;
    w->strip = 0;
    do
        w->unit++;
    while (!is_at_end(w) && w->user_count[w->unit] == 0);
}

static struct walk walk_of(const struct ds_schedule_shape *shape, const uint32_t *user_count)
{
    struct walk w = {.shape = shape, .user_count = user_count};

    while (!is_at_end(&w) && user_count[w.unit] == 0)
        w.unit++;
    return w;
}

static void skip_near(struct walk *w)
{
    while (!is_at_end(w) && !is_away(w))
        next_strip(w);
}

static ds_status emit(struct ds_schedule *list, enum ds_action_kind kind, const struct walk *w,
                      uint32_t slot)
{
    return list_append(list, (struct ds_action){.kind = kind,
                                                .unit = w->unit,
                                                .strip = w->strip,
                                                .slot = slot,
                                                .x = DS_NO_SLOT,
                                                .dy = DS_NO_SLOT,
                                                .out = DS_NO_SLOT,
                                                .held = DS_NO_SLOT});
}

static ds_status emit_fetch(struct ds_schedule *list, struct walk *next, uint32_t slot)
{
    if (is_at_end(next))
        return DS_OK;
    DS_TRY(emit(list, DS_ACTION_FETCH, next, slot));
    next_strip(next);
    skip_near(next);
    return DS_OK;
}

static ds_status emit_verdict(const struct ds_schedule_shape *shape, struct ds_schedule *list)
{
    const int is_end = shape->stage == 0 || shape->stage + 1 == shape->stage_count;
    const struct walk tied = {.unit = shape->tied_unit}, none = {0};

    if (shape->tied_unit != DS_NO_UNIT && shape->stage_count > 1 && is_end)
        DS_TRY(emit(list, DS_ACTION_TIED_REDUCE, &tied, DS_NO_SLOT));
    return emit(list, DS_ACTION_NORM, &none, DS_NO_SLOT);
}

/* Who waits here for another stage has nothing left that another stage waits for. */
ds_status updates_emit(const struct ds_schedule_shape *shape, const uint32_t *user_count,
                       struct ds_schedule *list)
{
    struct walk now = walk_of(shape, user_count), next = now;
    uint32_t slot = 0;

    skip_near(&next);
    DS_ASSERT(is_at_end(&next) || shape->strip_slots > 0);
    while (list->slots.strip_count < shape->strip_slots && !is_at_end(&next))
        DS_TRY(emit_fetch(list, &next, list->slots.strip_count++));
    DS_TRY(emit_verdict(shape, list));
    for (; !is_at_end(&now); next_strip(&now)) {
        if (!is_away(&now)) {
            DS_TRY(emit(list, DS_ACTION_UPDATE, &now, DS_NO_SLOT));
            continue;
        }
        DS_TRY(emit(list, DS_ACTION_UPDATE, &now, slot));
        DS_TRY(emit(list, DS_ACTION_EVICT, &now, slot));
        DS_TRY(emit_fetch(list, &next, slot));
        slot = (slot + 1) % list->slots.strip_count;
    }
    return DS_OK;
}
