/* pack_case.h - small states for tests of checkpoints: tensors of several dtypes, one cut by columns, values that
 * say which element of which tensor and which save they are, and packs written of them. */
#ifndef DSTRAIN_TEST_PACK_CASE_H
#define DSTRAIN_TEST_PACK_CASE_H

#include "test.h"

#include "dstrain/pack.h"
#include "dstrain/random.h"

#define PACK_CASE_TENSORS 4

struct pack_case {
    struct ds_logical_tensor tensors[PACK_CASE_TENSORS];
    struct ds_catalogue catalogue;
    struct ds_fs *fs;
    struct ds_storage *storage;
    uint64_t changed_at[PACK_CASE_TENSORS]; /* values are of this step: others' have not changed */
    int buffers_out;                        /* given to a writer and not back yet */
};

static inline void pack_case_tensor(struct pack_case *c, uint32_t index, const char *name,
                                    enum ds_state_kind kind, enum ds_dtype dtype, uint64_t rows,
                                    uint64_t columns)
{
    struct ds_logical_tensor *tensor = &c->tensors[index];

    *tensor = (struct ds_logical_tensor){
        .kind = kind, .dtype = dtype, .dim_count = columns ? 2 : 1, .shape = {rows, columns}};
    strcpy(tensor->name, name);
}

/* `large`: the first tensor has more than one chunk. */
static inline void pack_case_open(struct pack_case *c, struct ds_fs *fs, int large)
{
    *c = (struct pack_case){.fs = fs, .catalogue = {c->tensors, PACK_CASE_TENSORS}};
    pack_case_tensor(c, 0, "model.embed_tokens.weight", DS_STATE_KIND_MASTER, DS_F32,
                     large ? 1200 : 12, large ? 1001 : 10);
    pack_case_tensor(c, 1, "model.embed_tokens.weight", DS_STATE_KIND_EXP_AVG, DS_BF16, 33, 0);
    pack_case_tensor(c, 2, "model.norm.weight", DS_STATE_KIND_MASTER, DS_F32, 2048, 0);
    pack_case_tensor(c, 3, "model.norm.weight", DS_STATE_KIND_EXP_AVG_SQ, DS_F64, 5, 3);
    assert_ok(ds_catalogue_check("case", &c->catalogue));
    assert_ok(ds_storage_open(fs, "threads", 2, &c->storage));
}

static inline void pack_case_close(struct pack_case *c)
{
    assert_int_equal(c->buffers_out, 0);
    ds_storage_close(c->storage);
}

/* Rank `rank` of two: the first tensor is cut by columns, of the others each has a half. */
static inline size_t pack_case_pieces(const struct pack_case *c, uint32_t rank,
                                      struct ds_piece *pieces)
{
    for (uint32_t i = 0; i < PACK_CASE_TENSORS; i++) {
        struct ds_box box = ds_box_whole(&c->tensors[i]);
        const uint64_t half = i == 0 ? box.end[1] / 2 : ds_box_elems(&box) / 2;

        if (i == 0 && rank == 0)
            box.end[1] = half;
        else if (i == 0)
            box.begin[1] = half;
        const uint64_t elems = ds_box_elems(&box);
        pieces[i] = (struct ds_piece){i, box, i > 0 && rank == 1 ? half : 0,
                                      i > 0 && rank == 0 ? half : elems};
    }
    return PACK_CASE_TENSORS;
}

/* The body of a chunk, as it is at the step at which its tensor changed last. */
static inline void pack_case_fill(const struct pack_case *c, const struct ds_piece *piece, void *to)
{
    const uint64_t bytes =
        (piece->end - piece->begin) * ds_dtype_bytes(c->tensors[piece->tensor].dtype);
    const uint64_t seed = c->changed_at[piece->tensor] * 64 + piece->tensor * 8 +
                          (piece->box.dim_count == 2 && piece->box.begin[1] > 0);
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, piece->begin);
    uint8_t *at = to;

    for (uint64_t i = 0; i < bytes; i++)
        at[i] = i < 64 ? (uint8_t)ds_random_u32(random, i) : (uint8_t)(at[i - 64] + 1);
}

static inline void pack_case_done(void *user, void *data)
{
    struct pack_case *c = user;

    c->buffers_out--;
    free(data);
}

static inline struct ds_piece pack_case_piece(const struct ds_pack_plan *plan, uint32_t chunk)
{
    const struct ds_pack_chunk *at = &plan->chunks[chunk];

    return (struct ds_piece){at->tensor,
                             at->box ? plan->boxes[at->box - 1]
                                     : ds_box_whole(&plan->catalogue->tensors[at->tensor]),
                             at->begin, at->end};
}

/* Puts chunk `chunk` of the plan; `copy` as ds_pack_put has it. */
static inline ds_status pack_case_put(struct pack_case *c, struct ds_pack_writer *writer,
                                      const struct ds_pack_plan *plan, uint32_t chunk,
                                      const struct ds_pack_chunk *copy)
{
    const struct ds_piece piece = pack_case_piece(plan, chunk);
    void *data = aligned_alloc(DS_PACK_ALIGN, plan->chunks[chunk].stored_bytes);

    memset(data, 0xee, plan->chunks[chunk].stored_bytes);
    pack_case_fill(c, &piece, data);
    const struct ds_digest sealed = ds_digest_of(data, plan->chunks[chunk].body_bytes);
    c->buffers_out++;
    return ds_pack_put(writer, data, &sealed, copy);
}

/* Writes one part with every chunk in it. */
static inline ds_status pack_case_write(struct pack_case *c, struct ds_pack_writer *writer,
                                        const struct ds_pack_plan *plan, const char *path,
                                        const struct ds_pack_id *id, struct ds_pack_other *out)
{
    struct ds_pack_new pack = {
        .path = path, .run = "a run's own name", .id = *id, .done = pack_case_done, .user = c};
    const struct ds_pack_part *part = &plan->parts[id->part];
    ds_status st = ds_pack_begin(writer, &pack);

    for (uint32_t i = 0; i < part->count && st == DS_OK; i++)
        st = pack_case_put(c, writer, plan, part->first + i, NULL);
    if (st == DS_OK)
        st = ds_pack_finish(writer, out);
    if (st != DS_OK)
        ds_pack_abandon(writer);
    return st;
}

#endif
