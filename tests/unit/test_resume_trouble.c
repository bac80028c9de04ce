// link: launch
// timeout: 10800
// cost: 85
/* Storage that fails costs a checkpoint, never the run; what cannot be gone on from is passed over or refused, with
 * the status that says so. */
#include "damage.h"
#include "hooked_disk.h"
#include "saved_run.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

enum { STEPS = 8, INTERVAL = 3, MORE = 2 };

/* ---- a disk whose n-th call about checkpoints fails, once the first step is over */

static atomic_int is_armed;
static atomic_ulong calls;
static unsigned long fail_at;
static int fail_code, is_torn; /* a part of it, and then the disk is full */

static int fail_once(const struct disk_call *call)
{
    if (!strstr(call->path, saved.root) || !atomic_load(&is_armed) ||
        atomic_fetch_add(&calls, 1) + 1 != fail_at)
        return 0;
    if (strcmp(call->what, "pread") == 0 || strcmp(call->what, "readdir") == 0)
        return -EIO;
    if (strcmp(call->what, "pwrite") == 0 && call->bytes >= 8192 && is_torn)
        (void)!ds_fs_pwrite(ds_fs_posix(), call->file, call->from, 4096, call->offset);
    return fail_code;
}

static void arm(const struct ds_step_report *report)
{
    if (report->step == 1)
        atomic_store(&is_armed, 1);
}

/* ---- runs */

static int resume;

static void resume_as_told(struct ds_config *config)
{
    config->checkpoint.resume = resume;
}

static struct tiny_result undisturbed(void)
{
    return saved_run(saved_case(), STEPS + MORE, without_checkpoints);
}

/* ---- a disk that fails */

/* 0: the call was never reached */
static int try_failure(unsigned long number, int code, const struct tiny_result *whole)
{
    struct tiny_case c = saved_case();
    struct tiny_result result;
    struct capture capture;

    fail_at = number;
    fail_code = code;
    atomic_store(&calls, 0);
    atomic_store(&is_armed, 0);
    c.steps = STEPS;
    c.adjust = with_checkpoints;
    c.fs = hooked_disk(fail_once);
    c.step = arm;
    capture_begin(&capture);
    tiny_run(&c, &result);
    const char *said = capture_end(&capture);
    const int is_hit = atomic_load(&calls) >= fail_at;
    if (result.status != DS_OK ||
        memcmp(result.loss, whole->loss, STEPS * sizeof *whole->loss) != 0)
        fail_msg("call %lu fails: the run ends with %s after %llu steps", number,
                 ds_status_text(result.status), (unsigned long long)result.steps);
    if (saved_newest(saved.root) == 0)
        fail_msg("call %lu fails: there is no checkpoint: %s", number, said);
    struct tiny_result rest = saved_run(saved_case(), STEPS + MORE, with_checkpoints);
    assert_same_run(&rest, whole, STEPS);
    saved_forget(saved.root);
    tiny_result_fini(&result);
    tiny_result_fini(&rest);
    return is_hit;
}

static void storage_that_fails_costs_a_checkpoint_alone(void **state)
{
    static const int codes[] = {-EIO, -ENOSPC, -EDQUOT, -EROFS, -ESTALE};
    struct tiny_result whole = undisturbed();
    const unsigned long turns = test_is_long() ? 10 : 1; /* each code, torn and not */

    (void)state;
    for (unsigned long turn = 0; turn < turns; turn++) {
        unsigned long number = 1;

        is_torn = (int)((turn + saved.seed) % 2);
        while (try_failure(number, codes[(number + turn / 2) % 5], &whole))
            number++;
        assert_true(number > 60);
    }
    tiny_result_fini(&whole);
}

/* ---- what cannot be gone on from */

static void save(void)
{
    saved_expect(saved_case(), STEPS, DS_OK, "");
}

/* A byte in the middle. */
static void damage(const char *path)
{
    damage_flip(ds_fs_posix(), path, 3 * 4096 + 100);
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    struct tiny_result whole = undisturbed();
    struct capture capture;

    (void)state;
    save();
    assert_int_equal(saved_newest(saved.root), STEPS);
    assert_true(saved_packs_of(saved.root, STEPS, damage) > 0);
    capture_begin(&capture);
    struct tiny_result rest = saved_run(saved_case(), STEPS + MORE, with_checkpoints);
    assert_non_null(strstr(capture_end(&capture), "cannot be loaded"));
    assert_same_run(&rest, &whole, STEPS - 1); /* made again */
    tiny_result_fini(&rest);
    tiny_result_fini(&whole);
    saved_forget(saved.root);
}

static void none_that_verifies_is_said(void **state)
{
    struct ds_manifest_id ids[SAVED_MAX], still[SAVED_MAX];

    (void)state;
    save();
    const size_t count = saved_list(saved.root, ids);
    for (size_t i = 0; i < count; i++)
        assert_true(saved_packs_of(saved.root, ids[i].step, damage) > 0);
    saved_expect(saved_case(), STEPS + MORE, DS_ERR_NO_CHECKPOINT,
                 "none of the checkpoints verifies");
    assert_int_equal(saved_list(saved.root, still), count); /* nothing is changed */
    saved_forget(saved.root);
}

static void another_run_is_refused(void **state)
{
    (void)state;
    save();
    saved.seed++;
    saved_expect(saved_case(), STEPS + MORE, DS_ERR_CONFIG, "belongs to another run");
    saved.seed--;
    saved_expect(saved_case(), STEPS - 1, DS_ERR_CONFIG,
                 "the newest checkpoint is of step 8; nearest: 8");
    saved_expect(saved_case(), STEPS + MORE, DS_OK, "");
    saved_forget(saved.root);
}

/* The run's directory is the one around that of checkpoints, as it is where nobody names another. */
static void in_run_dir(struct ds_config *config)
{
    with_checkpoints(config);
    snprintf(config->run.dir, sizeof config->run.dir, "%s", saved.root);
    *strrchr(config->run.dir, '/') = '\0';
}

/* Without a checkpoint it belongs to nobody yet, if nobody else can be in there. */
static void a_launch_that_failed_at_once_claims_nothing(void **state)
{
    struct tiny_case c = saved_case();

    (void)state;
    c.inject = "fail:0:1";
    saved_expect(c, STEPS, DS_ERR_IO, "a failure in step 1");
    saved.seed++;
    c.inject = NULL;
    saved_expect(c, STEPS, DS_ERR_CONFIG, "belongs to another run");
    c.adjust = in_run_dir;
    saved_expect(c, STEPS, DS_OK, "");
    saved.seed--;
    saved_forget(saved.root);
}

/* In the run's own directory, too, where one without a checkpoint would belong to nobody. */
static void a_folder_that_is_missing_is_asked_for_or_made(void **state)
{
    struct tiny_case c = saved_case();
    char path[1024], aside[1024];

    (void)state;
    c.adjust = in_run_dir;
    saved_expect(c, STEPS, DS_OK, "");
    snprintf(path, sizeof path, "%s/manifests", saved.root);
    snprintf(aside, sizeof aside, "%s-manifests", saved.root);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), path, aside), 0);
    saved_expect(c, STEPS + MORE, DS_ERR_CONFIG, "its folder manifests is missing; put it back");
    assert_int_equal(ds_fs_rename(ds_fs_posix(), aside, path), 0);
    snprintf(path, sizeof path, "%s/epochs", saved.root);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), path), 0);
    saved_expect(c, STEPS + MORE, DS_OK, "its folder epochs was missing, and is made anew");
    saved_forget(saved.root);
}

static void beginning_again_leaves_what_was_there_behind(void **state)
{
    (void)state;
    save();
    resume = DS_RESUME_NONE;
    saved_expect(saved_case(), 1, DS_OK, "");
    resume = DS_RESUME_AUTO;
    struct tiny_result result = saved_run(saved_case(), 2, with_checkpoints);
    assert_int_equal(saved_went_on_from(&result), 1); /* from step 1's, not from step 8's */
    tiny_result_fini(&result);
    saved_forget(saved.root);
}

/* Another launch claims the run while this one trains: it may not commit any more, and ends. */
static void claim_once(const struct ds_step_report *report)
{
    if (report->step == 1)
        saved_claim(saved.root, 2);
}

static void a_newer_launch_fences_this_one_off(void **state)
{
    struct tiny_case c = saved_case();

    (void)state;
    c.step = claim_once;
    saved_expect(c, STEPS, DS_ERR_FENCED, "another launch owns the run");
    assert_int_equal(saved_newest(saved.root), 0);
    saved_forget(saved.root);
}

/* ---- launches beside one that is at work */

static int claims; /* by what was begun here */
static void (*before_claim)(void);

static int look_for_claims(const struct disk_call *call)
{
    if (strcmp(call->what, "open") == 0 && (call->flags & DS_FS_CREATE) &&
        strstr(call->path, "/epochs/E-") && !strstr(call->path, ".base") && claims++ == 0 &&
        before_claim)
        before_claim();
    return 0;
}

static struct tiny_case watched(void (*meanwhile)(void))
{
    struct tiny_case c = saved_case();

    claims = 0;
    before_claim = meanwhile;
    c.fs = hooked_disk(look_for_claims);
    return c;
}

/* Not even until it knows: one that is at work might look just then. */
static void a_launch_that_cannot_load_stops_nobody(void **state)
{
    struct ds_manifest_id ids[SAVED_MAX];

    (void)state;
    save();
    saved_expect(watched(NULL), STEPS - 1, DS_ERR_CONFIG,
                 "the newest checkpoint is of step 8; nearest: 8");
    assert_int_equal(claims, 0);
    const size_t count = saved_list(saved.root, ids);
    for (size_t i = 0; i < count; i++)
        assert_true(saved_packs_of(saved.root, ids[i].step, damage) > 0);
    saved_expect(watched(NULL), STEPS + MORE, DS_ERR_NO_CHECKPOINT,
                 "none of the checkpoints verifies");
    assert_int_equal(claims, 0);
    for (size_t i = 0; i < count; i++)
        assert_true(saved_packs_of(saved.root, ids[i].step, damage) > 0); /* undone */
    saved_expect(watched(NULL), STEPS + MORE, DS_OK, "");
    assert_true(claims > 0);
    saved_forget(saved.root);
}

/* The newest that there is: it comes back when somebody claims, as if another launch had committed it until then. */
static char newest_path[1024], newest_aside[1024];

static void commit_meanwhile(void)
{
    assert_int_equal(ds_fs_rename(ds_fs_posix(), newest_aside, newest_path), 0);
}

static void put_newest_aside(void)
{
    struct ds_manifest_id ids[SAVED_MAX];

    assert_true(saved_list(saved.root, ids) > 0);
    assert_int_equal(ids[0].step, STEPS);
    ds_checkpoint_manifest_path(saved.root, &ids[0], newest_path);
    snprintf(newest_aside, sizeof newest_aside, "%s/aside", saved.folder);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), newest_path, newest_aside), 0);
}

static void remove_manifest(const struct ds_manifest_id *id)
{
    char path[1024];

    ds_checkpoint_manifest_path(saved.root, id, path);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
}

/* Where nothing was there before, too. */
static void what_was_committed_meanwhile_is_gone_on_from(void **state)
{
    struct tiny_result whole = undisturbed();
    struct ds_manifest_id ids[SAVED_MAX];

    (void)state;
    for (int is_first = 0; is_first < 2; is_first++) {
        save();
        const size_t count = saved_list(saved.root, ids);
        put_newest_aside();
        for (size_t i = 1; is_first && i < count; i++)
            remove_manifest(&ids[i]);
        struct tiny_result rest =
            saved_run(watched(commit_meanwhile), STEPS + MORE, with_checkpoints);
        assert_int_equal(saved_went_on_from(&rest), STEPS);
        assert_same_run(&rest, &whole, STEPS);
        tiny_result_fini(&rest);
        saved_forget(saved.root);
    }
    tiny_result_fini(&whole);
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
        cmocka_unit_test(a_launch_that_cannot_load_stops_nobody),
        cmocka_unit_test(what_was_committed_meanwhile_is_gone_on_from),
    };
    int failed;

    saved_begin("test_resume_trouble", 64);
    saved.interval = INTERVAL;
    saved.keep = 2;
    saved.decay_steps = STEPS;
    saved.also = resume_as_told;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
