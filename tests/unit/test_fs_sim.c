// link: storage base
/* test_fs_sim.c - the simulated disk after a crash: which data and names it may take, and that whole-file writes lose
 * neither the old file nor the new one. */
#include "fs_row.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
