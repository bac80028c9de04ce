/* mirror.c - see mirror.h. */
#include "mirror.h"

#include "directory/copy_pack.h"
#include "directory/directory.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define POLL_NS 2000000u /* between looks, where somebody waits */

enum phase { IDLE, COPYING, COMMITTING };

/* A checkpoint, as this rank knows it. */
struct copied {
    struct ds_manifest_id id;
    struct ds_manifest_pack *packs; /* [pack_max] */
    uint32_t count;
};

struct mirror {
    struct mirror_options options;
    /* What its thread looks at, which may be left behind in a call that does not return: nobody else's but the disk's, and
     * the copies' own directory, which is left with it. */
    struct ds_saver_start start;
    char *root, *to;               /* owned: start's */
    struct ds_checkpoint_dir *dir; /* rank 0's, of copies */
    /* owns */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int has_thread;
    struct copied now, next; /* next: while has_next, waits */
    /* of the main threads, the same on all ranks */
    enum phase phase;
    int has_next;
    int is_stuck; /* that has been said */
    /* of the main thread: what it has last seen of `moved`, and when */
    uint64_t seen, seen_ns;
    _Atomic uint64_t moved; /* by the thread: grows as long as something goes on */
    /* under the lock */
    enum phase task;
    int must_end, has_ended, is_read;
    int is_left; /* nobody else has it any more */
    ds_status st;
};

/* ---- the thread */

static int went_on(void *user, uint64_t bytes)
{
    struct mirror *m = user;
    int goes_on;

    atomic_fetch_add(&m->moved, bytes);
    pthread_mutex_lock(&m->lock);
    goes_on = !m->must_end;
    pthread_mutex_unlock(&m->lock);
    return goes_on;
}

static ds_status copy_packs(struct mirror *m)
{
    const struct ds_saver_start *start = &m->start;
    const struct copy_pack_options options = {.fs = start->fs,
                                              .from = start->root,
                                              .to = start->mirror,
                                              .buffer = m->options.buffer,
                                              .went_on = went_on,
                                              .user = m};

    for (uint32_t i = 0; i < m->now.count; i++) {
        const struct ds_manifest_pack *pack = &m->now.packs[i];

        if (i == 0 || pack->dir != pack[-1].dir)
            DS_TRY(ds_checkpoint_make_data(start->fs, start->mirror, pack->dir));
        DS_TRY(copy_pack(&options, pack));
        atomic_fetch_add(&m->moved, 1);
    }
    return DS_OK;
}

/* Rank 0: all packs are there. */
static ds_status commit(const struct mirror *m)
{
    const struct ds_saver_start *start = &m->start;
    const struct ds_checkpoint_retention keep = {
        .keep_last = start->keep, .keep_every = start->keep_every, .margin = start->keep_margin};
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_read_manifest(start->fs, start->root, &m->now.id, &manifest));
    ds_status st = ds_checkpoint_commit_manifest(m->dir, &manifest);
    ds_manifest_fini(&manifest);
    DS_TRY(st);
    const ds_status hint = ds_checkpoint_write_latest(m->dir, &m->now.id);
    (void)hint; /* as in the first directory */
    return ds_checkpoint_retain(m->dir, &keep, m->now.id.step) == DS_ERR_FENCED ? DS_ERR_FENCED
                                                                                : DS_OK;
}

/* IDLE: it must end */
static enum phase next_task(struct mirror *m)
{
    enum phase task;

    pthread_mutex_lock(&m->lock);
    while (m->task == IDLE && !m->must_end)
        pthread_cond_wait(&m->changed, &m->lock);
    task = m->must_end ? IDLE : m->task;
    pthread_mutex_unlock(&m->lock);
    return task;
}

static void mirror_free(struct mirror *m)
{
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m->now.packs);
    free(m->next.packs);
    free(m->root);
    free(m->to);
    free(m);
}

static void free_left(struct mirror *m)
{
    ds_checkpoint_dir_close(m->dir);
    mirror_free(m);
}

static void *mirror_main(void *arg)
{
    struct mirror *m = arg;
    enum phase task;
    int is_left;

    while ((task = next_task(m)) != IDLE) {
        const ds_status st = task == COPYING ? copy_packs(m) : commit(m);

        pthread_mutex_lock(&m->lock);
        m->st = st;
        m->task = IDLE;
        pthread_mutex_unlock(&m->lock);
    }
    pthread_mutex_lock(&m->lock);
    m->has_ended = 1;
    is_left = m->is_left;
    pthread_mutex_unlock(&m->lock);
    if (is_left)
        free_left(m);
    return NULL;
}

/* ---- what it is given; main thread */

static void give(struct mirror *m, enum phase task)
{
    pthread_mutex_lock(&m->lock);
    m->task = task;
    m->is_read = 1;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static void begin_next(struct mirror *m)
{
    const struct copied was = m->now;

    pthread_mutex_lock(&m->lock);
    m->now = m->next;
    pthread_mutex_unlock(&m->lock);
    m->next = was; /* its memory */
    m->has_next = 0;
    m->is_stuck = 0;
    m->seen_ns = ds_clock_mono_ns(m->start.clock);
    m->phase = COPYING;
    give(m, COPYING);
}

void mirror_offer(struct mirror *m, const struct ds_manifest_id *id,
                  const struct ds_manifest_pack *packs, uint32_t count)
{
    DS_ASSERT(count <= m->options.pack_max);
    m->next.id = *id;
    m->next.count = count;
    if (count > 0)
        memcpy(m->next.packs, packs, count * sizeof *packs);
    m->has_next = 1;
}

/* Ranks share packs out: others may have written them. */
static void offer_share(struct mirror *m, const struct ds_manifest *loaded)
{
    const struct ds_comm *control = m->start.control;

    m->next.id = loaded->id;
    m->next.count = 0;
    for (uint32_t i = control->rank; i < loaded->pack_count; i += control->size) {
        DS_ASSERT(m->next.count < m->options.pack_max);
        m->next.packs[m->next.count++] = loaded->packs[i];
    }
    m->has_next = 1;
}

ds_status mirror_offer_loaded(struct mirror *m, const struct ds_manifest *loaded)
{
    const struct ds_saver_start *start = &m->start;
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;
    int32_t is_missing = 0;

    if (start->control->rank == 0) {
        ds_checkpoint_manifest_path(start->mirror, &loaded->id, path);
        is_missing = ds_fs_stat(start->fs, path, &stat) == -ENOENT;
    }
    DS_TRY(ds_comm_broadcast(start->control, &is_missing, sizeof is_missing, 0, NULL));
    if (is_missing)
        offer_share(m, loaded);
    return DS_OK;
}

int mirror_reads(struct mirror *m, struct ds_manifest_id *id)
{
    int is_read;

    pthread_mutex_lock(&m->lock);
    is_read = m->is_read;
    *id = m->now.id;
    pthread_mutex_unlock(&m->lock);
    return is_read;
}

/* ---- it goes on */

static void end_copy(struct mirror *m, ds_status st)
{
    const struct ds_saver_start *start = &m->start;
    const unsigned long long step = m->now.id.step;

    m->phase = IDLE;
    pthread_mutex_lock(&m->lock);
    m->is_read = 0;
    pthread_mutex_unlock(&m->lock);
    if (start->control->rank != 0)
        return;
    if (st == DS_OK)
        ds_info("checkpoint of step %llu is copied: %s", step, start->mirror);
    else
        ds_warn("checkpoint of step %llu was not copied to %s (%s); the first directory has it",
                step, start->mirror, ds_status_text(st));
}

/* collective: all ranks are done with a phase */
static ds_status next_phase(struct mirror *m, ds_status st)
{
    if (st == DS_OK && m->phase == COPYING) {
        m->phase = COMMITTING;
        if (m->start.control->rank == 0)
            give(m, COMMITTING);
        return DS_OK;
    }
    if (st == DS_ERR_FENCED)
        return st;
    end_copy(m, st);
    return DS_OK;
}

static int stands_still(struct mirror *m)
{
    const uint64_t now_ns = ds_clock_mono_ns(m->start.clock);
    const uint64_t moved = atomic_load(&m->moved);

    if (moved != m->seen) {
        m->seen = moved;
        m->seen_ns = now_ns;
    }
    return now_ns - m->seen_ns > m->options.deadline_ns;
}

ds_status mirror_poll(struct mirror *m, int may_begin)
{
    struct ds_comm *control = m->start.control;

    if (m->phase == IDLE && m->has_next && may_begin)
        begin_next(m);
    if (m->phase == IDLE)
        return DS_OK;
    pthread_mutex_lock(&m->lock);
    const int is_done = m->task == IDLE;
    const ds_status st =
        m->phase == COMMITTING && control->rank != 0 ? DS_OK : m->st; /* where it is done */
    pthread_mutex_unlock(&m->lock);
    int32_t told[3] = {is_done, is_done ? -(int32_t)st : 0, -(!is_done && stands_still(m))};
    DS_TRY(ds_comm_all_reduce(control, told, 3, DS_I32, DS_REDUCE_MIN, NULL));
    if (told[0])
        return next_phase(m, (ds_status)-told[1]);
    if (told[2] && !m->is_stuck && control->rank == 0)
        ds_warn("the copy of the checkpoint of step %llu stands still: %s does not answer; "
                "nobody waits for it",
                (unsigned long long)m->now.id.step, m->start.mirror);
    m->is_stuck = told[2] != 0;
    return DS_OK;
}

ds_status mirror_wait(struct mirror *m)
{
    const struct ds_saver_start *start = &m->start;

    while ((m->phase != IDLE || m->has_next) && !m->is_stuck) {
        DS_TRY(mirror_poll(m, 1));
        if (start->beat)
            start->beat(start->user);
        if (m->phase != IDLE)
            ds_clock_sleep_ns(start->clock, POLL_NS);
    }
    return DS_OK;
}

/* ---- opening */

static ds_status open_all(struct mirror *m)
{
    sigset_t all, before;

    m->now.packs = calloc(m->options.pack_max + 1u, sizeof *m->now.packs);
    m->next.packs = calloc(m->options.pack_max + 1u, sizeof *m->next.packs);
    m->start.root = m->root = strdup(m->start.root);
    m->start.mirror = m->to = strdup(m->start.mirror);
    if (!m->now.packs || !m->next.packs || !m->root || !m->to)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to copy checkpoints");
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int code = pthread_create(&m->thread, NULL, mirror_main, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    m->has_thread = code == 0;
    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_NO_MEMORY, "the thread that copies checkpoints: %s",
                               strerror(code));
}

ds_status mirror_open(const struct mirror_options *options, struct mirror **out)
{
    struct mirror *m = calloc(1, sizeof *m);

    if (!m)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to copy checkpoints");
    m->options = *options;
    m->start = *options->start;
    m->dir = m->start.dir ? m->start.dir->mirror : NULL;
    m->options.start = NULL;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    ds_status st = open_all(m);
    if (st != DS_OK) {
        (void)mirror_close(m, 0); /* there is no thread */
        return st;
    }
    *out = m;
    return DS_OK;
}

/* Behind the call that it is in. */
static int has_ended(struct mirror *m)
{
    int is_over;

    pthread_mutex_lock(&m->lock);
    m->must_end = 1;
    pthread_cond_broadcast(&m->changed);
    is_over = m->has_ended;
    pthread_mutex_unlock(&m->lock);
    return is_over;
}

/* Others wait no longer than they are asked in between, so all look together. */
ds_status mirror_end(struct mirror *m, int *has_ended_everywhere)
{
    const struct ds_saver_start *start = &m->start;
    const uint64_t begin_ns = ds_clock_mono_ns(start->clock);
    int32_t told[2] = {0, 0}; /* all have ended; one is late */

    while (!told[0] && !told[1]) {
        told[0] = has_ended(m);
        told[1] = -(ds_clock_mono_ns(start->clock) - begin_ns > m->options.deadline_ns);
        DS_TRY(ds_comm_all_reduce(start->control, told, 2, DS_I32, DS_REDUCE_MIN, NULL));
        if (start->beat)
            start->beat(start->user);
        if (!told[0])
            ds_clock_sleep_ns(start->clock, POLL_NS);
    }
    *has_ended_everywhere = told[0];
    return DS_OK;
}

static int await_end(struct mirror *m, uint64_t grace_ns)
{
    const struct ds_clock *clock = m->start.clock;
    const uint64_t begin_ns = ds_clock_mono_ns(clock);

    while (!has_ended(m)) {
        if (ds_clock_mono_ns(clock) - begin_ns > grace_ns)
            return 0;
        ds_clock_sleep_ns(clock, POLL_NS / 4);
    }
    return 1;
}

int mirror_close(struct mirror *m, uint64_t grace_ns)
{
    if (!m)
        return 1;
    if (m->has_thread && !await_end(m, grace_ns)) {
        pthread_detach(m->thread);
        return 0;
    }
    if (m->has_thread)
        pthread_join(m->thread, NULL);
    mirror_free(m);
    return 1;
}

void mirror_leave(struct mirror *m)
{
    int has_ended;

    pthread_mutex_lock(&m->lock);
    has_ended = m->has_ended;
    m->is_left = !has_ended;
    pthread_mutex_unlock(&m->lock);
    if (!has_ended) {
        pthread_detach(m->thread);
        return;
    }
    pthread_join(m->thread, NULL);
    free_left(m);
}
