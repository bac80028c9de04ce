/* timeline.h - when everything of a step happened, as its streams saw it: a span for each action and each wait,
 * whose ends are stamped in the stream's order. Waits in metrics and the trace are made of these.
 *
 * A stamp costs a GPU a launch, so there are those that somebody reads (enum ds_timeline_marks), and an action
 * that begins where the one before it on its row ended shares that one's stamp. Nobody marks a wait where no
 * other rank can be waited for: a rank alone, whose states are all at hand, leaves no span but those of actions.
 *
 * The spans of two steps lie in pinned memory and are used in turn, because the host queues a step before
 * it has read the one before. They may be read when the compute stream has done the step; so what happens
 * on the other streams is marked only where the compute stream waits for it later in the same step (all that
 * NORM and updates wait for; what goes home behind an update is not marked). Between stop and start, in an
 * evaluation for example, marks do nothing. One owner thread.
 * local: everything here. */
#ifndef DSTRAIN_TIMELINE_H
#define DSTRAIN_TIMELINE_H

#include "dstrain/device.h"
#include "dstrain/memory.h"
#include "dstrain/status.h"

#include <stdint.h>

enum ds_timeline_row {
    DS_TIMELINE_COMPUTE,
    DS_TIMELINE_COMM,
    DS_TIMELINE_UPDATES,  /* late ones, beside arithmetic */
    DS_TIMELINE_LOAD,     /* of states, from their homes */
    DS_TIMELINE_KEPT_OUT, /* of what layers keep for their backward, to the host */
    DS_TIMELINE_KEPT_IN,  /* and back */
    DS_TIMELINE_ROW_COUNT
};

enum ds_timeline_what {
    DS_TIMELINE_ACTION,
    DS_TIMELINE_WAIT_COMM,    /* for a collective */
    DS_TIMELINE_WAIT_STAGE,   /* for what a neighbour stage sends */
    DS_TIMELINE_WAIT_COMPUTE, /* the comm stream, for arithmetic */
    DS_TIMELINE_WAIT_COPY,    /* for the copy of a state that is to change: a checkpoint's */
    DS_TIMELINE_WAIT_OFFLOAD, /* for what is brought from its home, or has not left yet */
    DS_TIMELINE_COLLECTIVE,   /* for one of tensor ranks inside a block */
    DS_TIMELINE_FETCH,        /* no wait: a strip of states comes from its home */
    DS_TIMELINE_KEPT,         /* no wait: what a layer keeps goes, or comes */
    DS_TIMELINE_WHAT_COUNT
};

/* What of a step leaves spans. */
enum ds_timeline_marks {
    DS_TIMELINE_WAITS, /* on the compute row what waits for other ranks: waits and collectives */
    DS_TIMELINE_ALL    /* every action and every wait of all rows */
};

struct ds_timeline_span {
    uint64_t begin_ns, end_ns; /* monotonic, of this host; written by the stream */
    uint32_t action;           /* place in the list; of a wait: the action that waits */
    uint8_t row, what;
};

struct ds_timeline_options {
    struct ds_stream *streams[DS_TIMELINE_ROW_COUNT]; /* NULL: nothing is marked on that row */
    struct ds_memory *memory;
    uint32_t action_count;     /* of the longest list */
    uint32_t collective_count; /* inside its blocks */
};

struct ds_timeline;

DS_CHECKED ds_status ds_timeline_open(const struct ds_timeline_options *options,
                                      struct ds_timeline **out);
/* the memory goes back with the ledger; NULL is allowed */
void ds_timeline_close(struct ds_timeline *timeline);

/* Marks from here to stop are the spans of `turn` (0 or 1), whose earlier ones are gone. A NULL timeline is
 * allowed in both. */
void ds_timeline_start(struct ds_timeline *timeline, uint32_t turn, enum ds_timeline_marks marks);
void ds_timeline_stop(struct ds_timeline *timeline);
/* In the order in which they were marked: on each row by time, a wait behind the action around it. */
const struct ds_timeline_span *ds_timeline_spans(struct ds_timeline *timeline, uint32_t turn,
                                                 uint32_t *count);

/* The row's stream comes to an action, or inside it to a wait; `*span` is for the end. Between the end of an
 * action and the next action nothing is queued. A NULL timeline is allowed in all three. */
DS_CHECKED ds_status ds_timeline_action(struct ds_timeline *timeline, enum ds_timeline_row row,
                                        uint32_t action, uint32_t *span);
DS_CHECKED ds_status ds_timeline_wait(struct ds_timeline *timeline, enum ds_timeline_row row,
                                      enum ds_timeline_what what, uint32_t *span);
DS_CHECKED ds_status ds_timeline_end(struct ds_timeline *timeline, uint32_t span);

#endif
