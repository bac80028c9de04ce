// link: storage base
/* One body for the real and the simulated disk; then what only the simulated one can show: which data and
 * names a crash may take, and that whole-file writes lose neither the old file nor the new one. */
#include "test.h"

#include "dstrain/fs.h"

#include <errno.h>
#include <unistd.h>

/* ---- the matrix: a row is a backend, and a folder on it */

struct row {
    const char *name;
    struct ds_fs *fs;
    char root[64];
    char path[128]; /* of the last in_root() */
};

static int open_row(void **state)
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

static int close_row(void **state)
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

static const char *in_root(struct row *row, const char *name)
{
    snprintf(row->path, sizeof row->path, "%s/%s", row->root, name);
    return row->path;
}

static int open_in(struct row *row, const char *name, uint32_t flags)
{
    return ds_fs_open(row->fs, in_root(row, name), flags, 0644);
}

static void put_text(struct row *row, const char *name, const char *text)
{
    assert_ok(ds_fs_write_file(row->fs, in_root(row, name), text, strlen(text)));
}

static void assert_text(struct ds_fs *fs, const char *path, const char *wanted)
{
    char *text;
    size_t bytes;

    assert_ok(ds_fs_read_file(fs, path, 1 << 20, &text, &bytes));
    assert_string_equal(text, wanted);
    assert_int_equal(bytes, strlen(wanted));
    free(text);
}

static void written_bytes_come_back_and_holes_are_zeros(void **state)
{
    struct row *row = *state;
    char got[16];
    int file = open_in(row, "f", DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE);

    assert_true(file >= 0);
    assert_int_equal(ds_fs_pread(row->fs, file, got, 1, 0), 0);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "xyz", 3, 5), 3);
    assert_int_equal(ds_fs_pread(row->fs, file, got, sizeof got, 0), 8);
    assert_memory_equal(got, "\0\0\0\0\0xyz", 8);
    assert_int_equal(ds_fs_pread(row->fs, file, got, sizeof got, 8), 0);
    assert_int_equal(ds_fs_read_all(row->fs, file, got, 8, 0), 0);
    assert_int_equal(ds_fs_read_all(row->fs, file, got, 9, 0), -EIO); /* ends early */
    assert_int_equal(ds_fs_fsync(row->fs, file), 0);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    assert_int_equal(ds_fs_pread(row->fs, file, got, 1, 0), -EBADF);
    assert_int_equal(ds_fs_close(row->fs, file), -EBADF);
}

static void flags_of_open_mean_what_they_say(void **state)
{
    struct row *row = *state;
    struct ds_fs_stat stat;
    char got[8];
    int file;

    assert_int_equal(open_in(row, "f", DS_FS_READ), -ENOENT);
    assert_int_equal(open_in(row, "none/f", DS_FS_WRITE | DS_FS_CREATE), -ENOENT);
    file = open_in(row, "f", DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE);
    assert_true(file >= 0);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "abc", 3, 0), 3);
    assert_int_equal(ds_fs_pread(row->fs, file, got, 1, 0), -EBADF); /* write only */
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    assert_int_equal(open_in(row, "f", DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE), -EEXIST);
    assert_int_equal(open_in(row, "f/g", DS_FS_READ), -ENOTDIR);
    assert_int_equal(ds_fs_open(row->fs, row->root, DS_FS_WRITE, 0), -EISDIR);
    file = open_in(row, "f", DS_FS_READ | DS_FS_CREATE);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "x", 1, 0), -EBADF); /* read only */
    assert_int_equal(ds_fs_fstat(row->fs, file, &stat), 0);
    assert_int_equal(stat.bytes, 3);
    assert_int_equal(stat.mode, 0644);
    assert_true(stat.is_regular && !stat.is_directory);
    assert_int_equal(stat.owner, getuid());
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    file = open_in(row, "f", DS_FS_WRITE | DS_FS_TRUNCATE);
    assert_int_equal(ds_fs_fstat(row->fs, file, &stat), 0);
    assert_int_equal(stat.bytes, 0);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
}

static void append_goes_to_the_end(void **state)
{
    struct row *row = *state;

    put_text(row, "log", "one\n");
    for (int i = 0; i < 2; i++) {
        int file = open_in(row, "log", DS_FS_APPEND | DS_FS_CREATE);

        assert_int_equal(ds_fs_append(row->fs, file, "two\n", 4), 4);
        assert_int_equal(ds_fs_close(row->fs, file), 0);
    }
    assert_text(row->fs, in_root(row, "log"), "one\ntwo\ntwo\n");
}

static void sizes_are_set_as_asked(void **state)
{
    struct row *row = *state;
    struct ds_fs_stat stat;
    int file = open_in(row, "f", DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE);

    assert_int_equal(ds_fs_pwrite(row->fs, file, "abcdef", 6, 0), 6);
    assert_int_equal(ds_fs_fallocate(row->fs, file, 4), 0); /* never shorter */
    assert_int_equal(ds_fs_fallocate(row->fs, file, 0), 0);
    assert_int_equal(ds_fs_fstat(row->fs, file, &stat), 0);
    assert_int_equal(stat.bytes, 6);
    assert_int_equal(ds_fs_fallocate(row->fs, file, 10000), 0);
    assert_int_equal(ds_fs_fstat(row->fs, file, &stat), 0);
    assert_int_equal(stat.bytes, 10000);
    assert_int_equal(ds_fs_truncate(row->fs, file, 3), 0);
    assert_int_equal(ds_fs_truncate(row->fs, file, 5), 0);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    file = open_in(row, "f", DS_FS_READ);
    char got[6];
    assert_int_equal(ds_fs_pread(row->fs, file, got, 6, 0), 5);
    assert_memory_equal(got, "abc\0\0", 5);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
}

static void names_move_link_and_go(void **state)
{
    struct row *row = *state;
    char other[128];

    put_text(row, "a", "a");
    put_text(row, "b", "b");
    strcpy(other, in_root(row, "c"));
    assert_int_equal(ds_fs_link(row->fs, in_root(row, "a"), other), 0);
    assert_int_equal(ds_fs_link(row->fs, in_root(row, "b"), other), -EEXIST);
    assert_int_equal(ds_fs_rename(row->fs, in_root(row, "b"), in_root(row, "b")), 0);
    assert_int_equal(ds_fs_rename(row->fs, in_root(row, "b"), other), 0); /* replaces */
    assert_text(row->fs, other, "b");
    assert_text(row->fs, in_root(row, "a"), "a");
    assert_int_equal(ds_fs_rename(row->fs, in_root(row, "b"), other), -ENOENT);
    assert_int_equal(ds_fs_unlink(row->fs, other), 0);
    assert_int_equal(ds_fs_unlink(row->fs, other), -ENOENT);
    assert_int_equal(ds_fs_unlink(row->fs, row->root), -EISDIR);
    assert_int_equal(ds_fs_rmdir(row->fs, row->root), -ENOTEMPTY);
    assert_int_equal(ds_fs_rmdir(row->fs, in_root(row, "a")), -ENOTDIR);
    assert_int_equal(ds_fs_mkdir(row->fs, other, 0755), 0);
    assert_int_equal(ds_fs_mkdir(row->fs, other, 0755), -EEXIST);
    assert_int_equal(ds_fs_rename(row->fs, in_root(row, "a"), other), -EISDIR);
    assert_int_equal(ds_fs_rename(row->fs, other, in_root(row, "a")), -ENOTDIR);
    assert_int_equal(ds_fs_rename(row->fs, other, in_root(row, "c/d")), -EINVAL);
    assert_int_equal(ds_fs_fsync_dir(row->fs, row->root), 0);
    assert_int_equal(ds_fs_fsync_dir(row->fs, in_root(row, "none")), -ENOENT);
    assert_int_equal(ds_fs_fsync_dir(row->fs, in_root(row, "a")), -ENOTDIR);
}

static void a_directory_lists_its_names_in_order(void **state)
{
    struct row *row = *state;
    static const char *const wanted[] = {"1", "10", "2", "B", "a", "sub"};
    char **names;
    size_t count;

    assert_int_equal(ds_fs_readdir(row->fs, row->root, &names, &count), 0);
    assert_int_equal(count, 0);
    free(names);
    for (size_t i = 5; i-- > 0;)
        put_text(row, wanted[(i * 2) % 5], "");
    assert_int_equal(ds_fs_mkdir(row->fs, in_root(row, "sub"), 0755), 0);
    put_text(row, "sub/inner", "");
    assert_int_equal(ds_fs_readdir(row->fs, row->root, &names, &count), 0);
    assert_int_equal(count, 6);
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(names[i], wanted[i]);
    free(names);
    assert_int_equal(ds_fs_readdir(row->fs, in_root(row, "a"), &names, &count), -ENOTDIR);
    assert_int_equal(ds_fs_readdir(row->fs, in_root(row, "none"), &names, &count), -ENOENT);
}

static void folders_are_made_with_parents_and_removed_with_content(void **state)
{
    struct row *row = *state;
    struct ds_fs_stat stat;

    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "x//y/z/"), 0755), 0);
    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "x/y/z"), 0755), 0);
    assert_int_equal(ds_fs_mkdirs(row->fs, "/", 0755), 0);
    put_text(row, "x/y/f", "text");
    put_text(row, "x/g", "text");
    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "x/y/f"), 0755), -ENOTDIR);
    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "x/y/f/w"), 0755), -ENOTDIR);
    assert_int_equal(ds_fs_stat(row->fs, in_root(row, "x/y/z"), &stat), 0);
    assert_true(stat.is_directory && !stat.is_regular);
    assert_int_equal(ds_fs_remove_tree(row->fs, in_root(row, "x")), 0);
    assert_int_equal(ds_fs_stat(row->fs, in_root(row, "x"), &stat), -ENOENT);
    assert_int_equal(ds_fs_remove_tree(row->fs, in_root(row, "x")), 0);
}

static void removing_a_tree_does_not_follow_links(void **state)
{
    struct row *row = *state;
    char target[128];

    put_text(row, "kept", "text");
    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "tree"), 0755), 0);
    strcpy(target, row->root);
    assert_int_equal(symlink(target, in_root(row, "tree/link")), 0);
    assert_int_equal(ds_fs_remove_tree(row->fs, in_root(row, "tree")), 0);
    assert_text(row->fs, in_root(row, "kept"), "text");
}

static void a_map_shows_the_file(void **state)
{
    struct row *row = *state;
    const void *at;

    put_text(row, "f", "mapped text");
    int file = open_in(row, "f", DS_FS_READ);
    assert_int_equal(ds_fs_map(row->fs, file, 11, &at), 0);
    assert_memory_equal(at, "mapped text", 11);
    ds_fs_unmap(row->fs, at, 11);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
}

static void space_is_told(void **state)
{
    struct row *row = *state;
    struct ds_fs_space space = {0};

    assert_int_equal(ds_fs_statvfs(row->fs, row->root, &space), 0);
    assert_true(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert_int_equal(ds_fs_statvfs(row->fs, in_root(row, "none"), &space), -ENOENT);
}

static void read_file_takes_what_it_may(void **state)
{
    struct row *row = *state;
    char *text, large[5000];
    size_t bytes;

    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    put_text(row, "f", large);
    put_text(row, "empty", "");
    assert_text(row->fs, in_root(row, "f"), large);
    assert_text(row->fs, in_root(row, "empty"), "");
    ds_log.terminal = -1;
    assert_int_equal(ds_fs_read_file(row->fs, in_root(row, "f"), 4998, &text, &bytes), DS_ERR_DATA);
    assert_int_equal(ds_fs_read_file(row->fs, in_root(row, "no"), 9, &text, &bytes), DS_ERR_DATA);
    assert_int_equal(ds_fs_read_file(row->fs, row->root, 9, &text, &bytes), DS_ERR_DATA);
    ds_log.terminal = 2;
}

/* A disk that moves three bytes a call. */
static int64_t short_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    (void)fs;
    return ds_fs_pread(ds_fs_posix(), file, to, bytes < 3 ? bytes : 3, offset);
}

static int64_t short_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                            uint64_t offset)
{
    (void)fs;
    return ds_fs_pwrite(ds_fs_posix(), file, from, bytes < 3 ? bytes : 3, offset);
}

static void short_counts_are_continued(void **state)
{
    struct row *row = *state;
    const struct ds_fs_ops ops = {.name = "short", .pread = short_pread, .pwrite = short_pwrite};
    struct ds_fs fs = {&ops};
    char got[11];
    int file = open_in(row, "f", DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE);

    assert_int_equal(ds_fs_write_all(&fs, file, "hello world", 11, 2), 0);
    assert_int_equal(ds_fs_read_all(&fs, file, got, 11, 2), 0);
    assert_memory_equal(got, "hello world", 11);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
}

/* ---- whole files under faults */

/* The file at `path` is one of the two; returns which. */
static int old_or_new(struct ds_fs *fs, const char *path, const char *old, const char *new)
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

static void assert_no_tmp(struct ds_fs *fs, const char *folder)
{
    char **names;
    size_t count;

    assert_int_equal(ds_fs_readdir(fs, folder, &names, &count), 0);
    for (size_t i = 0; i < count; i++)
        assert_null(strstr(names[i], ".tmp"));
    free(names);
}

/* Fail the 1st, 2nd, 3rd ... call of a write until one meets no fault. */
static void a_failed_write_leaves_the_old_file_or_the_new_one(void **state)
{
    struct row *row = *state;
    ds_status st = DS_ERR_IO;
    uint64_t fail_at;

    ds_log.terminal = -1;
    for (fail_at = 1; st != DS_OK; fail_at++) {
        struct ds_fs *faulty;

        assert_true(fail_at < 100); /* the loop is bounded */
        put_text(row, "f", "the old text");
        assert_ok(ds_fs_fault_open(row->fs, fail_at, &faulty));
        st = ds_fs_write_file(faulty, in_root(row, "f"), "something new", 13);
        assert_int_equal(ds_fs_fault_hit(faulty), st != DS_OK);
        int is_new = old_or_new(row->fs, row->path, "the old text", "something new");
        assert_true(st != DS_OK || is_new);
        assert_no_tmp(row->fs, row->root);
        ds_fs_fault_close(faulty);
    }
    ds_log.terminal = 2;
    assert_int_equal(fail_at,
                     7); /* open, write, fsync, rename, fsync of the directory; then none */
}

static void a_failed_read_gives_nothing(void **state)
{
    struct row *row = *state;
    ds_status st = DS_ERR_IO;
    uint64_t fail_at;

    put_text(row, "f", "text");
    ds_log.terminal = -1;
    for (fail_at = 1; st != DS_OK; fail_at++) {
        struct ds_fs *faulty;
        char *text = NULL;
        size_t bytes;

        assert_true(fail_at < 100);
        assert_ok(ds_fs_fault_open(row->fs, fail_at, &faulty));
        st = ds_fs_read_file(faulty, in_root(row, "f"), 100, &text, &bytes);
        assert_true((st == DS_OK) == (text != NULL));
        free(text);
        ds_fs_fault_close(faulty);
    }
    ds_log.terminal = 2;
    assert_true(fail_at > 3);
}

static void the_nth_call_fails_half_done_and_only_that_one(void **state)
{
    struct row *row = *state;
    struct ds_fs *faulty;

    assert_ok(ds_fs_fault_open(row->fs, 3, &faulty));
    int file = ds_fs_open(faulty, in_root(row, "f"), DS_FS_WRITE | DS_FS_CREATE, 0644);
    assert_int_equal(ds_fs_pwrite(faulty, file, "abcdef", 6, 0), 6);
    assert_int_equal(ds_fs_fault_hit(faulty), 0);
    assert_int_equal(ds_fs_pwrite(faulty, file, "UVWXYZ", 6, 0), -EIO);
    assert_int_equal(ds_fs_fault_hit(faulty), 1);
    assert_int_equal(ds_fs_native(faulty, file), -ENOTSUP);
    assert_int_equal(ds_fs_fsync(faulty, file), 0);
    assert_int_equal(ds_fs_close(faulty, file), 0);
    assert_text(row->fs, row->path, "UVWdef");
    ds_fs_fault_close(faulty);
}

/* ---- the simulated disk after a crash */

static void unsynced_data_is_lost_and_synced_data_stays(void **state)
{
    struct row *row = *state;
    char got[8];
    int file = open_in(row, "f", DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE);

    assert_int_equal(ds_fs_fsync_dir(row->fs, "/"), 0);
    assert_int_equal(ds_fs_fsync_dir(row->fs, row->root), 0);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "kept", 4, 0), 4);
    assert_int_equal(ds_fs_fsync(row->fs, file), 0);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "lost", 4, 2), 4);
    assert_int_equal(ds_fs_pread(row->fs, file, got, 8, 0), 6);
    put_text(row, "other", "was made whole");
    assert_int_equal(ds_fs_unlink(row->fs, in_root(row, "other")), 0); /* not synced: comes back */
    ds_fs_sim_crash(row->fs, 0);
    assert_int_equal(ds_fs_sim_open_files(row->fs), 0);
    int other = open_in(row, "f", DS_FS_READ);
    assert_int_equal(ds_fs_pread(row->fs, file, got, 8, 0), -EBADF); /* descriptors die for good */
    assert_int_equal(ds_fs_close(row->fs, other), 0);
    assert_text(row->fs, in_root(row, "f"), "kept");
    assert_text(row->fs, in_root(row, "other"), "was made whole");
}

static void everything_may_survive_a_crash(void **state)
{
    struct row *row = *state;
    int file = open_in(row, "f", DS_FS_WRITE | DS_FS_CREATE);

    assert_int_equal(ds_fs_pwrite(row->fs, file, "text", 4, 0), 4);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    ds_fs_sim_crash(row->fs, 1);
    assert_text(row->fs, in_root(row, "f"), "text");
}

static void a_name_is_lost_without_a_sync_of_its_folder(void **state)
{
    struct row *row = *state;
    struct ds_fs_stat stat;

    assert_int_equal(ds_fs_fsync_dir(row->fs, "/"), 0);
    int file = open_in(row, "f", DS_FS_WRITE | DS_FS_CREATE);
    assert_int_equal(ds_fs_fsync(row->fs, file), 0);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    ds_fs_sim_crash(row->fs, 0);
    assert_int_equal(ds_fs_stat(row->fs, in_root(row, "f"), &stat), -ENOENT);
    assert_int_equal(ds_fs_stat(row->fs, row->root, &stat), 0);
}

static void a_name_lasts_once_its_parent_is_synced(void **state)
{
    static const char *const spellings[] = {"d", "d/", "d//"};
    struct row *row = *state;
    struct ds_fs_stat stat;
    char path[128];

    assert_int_equal(ds_fs_fsync_parent(row->fs, row->root), 0); /* "/x" lies in "/" */
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        strcpy(path, in_root(row, "d"));
        assert_int_equal(ds_fs_mkdir(row->fs, path, 0755), 0);
        assert_int_equal(ds_fs_fsync_parent(row->fs, in_root(row, spellings[i])), 0);
        ds_fs_sim_crash(row->fs, 0);
        assert_int_equal(ds_fs_stat(row->fs, path, &stat), 0);
        assert_int_equal(ds_fs_rmdir(row->fs, path), 0);
    }
    assert_int_equal(ds_fs_fsync_parent(row->fs, in_root(row, "none/d")), -ENOENT);
    assert_int_equal(ds_fs_fsync_parent(ds_fs_posix(), "no folder in the name"), 0);
}

/* Each half of a write lives its own life: over some seeds all four outcomes are seen. */
static void a_write_may_be_torn(void **state)
{
    struct row *row = *state;
    int seen[4] = {0};

    for (uint64_t seed = 2; seed < 66; seed++) {
        char got[4];

        put_text(row, "f", "abcd");
        assert_int_equal(ds_fs_fsync_dir(row->fs, "/"), 0);
        int file = open_in(row, "f", DS_FS_READ | DS_FS_WRITE);
        assert_int_equal(ds_fs_pwrite(row->fs, file, "WXYZ", 4, 0), 4);
        ds_fs_sim_crash(row->fs, seed);
        file = open_in(row, "f", DS_FS_READ);
        assert_int_equal(ds_fs_pread(row->fs, file, got, 4, 0), 4);
        assert_true(memcmp(got, "ab", 2) == 0 || memcmp(got, "WX", 2) == 0);
        assert_true(memcmp(got + 2, "cd", 2) == 0 || memcmp(got + 2, "YZ", 2) == 0);
        seen[(got[0] == 'W') + 2 * (got[2] == 'Y')]++;
        assert_int_equal(ds_fs_close(row->fs, file), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_true(seen[i] > 0);
}

/* Power fails after any call of a whole-file write, and any part of what was not synced survives. */
static void a_crash_leaves_the_old_file_or_the_new_one(void **state)
{
    struct row *row = *state;
    uint64_t seed = test_seed("a_crash_leaves_the_old_file_or_the_new_one");
    int new_count = 0, old_count = 0;

    assert_int_equal(ds_fs_fsync_dir(row->fs, "/"), 0);
    ds_log.terminal = -1;
    for (uint64_t fail_at = 1; fail_at < 8; fail_at++)
        for (uint64_t i = 0; i < 60; i++) {
            struct ds_fs *faulty;

            put_text(row, "f", "the old text");
            assert_ok(ds_fs_fault_open(row->fs, fail_at, &faulty));
            ds_status st = ds_fs_write_file(faulty, in_root(row, "f"), "something new", 13);
            ds_fs_fault_close(faulty);
            ds_fs_sim_crash(row->fs, i < 2 ? i : seed + 1000 * fail_at + i);
            int is_new = old_or_new(row->fs, row->path, "the old text", "something new");
            assert_true(is_new || st != DS_OK); /* what was reported as done stays done */
            new_count += is_new;
            old_count += !is_new;
        }
    ds_log.terminal = 2;
    assert_true(new_count > 0 && old_count > 0);
}

/* The disk is no use if it does not punish the classic mistake. */
static void a_rename_without_fsync_is_caught(void **state)
{
    struct row *row = *state;
    char tmp[128];
    int broken_count = 0;

    assert_int_equal(ds_fs_fsync_dir(row->fs, "/"), 0);
    strcpy(tmp, in_root(row, "f.tmp"));
    for (uint64_t seed = 0; seed < 40; seed++) {
        char *text;
        size_t bytes;

        put_text(row, "f", "the old text");
        int file = ds_fs_open(row->fs, tmp, DS_FS_WRITE | DS_FS_CREATE, 0644);
        assert_int_equal(ds_fs_pwrite(row->fs, file, "something new", 13, 0), 13);
        assert_int_equal(ds_fs_close(row->fs, file), 0);
        assert_int_equal(ds_fs_rename(row->fs, tmp, in_root(row, "f")), 0);
        assert_int_equal(ds_fs_fsync_dir(row->fs, row->root), 0);
        ds_fs_sim_crash(row->fs, seed);
        assert_ok(ds_fs_read_file(row->fs, in_root(row, "f"), 100, &text, &bytes));
        broken_count += strcmp(text, "the old text") != 0 && strcmp(text, "something new") != 0;
        free(text);
    }
    assert_true(broken_count > 0);
}

/* Names move between folders in any order that was not synced; the tree stays a tree that can be
 * listed and removed. */
/* All that can be told of two small disks is the same. */
static void assert_same_disk(struct ds_fs *a, struct ds_fs *b, const char *path)
{
    char **names[2], inner[256], *text[2];
    size_t count[2], bytes[2];
    struct ds_fs_stat stat;

    assert_int_equal(ds_fs_readdir(a, path, &names[0], &count[0]), 0);
    assert_int_equal(ds_fs_readdir(b, path, &names[1], &count[1]), 0);
    assert_int_equal(count[0], count[1]);
    for (size_t i = 0; i < count[0]; i++) {
        assert_string_equal(names[0][i], names[1][i]);
        snprintf(inner, sizeof inner, "%s/%s", path, names[0][i]);
        assert_int_equal(ds_fs_stat(a, inner, &stat), 0);
        if (stat.is_directory) {
            assert_same_disk(a, b, inner);
            continue;
        }
        assert_ok(ds_fs_read_file(a, inner, 1 << 20, &text[0], &bytes[0]));
        assert_ok(ds_fs_read_file(b, inner, 1 << 20, &text[1], &bytes[1]));
        assert_int_equal(bytes[0], bytes[1]);
        assert_memory_equal(text[0], text[1], bytes[0]);
        free(text[0]);
        free(text[1]);
    }
    free(names[0]);
    free(names[1]);
}

static void write_something(struct row *row)
{
    put_text(row, "kept", "this is synced");
    assert_int_equal(ds_fs_mkdir(row->fs, in_root(row, "sub"), 0755), 0);
    assert_int_equal(ds_fs_rename(row->fs, "/disk/kept", "/disk/sub/moved"), 0);
    int file = open_in(row, "sub/moved", DS_FS_WRITE);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "that is not", 11, 0), 11);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
}

static void a_copy_of_a_disk_crashes_like_the_disk(void **state)
{
    struct row *row = *state;
    struct ds_fs *copy;

    for (uint64_t seed = 0; seed < 20; seed++) {
        write_something(row);
        assert_ok(ds_fs_sim_copy(row->fs, &copy));
        assert_same_disk(row->fs, copy, "/");
        ds_fs_sim_crash(row->fs, seed);
        ds_fs_sim_crash(copy, seed);
        assert_same_disk(row->fs, copy, "/");
        ds_fs_sim_close(copy);
        assert_int_equal(ds_fs_remove_tree(row->fs, row->root), 0);
        assert_int_equal(ds_fs_mkdir(row->fs, row->root, 0755), 0);
    }
}

static void every_case_of_a_crash_can_be_chosen(void **state)
{
    struct row *row = *state;
    struct ds_fs *copy;
    char *text;
    size_t bytes;
    int seen[2] = {0, 0};

    int file = open_in(row, "f", DS_FS_WRITE | DS_FS_CREATE);
    assert_int_equal(ds_fs_fsync_dir(row->fs, "/"), 0);
    assert_int_equal(ds_fs_fsync_dir(row->fs, row->root), 0);
    assert_int_equal(ds_fs_pwrite(row->fs, file, "ab", 2, 0), 2);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    for (uint64_t choices = 0; choices < 4; choices++) {
        assert_ok(ds_fs_sim_copy(row->fs, &copy));
        assert_int_equal(ds_fs_sim_crash_by(copy, choices), 2); /* two halves of one write */
        assert_ok(ds_fs_read_file(copy, row->path, 9, &text, &bytes));
        const char wanted[] = {choices & 1 ? 'a' : '\0', 'b'};
        assert_int_equal(bytes, choices & 2 ? 2 : choices & 1);
        assert_memory_equal(text, wanted, bytes);
        seen[0] += choices & 1;
        seen[1] += bytes == 2;
        free(text);
        ds_fs_sim_close(copy);
    }
    assert_true(seen[0] == 2 && seen[1] == 2);
}

static void any_crash_leaves_a_tree(void **state)
{
    struct row *row = *state;
    uint64_t seed = test_seed("any_crash_leaves_a_tree");

    for (uint64_t i = 0; i < 200; i++) {
        char from[128], to[128];

        for (int step = 0; step < 12; step++) {
            uint64_t mixed = (seed + 100 * i + (uint64_t)step) * 0x9e3779b97f4a7c15u;

            snprintf(from, sizeof from, "%s/%c", row->root, 'a' + (int)(mixed >> 60 & 3));
            snprintf(to, sizeof to, "%s/%c/%c", row->root, 'a' + (int)(mixed >> 56 & 3),
                     'a' + (int)(mixed >> 52 & 3));
            (void)ds_fs_mkdir(row->fs, from, 0755);
            (void)ds_fs_rename(row->fs, from, to);
            if ((mixed >> 40 & 7) == 0)
                (void)ds_fs_fsync_dir(row->fs, from);
            if ((mixed >> 32 & 7) == 0)
                (void)ds_fs_fsync_dir(row->fs, row->root);
        }
        ds_fs_sim_crash(row->fs, seed + i);
        assert_int_equal(ds_fs_remove_tree(row->fs, row->root), 0);
        assert_int_equal(ds_fs_mkdir(row->fs, row->root, 0755), 0);
    }
}

static void a_locked_file_belongs_to_one_descriptor_until_it_is_closed(void **state)
{
    struct row *row = *state;
    int first = open_in(row, "lock", DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE);
    int second = open_in(row, "lock", DS_FS_READ | DS_FS_WRITE);
    int other = open_in(row, "other", DS_FS_WRITE | DS_FS_CREATE);

    assert_true(first >= 0 && second >= 0 && other >= 0);
    assert_int_equal(ds_fs_lock(row->fs, first), 0);
    assert_int_equal(ds_fs_lock(row->fs, first), 0); /* it has it */
    assert_int_equal(ds_fs_lock(row->fs, second), -EAGAIN);
    assert_int_equal(ds_fs_lock(row->fs, other), 0);
    assert_int_equal(ds_fs_close(row->fs, first), 0);
    assert_int_equal(ds_fs_lock(row->fs, second), 0);
    assert_int_equal(ds_fs_close(row->fs, second), 0);
    assert_int_equal(ds_fs_close(row->fs, other), 0);
    assert_int_equal(ds_fs_lock(row->fs, first), -EBADF);
}

/* clang-format off */
#define ROW(test, name) {#test "/" name, test, open_row, close_row, name}
#define FOR_EACH_FS(test) ROW(test, "posix"), ROW(test, "sim")
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOR_EACH_FS(written_bytes_come_back_and_holes_are_zeros),
        FOR_EACH_FS(flags_of_open_mean_what_they_say),
        FOR_EACH_FS(append_goes_to_the_end),
        FOR_EACH_FS(sizes_are_set_as_asked),
        FOR_EACH_FS(names_move_link_and_go),
        FOR_EACH_FS(a_directory_lists_its_names_in_order),
        FOR_EACH_FS(folders_are_made_with_parents_and_removed_with_content),
        ROW(removing_a_tree_does_not_follow_links, "posix"),
        FOR_EACH_FS(a_map_shows_the_file),
        FOR_EACH_FS(space_is_told),
        FOR_EACH_FS(a_locked_file_belongs_to_one_descriptor_until_it_is_closed),
        FOR_EACH_FS(read_file_takes_what_it_may),
        ROW(short_counts_are_continued, "posix"),
        FOR_EACH_FS(a_failed_write_leaves_the_old_file_or_the_new_one),
        FOR_EACH_FS(a_failed_read_gives_nothing),
        FOR_EACH_FS(the_nth_call_fails_half_done_and_only_that_one),
        ROW(unsynced_data_is_lost_and_synced_data_stays, "sim"),
        ROW(everything_may_survive_a_crash, "sim"),
        ROW(a_name_is_lost_without_a_sync_of_its_folder, "sim"),
        ROW(a_name_lasts_once_its_parent_is_synced, "sim"),
        ROW(a_write_may_be_torn, "sim"),
        ROW(a_crash_leaves_the_old_file_or_the_new_one, "sim"),
        ROW(a_rename_without_fsync_is_caught, "sim"),
        ROW(any_crash_leaves_a_tree, "sim"),
        ROW(a_copy_of_a_disk_crashes_like_the_disk, "sim"),
        ROW(every_case_of_a_crash_can_be_chosen, "sim"),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
