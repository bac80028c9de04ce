/* fs_row.h - a file system under test, and a folder on it: the real disk or the simulated one. */
#ifndef DSTRAIN_FS_ROW_H
#define DSTRAIN_FS_ROW_H

#include "test.h"

#include "dstrain/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct row {
    const char *name;
    struct ds_fs *fs;
    char root[64];
    char path[128]; /* of the last in_root() */
};

static inline int open_row(void **state)
{
    struct row *row = calloc(1, sizeof *row);

    row->name = *state;
    *state = row;
    if (strcmp(row->name, "posix") == 0) {
        row->fs = ds_fs_posix();
        strcpy(row->root, "/tmp/test_fs.XXXXXX");
        return mkdtemp(row->root) ? 0 : -1;
    }
    strcpy(row->root, "/disk");
    return ds_fs_sim_open(&row->fs) == DS_OK ? ds_fs_mkdir(row->fs, row->root, 0755) : -1;
}

static inline int close_row(void **state)
{
    struct row *row = *state;
    int code = ds_fs_remove_tree(row->fs, row->root);
    struct ds_fs_stat stat;

    if (code == 0 && ds_fs_stat(row->fs, row->root, &stat) != -ENOENT)
        code = -1;
    if (strcmp(row->name, "sim") == 0) {
        if (ds_fs_sim_open_files(row->fs) != 0)
            code = -1; /* a test or a helper left a file open */
        ds_fs_sim_close(row->fs);
    }
    free(row);
    return code;
}

static inline const char *in_root(struct row *row, const char *name)
{
    snprintf(row->path, sizeof row->path, "%s/%s", row->root, name);
    return row->path;
}

static inline int open_in(struct row *row, const char *name, uint32_t flags)
{
    return ds_fs_open(row->fs, in_root(row, name), flags, 0644);
}

static inline void put_text(struct row *row, const char *name, const char *text)
{
    assert_ok(ds_fs_write_file(row->fs, in_root(row, name), text, strlen(text)));
}

static inline void assert_text(struct ds_fs *fs, const char *path, const char *wanted)
{
    char *text;
    size_t bytes;

    assert_ok(ds_fs_read_file(fs, path, 1 << 20, &text, &bytes));
    assert_string_equal(text, wanted);
    assert_int_equal(bytes, strlen(wanted));
    free(text);
}

/* The file at `path` is one of the two; returns which. */
static inline int old_or_new(struct ds_fs *fs, const char *path, const char *old, const char *new)
{
    char *text;
    size_t bytes;

    assert_ok(ds_fs_read_file(fs, path, 1 << 20, &text, &bytes));
    int is_new = strcmp(text, new) == 0;
    if (!is_new)
        assert_string_equal(text, old);
    free(text);
    return is_new;
}

/* clang-format off */
#define ROW(test, name) {#test "/" name, test, open_row, close_row, name}
#define FOR_EACH_FS(test) ROW(test, "posix"), ROW(test, "sim")
/* clang-format on */

#endif
