/* saved_spread.h - checkpoints of models that are spread over meshes (spread.h): every rank's states in a pack on the
 * simulated disk, every element with a value that says where it belongs. */
#ifndef DSTRAIN_TEST_SAVED_SPREAD_H
#define DSTRAIN_TEST_SAVED_SPREAD_H

#include "commit_alone.h"
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

static inline void rank_open(const struct rig *rig, const struct spread_case *c, uint32_t index,
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

static inline void rank_close(struct rank *rank)
{
    free(rank->pieces);
    free(rank->catalogue.tensors);
    ds_model_close(rank->model);
}

/* The bytes of elements [start, start + count) of a piece: two bytes or four of each say which it is of the whole. */
static inline void fill(const struct ds_catalogue *catalogue, const struct ds_piece *piece,
                        uint64_t start, uint64_t count, uint8_t *to)
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

static inline void give_back(void *user, void *data)
{
    (void)user;
    free(data);
}

static inline ds_status put_chunks(const struct ds_pack_plan *plan, struct ds_pack_writer *writer)
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
static inline int save_rank(struct rig *rig, const struct spread_case *c, uint32_t index,
                            uint64_t step, struct ds_manifest_pack *out)
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

static inline void save(struct rig *rig, const struct spread_case *c, uint64_t step)
{
    struct ds_manifest_pack packs[RANKS_MAX];
    struct ds_manifest manifest = {.id = {ds_checkpoint_dir_epoch(rig->dir), step}};
    struct ds_model *whole;
    uint32_t count = 0;

    for (uint32_t i = 0; i < ds_mesh_rank_count(&c->mesh); i++)
        count += (uint32_t)save_rank(rig, c, i, step, &packs[count]);
    assert_ok(ds_model_open(&c->config, NULL, &whole));
    assert_ok(ds_states_catalogue(whole, &rig->dtypes, &manifest.catalogue));
    memcpy(manifest.run, run_name, sizeof run_name);
    assert_ok(commit_alone(rig->self, rig->dir, &manifest, packs, count));
    ds_manifest_fini(&manifest);
    ds_model_close(whole);
}

/* ---- loading */

/* Where a rank's pieces are loaded to. */
struct target {
    const struct rank *rank;
    /* owns */
    struct ds_piece *wants;
    uint8_t **bytes; /* of each piece */
    size_t *done;    /* elements */
};

static inline void target_open(const struct rank *rank, struct target *target)
{
    *target = (struct target){.rank = rank,
                              .wants = calloc(rank->count + 1u, sizeof *target->wants),
                              .bytes = calloc(rank->count + 1u, sizeof *target->bytes),
                              .done = calloc(rank->count + 1u, sizeof *target->done)};
    for (uint32_t i = 0; i < rank->count; i++) {
        target->wants[i] = rank->pieces[i].piece;
        target->bytes[i] = malloc((target->wants[i].end - target->wants[i].begin) * 4);
    }
}

static inline void target_close(struct target *target)
{
    for (uint32_t i = 0; i < target->rank->count; i++)
        free(target->bytes[i]);
    free(target->wants);
    free(target->bytes);
    free(target->done);
}

static inline ds_status take(void *user, size_t want, uint64_t start, uint64_t count,
                             const void *from, enum ds_dtype dtype)
{
    struct target *target = user;
    const size_t bytes = ds_dtype_bytes(dtype);
    const struct ds_piece *piece = &target->wants[want];

    SPREAD_MUST(start + count <= piece->end - piece->begin);
    memcpy(target->bytes[want] + start * bytes, from, count * bytes);
    target->done[want] += count;
    return DS_OK;
}

/* All has come, once, with the right bits. */
static inline void target_check(const struct target *target)
{
    for (uint32_t i = 0; i < target->rank->count; i++) {
        const struct ds_piece *want = &target->wants[i];
        const struct ds_catalogue *catalogue = &target->rank->catalogue;
        const uint64_t count = want->end - want->begin;
        uint8_t *wanted = malloc(count * 4);

        assert_int_equal(target->done[i], count);
        fill(catalogue, want, 0, count, wanted);
        assert_memory_equal(target->bytes[i], wanted,
                            count * ds_dtype_bytes(catalogue->tensors[want->tensor].dtype));
        free(wanted);
    }
}

static inline void rig_open(struct rig *rig)
{
    *rig = (struct rig){.dtypes = ds_zero_dtypes_fp32(), .buffer = malloc(DS_PACK_CHUNK_BYTES)};
    assert_ok(ds_fs_sim_open(&rig->fs));
    assert_ok(ds_storage_open(rig->fs, "threads", 1, &rig->storage));
    assert_ok(ds_comm_self_open(ds_clock_system(), &rig->self));
    assert_ok(ds_checkpoint_dir_open(rig->fs, ROOT, run_name, run_name, &keys, &rig->dir));
    assert_ok(ds_checkpoint_claim(rig->dir));
    rig->dtypes.exp_avg = DS_BF16;
}

static inline void rig_close(struct rig *rig)
{
    ds_checkpoint_dir_close(rig->dir);
    ds_comm_close(rig->self);
    ds_storage_close(rig->storage);
    assert_int_equal(ds_fs_sim_open_files(rig->fs), 0);
    ds_fs_sim_close(rig->fs);
    free(rig->buffer);
}

#endif
