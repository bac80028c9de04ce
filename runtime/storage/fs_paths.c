/* fs_paths.c - directories on the way to a path: which are missing, which may go again, and whether one path lies in the
 * other, by name or by what names lead to. */
#include "dstrain/fs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 16384

/* ---- made, and taken away again */

int ds_fs_first_missing(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    struct ds_fs_stat stat;

    for (const char *at = path;; at++) {
        if (*at != '\0' && (*at != '/' || at == path))
            continue;
        if (snprintf(to, bytes, "%.*s", (int)(at - path), path) >= (int)bytes)
            return -ENAMETOOLONG;
        const int code = ds_fs_stat(fs, to, &stat);
        if (code < 0)
            return code == -ENOENT ? 0 : code;
        if (*at == '\0')
            break;
    }
    to[0] = '\0';
    return 0;
}

void ds_fs_remove_empty(struct ds_fs *fs, const char *dir, const char *top)
{
    char path[PATH_BYTES];
    char *end;
    int code;

    snprintf(path, sizeof path, "%s", dir);
    do {
        code = ds_fs_rmdir(fs, path); /* not there: the same one, with a slash more, was removed */
        end = strrchr(path, '/');
        if ((code < 0 && code != -ENOENT) || strcmp(path, top) == 0 || !end)
            return;
        *end = '\0';
    } while (strlen(path) >= strlen(top));
}

/* ---- one in the other */

/* Behind slashes and "." */
static const char *skip_nothing(const char *path)
{
    while (path[0] == '/' || (path[0] == '.' && (path[1] == '/' || path[1] == '\0')))
        path++;
    return path;
}

int ds_fs_is_named_within(const char *path, const char *folder)
{
    for (;;) {
        path = skip_nothing(path);
        folder = skip_nothing(folder);
        const size_t bytes = strcspn(folder, "/");

        if (bytes == 0)
            return 1;
        if (strcspn(path, "/") != bytes || memcmp(path, folder, bytes) != 0)
            return 0;
        path += bytes;
        folder += bytes;
    }
}

/* How far a path is there: the last directory that is, and what is behind it. */
struct reach {
    char there[PATH_BYTES];
    struct ds_fs_stat stat;
    const char *rest; /* of the path; "": all is there */
};

/* 0: nobody can tell */
static int find_reach(struct ds_fs *fs, const char *path, struct reach *out)
{
    char missing[PATH_BYTES];

    if (strlen(path) >= sizeof missing / 2 ||
        ds_fs_first_missing(fs, path, missing, sizeof missing) != 0)
        return 0;
    if (missing[0] == '\0') {
        snprintf(out->there, sizeof out->there, "%s", path);
        out->rest = "";
    } else {
        const char *slash = strrchr(missing, '/');

        snprintf(out->there, sizeof out->there, "%.*s", slash ? (int)(slash - missing) + 1 : 1,
                 slash ? missing : ".");
        out->rest = path + (slash ? slash - missing + 1 : 0);
    }
    return ds_fs_stat(fs, out->there, &out->stat) == 0 &&
           (out->stat.device != 0 || out->stat.inode != 0);
}

static int is_same(const struct ds_fs_stat *a, const struct ds_fs_stat *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* From a directory up to the root, by what ".." leads to. */
static int climbs_to(struct ds_fs *fs, struct reach *from, const struct ds_fs_stat *to)
{
    struct ds_fs_stat at = from->stat, above;
    size_t used = strlen(from->there);

    while (!is_same(&at, to)) {
        if (used + 4 > sizeof from->there)
            return 0;
        used += (size_t)snprintf(from->there + used, sizeof from->there - used, "/..");
        if (ds_fs_stat(fs, from->there, &above) != 0 || is_same(&above, &at))
            return 0;
        at = above;
    }
    return 1;
}

int ds_fs_is_within(struct ds_fs *fs, const char *path, const char *folder)
{
    struct reach inner, outer;

    if (!find_reach(fs, path, &inner) || !find_reach(fs, folder, &outer))
        return 0;
    if (outer.rest[0] == '\0')
        return climbs_to(fs, &inner, &outer.stat);
    return is_same(&inner.stat, &outer.stat) && ds_fs_is_named_within(inner.rest, outer.rest);
}
