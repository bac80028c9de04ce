/* executor_kept.h (private to parallel) - what layers keep for their backward on its way to pinned memory of the host, or
 * to files, and back. One stream takes it there, another one brings it, so that both directions of a link work beside each
 * other and beside arithmetic; nothing here waits on the host. */
#ifndef DSTRAIN_EXECUTOR_KEPT_H
#define DSTRAIN_EXECUTOR_KEPT_H

#include "executor_places.h"

#include "dstrain/swap.h"
#include "dstrain/timeline.h"

/*   a home:  | input | what was saved |       in files each of the two is blocks of its own */
struct kept {
    struct places homes; /* in files: without memory */
    struct ds_event *handover;
    struct ds_swap *swap; /* owned; NULL: homes are memory */
    /* borrows; the streams are NULL where nothing is away */
    struct ds_stream *compute, *out, *in;
    struct ds_timeline *timeline;
    /* plain values, of files: over so many, 0: homes are memory; bytes of a block at most, a multiple of 4096 */
    uint32_t drive_count;
    size_t block_bytes;
    /* and of a home */
    size_t input_bytes, saved_at, saved_bytes;
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

/* ---- homes in files: executor_kept_files.c */

/* local: behind the homes' places; open and reserve, before files are there */
DS_CHECKED ds_status kept_files_open(struct kept *kept, struct ds_memory *memory);
/* local: one way, all of it; `stream` has the places */
DS_CHECKED ds_status kept_files_move(const struct kept *kept, const struct kept_places *places,
                                     struct ds_stream *stream);
/* pure: of files, one way: with so much that was saved */
uint64_t kept_files_bytes(const struct kept *kept, size_t saved_bytes);

#endif
