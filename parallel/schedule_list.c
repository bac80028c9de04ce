/* schedule_list.c - a list as memory: it grows at its end, and goes. */
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

void ds_schedule_fini(struct ds_schedule *schedule)
{
    free(schedule->actions);
    free(schedule->transfers);
    free(schedule->slot_class);
    *schedule = (struct ds_schedule){0};
}
