// link: checkpoint comm storage base
// timeout: 10800
/* A directory of checkpoints against a model of it that is a list of numbers: saves, saves that fail, retention,
 * rollbacks, burials, launches, manifests that are damaged, and losses of power between any two calls, in any order. What
 * may be loaded is what the model says, whatever has happened; all of it is there, to the byte; and no file stays that
 * nobody needs. 10,000 operations; DSTRAIN_TEST_LONG: a million. */
#include "checkpoint_rig.h"
#include "watch_fs.h"

#if defined(__SANITIZE_ADDRESS__)
enum { OPERATIONS = 1500 };
#else
enum { OPERATIONS = 10000 };
#endif
enum { WORLD_OPERATIONS = 250, GOOD_MAX = 512 };

/* What may be loaded, oldest first. */
struct good {
    struct ds_manifest_id ids[GOOD_MAX];
    size_t count;
};

struct world {
    struct watch_fs watch;
    struct ds_random random;
    uint64_t drawn;
    int is_delta;
    struct launch *launch;
    struct good good;
    struct good ghosts;  /* failed saves whose manifests may come back with power */
    struct good trusted; /* whose bytes this epoch has seen */
    uint64_t committed,
        tried; /* the newest steps that this epoch has committed, has tried to save */
    /* a call of this operation that fails, or behind which power does; 0: none */
    uint64_t calls, fails_at, changes, cut_at;
    struct ds_fs *cut;
};

static uint64_t draw(struct world *w, uint64_t bound)
{
    return ds_random_below(w->random, w->drawn++, bound);
}

/* ---- the model */

static int has(const struct good *good, const struct ds_manifest_id *id)
{
    for (size_t i = 0; i < good->count; i++)
        if (ds_manifest_id_compare(&good->ids[i], id) == 0)
            return 1;
    return 0;
}

static void add(struct good *good, const struct ds_manifest_id *id)
{
    assert_true(good->count < GOOD_MAX);
    if (!has(good, id))
        good->ids[good->count++] = *id;
}

static void drop(struct good *good, size_t index)
{
    memmove(good->ids + index, good->ids + index + 1, (--good->count - index) * sizeof *good->ids);
}

static int is_same(const struct good *a, const struct good *b)
{
    return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof *a->ids) == 0;
}

/* A new epoch goes on from `base`: nothing newer counts any more. */
static void go_back(struct good *good, uint64_t step)
{
    while (good->count > 0 && good->ids[good->count - 1].step > step)
        good->count--;
}

/* The last ones, those that a number divides, one that is pinned and the two newest whose bytes this epoch has seen.
 * Where it has seen one alone, which it has made, two others in the stead of the second, and where it has made none,
 * all. */
static void keep(struct world *w, const struct ds_checkpoint_retention *how)
{
    struct good kept = {.count = 0};
    size_t seen = 0, others = 0;

    for (size_t i = 0; i < w->good.count; i++)
        seen += (size_t)has(&w->trusted, &w->good.ids[i]);
    if (seen == 0 || (seen == 1 && w->committed == 0))
        return;
    others = seen == 1 ? 2 : 0;
    seen = 0;
    for (size_t i = w->good.count; i-- > 0;) {
        const struct ds_manifest_id *id = &w->good.ids[i];
        const int is_trusted = has(&w->trusted, id), is_seen = seen < 2 && is_trusted;
        const int is_other = !is_trusted && others > 0;

        seen += (size_t)is_seen;
        others -= (size_t)is_other;
        if (is_seen || is_other || w->good.count - i <= how->keep_last ||
            id->step % how->keep_every == 0 || ds_manifest_id_compare(id, how->pinned) == 0)
            kept.ids[kept.count++] = *id;
    }
    for (size_t i = 0; i < kept.count; i++)
        w->good.ids[i] = kept.ids[kept.count - 1 - i];
    w->good.count = kept.count;
}

/* ---- the disk */

static int fails_now(void *user, const char *what, const char *path)
{
    struct world *w = user;

    (void)what;
    (void)path;
    return ++w->calls == w->fails_at ? -EIO : 0;
}

static void cut_now(void *user)
{
    struct world *w = user;

    if (++w->changes == w->cut_at)
        assert_ok(ds_fs_sim_copy(w->watch.inner, &w->cut));
}

static void read_good(struct ds_fs *disk, struct good *out)
{
    struct ds_checkpoint_list list;

    out->count = 0;
    assert_ok(ds_checkpoint_list_make(disk, RIG_ROOT, &list));
    for (size_t i = list.count; i-- > 0;)
        if (list.entries[i].standing == DS_CHECKPOINT_GOOD)
            add(out, &list.entries[i].id);
    ds_checkpoint_list_fini(&list);
}

/* Every pack that a manifest names; every byte where `bytes`. What a failed save left may have lost one of two places. */
static void check_one(const struct world *w, const struct ds_manifest_id *id, int bytes)
{
    struct ds_fs *disk = w->watch.inner;
    struct ds_manifest manifest;

    assert_ok(ds_checkpoint_read_manifest(disk, RIG_ROOT, id, &manifest));
    for (uint32_t i = 0; i < manifest.pack_count && !has(&w->ghosts, id); i++) {
        const struct ds_manifest_pack *pack = &manifest.packs[i];
        char path[DS_CHECKPOINT_PATH_BYTES];
        struct ds_fs_stat stat;

        ds_checkpoint_pack_path(RIG_ROOT, pack->dir, &pack->pack.id, path);
        assert_int_equal(ds_fs_stat(disk, path, &stat), 0);
        assert_int_equal(stat.bytes, pack->pack.file_bytes);
    }
    if (bytes)
        assert_int_equal(rig_read_bytes(disk, &manifest, w->is_delta), RIG_BYTES_RIGHT);
    ds_manifest_fini(&manifest);
}

static void check_world(struct world *w, int all_bytes)
{
    struct good found;

    read_good(w->watch.inner, &found);
    if (!is_same(&found, &w->good))
        fail_msg("%zu checkpoints may be loaded, and the model has %zu", found.count,
                 w->good.count);
    const size_t chosen = found.count ? draw(w, found.count) : 0;
    for (size_t i = 0; i < found.count; i++)
        check_one(w, &found.ids[i], all_bytes || i == chosen);
}

static int is_named(const struct world *w, const struct ds_pack_id *id)
{
    struct ds_checkpoint_list list;
    int is = 0;

    assert_ok(ds_checkpoint_list_make(w->watch.inner, RIG_ROOT, &list));
    for (size_t i = 0; i < list.count && !is; i++) {
        struct ds_manifest manifest;

        assert_ok(
            ds_checkpoint_read_manifest(w->watch.inner, RIG_ROOT, &list.entries[i].id, &manifest));
        for (uint32_t p = 0; p < manifest.pack_count; p++)
            is |= ds_pack_id_equal(&manifest.packs[p].pack.id, id);
        ds_manifest_fini(&manifest);
    }
    ds_checkpoint_list_fini(&list);
    return is;
}

/* Behind a retention that went well: what lies there is named, or of a save of this launch that is not over for it. */
static void check_no_rest(const struct world *w)
{
    const uint64_t epoch = ds_checkpoint_dir_epoch(w->launch->dir);

    for (uint32_t rank = 0; rank < RIG_RANKS; rank++) {
        char path[DS_CHECKPOINT_PATH_BYTES], **names;
        size_t count;

        snprintf(path, sizeof path, "%s/data/%u", RIG_ROOT, rank);
        if (ds_fs_readdir(w->watch.inner, path, &names, &count) != 0)
            continue;
        for (size_t i = 0; i < count; i++) {
            struct ds_pack_id id;

            assert_true(ds_pack_name_parse(names[i], &id));
            if (!(id.epoch == epoch && id.step > w->committed) && !is_named(w, &id))
                fail_msg("nobody needs %s", names[i]);
        }
        free(names);
    }
}

/* ---- launches */

static void end_launch(struct world *w)
{
    if (w->launch)
        launch_fini(w->launch);
    free(w->launch);
    w->launch = NULL;
}

static uint64_t newest_step(const struct world *w)
{
    return w->good.count ? w->good.ids[w->good.count - 1].step : 0;
}

/* Begins, or goes back as far as `step`; the model knows behind what. */
static void start(struct world *w, uint64_t step)
{
    if (!w->launch) {
        w->launch = calloc(1, sizeof *w->launch);
        assert_non_null(w->launch);
        launch_init(w->launch, &w->watch.fs, w->is_delta);
    }
    assert_ok(launch_start(w->launch, step));
    w->trusted.count = 0;
    go_back(&w->good, step);
    assert_int_equal(w->launch->has_base, w->good.count > 0);
    if (w->good.count > 0) {
        assert_int_equal(ds_manifest_id_compare(&w->launch->base, &w->good.ids[w->good.count - 1]),
                         0);
        add(&w->trusted, &w->launch->base);
    }
    w->committed = w->tried = 0;
}

/* ---- operations */

static void op_save(struct world *w)
{
    const uint64_t step = 1 + draw(w, 9) + (w->tried > newest_step(w) ? w->tried : newest_step(w));
    int committed = 0;

    w->tried = step;
    assert_ok(launch_save(w->launch, step, &committed));
    assert_int_equal(committed, w->fails_at == 0 || w->calls < w->fails_at);
    const struct ds_manifest_id id = {ds_checkpoint_dir_epoch(w->launch->dir), step};
    struct good found;
    read_good(w->watch.inner, &found);
    if (committed ||
        has(&found, &id)) /* what is there but was not acknowledged may be loaded, too */
        add(&w->good, &id);
    if (!committed) {
        add(&w->ghosts, &id);
        return;
    }
    add(&w->trusted, &id);
    w->committed = step;
}

static void op_failing_save(struct world *w)
{
    w->fails_at = 1 + draw(w, 60);
    op_save(w);
    w->fails_at = 0;
}

static void op_retain(struct world *w)
{
    const struct ds_manifest_id none = {0, 0};
    const struct ds_checkpoint_retention how = {
        .keep_last = 1 + (uint32_t)draw(w, 4),
        .keep_every = 2 + draw(w, 30),
        .pinned = w->good.count ? &w->good.ids[draw(w, w->good.count)] : &none,
        .pinned_count = 1};
    const struct ds_manifest_id pinned = *how.pinned; /* the list is about to move */
    struct ds_checkpoint_retention of_model = how;

    of_model.pinned = &pinned;
    assert_ok(ds_checkpoint_retain(w->launch->dir, &of_model, w->committed));
    keep(w, &of_model);
    check_no_rest(w);
}

/* Behind any that is there; the oldest stays. */
static void op_roll_back(struct world *w)
{
    if (w->good.count < 2)
        return;
    const uint64_t first = w->good.ids[0].step;
    start(w, first + draw(w, newest_step(w) + 3 - first));
}

/* As a run does that goes back: what it buries it does not refer to afterwards. */
static void op_bury(struct world *w)
{
    if (w->good.count < 2)
        return;
    const size_t index = draw(w, w->good.count);
    assert_ok(ds_checkpoint_bury(w->launch->dir, &w->good.ids[index], "the test says so"));
    drop(&w->good, index);
    start(w, UINT64_MAX);
}

static void op_launch(struct world *w)
{
    end_launch(w);
    start(w, UINT64_MAX);
}

/* The newest manifest loses its end: the next launch goes on from the one before it. */
static void op_damage(struct world *w)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    if (w->good.count < 3)
        return;
    end_launch(w);
    ds_checkpoint_manifest_path(RIG_ROOT, &w->good.ids[w->good.count - 1], path);
    int file = ds_fs_open(w->watch.inner, path, DS_FS_WRITE, 0);
    assert_int_equal(ds_fs_truncate(w->watch.inner, file, 100 + draw(w, 300)), 0);
    assert_int_equal(ds_fs_fsync(w->watch.inner, file), 0);
    assert_int_equal(ds_fs_close(w->watch.inner, file), 0);
    w->good.count--;
    start(w, UINT64_MAX);
    assert_int_equal(ds_fs_unlink(w->watch.inner, path), 0);
    assert_int_equal(ds_fs_fsync_dir(w->watch.inner, RIG_ROOT "/manifests"), 0);
}

typedef void operation(struct world *w);

static operation *draw_operation(struct world *w)
{
    static operation *const all[] = {op_save,         op_save,   op_save,   op_save,   op_save,
                                     op_failing_save, op_retain, op_retain, op_retain, op_roll_back,
                                     op_bury,         op_launch, op_damage};

    return all[draw(w, sizeof all / sizeof *all)];
}

/* ---- power */

static int reads(const struct world *w, const struct ds_manifest_id *id)
{
    struct ds_manifest manifest;

    if (ds_checkpoint_read_manifest(w->watch.inner, RIG_ROOT, id, &manifest) != DS_OK)
        return 0;
    const enum rig_bytes bytes = rig_read_bytes(w->watch.inner, &manifest, w->is_delta);
    ds_manifest_fini(&manifest);
    assert_true(bytes != RIG_BYTES_WRONG);
    return bytes == RIG_BYTES_RIGHT;
}

/* What is there is what was before the operation, or behind it, or a part of the way. What a failed save left may have
 * come back, whole or without its packs: then it is `broken`. */
static void accept(struct world *w, const struct good *before, struct good *broken)
{
    const struct good behind = w->good;
    struct good found;

    read_good(w->watch.inner, &found);
    w->good.count = broken->count = 0;
    for (size_t i = 0; i < found.count; i++) {
        const struct ds_manifest_id *id = &found.ids[i];
        const int is_known = has(before, id) || has(&behind, id);

        if (!is_known && !has(&w->ghosts, id))
            fail_msg("a checkpoint comes from nowhere");
        add(is_known || reads(w, id) ? &w->good : broken, id);
    }
    for (size_t i = 0; i < before->count; i++)
        if (has(&behind, &before->ids[i]) && !has(&found, &before->ids[i]))
            fail_msg("a checkpoint is lost with power");
}

/* They were passed over; the model is not to know of them any more. */
static void forget_broken(struct world *w, const struct good *broken)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    for (size_t i = 0; i < broken->count; i++) {
        ds_checkpoint_manifest_path(RIG_ROOT, &broken->ids[i], path);
        assert_int_equal(ds_fs_unlink(w->watch.inner, path), 0);
    }
    if (broken->count > 0)
        assert_int_equal(ds_fs_fsync_dir(w->watch.inner, RIG_ROOT "/manifests"), 0);
}

/* Power fails somewhere in the operation, and what is not synced survives by chance. */
static void with_loss_of_power(struct world *w, operation *do_it)
{
    const struct good before = w->good;
    struct good broken;

    w->changes = 0;
    w->cut_at = 1 + draw(w, 50);
    do_it(w);
    w->cut_at = 0;
    end_launch(w);
    if (w->cut) {
        ds_fs_sim_close(w->watch.inner);
        w->watch.inner = w->cut;
        w->cut = NULL;
    }
    ds_fs_sim_crash(w->watch.inner, 2 + draw(w, 1u << 30));
    accept(w, &before, &broken);
    start(w, UINT64_MAX);
    forget_broken(w, &broken);
    check_world(w, 1);
}

/* ---- worlds */

static void world_open(struct world *w, uint64_t seed, int is_delta)
{
    struct ds_fs *disk;

    *w = (struct world){.random = ds_random_of(seed, DS_RANDOM_TEST, 12), .is_delta = is_delta};
    assert_ok(ds_fs_sim_open(&disk));
    assert_int_equal(ds_fs_mkdir(disk, "/run", 0755), 0);
    assert_int_equal(ds_fs_fsync_dir(disk, "/"), 0);
    w->watch = (struct watch_fs){
        .fs = {&watch_ops}, .inner = disk, .user = w, .fails = fails_now, .changed = cut_now};
    start(w, UINT64_MAX);
}

static void check_seed(uint64_t seed, uint64_t operations)
{
    struct world *w = malloc(sizeof *w);

    assert_non_null(w);
    world_open(w, seed, (int)(seed & 1));
    for (uint64_t i = 0; i < operations; i++) {
        operation *do_it = draw_operation(w);

        w->calls = 0;
        if (draw(w, 12) == 0 && do_it != op_failing_save && do_it != op_damage)
            with_loss_of_power(w, do_it);
        else
            do_it(w);
        check_world(w, i % 50 == 0);
    }
    end_launch(w);
    assert_int_equal(ds_fs_sim_open_files(w->watch.inner), 0);
    ds_fs_sim_close(w->watch.inner);
    free(w);
}

static void the_directory_is_what_the_model_says(void **state)
{
    const uint64_t seed = test_seed("test_checkpoint_model");
    const uint64_t wanted = test_is_long() ? 1000000 : OPERATIONS;

    (void)state;
    ds_log.terminal = -1;
    for (uint64_t i = 0; i * WORLD_OPERATIONS < wanted; i++)
        if (test_is_mine(i))
            check_seed(seed + i, WORLD_OPERATIONS);
    ds_log.terminal = 2;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_directory_is_what_the_model_says),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
