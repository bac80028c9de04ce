/* exporter.c - see exporter.h. */
#include "format/names.h"

#include "dstrain/exporter.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOW_PRIORITY 19 /* training goes first */

struct ds_exporter {
    struct ds_exporter_options options;
    /* owns */
    char *root, *folder;
    void *buffer; /* DS_PACK_CHUNK_BYTES */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int has_thread;
    atomic_int must_end;
    /* under the lock */
    struct ds_manifest_id id; /* with is_busy */
    int is_busy;
};

/* ---- the thread */

static int must_end(void *user)
{
    struct ds_exporter *e = user;

    return atomic_load_explicit(&e->must_end, memory_order_relaxed);
}

static ds_status export_manifest(struct ds_exporter *e, const struct ds_manifest *manifest,
                                 const char *path)
{
    const struct ds_export_from from = {.fs = e->options.fs,
                                        .root = e->root,
                                        .manifest = manifest,
                                        .config = &e->options.config,
                                        .lora = e->options.lora,
                                        .buffer = e->buffer,
                                        .must_end = must_end,
                                        .user = e};
    const struct ds_hf_write_options to = {.fs = e->options.fs,
                                           .folder = path,
                                           .base = e->options.base,
                                           .beside = e->options.beside,
                                           .companions = e->options.companions,
                                           .has_byte_tokens = e->options.has_byte_tokens};

    return ds_export_checkpoint(&from, &to);
}

static void export_path(const struct ds_exporter *e, uint64_t step, const char *ending,
                        char to[DS_CHECKPOINT_PATH_BYTES])
{
    snprintf(to, DS_CHECKPOINT_PATH_BYTES, "%s/export-%llu%s", e->folder, (unsigned long long)step,
             ending);
}

static void export_one(struct ds_exporter *e, const struct ds_manifest_id *id)
{
    const unsigned long long step = id->step;
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_manifest manifest;

    export_path(e, step, "", path);
    ds_status st = ds_checkpoint_read_manifest(e->options.fs, e->root, id, &manifest);
    if (st == DS_OK) {
        st = export_manifest(e, &manifest, path);
        ds_manifest_fini(&manifest);
    }
    if (st == DS_OK)
        ds_info("checkpoint of step %llu is exported: %s", step, path);
    else if (!must_end(e))
        ds_warn("checkpoint of step %llu was not exported (%s); the checkpoint itself is there",
                step, ds_status_text(st));
}

/* 0: there is none any more */
static int next_id(struct ds_exporter *e, struct ds_manifest_id *id)
{
    pthread_mutex_lock(&e->lock);
    while (!e->is_busy && !must_end(e))
        pthread_cond_wait(&e->changed, &e->lock);
    *id = e->id;
    pthread_mutex_unlock(&e->lock);
    return !must_end(e);
}

static void *exporter_main(void *arg)
{
    struct ds_exporter *e = arg;
    struct ds_manifest_id id;

    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOW_PRIORITY);
    while (next_id(e, &id)) {
        export_one(e, &id);
        pthread_mutex_lock(&e->lock);
        e->is_busy = 0;
        pthread_mutex_unlock(&e->lock);
    }
    return NULL;
}

/* ---- from other threads */

static int is_due(const struct ds_exporter *e, uint64_t step)
{
    return step % e->options.every == 0;
}

void ds_exporter_offer(struct ds_exporter *e, const struct ds_manifest_id *id)
{
    if (!is_due(e, id->step))
        return;
    pthread_mutex_lock(&e->lock);
    const unsigned long long before = e->is_busy ? e->id.step : 0;
    if (!e->is_busy) {
        e->id = *id;
        e->is_busy = 1;
        pthread_cond_signal(&e->changed);
    }
    pthread_mutex_unlock(&e->lock);
    if (before > 0)
        ds_warn("export of the checkpoint of step %llu left out: that of step %llu is still being "
                "written",
                (unsigned long long)id->step, before);
}

int ds_exporter_reads(struct ds_exporter *e, struct ds_manifest_id *out)
{
    pthread_mutex_lock(&e->lock);
    const int is_busy = e->is_busy;
    *out = e->id;
    pthread_mutex_unlock(&e->lock);
    return is_busy;
}

int ds_exporter_lacks(const struct ds_exporter *e, const struct ds_manifest_id *id)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    export_path(e, id->step, "", path);
    return is_due(e, id->step) && ds_fs_stat(e->options.fs, path, &stat) == -ENOENT;
}

int ds_exporter_is_idle(struct ds_exporter *e)
{
    struct ds_manifest_id id;

    return !ds_exporter_reads(e, &id);
}

/* ---- opening */

/* Of a process that was killed. */
static ds_status remove_unfinished(const struct ds_exporter *e)
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names = NULL;
    uint64_t step;
    size_t count = 0;
    int code = ds_fs_readdir(e->options.fs, e->folder, &names, &count);

    for (size_t i = 0; i < count && code == 0; i++)
        if (names_parse(names[i], "export-#.tmp", &step, 1)) {
            export_path(e, step, ".tmp", path);
            code = ds_fs_remove_tree(e->options.fs, path);
            if (code == 0)
                ds_info("%s: was not finished, and is removed", path);
        }
    free(names);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "%s: unfinished exports cannot be removed: %s", e->folder,
                       strerror(-code));
    return DS_OK;
}

/* Signals are the main thread's. */
static ds_status start_thread(struct ds_exporter *e)
{
    sigset_t all, before;
    int code;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&e->thread, NULL, exporter_main, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    e->has_thread = code == 0;
    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_NO_MEMORY, "the thread that exports checkpoints: %s",
                               strerror(code));
}

static ds_status open_all(struct ds_exporter *e, const struct ds_exporter_options *options)
{
    e->root = strdup(options->root);
    e->folder = strdup(options->folder);
    e->buffer = malloc(DS_PACK_CHUNK_BYTES);
    if (!e->root || !e->folder || !e->buffer)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to export checkpoints");
    DS_TRY(remove_unfinished(e));
    return start_thread(e);
}

ds_status ds_exporter_open(const struct ds_exporter_options *options, struct ds_exporter **out)
{
    struct ds_exporter *e = calloc(1, sizeof *e);

    DS_ASSERT(options->every > 0);
    if (!e)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to export checkpoints");
    e->options = *options;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    ds_status st = open_all(e, options);
    if (st != DS_OK) {
        ds_exporter_close(e);
        return st;
    }
    *out = e;
    return DS_OK;
}

void ds_exporter_close(struct ds_exporter *e)
{
    if (!e)
        return;
    if (e->has_thread) {
        pthread_mutex_lock(&e->lock);
        atomic_store(&e->must_end, 1);
        pthread_cond_signal(&e->changed);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->thread, NULL);
    }
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e->root);
    free(e->folder);
    free(e->buffer);
    free(e);
}
