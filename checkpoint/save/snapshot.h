/* snapshot.h (private) - where the states that a rank writes are copied to, and when: unit by unit, on a stream of
 * its own. In pinned memory every piece begins at a multiple of DS_PACK_ALIGN and has room up to the next one, so
 * that chunks go to the disk from where they lie. What does not fit at once comes in turns. Main thread; what a
 * writer thread reads of it does not change after open. */
#ifndef CHECKPOINT_SNAPSHOT_H
#define CHECKPOINT_SNAPSHOT_H

#include "dstrain/delta.h"
#include "dstrain/saver.h"

#define SNAPSHOT_DEPTH 8                    /* writes at once */
#define SNAPSHOT_JOINS (SNAPSHOT_DEPTH + 1) /* one more than can be on its way */

struct snapshot_piece {
    struct ds_state_piece from;
    uint8_t *at;
    uint8_t
        *remainder; /* of a master in 16 bits, whose weights lie at `at`; NULL: `at` is all of it */
    uint8_t may_be_still, is_still; /* is_still: it is not copied, but lies in frozen files */
    uint32_t block;                 /* there: its first, */
    uint64_t offset;                /* and where in that */
};

/* What one unit has of them. */
struct snapshot_unit {
    uint32_t unit;
    uint32_t first, count; /* pieces */
    uint32_t turn;
    struct ds_event *copied;
};

struct snapshot {
    /* owns */
    struct snapshot_piece *pieces;
    struct snapshot_unit *units;
    struct ds_stream *stream;
    struct ds_event *before;
    struct ds_pack_plan plan;     /* of the pieces, in their order */
    uint32_t *piece_of;           /* [plan.chunk_count] */
    struct ds_swap_still *stills; /* [of blocks]; NULL: no piece may be still */
    /* borrows: memory of the run's ledger */
    uint8_t *memory; /* `bytes` of it, at a multiple of DS_PACK_ALIGN; NULL: nothing is written */
    void *bounce;    /* DS_PACK_CHUNK_BYTES of the device; NULL: all states are there */
    void *read_back; /* DS_PACK_CHUNK_BYTES */
    void *mirror_buffer; /* the same; NULL: nothing is copied */
    void *tables;        /* where what has been saved is remembered (delta.h) */
    uint8_t *joins
        [SNAPSHOT_JOINS]; /* where masters in two halves come together, the same; NULL: they do not */
    const struct ds_saver_options *options;
    /* plain values */
    uint32_t piece_count, unit_count, turn_count;
    uint64_t bytes;       /* of the memory */
    uint64_t saved_bytes; /* of all units, as if it had room for them at once */
    uint32_t queued_units,
        copied_units;     /* of the save that goes on: queued, and seen to be there */
    uint32_t first_still; /* piece; piece_count: none is */
    int is_frozen;        /* of the save that goes on: freezing is over, and what became of it */
    ds_status still_status;
};

/* local: memory of the run's ledger; DS_ERR_CONFIG: not even the largest unit fits options->buffer_bytes */
DS_CHECKED ds_status snapshot_open(const struct ds_saver_options *options, struct snapshot *out);
void snapshot_close(struct snapshot *snapshot);
/* local: instead of close: all that a writer may look at stays where it is for ever */
void snapshot_leave(struct snapshot *snapshot);

/* local, between saves: those pieces that may be are still, or none; turns are made anew */
void snapshot_set_still(struct snapshot *snapshot, int is_still);
/* local: the copies go behind all that the streams of the run have so far */
DS_CHECKED ds_status snapshot_begin(struct snapshot *snapshot, const struct ds_saver_still *still);
/* local: queues the units of a turn; the updates of the last turn's units wait for their copies */
DS_CHECKED ds_status snapshot_queue_turn(struct snapshot *snapshot, uint32_t turn);
/* local: how many pieces, from the first on, are there now; with `waits`: of all that is queued */
DS_CHECKED ds_status snapshot_poll(struct snapshot *snapshot, int waits, uint32_t *piece_count);

#endif
