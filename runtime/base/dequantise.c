/* dequantise.c - codes to numbers, for files and for the cpu's kernel. A product or a sum is rounded where it is made:
 * the same bits on every device. */
#include "dstrain/quant.h"

#include "dstrain/clones.h"
#include "dstrain/status.h"

static const float levels[] = DS_NF4_LEVELS;

/* `count` numbers of a block; the 16 products that there can be are made first. */
DS_CLONES static void nf4_block(const uint8_t *codes, uint64_t count, float absmax, float *to)
{
    float value[16];

    for (int i = 0; i < 16; i++)
        value[i] = levels[i] * absmax;
    for (uint64_t i = 0; i < count / 2; i++) {
        to[2 * i] = value[codes[i] >> 4];
        to[2 * i + 1] = value[codes[i] & 15];
    }
    if (count % 2)
        to[count - 1] = value[codes[count / 2] >> 4];
}

static float absmax_of(const struct ds_quantised *matrix, uint64_t block)
{
    if (matrix->absmax)
        return matrix->absmax[block];
    const uint64_t whole = ds_nf4_whole_block(block, matrix->first_block, matrix->row_blocks,
                                              matrix->whole_row_blocks);
    const float product =
        matrix->map[matrix->absmax_codes[block]] * matrix->nest_absmax[whole / DS_NF4_NEST];

    return product + matrix->offset;
}

static void nf4(const struct ds_quantised *matrix, const uint8_t *codes, uint64_t start,
                uint64_t count, float *to)
{
    for (uint64_t at = 0; at < count; at += DS_NF4_BLOCK) {
        const uint64_t left = count - at;

        nf4_block(codes + at / 2, left < DS_NF4_BLOCK ? left : DS_NF4_BLOCK,
                  absmax_of(matrix, (start + at) / DS_NF4_BLOCK), to + at);
    }
}

DS_CLONES static void int8_run(const int8_t *codes, uint64_t count, float absmax, float *to)
{
    DS_NO_OVERLAP for (uint64_t i = 0; i < count; i++) to[i] =
        (float)codes[i] * absmax * DS_INT8_SCALE;
}

static void int8(const struct ds_quantised *matrix, const int8_t *codes, uint64_t start,
                 uint64_t count, float *to)
{
    for (uint64_t at = 0, run; at < count; at += run) {
        const uint64_t row = (start + at) / matrix->columns, left = count - at;

        run = (row + 1) * matrix->columns - (start + at);
        run = run < left ? run : left;
        int8_run(codes + at, run, matrix->absmax[row], to + at);
    }
}

void ds_dequantise(const struct ds_quantised *matrix, const void *codes, uint64_t start,
                   uint64_t count, float *to)
{
    if (matrix->kind == DS_QUANT_INT8) {
        int8(matrix, codes, start, count, to);
        return;
    }
    DS_ASSERT(start % DS_NF4_BLOCK == 0);
    nf4(matrix, codes, start, count, to);
}
