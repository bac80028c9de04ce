/* devices.c - see devices.h. */
#include "devices.h"

#include <stdio.h>
#include <string.h>

static int are_one(const struct device_choice *a, const struct device_choice *b)
{
    return a->identity != 0 && a->identity == b->identity && strcmp(a->device, b->device) == 0;
}

uint32_t device_sharers(const struct device_choice *choices, uint32_t rank_count, uint32_t rank)
{
    uint32_t count = choices[rank].identity == 0;

    for (uint32_t i = 0; i < rank_count; i++)
        count += (uint32_t)are_one(&choices[i], &choices[rank]);
    return count;
}

/* The lowest rank with the same device as `rank`: a device is counted where that is itself. */
static uint32_t first_with(const struct device_choice *choices, uint32_t rank)
{
    uint32_t first = 0;

    while (first < rank && !are_one(&choices[first], &choices[rank]))
        first++;
    return first;
}

int device_choices_fit(const struct device_choice *choices, uint32_t rank_count, const char *asked,
                       int may_share, char *why, size_t bytes)
{
    uint32_t device_count = 0, late = 0;

    for (uint32_t rank = 0; rank < rank_count; rank++) {
        if (strcmp(choices[rank].device, choices[0].device) != 0) {
            snprintf(why, bytes,
                     "[run] device = %s: rank 0 has %s, rank %u has %s; all ranks compute on one "
                     "kind of device: name it, or take away the hosts that lack it",
                     asked, choices[0].device, rank, choices[rank].device);
            return 0;
        }
        device_count += first_with(choices, rank) == rank;
        late = late == 0 && first_with(choices, rank) < rank ? rank : late;
    }
    if (late == 0 || may_share)
        return 1;
    snprintf(why, bytes,
             "[run] device = %s: %u ranks have %u GPU%s between them (rank %u computes where rank "
             "%u does); start one rank for each: mpirun -n %u; only tests share one, with "
             "run.share_device = true",
             asked, rank_count, device_count, device_count == 1 ? "" : "s", late,
             first_with(choices, late), device_count);
    return 0;
}
