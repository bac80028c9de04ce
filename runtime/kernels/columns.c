/* columns.c - sums over tokens. Threads share out columns, not tokens, so no partial sums need
 * memory or an order between threads. Tokens are summed in blocks, the blocks in order: a plain
 * chain over 8,192 tokens would lose a digit. */
#include "columns.h"

#include "kernels.h"
#include "lanes.h"

#define COLUMN_RANGE 64 /* columns of a piece of work: their sums stay in registers and L1 */
#define TOKEN_BLOCK  64

LANE_INLINE void add_token(const struct columns *c, size_t token, size_t column, size_t count,
                           float *sum)
{
    for (size_t head = 0; head < c->head_count; head++) {
        const float *dy = c->dy + token * c->dy_stride + head * c->width + column;

        if (!c->x) {
            for (size_t i = 0; i < count; i++)
                sum[i] += dy[i];
            continue;
        }
        const float *x = c->x + token * c->x_stride + head * c->width + column;
        float rstd = c->rstd[token * c->head_count + head];
        for (size_t i = 0; i < count; i++)
            sum[i] += dy[i] * (x[i] * rstd);
    }
}

LANE_INLINE void sum_range(const struct columns *c, size_t column, size_t count)
{
    float total[COLUMN_RANGE] = {0};

    for (size_t begin = 0; begin < c->token_count; begin += TOKEN_BLOCK) {
        size_t left = c->token_count - begin;
        size_t end = begin + (left < TOKEN_BLOCK ? left : TOKEN_BLOCK);
        float block[COLUMN_RANGE] = {0};

        for (size_t token = begin; token < end; token++)
            add_token(c, token, column, count, block);
        for (size_t i = 0; i < count; i++)
            total[i] += block[i];
    }
    for (size_t i = 0; i < count; i++)
        c->out[column + i] = c->add ? c->out[column + i] + total[i] : total[i];
}

/* A full range has a constant count, which the compiler unrolls. */
KERNEL_CLONES static void columns_range(const struct columns *c, size_t column)
{
    size_t left = c->width - column;

    if (left >= COLUMN_RANGE)
        sum_range(c, column, COLUMN_RANGE);
    else
        sum_range(c, column, left);
}

void kernel_columns(const struct columns *columns)
{
    size_t range_count = (columns->width + COLUMN_RANGE - 1) / COLUMN_RANGE;

#pragma omp parallel for schedule(static) if (range_count > 1)
    for (size_t i = 0; i < range_count; i++)
        columns_range(columns, i * COLUMN_RANGE);
}
