/* read_ahead.h - chunks of a checkpoint, read and checked by a thread in the order in which they are asked for, some of
 * them before. */
#ifndef DSTRAIN_CHECKPOINT_READ_AHEAD_H
#define DSTRAIN_CHECKPOINT_READ_AHEAD_H

#include "dstrain/checkpoint.h"

#include <pthread.h>

#define READ_AHEAD_SLOTS 4u /* chunks that are read and not given back yet */

struct read_ahead_chunk {
    uint32_t pack, index; /* of the manifest; of its table */
};

struct read_ahead {
    /* borrows, until stop */
    struct ds_fs *fs;
    const char *root;
    const struct ds_manifest *manifest;
    const struct read_ahead_chunk *chunks;
    size_t count;
    uint8_t *buffers; /* [READ_AHEAD_SLOTS][buffer_bytes] */
    size_t buffer_bytes;
    int32_t *missed; /* the thread's until stop; ds_checkpoint_read_chunk */
    /* owns */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock: chunks that were read, asked for, given back */
    size_t read, asked, back;
    ds_status status[READ_AHEAD_SLOTS];
    int is_over, is_started;
    /* the thread's */
    struct ds_pack *pack;
    uint32_t pack_at;
};

/* What is borrowed is set, all else is zero. */
DS_CHECKED ds_status read_ahead_start(struct read_ahead *r);
/* Waits for the next chunk. *bytes: it, the caller's until it is given back; at most READ_AHEAD_SLOTS are. None may be
 * asked for behind one that has failed. */
DS_CHECKED ds_status read_ahead_next(struct read_ahead *r, uint8_t **bytes);
/* The oldest `count` of those that were asked for and not given back. */
void read_ahead_give_back(struct read_ahead *r, size_t count);
/* At any time; not started: nothing to do. */
void read_ahead_stop(struct read_ahead *r);

#endif
