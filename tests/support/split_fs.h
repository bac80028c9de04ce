/* split_fs.h - one directory lies on a simulated disk, everything else on the real one; a test hears of each call that
 * changes the simulated one, before it is made and after. Calls of several threads come in some order, one at a time. */
#ifndef DSTRAIN_TEST_SPLIT_FS_H
#define DSTRAIN_TEST_SPLIT_FS_H

#include "test.h"

#include "dstrain/fs.h"

#include <errno.h>
#include <pthread.h>

enum {
    SPLIT_FILES = 512,
    SPLIT_FIRST = 1 << 20
}; /* descriptors of the simulated disk, from here on */

struct split_call {
    const char *what, *path; /* of a rename the new name */
    const void *from;        /* of a write, else NULL */
    size_t bytes;
    uint64_t offset;
};

struct split_fs {
    struct ds_fs fs;   /* first */
    struct ds_fs *sim; /* what lies in `root` */
    const char *root;
    pthread_mutex_t lock;
    void *user;
    void (*before)(void *user, const struct split_call *call); /* or NULL; under the lock, as is: */
    void (*after)(void *user, const struct split_call *call); /* or NULL; of calls that went well */
    char paths[SPLIT_FILES][256];
};

static inline struct split_fs *split_of(struct ds_fs *fs)
{
    return (struct split_fs *)fs;
}

/* The disk that a path lies on, or a descriptor, whose number there it becomes. */
static inline struct ds_fs *split_by_path(struct ds_fs *fs, const char *path)
{
    const char *root = split_of(fs)->root;

    return strncmp(path, root, strlen(root)) == 0 ? split_of(fs)->sim : ds_fs_posix();
}

static inline struct ds_fs *split_by_file(struct ds_fs *fs, int *file)
{
    if (*file < SPLIT_FIRST)
        return ds_fs_posix();
    *file -= SPLIT_FIRST;
    return split_of(fs)->sim;
}

static inline void split_before(struct split_fs *split, const struct split_call *call)
{
    pthread_mutex_lock(&split->lock);
    if (split->before)
        split->before(split->user, call);
}

static inline int64_t split_after(struct split_fs *split, const struct split_call *call,
                                  int64_t result)
{
    if (result >= 0 && split->after)
        split->after(split->user, call);
    pthread_mutex_unlock(&split->lock);
    return result;
}

/* One call that changes something where `on` says. */
#define SPLIT_CHANGE(type, on, call, made) \
    struct ds_fs *const disk_ = (on);      \
    const struct split_call call_ = call;  \
    if (disk_ != split_of(fs)->sim)        \
        return (made);                     \
    split_before(split_of(fs), &call_);    \
    return (type)split_after(split_of(fs), &call_, (made))
#define SPLIT_NAMED(name_, path_) ((struct split_call){.what = (name_), .path = (path_)})

static inline int split_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    struct split_fs *split = split_of(fs);
    struct ds_fs *disk = split_by_path(fs, path);
    const struct split_call call = {.what = "open", .path = path};

    if (disk != split->sim)
        return ds_fs_open(disk, path, flags, mode);
    const int changes = (flags & (DS_FS_CREATE | DS_FS_TRUNCATE)) != 0;
    if (changes)
        split_before(split, &call);
    const int file = ds_fs_open(disk, path, flags, mode);
    if (file >= 0) {
        assert_true(file < SPLIT_FILES);
        snprintf(split->paths[file], sizeof split->paths[file], "%s", path);
    }
    if (changes)
        (void)split_after(split, &call, file);
    return file < 0 ? file : file + SPLIT_FIRST;
}

static inline int split_close(struct ds_fs *fs, int file)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    return ds_fs_close(disk, file);
}

static inline int64_t split_pread(struct ds_fs *fs, int file, void *to, size_t bytes,
                                  uint64_t offset)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    return ds_fs_pread(disk, file, to, bytes, offset);
}

static inline int64_t split_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                                   uint64_t offset)
{
    struct ds_fs *disk = split_by_file(fs, &file);
    const char *path = disk == split_of(fs)->sim ? split_of(fs)->paths[file] : "";

    SPLIT_CHANGE(int64_t, disk, ((struct split_call){"pwrite", path, from, bytes, offset}),
                 ds_fs_pwrite(disk, file, from, bytes, offset));
}

static inline int64_t split_append(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    return ds_fs_append(disk, file, from, bytes);
}

static inline int split_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    SPLIT_CHANGE(int, disk, SPLIT_NAMED("fallocate", ""), ds_fs_fallocate(disk, file, bytes));
}

static inline int split_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    SPLIT_CHANGE(int, disk, SPLIT_NAMED("truncate", ""), ds_fs_truncate(disk, file, bytes));
}

static inline int split_fsync(struct ds_fs *fs, int file)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    SPLIT_CHANGE(int, disk, SPLIT_NAMED("fsync", ""), ds_fs_fsync(disk, file));
}

static inline int split_fsync_dir(struct ds_fs *fs, const char *path)
{
    SPLIT_CHANGE(int, split_by_path(fs, path), SPLIT_NAMED("fsync_dir", path),
                 ds_fs_fsync_dir(disk_, path));
}

static inline int split_rename(struct ds_fs *fs, const char *from, const char *to)
{
    SPLIT_CHANGE(int, split_by_path(fs, to), SPLIT_NAMED("rename", to),
                 ds_fs_rename(disk_, from, to));
}

static inline int split_link(struct ds_fs *fs, const char *from, const char *to)
{
    SPLIT_CHANGE(int, split_by_path(fs, to), SPLIT_NAMED("link", to), ds_fs_link(disk_, from, to));
}

static inline int split_unlink(struct ds_fs *fs, const char *path)
{
    SPLIT_CHANGE(int, split_by_path(fs, path), SPLIT_NAMED("unlink", path),
                 ds_fs_unlink(disk_, path));
}

static inline int split_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    SPLIT_CHANGE(int, split_by_path(fs, path), SPLIT_NAMED("mkdir", path),
                 ds_fs_mkdir(disk_, path, mode));
}

static inline int split_rmdir(struct ds_fs *fs, const char *path)
{
    return ds_fs_rmdir(split_by_path(fs, path), path);
}

static inline int split_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    return ds_fs_stat(split_by_path(fs, path), path, out);
}

static inline int split_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    return ds_fs_fstat(disk, file, out);
}

static inline int split_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    return ds_fs_readdir(split_by_path(fs, path), path, names, count);
}

static inline int split_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    return ds_fs_statvfs(split_by_path(fs, path), path, out);
}

/* Data are mapped, and lie on the real disk. */
static inline int split_map(struct ds_fs *fs, int file, size_t bytes, const void **at)
{
    assert_true(file < SPLIT_FIRST);
    (void)fs;
    return ds_fs_map(ds_fs_posix(), file, bytes, at);
}

static inline void split_unmap(struct ds_fs *fs, const void *at, size_t bytes)
{
    (void)fs;
    ds_fs_unmap(ds_fs_posix(), at, bytes);
}

static inline int split_lock(struct ds_fs *fs, int file)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    return ds_fs_lock(disk, file);
}

static inline int split_direct_align(struct ds_fs *fs, int file)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    return ds_fs_direct_align(disk, file);
}

static inline int split_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to,
                              uint64_t to_offset, uint64_t bytes)
{
    struct ds_fs *disk = split_by_file(fs, &to), *other = split_by_file(fs, &from);

    if (disk != other)
        return -EXDEV;
    SPLIT_CHANGE(int, disk, SPLIT_NAMED("clone", split_of(fs)->paths[to]),
                 ds_fs_clone(disk, from, from_offset, to, to_offset, bytes));
}

static inline int split_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes)
{
    struct ds_fs *disk = split_by_file(fs, &file);

    SPLIT_CHANGE(int, disk, SPLIT_NAMED("renew", ""), ds_fs_renew(disk, file, offset, bytes));
}

static const struct ds_fs_ops split_ops = {
    .name = "split",
    .open = split_open,
    .close = split_close,
    .pread = split_pread,
    .pwrite = split_pwrite,
    .append = split_append,
    .fallocate = split_fallocate,
    .truncate = split_truncate,
    .fsync = split_fsync,
    .fsync_dir = split_fsync_dir,
    .rename = split_rename,
    .link = split_link,
    .unlink = split_unlink,
    .mkdir = split_mkdir,
    .rmdir = split_rmdir,
    .stat = split_stat,
    .fstat = split_fstat,
    .readdir = split_readdir,
    .statvfs = split_statvfs,
    .map = split_map,
    .unmap = split_unmap,
    .lock = split_lock,
    .direct_align = split_direct_align,
    .clone = split_clone,
    .renew = split_renew,
};

/* Nothing is there but the folders above `root`. */
static inline void split_init(struct split_fs *split, struct ds_fs *sim, const char *root)
{
    *split = (struct split_fs){.fs = {&split_ops}, .sim = sim, .root = root};
    pthread_mutex_init(&split->lock, NULL);
}

#endif
