/* sharing_disk.h - the real disk, where files share blocks whether its file system can or not: clones are copies. A test may
 * have them fail, or one that is made of a file of states be of other bytes. */
#ifndef DSTRAIN_TEST_SHARING_DISK_H
#define DSTRAIN_TEST_SHARING_DISK_H

#include "dstrain/fs.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    _Atomic int refuses; /* -errno, of all, or of those from number `refuses_at` on */
    _Atomic uint64_t refuses_at;
    _Atomic uint64_t
        flips_at; /* which one of files of states, 1-based, is of other bytes; 0: none */
    _Atomic int renew_refuses;              /* -errno */
    _Atomic uint64_t clones, frozen, bytes; /* frozen: clones of files of states */
} sharing;

static inline int sharing_is_of_states(int file)
{
    char link[64], path[4096];

    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t bytes = readlink(link, path, sizeof path - 1);
    path[bytes > 0 ? bytes : 0] = '\0';
    return strstr(path, ".states") && !strstr(path, ".still");
}

static inline int sharing_copy(struct ds_fs *fs, int from, uint64_t from_offset, int to,
                               uint64_t to_offset, uint64_t bytes)
{
    const int is_frozen = sharing_is_of_states(from);
    uint8_t *copy = aligned_alloc(DS_FS_DIRECT_ALIGN, bytes);
    int code = copy ? ds_fs_read_all(fs, from, copy, bytes, from_offset) : -ENOMEM;

    if (code == 0 && is_frozen && ++sharing.frozen == sharing.flips_at)
        copy[bytes * (sharing.flips_at % 7 * 2 + 1) / 16] ^= 4;
    if (code == 0)
        code = ds_fs_write_all(fs, to, copy, bytes, to_offset);
    free(copy);
    sharing.bytes += bytes;
    return code;
}

static inline int sharing_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to,
                                uint64_t to_offset, uint64_t bytes)
{
    const uint64_t number = ++sharing.clones;

    if (bytes == 0 || (from_offset | to_offset | bytes) % DS_FS_DIRECT_ALIGN != 0)
        return -EINVAL;
    if (sharing.refuses != 0 && number >= sharing.refuses_at)
        return sharing.refuses;
    return sharing_copy(fs, from, from_offset, to, to_offset, bytes);
}

static inline int sharing_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes)
{
    return sharing.renew_refuses ? sharing.renew_refuses
                                 : ds_fs_posix()->ops->renew(fs, file, offset, bytes);
}

static inline struct ds_fs *sharing_disk(void)
{
    static struct ds_fs_ops ops;
    static struct ds_fs fs = {&ops};

    ops = *ds_fs_posix()->ops;
    ops.clone = sharing_clone;
    ops.renew = sharing_renew;
    return &fs;
}

#endif
