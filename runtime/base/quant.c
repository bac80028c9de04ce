/* quant.c - numbers to codes. Rounds as bitsandbytes does: x is multiplied by the reciprocal of its absmax, ties go to
 * the lower code of NF4 and to the even one of int8. */
#include "dstrain/quant.h"

#include "dstrain/clones.h"

#include <math.h>
#include <stdlib.h>

/* what they divide stays finite; numbers that are smaller become zeros */
#define ABSMAX_MIN      1e-38f
#define INT8_ABSMAX_MIN 1e-36f

const char *ds_quant_name(enum ds_quant_kind kind)
{
    return kind == DS_QUANT_NF4 ? "nf4" : "int8";
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Decade i has 2^i equal intervals between a tenth of its end and its end, and their middles are values. */
void ds_quant_map(float map[DS_QUANT_MAP])
{
    double scale = 1e-6;
    size_t used = 0;

    for (uint32_t count = 1; count <= 64; count *= 2, scale *= 10)
        for (uint32_t i = 0; i < count; i++) {
            map[used] = (float)((0.1 + 0.9 * (i + 0.5) / count) * scale);
            map[used + 1] = -map[used];
            used += 2;
        }
    map[used++] = 0;
    map[used] = 1;
    qsort(map, DS_QUANT_MAP, sizeof *map, ascending);
}

/* The largest of |x|; what is not finite is not less than infinity, as bits. */
static inline uint32_t magnitude_max(const float *x, uint64_t count)
{
    uint32_t most = 0;

    for (uint64_t i = 0; i < count; i++) {
        const uint32_t bits = ((union {
                                  float value;
                                  uint32_t bits;
                              }){x[i]})
                                  .bits &
                              0x7fffffffu;

        most = bits > most ? bits : most;
    }
    return most;
}

static inline float float_of(uint32_t bits)
{
    return ((union {
               uint32_t bits;
               float value;
           }){bits})
        .value;
}

static uint64_t first_not_finite(const float *x, uint64_t count)
{
    uint64_t i = 0;

    while (i < count && isfinite(x[i]))
        i++;
    return i;
}

#define IS_FINITE(magnitude) ((magnitude) < 0x7f800000u)

/* ---- NF4 */

/* halfway between levels, rounded to fp32 */
static const float bounds[] = {-0x1.b239bp-1f,  -0x1.38a4ep-1f,  -0x1.d709p-2f,   -0x1.5bd4ecp-2f,
                               -0x1.e079d8p-3f, -0x1.1a7178p-3f, -0x1.74f0e2p-5f, 0x1.45f5fep-5f,
                               0x1.ec90c4p-4f,  0x1.a0cfcp-3f,   0x1.2b05a8p-2f,  0x1.8ea7f2p-2f,
                               0x1.00da08p-1f,  0x1.491b5ep-1f,  0x1.b913b4p-1f};

DS_CLONES static int nf4_block(const float *x, uint64_t count, uint8_t *codes, float *absmax)
{
    const uint32_t most = magnitude_max(x, count);
    uint8_t level[DS_NF4_BLOCK + 1] = {0};

    if (!IS_FINITE(most))
        return 0;
    *absmax = float_of(most);
    const float inverse = 1.0f / (*absmax < ABSMAX_MIN ? ABSMAX_MIN : *absmax);
    for (uint64_t i = 0; i < count; i++) {
        const float scaled = x[i] * inverse;
        uint8_t above = 0;

        for (size_t b = 0; b < sizeof bounds / sizeof bounds[0]; b++)
            above = (uint8_t)(above + (scaled > bounds[b]));
        level[i] = above;
    }
    level[count] = 7; /* 0 */
    for (uint64_t i = 0; i < count; i += 2)
        codes[i / 2] = (uint8_t)(level[i] << 4 | level[i + 1]);
    return 1;
}

uint64_t ds_nf4_quantise(const float *x, uint64_t count, uint8_t *codes, float *absmax)
{
    for (uint64_t at = 0; at < count; at += DS_NF4_BLOCK) {
        const uint64_t left = count - at, block = left < DS_NF4_BLOCK ? left : DS_NF4_BLOCK;

        if (!nf4_block(x + at, block, codes + at / 2, absmax + at / DS_NF4_BLOCK))
            return at + first_not_finite(x + at, block);
    }
    return count;
}

/* The nearest value of the map; of two the lower. */
static uint8_t nearest(const float *map, float x)
{
    size_t low = 0, high = DS_QUANT_MAP - 1;

    while (high - low > 1) {
        const size_t middle = (low + high) / 2;

        if (map[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return (uint8_t)(map[high] - x < x - map[low] ? high : low);
}

static void nest_some(const float *absmax, uint64_t count, float offset, const float *map,
                      uint8_t *codes, float *scale)
{
    *scale = 0;
    for (uint64_t i = 0; i < count; i++)
        *scale = fmaxf(*scale, fabsf(absmax[i] - offset));
    const float inverse = 1.0f / (*scale < ABSMAX_MIN ? ABSMAX_MIN : *scale);
    for (uint64_t i = 0; i < count; i++)
        codes[i] = nearest(map, (absmax[i] - offset) * inverse);
}

void ds_nf4_nest(const float *absmax, uint64_t block_count, const float map[DS_QUANT_MAP],
                 uint8_t *codes, float *nest_absmax, float *offset)
{
    double sum = 0;

    for (uint64_t i = 0; i < block_count; i++)
        sum += absmax[i];
    *offset = (float)(sum / (double)block_count);
    for (uint64_t at = 0; at < block_count; at += DS_NF4_NEST) {
        const uint64_t left = block_count - at;

        nest_some(absmax + at, left < DS_NF4_NEST ? left : DS_NF4_NEST, *offset, map, codes + at,
                  nest_absmax + at / DS_NF4_NEST);
    }
}

/* ---- int8 */

DS_CLONES static int int8_row(const float *x, uint64_t count, int8_t *codes, float *absmax)
{
    const uint32_t most = magnitude_max(x, count);

    if (!IS_FINITE(most))
        return 0;
    *absmax = float_of(most);
    const float inverse = *absmax < INT8_ABSMAX_MIN ? 0 : 127.0f / *absmax;
    for (uint64_t i = 0; i < count; i++)
        codes[i] = (int8_t)rintf(x[i] * inverse);
    return 1;
}

uint64_t ds_int8_quantise(const float *x, uint64_t rows, uint64_t columns, int8_t *codes,
                          float *absmax)
{
    for (uint64_t row = 0; row < rows; row++)
        if (!int8_row(x + row * columns, columns, codes + row * columns, absmax + row))
            return row * columns + first_not_finite(x + row * columns, columns);
    return rows * columns;
}
