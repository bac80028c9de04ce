// link: launch
// timeout: 10800
/* Storage that fails costs a checkpoint, never the run; what cannot be gone on from is passed over or refused, with
 * the status that says so. */
#include "capture.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/checkpoint.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

enum { STEPS = 8, INTERVAL = 3, MORE = 2 };

static char *folder, *data, *root;
static uint64_t seed;

/* ---- a disk whose n-th call about checkpoints fails, once the first step is over */

static atomic_int is_armed;
static atomic_ulong calls;
static unsigned long fail_at;
static int fail_code;

static atomic_char is_ours[4096]; /* descriptors */

static int fails(void)
{
    return atomic_load(&is_armed) && atomic_fetch_add(&calls, 1) + 1 == fail_at;
}

static int fails_at(const char *path)
{
    return strncmp(path, root, strlen(root)) == 0 && fails();
}

static int fails_in(int file)
{
    return file >= 0 && file < 4096 && atomic_load(&is_ours[file]) && fails();
}

#define INNER ds_fs_posix()->ops

static int bad_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    if (fails_at(path))
        return fail_code;
    const int file = INNER->open(fs, path, flags, mode);
    if (file >= 0 && file < 4096)
        atomic_store(&is_ours[file], strncmp(path, root, strlen(root)) == 0);
    return file;
}

static int64_t bad_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                          uint64_t offset)
{
    if (!fails_in(file))
        return INNER->pwrite(fs, file, from, bytes, offset);
    if (bytes >= 8192 && seed & 1) /* a part, and then the disk is full */
        (void)!INNER->pwrite(fs, file, from, 4096, offset);
    return fail_code;
}

static int64_t bad_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    return fails_in(file) ? -EIO : INNER->pread(fs, file, to, bytes, offset);
}

static int bad_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    return fails_in(file) ? fail_code : INNER->fallocate(fs, file, bytes);
}

static int bad_fsync(struct ds_fs *fs, int file)
{
    return fails_in(file) ? fail_code : INNER->fsync(fs, file);
}

static int bad_fsync_dir(struct ds_fs *fs, const char *path)
{
    return fails_at(path) ? fail_code : INNER->fsync_dir(fs, path);
}

static int bad_rename(struct ds_fs *fs, const char *from, const char *to)
{
    return fails_at(from) ? fail_code : INNER->rename(fs, from, to);
}

static int bad_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    return fails_at(path) ? fail_code : INNER->mkdir(fs, path, mode);
}

static int bad_unlink(struct ds_fs *fs, const char *path)
{
    return fails_at(path) ? fail_code : INNER->unlink(fs, path);
}

static int bad_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    return fails_at(path) ? -EIO : INNER->readdir(fs, path, names, count);
}

static struct ds_fs *bad_disk(void)
{
    static struct ds_fs_ops ops;
    static struct ds_fs fs = {&ops};

    ops = *INNER;
    ops.open = bad_open;
    ops.pwrite = bad_pwrite;
    ops.pread = bad_pread;
    ops.fallocate = bad_fallocate;
    ops.fsync = bad_fsync;
    ops.fsync_dir = bad_fsync_dir;
    ops.rename = bad_rename;
    ops.mkdir = bad_mkdir;
    ops.unlink = bad_unlink;
    ops.readdir = bad_readdir;
    ops.native = NULL; /* so that writes come through here */
    return &fs;
}

static void arm(const struct ds_step_report *report)
{
    if (report->step == 1)
        atomic_store(&is_armed, 1);
}

/* ---- runs */

static uint64_t run_seed;
static int resume;

static void with_checkpoints(struct ds_config *config)
{
    config->run.seed = run_seed;
    config->schedule.decay_steps = STEPS;
    config->checkpoint.interval = INTERVAL;
    config->checkpoint.keep = 2;
    config->checkpoint.resume = resume;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static void without_checkpoints(struct ds_config *config)
{
    with_checkpoints(config);
    config->checkpoint.dir[0] = '\0';
    config->checkpoint.interval = 0;
}

static struct tiny_case case_of(uint64_t steps)
{
    return (struct tiny_case){.ranks = 2,
                              .stage = 3,
                              .steps = steps,
                              .global_batch = 4,
                              .micro_batch = 2,
                              .layers = 1,
                              .data = data,
                              .adjust = with_checkpoints};
}

static struct tiny_result undisturbed(void)
{
    struct tiny_case c = case_of(STEPS + MORE);
    struct tiny_result result;

    c.adjust = without_checkpoints;
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    return result;
}

static size_t count_checkpoints(void)
{
    struct ds_checkpoint_list all;
    size_t count = 0;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &all));
    for (size_t i = 0; i < all.count; i++)
        count += all.entries[i].standing == DS_CHECKPOINT_GOOD;
    ds_checkpoint_list_fini(&all);
    return count;
}

static void forget_checkpoints(void)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
}

/* Ends with `status`; says `words`. */
static void expect(const struct tiny_case *c, ds_status status, const char *words)
{
    struct tiny_result result;
    struct capture capture;

    capture_begin(&capture);
    tiny_run(c, &result);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, status);
    if (!strstr(said, words))
        fail_msg("'%s' is not in: %s", words, said);
    tiny_result_fini(&result);
}

/* ---- a disk that fails */

/* 0: the call was never reached */
static int try_failure(unsigned long number, const struct tiny_result *whole)
{
    static const int codes[] = {-EIO, -ENOSPC, -EDQUOT};
    struct tiny_case c = case_of(STEPS);
    struct tiny_result result, rest;
    struct capture capture;

    fail_at = number;
    fail_code = codes[number % 3];
    atomic_store(&calls, 0);
    atomic_store(&is_armed, 0);
    c.fs = bad_disk();
    c.step = arm;
    capture_begin(&capture);
    tiny_run(&c, &result);
    const char *said = capture_end(&capture);
    const int is_hit = atomic_load(&calls) >= fail_at;
    if (result.status != DS_OK ||
        memcmp(result.loss, whole->loss, STEPS * sizeof *whole->loss) != 0)
        fail_msg("call %lu fails: the run ends with %s after %llu steps", number,
                 ds_status_text(result.status), (unsigned long long)result.steps);
    if (count_checkpoints() < 1)
        fail_msg("call %lu fails: there is no checkpoint: %s", number, said);
    c = case_of(STEPS + MORE);
    tiny_run(&c, &rest);
    assert_int_equal(rest.status, DS_OK);
    assert_memory_equal(rest.loss + STEPS, whole->loss + STEPS, MORE * sizeof *whole->loss);
    assert_memory_equal(rest.params, whole->params, whole->param_elems * sizeof *whole->params);
    forget_checkpoints();
    tiny_result_fini(&result);
    tiny_result_fini(&rest);
    return is_hit;
}

static void storage_that_fails_costs_a_checkpoint_alone(void **state)
{
    struct tiny_result whole = undisturbed();
    unsigned long number = 1;

    (void)state;
    while (try_failure(number, &whole))
        number++;
    assert_true(number > 60);
    tiny_result_fini(&whole);
}

/* ---- what cannot be gone on from */

static void save(void)
{
    const struct tiny_case c = case_of(STEPS);

    expect(&c, DS_OK, "");
}

/* A byte in the middle of every pack of a checkpoint. */
static void damage(uint64_t step)
{
    char path[DS_CHECKPOINT_PATH_BYTES], wanted[32], **names;
    struct ds_fs *fs = ds_fs_posix();
    size_t count, damaged = 0;

    snprintf(path, sizeof path, "%s/data/0", root);
    snprintf(wanted, sizeof wanted, "-%012llu-", (unsigned long long)step);
    assert_int_equal(ds_fs_readdir(fs, path, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        if (!strstr(names[i], wanted))
            continue;
        snprintf(path, sizeof path, "%s/data/0/%s", root, names[i]);
        const int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);
        uint8_t byte;
        assert_int_equal(ds_fs_pread(fs, file, &byte, 1, 3 * 4096 + 100), 1);
        byte ^= 4;
        assert_int_equal(ds_fs_pwrite(fs, file, &byte, 1, 3 * 4096 + 100), 1);
        assert_int_equal(ds_fs_close(fs, file), 0);
        damaged++;
    }
    free(names);
    assert_true(damaged > 0);
}

static uint64_t newest_step(void)
{
    struct ds_checkpoint_list all;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &all));
    assert_true(all.count > 0);
    const uint64_t step = all.entries[0].id.step;
    ds_checkpoint_list_fini(&all);
    return step;
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    struct tiny_result whole = undisturbed(), rest;
    const struct tiny_case c = case_of(STEPS + MORE);
    struct capture capture;

    (void)state;
    save();
    assert_int_equal(newest_step(), STEPS);
    damage(STEPS);
    capture_begin(&capture);
    tiny_run(&c, &rest);
    assert_non_null(strstr(capture_end(&capture), "cannot be loaded"));
    assert_int_equal(rest.status, DS_OK);
    assert_true(rest.loss[STEPS - 1] == whole.loss[STEPS - 1]); /* made again */
    assert_memory_equal(rest.params, whole.params, whole.param_elems * sizeof *whole.params);
    tiny_result_fini(&rest);
    tiny_result_fini(&whole);
    forget_checkpoints();
}

static void none_that_verifies_is_said(void **state)
{
    const struct tiny_case c = case_of(STEPS + MORE);
    struct ds_checkpoint_list all;

    (void)state;
    save();
    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &all));
    for (size_t i = 0; i < all.count; i++)
        damage(all.entries[i].id.step);
    const size_t count = all.count;
    ds_checkpoint_list_fini(&all);
    expect(&c, DS_ERR_NO_CHECKPOINT, "none of the checkpoints verifies");
    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &all));
    assert_int_equal(all.count, count); /* nothing is changed */
    ds_checkpoint_list_fini(&all);
    forget_checkpoints();
}

static void another_run_is_refused(void **state)
{
    const struct tiny_case c = case_of(STEPS + MORE), fewer = case_of(STEPS - 1);

    (void)state;
    save();
    run_seed++;
    expect(&c, DS_ERR_CONFIG, "belongs to another run");
    run_seed--;
    expect(&fewer, DS_ERR_CONFIG, "the newest checkpoint is of step 8");
    expect(&c, DS_OK, "");
    forget_checkpoints();
}

/* The run's directory is the one around that of checkpoints, as it is where nobody names another. */
static void in_run_dir(struct ds_config *config)
{
    with_checkpoints(config);
    snprintf(config->run.dir, sizeof config->run.dir, "%s", root);
    *strrchr(config->run.dir, '/') = '\0';
}

/* Without a checkpoint it belongs to nobody yet, if nobody else can be in there. */
static void a_launch_that_failed_at_once_claims_nothing(void **state)
{
    struct tiny_case c = case_of(STEPS);

    (void)state;
    c.inject = "fail:0:1";
    expect(&c, DS_ERR_IO, "a failure in step 1");
    run_seed++;
    c.inject = NULL;
    expect(&c, DS_ERR_CONFIG, "belongs to another run");
    c.adjust = in_run_dir;
    expect(&c, DS_OK, "");
    run_seed--;
    forget_checkpoints();
}

/* In the run's own directory, too, where one without a checkpoint would belong to nobody. */
static void a_folder_that_is_missing_is_asked_for_or_made(void **state)
{
    struct tiny_case c = case_of(STEPS);
    char path[1024], aside[1024];

    (void)state;
    c.adjust = in_run_dir;
    expect(&c, DS_OK, "");
    snprintf(path, sizeof path, "%s/manifests", root);
    snprintf(aside, sizeof aside, "%s-manifests", root);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), path, aside), 0);
    c.steps = STEPS + MORE;
    expect(&c, DS_ERR_CONFIG, "its folder manifests is missing; put it back");
    assert_int_equal(ds_fs_rename(ds_fs_posix(), aside, path), 0);
    snprintf(path, sizeof path, "%s/epochs", root);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), path), 0);
    expect(&c, DS_OK, "its folder epochs was missing, and is made anew");
    forget_checkpoints();
}

static void beginning_again_leaves_what_was_there_behind(void **state)
{
    struct tiny_case c = case_of(1);
    struct tiny_result result;
    struct capture capture;

    (void)state;
    save();
    resume = DS_RESUME_NONE;
    expect(&c, DS_OK, "");
    resume = DS_RESUME_AUTO;
    c = case_of(2);
    capture_begin(&capture);
    tiny_run(&c, &result);
    (void)capture_end(&capture);
    assert_int_equal(result.status, DS_OK);
    assert_true(result.loss[0] == 0 && result.loss[1] != 0); /* from step 1's, not from step 8's */
    tiny_result_fini(&result);
    forget_checkpoints();
}

/* Another launch claims the run while this one trains: it may not commit any more, and ends. */
static void claim_once(const struct ds_step_report *report)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    snprintf(path, sizeof path, "%s/epochs/E-%016d", root, 2);
    if (report->step == 1) {
        const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_WRITE | DS_FS_CREATE, 0640);
        assert_true(file >= 0);
        (void)ds_fs_close(ds_fs_posix(), file);
    }
}

static void a_newer_launch_fences_this_one_off(void **state)
{
    struct tiny_case c = case_of(STEPS);

    (void)state;
    c.step = claim_once;
    expect(&c, DS_ERR_FENCED, "another launch owns the run");
    assert_int_equal(count_checkpoints(), 0);
    forget_checkpoints();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(storage_that_fails_costs_a_checkpoint_alone),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(none_that_verifies_is_said),
        cmocka_unit_test(another_run_is_refused),
        cmocka_unit_test(a_launch_that_failed_at_once_claims_nothing),
        cmocka_unit_test(a_folder_that_is_missing_is_asked_for_or_made),
        cmocka_unit_test(beginning_again_leaves_what_was_there_behind),
        cmocka_unit_test(a_newer_launch_fences_this_one_off),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_resume_trouble");
    run_seed = seed;
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    root = malloc(512);
    snprintf(root, 512, "%s/checkpoints", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(root);
    free(data);
    tiny_remove(folder);
    return failed;
}
