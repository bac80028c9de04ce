// link: storage base
/* test_fs.c - one body for the real and the simulated disk: what each call of a file system means, and that whole-file
 * writes lose neither the old file nor the new one when a call fails. */
#include "fs_row.h"

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

static void what_was_made_on_the_way_goes_again(void **state)
{
    struct row *row = *state;
    char top[128], dir[128];
    struct ds_fs_stat stat;

    strcpy(dir, in_root(row, "a/b/c"));
    assert_int_equal(ds_fs_first_missing(row->fs, dir, top, sizeof top), 0);
    assert_string_equal(top, in_root(row, "a"));
    assert_int_equal(ds_fs_first_missing(row->fs, dir, top, 5), -ENAMETOOLONG);
    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "a"), 0755), 0);
    assert_int_equal(ds_fs_first_missing(row->fs, dir, top, sizeof top), 0);
    assert_string_equal(top, in_root(row, "a/b"));
    assert_int_equal(ds_fs_mkdirs(row->fs, dir, 0755), 0);
    put_text(row, "a/b/f", "text");
    ds_fs_remove_empty(row->fs, dir, top); /* but for what is in use */
    assert_int_equal(ds_fs_stat(row->fs, dir, &stat), -ENOENT);
    assert_int_equal(ds_fs_unlink(row->fs, in_root(row, "a/b/f")), 0);
    ds_fs_remove_empty(row->fs, in_root(row, "a/b"), top);
    assert_int_equal(ds_fs_stat(row->fs, top, &stat), -ENOENT);
    assert_int_equal(ds_fs_stat(row->fs, in_root(row, "a"), &stat), 0);
    assert_int_equal(ds_fs_first_missing(row->fs, in_root(row, "a"), top, sizeof top), 0);
    assert_string_equal(top, "");
}

static void names_say_what_is_within(void **state)
{
    static const struct {
        const char *path, *folder;
        int is_within;
    } rows[] = {
        {"/a/b", "/a", 1},    {"/a", "/a/b", 0},      {"/a", "/a", 1},
        {"/ab", "/a", 0},     {"/a//./b/", "/a/", 1}, {"/a/b/c/d", "/a/./b//c", 1},
        {"/a/.b", "/a/b", 0}, {"/a/b/c", "/a/c", 0},  {"/a", "/", 1},
        {"/a/../b", "/a", 1}, /* as far as names say */
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(ds_fs_is_named_within(rows[i].path, rows[i].folder), rows[i].is_within);
}

static int is_within(struct row *row, const char *path, const char *folder)
{
    char inner[128];

    strcpy(inner, in_root(row, path));
    return ds_fs_is_within(row->fs, inner, in_root(row, folder));
}

static void links_say_it_too(void **state)
{
    static const struct {
        const char *path, *folder;
        int is_within;
    } rows[] = {
        {"real/in", "real", 1},
        {"real", "real/in", 0},
        {"link/in", "real", 1},
        {"real/in", "link", 1},
        {"link", "real", 1},
        {"short", "real", 1},
        {"real", "short", 0},
        {"short/x/y", "link/in/x", 1},
        {"link/in/x", "short/x/y", 0},
        {"short/x", "link/in/xy", 0},
        {"short/new", "real/new", 0},
        {"real/in/..", "link", 1},
        {"real/in/../up", "real/in", 0},
        {"file/x", "file", 0}, /* nothing can be there */
        {"dangling/x", "real", 0},
    };
    struct row *row = *state;

    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "real/in"), 0755), 0);
    assert_int_equal(symlink("real", in_root(row, "link")), 0);
    assert_int_equal(symlink("real/in", in_root(row, "short")), 0);
    assert_int_equal(symlink("nowhere", in_root(row, "dangling")), 0);
    put_text(row, "file", "text");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (is_within(row, rows[i].path, rows[i].folder) != rows[i].is_within)
            fail_msg("is %s within %s?", rows[i].path, rows[i].folder);
}

/* Nobody writes into the pipe: who waited for it would be here for ever. */
static void what_is_no_file_is_refused_without_waiting(void **state)
{
    struct row *row = *state;
    const int is_sim = strcmp(row->name, "sim") == 0;
    char target[256], *text = NULL;
    size_t bytes = 0;
    int file;

    put_text(row, "f", "text");
    assert_int_equal(ds_fs_mkdirs(row->fs, in_root(row, "folder"), 0755), 0);
    assert_int_equal(open_in(row, "folder", DS_FS_READ | DS_FS_REGULAR), -EISDIR);
    file = open_in(row, "f", DS_FS_READ | DS_FS_REGULAR | DS_FS_NO_LINK);
    assert_true(file >= 0);
    if (!is_sim) /* io_uring does not wait for the disk where it has stayed */
        assert_int_equal(fcntl(ds_fs_native(row->fs, file), F_GETFL) & O_NONBLOCK, 0);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
    assert_ok(ds_fs_read_own_file(row->fs, in_root(row, "f"), 10, &text, &bytes));
    assert_string_equal(text, "text");
    free(text);
    assert_int_equal(ds_fs_read_own_file(row->fs, in_root(row, "folder"), 10, &text, &bytes),
                     DS_ERR_CORRUPT);
    if (is_sim)
        return;
    assert_int_equal(mkfifo(in_root(row, "pipe"), 0600), 0);
    assert_int_equal(open_in(row, "pipe", DS_FS_READ | DS_FS_REGULAR), -EMEDIUMTYPE);
    assert_int_equal(ds_fs_read_file(row->fs, in_root(row, "pipe"), 10, &text, &bytes),
                     DS_ERR_DATA);
    assert_int_equal(ds_fs_read_own_file(row->fs, in_root(row, "pipe"), 10, &text, &bytes),
                     DS_ERR_CORRUPT);
    snprintf(target, sizeof target, "%s", in_root(row, "f"));
    assert_int_equal(symlink(target, in_root(row, "link")), 0);
    assert_int_equal(open_in(row, "link", DS_FS_READ | DS_FS_NO_LINK), -ELOOP);
    assert_int_equal(ds_fs_read_own_file(row->fs, in_root(row, "link"), 10, &text, &bytes),
                     DS_ERR_CORRUPT);
    assert_ok(ds_fs_read_file(row->fs, in_root(row, "link"), 10, &text, &bytes));
    free(text);
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

/* Both files have the bytes then, each its own; where it cannot be nothing has changed. */
static void a_clone_is_of_its_own(void **state)
{
    enum { BLOCK = DS_FS_DIRECT_ALIGN, COUNT = 3 };
    static const uint32_t flags = DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE;
    static uint8_t data[COUNT * BLOCK], got[COUNT * BLOCK];
    struct row *row = *state;
    const int from = open_in(row, "from", flags);
    const int to = open_in(row, "to", flags);

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i / 7 + i / BLOCK);
    assert_int_equal(ds_fs_write_all(row->fs, from, data, sizeof data, 0), 0);
    assert_int_equal(ds_fs_fallocate(row->fs, to, sizeof data), 0);
    const int code = ds_fs_clone(row->fs, from, BLOCK, to, 0, (uint64_t)BLOCK * 2);
    assert_true(code == 0 || code == -EOPNOTSUPP || code == -EXDEV || code == -EINVAL ||
                code == -ENOTTY);
    assert_true(code == 0 || strcmp(row->fs->ops->name, "sim") != 0);
    assert_int_equal(ds_fs_write_all(row->fs, from, got, BLOCK, BLOCK), 0); /* zeros */
    assert_int_equal(ds_fs_read_all(row->fs, to, got, sizeof got, 0), 0);
    if (code == 0)
        assert_memory_equal(got, data + BLOCK, (size_t)BLOCK * 2);
    for (size_t i = code == 0 ? 2 * BLOCK : 0; i < sizeof got; i++)
        assert_int_equal(got[i], 0);
    assert_true(ds_fs_clone(row->fs, from, 1, to, 0, BLOCK) < 0);
    assert_int_equal(ds_fs_close(row->fs, from), 0);
    assert_int_equal(ds_fs_close(row->fs, to), 0);
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
        FOR_EACH_FS(what_was_made_on_the_way_goes_again),
        ROW(names_say_what_is_within, "posix"),
        ROW(links_say_it_too, "posix"),
        FOR_EACH_FS(what_is_no_file_is_refused_without_waiting),
        FOR_EACH_FS(a_map_shows_the_file),
        FOR_EACH_FS(space_is_told),
        FOR_EACH_FS(a_locked_file_belongs_to_one_descriptor_until_it_is_closed),
        FOR_EACH_FS(read_file_takes_what_it_may),
        FOR_EACH_FS(a_clone_is_of_its_own),
        ROW(short_counts_are_continued, "posix"),
        FOR_EACH_FS(a_failed_write_leaves_the_old_file_or_the_new_one),
        FOR_EACH_FS(a_failed_read_gives_nothing),
        FOR_EACH_FS(the_nth_call_fails_half_done_and_only_that_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
