// link: launch
/* A launch that goes on reads each stored byte of its checkpoint once, however many ranks want it; and where the rank that
 * reads for the others finds a byte wrong, all of them take the checkpoint before. */
#include "damage.h"
#include "hooked_disk.h"
#include "saved_run.h"

#include "dstrain/random.h"

#include <stdatomic.h>
#include <stdio.h>

enum { INTERVAL = 2, SAVED = 2 * INTERVAL, MORE = 1, PACKS_MAX = 32 };

/* ---- a disk that counts what is read of chunks */

struct pack_file {
    char path[DS_CHECKPOINT_PATH_BYTES];
    uint64_t chunks_begin, chunks_end; /* where chunks lie in the file */
    uint64_t chunk_place;              /* where one of them begins */
};

static struct pack_file packs[PACKS_MAX];
static uint32_t pack_count;
static uint64_t stored_bytes; /* of all chunks */
static atomic_uint_fast64_t read_bytes;

static int count_reads(const struct disk_call *call)
{
    for (uint32_t i = 0; i < pack_count; i++)
        if (strcmp(call->what, "pread") == 0 && strcmp(packs[i].path, call->path) == 0 &&
            call->offset >= packs[i].chunks_begin && call->offset < packs[i].chunks_end)
            atomic_fetch_add(&read_bytes, call->bytes);
    return 0;
}

static struct ds_fs *counting_disk(void)
{
    atomic_store(&read_bytes, 0);
    return hooked_disk(count_reads);
}

/* The files of the newest checkpoint. */
static void look_at_newest(void)
{
    struct ds_manifest_id ids[SAVED_MAX];
    struct ds_manifest manifest;

    assert_true(saved_list(saved.root, ids) > 0);
    assert_int_equal(ids[0].step, SAVED);
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), saved.root, &ids[0], &manifest));
    pack_count = 0;
    stored_bytes = 0;
    for (uint32_t i = 0; i < manifest.pack_count; i++) {
        struct ds_pack *pack;

        assert_true(pack_count < PACKS_MAX);
        assert_ok(ds_checkpoint_open_pack(ds_fs_posix(), saved.root, &manifest, i, &pack));
        const struct ds_pack_info *info = ds_pack_info(pack);
        struct pack_file *file = &packs[pack_count++];
        snprintf(file->path, sizeof file->path, "%s", ds_pack_path(pack));
        file->chunks_begin = info->header_bytes;
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

static struct tiny_result run(const struct layout *layout, uint64_t steps, struct ds_fs *fs,
                              saved_adjust *adjust)
{
    const struct tiny_case c = {.ranks = layout->data * layout->tensor * layout->pipeline,
                                .shard = layout->shard,
                                .tensor = layout->tensor,
                                .pipeline = layout->pipeline,
                                .stage = layout->stage,
                                .global_batch = 8,
                                .micro_batch = 1,
                                .data = saved.data,
                                .layers = 2,
                                .family = DS_FAMILY_QWEN3,
                                .heads = 8,
                                .kv_heads = 2,
                                .head_dim = 4,
                                .is_tied = 1,
                                .fs = fs};

    return saved_run(c, steps, adjust);
}

static void each_stored_byte_is_read_once(void **state)
{
    struct tiny_result first = run(&layouts[0], SAVED, NULL, with_checkpoints);

    (void)state;
    look_at_newest();
    assert_true(stored_bytes > 0);
    for (int to = 0; to < LAYOUTS; to++) {
        struct tiny_result loaded = run(&layouts[to], SAVED, counting_disk(), with_checkpoints);

        assert_int_equal(loaded.steps, 0);
        assert_memory_equal(loaded.params, first.params, first.param_elems * sizeof *first.params);
        if (atomic_load(&read_bytes) != stored_bytes)
            fail_msg("layout %d: %llu bytes of chunks were read, %llu are stored", to,
                     (unsigned long long)atomic_load(&read_bytes),
                     (unsigned long long)stored_bytes);
        tiny_result_fini(&loaded);
    }
    tiny_result_fini(&first);
    saved_forget(saved.root);
}

static void all_fall_back_from_what_one_reads(void **state)
{
    const struct layout *replicas = &layouts[1];
    struct tiny_result whole = run(replicas, SAVED + MORE, NULL, without_checkpoints);
    struct tiny_result first = run(replicas, SAVED, NULL, with_checkpoints);
    struct capture capture;

    (void)state;
    look_at_newest();
    const struct pack_file *file =
        &packs[ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 0), 0, pack_count)];
    damage_flip(ds_fs_posix(), file->path, file->chunk_place);
    capture_begin(&capture);
    struct tiny_result rest = run(replicas, SAVED + MORE, NULL, with_checkpoints);
    assert_non_null(strstr(capture_end(&capture), "cannot be loaded"));
    assert_int_equal(saved_went_on_from(&rest), SAVED - INTERVAL); /* the one before */
    assert_same_run(&rest, &whole, SAVED - INTERVAL);
    tiny_result_fini(&rest);
    tiny_result_fini(&first);
    tiny_result_fini(&whole);
    saved_forget(saved.root);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_stored_byte_is_read_once),
        cmocka_unit_test(all_fall_back_from_what_one_reads),
    };
    int failed;

    saved_begin("test_resume_once", 64);
    saved.interval = INTERVAL;
    saved.decay_steps = SAVED;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
