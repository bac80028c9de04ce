/* quant.h - matrices in 4 or 8 bits a number, with the arithmetic of bitsandbytes: NF4 (Dettmers et al. 2023) and
 * int8 by rows. A matrix is flat here, row-major; what quantises, and what brings numbers back. Pure. */
#ifndef DSTRAIN_QUANT_H
#define DSTRAIN_QUANT_H

#include "dstrain/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DS_NF4_BLOCK  64u  /* numbers that share an absmax; blocks go on over the ends of rows */
#define DS_NF4_NEST   256u /* absmax that share a scale, where they are quantised themselves */
#define DS_QUANT_MAP  256u /* values of 8 bits in which absmax are quantised */
#define DS_INT8_SCALE 7.874015718698502e-3f /* 1 / 127, as it is multiplied by */
/* The 16 values, ascending. */
/* clang-format off */
#define DS_NF4_LEVELS                                                                          \
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,                 \
     -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,                \
     0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,   \
     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f}
/* clang-format on */

#ifdef __CUDACC__
#define DS_QUANT_INLINE static __host__ __device__ inline
#else
#define DS_QUANT_INLINE static inline
#endif

enum ds_quant_kind { DS_QUANT_NF4, DS_QUANT_INT8 };

/* What a kind is called in files and messages. */
const char *ds_quant_name(enum ds_quant_kind kind);

/* What lies beside the codes of a matrix. Number i is
 *   NF4   level[code i] * the absmax of block i / 64; two codes a byte, the first in the high half. Nested:
 *         absmax b is map[absmax_codes[b]] * nest_absmax[b / 256] + offset, rounded twice
 *   INT8  code i * the absmax of its row * 1/127, rounded twice */
struct ds_quantised {
    enum ds_quant_kind kind;
    uint64_t columns;            /* of INT8 */
    const float *absmax;         /* NULL: nested */
    const uint8_t *absmax_codes; /* these four of what is nested */
    const float *nest_absmax;
    const float *map;
    float offset;
    uint64_t first_block, row_blocks, whole_row_blocks; /* of a part: see ds_dequantise_args */
};

/* The block of the whole that block `b` of a part is. */
DS_QUANT_INLINE uint64_t ds_nf4_whole_block(uint64_t b, uint64_t first_block, uint64_t row_blocks,
                                            uint64_t whole_row_blocks)
{
    return first_block + (row_blocks ? b / row_blocks * whole_row_blocks + b % row_blocks : b);
}

static inline uint64_t ds_nf4_bytes(uint64_t elems)
{
    return elems / 2 + elems % 2;
}
static inline uint64_t ds_nf4_blocks(uint64_t elems)
{
    return elems / DS_NF4_BLOCK + (elems % DS_NF4_BLOCK != 0);
}
static inline uint64_t ds_nf4_nests(uint64_t elems)
{
    const uint64_t blocks = ds_nf4_blocks(elems);

    return blocks / DS_NF4_NEST + (blocks % DS_NF4_NEST != 0);
}

/* The map: 0, 1 and, in each decade from 1e-6 on, twice as many values of either sign as in the one before. */
void ds_quant_map(float map[DS_QUANT_MAP]);

/* `count` numbers that begin where a block does, to codes and the absmax of each block. What has no partner in its
 * byte has 0 for one. Returns count, or the place of a number that is not finite. */
uint64_t ds_nf4_quantise(const float *x, uint64_t count, uint8_t *codes, float *absmax);
/* All absmax of a matrix, which are not kept: their codes, the scale of every 256, and their mean. */
void ds_nf4_nest(const float *absmax, uint64_t block_count, const float map[DS_QUANT_MAP],
                 uint8_t *codes, float *nest_absmax, float *offset);
/* Whole rows. Returns rows * columns, or the place of a number that is not finite. */
uint64_t ds_int8_quantise(const float *x, uint64_t rows, uint64_t columns, int8_t *codes,
                          float *absmax);

/* Numbers start .. start + count in fp32; of NF4 `start` is where a block begins. `codes`: U8 or I8, theirs alone. */
void ds_dequantise(const struct ds_quantised *matrix, const void *codes, uint64_t start,
                   uint64_t count, float *to);

#ifdef __cplusplus
}
#endif
#endif
