/* executor_kept.h (private to parallel) - what layers keep for their backward on its way to pinned memory of the host
 * and back. One stream takes it there, another one brings it, so that both directions of a link work beside each
 * other and beside arithmetic; nothing here waits on the host. */
#ifndef DSTRAIN_EXECUTOR_KEPT_H
#define DSTRAIN_EXECUTOR_KEPT_H

#include "executor_places.h"

#include "dstrain/timeline.h"

/*   a home:  | input | what was saved | */
struct kept {
    struct places homes;
    struct ds_event *handover;
    /* borrows; the streams are NULL where nothing is away */
    struct ds_stream *compute, *out, *in;
    struct ds_timeline *timeline;
    size_t input_bytes, saved_at;
};

/* Of one layer and micro-batch. */
struct kept_places {
    struct place *home, *input, *saved; /* saved NULL: it is made again */
    size_t saved_bytes;
};

/* local: the rest is filled in; close takes what an open that failed has left */
DS_CHECKED ds_status kept_open(struct kept *kept, struct ds_memory *memory, uint32_t home_count,
                               size_t saved_bytes);
void kept_close(struct kept *kept);
/* local: queued behind all that the compute stream has; whoever uses the places next waits for it */
DS_CHECKED ds_status kept_evict(struct kept *kept, const struct kept_places *places);
DS_CHECKED ds_status kept_fetch(struct kept *kept, const struct kept_places *places);
/* local: the compute stream goes on when nothing is on its way */
DS_CHECKED ds_status kept_join(struct kept *kept);

#endif
