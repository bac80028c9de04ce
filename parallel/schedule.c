/* schedule.c - makes the list of one step, from the outside in: all stages' pieces on one clock, what
 * of it this stage does block by block, where its works find things, and the traffic of units around
 * them. Of a few ways to share slots of units the one with the fewest bytes is taken, the first of
 * equals. */
#include "schedule_maker.h"

#include <stdlib.h>
#include <string.h>

const char *const ds_action_names[DS_ACTION_KIND_COUNT] = {
#define ACTION_NAME(name, text) [DS_ACTION_##name] = text,
    DS_ACTION_LIST(ACTION_NAME)};

static int unit_is_here(const struct ds_schedule_shape *shape, uint32_t unit)
{
    for (uint32_t b = 0; b < shape->block_count; b++)
        for (uint32_t i = 0; block_is_here(shape, b) && i < shape->blocks[b].unit_count; i++)
            if (shape->blocks[b].units[i] == unit)
                return 1;
    return 0;
}

/* The dearest unit of a class sizes its slots; of gradients the dearest that has one. */
static uint64_t dearest(const struct ds_schedule_shape *shape, const struct ds_schedule *list,
                        uint32_t slot_class, int is_gradient)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < shape->unit_count; i++)
        if (list->slot_class[i] == slot_class && shape->unit_cost[i] > most &&
            (!is_gradient || unit_is_trained(shape, i)) && unit_is_here(shape, i))
            most = shape->unit_cost[i];
    return most;
}

static uint64_t slots_cost(const struct ds_schedule_shape *shape, const struct ds_schedule *list)
{
    uint64_t total = 0;

    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        total += dearest(shape, list, c, 1) * list->slots.grad_count[c];
        if (shape->zero_stage == 3)
            total += dearest(shape, list, c, 0) * list->slots.weight_count[c];
    }
    return total;
}

static ds_status take_best_variant(const struct ds_schedule_shape *shape, const struct works *works,
                                   struct ds_schedule *best)
{
    ds_status st = units_emit(shape, 0, works, best);

    for (uint32_t variant = 1; variant < UNITS_VARIANTS && st == DS_OK; variant++) {
        struct ds_schedule next = {0};
        st = units_emit(shape, variant, works, &next);
        if (st == DS_OK && slots_cost(shape, &next) < slots_cost(shape, best)) {
            struct ds_schedule other = *best;
            *best = next;
            next = other;
        }
        ds_schedule_fini(&next);
    }
    return st;
}

static ds_status make(const struct ds_schedule_shape *shape, struct timeline *timeline,
                      struct works *works, struct ds_schedule *out)
{
    struct ds_schedule places = {0};

    DS_TRY(timeline_make(shape, timeline));
    DS_TRY(windows_find(shape, timeline));
    DS_TRY(works_make(shape, timeline, works));
    DS_TRY(places_assign(shape, works, &places));
    DS_TRY(take_best_variant(shape, works, out));
    out->transfers = works->transfers;
    out->transfer_count = works->transfer_count;
    works->transfers = NULL;
    out->stream_slot_count = places.stream_slot_count;
    out->saved_slot_count = places.saved_slot_count;
    out->held_slot_count = places.held_slot_count;
    out->home_count = places.home_count;
    out->home_has_saved = places.home_count > 0 && !shape->recomputes;
    out->is_training = shape->is_training;
    out->updates = shape->updates;
    out->micro_count = shape->micro_count;
    out->ticks = timeline->ticks;
    out->busy_ticks = timeline->busy_ticks;
    return DS_OK;
}

ds_status ds_schedule_make(const struct ds_schedule_shape *shape, struct ds_schedule *out)
{
    struct timeline timeline = {0};
    struct works works = {0};
    struct ds_schedule made = {0};
    ds_status st;

    DS_ASSERT(shape->block_count >= 2 && shape->micro_count >= 1 && shape->window >= 1);
    DS_ASSERT(shape->stage < shape->stage_count && shape->chunk_count >= 1);
    DS_ASSERT(shape->chunk_count == 1 || shape->kind == DS_SCHEDULE_INTERLEAVED);
    st = make(shape, &timeline, &works, &made);
    timeline_fini(&timeline);
    works_fini(&works);
    if (st != DS_OK) {
        ds_schedule_fini(&made);
        return st;
    }
    *out = made;
    return DS_OK;
}
