// link: checkpoint comm storage base
/* A launch that finds its directory of checkpoints in trouble: a full disk, a folder that is gone. It ends with one
 * line that says where, why and what helps, and changes nothing that another one rests on; or it goes on, and says so. */
#include "capture.h"
#include "checkpoint_rig.h"
#include "damage.h"
#include "watch_fs.h"

#include <errno.h>

/* ---- a disk that fails one kind of call, where a path has something in it */

struct disk {
    struct watch_fs watch;
    struct ds_fs *sim;
    const char *what, *path;
    int code;
};

static int fails(void *user, const char *what, const char *path)
{
    const struct disk *disk = user;

    return disk->what && strcmp(what, disk->what) == 0 && strstr(path, disk->path) ? disk->code : 0;
}

static int make_disk(void **state)
{
    struct disk *disk = calloc(1, sizeof *disk);

    if (!disk || ds_fs_sim_open(&disk->sim) != DS_OK)
        return -1;
    disk->watch =
        (struct watch_fs){.fs = {&watch_ops}, .inner = disk->sim, .user = disk, .fails = fails};
    *state = disk;
    return ds_fs_mkdir(disk->sim, "/run", 0755);
}

static int close_disk(void **state)
{
    struct disk *disk = *state;
    const int leaks = ds_fs_sim_open_files(disk->sim) != 0;

    ds_fs_sim_close(disk->sim);
    free(disk);
    return leaks;
}

static void start(struct launch *l, struct disk *disk)
{
    launch_init(l, &disk->watch.fs, 0);
    assert_ok(launch_start(l, UINT64_MAX));
}

static void save(struct launch *l, uint64_t step)
{
    int committed = 0;

    assert_ok(launch_save(l, step, &committed));
    assert_true(committed);
}

/* A launch that ends with `status`; what it says. */
static const char *start_ends(struct disk *disk, ds_status status)
{
    static struct capture capture;
    struct launch l;

    launch_init(&l, &disk->watch.fs, 0);
    capture_begin(&capture);
    const ds_status st = launch_start(&l, UINT64_MAX);
    const char *said = capture_end(&capture);
    launch_fini(&l);
    if (st != status)
        fail_msg("%s, and not %s: %s", ds_status_text(st), ds_status_text(status), said);
    return said;
}

static void assert_says(const char *said, const char *words)
{
    if (!strstr(said, words))
        fail_msg("'%s' is not in: %s", words, said);
}

/* ---- a full disk */

/* Good checkpoints are there, and no launch can claim them: a person is told, the launch before goes on, and so does the
 * next one when there is room. */
static void who_finds_no_room_to_claim_ends_and_says_so(void **state)
{
    static const struct {
        const char *what, *path;
        int code;
    } rows[] = {
        {"open", "/epochs/E-", -ENOSPC},   {"pwrite", "/epochs/E-", -ENOSPC},
        {"pwrite", "/epochs/E-", -EDQUOT}, {"fsync", "/epochs/E-", -ENOSPC},
        {"fsync_dir", "/epochs", -ENOSPC}, {"open", ".base.json", -ENOSPC},
        {"pwrite", ".base.json", -EDQUOT}, {"rename", ".base.json", -ENOSPC},
    };
    struct disk *disk = *state;
    struct launch before, next;

    start(&before, disk);
    save(&before, 10);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int is_claim = strcmp(rows[i].path, ".base.json") != 0;

        disk->what = rows[i].what;
        disk->path = rows[i].path;
        disk->code = rows[i].code;
        const char *said = start_ends(disk, DS_ERR_CONFIG);
        assert_says(said, RIG_ROOT ": cannot be written to: ");
        assert_says(said, strerror(-rows[i].code));
        assert_says(said, "make room on its disk");
        assert_null(strchr(said, '\n')); /* one line */
        disk->what = NULL;
        if (is_claim)
            save(&before, 20 + i); /* who could not claim it has not taken it */
        else {
            launch_fini(&before);
            start(&before, disk);
            assert_true(before.has_base);
        }
    }
    launch_fini(&before);
    start(&next, disk);
    assert_true(next.has_base && next.base.step >= 20);
    launch_fini(&next);
}

static void no_room_for_a_new_directory_is_said(void **state)
{
    struct disk *disk = *state;

    disk->what = "pwrite";
    disk->path = "RUN.json";
    disk->code = -ENOSPC;
    const char *said = start_ends(disk, DS_ERR_CONFIG);
    assert_says(said, RIG_ROOT ": cannot be written to: No space left on device");
    disk->what = NULL;
    (void)start_ends(disk, DS_OK);
}

/* A full mirror costs copies; the launch goes on. */
static void no_room_in_the_mirror_costs_copies(void **state)
{
    static const uint8_t nonces[2][16] = {{1}, {2}};
    struct disk *disk = *state;
    struct ds_fs *fs = &disk->watch.fs;
    struct ds_checkpoint_dir *dir = NULL, *mirror = NULL;
    struct capture capture;

    assert_ok(ds_checkpoint_dir_open(fs, RIG_ROOT, rig_run, nonces[0], &rig_keys, &dir));
    assert_ok(ds_checkpoint_dir_open(fs, "/run/mirror", rig_run, nonces[1], &rig_keys, &mirror));
    ds_checkpoint_join(dir, mirror);
    disk->what = "pwrite";
    disk->path = "/run/mirror/epochs";
    disk->code = -EDQUOT;
    capture_begin(&capture);
    const ds_status st = ds_checkpoint_claim(dir);
    const char *said = capture_end(&capture);
    assert_int_equal(st, DS_OK);
    assert_false(ds_checkpoint_has_mirror(dir));
    assert_says(said, "/run/mirror: cannot be written to: Disk quota exceeded");
    assert_says(said, "make room on its disk");
    assert_says(said, "no checkpoints are copied there");
    ds_checkpoint_dir_close(dir);
}

/* ---- a folder that is gone */

static void remove_folder(struct disk *disk, const char *name)
{
    char path[64];

    snprintf(path, sizeof path, RIG_ROOT "/%s", name);
    assert_int_equal(ds_fs_remove_tree(disk->sim, path), 0);
}

/* With the claims no checkpoint is lost, and who held one that is gone adds nothing any more. */
static void lost_claims_are_made_anew(void **state)
{
    struct disk *disk = *state;
    struct launch before, next;
    struct capture capture;
    int committed = 1;

    start(&before, disk);
    save(&before, 10);
    remove_folder(disk, "epochs");
    launch_init(&next, &disk->watch.fs, 0);
    capture_begin(&capture);
    const ds_status st = launch_start(&next, UINT64_MAX);
    assert_says(capture_end(&capture), RIG_ROOT ": its folder epochs was missing");
    assert_ok(st);
    assert_true(next.base.step == 10);
    ds_log.terminal = -1;
    assert_int_equal(launch_save(&before, 20, &committed), DS_ERR_FENCED);
    ds_log.terminal = 2;
    assert_false(committed);
    save(&next, 20);
    launch_fini(&before);
    launch_fini(&next);
}

/* Packs that are gone are gone: none verifies, nothing else is changed; where there was none yet, it begins. */
static void lost_packs_are_none_that_verifies(void **state)
{
    struct disk *disk = *state;
    struct launch l;

    start(&l, disk);
    remove_folder(disk, "data");
    remove_folder(disk, "manifests");
    launch_fini(&l);
    start(&l, disk);
    save(&l, 10);
    launch_fini(&l);
    remove_folder(disk, "data");
    const uint64_t before = tree_sum(disk->sim, RIG_ROOT "/manifests", 1);
    const char *said = start_ends(disk, DS_ERR_NO_CHECKPOINT);
    assert_says(said, RIG_ROOT ": its folder data was missing");
    assert_says(said, "none of the checkpoints verifies");
    assert_true(tree_sum(disk->sim, RIG_ROOT "/manifests", 1) == before);
}

/* Without manifests packs would be nobody's, and go: nothing is claimed nor changed, until they are put back. */
static void lost_manifests_are_asked_for(void **state)
{
    struct disk *disk = *state;
    struct launch l;

    start(&l, disk);
    save(&l, 10);
    launch_fini(&l);
    assert_int_equal(ds_fs_rename(disk->sim, RIG_ROOT "/manifests", "/run/manifests-elsewhere"), 0);
    const uint64_t before = tree_sum(disk->sim, RIG_ROOT, 1);
    const char *said = start_ends(disk, DS_ERR_CONFIG);
    assert_says(said, RIG_ROOT ": has packs of checkpoints, but its folder manifests is missing");
    assert_says(said, "put it back");
    assert_null(strchr(said, '\n'));
    assert_true(tree_sum(disk->sim, RIG_ROOT, 1) == before);
    assert_int_equal(ds_fs_rename(disk->sim, "/run/manifests-elsewhere", RIG_ROOT "/manifests"), 0);
    start(&l, disk);
    assert_true(l.base.step == 10);
    launch_fini(&l);
}

/* What only looks makes nothing. */
static void a_list_says_which_folder_is_missing(void **state)
{
    static const char *const names[] = {"epochs", "manifests"};
    struct disk *disk = *state;
    struct ds_checkpoint_list list;
    struct capture capture;
    struct launch l;

    start(&l, disk);
    launch_fini(&l);
    for (size_t i = 0; i < 2; i++) {
        char words[96];

        remove_folder(disk, names[i]);
        const uint64_t before = tree_sum(disk->sim, RIG_ROOT, 1);
        capture_begin(&capture);
        const ds_status st = ds_checkpoint_list_make(disk->sim, RIG_ROOT, &list);
        const char *said = capture_end(&capture);
        assert_int_equal(st, DS_ERR_CONFIG);
        snprintf(words, sizeof words, RIG_ROOT ": its folder %s is missing; put it back", names[i]);
        assert_says(said, words);
        assert_true(tree_sum(disk->sim, RIG_ROOT, 1) == before);
        (void)start_ends(disk, DS_OK);
    }
}

#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, close_disk)

static const struct CMUnitTest tests[] = {
    ON_DISK(who_finds_no_room_to_claim_ends_and_says_so),
    ON_DISK(no_room_for_a_new_directory_is_said),
    ON_DISK(no_room_in_the_mirror_costs_copies),
    ON_DISK(lost_claims_are_made_anew),
    ON_DISK(lost_packs_are_none_that_verifies),
    ON_DISK(lost_manifests_are_asked_for),
    ON_DISK(a_list_says_which_folder_is_missing),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
