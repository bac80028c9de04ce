/* schedule_list.c - a list as memory: it grows at its end, and goes; how much it wants. */
#include "schedule_maker.h"

#include <stdlib.h>

ds_status list_append(struct ds_schedule *list, struct ds_action action)
{
    if (list->action_count == list->action_capacity) {
        uint32_t capacity = list->action_capacity ? 2 * list->action_capacity : 256;
        struct ds_action *more = realloc(list->actions, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "a list of %u actions", capacity);
        list->actions = more;
        list->action_capacity = capacity;
    }
    list->actions[list->action_count++] = action;
    return DS_OK;
}

static void raise_to(uint32_t *count, uint32_t least)
{
    *count = *count > least ? *count : least;
}

void ds_schedule_widen(struct ds_schedule *plan, const struct ds_schedule *list)
{
    raise_to(&plan->stream_slot_count, list->stream_slot_count);
    raise_to(&plan->saved_slot_count, list->saved_slot_count);
}

void ds_schedule_fini(struct ds_schedule *schedule)
{
    free(schedule->actions);
    free(schedule->transfers);
    free(schedule->slot_class);
    *schedule = (struct ds_schedule){0};
}
