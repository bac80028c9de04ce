// link: checkpoint
/* What one layout has saved every other one loads, bit for bit: models drawn at random, spread over meshes, their
 * states in packs on the simulated disk. */
#include "spread.h"

#include "dstrain/checkpoint.h"
#include "dstrain/states.h"

#define ROOT      "/c"
#define RANKS_MAX 8

static const uint8_t run_name[16] = "a run";
static const struct ds_digest keys = {{1}};

struct rig {
    struct ds_fs *fs;
    struct ds_storage *storage;
    struct ds_comm *self;
    struct ds_checkpoint_dir *dir;
    struct ds_zero_dtypes dtypes;
    uint8_t *buffer;
};

/* One rank of a layout: its model, its pieces. */
struct rank {
    struct ds_model *model;
    struct ds_catalogue catalogue;
    struct ds_state_piece *pieces;
    uint32_t count;
};

static void rank_open(const struct rig *rig, const struct spread_case *c, uint32_t index,
                      struct rank *rank)
{
    const struct ds_mesh_place here = ds_mesh_place_of(&c->mesh, index);
    const struct ds_model_share share = {.tp_rank = here.at[DS_AXIS_TP],
                                         .tp_size = c->mesh.size[DS_AXIS_TP]};
    uint8_t has_unit[SPREAD_UNITS_MAX] = {0};

    assert_ok(ds_model_open(&c->config, &share, &rank->model));
    for (uint32_t u = 0; u < c->unit_count; u++)
        has_unit[u] = c->stage_of_unit[u] == here.at[DS_AXIS_PP];
    const struct ds_states_place place = {.model = rank->model,
                                          .dtypes = &rig->dtypes,
                                          .mesh = &c->mesh,
                                          .rank = index,
                                          .has_unit = has_unit,
                                          .stage_of_unit = c->stage_of_unit};
    assert_ok(ds_states_catalogue(rank->model, &rig->dtypes, &rank->catalogue));
    assert_ok(ds_states_pieces(&place, &rank->pieces, &rank->count));
}

static void rank_close(struct rank *rank)
{
    free(rank->pieces);
    free(rank->catalogue.tensors);
    ds_model_close(rank->model);
}

/* The bytes of elements [start, start + count) of a piece: two bytes or four of each say which it is of the whole. */
static void fill(const struct ds_catalogue *catalogue, const struct ds_piece *piece, uint64_t start,
                 uint64_t count, uint8_t *to)
{
    const struct ds_logical_tensor *tensor = &catalogue->tensors[piece->tensor];
    const size_t bytes = ds_dtype_bytes(tensor->dtype);

    for (uint64_t i = 0; i < count; i++) {
        uint64_t rest = piece->begin + start + i, number = 0, stride = 1;

        for (uint32_t dim = piece->box.dim_count; dim-- > 0;) {
            const uint64_t extent = piece->box.end[dim] - piece->box.begin[dim];

            number += (piece->box.begin[dim] + rest % extent) * stride;
            rest /= extent;
            stride *= tensor->shape[dim];
        }
        const uint32_t value = (uint32_t)(number * 2654435761u) ^ piece->tensor << 8;
        memcpy(to + i * bytes, &value, bytes);
    }
}

/* ---- saving */

static void give_back(void *user, void *data)
{
    (void)user;
    free(data);
}

static ds_status put_chunks(const struct ds_pack_plan *plan, struct ds_pack_writer *writer)
{
    for (uint32_t i = 0; i < plan->chunk_count; i++) {
        const struct ds_pack_chunk *chunk = &plan->chunks[i];
        const struct ds_piece piece = {chunk->tensor,
                                       chunk->box
                                           ? plan->boxes[chunk->box - 1]
                                           : ds_box_whole(&plan->catalogue->tensors[chunk->tensor]),
                                       chunk->begin, chunk->end};
        uint8_t *data = aligned_alloc(DS_PACK_ALIGN, chunk->stored_bytes);

        fill(plan->catalogue, &piece, 0, piece.end - piece.begin, data);
        DS_TRY(ds_pack_put(writer, data, NULL, NULL));
    }
    return DS_OK;
}

/* 1: the rank had something to write */
static int save_rank(struct rig *rig, const struct spread_case *c, uint32_t index, uint64_t step,
                     struct ds_manifest_pack *out)
{
    struct ds_piece *written;
    struct ds_pack_writer *writer;
    struct ds_pack_plan plan;
    struct rank rank;
    char path[DS_CHECKPOINT_PATH_BYTES];
    size_t count = 0;

    rank_open(rig, c, index, &rank);
    written = calloc(rank.count + 1u, sizeof *written);
    for (uint32_t i = 0; i < rank.count; i++)
        if (rank.pieces[i].is_written)
            written[count++] = rank.pieces[i].piece;
    *out = (struct ds_manifest_pack){0};
    if (count > 0) {
        struct ds_pack_new pack = {
            .path = path,
            .id = {.epoch = ds_checkpoint_dir_epoch(rig->dir), .step = step, .rank = index},
            .done = give_back};

        memcpy(pack.run, run_name, sizeof run_name);
        ds_checkpoint_pack_path(ROOT, 0, &pack.id, path);
        assert_ok(ds_checkpoint_make_data(rig->fs, ROOT, 0));
        assert_ok(ds_pack_plan_make(&rank.catalogue, written, count, DS_PACK_CHUNKS_MAX, &plan));
        assert_ok(ds_pack_writer_open(rig->fs, rig->storage, 1, &plan, &writer));
        assert_ok(ds_pack_begin(writer, &pack));
        assert_ok(put_chunks(&plan, writer));
        assert_ok(ds_pack_finish(writer, &out->pack));
        assert_ok(ds_checkpoint_keep_pack(rig->fs, ROOT, out, 1, rig->buffer));
        ds_pack_writer_close(writer);
        ds_pack_plan_fini(&plan);
    }
    free(written);
    rank_close(&rank);
    return count > 0;
}

static void save(struct rig *rig, const struct spread_case *c, uint64_t step)
{
    struct ds_manifest_pack packs[RANKS_MAX];
    struct ds_manifest manifest = {.id = {ds_checkpoint_dir_epoch(rig->dir), step}};
    struct ds_model *whole;
    uint32_t count = 0;
    int committed = 0;

    for (uint32_t i = 0; i < ds_mesh_rank_count(&c->mesh); i++)
        count += (uint32_t)save_rank(rig, c, i, step, &packs[count]);
    assert_ok(ds_model_open(&c->config, NULL, &whole));
    assert_ok(ds_states_catalogue(whole, &rig->dtypes, &manifest.catalogue));
    memcpy(manifest.run, run_name, sizeof run_name);
    assert_ok(
        ds_checkpoint_commit(rig->self, rig->dir, &manifest, DS_OK, packs, count, &committed));
    assert_true(committed);
    ds_manifest_fini(&manifest);
    ds_model_close(whole);
}

/* ---- loading */

struct target {
    const struct rank *rank;
    uint8_t **bytes; /* of each piece */
    size_t *done;    /* elements */
};

static ds_status take(void *user, size_t want, uint64_t start, uint64_t count, const void *from,
                      enum ds_dtype dtype)
{
    struct target *target = user;
    const size_t bytes = ds_dtype_bytes(dtype);
    const struct ds_piece *piece = &target->rank->pieces[want].piece;

    assert_true(start + count <= piece->end - piece->begin);
    memcpy(target->bytes[want] + start * bytes, from, count * bytes);
    target->done[want] += count;
    return DS_OK;
}

static void load_rank(struct rig *rig, const struct spread_case *c, uint32_t index,
                      const struct ds_manifest *manifest)
{
    struct rank rank;
    struct target target = {.rank = &rank};
    const struct ds_checkpoint_sink sink = {take, &target};
    struct ds_piece *wants;

    rank_open(rig, c, index, &rank);
    wants = calloc(rank.count + 1u, sizeof *wants);
    target.bytes = calloc(rank.count + 1u, sizeof *target.bytes);
    target.done = calloc(rank.count + 1u, sizeof *target.done);
    for (uint32_t i = 0; i < rank.count; i++) {
        wants[i] = rank.pieces[i].piece;
        target.bytes[i] = malloc((wants[i].end - wants[i].begin) * 4);
    }
    assert_ok(ds_checkpoint_load(rig->fs, ROOT, manifest, wants, rank.count, rig->buffer, &sink));
    for (uint32_t i = 0; i < rank.count; i++) {
        const uint64_t count = wants[i].end - wants[i].begin;
        uint8_t *wanted = malloc(count * 4);

        assert_int_equal(target.done[i], count);
        fill(&rank.catalogue, &wants[i], 0, count, wanted);
        assert_memory_equal(target.bytes[i], wanted,
                            count * ds_dtype_bytes(rank.catalogue.tensors[wants[i].tensor].dtype));
        free(wanted);
        free(target.bytes[i]);
    }
    free(wants);
    free(target.bytes);
    free(target.done);
    rank_close(&rank);
}

static void rig_open(struct rig *rig)
{
    *rig = (struct rig){.dtypes = ds_zero_dtypes_fp32(), .buffer = malloc(DS_PACK_CHUNK_BYTES)};
    assert_ok(ds_fs_sim_open(&rig->fs));
    assert_ok(ds_storage_open(rig->fs, "threads", 1, &rig->storage));
    assert_ok(ds_comm_self_open(ds_clock_system(), &rig->self));
    assert_ok(ds_checkpoint_dir_open(rig->fs, ROOT, run_name, run_name, &keys, &rig->dir));
    assert_ok(ds_checkpoint_claim(rig->dir));
    rig->dtypes.exp_avg = DS_BF16;
}

static void rig_close(struct rig *rig)
{
    ds_checkpoint_dir_close(rig->dir);
    ds_comm_close(rig->self);
    ds_storage_close(rig->storage);
    assert_int_equal(ds_fs_sim_open_files(rig->fs), 0);
    ds_fs_sim_close(rig->fs);
    free(rig->buffer);
}

static void every_layout_loads_what_another_saved(void **state)
{
    struct spread_draw draw = {ds_random_of(test_seed("test_checkpoint_load"), DS_RANDOM_TEST, 0),
                               0};

    (void)state;
    for (int trial = 0; trial < (test_is_long() ? 400 : 20); trial++) {
        struct spread_case from = {0}, to;
        struct ds_manifest manifest;
        struct rig rig;

        rig_open(&rig);
        spread_draw_config(&draw, &from.config);
        spread_draw_layout(&draw, &from, RANKS_MAX);
        save(&rig, &from, 10);
        assert_ok(
            ds_checkpoint_read_manifest(rig.fs, ROOT, &(struct ds_manifest_id){1, 10}, &manifest));
        assert_ok(ds_checkpoint_verify(rig.fs, ROOT, &manifest, rig.buffer));
        for (int other = 0; other < 5; other++) {
            to = from;
            if (other > 0) /* its own first */
                spread_draw_layout(&draw, &to, RANKS_MAX);
            for (uint32_t rank = 0; rank < ds_mesh_rank_count(&to.mesh); rank++)
                load_rank(&rig, &to, rank, &manifest);
        }
        ds_manifest_fini(&manifest);
        rig_close(&rig);
    }
}

/* A pack that is not named any more takes its elements along: that is noticed, though all that is there is good. */
static void what_is_nowhere_is_missed(void **state)
{
    struct spread_draw draw = {ds_random_of(3, DS_RANDOM_TEST, 0), 0};
    struct spread_case c = {0};
    struct ds_manifest manifest;
    struct ds_piece want;
    struct rank rank;
    struct rig rig;
    static size_t done;
    static uint8_t *bytes;
    struct target target = {&rank, &bytes, &done};
    const struct ds_checkpoint_sink sink = {take, &target};

    (void)state;
    rig_open(&rig);
    spread_draw_config(&draw, &c.config);
    do
        spread_draw_layout(&draw, &c, RANKS_MAX);
    while (c.mesh.size[DS_AXIS_SHARD] < 2 || c.mesh.size[DS_AXIS_PP] > 1);
    save(&rig, &c, 10);
    assert_ok(
        ds_checkpoint_read_manifest(rig.fs, ROOT, &(struct ds_manifest_id){1, 10}, &manifest));
    rank_open(&rig, &c, 0, &rank);
    want = rank.pieces[0].piece;
    bytes = malloc((want.end - want.begin) * 4);
    assert_ok(ds_checkpoint_load(rig.fs, ROOT, &manifest, &want, 1, rig.buffer, &sink));
    memmove(manifest.packs, manifest.packs + 1, --manifest.pack_count * sizeof *manifest.packs);
    done = 0;
    ds_log.terminal = -1;
    assert_int_equal(ds_checkpoint_load(rig.fs, ROOT, &manifest, &want, 1, rig.buffer, &sink),
                     DS_ERR_CORRUPT);
    ds_log.terminal = 2;
    free(bytes);
    rank_close(&rank);
    ds_manifest_fini(&manifest);
    rig_close(&rig);
}

static void tensors_are_found_by_name_and_kind(void **state)
{
    struct ds_logical_tensor there[] = {
        {"b", DS_STATE_KIND_MASTER, DS_F32, 1, {4}},
        {"a", DS_STATE_KIND_MASTER, DS_F32, 2, {4, 5}},
        {"a", DS_STATE_KIND_EXP_AVG, DS_BF16, 2, {4, 5}},
    };
    struct ds_logical_tensor here[] = {
        {"a", DS_STATE_KIND_EXP_AVG, DS_F32, 2, {4, 5}}, /* another precision is fine */
        {"c", DS_STATE_KIND_MASTER, DS_F32, 1, {4}},
        {"b", DS_STATE_KIND_MASTER, DS_F32, 1, {4}},
        {"b", DS_STATE_KIND_EXP_AVG, DS_F32, 1, {4}},
    };
    const struct ds_catalogue from = {there, 3}, to = {here, 4};
    uint32_t numbers[4];

    (void)state;
    assert_ok(ds_catalogue_match("test", &from, &to, numbers));
    assert_true(numbers[0] == 2 && numbers[1] == UINT32_MAX && numbers[2] == 0 &&
                numbers[3] == UINT32_MAX);
    here[2].shape[0] = 5;
    ds_log.terminal = -1;
    assert_int_equal(ds_catalogue_match("test", &from, &to, numbers), DS_ERR_DATA);
    ds_log.terminal = 2;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_layout_loads_what_another_saved),
    cmocka_unit_test(what_is_nowhere_is_missed),
    cmocka_unit_test(tensors_are_found_by_name_and_kind),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
