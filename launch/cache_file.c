/* cache_file.c - see cache_file.h. */
#include "cache_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int find_folder(char *to, size_t bytes)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = 0;

    if (cache && cache[0] == '/')
        length = snprintf(to, bytes, "%s/dstrain", cache);
    else if (home && home[0] == '/')
        length = snprintf(to, bytes, "%s/.cache/dstrain", home);
    return length > 0 && (size_t)length < bytes;
}

int ds_cache_path(const char *name, char *to, size_t bytes)
{
    char folder[DS_CACHE_PATH_BYTES];
    int length;

    if (!find_folder(folder, sizeof folder))
        return 0;
    length = snprintf(to, bytes, "%s/%s", folder, name);
    return length > 0 && (size_t)length < bytes;
}

size_t ds_cache_read(struct ds_fs *fs, const char *name, void *to, size_t room)
{
    char path[DS_CACHE_PATH_BYTES];
    struct ds_fs_stat stat;
    size_t bytes = 0;
    int file;

    if (!ds_cache_path(name, path, sizeof path))
        return 0;
    file = ds_fs_open(fs, path, DS_FS_READ, 0);
    if (file < 0)
        return 0;
    if (ds_fs_fstat(fs, file, &stat) == 0 && stat.bytes <= room &&
        ds_fs_read_all(fs, file, to, (size_t)stat.bytes, 0) == 0)
        bytes = (size_t)stat.bytes;
    (void)ds_fs_close(fs, file);
    return bytes;
}

static int write_aside(struct ds_fs *fs, const char *aside, const void *from, size_t bytes)
{
    const int file = ds_fs_open(fs, aside, DS_FS_WRITE | DS_FS_CREATE | DS_FS_TRUNCATE, 0644);
    int code = file < 0 ? file : ds_fs_write_all(fs, file, from, bytes, 0);

    if (file >= 0 && code == 0)
        code = ds_fs_fsync(fs, file);
    if (file >= 0) {
        const int closed = ds_fs_close(fs, file);
        code = code ? code : closed;
    }
    return code;
}

/* Other runs may write the same file: each writes its own aside, and a rename puts it there whole. */
void ds_cache_write(struct ds_fs *fs, const char *name, const void *from, size_t bytes,
                    const char *without_it)
{
    char folder[DS_CACHE_PATH_BYTES], path[DS_CACHE_PATH_BYTES], aside[DS_CACHE_PATH_BYTES + 32];
    int code;

    if (!find_folder(folder, sizeof folder) || !ds_cache_path(name, path, sizeof path))
        return;
    snprintf(aside, sizeof aside, "%s.%d.tmp", path, (int)getpid());
    code = ds_fs_mkdirs(fs, folder, 0755);
    if (code == 0)
        code = write_aside(fs, aside, from, bytes);
    if (code == 0)
        code = ds_fs_rename(fs, aside, path);
    if (code == 0)
        return;
    (void)ds_fs_unlink(fs, aside);
    ds_warn("%s: %s; %s", path, strerror(-code), without_it);
}
