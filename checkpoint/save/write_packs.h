/* write_packs.h (private) - what the writer's thread does for long: packs out of a snapshot; and its state, which it
 * shares with writer.c. */
#ifndef CHECKPOINT_WRITE_PACKS_H
#define CHECKPOINT_WRITE_PACKS_H

#include "writer.h"

#include "dstrain/delta.h"

#include <pthread.h>

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
    ds_status st;
    /* of the task */
    const struct ds_manifest *manifest;
    uint64_t step, committed_step; /* the last one of this launch; 0: none yet */
    uint32_t attempt; /* at `step`: packs of one that could not be committed may still be there */
    int drops_packs;
    uint32_t made_count, spare_count;
    const struct ds_pack_other *others; /* that packs may refer to */
    uint32_t other_count, rank;
};

/* writer's thread, all of them. writer.c: waits until a piece may be read; 0: nobody is interested any more */
int writer_await_piece(struct writer *writer, uint32_t piece);
/* writer.c: it will not be read again */
void writer_pass_piece(struct writer *writer, uint32_t piece);
/* This rank's packs of writer->step, and the names of those that they refer to, to writer->made; or what was begun is
 * taken back. */
DS_CHECKED ds_status write_packs(struct writer *writer);

#endif
