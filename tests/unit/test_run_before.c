/* test_run_before.c - before the first step: what earlier launches left is not taken for this one's, and a
 * disk that is too small is named. */
// link: launch
// private: launch
#include "capture.h"
#include "run_before.h"
#include "test.h"

#include <errno.h>

static void put(struct ds_fs *fs, const char *path)
{
    assert_ok(ds_fs_write_file(fs, path, "x", 1));
}

static int is_there(struct ds_fs *fs, const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(fs, path, &stat) == 0;
}

static void an_older_export_is_kept_under_another_name(void **state)
{
    struct ds_fs *fs;
    char aside[128];

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdirs(fs, "r/export.kept-1", 0750), 0);
    assert_ok(ds_run_set_export_aside(fs, "r", aside, sizeof aside));
    assert_string_equal(aside, "");
    assert_int_equal(ds_fs_mkdir(fs, "r/export", 0750), 0);
    assert_ok(ds_run_set_export_aside(fs, "r", aside, sizeof aside));
    assert_string_equal(aside, ""); /* no model in it */
    put(fs, "r/export/config.json");
    put(fs, "r/export/model.safetensors");
    assert_ok(ds_run_set_export_aside(fs, "r", aside, sizeof aside));
    assert_string_equal(aside, "r/export.kept-2");
    assert_false(is_there(fs, "r/export"));
    assert_true(is_there(fs, "r/export.kept-2/model.safetensors"));
    ds_fs_sim_close(fs);
}

/* With the 1st, 2nd, ... call failing: it is under one name or the other, and whoever asked knows. */
static void an_older_export_is_never_lost(void **state)
{
    int hit = 1;

    (void)state;
    for (uint64_t fail_at = 1; hit; fail_at++) {
        struct ds_fs *disk, *faulty;
        struct capture capture;
        char aside[128];

        assert_true(fail_at < 20);
        assert_ok(ds_fs_sim_open(&disk));
        assert_int_equal(ds_fs_mkdirs(disk, "r/export", 0750), 0);
        put(disk, "r/export/config.json");
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        capture_begin(&capture);
        ds_status st = ds_run_set_export_aside(faulty, "r", aside, sizeof aside);
        capture_end(&capture);
        hit = ds_fs_fault_hit(faulty);
        assert_int_equal(st, hit ? DS_ERR_IO : DS_OK);
        assert_true(is_there(disk, "r/export/config.json") !=
                    is_there(disk, "r/export.kept-1/config.json"));
        ds_fs_fault_close(faulty);
        ds_fs_sim_close(disk);
    }
}

static void logs_of_ranks_that_are_no_more_go(void **state)
{
    static const char *const stay[] = {"r/log/rank-0000.log", "r/log/rank-0001.log",
                                       "r/log/rank-0002.log.gz", "r/log/rank-7", "r/log/notes"};
    static const char *const go[] = {"r/log/rank-0002.log", "r/log/rank-0010.log",
                                     "r/log/rank-12345.log"};
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdirs(fs, "r/log", 0750), 0);
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++)
        put(fs, stay[i]);
    for (size_t i = 0; i < sizeof go / sizeof *go; i++)
        put(fs, go[i]);
    assert_ok(ds_run_remove_logs(fs, "r", 2));
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++)
        assert_true(is_there(fs, stay[i]));
    for (size_t i = 0; i < sizeof go / sizeof *go; i++)
        assert_false(is_there(fs, go[i]));
    ds_fs_sim_close(fs);
}

static int ten_mib_free(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    (void)fs;
    assert_string_equal(path, "r");
    *out = (struct ds_fs_space){.total_bytes = 1 << 30, .free_bytes = 10 << 20};
    return 0;
}

static void a_disk_that_is_too_small_is_named(void **state)
{
    const struct ds_fs_ops ops = {.name = "small", .statvfs = ten_mib_free};
    struct ds_fs fs = {.ops = &ops};
    struct capture capture;

    (void)state;
    capture_begin(&capture);
    ds_run_check_space(&fs, "r", 9 << 20, 1 << 20);
    assert_string_equal(capture_end(&capture), "");
    capture_begin(&capture);
    ds_run_check_space(&fs, "r", 9 << 20, (1 << 20) + 1);
    assert_string_equal(capture_end(&capture),
                        "dstrain: warning: run.dir: r: 10.0 MiB free, but this run will write 9.0 "
                        "MiB of model and up to 1.0 MiB of metrics: the disk may be full before it "
                        "ends");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_older_export_is_kept_under_another_name),
        cmocka_unit_test(an_older_export_is_never_lost),
        cmocka_unit_test(logs_of_ranks_that_are_no_more_go),
        cmocka_unit_test(a_disk_that_is_too_small_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
