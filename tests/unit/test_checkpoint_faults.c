// link: checkpoint comm storage base
/* Checkpoints on a disk that fails and on one that lies: every call of a save fails in turn, in several ways; bytes,
 * blocks and files of a checkpoint are changed, cut, swapped, put in each other's place. A failed save is never
 * acknowledged, the next one succeeds, and what is loaded is always right. */
#include "checkpoint_rig.h"
#include "watch_fs.h"

/* ---- calls that fail */

struct failing {
    struct watch_fs watch;
    uint64_t fail_at, calls; /* 1-based; 0: none */
    int code;
};

static int fails_now(void *user, const char *what, const char *path)
{
    struct failing *failing = user;

    (void)what;
    (void)path;
    return __atomic_add_fetch(&failing->calls, 1, __ATOMIC_SEQ_CST) == failing->fail_at
               ? failing->code
               : 0;
}

static void failing_open(struct failing *failing)
{
    struct ds_fs *disk;

    *failing = (struct failing){0};
    assert_ok(ds_fs_sim_open(&disk));
    assert_int_equal(ds_fs_mkdir(disk, "/run", 0755), 0);
    failing->watch =
        (struct watch_fs){.fs = {&watch_ops}, .inner = disk, .user = failing, .fails = fails_now};
}

/* What a next launch on that disk loads. */
static uint64_t loaded_step(struct ds_fs *disk)
{
    struct launch l;

    launch_init(&l, disk, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    const uint64_t step = l.has_base ? l.base.step : 0;
    launch_fini(&l);
    return step;
}

/* 0: the save made fewer calls. */
static int save_with_fault(uint64_t fail_at, int code)
{
    struct failing failing;
    struct launch l;
    int committed = 0;

    failing_open(&failing);
    struct ds_fs *disk = failing.watch.inner;
    launch_init(&l, &failing.watch.fs, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    assert_ok(launch_save(&l, 10, &committed));
    assert_true(committed);
    failing.calls = 0;
    failing.fail_at = fail_at;
    failing.code = code;
    ds_log.terminal = -1;
    assert_ok(launch_save(&l, 20, &committed)); /* training goes on */
    ds_log.terminal = 2;
    const int was_hit = failing.calls >= fail_at;
    assert_int_equal(committed, !was_hit);
    failing.fail_at = 0;
    assert_ok(launch_save(&l, 30, &committed)); /* the disk is well again */
    assert_true(committed);
    assert_int_equal(ds_fs_sim_open_files(disk), 0);
    launch_fini(&l);
    assert_int_equal(loaded_step(disk), 30);
    ds_fs_sim_close(disk);
    return was_hit;
}

static void a_failed_save_is_not_acknowledged_and_the_next_one_is(void **state)
{
    static const int codes[] = {-EIO, -ENOSPC, -EDQUOT, -EROFS, -ESTALE};
    uint64_t tried = 0;

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        uint64_t fail_at = 1;

        while (save_with_fault(fail_at, codes[i]))
            fail_at++;
        assert_true(fail_at > 40);
        tried += fail_at;
    }
    printf("  %llu faults\n", (unsigned long long)tried);
}

static int fails_at_names(void *user, const char *what, const char *path)
{
    const struct failing *failing = user;
    const char *end = strstr(path, "/manifests");

    return failing->code && strcmp(what, "fsync_dir") == 0 && end && strcmp(end, "/manifests") == 0
               ? failing->code
               : 0;
}

/* It would be listed now and be gone after a crash. */
static void a_manifest_whose_name_may_not_last_does_not_count(void **state)
{
    struct ds_checkpoint_list list;
    struct failing failing;
    struct launch l;
    int committed = 0;

    (void)state;
    failing_open(&failing);
    failing.watch.fails = fails_at_names;
    launch_init(&l, &failing.watch.fs, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    assert_ok(launch_save(&l, 10, &committed));
    failing.code = -EIO;
    ds_log.terminal = -1;
    assert_ok(launch_save(&l, 20, &committed));
    ds_log.terminal = 2;
    assert_false(committed);
    assert_ok(ds_checkpoint_list_make(failing.watch.inner, RIG_ROOT, &list));
    assert_int_equal(list.count, 1);
    ds_checkpoint_list_fini(&list);
    launch_fini(&l);
    ds_fs_sim_close(failing.watch.inner);
}

/* A launch that cannot read its disk ends with a status, or goes on from what it could read and says so in its base;
 * what it went on from is what the next one goes on from. */
static void a_failed_start_changes_nothing_that_counts(void **state)
{
    struct failing failing;
    struct launch l;
    int committed = 0, was_hit = 1;

    (void)state;
    failing_open(&failing);
    struct ds_fs *good = failing.watch.inner;
    launch_init(&l, good, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    assert_ok(launch_save(&l, 10, &committed));
    assert_ok(launch_save(&l, 20, &committed));
    launch_fini(&l);
    for (uint64_t fail_at = 1; was_hit; fail_at++) {
        assert_true(fail_at < 200);
        assert_ok(ds_fs_sim_copy(good, &failing.watch.inner));
        launch_init(&l, &failing.watch.fs, 0);
        failing.calls = 0;
        failing.fail_at = fail_at;
        failing.code = -EIO;
        ds_log.terminal = -1;
        ds_status st = launch_start(&l, UINT64_MAX);
        ds_log.terminal = 2;
        was_hit = failing.calls >= fail_at;
        const uint64_t step = st == DS_OK ? l.base.step : 20;
        assert_true(was_hit ? step == 10 || step == 20 : step == 20);
        launch_fini(&l);
        assert_int_equal(ds_fs_sim_open_files(failing.watch.inner), 0);
        assert_int_equal(loaded_step(failing.watch.inner), step);
        ds_fs_sim_close(failing.watch.inner);
    }
    ds_fs_sim_close(good);
}

/* ---- bytes that are not what they were */

struct damage {
    struct ds_fs *good;                      /* checkpoints 10 and 20 of two ranks */
    char paths[8][DS_CHECKPOINT_PATH_BYTES]; /* of 20: its manifest, its packs; then those of 10 */
    size_t path_count;
};

static void damage_open(struct damage *d)
{
    struct launch l;
    int committed = 0;

    *d = (struct damage){0};
    assert_ok(ds_fs_sim_open(&d->good));
    assert_int_equal(ds_fs_mkdir(d->good, "/run", 0755), 0);
    launch_init(&l, d->good, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    assert_ok(launch_save(&l, 10, &committed));
    assert_ok(launch_save(&l, 20, &committed));
    launch_fini(&l);
    for (uint64_t step = 20; step >= 10; step -= 10) {
        const uint32_t attempt = step == 20;

        ds_checkpoint_manifest_path(RIG_ROOT, &(struct ds_manifest_id){1, step},
                                    d->paths[d->path_count++]);
        for (uint32_t rank = 0; rank < RIG_RANKS; rank++)
            ds_checkpoint_pack_path(RIG_ROOT, rank, &(struct ds_pack_id){1, step, rank, 0, attempt},
                                    d->paths[d->path_count++]);
    }
}

/* The file as it is, in malloc'ed memory. */
static char *bytes_of(struct ds_fs *fs, const char *path, size_t *bytes)
{
    char *text;

    assert_ok(ds_fs_read_file(fs, path, 1 << 24, &text, bytes));
    return text;
}

static void put_bytes(struct ds_fs *fs, const char *path, const char *from, size_t bytes)
{
    int file = ds_fs_open(fs, path, DS_FS_WRITE | DS_FS_TRUNCATE, 0);

    assert_int_equal(ds_fs_write_all(fs, file, from, bytes, 0), 0);
    assert_int_equal(ds_fs_close(fs, file), 0);
}

static ds_status verify_newest(struct ds_fs *fs)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_read_manifest(fs, RIG_ROOT, &(struct ds_manifest_id){1, 20}, &manifest));
    ds_status st = ds_checkpoint_verify(fs, RIG_ROOT, &manifest, buffer);
    ds_manifest_fini(&manifest);
    return st;
}

/* The changed disk: verification sees it, and a launch loads 10, or 20 with every byte right (launch_start looks). */
static void assert_noticed(struct ds_fs *disk)
{
    ds_log.terminal = -1;
    assert_int_equal(verify_newest(disk), DS_ERR_CORRUPT);
    const uint64_t step = loaded_step(disk);
    ds_log.terminal = 2;
    assert_true(step == 10 || step == 20);
}

static void a_changed_byte_is_noticed_wherever_it_is(void **state)
{
    const struct ds_random random =
        ds_random_of(test_seed("test_checkpoint_faults"), DS_RANDOM_TEST, 0);
    const uint64_t wanted = test_is_long() ? 100000 : 2000;
    uint64_t drawn = 0;
    struct damage d;

    (void)state;
    damage_open(&d);
    assert_ok(verify_newest(d.good));
    for (uint64_t trial = 0; trial < wanted; trial++) {
        const char *path = d.paths[trial % 3];
        struct ds_fs *disk;
        size_t bytes;

        assert_ok(ds_fs_sim_copy(d.good, &disk));
        char *text = bytes_of(disk, path, &bytes);
        const uint64_t at = ds_random_below(random, drawn++, bytes);
        text[at] = (char)(text[at] ^ 1 << ds_random_below(random, drawn++, 8));
        put_bytes(disk, path, text, bytes);
        assert_noticed(disk);
        free(text);
        ds_fs_sim_close(disk);
    }
    ds_fs_sim_close(d.good);
}

/* Every byte of the manifest, and every byte of a pack but its chunks' is test_manifest.c's and test_pack.c's. */
static void files_in_each_others_place_are_noticed(void **state)
{
    struct damage d;

    (void)state;
    damage_open(&d);
    for (size_t to = 0; to < 3; to++)
        for (size_t from = 0; from <= d.path_count; from++) {
            struct ds_fs *disk;
            size_t bytes = 0;

            if (from == to)
                continue;
            assert_ok(ds_fs_sim_copy(d.good, &disk));
            if (from == d.path_count) {
                assert_int_equal(ds_fs_unlink(disk, d.paths[to]), 0);
            } else {
                char *text = bytes_of(disk, d.paths[from], &bytes);

                put_bytes(disk, d.paths[to], text, bytes);
                free(text);
            }
            ds_log.terminal = -1;
            assert_true(verify_newest(disk) != DS_OK);
            assert_int_equal(loaded_step(disk), 10);
            ds_log.terminal = 2;
            ds_fs_sim_close(disk);
        }
    ds_fs_sim_close(d.good);
}

static void blocks_that_are_lost_cut_swapped_or_old_are_noticed(void **state)
{
    const struct ds_random random =
        ds_random_of(test_seed("test_checkpoint_faults"), DS_RANDOM_TEST, 1);
    uint64_t drawn = 0, tried = 0;
    struct damage d;

    (void)state;
    damage_open(&d);
    while (tried < (test_is_long() ? 5000u : 200u)) {
        const size_t which = 1 + ds_random_below(random, drawn++, 2);
        struct ds_fs *disk;
        size_t bytes, other_bytes;

        assert_ok(ds_fs_sim_copy(d.good, &disk));
        char *text = bytes_of(disk, d.paths[which], &bytes);
        char *before = bytes_of(disk, d.paths[which], &bytes);
        char *old = bytes_of(disk, d.paths[which + 3], &other_bytes);
        const size_t a = ds_random_below(random, drawn++, bytes / 4096) * 4096;
        const size_t b = ds_random_below(random, drawn++, bytes / 4096) * 4096;

        assert_int_equal(bytes, other_bytes);
        switch (tried % 4) {
        case 0:
            memset(text + a, 0, 4096);
            break;
        case 1:
            memcpy(text + a, before + b, 4096);
            memcpy(text + b, before + a, 4096);
            break;
        case 2:
            memcpy(text + a, old + a, 4096);
            break;
        default:
            bytes = a;
        }
        if (bytes == a || memcmp(text, before, bytes) != 0) {
            put_bytes(disk, d.paths[which], text, bytes);
            assert_noticed(disk);
            tried++;
        }
        free(text);
        free(before);
        free(old);
        ds_fs_sim_close(disk);
    }
    ds_fs_sim_close(d.good);
}

/* ---- of many, one that is good */

static void the_only_good_one_is_found(void **state)
{
    enum { CHECKPOINTS = 5 };
    struct ds_fs *good;
    struct launch l;
    int committed = 0;

    (void)state;
    assert_ok(ds_fs_sim_open(&good));
    assert_int_equal(ds_fs_mkdir(good, "/run", 0755), 0);
    launch_init(&l, good, 0);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (uint64_t i = 1; i <= CHECKPOINTS; i++)
        assert_ok(launch_save(&l, 10 * i, &committed));
    launch_fini(&l);
    for (uint64_t only = 0; only <= CHECKPOINTS; only++) { /* 0: none is */
        struct ds_fs *disk;
        char path[DS_CHECKPOINT_PATH_BYTES];

        assert_ok(ds_fs_sim_copy(good, &disk));
        for (uint64_t i = 1; i <= CHECKPOINTS; i++) {
            const struct ds_pack_id id = {1, 10 * i, i % 2, 0, (uint32_t)i - 1};
            size_t bytes;

            if (i == only)
                continue;
            ds_checkpoint_pack_path(RIG_ROOT, i % 2, &id, path);
            char *text = bytes_of(disk, path, &bytes);
            text[i % 3 == 0 ? bytes - 100 : 4096 * 4]++; /* the footers alone would still be one */
            if (i % 3 == 0)
                text[bytes - 4096 - 100]++;
            put_bytes(disk, path, text, bytes);
            free(text);
        }
        ds_log.terminal = -1;
        launch_init(&l, disk, 0);
        ds_status st = launch_start(&l, UINT64_MAX);
        ds_log.terminal = 2;
        assert_int_equal(st, only ? DS_OK : DS_ERR_NO_CHECKPOINT);
        if (only)
            assert_int_equal(l.base.step, 10 * only);
        launch_fini(&l);
        ds_fs_sim_close(disk);
    }
    ds_fs_sim_close(good);
}

/* A chunk with two places survives the loss of one. */
static void a_damaged_place_is_made_up_for_by_the_other(void **state)
{
    struct ds_fs *disk;
    struct ds_pack *pack;
    struct launch l;
    char path[DS_CHECKPOINT_PATH_BYTES];
    int committed = 0;

    (void)state;
    for (uint64_t broken = 10; broken <= 20; broken += 10) {
        assert_ok(ds_fs_sim_open(&disk));
        assert_int_equal(ds_fs_mkdir(disk, "/run", 0755), 0);
        launch_init(&l, disk, 1);
        assert_ok(launch_start(&l, UINT64_MAX));
        for (uint64_t step = 10; step <= 30; step += 10)
            assert_ok(launch_save(&l, step, &committed));
        launch_fini(&l);
        ds_checkpoint_pack_path(RIG_ROOT, 0, &(struct ds_pack_id){1, 30, 0, 0, 2}, path);
        assert_ok(ds_pack_open(disk, path, NULL, &pack));
        const struct ds_pack_chunk chunk = ds_pack_chunks(pack)[2];
        assert_true(chunk.pack != DS_PACK_HERE && chunk.copy_pack != DS_PACK_HERE);
        ds_pack_close(pack);
        ds_checkpoint_pack_path(
            RIG_ROOT, 0, &(struct ds_pack_id){1, broken, 0, 0, (uint32_t)broken / 10 - 1}, path);
        int file = ds_fs_open(disk, path, DS_FS_WRITE, 0);
        assert_int_equal(
            ds_fs_pwrite(disk, file, "damaged", 7, broken == 10 ? chunk.copy_offset : chunk.offset),
            7);
        assert_int_equal(ds_fs_close(disk, file), 0);
        ds_log.terminal = -1;
        launch_init(&l, disk, 1);
        assert_ok(launch_start(&l, UINT64_MAX));
        ds_log.terminal = 2;
        assert_int_equal(l.base.step, 30);
        launch_fini(&l);
        ds_fs_sim_close(disk);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_failed_save_is_not_acknowledged_and_the_next_one_is),
    cmocka_unit_test(a_manifest_whose_name_may_not_last_does_not_count),
    cmocka_unit_test(a_failed_start_changes_nothing_that_counts),
    cmocka_unit_test(a_changed_byte_is_noticed_wherever_it_is),
    cmocka_unit_test(files_in_each_others_place_are_noticed),
    cmocka_unit_test(blocks_that_are_lost_cut_swapped_or_old_are_noticed),
    cmocka_unit_test(the_only_good_one_is_found),
    cmocka_unit_test(a_damaged_place_is_made_up_for_by_the_other),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
