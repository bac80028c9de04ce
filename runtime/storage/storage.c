/* storage.c - chooses a level once, tells it, and is the wrapper that every caller goes through: limits and checks
 * stand here. The only file of the project that asks what was built in. */
#include "storage_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct ds_storage {
    const struct storage_ops *ops;
    void *self; /* owns: ops->self_bytes */
    struct ds_storage_options options;
    uint32_t in_flight;
    /* borrows */
    struct ds_fs *fs;
};

/* the best first */
static const struct storage_ops *const storage_levels[] = {
#if DS_HAVE_URING
    &storage_fixed_ops, &storage_plain_ops,
#endif
    &storage_threads_ops, /* pread and pwrite of ds_fs, so it runs on the simulated disk, too */
};
#define LEVEL_COUNT (sizeof storage_levels / sizeof storage_levels[0])

/* ---- one level */

static int fits(const struct storage_ops *ops, const struct ds_storage *storage)
{
    return (storage->fs->ops->native || !ops->is_native) &&
           (storage->options.memory_count > 0 || !ops->wants_memory);
}

static ds_status try_level(struct ds_storage *storage, const struct storage_ops *ops,
                           struct storage_refusal *refusal)
{
    void *self = calloc(1, ops->self_bytes);

    if (!self)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a storage queue");
    if (ops->open(self, storage->fs, &storage->options, refusal) != 0) {
        free(self);
        return DS_OK;
    }
    storage->ops = ops;
    storage->self = self;
    return DS_OK;
}

/* ---- the choice */

#define HINT_BYTES 160

/* Memory is locked in pages, and each ring locks what it registers: what is there already is not known. */
static void memory_hint(const struct ds_storage *storage, char to[HINT_BYTES])
{
    struct rlimit limit = {0};
    unsigned long long bytes = 0;

    for (size_t i = 0; i < storage->options.memory_count; i++)
        bytes += storage->options.memory[i].bytes;
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    snprintf(to, HINT_BYTES,
             " (RLIMIT_MEMLOCK is %llu bytes, and %llu are to be locked: ulimit -l unlimited)",
             (unsigned long long)limit.rlim_cur, bytes);
}

static const char *hint(const struct ds_storage *storage, const struct storage_refusal *refusal,
                        char to[HINT_BYTES])
{
    to[0] = '\0';
    if (refusal->code == -EPERM || refusal->code == -EACCES || refusal->code == -ENOSYS)
        return " (kernel.io_uring_disabled, a container's seccomp profile, an old kernel)";
    if (refusal->code == -ENOMEM)
        memory_hint(storage, to);
    return to;
}

/* Each level that is refused leaves its reason, and the next one is tried. Threads are the last. */
static ds_status open_best(struct ds_storage *storage)
{
    char why[512] = "", hinted[HINT_BYTES];

    for (size_t i = 0; i < LEVEL_COUNT && !storage->ops; i++) {
        struct storage_refusal refusal = {0};
        const size_t length = strlen(why);

        if (!fits(storage_levels[i], storage))
            continue;
        DS_TRY(try_level(storage, storage_levels[i], &refusal));
        if (!storage->ops)
            snprintf(why + length, sizeof why - length, "; no %s: %s: %s%s",
                     storage_levels[i]->name, refusal.doing, strerror(-refusal.code),
                     hint(storage, &refusal, hinted));
    }
    if (!storage->ops)
        return ds_fail(DS_ERR_NO_MEMORY, "storage%s", why);
    ds_info("storage: %s (%s)%s", storage->ops->name, storage->ops->text, why);
    return DS_OK;
}

static const struct storage_ops *level_of(const char *name)
{
    for (size_t i = 0; i < LEVEL_COUNT; i++)
        if (strcmp(storage_levels[i]->name, name) == 0)
            return storage_levels[i];
    return NULL;
}

/* A named choice is obeyed or refused. */
static ds_status open_named(struct ds_storage *storage, const char *name)
{
    const struct storage_ops *ops = level_of(name);
    struct storage_refusal refusal = {0};
    char hinted[HINT_BYTES];

    if (!ops && (strcmp(name, "fixed") == 0 || strcmp(name, "plain") == 0))
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "storage %s: io_uring is not in this build (liburing was not there)", name);
    if (!ops)
        return ds_fail(DS_ERR_UNSUPPORTED, "storage '%s': there are auto, fixed, plain and threads",
                       name);
    if (ops->is_native && !storage->fs->ops->native)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "storage %s: the %s file system has no kernel descriptors", name,
                       storage->fs->ops->name);
    if (!fits(ops, storage))
        return ds_fail(DS_ERR_UNSUPPORTED, "storage %s: there is no memory to register", name);
    DS_TRY(try_level(storage, ops, &refusal));
    if (!storage->ops)
        return ds_fail(DS_ERR_UNSUPPORTED, "storage %s: %s: %s%s", name, refusal.doing,
                       strerror(-refusal.code), hint(storage, &refusal, hinted));
    return DS_OK;
}

ds_status ds_storage_open_with(struct ds_fs *fs, const struct ds_storage_options *options,
                               struct ds_storage **out)
{
    struct ds_storage *storage = calloc(1, sizeof *storage);

    DS_ASSERT(options->depth > 0 && options->block_bytes % DS_FS_DIRECT_ALIGN == 0);
    if (!storage)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a storage queue");
    *storage = (struct ds_storage){.fs = fs, .options = *options};
    ds_status st = strcmp(options->level, "auto") == 0 ? open_best(storage)
                                                       : open_named(storage, options->level);
    if (st != DS_OK) {
        free(storage);
        return st;
    }
    *out = storage;
    return DS_OK;
}

ds_status ds_storage_open(struct ds_fs *fs, const char *level, uint32_t depth,
                          struct ds_storage **out)
{
    const struct ds_storage_options options = {.level = level, .depth = depth};

    return ds_storage_open_with(fs, &options, out);
}

/* ---- the wrapper */

void ds_storage_close(struct ds_storage *storage)
{
    struct ds_storage_request *done;

    if (!storage)
        return;
    while (storage->in_flight > 0 && ds_storage_reap(storage, &done) == DS_OK)
        ; /* the requests' memory is the caller's: nothing may write to it after this */
    storage->ops->close(storage->self);
    free(storage->self);
    free(storage);
}

const char *ds_storage_name(const struct ds_storage *storage)
{
    return storage->ops->name;
}

uint32_t ds_storage_in_flight(const struct ds_storage *storage)
{
    return storage->in_flight;
}

ds_status ds_storage_submit(struct ds_storage *storage, struct ds_storage_request *request)
{
    DS_ASSERT(storage->in_flight < storage->options.depth); /* every queue has a limit */
    DS_ASSERT(request->bytes > 0);
    request->status = DS_OK;
    request->done_bytes = 0;
    request->stalls = 0;
    request->next = NULL;
    DS_TRY(storage->ops->submit(storage->self, request));
    storage->in_flight++;
    return DS_OK;
}

ds_status ds_storage_reap(struct ds_storage *storage, struct ds_storage_request **done)
{
    DS_ASSERT(storage->in_flight > 0); /* else it would wait for ever */
    DS_TRY(storage->ops->reap(storage->self, 1, done));
    storage->in_flight--;
    return DS_OK;
}

ds_status ds_storage_poll(struct ds_storage *storage, struct ds_storage_request **done)
{
    *done = NULL;
    if (storage->in_flight == 0)
        return DS_OK;
    DS_TRY(storage->ops->reap(storage->self, 0, done));
    storage->in_flight -= *done != NULL;
    return DS_OK;
}

ds_status ds_storage_flush(struct ds_storage *storage, int file)
{
    DS_ASSERT(storage->in_flight == 0);
    int code = ds_fs_fsync(storage->fs, file);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "fsync: %s", strerror(-code));
    return DS_OK;
}
