/* timeline.c - spans of a step: the host writes what a span is, the streams write when. */
#include "dstrain/timeline.h"

#include <stdlib.h>

/* An action is one span and has a wait or two; the few with more (BEGIN, NORM) come once a step. */
#define SPANS_PER_ACTION 3
#define SPANS_MORE       16
#define TURNS            2
#define NO_SPAN          UINT32_MAX

struct ds_timeline {
    /* owns: pinned memory of the run's ledger, borrowed from it */
    struct ds_timeline_span *spans[TURNS];
    uint32_t counts[TURNS];
    uint32_t capacity, turn, action;
    int is_running;
    /* borrows */
    struct ds_timeline_options options;
};

ds_status ds_timeline_open(const struct ds_timeline_options *options, struct ds_timeline **out)
{
    struct ds_timeline *timeline = calloc(1, sizeof *timeline);
    ds_status st;

    if (!timeline)
        return ds_fail(DS_ERR_NO_MEMORY, "the timeline of a step");
    timeline->options = *options;
    timeline->capacity =
        SPANS_PER_ACTION * options->action_count + options->collective_count + SPANS_MORE;
    for (int turn = 0; turn < TURNS; turn++) {
        void *at = NULL;
        DS_TRY_GOTO(st,
                    ds_memory_take(options->memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                                   timeline->capacity * sizeof *timeline->spans[turn], &at),
                    fail);
        timeline->spans[turn] = at;
    }
    *out = timeline;
    return DS_OK;

fail:
    ds_timeline_close(timeline);
    return st;
}

void ds_timeline_close(struct ds_timeline *timeline)
{
    free(timeline);
}

void ds_timeline_start(struct ds_timeline *timeline, uint32_t turn)
{
    DS_ASSERT(turn < TURNS && !timeline->is_running);
    timeline->turn = turn;
    timeline->counts[turn] = 0;
    timeline->is_running = 1;
}

void ds_timeline_stop(struct ds_timeline *timeline)
{
    timeline->is_running = 0;
}

const struct ds_timeline_span *ds_timeline_spans(const struct ds_timeline *timeline, uint32_t turn,
                                                 uint32_t *count)
{
    DS_ASSERT(turn < TURNS && !(timeline->is_running && timeline->turn == turn));
    *count = timeline->counts[turn];
    return timeline->spans[turn];
}

static ds_status stamp(struct ds_timeline *timeline, uint8_t row, uint64_t *at_ns)
{
    struct ds_stream *stream = timeline->options.streams[row];

    return stream->device->ops->stream_stamp(stream, at_ns);
}

static ds_status begin(struct ds_timeline *timeline, enum ds_timeline_row row,
                       enum ds_timeline_what what, uint32_t *span)
{
    uint32_t *count = &timeline->counts[timeline->turn];

    DS_ASSERT(*count < timeline->capacity);
    *span = (*count)++;
    struct ds_timeline_span *at = &timeline->spans[timeline->turn][*span];
    at->action = timeline->action;
    at->row = (uint8_t)row;
    at->what = (uint8_t)what;
    return stamp(timeline, at->row, &at->begin_ns);
}

ds_status ds_timeline_action(struct ds_timeline *timeline, enum ds_timeline_row row,
                             uint32_t action, uint32_t *span)
{
    *span = NO_SPAN;
    if (!timeline || !timeline->is_running)
        return DS_OK;
    timeline->action = action;
    return begin(timeline, row, DS_TIMELINE_ACTION, span);
}

ds_status ds_timeline_wait(struct ds_timeline *timeline, enum ds_timeline_row row,
                           enum ds_timeline_what what, uint32_t *span)
{
    *span = NO_SPAN;
    if (!timeline || !timeline->is_running)
        return DS_OK;
    return begin(timeline, row, what, span);
}

ds_status ds_timeline_end(struct ds_timeline *timeline, uint32_t span)
{
    if (span == NO_SPAN)
        return DS_OK;
    struct ds_timeline_span *at = &timeline->spans[timeline->turn][span];
    return stamp(timeline, at->row, &at->end_ns);
}
