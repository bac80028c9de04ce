// link: launch
/* A second directory of checkpoints: whatever becomes of either, a launch goes on from the newest that is whole in one
 * of them, with the bits of a run that nobody disturbed; trouble with the second costs copies, never the run; and who
 * was overtaken in one of them can no longer add to it. */
#include "capture.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/checkpoint.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { STEPS = 12, FIRST = 8, INTERVAL = 4 };

static char *folder, *data;
static char root[512], mirror[512];
static const char *local; /* the first directory now */
static int resume = DS_RESUME_AUTO;
static uint64_t seed, keep = 3, interval = INTERVAL;

/* ---- a second disk that fails from one call on */

static atomic_ulong calls;
static atomic_ulong fail_from; /* 0: never */
static atomic_char is_mirrors[4096];
static atomic_int is_read_only; /* without that */

static int fails(void)
{
    return fail_from > 0 && atomic_fetch_add(&calls, 1) + 1 >= fail_from;
}

static int fails_at(const char *path)
{
    return strncmp(path, mirror, strlen(mirror)) == 0 && fails();
}

static int fails_in(int file)
{
    return file >= 0 && file < 4096 && atomic_load(&is_mirrors[file]) && fails();
}

#define INNER ds_fs_posix()->ops

static int bad_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    if (fails_at(path))
        return -EACCES;
    if (is_read_only && (flags & DS_FS_WRITE) && strncmp(path, mirror, strlen(mirror)) == 0)
        return -EROFS;
    const int file = INNER->open(fs, path, flags, mode);
    if (file >= 0 && file < 4096)
        atomic_store(&is_mirrors[file], strncmp(path, mirror, strlen(mirror)) == 0);
    return file;
}

static int64_t bad_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                          uint64_t offset)
{
    return fails_in(file) ? -EIO : INNER->pwrite(fs, file, from, bytes, offset);
}

static int64_t bad_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    return fails_in(file) ? -EIO : INNER->pread(fs, file, to, bytes, offset);
}

static int bad_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    return fails_in(file) ? -ENOSPC : INNER->fallocate(fs, file, bytes);
}

static int bad_fsync(struct ds_fs *fs, int file)
{
    return fails_in(file) ? -EIO : INNER->fsync(fs, file);
}

static int bad_fsync_dir(struct ds_fs *fs, const char *path)
{
    return fails_at(path) ? -EIO : INNER->fsync_dir(fs, path);
}

static int bad_rename(struct ds_fs *fs, const char *from, const char *to)
{
    return fails_at(from) ? -EIO : INNER->rename(fs, from, to);
}

static int bad_unlink(struct ds_fs *fs, const char *path)
{
    return fails_at(path) ? -EIO : INNER->unlink(fs, path);
}

static int bad_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    return fails_at(path) ? -EACCES : INNER->mkdir(fs, path, mode);
}

static int bad_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    return fails_at(path) ? -EIO : INNER->readdir(fs, path, names, count);
}

static struct ds_fs *bad_disk(unsigned long from)
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
    ops.unlink = bad_unlink;
    ops.mkdir = bad_mkdir;
    ops.readdir = bad_readdir;
    fail_from = from;
    atomic_store(&calls, 0);
    return &fs;
}

/* ---- runs */

static void with_checkpoints(struct ds_config *config)
{
    config->run.seed = seed;
    config->schedule.decay_steps = STEPS;
    config->checkpoint.interval = interval;
    config->checkpoint.keep = keep;
    config->checkpoint.resume = resume;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", local);
    snprintf(config->checkpoint.mirror, sizeof config->checkpoint.mirror, "%s", mirror);
}

static void without_checkpoints(struct ds_config *config)
{
    with_checkpoints(config);
    config->checkpoint.dir[0] = config->checkpoint.mirror[0] = '\0';
    config->checkpoint.interval = 0;
}

static int is_lost_on_the_way; /* the mirror, when a launch has begun */

static void wait_a_little(const struct ds_step_report *report)
{
    if (is_lost_on_the_way && report->step > 4)
        atomic_store(&fail_from, 1);
    usleep(5000); /* so that what goes on in the background has its time in between, too */
}

static struct tiny_result run_on(struct ds_fs *fs, uint64_t steps,
                                 void (*adjust)(struct ds_config *config))
{
    const struct tiny_case c = {.ranks = 2,
                                .stage = 3,
                                .steps = steps,
                                .global_batch = 4,
                                .micro_batch = 2,
                                .layers = 1,
                                .data = data,
                                .fs = fs,
                                .step = wait_a_little,
                                .adjust = adjust};
    struct tiny_result result;

    tiny_run(&c, &result);
    return result;
}

static void run(uint64_t steps)
{
    struct tiny_result result = run_on(NULL, steps, with_checkpoints);

    assert_int_equal(result.status, DS_OK);
    tiny_result_fini(&result);
}

/* The rest, from behind step `from`: what it would have been. */
static void assert_goes_on_from(uint64_t from)
{
    struct tiny_result whole = run_on(NULL, STEPS, without_checkpoints);
    struct tiny_result rest = run_on(NULL, STEPS, with_checkpoints);

    assert_int_equal(rest.status, DS_OK);
    for (uint64_t i = 0; i < STEPS; i++)
        if (rest.loss[i] != (i < from ? 0 : whole.loss[i]))
            fail_msg("from %llu: step %llu has loss %.17g, undisturbed %.17g",
                     (unsigned long long)from, (unsigned long long)i + 1, rest.loss[i],
                     whole.loss[i]);
    assert_memory_equal(rest.params, whole.params, whole.param_elems * sizeof *whole.params);
    tiny_result_fini(&whole);
    tiny_result_fini(&rest);
}

/* ---- directories */

/* Every byte of what may be loaded is checked; the newest step, 0: there is none. */
static uint64_t verify(const char *at, size_t *count)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_checkpoint_list list;
    uint64_t newest = 0;

    *count = 0;
    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), at, &list));
    for (size_t i = 0; i < list.count; i++) {
        struct ds_manifest manifest;

        if (list.entries[i].standing != DS_CHECKPOINT_GOOD)
            continue;
        assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), at, &list.entries[i].id, &manifest));
        assert_ok(ds_checkpoint_verify(ds_fs_posix(), at, &manifest, buffer));
        ds_manifest_fini(&manifest);
        newest = *count == 0 ? list.entries[i].id.step : newest;
        (*count)++;
    }
    ds_checkpoint_list_fini(&list);
    return newest;
}

static uint64_t newest_in(const char *at)
{
    size_t count;

    return verify(at, &count);
}

static size_t count_files(const char *at, const char *with)
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names;
    size_t count, found = 0;

    snprintf(path, sizeof path, "%s/data/0", at);
    assert_int_equal(ds_fs_readdir(ds_fs_posix(), path, &names, &count), 0);
    for (size_t i = 0; i < count; i++)
        found += strstr(names[i], with) != NULL;
    free(names);
    return found;
}

static void forget(const char *at)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), at), 0);
}

static void forget_all(void)
{
    forget(root);
    forget(mirror);
    fail_from = 0;
}

/* ---- tests */

static void a_new_host_goes_on_from_the_mirror(void **state)
{
    (void)state;
    run(FIRST);
    assert_int_equal(newest_in(root), FIRST);
    assert_int_equal(newest_in(mirror), FIRST);
    forget(root);
    assert_goes_on_from(FIRST);
    assert_int_equal(newest_in(root), STEPS);
    assert_int_equal(newest_in(mirror), STEPS);
    forget_all();
}

/* Who is on a new host wants that; who began a new run, and did not know, is told how. */
static void that_a_new_directory_takes_the_run_of_the_mirror_is_said(void **state)
{
    struct tiny_result result;
    struct capture capture;
    char words[2048];

    (void)state;
    for (int begins = 0; begins < 2; begins++) {
        capture_begin(&capture);
        result = run_on(NULL, FIRST, with_checkpoints);
        assert_null(strstr(capture_end(&capture), "a run of the same keys")); /* both are new */
        tiny_result_fini(&result);
        forget(root);
        resume = begins ? DS_RESUME_NONE : DS_RESUME_AUTO;
        capture_begin(&capture);
        result = run_on(NULL, STEPS, with_checkpoints);
        const char *said = capture_end(&capture);
        assert_int_equal(result.status, DS_OK);
        tiny_result_fini(&result);
        snprintf(words, sizeof words,
                 "%s is new, and checkpoint.mirror = %s holds a run of the same keys: this is that "
                 "run, from %s",
                 root, mirror, begins ? "the beginning" : "step 8 on");
        if (!strstr(said, words) || !strstr(said, "name another mirror"))
            fail_msg("not '%s': %s", words, said);
        resume = DS_RESUME_AUTO;
        capture_begin(&capture);
        result = run_on(NULL, STEPS, with_checkpoints);
        assert_null(strstr(capture_end(&capture), "a run of the same keys")); /* it is known */
        tiny_result_fini(&result);
        forget_all();
    }
}

static void a_mirror_that_is_gone_is_made_again(void **state)
{
    (void)state;
    run(FIRST);
    forget(mirror);
    assert_goes_on_from(FIRST);
    assert_int_equal(newest_in(mirror), STEPS);
    forget(root);
    run(STEPS);
    forget_all();
}

static void what_is_damaged_here_is_loaded_from_there(void **state)
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names;
    size_t count;

    (void)state;
    run(FIRST);
    snprintf(path, sizeof path, "%s/data/0", root);
    assert_int_equal(ds_fs_readdir(ds_fs_posix(), path, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/data/0/%s", root, names[i]);
        const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_READ | DS_FS_WRITE, 0);
        assert_int_equal(ds_fs_pwrite(ds_fs_posix(), file, "\x5a\xa5", 2, 3 * 4096 + 8), 2);
        assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
    }
    free(names);
    assert_goes_on_from(FIRST);
    forget_all();
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

    keep = 1;
    for (uint64_t step = 1; step <= STEPS; step += 2) {
        run(step);
        if (step == 1 && !has_hint) {
            spoil_hint(root);
            spoil_hint(mirror);
        }
        assert_int_equal(verify(root, &count), step);
        assert_true(count <= 3);
        assert_int_equal(verify(mirror, &count), step);
        assert_true(count <= 3);
    }
    assert_true(count_files(mirror, "P-") <= 6);
    keep = 3;
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
    unsigned long from = 1 + seed % stride;
    int warned = 0, was_hit = 1;

    (void)state;
    for (; was_hit; from += stride) {
        struct capture capture;
        size_t count;

        capture_begin(&capture);
        struct tiny_result result = run_on(bad_disk(from), FIRST, with_checkpoints);
        warned += strstr(capture_end(&capture), "copied") != NULL;
        was_hit = atomic_load(&calls) >= from;
        fail_from = 0;
        assert_int_equal(result.status, DS_OK);
        tiny_result_fini(&result);
        assert_int_equal(newest_in(root), FIRST);
        /* what is there is whole, and the next launch has no less */
        struct ds_fs_stat stat;
        char path[DS_CHECKPOINT_PATH_BYTES];
        snprintf(path, sizeof path, "%s/RUN.json", mirror);
        const int is_there = ds_fs_stat(ds_fs_posix(), path, &stat) == 0;
        const uint64_t copied = is_there ? verify(mirror, &count) : 0;
        assert_true(copied == 0 || copied == INTERVAL || copied == FIRST);
        if (is_there)
            forget(root);
        assert_goes_on_from(is_there ? copied : FIRST);
        assert_int_equal(newest_in(mirror), STEPS);
        assert_int_equal(count_files(mirror, ".tmp"), 0);
        forget_all();
    }
    assert_true(warned > 3);
}

static void a_mirror_that_cannot_be_written_costs_a_line(void **state)
{
    struct capture capture;

    (void)state;
    capture_begin(&capture);
    struct tiny_result result = run_on(bad_disk(1), FIRST, with_checkpoints);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, DS_OK);
    assert_non_null(strstr(said, "no checkpoints are copied there"));
    tiny_result_fini(&result);
    fail_from = 0;
    assert_goes_on_from(FIRST);
    forget_all();
}

/* Nobody begins again because the only place that has checkpoints cannot be written to. One that has no news costs a
 * line, and what is saved meanwhile is the newest when it is back. */
static void a_mirror_that_can_only_be_read_does_not_cost_the_run(void **state)
{
    struct tiny_result result;
    struct capture capture;

    (void)state;
    forget_all();
    run(4);
    run(5);
    forget(root);
    is_read_only = 1;
    capture_begin(&capture);
    result = run_on(bad_disk(0), FIRST, with_checkpoints);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "has the newest checkpoint, of step 5"));
    tiny_result_fini(&result);
    is_read_only = 0;
    run(6);
    is_read_only = 1;
    result = run_on(bad_disk(0), FIRST, with_checkpoints);
    is_read_only = 0;
    assert_int_equal(result.status, DS_OK);
    tiny_result_fini(&result);
    assert_int_equal(newest_in(mirror), 6);
    assert_goes_on_from(FIRST);
    forget_all();
}

/* Another launch, on a host with a first directory of its own, claims the mirror. */
static void claim_mirror(const struct ds_step_report *report)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    snprintf(path, sizeof path, "%s/epochs/E-%016d", mirror, 2);
    if (report->step == 1) {
        const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_WRITE | DS_FS_CREATE, 0640);
        assert_true(file >= 0);
        (void)ds_fs_close(ds_fs_posix(), file);
    }
}

static void who_was_overtaken_in_the_mirror_goes(void **state)
{
    const struct tiny_case c = {.ranks = 2,
                                .stage = 3,
                                .steps = FIRST,
                                .global_batch = 4,
                                .micro_batch = 2,
                                .layers = 1,
                                .data = data,
                                .step = claim_mirror,
                                .adjust = with_checkpoints};
    struct tiny_result result;
    struct capture capture;

    (void)state;
    capture_begin(&capture);
    tiny_run(&c, &result);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, DS_ERR_FENCED);
    assert_non_null(strstr(said, "another launch owns the run"));
    tiny_result_fini(&result);
    assert_int_equal(newest_in(mirror), 0);
    forget_all();
}

/* Who claims again, for a rollback, has the next epoch in both, or was overtaken in one of them. */
static void who_was_overtaken_cannot_claim_again(void **state)
{
    const uint8_t run_name[16] = "one run", nonces[3][16] = {{1}, {1}, {2}};
    const struct ds_digest keys = {{1}};
    struct ds_checkpoint_dir *dirs[3];
    const char *const roots[3] = {root, mirror, mirror};

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
    struct tiny_result result = run_on(bad_disk(0), FIRST, with_checkpoints);
    is_lost_on_the_way = 0;
    fail_from = 0;
    assert_int_equal(result.status, DS_OK);
    tiny_result_fini(&result);
    assert_int_equal(newest_in(root), FIRST);
    assert_int_equal(newest_in(mirror), 4);
    snprintf(other, sizeof other, "%s-2", root);
    local = other;
    interval = 0;
    run(5); /* goes on behind step 4, and saves nothing */
    interval = INTERVAL;
    local = root;
    assert_goes_on_from(4);
    forget(other);
    forget_all();
}

static void two_runs_are_not_mixed(void **state)
{
    struct tiny_result result;
    struct capture capture;

    (void)state;
    run(4);
    char kept[600];
    snprintf(kept, sizeof kept, "%s-kept", mirror);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), mirror, kept), 0);
    forget(root);
    run(4);
    forget(mirror);
    assert_int_equal(ds_fs_rename(ds_fs_posix(), kept, mirror), 0);
    capture_begin(&capture);
    result = run_on(NULL, FIRST, with_checkpoints);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "holds another run than"));
    tiny_result_fini(&result);
    forget_all();
}

static int leave_at_once(uint32_t rank)
{
    return rank == 0;
}

/* The next launch may be on a host that has the mirror alone. */
static void who_is_asked_to_leave_copies_first(void **state)
{
    const struct tiny_case c = {.ranks = 2,
                                .stage = 3,
                                .steps = FIRST,
                                .global_batch = 4,
                                .micro_batch = 2,
                                .layers = 1,
                                .data = data,
                                .leave = leave_at_once,
                                .adjust = with_checkpoints};
    struct tiny_result result;

    (void)state;
    forget_all();
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_LEAVE);
    tiny_result_fini(&result);
    assert_true(newest_in(root) > 0);
    assert_int_equal(newest_in(mirror), newest_in(root));
    forget_all();
}

/* By a link, here; a mount does the same. Nothing is copied onto itself, and nobody else is blamed. */
static void one_directory_under_two_names_is_refused(void **state)
{
    struct tiny_result result;
    struct capture capture;

    (void)state;
    forget_all();
    assert_int_equal(ds_fs_mkdirs(ds_fs_posix(), root, 0750), 0);
    assert_int_equal(symlink(root, mirror), 0);
    capture_begin(&capture);
    result = run_on(NULL, FIRST, with_checkpoints);
    const char *said = capture_end(&capture);
    assert_int_equal(result.status, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "is the same directory as"));
    tiny_result_fini(&result);
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

    ds_log.is_leader = 0;
    seed = test_seed("test_mirror");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    snprintf(root, sizeof root, "%s/checkpoints", folder);
    snprintf(mirror, sizeof mirror, "%s/mirror", folder);
    local = root;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
