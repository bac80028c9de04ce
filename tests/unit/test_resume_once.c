// link: launch
/* A launch that goes on reads each stored byte of its checkpoint once, however many ranks want it; and where the rank that
 * reads for the others finds a byte wrong, all of them take the checkpoint before. */
#include "capture.h"
#include "damage.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/checkpoint.h"
#include "dstrain/random.h"

#include <stdatomic.h>
#include <stdio.h>

enum { INTERVAL = 2, SAVED = 2 * INTERVAL, MORE = 1, PACKS_MAX = 32, FILES_MAX = 4096 };

static char *folder, *data, *root;
static uint64_t seed;

/* ---- a disk that counts what is read of chunks */

struct pack_file {
    char path[DS_CHECKPOINT_PATH_BYTES];
    uint64_t chunks_end;  /* where chunks end in the file */
    uint64_t chunk_place; /* where one of them begins */
};

static struct pack_file packs[PACKS_MAX];
static uint32_t pack_count;
static uint64_t stored_bytes; /* of all chunks */
static atomic_uint_fast64_t read_bytes;
static atomic_int pack_of[FILES_MAX]; /* of descriptors; -1: none of them */

#define INNER ds_fs_posix()->ops

static int counting_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    const int file = INNER->open(fs, path, flags, mode);
    int found = -1;

    for (uint32_t i = 0; i < pack_count; i++)
        if (strcmp(packs[i].path, path) == 0)
            found = (int)i;
    if (file >= 0 && file < FILES_MAX)
        atomic_store(&pack_of[file], found);
    return file;
}

static int64_t counting_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    const int64_t got = INNER->pread(fs, file, to, bytes, offset);
    const int pack = file >= 0 && file < FILES_MAX ? atomic_load(&pack_of[file]) : -1;

    if (pack >= 0 && got > 0 && offset < packs[pack].chunks_end)
        atomic_fetch_add(&read_bytes, (uint64_t)got);
    return got;
}

static struct ds_fs *counting_disk(void)
{
    static struct ds_fs_ops ops;
    static struct ds_fs fs = {&ops};

    ops = *INNER;
    ops.open = counting_open;
    ops.pread = counting_pread;
    atomic_store(&read_bytes, 0);
    return &fs;
}

/* The files of the newest checkpoint. */
static void look_at_newest(void)
{
    struct ds_checkpoint_list all;
    struct ds_manifest manifest;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &all));
    assert_int_equal(all.entries[0].id.step, SAVED);
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &all.entries[0].id, &manifest));
    ds_checkpoint_list_fini(&all);
    pack_count = 0;
    stored_bytes = 0;
    for (uint32_t i = 0; i < manifest.pack_count; i++) {
        struct ds_pack *pack;

        assert_true(pack_count < PACKS_MAX);
        assert_ok(ds_checkpoint_open_pack(ds_fs_posix(), root, &manifest, i, &pack));
        const struct ds_pack_info *info = ds_pack_info(pack);
        struct pack_file *file = &packs[pack_count++];
        snprintf(file->path, sizeof file->path, "%s", ds_pack_path(pack));
        file->chunks_end = info->boxes_offset;
        file->chunk_place = ds_pack_chunks(pack)[info->chunk_count / 2].offset;
        for (uint32_t n = 0; n < info->chunk_count; n++) {
            assert_int_equal(ds_pack_chunks(pack)[n].pack, DS_PACK_HERE);
            stored_bytes += ds_pack_chunks(pack)[n].stored_bytes;
        }
        ds_pack_close(pack);
    }
    ds_manifest_fini(&manifest);
}

/* ---- runs */

struct layout {
    uint32_t data, shard, tensor, pipeline;
    int stage;
};
static const struct layout layouts[] = {
    {1, 1, 2, 2, 3}, /* saves; the embedding is tied: two stages have it */
    {4, 1, 1, 1, 0}, /* replicas: all want all */
    {4, 4, 1, 1, 0}, /* shares of a chunk */
    {1, 1, 4, 1, 3}, /* norms, and kv heads that two ranks have */
    {2, 1, 1, 2, 1}, {1, 1, 1, 1, 3},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static void with_checkpoints(struct ds_config *config)
{
    config->schedule.decay_steps = SAVED;
    config->checkpoint.interval = INTERVAL;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static void without_checkpoints(struct ds_config *config)
{
    config->schedule.decay_steps = SAVED;
}

static struct tiny_result run(const struct layout *layout, uint64_t steps, struct ds_fs *fs,
                              void (*adjust)(struct ds_config *config))
{
    const struct tiny_case c = {.ranks = layout->data * layout->tensor * layout->pipeline,
                                .shard = layout->shard,
                                .tensor = layout->tensor,
                                .pipeline = layout->pipeline,
                                .stage = layout->stage,
                                .steps = steps,
                                .global_batch = 8,
                                .micro_batch = 1,
                                .seed = seed,
                                .data = data,
                                .layers = 2,
                                .family = DS_FAMILY_QWEN3,
                                .heads = 8,
                                .kv_heads = 2,
                                .head_dim = 4,
                                .is_tied = 1,
                                .fs = fs,
                                .adjust = adjust};
    struct tiny_result result;

    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    return result;
}

static void forget_checkpoints(void)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
}

static void each_stored_byte_is_read_once(void **state)
{
    struct tiny_result saved = run(&layouts[0], SAVED, NULL, with_checkpoints);

    (void)state;
    look_at_newest();
    assert_true(stored_bytes > 0);
    for (int to = 0; to < LAYOUTS; to++) {
        struct tiny_result loaded = run(&layouts[to], SAVED, counting_disk(), with_checkpoints);

        assert_int_equal(loaded.steps, 0);
        assert_memory_equal(loaded.params, saved.params, saved.param_elems * sizeof *saved.params);
        if (atomic_load(&read_bytes) != stored_bytes)
            fail_msg("layout %d: %llu bytes of chunks were read, %llu are stored", to,
                     (unsigned long long)atomic_load(&read_bytes),
                     (unsigned long long)stored_bytes);
        tiny_result_fini(&loaded);
    }
    tiny_result_fini(&saved);
    forget_checkpoints();
}

static void all_fall_back_from_what_one_reads(void **state)
{
    const struct layout *replicas = &layouts[1];
    struct tiny_result whole = run(replicas, SAVED + MORE, NULL, without_checkpoints);
    struct tiny_result saved = run(replicas, SAVED, NULL, with_checkpoints);
    struct capture capture;

    (void)state;
    look_at_newest();
    const struct pack_file *file =
        &packs[ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 0), 0, pack_count)];
    damage_flip(ds_fs_posix(), file->path, file->chunk_place);
    capture_begin(&capture);
    struct tiny_result rest = run(replicas, SAVED + MORE, NULL, with_checkpoints);
    assert_non_null(strstr(capture_end(&capture), "cannot be loaded"));
    for (uint64_t i = 0; i < SAVED + MORE; i++) /* made again from the one before */
        assert_true(rest.loss[i] == (i < SAVED - INTERVAL ? 0 : whole.loss[i]));
    assert_memory_equal(rest.params, whole.params, whole.param_elems * sizeof *whole.params);
    tiny_result_fini(&rest);
    tiny_result_fini(&saved);
    tiny_result_fini(&whole);
    forget_checkpoints();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_stored_byte_is_read_once),
        cmocka_unit_test(all_fall_back_from_what_one_reads),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_resume_once");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    root = malloc(512);
    snprintf(root, 512, "%s/checkpoints", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(root);
    free(data);
    tiny_remove(folder);
    return failed;
}
