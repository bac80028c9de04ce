/* timeline.c - spans of a step: the host writes what a span is, the streams write when. */
#include "dstrain/timeline.h"

#include <stdlib.h>

/* An action is one span and has a wait or two; the few with more (BEGIN, NORM) come once a step. */
#define SPANS_PER_ACTION 3
#define SPANS_MORE       16
#define TURNS            2
#define NO_SPAN          UINT32_MAX

/* The spans of one step. */
struct turn {
    struct ds_timeline_span *spans; /* pinned memory of the run's ledger, borrowed from it */
    uint8_t *is_joined;             /* does it begin where the action before it ended? */
    uint32_t count;
    enum ds_timeline_marks marks;
};

struct ds_timeline {
    /* owns */
    struct turn turns[TURNS];
    struct turn *now; /* one of them; NULL: marks do nothing */
    uint32_t capacity, action;
    uint32_t ended; /* the last mark was the end of this action; NO_SPAN: it was another */
    /* borrows */
    struct ds_timeline_options options;
};

static ds_status open_turn(struct ds_timeline *timeline, struct turn *turn)
{
    void *at = NULL;

    DS_TRY(ds_memory_take(timeline->options.memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                          timeline->capacity * sizeof *turn->spans, &at));
    turn->spans = at;
    turn->is_joined = calloc(timeline->capacity, sizeof *turn->is_joined);
    return turn->is_joined ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "the timeline of a step");
}

ds_status ds_timeline_open(const struct ds_timeline_options *options, struct ds_timeline **out)
{
    struct ds_timeline *timeline = calloc(1, sizeof *timeline);
    ds_status st;

    if (!timeline)
        return ds_fail(DS_ERR_NO_MEMORY, "the timeline of a step");
    timeline->options = *options;
    timeline->capacity =
        SPANS_PER_ACTION * options->action_count + options->collective_count + SPANS_MORE;
    for (int i = 0; i < TURNS; i++)
        DS_TRY_GOTO(st, open_turn(timeline, &timeline->turns[i]), fail);
    *out = timeline;
    return DS_OK;

fail:
    ds_timeline_close(timeline);
    return st;
}

void ds_timeline_close(struct ds_timeline *timeline)
{
    for (int i = 0; timeline && i < TURNS; i++)
        free(timeline->turns[i].is_joined);
    free(timeline);
}

void ds_timeline_start(struct ds_timeline *timeline, uint32_t turn, enum ds_timeline_marks marks)
{
    if (!timeline)
        return;
    DS_ASSERT(turn < TURNS && !timeline->now);
    timeline->now = &timeline->turns[turn];
    timeline->now->count = 0;
    timeline->now->marks = marks;
    timeline->ended = NO_SPAN;
}

void ds_timeline_stop(struct ds_timeline *timeline)
{
    if (timeline)
        timeline->now = NULL;
}

/* A graph stamps its spans again at every launch, so this is done whenever they are read. */
static void join(const struct turn *turn)
{
    uint64_t end_ns = 0; /* of the last action */

    for (uint32_t i = 0; i < turn->count; i++) {
        struct ds_timeline_span *span = &turn->spans[i];
        if (turn->is_joined[i])
            span->begin_ns = end_ns;
        if (span->what == DS_TIMELINE_ACTION)
            end_ns = span->end_ns;
    }
}

const struct ds_timeline_span *ds_timeline_spans(struct ds_timeline *timeline, uint32_t turn,
                                                 uint32_t *count)
{
    DS_ASSERT(turn < TURNS && timeline->now != &timeline->turns[turn]);
    join(&timeline->turns[turn]);
    *count = timeline->turns[turn].count;
    return timeline->turns[turn].spans;
}

static ds_status stamp(struct ds_timeline *timeline, uint8_t row, uint64_t *at_ns)
{
    struct ds_stream *stream = timeline->options.streams[row];

    return stream->device->ops->stream_stamp(stream, at_ns);
}

static ds_status begin(struct ds_timeline *timeline, enum ds_timeline_row row,
                       enum ds_timeline_what what, int is_joined, uint32_t *span)
{
    struct turn *turn = timeline->now;

    DS_ASSERT(turn->count < timeline->capacity);
    *span = turn->count++;
    struct ds_timeline_span *at = &turn->spans[*span];
    at->action = timeline->action;
    at->row = (uint8_t)row;
    at->what = (uint8_t)what;
    turn->is_joined[*span] = (uint8_t)is_joined;
    timeline->ended = NO_SPAN;
    return is_joined ? DS_OK : stamp(timeline, at->row, &at->begin_ns);
}

/* Where the action before was the other row's, a stream whose work the host does itself has stood still for
 * it, and what it has queued may be on both: then there is a stamp of its own. */
ds_status ds_timeline_action(struct ds_timeline *timeline, enum ds_timeline_row row,
                             uint32_t action, uint32_t *span)
{
    *span = NO_SPAN;
    if (!timeline || !timeline->now)
        return DS_OK;
    timeline->action = action;
    if (timeline->now->marks != DS_TIMELINE_ALL || row == DS_TIMELINE_ROW_COUNT)
        return DS_OK;
    return begin(timeline, row, DS_TIMELINE_ACTION,
                 timeline->ended != NO_SPAN && timeline->now->spans[timeline->ended].row == row,
                 span);
}

ds_status ds_timeline_wait(struct ds_timeline *timeline, enum ds_timeline_row row,
                           enum ds_timeline_what what, uint32_t *span)
{
    *span = NO_SPAN;
    if (!timeline || !timeline->now)
        return DS_OK;
    if (row != DS_TIMELINE_COMPUTE && timeline->now->marks != DS_TIMELINE_ALL)
        return DS_OK;
    return begin(timeline, row, what, 0, span);
}

ds_status ds_timeline_end(struct ds_timeline *timeline, uint32_t span)
{
    if (span == NO_SPAN)
        return DS_OK;
    struct ds_timeline_span *at = &timeline->now->spans[span];
    timeline->ended = at->what == DS_TIMELINE_ACTION ? span : NO_SPAN;
    return stamp(timeline, at->row, &at->end_ns);
}
