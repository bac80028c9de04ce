// link: checkpoint comm storage base
/* What launches leave in a directory of checkpoints does not grow with their number; nothing goes that somebody is fenced
 * off by, or that says of a checkpoint that it must not be loaded. What power takes meanwhile is
 * test_checkpoint_crash.c's. */
#include "capture.h"
#include "checkpoint_rig.h"
#include "watch_fs.h"

#include "dstrain/random.h"

#define MIRROR "/run/mirror"

static int make_disk(void **state)
{
    struct ds_fs *fs;

    if (ds_fs_sim_open(&fs) != DS_OK)
        return -1;
    *state = fs;
    return ds_fs_mkdir(fs, "/run", 0755);
}

static int close_disk(void **state)
{
    const int leaks = ds_fs_sim_open_files(*state) != 0;

    ds_fs_sim_close(*state);
    return leaks;
}

static size_t count_names(struct ds_fs *fs, const char *folder, const char *with)
{
    char **names;
    size_t count, found = 0;

    assert_int_equal(ds_fs_readdir(fs, folder, &names, &count), 0);
    for (size_t i = 0; i < count; i++)
        found += strstr(names[i], with) != NULL;
    free(names);
    return found;
}

/* ---- how much there is */

/* A launch that saves `saves` times and is killed while it writes. */
static void launch_once(struct ds_fs *fs, uint64_t *step, int saves, uint64_t keep_every)
{
    const struct ds_checkpoint_retention keep = {.keep_last = 2, .keep_every = keep_every};
    char path[DS_CHECKPOINT_PATH_BYTES], tmp[DS_CHECKPOINT_PATH_BYTES + 8];
    struct launch l;

    launch_init(&l, fs, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (int i = 0; i < saves; i++) {
        int committed = 0;

        assert_ok(launch_save(&l, *step += 10, &committed));
        assert_true(committed);
        assert_ok(ds_checkpoint_retain(l.dir, &keep, *step));
    }
    const struct ds_manifest_id id = {ds_checkpoint_dir_epoch(l.dir), *step + 10};
    ds_checkpoint_manifest_path(RIG_ROOT, &id, path);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    assert_ok(ds_fs_write_file(fs, tmp, "cut off", 7));
    snprintf(tmp, sizeof tmp, RIG_ROOT "/epochs/E-%016llu.base.json.tmp",
             (unsigned long long)id.epoch);
    assert_ok(ds_fs_write_file(fs, tmp, "cut off", 7));
    snprintf(tmp, sizeof tmp, RIG_ROOT "/RUN.json.tmp-%llu", (unsigned long long)id.epoch);
    assert_ok(ds_fs_write_file(fs, tmp, "cut off", 7));
    launch_fini(&l);
}

static void epochs_do_not_grow_with_launches(void **state)
{
    static const struct {
        int saves;
        uint64_t keep_every;
    } rows[] = {{0, 0}, {1, 0}, {3, 0}, {1, 50}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ds_fs *fs;
        uint64_t step = 0;

        assert_ok(ds_fs_sim_open(&fs));
        assert_int_equal(ds_fs_mkdir(fs, "/run", 0755), 0);
        for (int n = 0; n < 30; n++) {
            launch_once(fs, &step, rows[i].saves, rows[i].keep_every);
            /* its own claim, base and the rest of each */
            assert_int_equal(count_names(fs, RIG_ROOT "/epochs", "E-"), 3);
            assert_int_equal(count_names(fs, RIG_ROOT "/manifests", ".tmp"), 1);
            assert_int_equal(count_names(fs, RIG_ROOT, "RUN.json.tmp"), 1);
        }
        ds_fs_sim_close(fs);
    }
}

/* ---- what it says */

/* "1:7/100 0:6/90b ..." of both directories */
static void print_list(struct ds_fs *fs, char *to, size_t bytes)
{
    struct ds_checkpoint_list list;
    size_t at = 0;

    to[0] = '\0';
    assert_ok(ds_checkpoint_list_both(fs, RIG_ROOT, MIRROR, &list));
    for (size_t i = 0; i < list.count && at < bytes; i++)
        at += (size_t)snprintf(to + at, bytes - at, "%u:%llu/%llu%c ", list.entries[i].root,
                               (unsigned long long)list.entries[i].id.epoch,
                               (unsigned long long)list.entries[i].id.step,
                               "gbo"[list.entries[i].standing]);
    ds_checkpoint_list_fini(&list);
}

struct script {
    struct ds_fs *fs;
    struct ds_random random;
    uint64_t drawn, step, launches;
};

static uint64_t draw(struct script *s, uint64_t below)
{
    return ds_random_below(s->random, s->drawn++, below);
}

static struct ds_checkpoint_dir *open_both(struct script *s)
{
    const uint8_t nonce[16] = {5, (uint8_t)s->launches++};
    struct ds_checkpoint_dir *dir = NULL, *mirror = NULL;

    assert_ok(ds_checkpoint_dir_open(s->fs, RIG_ROOT, rig_run, nonce, &rig_keys, &dir));
    assert_ok(ds_checkpoint_dir_open(s->fs, MIRROR, rig_run, nonce, &rig_keys, &mirror));
    ds_checkpoint_join(dir, mirror);
    return dir;
}

/* From any that may be loaded, or from the beginning, as after a rollback or where newer ones are damaged. */
static void begin(struct script *s, struct ds_checkpoint_dir *dir)
{
    char before[8192], after[8192];
    struct ds_checkpoint_list list;
    struct ds_manifest_id base = {0, 0};
    int has_base = 0;

    assert_ok(ds_checkpoint_claim(dir));
    assert_ok(ds_checkpoint_list_both(s->fs, RIG_ROOT, MIRROR, &list));
    for (size_t i = 0; i < list.count && !has_base && draw(s, 12) > 0; i++) {
        has_base = list.entries[i].standing == DS_CHECKPOINT_GOOD && draw(s, 3) > 0;
        base = list.entries[i].id;
    }
    ds_checkpoint_list_fini(&list);
    s->step = has_base ? base.step : 0;
    assert_ok(ds_checkpoint_write_base(dir, has_base ? &base : NULL, NULL, 0, ""));
    print_list(s->fs, before, sizeof before);
    assert_ok(ds_checkpoint_tidy(dir));
    print_list(s->fs, after, sizeof after);
    assert_string_equal(before, after);
}

/* Manifests alone, in either directory: what is listed asks for no more. */
static void save_somewhere(struct script *s, struct ds_checkpoint_dir *dir)
{
    struct ds_logical_tensor tensor = {
        .name = "w", .kind = DS_STATE_KIND_MASTER, .dtype = DS_F32, .dim_count = 1, .shape = {4}};
    struct ds_manifest manifest = {.catalogue = {&tensor, 1},
                                   .id = {ds_checkpoint_dir_epoch(dir), s->step += 1 + draw(s, 9)},
                                   .layout = {1, 1, 1, 1, 1, 1, 2048}};

    memcpy(manifest.run, rig_run, sizeof manifest.run);
    if (draw(s, 4) > 0)
        assert_ok(ds_checkpoint_commit_manifest(dir, &manifest));
    if (draw(s, 3) == 0) {
        char path[DS_CHECKPOINT_PATH_BYTES], text[65536];
        size_t bytes;

        ds_checkpoint_manifest_path(MIRROR, &manifest.id, path);
        assert_ok(ds_manifest_write(&manifest, text, sizeof text, &bytes));
        assert_ok(ds_fs_write_file(s->fs, path, text, bytes));
    }
    const struct ds_checkpoint_retention keep = {.keep_last = 1 + (uint32_t)draw(s, 3)};
    if (draw(s, 3) == 0)
        assert_ok(ds_checkpoint_retain(dir, &keep, s->step));
}

static void what_is_listed_stands_as_it_did(void **state)
{
    const uint64_t seed = test_seed("test_checkpoint_tidy");

    (void)state;
    for (uint64_t run = 0; run < (test_is_long() ? 2000 : 60); run++) {
        struct script s = {.random = ds_random_of(seed + run, DS_RANDOM_TEST, 11)};

        assert_ok(ds_fs_sim_open(&s.fs));
        assert_int_equal(ds_fs_mkdir(s.fs, "/run", 0755), 0);
        for (int n = 0; n < 20; n++) {
            struct ds_checkpoint_dir *dir = open_both(&s);

            begin(&s, dir);
            for (uint64_t left = draw(&s, 6); left > 0; left--)
                save_somewhere(&s, dir);
            if (draw(&s, 3) == 0)
                begin(&s, dir); /* a rollback */
            ds_checkpoint_dir_close(dir);
        }
        ds_fs_sim_close(s.fs);
    }
}

/* ---- who is fenced off */

/* Others claim the number that a launch is about to claim, and the next one, which lets it go. */
struct race {
    struct watch_fs watch;
    struct ds_fs *sim;
    int is_armed;
};

static void overtake(void *user, const char *path)
{
    struct race *race = user;

    if (!race->is_armed || !strstr(path, "/epochs/E-0000000000000002"))
        return;
    race->is_armed = 0;
    for (int i = 0; i < 2; i++) {
        struct launch other;

        launch_init(&other, race->sim, 0);
        assert_ok(launch_start(&other, UINT64_MAX));
        launch_fini(&other);
    }
    assert_int_equal(count_names(race->sim, RIG_ROOT "/epochs", "E-0000000000000002"), 0);
}

/* Before it has said what others would have to believe. */
static void who_claims_a_number_that_went_is_fenced_off(void **state)
{
    struct race race = {.sim = *state};
    struct launch first, late, newest;
    struct capture capture;
    int committed = 0;

    race.watch =
        (struct watch_fs){.fs = {&watch_ops}, .inner = race.sim, .user = &race, .before = overtake};
    launch_init(&first, race.sim, 0);
    assert_ok(launch_start(&first, UINT64_MAX));
    assert_ok(launch_save(&first, 10, &committed));
    launch_fini(&first);
    launch_init(&late, &race.watch.fs, 0);
    race.is_armed = 1;
    capture_begin(&capture);
    const ds_status st = launch_start(&late, UINT64_MAX);
    const char *said = capture_end(&capture);
    assert_false(race.is_armed);
    assert_int_equal(st, DS_ERR_FENCED);
    assert_non_null(strstr(said, "epoch 3 was claimed by another launch"));
    assert_int_equal(count_names(race.sim, RIG_ROOT "/epochs", "E-0000000000000002.base"), 0);
    launch_fini(&late);
    launch_init(&newest, race.sim, 0);
    assert_ok(launch_start(&newest, UINT64_MAX));
    assert_int_equal(ds_checkpoint_dir_epoch(newest.dir), 4);
    assert_true(newest.base.step == 10);
    launch_fini(&newest);
}

static void who_was_overtaken_removes_nothing(void **state)
{
    struct ds_fs *fs = *state;
    struct launch old, new;

    launch_init(&old, fs, 0);
    launch_init(&new, fs, 0);
    assert_ok(launch_start(&old, UINT64_MAX));
    assert_ok(launch_start(&new, UINT64_MAX));
    const size_t before = count_names(fs, RIG_ROOT "/epochs", "E-");
    ds_log.terminal = -1;
    assert_int_equal(ds_checkpoint_tidy(old.dir), DS_ERR_FENCED);
    ds_log.terminal = 2;
    assert_int_equal(count_names(fs, RIG_ROOT "/epochs", "E-"), before);
    launch_fini(&old);
    launch_fini(&new);
}

#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, close_disk)

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(epochs_do_not_grow_with_launches),
    cmocka_unit_test(what_is_listed_stands_as_it_did),
    ON_DISK(who_claims_a_number_that_went_is_fenced_off),
    ON_DISK(who_was_overtaken_removes_nothing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
