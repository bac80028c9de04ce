/* hooked_disk.h - the real disk, where a test hears of calls before they are made, on any thread: it may hold them up or
 * have them fail. A program has one. */
#ifndef DSTRAIN_TEST_HOOKED_DISK_H
#define DSTRAIN_TEST_HOOKED_DISK_H

#include "dstrain/fs.h"
#include "test.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { HOOKED_FILES = 4096, HOOKED_PATH_BYTES = 512 };

struct disk_call {
    const char *what, *path; /* of a rename the new name */
    uint32_t flags;          /* of an open */
    int file;                /* of what has a descriptor: it and, of a read or a write, the bytes */
    const void *from;
    size_t bytes;
    uint64_t offset;
};
typedef int disk_hook(const struct disk_call *call); /* 0: go on; -errno */

static struct {
    disk_hook *hook;
    pthread_mutex_t lock;
    char paths[HOOKED_FILES][HOOKED_PATH_BYTES]; /* of descriptors */
} hooked = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline int hooked_path(const char *what, const char *path)
{
    const struct disk_call call = {.what = what, .path = path, .file = -1};

    return hooked.hook(&call);
}

static inline int hooked_file(struct disk_call call)
{
    char path[HOOKED_PATH_BYTES] = "";

    pthread_mutex_lock(&hooked.lock);
    if (call.file >= 0 && call.file < HOOKED_FILES)
        memcpy(path, hooked.paths[call.file], sizeof path);
    pthread_mutex_unlock(&hooked.lock);
    call.path = path;
    return hooked.hook(&call);
}

/* The real disk's call, unless the hook says otherwise. */
#define HOOKED(said, made)    \
    const int code_ = (said); \
    return code_ != 0 ? code_ : ds_fs_posix()->ops->made

static inline int hooked_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    const struct disk_call call = {.what = "open", .path = path, .flags = flags, .file = -1};
    const int code = hooked.hook(&call);
    const int file = code != 0 ? code : ds_fs_posix()->ops->open(fs, path, flags, mode);

    pthread_mutex_lock(&hooked.lock);
    if (file >= 0 && file < HOOKED_FILES)
        snprintf(hooked.paths[file], HOOKED_PATH_BYTES, "%s", path);
    pthread_mutex_unlock(&hooked.lock);
    return file;
}

static inline int64_t hooked_pread(struct ds_fs *fs, int file, void *to, size_t bytes,
                                   uint64_t offset)
{
    HOOKED(hooked_file(
               (struct disk_call){.what = "pread", .file = file, .bytes = bytes, .offset = offset}),
           pread(fs, file, to, bytes, offset));
}

static inline int64_t hooked_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                                    uint64_t offset)
{
    HOOKED(hooked_file((struct disk_call){
               .what = "pwrite", .file = file, .from = from, .bytes = bytes, .offset = offset}),
           pwrite(fs, file, from, bytes, offset));
}

static inline int hooked_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    HOOKED(hooked_file((struct disk_call){.what = "fallocate", .file = file}),
           fallocate(fs, file, bytes));
}

static inline int hooked_fsync(struct ds_fs *fs, int file)
{
    HOOKED(hooked_file((struct disk_call){.what = "fsync", .file = file}), fsync(fs, file));
}

static inline int hooked_fsync_dir(struct ds_fs *fs, const char *path)
{
    HOOKED(hooked_path("fsync_dir", path), fsync_dir(fs, path));
}

static inline int hooked_rename(struct ds_fs *fs, const char *from, const char *to)
{
    HOOKED(hooked_path("rename", to), rename(fs, from, to));
}

static inline int hooked_unlink(struct ds_fs *fs, const char *path)
{
    HOOKED(hooked_path("unlink", path), unlink(fs, path));
}

static inline int hooked_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    HOOKED(hooked_path("mkdir", path), mkdir(fs, path, mode));
}

static inline int hooked_rmdir(struct ds_fs *fs, const char *path)
{
    HOOKED(hooked_path("rmdir", path), rmdir(fs, path));
}

static inline int hooked_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    HOOKED(hooked_path("readdir", path), readdir(fs, path, names, count));
}

static inline struct ds_fs *hooked_disk(disk_hook *hook)
{
    static struct ds_fs_ops ops;
    static struct ds_fs fs = {&ops};

    hooked.hook = hook;
    ops = *ds_fs_posix()->ops;
    ops.open = hooked_open;
    ops.pread = hooked_pread;
    ops.pwrite = hooked_pwrite;
    ops.fallocate = hooked_fallocate;
    ops.fsync = hooked_fsync;
    ops.fsync_dir = hooked_fsync_dir;
    ops.rename = hooked_rename;
    ops.unlink = hooked_unlink;
    ops.mkdir = hooked_mkdir;
    ops.rmdir = hooked_rmdir;
    ops.readdir = hooked_readdir;
    ops.native = NULL; /* so that reads and writes come through here */
    return &fs;
}

/* Is it a call of this name, about a path with this in it? */
static inline int disk_call_is(const struct disk_call *call, const char *what, const char *in_path)
{
    return strcmp(call->what, what) == 0 && strstr(call->path, in_path) != NULL;
}

#endif
