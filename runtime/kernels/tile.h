/* tile.h - the product of two small matrices that lie in cache: what attention and the own GEMM are
 * made of.
 *
 * C[m,n] = (add) + A[m,k] B[k,n], every element summed over k in order, starting at zero. The code is
 * compiled for each width of vectors and chosen by the processor; all versions give the same bits. */
#ifndef KERNELS_TILE_H
#define KERNELS_TILE_H

#include "dstrain/tensor.h"

#include <stddef.h>

#define TILE_LANES 16 /* n is a multiple; B and C have room for it */

#define TILE_ROUND_UP(n) (((n) + TILE_LANES - 1) / TILE_LANES * TILE_LANES)

struct tile_product {
    size_t m, n, k;
    const float *a; /* element (i, l) at a[i * a_row + l * a_column] */
    size_t a_row, a_column;
    const float *b; /* rows of b_stride elements */
    size_t b_stride;
    float *c;
    size_t c_stride;
    int add;
};

void kernel_tile_product(const struct tile_product *product);

/* Rows of `columns` stored elements, from_stride apart. */
struct tile_source {
    const void *from;
    enum ds_dtype dtype;
    size_t from_stride;
    size_t rows, columns;
};

/* to[column][row] = from[row][column]; a row of `to` has to_stride elements, and those from `rows` up
 * to a multiple of TILE_LANES become 0. */
void kernel_tile_transpose(float *to, size_t to_stride, const struct tile_source *source);

/* Copy rows, those of `to` filled up with zeros to a multiple of TILE_LANES, which is their stride. */
void kernel_tile_copy(float *to, const struct tile_source *source);

/* The way back: the first `columns` elements of each row of `from`, whose stride is such a multiple, into
 * rows that are to_stride apart. */
void kernel_tile_store(void *to, enum ds_dtype dtype, size_t to_stride, const float *from,
                       size_t rows, size_t columns);

#endif
