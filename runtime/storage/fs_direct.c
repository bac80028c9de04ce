/* fs_direct.c - new files around the page cache, where that works. Three ways in which it does not: open refuses, the
 * kernel tells that the file system wants other blocks than ours, or, where nobody tells, a first write is refused
 * (some network and user-space file systems take the flag and not the block). */
#include "dstrain/fs.h"

#include <errno.h>

#define NEW_FLAGS (DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE)

static const _Alignas(DS_FS_DIRECT_ALIGN) uint8_t no_bytes[DS_FS_DIRECT_ALIGN];

/* Nobody tells, so a block is written and cut off again. -EINVAL: refused. */
static int try_block(struct ds_fs *fs, int file)
{
    const int code = ds_fs_write_all(fs, file, no_bytes, sizeof no_bytes, 0);

    return code == 0 ? ds_fs_truncate(fs, file, 0) : code;
}

/* 0: direct. 1: not here, for the reason *why. Otherwise -errno. */
static int refuses(struct ds_fs *fs, int file, const char **why)
{
    int align = ds_fs_direct_align(fs, file);

    *why = "this file system has no O_DIRECT";
    if (align == -ENOTSUP) {
        align = try_block(fs, file);
        *why = "writes with O_DIRECT are refused";
    }
    if (align == -EINVAL)
        return 1;
    if (align < 0)
        return align;
    *why = align > 0 && DS_FS_DIRECT_ALIGN % (uint32_t)align
               ? "O_DIRECT wants larger blocks than 4 KiB here"
               : NULL;
    return *why != NULL;
}

/* Where O_DIRECT is refused the file may have been made all the same. */
static int create_again(struct ds_fs *fs, const char *path, uint32_t mode)
{
    const int code = ds_fs_unlink(fs, path);

    return code == 0 || code == -ENOENT ? ds_fs_open(fs, path, NEW_FLAGS, mode) : code;
}

int ds_fs_create_direct(struct ds_fs *fs, const char *path, uint32_t mode, const char **why)
{
    const int file = ds_fs_open(fs, path, NEW_FLAGS | DS_FS_DIRECT, mode);

    *why = "O_DIRECT is refused";
    if (file == -EINVAL)
        return create_again(fs, path, mode);
    if (file < 0)
        return file;
    const int code = refuses(fs, file, why);
    if (code == 0)
        return file;
    (void)ds_fs_close(fs, file);
    if (code > 0)
        return create_again(fs, path, mode);
    (void)ds_fs_unlink(fs, path);
    return code;
}

int ds_fs_create_nameless(struct ds_fs *fs, const char *path, uint32_t mode, const char **why)
{
    int code = ds_fs_unlink(fs, path);
    const int file = code == 0 || code == -ENOENT ? ds_fs_create_direct(fs, path, mode, why) : code;

    if (file < 0)
        return file;
    code = ds_fs_unlink(fs, path);
    if (code != 0)
        (void)ds_fs_close(fs, file);
    return code != 0 ? code : file;
}
