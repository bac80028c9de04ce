// link: launch
// cost: 30
/* A second directory of checkpoints: whatever becomes of either, a launch goes on from the newest that is whole in one
 * of them, with the bits of a run that nobody disturbed; trouble with the second costs copies, never the run; and who
 * was overtaken in one of them can no longer add to it. */
#include "hooked_disk.h"
#include "saved_run.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { STEPS = 12, FIRST = 8, INTERVAL = 4 };

static char mirror[512];
static const char *local; /* the first directory now */
static int resume = DS_RESUME_AUTO;

/* ---- a second disk that fails from one call on */

static atomic_ulong calls;
static atomic_ulong fail_from;  /* 0: never */
static atomic_int is_read_only; /* without that */

static int fail_in_mirror(const struct disk_call *call)
{
    const int is_open = strcmp(call->what, "open") == 0;

    if (strncmp(call->path, mirror, strlen(mirror)) != 0)
        return 0;
    if (fail_from > 0 && atomic_fetch_add(&calls, 1) + 1 >= fail_from)
        return is_open || strcmp(call->what, "mkdir") == 0 ? -EACCES
               : strcmp(call->what, "fallocate") == 0      ? -ENOSPC
                                                           : -EIO;
    return is_read_only && is_open && (call->flags & DS_FS_WRITE) ? -EROFS : 0;
}

static struct ds_fs *bad_disk(unsigned long from)
{
    fail_from = from;
    atomic_store(&calls, 0);
    return hooked_disk(fail_in_mirror);
}

/* ---- runs */

static void in_both(struct ds_config *config)
{
    config->checkpoint.resume = resume;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", local);
    snprintf(config->checkpoint.mirror, sizeof config->checkpoint.mirror, "%s", mirror);
}

static int is_lost_on_the_way; /* the mirror, when a launch has begun */

static void wait_a_little(const struct ds_step_report *report)
{
    if (is_lost_on_the_way && report->step > 4)
        atomic_store(&fail_from, 1);
    usleep(5000); /* so that what goes on in the background has its time in between, too */
}

static struct tiny_case case_on(struct ds_fs *fs)
{
    struct tiny_case c = saved_case();

    c.fs = fs;
    c.step = wait_a_little;
    return c;
}

static void run_on(struct ds_fs *fs, uint64_t steps)
{
    struct tiny_result result = saved_run(case_on(fs), steps, with_checkpoints);

    tiny_result_fini(&result);
}

static void run(uint64_t steps)
{
    run_on(NULL, steps);
}

/* The rest, from behind step `from`: what it would have been. */
static void assert_goes_on_from(uint64_t from)
{
    struct tiny_result whole = saved_run(case_on(NULL), STEPS, without_checkpoints);
    struct tiny_result rest = saved_run(case_on(NULL), STEPS, with_checkpoints);

    assert_int_equal(saved_went_on_from(&rest), from);
    assert_same_run(&rest, &whole, from);
    tiny_result_fini(&whole);
    tiny_result_fini(&rest);
}

/* Every byte of what may be loaded is checked; the newest step, 0: there is none. */
static uint64_t verify(const char *at, size_t *count)
{
    struct ds_manifest_id ids[SAVED_MAX];

    *count = saved_verify(at, ids);
    return *count > 0 ? ids[0].step : 0;
}

static uint64_t newest_in(const char *at)
{
    size_t count;

    return verify(at, &count);
}

static void forget_all(void)
{
    saved_forget(saved.root);
    saved_forget(mirror);
    fail_from = 0;
}

/* ---- tests */

static void a_new_host_goes_on_from_the_mirror(void **state)
{
    (void)state;
    run(FIRST);
    assert_int_equal(newest_in(saved.root), FIRST);
    assert_int_equal(newest_in(mirror), FIRST);
    saved_forget(saved.root);
    assert_goes_on_from(FIRST);
    assert_int_equal(newest_in(saved.root), STEPS);
    assert_int_equal(newest_in(mirror), STEPS);
    forget_all();
}

static const char *said_by_run(uint64_t steps)
{
    static struct capture capture;

    capture_begin(&capture);
    run(steps);
    return capture_end(&capture);
}

/* Who is on a new host wants that; who began a new run, and did not know, is told how. */
static void that_a_new_directory_takes_the_run_of_the_mirror_is_said(void **state)
{
    char words[2048];

    (void)state;
    for (int begins = 0; begins < 2; begins++) {
        assert_null(strstr(said_by_run(FIRST), "a run of the same keys")); /* both are new */
        saved_forget(saved.root);
        resume = begins ? DS_RESUME_NONE : DS_RESUME_AUTO;
        const char *said = said_by_run(STEPS);
        snprintf(words, sizeof words,
                 "%s is new, and checkpoint.mirror = %s holds a run of the same keys: this is that "
                 "run, from %s",
                 saved.root, mirror, begins ? "the beginning" : "step 8 on");
        if (!strstr(said, words) || !strstr(said, "name another mirror"))
            fail_msg("not '%s': %s", words, said);
        resume = DS_RESUME_AUTO;
        assert_null(strstr(said_by_run(STEPS), "a run of the same keys")); /* it is known */
        forget_all();
    }
}

static void a_mirror_that_is_gone_is_made_again(void **state)
{
    (void)state;
    run(FIRST);
    saved_forget(mirror);
    assert_goes_on_from(FIRST);
    assert_int_equal(newest_in(mirror), STEPS);
    saved_forget(saved.root);
    run(STEPS);
    forget_all();
}

static void damage(const char *path)
{
    const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_READ | DS_FS_WRITE, 0);

    assert_int_equal(ds_fs_pwrite(ds_fs_posix(), file, "\x5a\xa5", 2, 3 * 4096 + 8), 2);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
}

static void what_is_damaged_here_is_loaded_from_there(void **state)
{
    (void)state;
    run(FIRST);
    assert_true(saved_packs(saved.root, "", damage) > 0);
    assert_goes_on_from(FIRST);
    forget_all();
}

static void spoil_header(const char *path)
{
    const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_READ | DS_FS_WRITE, 0);

    assert_int_equal(ds_fs_pwrite(ds_fs_posix(), file, "\x5a\xa5", 2, 20), 2);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
}

static void spoil_length(const char *path)
{
    assert_int_equal(truncate(path, 5000), 0);
}

static void spoil_all(const char *path)
{
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
}

static void spoil_manifest(const char *at)
{
    const struct ds_manifest_id id = {.epoch = 1, .step = FIRST};
    char path[DS_CHECKPOINT_PATH_BYTES];

    ds_checkpoint_manifest_path(at, &id, path);
    assert_int_equal(truncate(path, 5), 0);
}

static size_t count_of(const char *text, const char *words)
{
    size_t count = 0;

    for (const char *at = text; (at = strstr(at, words)) != NULL; at += strlen(words))
        count++;
    return count;
}

/* The launch goes on from the first directory, and nobody would know until that is lost. */
static void a_copy_that_is_damaged_is_told_by_a_line(void **state)
{
    static const struct {
        void (*spoil)(const char *path); /* NULL: the manifest */
        const char *words;
    } rows[] = {{spoil_header, "2 of its 2 files, "},
                {spoil_header, "the header fails its checksum"},
                {spoil_length, "5000 bytes long, it was committed with"},
                {spoil_all, "not there"},
                {NULL, "is damaged there"}};
    struct capture capture;

    (void)state;
    forget_all();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        run(FIRST);
        capture_begin(&capture);
        run(FIRST);
        assert_null(strstr(capture_end(&capture), "is damaged there"));
        if (rows[i].spoil)
            assert_int_equal(saved_packs_of(mirror, FIRST, rows[i].spoil), 2);
        else
            spoil_manifest(mirror);
        capture_begin(&capture);
        run(FIRST);
        const char *said = capture_end(&capture);
        if (!strstr(said, rows[i].words) || count_of(said, "warning: ") != 1 ||
            count_of(said, "error: ") != (rows[i].spoil ? 0 : 1))
            fail_msg("%s: %s", rows[i].words, said);
        forget_all();
    }
}

/* By as many ranks as there are, whoever wrote it, even where nothing is left to train. */
static void what_was_not_copied_the_next_launch_copies(void **state)
{
    (void)state;
    forget_all();
    for (uint32_t ranks = 1; ranks <= 2; ranks++)
        for (uint64_t steps = FIRST; steps <= FIRST + 1; steps++) {
            struct tiny_case c = case_on(NULL);
            size_t count;

            run(FIRST);
            saved_forget(mirror);
            c.ranks = ranks;
            struct tiny_result result = saved_run(c, steps, with_checkpoints);
            tiny_result_fini(&result);
            assert_int_equal(verify(mirror, &count), steps);
            assert_true(saved_has(mirror, FIRST) || steps > FIRST); /* the newest goes first */
            saved_forget(saved.root);
            if (steps == FIRST) /* other numbers of ranks round otherwise */
                assert_goes_on_from(steps);
            forget_all();
        }
}

/* A hint that cannot be written: there is a folder of its name. */
static void spoil_hint(const char *at)
{
    char path[600];

    snprintf(path, sizeof path, "%s/latest", at);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
    assert_int_equal(ds_fs_mkdir(ds_fs_posix(), path, 0750), 0);
}

static void keep_what_should_be(int has_hint)
{
    size_t count;

    saved.keep = 1;
    for (uint64_t step = 1; step <= STEPS; step += 2) {
        run(step);
        if (step == 1 && !has_hint) {
            spoil_hint(saved.root);
            spoil_hint(mirror);
        }
        assert_int_equal(verify(saved.root, &count), step);
        assert_true(count <= 3);
        assert_int_equal(verify(mirror, &count), step);
        assert_true(count <= 3);
    }
    assert_true(saved_packs(mirror, "P-", NULL) <= 6);
    saved.keep = 3;
    forget_all();
}

static void both_keep_what_they_should(void **state)
{
    (void)state;
    keep_what_should_be(1);
    keep_what_should_be(0);
}

/* From every call on: the copy ends there, as if the program had. */
static void a_copy_may_end_anywhere(void **state)
{
    const unsigned long stride = test_is_long() ? 1 : 9;
    unsigned long from = 1 + saved.seed % stride;
    int warned = 0, was_hit = 1;

    (void)state;
    for (; was_hit; from += stride) {
        struct capture capture;
        size_t count;

        capture_begin(&capture);
        run_on(bad_disk(from), FIRST);
        warned += strstr(capture_end(&capture), "copied") != NULL;
        was_hit = atomic_load(&calls) >= from;
        fail_from = 0;
        assert_int_equal(newest_in(saved.root), FIRST);
        /* what is there is whole, and the next launch has no less */
        struct ds_fs_stat stat;
        char path[DS_CHECKPOINT_PATH_BYTES];
        snprintf(path, sizeof path, "%s/RUN.json", mirror);
        const int is_there = ds_fs_stat(ds_fs_posix(), path, &stat) == 0;
        const uint64_t copied = is_there ? verify(mirror, &count) : 0;
        assert_true(copied == 0 || copied == INTERVAL || copied == FIRST);
        if (is_there)
            saved_forget(saved.root);
        assert_goes_on_from(is_there ? copied : FIRST);
        assert_int_equal(newest_in(mirror), STEPS);
        assert_int_equal(saved_packs(mirror, ".tmp", NULL), 0);
        forget_all();
    }
    assert_true(warned > 3);
}

static void a_mirror_that_cannot_be_written_costs_a_line(void **state)
{
    (void)state;
    saved_expect(case_on(bad_disk(1)), FIRST, DS_OK, "no checkpoints are copied there");
    fail_from = 0;
    assert_goes_on_from(FIRST);
    forget_all();
}

/* Nobody begins again because the only place that has checkpoints cannot be written to. One that has no news costs a
 * line, and what is saved meanwhile is the newest when it is back. */
static void a_mirror_that_can_only_be_read_does_not_cost_the_run(void **state)
{
    (void)state;
    forget_all();
    run(4);
    run(5);
    saved_forget(saved.root);
    is_read_only = 1;
    saved_expect(case_on(bad_disk(0)), FIRST, DS_ERR_CONFIG,
                 "has the newest checkpoint, of step 5");
    is_read_only = 0;
    run(6);
    is_read_only = 1;
    run_on(bad_disk(0), FIRST);
    is_read_only = 0;
    assert_int_equal(newest_in(mirror), 6);
    assert_goes_on_from(FIRST);
    forget_all();
}

/* Another launch, on a host with a first directory of its own, claims the mirror. */
static void claim_mirror(const struct ds_step_report *report)
{
    if (report->step == 1)
        saved_claim(mirror, 2);
}

static void who_was_overtaken_in_the_mirror_goes(void **state)
{
    struct tiny_case c = saved_case();

    (void)state;
    c.step = claim_mirror;
    saved_expect(c, FIRST, DS_ERR_FENCED, "another launch owns the run");
    assert_int_equal(newest_in(mirror), 0);
    forget_all();
}

/* Who claims again, for a rollback, has the next epoch in both, or was overtaken in one of them. */
static void who_was_overtaken_cannot_claim_again(void **state)
{
    const uint8_t run_name[16] = "one run", nonces[3][16] = {{1}, {1}, {2}};
    const struct ds_digest keys = {{1}};
    struct ds_checkpoint_dir *dirs[3];
    const char *const roots[3] = {saved.root, mirror, mirror};

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_ok(
            ds_checkpoint_dir_open(ds_fs_posix(), roots[i], run_name, nonces[i], &keys, &dirs[i]));
    assert_ok(ds_checkpoint_claim(dirs[2])); /* of a launch without the first directory */
    ds_checkpoint_join(dirs[0], dirs[1]);
    assert_ok(ds_checkpoint_claim(dirs[0]));
    assert_int_equal(ds_checkpoint_dir_epoch(dirs[0]), 2);
    assert_int_equal(ds_checkpoint_dir_epoch(dirs[1]), 2);
    assert_ok(ds_checkpoint_claim(dirs[0]));
    assert_int_equal(ds_checkpoint_dir_epoch(dirs[1]), 3);
    assert_int_equal(ds_checkpoint_claim(dirs[2]), DS_ERR_FENCED);
    ds_checkpoint_dir_close(dirs[2]);
    assert_ok(ds_checkpoint_dir_open(ds_fs_posix(), mirror, run_name, nonces[2], &keys, &dirs[2]));
    assert_ok(ds_checkpoint_claim(dirs[2]));
    assert_int_equal(ds_checkpoint_claim(dirs[0]), DS_ERR_FENCED);
    ds_checkpoint_dir_close(dirs[2]);
    ds_checkpoint_dir_close(dirs[0]);
    forget_all();
}

/* What an old launch still saved where nobody else looked is overruled by what the next one said in the mirror. */
static void what_was_overruled_elsewhere_stays_so(void **state)
{
    char other[600];

    (void)state;
    run(4);
    is_lost_on_the_way = 1;
    run_on(bad_disk(0), FIRST);
    is_lost_on_the_way = 0;
    fail_from = 0;
    assert_int_equal(newest_in(saved.root), FIRST);
    assert_int_equal(newest_in(mirror), 4);
    snprintf(other, sizeof other, "%s-2", saved.root);
    local = other;
    saved.interval = 0;
    run(5); /* goes on behind step 4, and saves nothing */
    saved.interval = INTERVAL;
    local = saved.root;
    assert_goes_on_from(4);
    saved_forget(other);
    forget_all();
}

static void two_runs_are_not_mixed(void **state)
{
    (void)state;
    run(4);
    char kept[600];
    snprintf(kept, sizeof kept, "%s-kept", mirror);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), mirror, kept), 0);
    saved_forget(saved.root);
    run(4);
    saved_forget(mirror);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), kept, mirror), 0);
    saved_expect(saved_case(), FIRST, DS_ERR_CONFIG, "holds another run than");
    forget_all();
}

static int leave_at_once(uint32_t rank)
{
    return rank == 0;
}

/* The next launch may be on a host that has the mirror alone. */
static void who_is_asked_to_leave_copies_first(void **state)
{
    struct tiny_case c = saved_case();

    (void)state;
    forget_all();
    c.leave = leave_at_once;
    saved_expect(c, FIRST, DS_LEAVE, "");
    assert_true(newest_in(saved.root) > 0);
    assert_int_equal(newest_in(mirror), newest_in(saved.root));
    forget_all();
}

/* By a link, here; a mount does the same. Nothing is copied onto itself, and nobody else is blamed. */
static void one_directory_under_two_names_is_refused(void **state)
{
    (void)state;
    forget_all();
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), saved.root, 0750), 0);
    assert_int_equal(symlink(saved.root, mirror), 0);
    saved_expect(saved_case(), FIRST, DS_ERR_CONFIG, "is the same directory as");
    assert_int_equal(unlink(mirror), 0);
    forget_all();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_host_goes_on_from_the_mirror),
        cmocka_unit_test(that_a_new_directory_takes_the_run_of_the_mirror_is_said),
        cmocka_unit_test(a_mirror_that_is_gone_is_made_again),
        cmocka_unit_test(what_is_damaged_here_is_loaded_from_there),
        cmocka_unit_test(a_copy_that_is_damaged_is_told_by_a_line),
        cmocka_unit_test(what_was_not_copied_the_next_launch_copies),
        cmocka_unit_test(both_keep_what_they_should),
        cmocka_unit_test(a_copy_may_end_anywhere),
        cmocka_unit_test(a_mirror_that_cannot_be_written_costs_a_line),
        cmocka_unit_test(a_mirror_that_can_only_be_read_does_not_cost_the_run),
        cmocka_unit_test(who_was_overtaken_in_the_mirror_goes),
        cmocka_unit_test(who_was_overtaken_cannot_claim_again),
        cmocka_unit_test(what_was_overruled_elsewhere_stays_so),
        cmocka_unit_test(two_runs_are_not_mixed),
        cmocka_unit_test(who_is_asked_to_leave_copies_first),
        cmocka_unit_test(one_directory_under_two_names_is_refused),
    };
    int failed;

    saved_begin("test_mirror", 64);
    saved.interval = INTERVAL;
    saved.keep = 3;
    saved.decay_steps = STEPS;
    saved.also = in_both;
    snprintf(mirror, sizeof mirror, "%s/mirror", saved.folder);
    local = saved.root;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
