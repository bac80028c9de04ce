// link: launch
// private: launch
/* `dstrain verify`: what it says with its exit code of a run's checkpoints, of one of them and of a pack. */
#include "checkpoint_rig.h"

#include "command.h"

#include <unistd.h>

static ds_status verify(struct ds_fs *fs, const char *path)
{
    char text[DS_CHECKPOINT_PATH_BYTES], *argv[] = {text, NULL};
    struct ds_command command = {.argc = 1, .argv = argv, .fs = fs};

    snprintf(text, sizeof text, "%s", path);
    ds_log.terminal = -1;
    ds_status st = ds_verify_main(&command);
    ds_log.terminal = 2;
    return st;
}

static void save_some(struct ds_fs *fs)
{
    struct launch l;
    int committed = 0;

    assert_int_equal(ds_fs_mkdir(fs, "/run", 0755), 0);
    launch_init(&l, fs, 1);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (uint64_t step = 10; step <= 30; step += 10)
        assert_ok(launch_save(&l, step, &committed));
    assert_ok(ds_checkpoint_bury(l.dir, &(struct ds_manifest_id){1, 10}, "a test"));
    launch_fini(&l);
}

/* One byte in the middle of a pack's first run, or back again. */
static void flip(struct ds_fs *fs, const char *path)
{
    uint8_t byte;
    int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);

    assert_int_equal(ds_fs_read_all(fs, file, &byte, 1, 4096 + 7), 0);
    byte ^= 1;
    assert_int_equal(ds_fs_write_all(fs, file, &byte, 1, 4096 + 7), 0);
    assert_int_equal(ds_fs_close(fs, file), 0);
}

static void the_exit_code_says_what_is_damaged(void **state)
{
    const struct ds_pack_id newest = {1, 30, 1, 0, 2}, older = {1, 20, 0, 0, 1};
    char newest_path[DS_CHECKPOINT_PATH_BYTES], older_path[DS_CHECKPOINT_PATH_BYTES];
    char manifest[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    save_some(fs);
    ds_checkpoint_pack_path(RIG_ROOT, 1, &newest, newest_path);
    ds_checkpoint_pack_path(RIG_ROOT, 0, &older, older_path);
    ds_checkpoint_manifest_path(RIG_ROOT, &(struct ds_manifest_id){1, 30}, manifest);
    assert_ok(verify(fs, "/run"));
    assert_ok(verify(fs, RIG_ROOT));
    assert_ok(verify(fs, newest_path));
    flip(fs, newest_path);
    assert_int_equal(verify(fs, newest_path), DS_ERR_CORRUPT);
    assert_int_equal(verify(fs, "/run"), DS_ERR_CORRUPT); /* the older one is good */
    flip(fs, older_path);
    assert_int_equal(verify(fs, "/run"), DS_ERR_NO_CHECKPOINT);
    assert_int_equal(verify(fs, "/"), DS_ERR_CONFIG);
    assert_int_equal(verify(fs, "/none"), DS_ERR_DATA);
    ds_fs_sim_close(fs);
}

static void one_manifest_is_enough_of_a_path(void **state)
{
    char root[] = "/tmp/test_verify.XXXXXX", path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_checkpoint_dir *dir;
    struct ds_manifest manifest = {.id = {1, 10}, .layout = {1, 1, 1, 1, 1, 1, 2048}};
    struct ds_logical_tensor tensor = {"a", DS_STATE_KIND_PARAM, DS_F32, 1, {4}};

    (void)state;
    assert_non_null(mkdtemp(root));
    assert_ok(ds_checkpoint_dir_open(ds_fs_posix(), root, rig_run, rig_run, &rig_keys, &dir));
    assert_ok(ds_checkpoint_claim(dir));
    memcpy(manifest.run, rig_run, sizeof rig_run);
    manifest.catalogue = (struct ds_catalogue){&tensor, 1};
    assert_ok(ds_checkpoint_commit_manifest(dir, &manifest));
    ds_checkpoint_manifest_path(root, &manifest.id, path);
    assert_int_equal(verify(ds_fs_posix(), path), DS_ERR_CORRUPT); /* no pack has its tensor */
    assert_int_equal(chdir(root), 0);
    assert_int_equal(chdir("manifests"), 0);
    assert_int_equal(verify(ds_fs_posix(), "M-000001-000000000010.json"), DS_ERR_CORRUPT);
    assert_int_equal(chdir("/"), 0);
    ds_checkpoint_dir_close(dir);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_exit_code_says_what_is_damaged),
    cmocka_unit_test(one_manifest_is_enough_of_a_path),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
