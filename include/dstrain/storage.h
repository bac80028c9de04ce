/* storage.h - queues of asynchronous block reads and writes, one submitting thread per ds_storage.
 * A request belongs to the caller again when reap hands it back; then its status is valid. A short
 * read or write is continued inside; end of file before `bytes` is DS_ERR_IO. local: everything here. */
#ifndef DSTRAIN_STORAGE_H
#define DSTRAIN_STORAGE_H

#include "dstrain/fs.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

enum ds_storage_cap {
    DS_STORAGE_CAP_ASYNC = 1u << 0,
    DS_STORAGE_CAP_FIXED_BUFFERS = 1u << 1,
    DS_STORAGE_CAP_NATIVE = 1u << 2, /* needs the kernel's descriptors: posix only */
};

struct ds_storage_request {
    uint8_t is_write;
    int file; /* from ds_fs */
    void *data;
    size_t bytes; /* > 0 */
    uint64_t offset;
    ds_status status;  /* out */
    void *user;        /* the caller's */
    size_t done_bytes; /* the backend's while in flight, as is `next` */
    struct ds_storage_request *next;
};

struct ds_storage_ops {
    const char *name;
    uint32_t caps;     /* bits of ds_storage_cap */
    size_t self_bytes; /* backend state, allocated by ds_storage_open */
    /* required */
    int (*score)(void); /* 0: not available here; the highest score wins "auto" */
    ds_status (*open)(void *self, struct ds_fs *fs, uint32_t depth);
    void (*close)(void *self);
    ds_status (*submit)(void *self, struct ds_storage_request *request);
    ds_status (*reap)(void *self, struct ds_storage_request **done); /* blocks for one */
    /* optional: NULL means the fallback in storage.c */
    ds_status (*pin)(void *self, void *data, size_t bytes); /* fallback: do nothing */
    ds_status (*flush)(void *self, int file);               /* fallback: fsync of ds_fs */
};

struct ds_storage;

/* local: `backend` is "auto", "io_uring" or "threads"; a name that is not available is
 * DS_ERR_UNSUPPORTED with the reason. At most `depth` requests in flight. A fs without native
 * descriptors (sim, fault) gets "threads" under "auto". */
DS_CHECKED ds_status ds_storage_open(struct ds_fs *fs, const char *backend, uint32_t depth,
                                     struct ds_storage **out);
void ds_storage_close(struct ds_storage *storage); /* reaps what is in flight; NULL is allowed */
const char *ds_storage_name(const struct ds_storage *storage);
uint32_t ds_storage_in_flight(const struct ds_storage *storage);
DS_CHECKED ds_status ds_storage_submit(struct ds_storage *storage,
                                       struct ds_storage_request *request);
DS_CHECKED ds_status ds_storage_reap(struct ds_storage *storage, struct ds_storage_request **done);
DS_CHECKED ds_status ds_storage_pin(struct ds_storage *storage, void *data, size_t bytes);
DS_CHECKED ds_status ds_storage_flush(struct ds_storage *storage, int file);

/* The n-th completion of `inner` (1-based; 0 never) comes back as DS_ERR_IO. Takes `inner`
 * over: closing this closes it, and a failure here has closed it. */
DS_CHECKED ds_status ds_storage_fault_open(struct ds_storage *inner, uint64_t fail_at,
                                           struct ds_storage **out);

#endif
