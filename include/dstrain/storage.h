/* storage.h - queues of asynchronous block reads and writes, one submitting thread per ds_storage, in three levels:
 * "fixed" is io_uring with the caller's memory registered and files, "plain" io_uring without, "threads" pread and pwrite of
 * ds_fs. A request belongs to the caller again when reap hands it back; then its status is valid. A short read or
 * write is continued inside, at a whole block where the request could go around the page cache; end of file before
 * `bytes` is DS_ERR_IO. local: everything here. */
#ifndef DSTRAIN_STORAGE_H
#define DSTRAIN_STORAGE_H

#include "dstrain/fs.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

struct ds_storage_request {
    uint8_t is_write;
    int file; /* from ds_fs */
    void *data;
    size_t bytes; /* > 0 */
    uint64_t offset;
    ds_status status; /* out */
    void *user;       /* the caller's */
    const char *name; /* of the file, where a failure is told; or NULL */
    /* the backend's while in flight */
    size_t done_bytes;
    uint32_t stalls; /* operations in a row that brought nothing */
    struct ds_storage_request *next;
};

struct ds_storage_memory {
    void *at;
    size_t bytes;
};

/* For tests: what single operations are said to have done, whatever they did. */
struct ds_storage_faults {
    uint64_t at;    /* the first of them, 1-based */
    uint64_t times; /* how many in a row; 0: none */
    int64_t result; /* -errno, or the most bytes that one moves */
    _Atomic uint64_t operations;
};

struct ds_storage_options {
    const char *level; /* "auto": the first of fixed, plain, threads that can be had here */
    uint32_t depth;    /* requests in flight at most */
    /* of one operation at most, a multiple of DS_FS_DIRECT_ALIGN; a longer request is several, one after the other.
     * 0: no such limit */
    size_t block_bytes;
    /* what "fixed" registers; it stays where it is until close. Requests may lie elsewhere, too: those are moved as
     * "plain" does it. Without memory "auto" begins at "plain". The array itself is read by open only. */
    const struct ds_storage_memory *memory;
    size_t memory_count;
    /* what "fixed" registers, too: descriptors of fs, which stay open until close. Others may be used beside them. The
     * array is read by open only. */
    const int *files;
    size_t file_count;
    struct ds_storage_faults *faults; /* or NULL; borrowed until close */
};

struct ds_storage;

/* local: a level that is named and not to be had is DS_ERR_UNSUPPORTED with the reason; "auto" tells what it took, and
 * why no better one. A fs without native descriptors (sim, fault) has threads only. */
DS_CHECKED ds_status ds_storage_open_with(struct ds_fs *fs,
                                          const struct ds_storage_options *options,
                                          struct ds_storage **out);
/* the same with a level and a depth alone */
DS_CHECKED ds_status ds_storage_open(struct ds_fs *fs, const char *level, uint32_t depth,
                                     struct ds_storage **out);
void ds_storage_close(struct ds_storage *storage); /* reaps what is in flight; NULL is allowed */
const char *ds_storage_name(const struct ds_storage *storage); /* its level */
uint32_t ds_storage_in_flight(const struct ds_storage *storage);
DS_CHECKED ds_status ds_storage_submit(struct ds_storage *storage,
                                       struct ds_storage_request *request);
DS_CHECKED ds_status ds_storage_reap(struct ds_storage *storage, struct ds_storage_request **done);
/* the same, but does not wait: *done is NULL where none is over */
DS_CHECKED ds_status ds_storage_poll(struct ds_storage *storage, struct ds_storage_request **done);
/* What has been written lasts. Nothing is in flight: an fsync does not wait for writes that are. */
DS_CHECKED ds_status ds_storage_flush(struct ds_storage *storage, int file);

#endif
