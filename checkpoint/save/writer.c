/* writer.c - see writer.h. */
#include "writer.h"

#include "mirror.h"
#include "recall.h"
#include "write_packs.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define END_POLL_NS 500000u

/* ---- pieces */

int writer_await_piece(struct writer *w, uint32_t piece)
{
    int is_there;

    pthread_mutex_lock(&w->lock);
    while (w->released <= piece && !w->must_end && !w->must_stop)
        pthread_cond_wait(&w->changed, &w->lock);
    is_there = !w->must_end && !w->must_stop;
    pthread_mutex_unlock(&w->lock);
    return is_there;
}

void writer_pass_piece(struct writer *w, uint32_t piece)
{
    pthread_mutex_lock(&w->lock);
    w->finished = piece + 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* ---- the second phase. It is told that there is a checkpoint when all of this is done: what is tidied behind it is
 * quick, and its failure costs nothing but room. */

/* What is left behind in a call to the disk may not look at what others own. */
static struct ds_exporter *exporter_of(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    const int is_left = w->must_end;
    pthread_mutex_unlock(&w->lock);
    return is_left ? NULL : w->start->exporter;
}

static ds_status retain(struct writer *w)
{
    struct ds_exporter *exporter = exporter_of(w);
    struct ds_manifest_id pinned[2];
    struct ds_checkpoint_retention keep = {.keep_last = w->start->keep,
                                           .keep_every = w->start->keep_every,
                                           .pinned = pinned,
                                           .margin = w->start->keep_margin};

    if (exporter)
        keep.pinned_count = (uint32_t)ds_exporter_reads(exporter, pinned);
    if (w->mirror)
        keep.pinned_count += (uint32_t)mirror_reads(w->mirror, &pinned[keep.pinned_count]);
    const ds_status st = ds_checkpoint_retain(w->start->dir, &keep, w->committed_step);

    return st == DS_ERR_FENCED ? st : DS_OK;
}

static ds_status commit(struct writer *w)
{
    DS_TRY(ds_checkpoint_commit_manifest(w->start->dir, w->manifest));
    w->committed_step = w->manifest->id.step;
    struct ds_exporter *exporter = exporter_of(w);
    if (exporter)
        ds_exporter_offer(exporter, &w->manifest->id);
    const ds_status hint = ds_checkpoint_write_latest(w->start->dir, &w->manifest->id);
    (void)hint; /* nothing rests on it: it has been told, and what nobody needs goes all the same */
    return retain(w);
}

/* What a failed save leaves: packs of this rank that no manifest can name, and on rank 0 what else nobody needs. A
 * manifest that could not be made to last may come back when power does, with its packs. */
static ds_status tidy(struct writer *w)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    for (uint32_t i = 0; i < w->made_count && w->drops_packs; i++) {
        const struct ds_manifest_pack *pack = &w->made[i];

        if (pack->pack.id.epoch != w->start->epoch || pack->pack.id.step != w->step)
            continue; /* one that was referred to */
        ds_checkpoint_pack_path(w->start->root, pack->dir, &pack->pack.id, path);
        (void)ds_fs_unlink(w->start->fs, path); /* or retention finds it */
    }
    w->made_count = 0;
    return w->rank == 0 ? retain(w) : DS_OK;
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
        const ds_status st = task == TASK_PACKS    ? write_packs(w)
                             : task == TASK_COMMIT ? commit(w)
                                                   : tidy(w);

        pthread_mutex_lock(&w->lock);
        w->st = st;
        w->task = TASK_NONE;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_lock(&w->lock);
    w->has_ended = 1;
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void give(struct writer *w, enum writer_task task)
{
    pthread_mutex_lock(&w->lock);
    DS_ASSERT(w->task == TASK_NONE);
    w->task = task;
    w->must_stop = 0;
    w->released = w->finished = 0;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void writer_begin(struct writer *w, uint64_t step)
{
    w->attempt = step == w->step ? w->attempt + 1 : 0;
    w->step = step;
    give(w, TASK_PACKS);
}

void writer_commit(struct writer *w, const struct ds_manifest *manifest)
{
    w->manifest = manifest;
    give(w, TASK_COMMIT);
}

void writer_tidy(struct writer *w, int drops_packs)
{
    w->drops_packs = drops_packs;
    give(w, TASK_TIDY);
}

void writer_stop(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->must_stop = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
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

int writer_cannot_share(struct writer *w)
{
    int cannot;

    pthread_mutex_lock(&w->lock);
    cannot = w->cannot_share;
    pthread_mutex_unlock(&w->lock);
    return cannot;
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
                      struct mirror *mirror, struct writer **out)
{
    struct writer *w = calloc(1, sizeof *w);

    if (!w)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to write checkpoints");
    w->start = start;
    w->mirror = mirror;
    w->rank = start->control->rank;
    w->snapshot = snapshot;
    for (uint32_t i = 0; i < SNAPSHOT_JOINS && snapshot->joins[i]; i++)
        w->spare[w->spare_count++] = snapshot->joins[i];
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    ds_status st = open_all(w);
    if (st != DS_OK) {
        (void)writer_close(w, 0); /* there is no thread */
        return st;
    }
    *out = w;
    return DS_OK;
}

/* 0: it does not, within so much time */
static int await_end(struct writer *w, uint64_t grace_ns)
{
    const struct ds_clock *clock = w->start->clock;
    const uint64_t begin_ns = ds_clock_mono_ns(clock);
    int has_ended = 0;

    pthread_mutex_lock(&w->lock);
    w->must_end = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    for (;;) {
        pthread_mutex_lock(&w->lock);
        has_ended = w->has_ended;
        pthread_mutex_unlock(&w->lock);
        if (has_ended || ds_clock_mono_ns(clock) - begin_ns > grace_ns)
            return has_ended;
        if (w->start->beat)
            w->start->beat(w->start->user);
        ds_clock_sleep_ns(clock, END_POLL_NS);
    }
}

int writer_close(struct writer *w, uint64_t grace_ns)
{
    if (!w)
        return 1;
    if (w->has_thread && !await_end(w, grace_ns)) {
        pthread_detach(w->thread);
        return 0;
    }
    if (w->has_thread)
        pthread_join(w->thread, NULL);
    ds_pack_writer_close(w->packs);
    ds_storage_close(w->storage);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w->made);
    free(w);
    return 1;
}
