/* storage_private.h - what storage.c and its backends share. */
#ifndef STORAGE_STORAGE_PRIVATE_H
#define STORAGE_STORAGE_PRIVATE_H

#include "dstrain/storage.h"

struct ds_storage {
    const struct ds_storage_ops *ops;
    void *self; /* owns: ops->self_bytes */
    uint32_t depth, in_flight;
    /* borrows */
    struct ds_fs *fs;
};

extern const struct ds_storage_ops ds_storage_threads_ops;
extern const struct ds_storage_ops ds_storage_uring_ops;

/* local: a storage with its state zeroed and not yet opened */
DS_CHECKED ds_status storage_make(const struct ds_storage_ops *ops, struct ds_fs *fs,
                                  uint32_t depth, struct ds_storage **out);

/* A request that failed: decides and logs it, and is its status. `code` is -errno; 0: end of file. */
ds_status storage_request_failed(const struct ds_storage_request *request, int code);

#endif
