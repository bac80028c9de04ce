/* watch_fs.h - a file system that lets a test look on: before every call, and after every one that changes something;
 * that leaves out barriers, and fails calls, as the test decides. */
#ifndef DSTRAIN_TEST_WATCH_FS_H
#define DSTRAIN_TEST_WATCH_FS_H

#include "test.h"

#include "dstrain/fs.h"

#include <errno.h>

#define WATCH_FILES 256

struct watch_fs {
    struct ds_fs fs; /* first */
    struct ds_fs *inner;
    void *user;
    void (*before)(void *user, const char *path); /* any call; or NULL */
    void (*changed)(void *user);                  /* or NULL */
    int (*drops)(void *user, const char *path,
                 int is_name); /* an fsync, or of a directory; or NULL */
    int (*fails)(void *user, const char *what, const char *path); /* -errno, or 0; or NULL */
    int (*hides)(void *user, const char *path); /* a directory looks empty; or NULL */
    char paths[WATCH_FILES][160];               /* of descriptors */
};

static inline struct watch_fs *watch_of(struct ds_fs *fs)
{
    return (struct watch_fs *)fs;
}

static inline const char *watch_path(struct ds_fs *fs, int file)
{
    return file >= 0 && file < WATCH_FILES ? watch_of(fs)->paths[file] : "";
}

static inline int watch_begin(struct ds_fs *fs, const char *what, const char *path)
{
    struct watch_fs *watch = watch_of(fs);

    if (watch->before)
        watch->before(watch->user, path);
    return watch->fails ? watch->fails(watch->user, what, path) : 0;
}

static inline int64_t watch_end(struct ds_fs *fs, int64_t result)
{
    struct watch_fs *watch = watch_of(fs);

    if (result >= 0 && watch->changed)
        watch->changed(watch->user);
    return result;
}

#define WATCH_CALL(what, path, call)             \
    int code_ = watch_begin(fs, (what), (path)); \
    struct ds_fs *inner = watch_of(fs)->inner;   \
    return code_ != 0 ? code_ : (call)
#define WATCH_CHANGE(type, what, path, call)     \
    int code_ = watch_begin(fs, (what), (path)); \
    struct ds_fs *inner = watch_of(fs)->inner;   \
    return code_ != 0 ? code_ : (type)watch_end(fs, (call))

static inline int watch_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    struct watch_fs *watch = watch_of(fs);
    int file = watch_begin(fs, "open", path);

    if (file == 0)
        file = ds_fs_open(watch->inner, path, flags, mode);
    if (file < 0)
        return file;
    assert_true(file < WATCH_FILES);
    snprintf(watch->paths[file], sizeof watch->paths[file], "%s", path);
    return flags & (DS_FS_CREATE | DS_FS_TRUNCATE) ? (int)watch_end(fs, file) : file;
}

static inline int watch_close(struct ds_fs *fs, int file)
{
    return ds_fs_close(watch_of(fs)->inner, file);
}

static inline int64_t watch_pread(struct ds_fs *fs, int file, void *to, size_t bytes,
                                  uint64_t offset)
{
    WATCH_CALL("pread", watch_path(fs, file), ds_fs_pread(inner, file, to, bytes, offset));
}

static inline int64_t watch_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                                   uint64_t offset)
{
    WATCH_CHANGE(int64_t, "pwrite", watch_path(fs, file),
                 ds_fs_pwrite(inner, file, from, bytes, offset));
}

static inline int watch_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    WATCH_CHANGE(int, "fallocate", watch_path(fs, file), ds_fs_fallocate(inner, file, bytes));
}

static inline int watch_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    WATCH_CHANGE(int, "truncate", watch_path(fs, file), ds_fs_truncate(inner, file, bytes));
}

static inline int watch_fsync(struct ds_fs *fs, int file)
{
    struct watch_fs *watch = watch_of(fs);
    const char *path = watch_path(fs, file);
    const int code = watch_begin(fs, "fsync", path);

    if (code != 0 || (watch->drops && watch->drops(watch->user, path, 0)))
        return code;
    return (int)watch_end(fs, ds_fs_fsync(watch->inner, file));
}

static inline int watch_fsync_dir(struct ds_fs *fs, const char *path)
{
    struct watch_fs *watch = watch_of(fs);
    const int code = watch_begin(fs, "fsync_dir", path);

    if (code != 0 || (watch->drops && watch->drops(watch->user, path, 1)))
        return code;
    return (int)watch_end(fs, ds_fs_fsync_dir(watch->inner, path));
}

static inline int watch_rename(struct ds_fs *fs, const char *from, const char *to)
{
    WATCH_CHANGE(int, "rename", to, ds_fs_rename(inner, from, to));
}

static inline int watch_link(struct ds_fs *fs, const char *from, const char *to)
{
    WATCH_CHANGE(int, "link", to, ds_fs_link(inner, from, to));
}

static inline int watch_unlink(struct ds_fs *fs, const char *path)
{
    WATCH_CHANGE(int, "unlink", path, ds_fs_unlink(inner, path));
}

static inline int watch_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    WATCH_CHANGE(int, "mkdir", path, ds_fs_mkdir(inner, path, mode));
}

static inline int watch_rmdir(struct ds_fs *fs, const char *path)
{
    WATCH_CHANGE(int, "rmdir", path, ds_fs_rmdir(inner, path));
}

static inline int watch_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    WATCH_CALL("stat", path, ds_fs_stat(inner, path, out));
}

static inline int watch_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    WATCH_CALL("fstat", watch_path(fs, file), ds_fs_fstat(inner, file, out));
}

static inline int watch_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    struct watch_fs *watch = watch_of(fs);
    const int code = watch_begin(fs, "readdir", path);
    const int got = code != 0 ? code : ds_fs_readdir(watch->inner, path, names, count);

    if (got == 0 && watch->hides && watch->hides(watch->user, path))
        *count = 0;
    return got;
}

static inline int watch_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    WATCH_CALL("statvfs", path, ds_fs_statvfs(inner, path, out));
}

static inline int watch_direct_align(struct ds_fs *fs, int file)
{
    WATCH_CALL("direct_align", watch_path(fs, file), ds_fs_direct_align(inner, file));
}

static const struct ds_fs_ops watch_ops = {
    .name = "watch",
    .open = watch_open,
    .close = watch_close,
    .pread = watch_pread,
    .pwrite = watch_pwrite,
    .fallocate = watch_fallocate,
    .truncate = watch_truncate,
    .fsync = watch_fsync,
    .fsync_dir = watch_fsync_dir,
    .rename = watch_rename,
    .link = watch_link,
    .unlink = watch_unlink,
    .mkdir = watch_mkdir,
    .rmdir = watch_rmdir,
    .stat = watch_stat,
    .fstat = watch_fstat,
    .readdir = watch_readdir,
    .statvfs = watch_statvfs,
    .direct_align = watch_direct_align,
};

#endif
