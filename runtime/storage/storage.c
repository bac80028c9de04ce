/* storage.c - opens a backend and is the wrapper that every caller goes through: limits and checks
 * stand here, once. The only file of the project that asks what was built in. */
#include "storage_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct ds_storage_ops *const storage_backends[] = {
#if DS_HAVE_URING
    &ds_storage_uring_ops,
#endif
    &ds_storage_threads_ops, /* pread and pwrite of ds_fs, so it runs on the simulated disk, too */
};
#define BACKEND_COUNT (sizeof storage_backends / sizeof storage_backends[0])

static int fits(const struct ds_storage_ops *ops, const struct ds_fs *fs)
{
    return fs->ops->native || !(ops->caps & DS_STORAGE_CAP_NATIVE);
}

static const struct ds_storage_ops *best_backend(const struct ds_fs *fs)
{
    const struct ds_storage_ops *best = NULL;
    int best_score = 0;

    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        int score = fits(storage_backends[i], fs) ? storage_backends[i]->score() : 0;

        if (score > best_score) {
            best = storage_backends[i];
            best_score = score;
        }
    }
    DS_ASSERT(best); /* threads are always there */
    return best;
}

/* A named choice is obeyed or refused. */
static ds_status named_backend(const char *name, const struct ds_fs *fs,
                               const struct ds_storage_ops **out)
{
    const struct ds_storage_ops *ops = NULL;

    for (size_t i = 0; i < BACKEND_COUNT; i++)
        if (strcmp(storage_backends[i]->name, name) == 0)
            ops = storage_backends[i];
    if (!ops && strcmp(name, "io_uring") == 0)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "storage io_uring: not in this build (liburing was not there)");
    if (!ops)
        return ds_fail(DS_ERR_UNSUPPORTED, "storage '%s': there are auto, io_uring and threads",
                       name);
    if (!fits(ops, fs))
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "storage %s: the %s file system has no kernel descriptors", name,
                       fs->ops->name);
    if (ops->score() == 0)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "storage %s: this kernel does not have it or does not permit it "
                       "(kernel.io_uring_disabled, a container's seccomp profile)",
                       name);
    *out = ops;
    return DS_OK;
}

ds_status storage_make(const struct ds_storage_ops *ops, struct ds_fs *fs, uint32_t depth,
                       struct ds_storage **out)
{
    struct ds_storage *storage = calloc(1, sizeof *storage);
    void *self = calloc(1, ops->self_bytes);

    DS_ASSERT(ops->name && ops->score && ops->close && ops->submit && ops->reap && depth > 0);
    if (!storage || !self) {
        free(storage);
        free(self);
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a storage queue");
    }
    *storage = (struct ds_storage){.ops = ops, .self = self, .depth = depth, .fs = fs};
    *out = storage;
    return DS_OK;
}

static void storage_free(struct ds_storage *storage)
{
    free(storage->self);
    free(storage);
}

ds_status ds_storage_open(struct ds_fs *fs, const char *backend, uint32_t depth,
                          struct ds_storage **out)
{
    const struct ds_storage_ops *ops = NULL;
    struct ds_storage *storage = NULL;

    if (strcmp(backend, "auto") == 0)
        ops = best_backend(fs);
    else
        DS_TRY(named_backend(backend, fs, &ops));
    DS_TRY(storage_make(ops, fs, depth, &storage));
    ds_status st = ops->open(storage->self, fs, depth);
    if (st != DS_OK) {
        storage_free(storage);
        return st;
    }
    *out = storage;
    return DS_OK;
}

void ds_storage_close(struct ds_storage *storage)
{
    struct ds_storage_request *done;

    if (!storage)
        return;
    while (storage->in_flight > 0 && ds_storage_reap(storage, &done) == DS_OK)
        ; /* the requests' memory is the caller's: nothing may write to it after this */
    storage->ops->close(storage->self);
    storage_free(storage);
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
    DS_ASSERT(storage->in_flight < storage->depth); /* every queue has a limit */
    DS_ASSERT(request->bytes > 0);
    request->status = DS_OK;
    request->done_bytes = 0;
    request->next = NULL;
    DS_TRY(storage->ops->submit(storage->self, request));
    storage->in_flight++;
    return DS_OK;
}

ds_status ds_storage_reap(struct ds_storage *storage, struct ds_storage_request **done)
{
    DS_ASSERT(storage->in_flight > 0); /* else it would wait for ever */
    DS_TRY(storage->ops->reap(storage->self, done));
    storage->in_flight--;
    return DS_OK;
}

ds_status ds_storage_pin(struct ds_storage *storage, void *data, size_t bytes)
{
    return storage->ops->pin ? storage->ops->pin(storage->self, data, bytes) : DS_OK;
}

ds_status ds_storage_flush(struct ds_storage *storage, int file)
{
    if (storage->ops->flush)
        return storage->ops->flush(storage->self, file);
    int code = ds_fs_fsync(storage->fs, file);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "fsync: %s", strerror(-code));
    return DS_OK;
}

ds_status storage_request_failed(const struct ds_storage_request *request, int code)
{
    return ds_fail(DS_ERR_IO, "%s of %zu bytes at %llu: %s", request->is_write ? "write" : "read",
                   request->bytes, (unsigned long long)request->offset,
                   code != 0           ? strerror(-code)
                   : request->is_write ? "nothing was taken"
                                       : "the file ends before");
}
