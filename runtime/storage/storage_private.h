/* storage_private.h - what storage.c and its backends share. */
#ifndef STORAGE_STORAGE_PRIVATE_H
#define STORAGE_STORAGE_PRIVATE_H

#include "dstrain/storage.h"

/* Why a level is not to be had. */
struct storage_refusal {
    const char *doing; /* "make a ring" */
    int code;          /* -errno */
};

struct storage_ops {
    const char *name, *text;
    int is_native;     /* needs the kernel's descriptors: posix only */
    int wants_memory;  /* is nothing without memory to register */
    size_t self_bytes; /* backend state, zeroed by storage.c */
    /* `options` stays where it is until close, but for its memory */
    int (*open)(void *self, struct ds_fs *fs, const struct ds_storage_options *options,
                struct storage_refusal *refusal); /* 0, or 1: refused, and nothing is held */
    void (*close)(void *self);
    ds_status (*submit)(void *self, struct ds_storage_request *request);
    /* waits: blocks for one; else *done may be NULL */
    ds_status (*reap)(void *self, int waits, struct ds_storage_request **done);
};

extern const struct storage_ops storage_fixed_ops, storage_plain_ops, storage_threads_ops;

/* How many bytes the next operation of a request is to move. */
size_t storage_part(const struct ds_storage_options *options,
                    const struct ds_storage_request *request);
/* An operation has moved `result` bytes, or none for -errno. True: the request is over, and its status says how.
 * Otherwise its rest is to be moved. Safe for threads. */
int storage_absorb(const struct ds_storage_options *options, struct ds_storage_request *request,
                   int64_t result);
/* A request that failed: decides and logs it, and is its status. `code` is -errno; 0: end of file. */
ds_status storage_request_failed(const struct ds_storage_request *request, int code);

#endif
