/* writer.c - see writer.h. */
#include "writer.h"

#include "recall.h"

#include "dstrain/clones.h"
#include "dstrain/master.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define READ_BACK_EVERY 100 /* of this many chunks one is read again before a rank votes */

enum writer_task { TASK_NONE, TASK_PACKS, TASK_COMMIT };

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
    uint8_t *spare[SNAPSHOT_JOINS]; /* of the snapshot's joins, those that nothing lies in */
    /* under the lock */
    enum writer_task task;
    int must_end;
    uint32_t released; /* pieces that may be read */
    uint32_t finished; /* pieces that will not be read again */
    ds_status st;
    /* of the task */
    const struct ds_manifest *manifest;
    uint64_t step;
    uint32_t made_count, spare_count;
    const struct ds_pack_other *others; /* that packs may refer to */
    uint32_t other_count;
};

static uint32_t dir_of(const struct ds_pack_id *id)
{
    return id->rank / DS_CHECKPOINT_DIR_RANKS;
}

/* ---- chunks */

/* 0: it must end */
static int await_piece(struct writer *w, uint32_t piece)
{
    int is_there;

    pthread_mutex_lock(&w->lock);
    while (w->released <= piece && !w->must_end)
        pthread_cond_wait(&w->changed, &w->lock);
    is_there = !w->must_end;
    pthread_mutex_unlock(&w->lock);
    return is_there;
}

static int is_join(const struct writer *w, const void *data)
{
    for (uint32_t i = 0; i < SNAPSHOT_JOINS; i++)
        if (w->snapshot->joins[i] == data)
            return 1;
    return 0;
}

/* The disk has a chunk, or will never have it. */
static void on_written(void *user, void *data)
{
    struct writer *w = user;

    if (is_join(w, data))
        w->spare[w->spare_count++] = data;
}

DS_CLONES static void join(float *to, const uint16_t *weights, const int16_t *remainders,
                           uint64_t count)
{
    DS_NO_OVERLAP for (uint64_t i = 0; i < count; i++) to[i] =
        ds_master_join(weights[i], remainders[i]);
}

static void *body_of(struct writer *w, uint32_t index)
{
    const struct ds_pack_chunk *chunk = &w->snapshot->plan.chunks[index];
    const struct snapshot_piece *piece = &w->snapshot->pieces[w->snapshot->piece_of[index]];
    const uint64_t start = chunk->begin - piece->from.piece.begin;

    if (!piece->remainder)
        return piece->at + start * ds_dtype_bytes(chunk->dtype);
    DS_ASSERT(w->spare_count > 0); /* one more than can be on its way */
    uint8_t *to = w->spare[--w->spare_count];
    join((float *)(void *)to, (const uint16_t *)(const void *)piece->at + start,
         (const int16_t *)(const void *)piece->remainder + start, chunk->end - chunk->begin);
    return to;
}

/* A turn is over when the last of its pieces lies on the disk: the next one comes to the same memory. */
static ds_status end_piece(struct writer *w, uint32_t piece)
{
    const struct snapshot *s = w->snapshot;

    for (uint32_t i = 0; i + 1 < s->unit_count; i++)
        if (piece + 1 == s->units[i + 1].first && s->units[i].turn != s->units[i + 1].turn)
            DS_TRY(ds_pack_drain(w->packs));
    pthread_mutex_lock(&w->lock);
    w->finished = piece + 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return DS_OK;
}

/* Only what the last checkpoint does not have already. */
static ds_status put_chunk(struct writer *w, uint32_t index)
{
    const struct snapshot *s = w->snapshot;
    void *body = body_of(w, index);
    struct ds_pack_chunk where;

    if (!ds_delta_knows(w->delta, index))
        return ds_pack_put(w->packs, body, NULL, NULL);
    const struct ds_digest digest = ds_digest_of(body, s->plan.chunks[index].body_bytes);
    switch (ds_delta_choose(w->delta, index, &digest, &where)) {
    case DS_DELTA_REFER:
        on_written(w, body);
        return ds_pack_refer(w->packs, &where);
    case DS_DELTA_PUT_COPY:
        return ds_pack_put(w->packs, body, &digest, &where);
    default:
        return ds_pack_put(w->packs, body, &digest, NULL);
    }
}

static ds_status put_chunks(struct writer *w, const struct ds_pack_part *part)
{
    const struct snapshot *s = w->snapshot;

    for (uint32_t i = part->first; i < part->first + part->count; i++) {
        const uint32_t piece = s->piece_of[i];

        if (!await_piece(w, piece))
            return DS_ERR_IO; /* nobody is interested any more */
        DS_TRY(put_chunk(w, i));
        if (i + 1 == s->plan.chunk_count || s->piece_of[i + 1] != piece)
            DS_TRY(end_piece(w, piece));
    }
    return DS_OK;
}

/* ---- what is there already */

/* Packs that are gone, whoever took them away, cannot be referred to. */
static int are_there(const struct writer *w, const struct ds_pack_other *packs, uint32_t count)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    for (uint32_t i = 0; i < count; i++) {
        ds_checkpoint_pack_path(w->start->root, dir_of(&packs[i].id), &packs[i].id, path);
        if (ds_fs_stat(w->start->fs, path, &stat) != 0 || stat.bytes != packs[i].file_bytes)
            return 0;
    }
    return 1;
}

static void begin_delta(struct writer *w)
{
    struct ds_delta *delta = w->delta;

    ds_delta_begin(delta, &w->others, &w->other_count);
    if (are_there(w, w->others, w->other_count))
        return;
    ds_delta_forget(delta);
    ds_delta_begin(delta, &w->others, &w->other_count);
}

/* The older packs that this save refers to: the manifest names them, too. */
static void name_others(struct writer *w)
{
    struct ds_pack_other needed[DS_PACK_OTHERS_MAX];
    const uint32_t count = ds_delta_needed(w->delta, needed);

    for (uint32_t i = 0; i < count; i++)
        w->made[w->made_count++] = (struct ds_manifest_pack){dir_of(&needed[i].id), needed[i]};
}

/* ---- packs */

static ds_status write_part(struct writer *w, uint32_t part, struct ds_manifest_pack *out)
{
    const struct ds_saver_start *start = w->start;
    char path[DS_CHECKPOINT_PATH_BYTES];
    uint32_t count;
    struct ds_pack_new pack = {
        .path = path,
        .id = {.epoch = start->epoch, .step = w->step, .rank = start->control->rank, .part = part},
        .others = w->others,
        .other_count = w->other_count,
        .done = on_written,
        .user = w};

    memcpy(pack.run, start->run, sizeof pack.run);
    *out = (struct ds_manifest_pack){.dir = dir_of(&pack.id)};
    ds_checkpoint_pack_path(start->root, out->dir, &pack.id, path);
    DS_TRY(ds_pack_begin(w->packs, &pack));
    DS_TRY(put_chunks(w, &w->snapshot->plan.parts[part]));
    DS_TRY(ds_pack_finish(w->packs, &out->pack));
    ds_delta_wrote(w->delta, part, ds_pack_written(w->packs, &count), &out->pack);
    return ds_checkpoint_keep_pack(start->fs, start->root, out, READ_BACK_EVERY,
                                   w->snapshot->read_back);
}

static ds_status write_packs(struct writer *w)
{
    const struct ds_pack_plan *plan = &w->snapshot->plan;

    w->made_count = 0;
    if (plan->part_count == 0)
        return DS_OK;
    ds_status st = ds_checkpoint_make_data(w->start->fs, w->start->root,
                                           w->start->control->rank / DS_CHECKPOINT_DIR_RANKS);
    if (st == DS_OK)
        begin_delta(w);
    for (uint32_t part = 0; part < plan->part_count && st == DS_OK; part++) {
        st = write_part(w, part, &w->made[part]);
        w->made_count += st == DS_OK;
    }
    if (st == DS_OK)
        name_others(w);
    else
        ds_pack_abandon(w->packs);
    return st;
}

/* ---- the second phase. It is told that there is a checkpoint when all of this is done: what is tidied behind it is
 * quick, and its failure costs nothing but room. */

static ds_status commit(struct writer *w)
{
    struct ds_checkpoint_dir *dir = w->start->dir;
    struct ds_exporter *exporter = w->start->exporter;
    struct ds_manifest_id pinned;
    struct ds_checkpoint_retention keep = {
        .keep_last = w->start->keep, .keep_every = w->start->keep_every, .pinned = &pinned};

    DS_TRY(ds_checkpoint_commit_manifest(dir, w->manifest));
    if (exporter) {
        ds_exporter_offer(exporter, &w->manifest->id);
        keep.pinned_count = (uint32_t)ds_exporter_reads(exporter, &pinned);
    }
    if (ds_checkpoint_write_latest(dir, &w->manifest->id) != DS_OK)
        return DS_OK;
    return ds_checkpoint_retain(dir, &keep, w->manifest->id.step) == DS_ERR_FENCED ? DS_ERR_FENCED
                                                                                   : DS_OK;
}

/* ---- the thread */

static enum writer_task next_task(struct writer *w)
{
    enum writer_task task;

    pthread_mutex_lock(&w->lock);
    while (w->task == TASK_NONE && !w->must_end)
        pthread_cond_wait(&w->changed, &w->lock);
    task = w->must_end ? TASK_NONE : w->task;
    pthread_mutex_unlock(&w->lock);
    return task;
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    enum writer_task task;

    while ((task = next_task(w)) != TASK_NONE) {
        const ds_status st = task == TASK_PACKS ? write_packs(w) : commit(w);

        pthread_mutex_lock(&w->lock);
        w->st = st;
        w->task = TASK_NONE;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

static void give(struct writer *w, enum writer_task task)
{
    pthread_mutex_lock(&w->lock);
    DS_ASSERT(w->task == TASK_NONE);
    w->task = task;
    w->released = w->finished = 0;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void writer_begin(struct writer *w, uint64_t step)
{
    w->step = step;
    give(w, TASK_PACKS);
}

void writer_commit(struct writer *w, const struct ds_manifest *manifest)
{
    w->manifest = manifest;
    give(w, TASK_COMMIT);
}

void writer_release(struct writer *w, uint32_t piece_count)
{
    pthread_mutex_lock(&w->lock);
    if (piece_count > w->released) {
        w->released = piece_count;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
}

int writer_is_done(struct writer *w, ds_status *st)
{
    int is_done;

    pthread_mutex_lock(&w->lock);
    is_done = w->task == TASK_NONE;
    *st = w->st;
    pthread_mutex_unlock(&w->lock);
    return is_done;
}

int writer_is_past(struct writer *w, uint32_t piece_count)
{
    int is_past;

    pthread_mutex_lock(&w->lock);
    is_past = w->task == TASK_NONE || w->finished >= piece_count;
    pthread_mutex_unlock(&w->lock);
    return is_past;
}

void writer_committed(struct writer *w)
{
    if (w->delta)
        ds_delta_committed(w->delta);
}

const struct ds_manifest_pack *writer_packs(const struct writer *w, uint32_t *count)
{
    *count = w->made_count;
    return w->made;
}

/* ---- opening */

/* Signals are the main thread's. */
static ds_status start_thread(struct writer *w)
{
    sigset_t all, before;
    int code;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&w->thread, NULL, writer_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    w->has_thread = code == 0;
    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_NO_MEMORY, "the thread that writes checkpoints: %s",
                               strerror(code));
}

/* All that chunks are written from is told to the storage, which registers it where it can. */
static ds_status open_storage(struct writer *w)
{
    const struct snapshot *snapshot = w->snapshot;
    struct ds_storage_memory memory[1 + SNAPSHOT_JOINS] = {{snapshot->memory, snapshot->bytes}};
    const struct ds_storage_options options = {.level = "auto",
                                               .depth = SNAPSHOT_DEPTH,
                                               .memory = memory,
                                               .memory_count = 1 + w->spare_count};

    for (uint32_t i = 0; i < w->spare_count; i++)
        memory[1 + i] = (struct ds_storage_memory){w->spare[i], DS_PACK_CHUNK_BYTES};
    return ds_storage_open_with(w->start->fs, &options, &w->storage);
}

static ds_status open_all(struct writer *w)
{
    const struct ds_pack_plan *plan = &w->snapshot->plan;

    w->made = calloc(plan->part_count + DS_PACK_OTHERS_MAX, sizeof *w->made);
    if (!w->made)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to write checkpoints");
    if (plan->part_count > 0) {
        DS_TRY(open_storage(w));
        DS_TRY(ds_pack_writer_open(w->start->fs, w->storage, SNAPSHOT_DEPTH, plan, &w->packs));
        w->delta = ds_delta_make(plan, w->snapshot->tables);
        recall(w->start, plan, w->delta);
    }
    return start_thread(w);
}

ds_status writer_open(const struct ds_saver_start *start, const struct snapshot *snapshot,
                      struct writer **out)
{
    struct writer *w = calloc(1, sizeof *w);

    if (!w)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to write checkpoints");
    w->start = start;
    w->snapshot = snapshot;
    for (uint32_t i = 0; i < SNAPSHOT_JOINS && snapshot->joins[i]; i++)
        w->spare[w->spare_count++] = snapshot->joins[i];
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    ds_status st = open_all(w);
    if (st != DS_OK) {
        writer_close(w);
        return st;
    }
    *out = w;
    return DS_OK;
}

void writer_close(struct writer *w)
{
    if (!w)
        return;
    if (w->has_thread) {
        pthread_mutex_lock(&w->lock);
        w->must_end = 1;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->thread, NULL);
    }
    ds_pack_writer_close(w->packs);
    ds_storage_close(w->storage);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w->made);
    free(w);
}
