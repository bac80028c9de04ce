// link: checkpoint comm storage base
/* A directory of checkpoints as format version 1 was when it was written first: it loads for ever. With a folder as
 * its argument the program writes there what lies in tests/golden/checkpoint_1. */
#include "checkpoint_rig.h"

#define GOLDEN DS_SOURCE_DIR "/tests/golden/checkpoint_1"

static void copy_tree(struct ds_fs *to_fs, const char *to, struct ds_fs *from_fs, const char *from)
{
    char **names;
    size_t count;

    assert_int_equal(ds_fs_mkdirs(to_fs, to, 0755), 0);
    assert_int_equal(ds_fs_readdir(from_fs, from, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        char to_path[DS_CHECKPOINT_PATH_BYTES], from_path[DS_CHECKPOINT_PATH_BYTES];
        struct ds_fs_stat stat;

        snprintf(to_path, sizeof to_path, "%s/%s", to, names[i]);
        snprintf(from_path, sizeof from_path, "%s/%s", from, names[i]);
        assert_int_equal(ds_fs_stat(from_fs, from_path, &stat), 0);
        if (stat.is_directory) {
            copy_tree(to_fs, to_path, from_fs, from_path);
        } else {
            char *text;
            size_t bytes;

            assert_ok(ds_fs_read_file(from_fs, from_path, 1 << 24, &text, &bytes));
            assert_ok(ds_fs_write_file(to_fs, to_path, text, bytes));
            free(text);
        }
    }
    free(names);
}

static void verify_step(struct ds_fs *fs, uint64_t step, uint32_t pack_count)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    struct ds_manifest manifest;

    assert_ok(
        ds_checkpoint_read_manifest(fs, RIG_ROOT, &(struct ds_manifest_id){1, step}, &manifest));
    assert_int_equal(manifest.pack_count, pack_count);
    assert_int_equal(manifest.catalogue.count, PACK_CASE_TENSORS);
    assert_ok(ds_checkpoint_verify(fs, RIG_ROOT, &manifest, buffer));
    assert_int_equal(rig_read_bytes(fs, &manifest, 1), RIG_BYTES_RIGHT);
    ds_manifest_fini(&manifest);
}

/* Whole, with second places, with references; a launch goes on from the newest and saves. */
static void version_1_loads(void **state)
{
    struct ds_fs *fs;
    struct launch l;
    int committed = 0;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    copy_tree(fs, RIG_ROOT, ds_fs_posix(), GOLDEN);
    verify_step(fs, 10, 2);
    verify_step(fs, 20, 4);
    verify_step(fs, 30, 6);
    launch_init(&l, fs, 1);
    assert_ok(launch_start(&l, UINT64_MAX));
    assert_true(l.base.epoch == 1 && l.base.step == 30);
    assert_int_equal(ds_checkpoint_dir_epoch(l.dir), 2);
    assert_ok(launch_save(&l, 40, &committed));
    assert_true(committed);
    launch_fini(&l);
    ds_fs_sim_close(fs);
}

/* What the writer makes today is what it made then, byte for byte. */
static void version_1_is_what_is_written(void **state)
{
    static const uint64_t steps[] = {10, 20, 30};
    struct ds_fs *fs;
    struct launch l;
    int committed = 0;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdir(fs, "/run", 0755), 0);
    launch_init(&l, fs, 1);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (size_t i = 0; i < 3; i++)
        assert_ok(launch_save(&l, steps[i], &committed));
    launch_fini(&l);
    for (size_t i = 0; i < 3; i++) {
        char path[DS_CHECKPOINT_PATH_BYTES], golden[DS_CHECKPOINT_PATH_BYTES], *text[2];
        size_t bytes[2];

        ds_checkpoint_manifest_path(RIG_ROOT, &(struct ds_manifest_id){1, steps[i]}, path);
        ds_checkpoint_manifest_path(GOLDEN, &(struct ds_manifest_id){1, steps[i]}, golden);
        assert_ok(ds_fs_read_file(fs, path, 1 << 20, &text[0], &bytes[0]));
        assert_ok(ds_fs_read_file(ds_fs_posix(), golden, 1 << 20, &text[1], &bytes[1]));
        assert_string_equal(text[0], text[1]); /* the packs' footers, and by them every byte, too */
        free(text[0]);
        free(text[1]);
    }
    ds_fs_sim_close(fs);
}

static void write_golden(const char *folder)
{
    struct ds_fs *fs;
    struct launch l;
    int committed = 0;

    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdir(fs, "/run", 0755), 0);
    launch_init(&l, fs, 1);
    assert_ok(launch_start(&l, UINT64_MAX));
    for (uint64_t step = 10; step <= 30; step += 10)
        assert_ok(launch_save(&l, step, &committed));
    launch_fini(&l);
    copy_tree(ds_fs_posix(), folder, fs, RIG_ROOT);
    ds_fs_sim_close(fs);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(version_1_loads),
    cmocka_unit_test(version_1_is_what_is_written),
};

int main(int argc, char **argv)
{
    if (argc == 2) {
        write_golden(argv[1]);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
