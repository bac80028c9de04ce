/* columns.c - sums over tokens. Threads share out columns, not tokens, so no partial sums need
 * memory or an order between threads. Tokens are summed in blocks, the blocks in order: a plain
 * chain over 8,192 tokens would lose a digit. */
#include "columns.h"

#include "kernels.h"
#include "lanes.h"
#include "rotary.h"

#define COLUMN_RANGE 64 /* columns of a piece of work: their sums stay in registers and L1 */
#define TOKEN_BLOCK  64

enum kind { PLAIN, PRODUCT, ROTATED };

/* Columns first .. first+count of a rotated head's gradient, turned back. */
KERNEL_INLINE void turn_back(float *out, const void *dy, const float *cosine, size_t half,
                             size_t first, size_t count, enum ds_dtype dtype)
{
    const size_t end = first + count;

    for (size_t i = first; i < end && i < half; i++)
        out[i - first] = rotary_back_low(dy, cosine, half, i, dtype);
    for (size_t i = first < half ? half : first; i < end; i++)
        out[i - first] = rotary_back_high(dy, cosine, half, i - half, dtype);
}

KERNEL_INLINE void add_head(const struct columns *c, size_t token, size_t head, size_t column,
                            size_t count, float *sum, enum kind kind, enum ds_dtype dtype)
{
    const void *dy = element_from(c->dy, token * c->dy_stride + head * c->width, dtype);
    const void *x = element_from(c->x, token * c->x_stride + head * c->width + column, dtype);
    const float rstd = kind == PLAIN || !c->rstd ? 1.0f : c->rstd[token * c->head_count + head];
    float turned[COLUMN_RANGE];

    if (kind == ROTATED)
        turn_back(turned, dy, c->rotary + (size_t)c->position[token] * c->width, c->width / 2,
                  column, count, dtype);
    for (size_t i = 0; i < count; i++) {
        const float value = kind == ROTATED ? turned[i] : element_load(dy, column + i, dtype);

        sum[i] += kind == PLAIN ? value : value * (element_load(x, i, dtype) * rstd);
    }
}

KERNEL_INLINE void sum_range(float *total, const struct columns *c, size_t column, size_t count,
                             enum kind kind, enum ds_dtype dtype)
{
    for (size_t begin = 0; begin < c->token_count; begin += TOKEN_BLOCK) {
        size_t left = c->token_count - begin;
        size_t end = begin + (left < TOKEN_BLOCK ? left : TOKEN_BLOCK);
        float block[COLUMN_RANGE] = {0};

        for (size_t token = begin; token < end; token++)
            for (size_t head = 0; head < c->head_count; head++)
                add_head(c, token, head, column, count, block, kind, dtype);
        for (size_t i = 0; i < count; i++)
            total[i] += block[i];
    }
}

/* A full range has a constant count, which the compiler unrolls. */
KERNEL_INLINE void sum_kind(float *total, const struct columns *c, size_t column, size_t count,
                            enum kind kind)
{
    if (count == COLUMN_RANGE)
        ELEMENT_SWITCH(c->dtype, sum_range, total, c, column, COLUMN_RANGE, kind);
    else
        ELEMENT_SWITCH(c->dtype, sum_range, total, c, column, count, kind);
}

KERNEL_INLINE void store_range(const struct columns *c, size_t column, size_t count,
                               const float *total, enum ds_dtype dtype)
{
    void *out = element_to(c->out, column, dtype);

    for (size_t i = 0; i < count; i++)
        element_store(out, i, c->add ? element_load(out, i, dtype) + total[i] : total[i], dtype);
}

KERNEL_CLONES static void columns_range(const struct columns *c, size_t column)
{
    const size_t left = c->width - column, count = left < COLUMN_RANGE ? left : COLUMN_RANGE;
    float total[COLUMN_RANGE] = {0};

    if (c->rotary)
        sum_kind(total, c, column, count, ROTATED);
    else if (c->x)
        sum_kind(total, c, column, count, PRODUCT);
    else
        sum_kind(total, c, column, count, PLAIN);
    ELEMENT_SWITCH(c->out_dtype, store_range, c, column, count, total);
}

void kernel_columns(const struct columns *columns)
{
    size_t range_count = (columns->width + COLUMN_RANGE - 1) / COLUMN_RANGE;

#pragma omp parallel for schedule(static) if (range_count > 1)
    for (size_t i = 0; i < range_count; i++)
        columns_range(columns, i * COLUMN_RANGE);
}
