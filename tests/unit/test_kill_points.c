// link: launch
// timeout: 10800
/* Four ranks are killed together at a call to the disk: behind it, or in the middle of what it writes, at a border of
 * 512 bytes or of 4 KiB. Killed before a call is killed behind the last one. What they were doing was to claim an
 * epoch, load, train, save twice and tidy up. Whatever the call: the same command goes on from the newest checkpoint
 * that was acknowledged, or from one that was about to be, and ends with the bits of a run that nobody disturbed; what
 * is committed verifies, two of them once there have been two, and what the dead launch left behind goes.
 * Every 4th call, drawn; DSTRAIN_TEST_LONG: all. */
#include "saved_run.h"
#include "split_fs.h"

#include "dstrain/random.h"

#include <stdatomic.h>
#include <stdio.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { STRIDE = 10 };
#else
enum { STRIDE = 4 };
#endif
enum { RANKS = 4, INTERVAL = 3, BEFORE = 6, STEPS = 12, KEEP = 2, KILLS_MAX = 512 };

static const char *const root = "/run/checkpoints";
static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 5), drawn++, bound);
}

/* ---- kills: the disk as the dead leave it */

struct kill {
    struct ds_fs *disk;
    uint64_t acked; /* the newest step that had been acknowledged */
    char call[64];
};

struct watcher {
    struct split_fs split;
    uint64_t calls, first; /* every STRIDE-th call from `first` on */
    uint64_t named,
        acked; /* steps: of the newest manifest that has its name, and whose name will last */
    struct kill *kills; /* [KILLS_MAX] */
    size_t kill_count;
    struct ds_random random;
    uint64_t drawn;
};

static struct kill *add_kill(struct watcher *w, const struct split_call *call, const char *how)
{
    const char *name = strrchr(call->path, '/');

    if (w->kill_count == KILLS_MAX)
        return NULL;
    struct kill *kill = &w->kills[w->kill_count++];
    kill->acked = w->acked;
    snprintf(kill->call, sizeof kill->call, "%s %s %.40s", how, call->what, name ? name + 1 : "");
    if (ds_fs_sim_copy(w->split.sim, &kill->disk) != DS_OK)
        abort();
    return kill;
}

/* A part of it, up to a border of `unit` bytes of the file. */
static void tear(struct watcher *w, const struct split_call *call, uint64_t unit)
{
    const uint64_t first = call->offset / unit + 1,
                   borders = (call->offset + call->bytes - 1) / unit + 1 - first;

    if (borders == 0)
        return;
    const uint64_t border = (first + ds_random_below(w->random, w->drawn++, borders)) * unit;
    struct kill *kill = add_kill(w, call, unit == 512 ? "in 512 B of" : "in 4 KiB of");
    if (!kill)
        return;
    int file = ds_fs_open(kill->disk, call->path, DS_FS_WRITE, 0);
    if (ds_fs_write_all(kill->disk, file, call->from, border - call->offset, call->offset) != 0)
        abort();
    (void)ds_fs_close(kill->disk, file);
}

static void before_call(void *user, const struct split_call *call)
{
    struct watcher *w = user;

    if (!call->from || w->calls % STRIDE != w->first)
        return;
    tear(w, call, 512);
    tear(w, call, 4096);
}

static void after_call(void *user, const struct split_call *call)
{
    const char *name = strstr(call->path, "/manifests/M-");
    struct watcher *w = user;
    unsigned long long epoch, step;

    if (name && strcmp(call->what, "rename") == 0 &&
        sscanf(name, "/manifests/M-%llu-%llu.json", &epoch, &step) == 2)
        w->named = step;
    if (strcmp(call->what, "fsync_dir") == 0 && strstr(call->path, "/manifests"))
        w->acked = w->named;
    if (w->calls++ % STRIDE == w->first)
        (void)add_kill(w, call, "behind");
}

/* ---- runs */

static void on_the_simulated_disk(struct ds_config *config)
{
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static struct tiny_result run(struct ds_fs *fs, uint64_t steps, saved_adjust *adjust)
{
    const struct tiny_case c = {.ranks = RANKS,
                                .stage = 3,
                                .steps = steps,
                                .global_batch = 4,
                                .micro_batch = 1,
                                .layers = 1,
                                .data = saved.data,
                                .fs = fs,
                                .adjust = adjust};
    struct tiny_result result;

    tiny_run(&c, &result);
    return result;
}

static struct ds_fs *disk_of_first_launch(void)
{
    struct split_fs split;
    struct ds_fs *sim;

    assert_ok(ds_fs_sim_open(&sim));
    assert_int_equal(ds_fs_mkdir(sim, "/run", 0755), 0);
    split_init(&split, sim, root);
    struct tiny_result result = run(&split.fs, BEFORE, with_checkpoints);
    assert_int_equal(result.status, DS_OK);
    tiny_result_fini(&result);
    return sim;
}

/* ---- what is left */

/* How many checkpoints there are, all of which verify, and the packs that they name. */
static size_t verify(struct ds_fs *disk, const char *call, size_t *pack_count)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_checkpoint_list list;

    *pack_count = 0;
    assert_ok(ds_checkpoint_list_make(disk, root, &list));
    const size_t count = list.count;
    for (size_t i = 0; i < count; i++) {
        struct ds_manifest manifest;
        ds_status st = ds_checkpoint_read_manifest(disk, root, &list.entries[i].id, &manifest);

        if (st == DS_OK) {
            st = ds_checkpoint_verify(disk, root, &manifest, buffer);
            *pack_count += manifest.pack_count;
            ds_manifest_fini(&manifest);
        }
        if (st != DS_OK)
            fail_msg("%s: the checkpoint of step %llu does not verify", call,
                     (unsigned long long)list.entries[i].id.step);
    }
    ds_checkpoint_list_fini(&list);
    return count;
}

static size_t count_packs(struct ds_fs *disk)
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names;
    size_t count = 0;

    snprintf(path, sizeof path, "%s/data/0", root);
    assert_int_equal(ds_fs_readdir(disk, path, &names, &count), 0);
    free(names);
    return count;
}

static void check_kill(struct kill *kill, const struct tiny_result *whole)
{
    struct split_fs split;
    size_t pack_count;

    ds_log.terminal = -1;
    if (verify(kill->disk, kill->call, &pack_count) < 2)
        fail_msg("%s: not two checkpoints are there", kill->call);
    split_init(&split, kill->disk, root);
    struct tiny_result rest = run(&split.fs, STEPS, with_checkpoints);
    ds_log.terminal = 2;
    if (rest.status != DS_OK)
        fail_msg("%s: it does not go on: %s", kill->call, ds_status_text(rest.status));
    const uint64_t behind = saved_went_on_from(&rest), from = behind < STEPS ? behind : STEPS;
    if (from < kill->acked || from % INTERVAL != 0)
        fail_msg("%s: it goes on behind step %llu, and %llu was acknowledged", kill->call,
                 (unsigned long long)from, (unsigned long long)kill->acked);
    if (memcmp(rest.loss + from, whole->loss + from, (STEPS - from) * sizeof *rest.loss) != 0 ||
        memcmp(rest.params, whole->params, whole->param_elems * sizeof *rest.params) != 0)
        fail_msg("%s: from step %llu on other bits", kill->call, (unsigned long long)from);
    assert_true(verify(kill->disk, kill->call, &pack_count) >= 2);
    if (from < STEPS) /* the last commit has tidied up behind the dead */
        assert_int_equal(count_packs(kill->disk), pack_count);
    assert_int_equal(ds_fs_sim_open_files(kill->disk), 0);
    tiny_result_fini(&rest);
}

/* Of one launch, every STRIDE-th call from `first` on. */
static void check_launch(struct ds_fs *before, uint64_t first, const struct tiny_result *whole)
{
    struct watcher *w = calloc(1, sizeof *w);

    assert_non_null(w);
    assert_non_null(w->kills = calloc(KILLS_MAX, sizeof *w->kills));
    w->first = first;
    w->named = w->acked = BEFORE;
    w->random = ds_random_of(saved.seed, DS_RANDOM_TEST, 6 + first);
    struct ds_fs *disk;
    assert_ok(ds_fs_sim_copy(before, &disk));
    split_init(&w->split, disk, root);
    w->split.user = w;
    w->split.before = before_call;
    w->split.after = after_call;
    struct tiny_result result = run(&w->split.fs, STEPS, with_checkpoints);
    assert_int_equal(result.status, DS_OK);
    assert_memory_equal(result.params, whole->params, whole->param_elems * sizeof *whole->params);
    assert_int_equal(w->acked, STEPS);
    assert_true(w->calls > 60 && w->kill_count < KILLS_MAX);
    for (size_t i = 0; i < w->kill_count; i++) {
        check_kill(&w->kills[i], whole);
        ds_fs_sim_close(w->kills[i].disk);
    }
    printf("  %zu kills in %llu calls\n", w->kill_count, (unsigned long long)w->calls);
    tiny_result_fini(&result);
    ds_fs_sim_close(disk);
    free(w->kills);
    free(w);
}

static void a_kill_at_any_call_costs_nothing_that_was_acknowledged(void **state)
{
    struct tiny_result whole = run(ds_fs_posix(), STEPS, without_checkpoints);
    struct ds_fs *before = disk_of_first_launch();

    (void)state;
    assert_int_equal(whole.status, DS_OK);
    if (test_is_long())
        for (uint64_t first = 0; first < STRIDE; first++)
            check_launch(before, first, &whole);
    else
        check_launch(before, draw(STRIDE), &whole);
    ds_fs_sim_close(before);
    tiny_result_fini(&whole);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kill_at_any_call_costs_nothing_that_was_acknowledged),
    };
    int failed;

    saved_begin("test_kill_points", 64);
    saved.interval = INTERVAL;
    saved.keep = KEEP;
    saved.decay_steps = STEPS;
    saved.also = on_the_simulated_disk;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
