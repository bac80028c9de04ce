// link: checkpoint comm storage base
/* A directory of checkpoints: who owns it, what counts, what goes; saves and launches one after the other, by one
 * rank and by several. What power takes is test_checkpoint_crash.c's. */
#include "checkpoint_rig.h"
#include "damage.h"

#include "capture.h"
#include "ranks.h"

#include <errno.h>

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

static void start(struct launch *l, struct ds_fs *fs, int is_delta)
{
    launch_init(l, fs, is_delta);
    assert_ok(launch_start(l, UINT64_MAX));
}

static void save(struct launch *l, uint64_t step)
{
    int committed = 0;

    assert_ok(launch_save(l, step, &committed));
    assert_true(committed);
}

/* "7/100 b 6/90 ..." newest first; b: buried, o: overruled */
static const char *listed(struct ds_fs *fs)
{
    static char text[4096];
    struct ds_checkpoint_list list;
    size_t at = 0;

    text[0] = '\0';
    assert_ok(ds_checkpoint_list_make(fs, RIG_ROOT, &list));
    for (size_t i = 0; i < list.count; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%llu/%llu%s", i ? " " : "",
                               (unsigned long long)list.entries[i].id.epoch,
                               (unsigned long long)list.entries[i].id.step,
                               list.entries[i].standing == DS_CHECKPOINT_BURIED      ? "b"
                               : list.entries[i].standing == DS_CHECKPOINT_OVERRULED ? "o"
                                                                                     : "");
    ds_checkpoint_list_fini(&list);
    return text;
}

static size_t pack_count(struct ds_fs *fs)
{
    size_t total = 0;

    for (uint32_t rank = 0; rank < RIG_RANKS; rank++) {
        char path[64], **names;
        size_t count;

        snprintf(path, sizeof path, RIG_ROOT "/data/%u", rank);
        assert_int_equal(ds_fs_readdir(fs, path, &names, &count), 0);
        free(names);
        total += count;
    }
    return total;
}

static void verify_all(struct ds_fs *fs)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_checkpoint_list list;

    assert_ok(ds_checkpoint_list_make(fs, RIG_ROOT, &list));
    for (size_t i = 0; i < list.count; i++) {
        struct ds_manifest manifest;

        assert_ok(ds_checkpoint_read_manifest(fs, RIG_ROOT, &list.entries[i].id, &manifest));
        assert_ok(ds_checkpoint_verify(fs, RIG_ROOT, &manifest, buffer));
        ds_manifest_fini(&manifest);
    }
    ds_checkpoint_list_fini(&list);
}

/* ---- launches */

static void a_launch_goes_on_from_the_newest(void **state)
{
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 0);
    assert_false(l.has_base);
    save(&l, 10);
    save(&l, 20);
    launch_fini(&l);
    start(&l, fs, 0);
    assert_true(l.has_base && l.base.epoch == 1 && l.base.step == 20);
    assert_int_equal(ds_checkpoint_dir_epoch(l.dir), 2);
    save(&l, 30);
    assert_string_equal(listed(fs), "2/30 1/20 1/10");
    launch_fini(&l);
    start(&l, fs, 0);
    assert_true(l.base.epoch == 2 && l.base.step == 30);
    launch_fini(&l);
    verify_all(fs);
}

static void a_rollback_stays_in_force(void **state)
{
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 0);
    for (uint64_t step = 10; step <= 40; step += 10)
        save(&l, step);
    assert_ok(launch_start(&l, 25)); /* in the same process */
    assert_true(l.base.epoch == 1 && l.base.step == 20);
    assert_string_equal(listed(fs), "1/40o 1/30o 1/20 1/10");
    save(&l, 25);
    launch_fini(&l);
    start(&l, fs, 0);
    assert_true(l.base.epoch == 2 && l.base.step == 25);
    launch_fini(&l);
}

static void what_is_buried_is_not_loaded(void **state)
{
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 0);
    save(&l, 10);
    save(&l, 20);
    assert_ok(ds_checkpoint_bury(l.dir, &(struct ds_manifest_id){1, 20}, "a test"));
    assert_ok(ds_checkpoint_bury(l.dir, &(struct ds_manifest_id){1, 20}, "again"));
    assert_string_equal(listed(fs), "1/20b 1/10");
    assert_ok(launch_start(&l, UINT64_MAX));
    assert_int_equal(l.base.step, 10);
    assert_ok(ds_checkpoint_bury(l.dir, &(struct ds_manifest_id){1, 10}, "a test"));
    ds_log.terminal = -1;
    assert_int_equal(launch_start(&l, UINT64_MAX), DS_ERR_NO_CHECKPOINT);
    ds_log.terminal = 2;
    launch_fini(&l);
}

static void a_directory_of_another_run_is_refused(void **state)
{
    const struct ds_digest other = {{4}};
    struct ds_checkpoint_dir *dir = NULL;
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 0);
    launch_fini(&l);
    ds_log.terminal = -1;
    assert_int_equal(ds_checkpoint_dir_open(fs, RIG_ROOT, rig_run, rig_run, &other, &dir),
                     DS_ERR_CONFIG);
    assert_int_equal(ds_checkpoint_dir_open(fs, "/none/there", rig_run, rig_run, &other, &dir),
                     DS_ERR_CONFIG);
    assert_ok(ds_fs_write_file(fs, "/run/file", "x", 1));
    assert_int_equal(ds_checkpoint_dir_open(fs, "/run/file", rig_run, rig_run, &other, &dir),
                     DS_ERR_CONFIG);
    assert_ok(ds_fs_write_file(fs, RIG_ROOT "/RUN.json", "{}", 2));
    assert_int_equal(ds_checkpoint_dir_open(fs, RIG_ROOT, rig_run, rig_run, &rig_keys, &dir),
                     DS_ERR_CONFIG);
    ds_log.terminal = 2;
    assert_null(dir);
}

/* ---- what goes */

static ds_status open_new(struct ds_fs *fs, const char *root)
{
    struct ds_checkpoint_dir *dir = NULL;

    ds_log.terminal = -1;
    const ds_status st = ds_checkpoint_dir_open(fs, root, rig_run, rig_run, &rig_keys, &dir);
    ds_log.terminal = 2;
    ds_checkpoint_dir_close(dir);
    return st;
}

static int refuse_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    (void)fs;
    (void)path;
    (void)mode;
    return -EACCES;
}

/* Somebody's files stay alone; what a launch has left that ended early is taken over. */
static void a_directory_that_is_not_ours_is_refused(void **state)
{
    struct ds_fs_ops ops = *ds_fs_posix()->ops;
    struct ds_fs closed = {&ops};
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs *fs = *state;
    struct launch l;

    assert_int_equal(ds_fs_mkdirs(fs, "/home/notes", 0755), 0);
    const uint64_t before = tree_sum(fs, "/home", 1);
    assert_int_equal(open_new(fs, "/home"), DS_ERR_CONFIG);
    assert_true(tree_sum(fs, "/home", 1) == before);
    assert_int_equal(ds_fs_mkdirs(fs, "/early/epochs", 0755), 0);
    assert_int_equal(ds_fs_mkdirs(fs, "/early/manifests", 0755), 0);
    assert_ok(open_new(fs, "/early"));
    start(&l, fs, 0);
    save(&l, 10);
    launch_fini(&l);
    snprintf(path, sizeof path, "%s/RUN.json", RIG_ROOT);
    assert_int_equal(ds_fs_unlink(fs, path), 0);
    assert_int_equal(open_new(fs, RIG_ROOT), DS_ERR_CONFIG); /* whose are they? */
    ops.mkdir = refuse_mkdir;
    assert_int_equal(open_new(&closed, "/none-of-this-name"), DS_ERR_CONFIG);
}

static void retention_keeps_the_last_and_every_nth(void **state)
{
    const struct ds_manifest_id pin = {1, 20};
    struct ds_checkpoint_retention keep = {
        .keep_last = 2, .keep_every = 40, .pinned = &pin, .pinned_count = 1};
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 0);
    for (uint64_t step = 10; step <= 80; step += 10) {
        save(&l, step);
        assert_ok(ds_checkpoint_retain(l.dir, &keep, step));
    }
    assert_string_equal(listed(fs), "1/80 1/70 1/40 1/20");
    assert_int_equal(pack_count(fs), 4 * RIG_RANKS);
    verify_all(fs);
    keep = (struct ds_checkpoint_retention){.keep_last = 1};
    assert_ok(ds_checkpoint_retain(l.dir, &keep, 80));
    assert_string_equal(listed(fs), "1/80 1/70"); /* never fewer than two */
    launch_fini(&l);

    start(&l, fs, 0); /* only what was loaded is known to be good: nothing goes */
    assert_ok(ds_checkpoint_retain(l.dir, &keep, 80));
    assert_string_equal(listed(fs), "1/80 1/70");
    save(&l, 90);
    assert_ok(ds_checkpoint_retain(l.dir, &keep, 90));
    assert_string_equal(listed(fs), "2/90 1/80");
    assert_int_equal(pack_count(fs), 2 * RIG_RANKS);
    launch_fini(&l);
}

static uint64_t newest_until(struct ds_fs *fs, uint64_t step, size_t *count)
{
    struct ds_checkpoint_list list;
    uint64_t found = 0;

    assert_ok(ds_checkpoint_list_make(fs, RIG_ROOT, &list));
    for (size_t i = list.count; i-- > 0;)
        found = list.entries[i].id.step <= step ? list.entries[i].id.step : found;
    *count = list.count;
    ds_checkpoint_list_fini(&list);
    return found;
}

/* One that this launch knows to be good is always as old as the margin, once there has been one, in later launches, too;
 * and no more stay for it than two. */
static void retention_keeps_one_behind_the_margin(void **state)
{
    enum { MARGIN = 12, EACH = 2, LAUNCHES = 4, SAVES = 25 };
    const struct ds_checkpoint_retention keep = {.keep_last = 2, .margin = MARGIN};
    struct ds_fs *fs = *state;
    uint64_t step = 0;
    size_t count;

    for (int launch = 0; launch < LAUNCHES; launch++) {
        const uint64_t begin = step;
        struct launch l;

        start(&l, fs, 0);
        for (int i = 0; i < SAVES; i++) {
            save(&l, step += EACH);
            assert_ok(ds_checkpoint_retain(l.dir, &keep, step));
            const uint64_t old = step > MARGIN ? newest_until(fs, step - MARGIN, &count)
                                               : newest_until(fs, 0, &count);
            if (step > MARGIN + EACH && (old == 0 || old + 3 * MARGIN < step))
                fail_msg("step %llu: the newest that is old enough is of step %llu: %s",
                         (unsigned long long)step, (unsigned long long)old, listed(fs));
            if (step > begin + MARGIN + 2 * EACH && count > 4)
                fail_msg("step %llu: %s", (unsigned long long)step, listed(fs));
        }
        launch_fini(&l);
    }
    verify_all(fs);
}

static void packs_that_are_referred_to_stay(void **state)
{
    const struct ds_checkpoint_retention keep = {.keep_last = 1};
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 1);
    for (uint64_t step = 10; step <= 60; step += 10) {
        save(&l, step);
        assert_ok(ds_checkpoint_retain(l.dir, &keep, step));
        verify_all(fs);
    }
    assert_string_equal(listed(fs), "1/60 1/50");
    /* of each rank 60, 50, and the two with the chunks that do not change */
    assert_int_equal(pack_count(fs), 4 * RIG_RANKS);
    launch_fini(&l);
}

static void orphans_go_and_what_is_being_written_stays(void **state)
{
    const struct ds_checkpoint_retention keep = {.keep_last = 3};
    struct ds_manifest_pack pack;
    struct ds_fs *fs = *state;
    struct launch l;

    start(&l, fs, 0);
    rig_set_step(&l.c, 0, 5);
    assert_ok(rig_write_pack(&l, 0, 5, &pack)); /* of a save that was given up */
    save(&l, 10);
    assert_ok(rig_write_pack(&l, 0, 20, &pack)); /* of the next one */
    assert_int_equal(pack_count(fs), RIG_RANKS + 2);
    assert_ok(ds_checkpoint_retain(l.dir, &keep, 10));
    assert_int_equal(pack_count(fs), RIG_RANKS + 1);
    launch_fini(&l);
    start(&l, fs, 0); /* whose packs of epoch 1 are nobody's now */
    assert_ok(ds_checkpoint_retain(l.dir, &keep, 10));
    assert_int_equal(pack_count(fs), RIG_RANKS);
    launch_fini(&l);
}

/* ---- a stale writer */

static void a_stale_launch_commits_nothing_and_removes_nothing(void **state)
{
    const struct ds_checkpoint_retention keep = {.keep_last = 1};
    struct ds_fs *fs = *state;
    struct launch old, new;
    int committed = 1;

    start(&old, fs, 0);
    save(&old, 10);
    save(&old, 20);
    save(&old, 30);
    start(&new, fs, 0);
    ds_log.terminal = -1;
    assert_int_equal(launch_save(&old, 40, &committed), DS_ERR_FENCED);
    assert_false(committed);
    assert_int_equal(ds_checkpoint_retain(old.dir, &keep, 30), DS_ERR_FENCED);
    ds_log.terminal = 2;
    assert_string_equal(listed(fs), "1/30 1/20 1/10");
    save(&new, 40);
    assert_string_equal(listed(fs), "2/40 1/30 1/20 1/10");
    launch_fini(&old);
    launch_fini(&new);
    verify_all(fs);
}

/* Epochs of a directory that was removed and made again are counted from 1, too. */
static void a_stale_launch_knows_a_directory_that_was_made_anew(void **state)
{
    const struct ds_checkpoint_retention keep = {.keep_last = 1};
    struct ds_fs *fs = *state;
    struct launch old, new;
    int committed = 1;

    start(&old, fs, 0);
    save(&old, 10);
    assert_int_equal(ds_fs_remove_tree(fs, RIG_ROOT), 0);
    start(&new, fs, 0);
    assert_int_equal(ds_checkpoint_dir_epoch(new.dir), ds_checkpoint_dir_epoch(old.dir));
    for (uint64_t step = 1; step <= 3; step++)
        save(&new, step);
    ds_log.terminal = -1;
    assert_int_equal(launch_save(&old, 20, &committed), DS_ERR_FENCED);
    assert_false(committed);
    assert_int_equal(ds_checkpoint_retain(old.dir, &keep, 20), DS_ERR_FENCED);
    assert_int_equal(ds_checkpoint_claim(old.dir), DS_ERR_FENCED);
    ds_log.terminal = 2;
    assert_string_equal(listed(fs), "1/3 1/2 1/1");
    launch_fini(&old);
    launch_fini(&new);
    verify_all(fs);
}

/* Who goes back claims the epoch behind its own, and takes none from a launch that has come meanwhile. */
static void a_rollback_does_not_take_the_run_back(void **state)
{
    struct ds_fs *fs = *state;
    struct launch old, new;

    start(&old, fs, 0);
    assert_ok(ds_checkpoint_claim(old.dir));
    assert_int_equal(ds_checkpoint_dir_epoch(old.dir), 2);
    start(&new, fs, 0);
    ds_log.terminal = -1;
    assert_int_equal(ds_checkpoint_claim(old.dir), DS_ERR_FENCED);
    ds_log.terminal = 2;
    assert_ok(ds_checkpoint_claim(new.dir));
    assert_int_equal(ds_checkpoint_dir_epoch(new.dir), 4);
    launch_fini(&old);
    launch_fini(&new);
}

static void claim_by(struct ds_fs *fs, const char *epoch)
{
    char path[128];

    snprintf(path, sizeof path, RIG_ROOT "/epochs/E-%s", epoch);
    const int file = ds_fs_open(fs, path, DS_FS_WRITE | DS_FS_CREATE, 0644);
    assert_true(file >= 0);
    assert_int_equal(ds_fs_close(fs, file), 0);
}

/* Whoever claimed it would commit what no launch can read. */
static void no_epoch_is_claimed_that_no_document_can_name(void **state)
{
    struct ds_fs *fs = *state;
    struct capture capture;
    struct launch l;

    start(&l, fs, 0);
    launch_fini(&l);
    claim_by(fs, "18446744073709551614"); /* nobody's */
    claim_by(fs, "9007199254740991");
    start(&l, fs, 0);
    assert_int_equal(ds_checkpoint_dir_epoch(l.dir), 9007199254740992);
    save(&l, 10);
    assert_string_equal(listed(fs), "9007199254740992/10");
    launch_fini(&l);
    verify_all(fs);
    launch_init(&l, fs, 0);
    capture_begin(&capture);
    assert_int_equal(launch_start(&l, UINT64_MAX), DS_ERR_CONFIG);
    assert_non_null(strstr(capture_end(&capture), "the last there can be"));
    launch_fini(&l);
}

/* A manifest speaks for its epoch where the claims were lost, in whichever directory it lies, buried or not. */
static void no_epoch_is_claimed_that_has_a_manifest(void **state)
{
    static const struct ds_manifest_id bad = {7, 10};
    static const uint8_t nonces[2][16] = {{1}, {2}};
    struct ds_fs *fs = *state;
    struct ds_checkpoint_dir *dir = NULL, *mirror = NULL;
    struct launch l;

    start(&l, fs, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    save(&l, 10); /* of epoch 2 */
    launch_fini(&l);
    assert_int_equal(ds_fs_remove_tree(fs, RIG_ROOT "/epochs"), 0);
    assert_int_equal(ds_fs_mkdir(fs, RIG_ROOT "/epochs", 0755), 0);
    start(&l, fs, 0);
    assert_int_equal(ds_checkpoint_dir_epoch(l.dir), 3);
    save(&l, 20);
    assert_string_equal(listed(fs), "3/20 2/10");
    launch_fini(&l);
    verify_all(fs);

    assert_ok(ds_checkpoint_dir_open(fs, RIG_ROOT, rig_run, nonces[0], &rig_keys, &dir));
    assert_ok(ds_checkpoint_dir_open(fs, "/run/mirror", rig_run, nonces[1], &rig_keys, &mirror));
    assert_ok(ds_checkpoint_bury(mirror, &bad, "a test"));
    ds_checkpoint_join(dir, mirror);
    assert_ok(ds_checkpoint_claim(dir));
    assert_int_equal(ds_checkpoint_dir_epoch(dir), 8);
    assert_int_equal(ds_checkpoint_dir_epoch(mirror), 8);
    assert_ok(ds_checkpoint_check_fence(dir));
    ds_checkpoint_dir_close(dir);
}

/* Of the newest epoch that has a base which reads. */
static void what_is_left_out_is_what_the_newest_base_says(void **state)
{
    static struct ds_checkpoint_skip got[DS_CHECKPOINT_SKIPS_MAX];
    const struct ds_checkpoint_skip skips[] = {{5, 9}, {20, 21}};
    struct ds_fs *fs = *state;
    struct launch l;
    char past[DS_CHECKPOINT_PAST_BYTES] = "?";
    uint32_t count = 7;

    start(&l, fs, 0);
    assert_ok(ds_checkpoint_read_rollbacks(fs, RIG_ROOT, NULL, got, &count, past));
    assert_int_equal(count, 0);
    assert_string_equal(past, "");
    assert_ok(ds_checkpoint_claim(l.dir));
    assert_ok(ds_checkpoint_write_base(l.dir, NULL, skips, 2, "47:1"));
    assert_ok(ds_checkpoint_claim(l.dir)); /* and is killed */
    assert_ok(ds_checkpoint_read_rollbacks(fs, RIG_ROOT, NULL, got, &count, past));
    assert_int_equal(count, 2);
    assert_memory_equal(got, skips, sizeof skips);
    assert_ok(ds_fs_write_file(fs, RIG_ROOT "/epochs/E-0000000000000003.base.json", "torn", 4));
    ds_log.terminal = -1;
    assert_ok(ds_checkpoint_read_rollbacks(fs, RIG_ROOT, NULL, got, &count, past));
    ds_log.terminal = 2;
    assert_int_equal(count, 2);
    assert_string_equal(past, "47:1");
    launch_fini(&l);
}

/* ---- several ranks */

struct many {
    struct ds_fs *fs;
    struct ds_checkpoint_dir *dir;
    int agreed, found;
};

static void one_piece(const struct pack_case *c, uint32_t rank, uint32_t size,
                      struct ds_piece *piece, uint32_t tensor)
{
    const struct ds_box whole = ds_box_whole(&c->tensors[tensor]);
    const uint64_t elems = ds_box_elems(&whole);

    *piece = (struct ds_piece){tensor, whole, elems * rank / size, elems * (rank + 1) / size};
}

static void vote_and_prove(struct ds_comm *world, void *user)
{
    struct many *many = user;
    struct ds_manifest_pack mine[2] = {
        {.dir = 1, .pack = {.id = {1, 2, 3, 0, 0}, .file_bytes = 9}},
        {.pack = {.id = {1, 2, world->rank, 1, 0}, .file_bytes = 9}}};
    struct pack_case c = {.catalogue = {c.tensors, PACK_CASE_TENSORS}};
    struct ds_piece pieces[PACK_CASE_TENSORS];
    struct ds_votes all = {0};
    ds_status verdict = DS_OK, st;

    /* everybody refers to one pack and has written one; the last rank none */
    st = ds_checkpoint_vote(world, DS_OK, mine, world->rank + 1 == world->size ? 1 : 2, &verdict,
                            &all);
    __atomic_fetch_add(
        &many->agreed,
        st == DS_OK && verdict == DS_OK &&
            (world->rank != 0 || (all.count == world->size && all.packs[world->size - 1].dir == 1)),
        __ATOMIC_SEQ_CST);
    st = ds_checkpoint_vote(world, world->rank == 1 ? DS_ERR_IO : DS_OK, mine, 2, &verdict, &all);
    __atomic_fetch_add(&many->agreed, st == DS_OK && verdict == DS_ERR_IO && all.count == 0,
                       __ATOMIC_SEQ_CST);
    free(all.packs);

    for (uint32_t i = 0; i < PACK_CASE_TENSORS; i++)
        pack_case_tensor(&c, i, i % 2 ? "a" : "b",
                         i < 2 ? DS_STATE_KIND_MASTER : DS_STATE_KIND_PARAM, DS_F32, 20, i);
    for (uint32_t i = 0; i < PACK_CASE_TENSORS; i++)
        one_piece(&c, world->rank, world->size, &pieces[i], i);
    __atomic_fetch_add(&many->agreed,
                       ds_checkpoint_prove(world, &c.catalogue, pieces, PACK_CASE_TENSORS) == DS_OK,
                       __ATOMIC_SEQ_CST);
    if (world->rank == 2)
        pieces[3].begin++;
    __atomic_fetch_add(&many->agreed,
                       ds_checkpoint_prove(world, &c.catalogue, pieces, PACK_CASE_TENSORS) ==
                           DS_ERR_DATA,
                       __ATOMIC_SEQ_CST);
    if (world->rank == 2)
        c.tensors[1].dtype = DS_BF16;
    __atomic_fetch_add(&many->agreed,
                       ds_checkpoint_prove(world, &c.catalogue, pieces, PACK_CASE_TENSORS) ==
                           DS_ERR_DATA,
                       __ATOMIC_SEQ_CST);
}

static void all_ranks_vote_and_prove_together(void **state)
{
    enum { RANKS = 3 };
    struct many all = {0};

    (void)state;
    ds_log.terminal = -1;
    assert_true(run_ranks(RANKS, 60000000000u, vote_and_prove, &all));
    ds_log.terminal = 2;
    assert_int_equal(all.agreed, 5 * RANKS);
}

static void recover(struct ds_comm *world, void *user)
{
    struct many *many = user;
    struct ds_recovery *recovery = NULL;
    struct ds_manifest manifest;
    int found = 0;

    ds_status st = ds_recovery_open(world, many->fs, RIG_ROOT, world->rank == 0 ? many->dir : NULL,
                                    UINT64_MAX, &recovery);
    if (st == DS_OK)
        st = ds_recovery_next(recovery, &manifest, &found);
    if (st == DS_OK && found) {
        __atomic_fetch_add(&many->found, manifest.id.step == 20, __ATOMIC_SEQ_CST);
        ds_manifest_fini(&manifest);
        st = ds_recovery_next(recovery, &manifest, &found); /* loading failed: the one before */
    }
    if (st == DS_OK && found) {
        __atomic_fetch_add(&many->found, manifest.id.step == 10, __ATOMIC_SEQ_CST);
        ds_manifest_fini(&manifest);
        st = ds_recovery_next(recovery, &manifest, &found);
    }
    __atomic_fetch_add(&many->found, st == DS_ERR_NO_CHECKPOINT, __ATOMIC_SEQ_CST);
    ds_recovery_close(recovery);
}

static void all_ranks_find_the_same_checkpoint(void **state)
{
    struct many many = {.fs = *state};
    struct launch l;
    char path[DS_CHECKPOINT_PATH_BYTES];

    start(&l, many.fs, 0);
    save(&l, 10);
    save(&l, 20);
    save(&l, 30);
    /* one rank sees that the newest is not whole */
    ds_checkpoint_pack_path(RIG_ROOT, 1, &(struct ds_pack_id){1, 30, 1, 0, 2}, path);
    assert_int_equal(ds_fs_unlink(many.fs, path), 0);
    many.dir = l.dir;
    ds_log.terminal = -1;
    assert_true(run_ranks(3, 60000000000u, recover, &many));
    ds_log.terminal = 2;
    assert_int_equal(many.found, 9);
    launch_fini(&l);
}

#define ON_DISK(test) cmocka_unit_test_setup_teardown(test, make_disk, close_disk)

static const struct CMUnitTest tests[] = {
    ON_DISK(a_launch_goes_on_from_the_newest),
    ON_DISK(a_rollback_stays_in_force),
    ON_DISK(what_is_buried_is_not_loaded),
    ON_DISK(a_directory_of_another_run_is_refused),
    ON_DISK(a_directory_that_is_not_ours_is_refused),
    ON_DISK(retention_keeps_the_last_and_every_nth),
    ON_DISK(retention_keeps_one_behind_the_margin),
    ON_DISK(packs_that_are_referred_to_stay),
    ON_DISK(orphans_go_and_what_is_being_written_stays),
    ON_DISK(a_stale_launch_commits_nothing_and_removes_nothing),
    ON_DISK(a_stale_launch_knows_a_directory_that_was_made_anew),
    ON_DISK(a_rollback_does_not_take_the_run_back),
    ON_DISK(no_epoch_is_claimed_that_no_document_can_name),
    ON_DISK(no_epoch_is_claimed_that_has_a_manifest),
    ON_DISK(what_is_left_out_is_what_the_newest_base_says),
    ON_DISK(all_ranks_vote_and_prove_together),
    ON_DISK(all_ranks_find_the_same_checkpoint),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
