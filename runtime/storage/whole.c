/* whole.c - write beside, make durable, rename, make the name durable. */
#include "whole.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *whole_path(const char *first, const char *second, const char *third)
{
    char *joined;

    return asprintf(&joined, "%s%s%s", first, second, third) < 0 ? NULL : joined;
}

static void whole_fini(struct whole_file *whole)
{
    if (whole->file >= 0)
        (void)ds_fs_close(whole->fs, whole->file);
    free(whole->path);
    free(whole->tmp);
    *whole = (struct whole_file){.file = -1};
}

ds_status whole_begin(struct whole_file *whole, struct ds_fs *fs, const char *path)
{
    ds_status st = DS_OK;

    *whole = (struct whole_file){.file = -1, .fs = fs};
    whole->path = strdup(path);
    whole->tmp = whole_path(path, ".tmp", "");
    if (!whole->path || !whole->tmp) {
        st = ds_fail(DS_ERR_NO_MEMORY, "no memory to write %s", path);
    } else {
        whole->file = ds_fs_open(fs, whole->tmp,
                                 DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE | DS_FS_TRUNCATE, 0644);
        if (whole->file < 0)
            st = ds_fail(DS_ERR_IO, "create %s: %s", whole->tmp, strerror(-whole->file));
    }
    if (st != DS_OK)
        whole_fini(whole);
    return st;
}

ds_status whole_commit(struct whole_file *whole)
{
    ds_status st = DS_OK;
    const char *doing = "fsync";
    int code = ds_fs_fsync(whole->fs, whole->file);

    if (code == 0) {
        doing = "close";
        code = ds_fs_close(whole->fs, whole->file);
        whole->file = -1;
    }
    if (code == 0) {
        doing = "rename";
        code = ds_fs_rename(whole->fs, whole->tmp, whole->path);
    }
    if (code != 0) {
        st = ds_fail(DS_ERR_IO, "%s %s: %s", doing, whole->tmp, strerror(-code));
        whole_abandon(whole);
        return st;
    }
    code = ds_fs_fsync_parent(whole->fs, whole->path);
    if (code != 0)
        st = ds_fail(DS_ERR_IO, "fsync of the directory of %s: %s", whole->path, strerror(-code));
    whole_fini(whole);
    return st;
}

void whole_abandon(struct whole_file *whole)
{
    if (!whole->tmp)
        return;
    if (whole->file >= 0)
        (void)ds_fs_close(whole->fs, whole->file); /* the failure that led here has been told */
    whole->file = -1;
    (void)ds_fs_unlink(whole->fs, whole->tmp);
    whole_fini(whole);
}
