/* schedule_windows.c - how long the units of a piece stay gathered. Without windows no longer than their
 * block needs them; never given back means to the end. In between, for several stages: a run is as many
 * pieces of one kind as a window has micro-batches, of one chunk, with no piece of that kind of another
 * chunk between; a chunk's units stay while a run of it is open. In an interleaved schedule those are two
 * chunks at a time, one on its way up and one on its way back. */
#include "schedule_maker.h"

#include <stdlib.h>

#define NO_RUN UINT32_MAX

struct run {
    uint32_t chunk, count;
    uint32_t last; /* piece */
};

/* The run of each piece, and for each piece the latest run of every kind. */
static void find_runs(const struct ds_schedule_shape *shape, const struct timeline *timeline,
                      struct run *runs, uint32_t (*latest)[PIECE_KIND_COUNT])
{
    uint32_t open[PIECE_KIND_COUNT] = {NO_RUN, NO_RUN, NO_RUN}, run_count = 0;

    for (uint32_t i = 0; i < timeline->piece_count; i++) {
        const struct piece *piece = &timeline->pieces[i];
        uint32_t *run = &open[piece->kind];
        if (*run == NO_RUN || runs[*run].chunk != piece->chunk ||
            runs[*run].count == shape->window) {
            *run = run_count++;
            runs[*run] = (struct run){.chunk = piece->chunk};
        }
        runs[*run].count++;
        runs[*run].last = i;
        for (uint32_t kind = 0; kind < PIECE_KIND_COUNT; kind++)
            latest[i][kind] = open[kind];
    }
}

static ds_status stay_for_runs(const struct ds_schedule_shape *shape, struct timeline *timeline)
{
    struct run *runs = malloc(timeline->piece_count * sizeof *runs);
    uint32_t(*latest)[PIECE_KIND_COUNT] = malloc(timeline->piece_count * sizeof *latest);

    if (!runs || !latest) {
        free(runs);
        free(latest);
        return ds_fail(DS_ERR_NO_MEMORY, "a schedule of %u pieces", timeline->piece_count);
    }
    find_runs(shape, timeline, runs, latest);
    for (uint32_t i = 0; i < timeline->piece_count; i++) {
        struct piece *piece = &timeline->pieces[i];
        for (uint32_t kind = 0; kind < PIECE_KIND_COUNT; kind++) {
            const uint32_t run = latest[i][kind];
            if (run != NO_RUN && runs[run].chunk == piece->chunk &&
                runs[run].last + 1 > piece->stays_until)
                piece->stays_until = runs[run].last + 1;
        }
    }
    free(runs);
    free(latest);
    return DS_OK;
}

ds_status windows_find(const struct ds_schedule_shape *shape, struct timeline *timeline)
{
    const int is_never = shape->reshard == DS_RESHARD_NEVER;

    for (uint32_t i = 0; i < timeline->piece_count; i++)
        timeline->pieces[i].stays_until = is_never ? timeline->piece_count : 0;
    if (is_never || order_group_size(shape) == shape->window)
        return DS_OK;
    return stay_for_runs(shape, timeline);
}
