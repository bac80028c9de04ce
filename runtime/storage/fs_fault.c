/* fs_fault.c - a file system in which one call fails, for the loops that let the 1st, 2nd, 3rd ... call
 * of some work fail until all of it succeeds. Wraps another one; calls are counted over all threads. A
 * write that fails has done its first half, as a full disk or a crash would leave it; anything else has
 * done nothing. close and unmap are passed on without counting: they are how cleanup ends. */
#include "dstrain/fs.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

struct fault {
    struct ds_fs fs; /* first */
    struct ds_fs *inner;
    uint64_t fail_at;
    _Atomic uint64_t calls;
};

static struct ds_fs *inner_of(struct ds_fs *fs)
{
    return ((struct fault *)fs)->inner;
}

/* Counts a call; true: this is the one. */
static int fails(struct ds_fs *fs)
{
    struct fault *fault = (struct fault *)fs;

    return atomic_fetch_add(&fault->calls, 1) + 1 == fault->fail_at;
}

static int fault_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    return fails(fs) ? -EIO : ds_fs_open(inner_of(fs), path, flags, mode);
}

static int fault_close(struct ds_fs *fs, int file)
{
    return ds_fs_close(inner_of(fs), file);
}

static int64_t fault_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    return fails(fs) ? -EIO : ds_fs_pread(inner_of(fs), file, to, bytes, offset);
}

static int64_t fault_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                            uint64_t offset)
{
    if (!fails(fs))
        return ds_fs_pwrite(inner_of(fs), file, from, bytes, offset);
    (void)ds_fs_pwrite(inner_of(fs), file, from, bytes / 2, offset);
    return -EIO;
}

static int64_t fault_append(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    if (!fails(fs))
        return ds_fs_append(inner_of(fs), file, from, bytes);
    (void)ds_fs_append(inner_of(fs), file, from, bytes / 2);
    return -EIO;
}

static int fault_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    return fails(fs) ? -EIO : ds_fs_fallocate(inner_of(fs), file, bytes);
}

static int fault_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    return fails(fs) ? -EIO : ds_fs_truncate(inner_of(fs), file, bytes);
}

static int fault_fsync(struct ds_fs *fs, int file)
{
    return fails(fs) ? -EIO : ds_fs_fsync(inner_of(fs), file);
}

static int fault_fsync_dir(struct ds_fs *fs, const char *path)
{
    return fails(fs) ? -EIO : ds_fs_fsync_dir(inner_of(fs), path);
}

static int fault_rename(struct ds_fs *fs, const char *from, const char *to)
{
    return fails(fs) ? -EIO : ds_fs_rename(inner_of(fs), from, to);
}

static int fault_link(struct ds_fs *fs, const char *from, const char *to)
{
    return fails(fs) ? -EIO : ds_fs_link(inner_of(fs), from, to);
}

static int fault_unlink(struct ds_fs *fs, const char *path)
{
    return fails(fs) ? -EIO : ds_fs_unlink(inner_of(fs), path);
}

static int fault_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    return fails(fs) ? -EIO : ds_fs_mkdir(inner_of(fs), path, mode);
}

static int fault_rmdir(struct ds_fs *fs, const char *path)
{
    return fails(fs) ? -EIO : ds_fs_rmdir(inner_of(fs), path);
}

static int fault_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    return fails(fs) ? -EIO : ds_fs_stat(inner_of(fs), path, out);
}

static int fault_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    return fails(fs) ? -EIO : ds_fs_fstat(inner_of(fs), file, out);
}

static int fault_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    return fails(fs) ? -EIO : ds_fs_readdir(inner_of(fs), path, names, count);
}

static int fault_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    return fails(fs) ? -EIO : ds_fs_statvfs(inner_of(fs), path, out);
}

static int fault_map(struct ds_fs *fs, int file, size_t bytes, const void **at)
{
    return fails(fs) ? -EIO : ds_fs_map(inner_of(fs), file, bytes, at);
}

static void fault_unmap(struct ds_fs *fs, const void *at, size_t bytes)
{
    ds_fs_unmap(inner_of(fs), at, bytes);
}

static int fault_lock(struct ds_fs *fs, int file)
{
    return fails(fs) ? -EIO : ds_fs_lock(inner_of(fs), file);
}

static int fault_direct_align(struct ds_fs *fs, int file)
{
    return fails(fs) ? -EIO : ds_fs_direct_align(inner_of(fs), file);
}

static int fault_drop_cache(struct ds_fs *fs, int file)
{
    return fails(fs) ? -EIO : ds_fs_drop_cache(inner_of(fs), file);
}

static int fault_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to, uint64_t to_offset,
                       uint64_t bytes)
{
    return fails(fs) ? -EIO : ds_fs_clone(inner_of(fs), from, from_offset, to, to_offset, bytes);
}

static int fault_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes)
{
    return fails(fs) ? -EIO : ds_fs_renew(inner_of(fs), file, offset, bytes);
}

static const char *fault_warning(struct ds_fs *fs, const char *path)
{
    return ds_fs_warning(inner_of(fs), path);
}

static const struct ds_fs_ops fault_ops = {
    /* no `native`: io_uring would go around the counting */
    .name = "fault",
    .open = fault_open,
    .close = fault_close,
    .pread = fault_pread,
    .pwrite = fault_pwrite,
    .append = fault_append,
    .fallocate = fault_fallocate,
    .truncate = fault_truncate,
    .fsync = fault_fsync,
    .fsync_dir = fault_fsync_dir,
    .rename = fault_rename,
    .link = fault_link,
    .unlink = fault_unlink,
    .mkdir = fault_mkdir,
    .rmdir = fault_rmdir,
    .stat = fault_stat,
    .fstat = fault_fstat,
    .readdir = fault_readdir,
    .statvfs = fault_statvfs,
    .map = fault_map,
    .unmap = fault_unmap,
    .lock = fault_lock,
    .direct_align = fault_direct_align,
    .warning = fault_warning,
    .drop_cache = fault_drop_cache,
    .clone = fault_clone,
    .renew = fault_renew,
};

ds_status ds_fs_fault_open(struct ds_fs *inner, uint64_t fail_at, struct ds_fs **out)
{
    struct fault *fault = calloc(1, sizeof *fault);

    if (!fault)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a faulty file system");
    fault->fs.ops = &fault_ops;
    fault->inner = inner;
    fault->fail_at = fail_at;
    *out = &fault->fs;
    return DS_OK;
}

int ds_fs_fault_hit(const struct ds_fs *fs)
{
    struct fault *fault = (struct fault *)fs;

    DS_ASSERT(fs->ops == &fault_ops);
    return fault->fail_at != 0 && atomic_load(&fault->calls) >= fault->fail_at;
}

void ds_fs_fault_close(struct ds_fs *fs)
{
    free(fs); /* the struct begins with it */
}
