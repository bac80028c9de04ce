/* swap_private.h - what swap.c, where the main thread queues, and swap_drive.c, where a thread works, share. */
#ifndef STORAGE_SWAP_PRIVATE_H
#define STORAGE_SWAP_PRIVATE_H

#include "dstrain/swap.h"

#include <pthread.h>
#include <stdatomic.h>

struct swap_block {
    uint64_t offset; /* in its drive's file */
    uint64_t second; /* another place there, of one that is kept */
    uint32_t bytes, drive;
    uint32_t reads, writes;      /* queued so far; the main thread's */
    uint32_t read, written;      /* of them done; the drive's thread's, as are these two: */
    uint32_t sum, written_still; /* of now; `written` when it was frozen */
    uint32_t sum_still;
    uint8_t is_kept, is_fresh; /* is_fresh, sum_still: what a freeze says */
    /* the thread's: it lies in its second place; other files have what lies there, too, or at the other place */
    uint8_t is_second, is_shared, is_other_shared;
};

#define NO_BLOCK UINT32_MAX

struct swap_slot {
    struct ds_swap_slot place;
    struct ds_storage_request request; /* the drive's thread's, from start to end of a job */
    uint32_t block;
    uint32_t jobs;       /* queued so far; the main thread's */
    atomic_uint started; /* of them: drives take turns at a slot in the order of the queue */
};

struct swap_lane {
    struct swap_slot *slots;
    uint32_t slot_count, turn; /* turn: the main thread's */
};

struct swap_job { /* of a freeze: block is NO_BLOCK */
    uint32_t lane, block, slot;
    uint32_t after_writes, after_reads; /* so many of the block come before it */
    uint32_t after_jobs;                /* and so many of the slot */
};

/* First in, first out; grows, and is large enough for a step from the start. */
struct swap_jobs {
    struct swap_job *at;
    size_t room, first, count; /* room: a power of 2 */
};
ds_status swap_jobs_push(struct swap_jobs *jobs, const struct swap_job *job);

struct swap_drive {
    struct ds_swap *swap;
    struct ds_storage *storage; /* owned; the thread's */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    int is_open;     /* the thread is there */
    uint32_t writes; /* on their way; the thread's */
    /* under lock */
    struct swap_jobs jobs[DS_SWAP_LANE_COUNT];
    int is_leaving;
};

struct ds_swap {
    struct ds_swap_shape shape;
    /* owns */
    struct swap_lane lanes[DS_SWAP_LANE_COUNT];
    struct swap_drive *drives;
    struct swap_jobs tapes[DS_SWAP_TAPES];
    struct ds_swap_drive *places; /* of the drives, for words and offsets */
    struct swap_block *blocks;
    uint64_t *drive_bytes;
    /* borrows */
    uint8_t *slots;
    struct ds_swap_files files;
    /* plain values */
    uint32_t reserved;           /* blocks */
    struct swap_jobs *recording; /* the tape, or NULL */
    atomic_int status;           /* the first failure */
    atomic_int freeze_status;    /* of the last freeze, where `freezing` is 0 */
    atomic_uint freezing;        /* drives that have still to */
    const int *still_files;      /* of it */
    atomic_int is_abandoned;
};

static inline uint64_t swap_block_at(const struct swap_block *block)
{
    return block->is_second ? block->second : block->offset;
}

/* swap_freeze.c: behind all blocks of a drive those that are kept have another place */
void swap_place_seconds(struct ds_swap *swap);
/* swap_freeze.c: the thread of the drive; nothing of it is being written */
void swap_drive_freeze(struct swap_drive *drive);

/* swap_drive.c */
DS_CHECKED ds_status swap_drive_start(struct swap_drive *drive, const struct ds_swap_drive *place);
void swap_drive_leave(struct swap_drive *drive);

#endif
