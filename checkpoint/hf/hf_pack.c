/* hf_pack.c - see hf_pack.h. The matrix passes piece by piece; of it stay the codes of this rank's part, and what lies
 * beside the codes of the whole. */
#include "hf_pack.h"

#include "dstrain/master.h"
#include "dstrain/quant.h"

#include <stdlib.h>
#include <string.h>

#define SHARE_ELEMS 16384 /* what one core quantises at a time; whole blocks */

static ds_status write(const struct hf_packing *p, uint64_t at, const void *from, uint64_t bytes)
{
    return ds_zero_write_packed(p->target->zero, p->param->unit, at, bytes, from);
}

static void beat(const struct hf_packing *p)
{
    if (p->target->beat)
        p->target->beat(p->target->user);
}

/* All shard ranks read it: the first counts, and of what is whole the tensor rank with its beginning. */
static void count_values(const struct hf_packing *p, const struct ds_param *box, uint64_t start,
                         uint64_t elems, const float *values)
{
    const struct ds_param *own = p->param;
    const int is_first = own->start[0] == 0 && (own->dim_count < 2 || own->start[1] == 0);

    if (p->target->shard_rank == 0 && (box == own || is_first))
        hf_add_sum(p->target, own, box, start, elems, values);
}

/* ---- what is stored as it is used: rounded as ds_zero_write_shard does */

static ds_status pack_plain(const struct hf_packing *p)
{
    const size_t bytes = ds_dtype_bytes(p->dtype);
    uint16_t halves[1024];

    for (uint64_t at = 0, count; at < p->param->elems; at += count) {
        count = p->param->elems - at < 1024 ? p->param->elems - at : 1024;
        DS_TRY(p->values(p->source, p->param, at, count, p->piece));
        count_values(p, p->param, at, count, p->piece);
        for (uint64_t i = 0; p->dtype == DS_BF16 && i < count; i++)
            halves[i] = ds_master_weight(p->piece[i]);
        if (p->dtype == DS_F16)
            (void)ds_dtype_from_f32(halves, DS_F16, p->piece, count);
        DS_TRY(write(p, p->part->codes_at + at * bytes,
                     p->dtype == DS_F32 ? (const void *)p->piece : halves, count * bytes));
    }
    return DS_OK;
}

/* ---- NF4 */

struct nf4 {
    uint8_t *piece_codes; /* of a piece of the whole */
    uint8_t *codes;       /* of this rank's part */
    float *absmax;        /* of all blocks */
    uint8_t *absmax_codes, *own_absmax_codes;
    float *nest;
    uint64_t blocks, own_blocks, done; /* done: of own_blocks */
};

static void nf4_fini(struct nf4 *q)
{
    free(q->piece_codes);
    free(q->codes);
    free(q->absmax);
    free(q->absmax_codes);
    free(q->own_absmax_codes);
    free(q->nest);
}

static ds_status nf4_init(struct nf4 *q, const struct hf_packing *p)
{
    const uint64_t whole = ds_param_whole_elems(p->param);

    *q = (struct nf4){.blocks = ds_nf4_blocks(whole), .own_blocks = ds_nf4_blocks(p->param->elems)};
    q->piece_codes = malloc(ds_nf4_bytes(p->piece_elems));
    q->codes = malloc(q->own_blocks * (DS_NF4_BLOCK / 2));
    q->absmax = malloc(q->blocks * sizeof *q->absmax);
    q->absmax_codes = malloc(q->blocks);
    q->own_absmax_codes = malloc(q->own_blocks);
    q->nest = malloc(ds_nf4_nests(whole) * sizeof *q->nest);
    if (q->piece_codes && q->codes && q->absmax && q->absmax_codes && q->own_absmax_codes &&
        q->nest)
        return DS_OK;
    nf4_fini(q);
    return ds_fail(DS_ERR_NO_MEMORY, "to quantise %s", p->param->name);
}

static uint64_t whole_block(const struct hf_packing *p, uint64_t own)
{
    const struct ds_dequantise_args *form = &p->part->form;

    return ds_nf4_whole_block(own, form->first_block, form->row_blocks, form->whole_row_blocks);
}

/* Numbers at .. of the whole, which are in the piece. */
static ds_status nf4_quantise(struct nf4 *q, const struct hf_packing *p, uint64_t at,
                              uint64_t count)
{
    uint64_t bad = 0;

#pragma omp parallel for schedule(static) reduction(+ : bad) if (count > SHARE_ELEMS)
    for (uint64_t done = 0; done < count; done += SHARE_ELEMS) {
        const uint64_t share = count - done < SHARE_ELEMS ? count - done : SHARE_ELEMS;

        bad += ds_nf4_quantise(p->piece + done, share, q->piece_codes + done / 2,
                               q->absmax + (at + done) / DS_NF4_BLOCK) < share;
    }
    if (bad > 0)
        return ds_fail(DS_ERR_DATA, "%s: not all of it is finite; it cannot be quantised",
                       p->param->name);
    return DS_OK;
}

/* The same from a file: its values stand for themselves. */
static ds_status nf4_codes(struct nf4 *q, const struct hf_packing *p, uint64_t at, uint64_t count)
{
    return p->stored ? ds_quant_read_codes(p->stored, at, count, q->piece_codes)
                     : nf4_quantise(q, p, at, count);
}

/* The blocks of that piece that are this rank's. */
static void nf4_keep(struct nf4 *q, const struct hf_packing *p, uint64_t at, uint64_t count)
{
    const uint64_t first = at / DS_NF4_BLOCK, bytes = ds_nf4_bytes(count);

    for (uint64_t block; q->done < q->own_blocks; q->done++) {
        block = whole_block(p, q->done);
        if (block >= first + ds_nf4_blocks(count))
            return;
        const uint64_t from = (block - first) * (DS_NF4_BLOCK / 2), left = bytes - from;
        memcpy(q->codes + q->done * (DS_NF4_BLOCK / 2), q->piece_codes + from,
               left < DS_NF4_BLOCK / 2 ? left : DS_NF4_BLOCK / 2);
    }
}

/* All absmax of the whole, which are not always nested in a file. */
static void nf4_nest(struct nf4 *q, const struct hf_packing *p, float map[DS_QUANT_MAP],
                     float *offset)
{
    struct ds_quantised beside = {.absmax = q->absmax};

    if (p->stored)
        beside = ds_quant_beside(p->stored);
    if (beside.absmax) {
        ds_quant_map(map);
        ds_nf4_nest(beside.absmax, q->blocks, map, q->absmax_codes, q->nest, offset);
        return;
    }
    memcpy(q->absmax_codes, beside.absmax_codes, q->blocks);
    memcpy(q->nest, beside.nest_absmax, p->part->form.nest_absmax.shape[0] * sizeof *q->nest);
    memcpy(map, beside.map, DS_QUANT_MAP * sizeof *map);
    *offset = beside.offset;
}

static ds_status nf4_write(struct nf4 *q, const struct hf_packing *p)
{
    const struct ds_zero_packed *part = p->part;
    float map[DS_QUANT_MAP], offset;

    nf4_nest(q, p, map, &offset);
    for (uint64_t b = 0; b < q->own_blocks; b++)
        q->own_absmax_codes[b] = q->absmax_codes[whole_block(p, b)];
    DS_TRY(write(p, part->codes_at, q->codes, part->form.codes.shape[0]));
    DS_TRY(write(p, part->absmax_at, q->own_absmax_codes, q->own_blocks));
    DS_TRY(
        write(p, part->nest_absmax_at, q->nest, part->form.nest_absmax.shape[0] * sizeof *q->nest));
    DS_TRY(write(p, part->map_at, map, sizeof map));
    return write(p, part->offset_at, &offset, sizeof offset);
}

/* The same parameter, uncut. */
static struct ds_param uncut(const struct ds_param *param)
{
    struct ds_param whole = *param;

    for (uint32_t d = 0; d < param->dim_count; d++) {
        whole.start[d] = 0;
        whole.local[d] = param->shape[d];
    }
    whole.elems = ds_param_whole_elems(param);
    return whole;
}

static ds_status nf4_all(struct nf4 *q, const struct hf_packing *p)
{
    const struct ds_param whole = uncut(p->param);

    for (uint64_t at = 0, count; at < whole.elems; at += count) {
        count = whole.elems - at < p->piece_elems ? whole.elems - at : p->piece_elems;
        DS_TRY(p->values(p->source, &whole, at, count, p->piece));
        count_values(p, &whole, at, count, p->piece);
        DS_TRY(nf4_codes(q, p, at, count));
        nf4_keep(q, p, at, count);
        beat(p);
    }
    return nf4_write(q, p);
}

static ds_status pack_nf4(const struct hf_packing *p)
{
    struct nf4 q;
    ds_status st;

    DS_TRY(nf4_init(&q, p));
    st = nf4_all(&q, p);
    nf4_fini(&q);
    return st;
}

/* ---- int8: whole rows, of those that are this rank's, as many at a time as a piece has */

static uint64_t rows_at_once(const struct hf_packing *p)
{
    const uint64_t most = p->piece_elems / p->param->shape[1];

    return most < 1 ? 1 : most < p->param->local[0] ? most : p->param->local[0];
}

/* Row `at` of the whole, to its codes and absmax. */
static ds_status int8_codes(const struct hf_packing *p, uint64_t at, const float *row,
                            int8_t *row_codes, float *absmax)
{
    const uint64_t columns = p->param->shape[1];

    if (p->stored) {
        *absmax = ds_quant_beside(p->stored).absmax[at];
        return ds_quant_read_codes(p->stored, at * columns, columns, row_codes);
    }
    if (ds_int8_quantise(row, 1, columns, row_codes, absmax) < columns)
        return ds_fail(DS_ERR_DATA, "%s: row %llu is not finite; it cannot be quantised",
                       p->param->name, (unsigned long long)at);
    return DS_OK;
}

static ds_status int8_row(const struct hf_packing *p, uint64_t r, const float *row,
                          int8_t *row_codes, int8_t *codes, float *absmax)
{
    const struct ds_param *param = p->param;
    const uint64_t width = param->local[1];

    count_values(p, param, r * width, width, row + param->start[1]);
    DS_TRY(int8_codes(p, param->start[0] + r, row, row_codes, &absmax[r]));
    memcpy(codes + r * width, row_codes + param->start[1], width);
    return DS_OK;
}

static ds_status int8_rows(const struct hf_packing *p, float *rows, int8_t *row_codes,
                           int8_t *codes, float *absmax)
{
    const struct ds_param *param = p->param, whole = uncut(param);
    const uint64_t columns = param->shape[1], most = rows_at_once(p);

    for (uint64_t first = 0, some; first < param->local[0]; first += some) {
        some = param->local[0] - first < most ? param->local[0] - first : most;
        DS_TRY(p->values(p->source, &whole, (param->start[0] + first) * columns, some * columns,
                         rows));
        for (uint64_t i = 0; i < some; i++)
            DS_TRY(int8_row(p, first + i, rows + i * columns, row_codes, codes, absmax));
        beat(p);
    }
    return DS_OK;
}

static ds_status pack_int8(const struct hf_packing *p)
{
    const struct ds_param *param = p->param;
    float *rows = malloc(rows_at_once(p) * param->shape[1] * sizeof *rows);
    float *absmax = malloc(param->local[0] * sizeof *absmax);
    int8_t *row_codes = malloc(param->shape[1]), *codes = malloc(param->elems);
    ds_status st = rows && absmax && row_codes && codes
                       ? int8_rows(p, rows, row_codes, codes, absmax)
                       : ds_fail(DS_ERR_NO_MEMORY, "to quantise %s", param->name);

    if (st == DS_OK)
        st = write(p, p->part->codes_at, codes, param->elems);
    if (st == DS_OK)
        st = write(p, p->part->absmax_at, absmax, param->local[0] * sizeof *absmax);
    free(rows);
    free(absmax);
    free(row_codes);
    free(codes);
    return st;
}

ds_status hf_pack(const struct hf_packing *packing)
{
    if (packing->part->is_plain)
        return pack_plain(packing);
    return packing->part->form.codes.dtype == DS_U8 ? pack_nf4(packing) : pack_int8(packing);
}
