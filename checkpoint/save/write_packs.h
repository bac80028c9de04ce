/* write_packs.h (private) - what the writer's thread does for long: packs out of a snapshot; and its state, which it
 * shares with writer.c. */
#ifndef CHECKPOINT_WRITE_PACKS_H
#define CHECKPOINT_WRITE_PACKS_H

#include "writer.h"

#include "dstrain/delta.h"

#include <pthread.h>

/* How much of a frozen block has been read, and its sum so far. */
struct still_sum {
    uint32_t block, crc32c;
    uint64_t bytes; /* from its beginning; 0: of none */
};

enum writer_task { TASK_NONE, TASK_PACKS, TASK_COMMIT, TASK_TIDY };

struct writer {
    /* owns */
    struct ds_storage *storage;
    struct ds_pack_writer *packs;
    struct ds_delta *delta;        /* in the snapshot's memory; NULL: nothing is written */
    struct ds_manifest_pack *made; /* [plan.part_count + DS_PACK_OTHERS_MAX] */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int has_thread;
    /* borrows */
    const struct ds_saver_start *start;
    const struct snapshot *snapshot;
    struct mirror *mirror;          /* or NULL */
    uint8_t *spare[SNAPSHOT_JOINS]; /* of the snapshot's joins, those that nothing lies in */
    /* under the lock */
    enum writer_task task;
    int must_end, must_stop; /* the thread; what it is doing */
    int has_ended;
    uint32_t released; /* pieces that may be read */
    uint32_t finished; /* pieces that will not be read again */
    int cannot_share;
    ds_status st;
    /* of the task */
    const struct ds_manifest *manifest;
    uint64_t step, committed_step; /* the last one of this launch; 0: none yet */
    uint32_t attempt; /* at `step`: packs of one that could not be committed may still be there */
    int drops_packs;
    uint32_t made_count, spare_count;
    struct still_sum still_sum; /* these two: still_packs.c's */
    struct ds_pack_source sources[DS_PACK_CHUNK_BYTES / DS_FS_DIRECT_ALIGN]; /* in one chunk */
    const struct ds_pack_other *others; /* that packs may refer to */
    uint32_t other_count, rank;
};

/* writer's thread, all of them. writer.c: waits until a piece may be read; 0: nobody is interested any more */
int writer_await_piece(struct writer *writer, uint32_t piece);
/* writer.c: it will not be read again */
void writer_pass_piece(struct writer *writer, uint32_t piece);
/* still_packs.c: the next chunk, which lies in frozen files */
DS_CHECKED ds_status write_still_chunk(struct writer *writer, uint32_t chunk);
/* still_packs.c: behind the last one, and before a failure is forgotten: the rest of the block that it ends in is as it was
 * written, too */
DS_CHECKED ds_status end_still_chunks(struct writer *writer);
/* still_packs.c: what is frozen is not needed any more, and takes no room */
void drop_still(struct writer *writer);
/* This rank's packs of writer->step, and the names of those that they refer to, to writer->made; or what was begun is
 * taken back. */
DS_CHECKED ds_status write_packs(struct writer *writer);

#endif
