/* fs.h - everything that names, creates or makes durable. Backends: posix is the disk, sim a disk in
 * memory that can lose what was not synced, fault wraps either and fails the n-th call. Calls return
 * 0 (or a count, or a descriptor) or -errno: whether EEXIST is a failure is for the caller to decide
 * and to log. Safe for several threads unless a backend says otherwise. local: everything here; ranks that
 * share a disk order their calls themselves. */
#ifndef DSTRAIN_FS_H
#define DSTRAIN_FS_H

#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

enum ds_fs_open_flag {
    DS_FS_READ = 1u << 0,
    DS_FS_WRITE = 1u << 1,
    DS_FS_CREATE = 1u << 2,    /* make it if it is not there */
    DS_FS_EXCLUSIVE = 1u << 3, /* with CREATE: -EEXIST if it is there */
    DS_FS_TRUNCATE = 1u << 4,
    DS_FS_APPEND = 1u << 5,
    DS_FS_DIRECT = 1u << 6, /* O_DIRECT; -EINVAL where refused */
    DS_FS_REGULAR =
        1u
        << 7, /* -EISDIR or -EMEDIUMTYPE for what is no regular file: nobody waits for a pipe's writer */
    DS_FS_NO_LINK =
        1u << 8, /* -ELOOP where the path itself, not one of its directories, is a symbolic link */
};

/* Memory, offsets and lengths of direct files are multiples of it. */
#define DS_FS_DIRECT_ALIGN 4096u

struct ds_fs_stat {
    uint64_t bytes;
    uint64_t mtime_ns;
    uint32_t owner;
    uint32_t mode; /* permission bits */
    int is_directory, is_regular;
    uint64_t device, inode; /* both the same: one file; both 0: nobody can tell */
};

struct ds_fs_space {
    uint64_t total_bytes, free_bytes;
};

struct ds_fs;

struct ds_fs_ops {
    const char *name;
    int (*open)(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode); /* descriptor */
    int (*close)(struct ds_fs *fs, int file);
    int64_t (*pread)(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset);
    int64_t (*pwrite)(struct ds_fs *fs, int file, const void *from, size_t bytes, uint64_t offset);
    int64_t (*append)(struct ds_fs *fs, int file, const void *from, size_t bytes); /* one write() */
    int (*fallocate)(struct ds_fs *fs, int file, uint64_t bytes);
    int (*truncate)(struct ds_fs *fs, int file, uint64_t bytes);
    int (*fsync)(struct ds_fs *fs, int file);
    int (*fsync_dir)(struct ds_fs *fs, const char *path);
    int (*rename)(struct ds_fs *fs, const char *from, const char *to);
    int (*link)(struct ds_fs *fs, const char *from, const char *to);
    int (*unlink)(struct ds_fs *fs, const char *path);
    int (*mkdir)(struct ds_fs *fs, const char *path, uint32_t mode);
    int (*rmdir)(struct ds_fs *fs, const char *path);
    int (*stat)(struct ds_fs *fs, const char *path, struct ds_fs_stat *out);
    int (*fstat)(struct ds_fs *fs, int file, struct ds_fs_stat *out);
    /* names in a directory without . and .., sorted; one malloc'ed block, caller frees *names */
    int (*readdir)(struct ds_fs *fs, const char *path, char ***names, size_t *count);
    int (*statvfs)(struct ds_fs *fs, const char *path, struct ds_fs_space *out);
    int (*map)(struct ds_fs *fs, int file, size_t bytes, const void **at); /* read-only */
    void (*unmap)(struct ds_fs *fs, const void *at, size_t bytes);
    /* the kernel's descriptor behind `file`, for io_uring; -ENOTSUP: none */
    int (*native)(struct ds_fs *fs, int file);
    /* the file, open for writing, belongs to this descriptor until it is closed or its process ends;
     * -EAGAIN: to another one; -ENOTSUP: nobody can tell here. Only who asks is kept out. */
    int (*lock)(struct ds_fs *fs, int file);
    /* what memory, offsets and lengths must be multiples of for O_DIRECT; -EINVAL: it cannot be had for this file;
     * -ENOTSUP: nobody can tell here */
    int (*direct_align)(struct ds_fs *fs, int file);
    /* what lies in the page cache of this file and is durable may go from there; NULL: nothing to do */
    int (*drop_cache)(struct ds_fs *fs, int file);
    /* bytes of one file are those of another from here on, whatever is written to either later: the file system has both
     * refer to the same blocks, and nothing is copied. All numbers are multiples of DS_FS_DIRECT_ALIGN; a fsync of `to`
     * makes it last. -EOPNOTSUPP, as without this call, -EXDEV, -EINVAL: not here. */
    int (*clone)(struct ds_fs *fs, int from, uint64_t from_offset, int to, uint64_t to_offset,
                 uint64_t bytes);
    /* these bytes of the file are zeros from here on, and have room of their own, whatever shared it before. After a failure
     * they may have none. NULL: -EOPNOTSUPP */
    int (*renew)(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes);
    /* what a person should know of where `path` lies: "memory", "a network mount"; NULL: nothing, as without this call */
    const char *(*warning)(struct ds_fs *fs, const char *path);
};

struct ds_fs { /* the first member of a backend's own struct */
    const struct ds_fs_ops *ops;
};

struct ds_fs *ds_fs_posix(void); /* shared, never closed */

DS_CHECKED ds_status ds_fs_sim_open(struct ds_fs **out);
void ds_fs_sim_close(struct ds_fs *sim);
/* Lose power: what was not synced may be gone. Each unsynced write and name change survives or not
 * by `seed`; with seed 0 nothing of it does, with seed 1 everything. Open descriptors die. */
void ds_fs_sim_crash(struct ds_fs *sim, uint64_t seed);
/* The same with every case chosen: the i-th that is asked survives where bit i of `choices` is set, beyond 64 none
 * does. How many were asked: with all bits set, as many as there can be. */
uint64_t ds_fs_sim_crash_by(struct ds_fs *sim, uint64_t choices);
/* A second disk with the same names and bytes, and the same that is not synced; no open files. */
DS_CHECKED ds_status ds_fs_sim_copy(struct ds_fs *sim, struct ds_fs **out);
size_t ds_fs_sim_open_files(const struct ds_fs *sim); /* leaks show here */

/* Wraps `inner` and fails call number `fail_at` (1-based, counted over all calls but close and unmap)
 * with -EIO, half of it done where it is a write. 0: never. */
DS_CHECKED ds_status ds_fs_fault_open(struct ds_fs *inner, uint64_t fail_at, struct ds_fs **out);
int ds_fs_fault_hit(const struct ds_fs *fault); /* was the call reached */
void ds_fs_fault_close(struct ds_fs *fault);

/* ---- what callers use: thin wrappers, and a few whole-file habits built on them */
int ds_fs_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode);
int ds_fs_close(struct ds_fs *fs, int file);
int64_t ds_fs_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset);
int64_t ds_fs_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes, uint64_t offset);
int64_t ds_fs_append(struct ds_fs *fs, int file, const void *from, size_t bytes);
int ds_fs_fallocate(struct ds_fs *fs, int file, uint64_t bytes);
int ds_fs_truncate(struct ds_fs *fs, int file, uint64_t bytes);
int ds_fs_fsync(struct ds_fs *fs, int file);
int ds_fs_fsync_dir(struct ds_fs *fs, const char *path);
int ds_fs_rename(struct ds_fs *fs, const char *from, const char *to);
int ds_fs_link(struct ds_fs *fs, const char *from, const char *to);
int ds_fs_unlink(struct ds_fs *fs, const char *path);
int ds_fs_mkdir(struct ds_fs *fs, const char *path, uint32_t mode);
int ds_fs_rmdir(struct ds_fs *fs, const char *path);
int ds_fs_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out);
int ds_fs_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out);
int ds_fs_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count);
int ds_fs_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out);
int ds_fs_map(struct ds_fs *fs, int file, size_t bytes, const void **at);
void ds_fs_unmap(struct ds_fs *fs, const void *at, size_t bytes);
int ds_fs_native(struct ds_fs *fs, int file);
int ds_fs_lock(struct ds_fs *fs, int file);
int ds_fs_direct_align(struct ds_fs *fs, int file);
int ds_fs_drop_cache(struct ds_fs *fs, int file);
int ds_fs_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to, uint64_t to_offset,
                uint64_t bytes);
int ds_fs_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes);
const char *ds_fs_warning(struct ds_fs *fs, const char *path);

/* pure: what -errno of ds_fs_open says to a person */
const char *ds_fs_why(int code);
/* A new file to read and write, DS_FS_DIRECT where that works with blocks of DS_FS_DIRECT_ALIGN: then *why is NULL,
 * else the reason why the page cache is in between. Descriptor or -errno; -EEXIST: it is there. */
int ds_fs_create_direct(struct ds_fs *fs, const char *path, uint32_t mode, const char **why);
/* The same without a name: gone when it is closed, however that comes. `path` is its name for a moment; one that bears it
 * was left by somebody who was killed just then. */
int ds_fs_create_nameless(struct ds_fs *fs, const char *path, uint32_t mode, const char **why);
/* all of `bytes` or -errno (-EIO at an early end of file); loops over short counts */
int ds_fs_read_all(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset);
int ds_fs_write_all(struct ds_fs *fs, int file, const void *from, size_t bytes, uint64_t offset);
/* local: the directory that holds `path` (which need not be there): its names last from here on */
int ds_fs_fsync_parent(struct ds_fs *fs, const char *path);
/* parents too; there is fine */
int ds_fs_mkdirs(struct ds_fs *fs, const char *path, uint32_t mode);
/* local: the outermost directory of a path that is missing, to `to`: what has to go again if the rest fails. "": none is */
int ds_fs_first_missing(struct ds_fs *fs, const char *path, char *to, size_t bytes);
/* local: goes from `dir` up to `top`, as far as nothing is in them */
void ds_fs_remove_empty(struct ds_fs *fs, const char *dir, const char *top);
/* pure: by name, is `path` in `folder`, or the same? Both are absolute, or are relative to one directory */
int ds_fs_is_named_within(const char *path, const char *folder);
/* local: the same through links, whether they are there yet or not; 0 where nobody can tell */
int ds_fs_is_within(struct ds_fs *fs, const char *path, const char *folder);
/* local: the whole file with a NUL behind it, malloc'ed; DS_ERR_DATA names the path when it is not
 * there, not readable, not a regular file or larger than `bytes_max`. */
DS_CHECKED ds_status ds_fs_read_file(struct ds_fs *fs, const char *path, size_t bytes_max,
                                     char **text, size_t *bytes);
/* local: the same of a file that has its name from us: DS_ERR_CORRUPT where a link or no regular file has it. */
DS_CHECKED ds_status ds_fs_read_own_file(struct ds_fs *fs, const char *path, size_t bytes_max,
                                         char **text, size_t *bytes);
/* local: write `path`.tmp, fsync, rename, fsync the directory: the file is whole or absent; a failure
 * leaves no .tmp. */
DS_CHECKED ds_status ds_fs_write_file(struct ds_fs *fs, const char *path, const void *data,
                                      size_t bytes);
/* local: remove a file or a directory with everything in it; absent is fine */
int ds_fs_remove_tree(struct ds_fs *fs, const char *path);

#endif
