/* columns.h - sums over tokens, one for each column: gradients of biases and gains. */
#ifndef KERNELS_COLUMNS_H
#define KERNELS_COLUMNS_H

#include "dstrain/tensor.h"

#include <stddef.h>

/* A token's row holds head_count groups of `width` columns (1 for a plain row); all groups go into
 * the same `width` sums. Group j of token t starts at t * stride + j * width. */
struct columns {
    const void *dy, *x;  /* x NULL: sums of dy alone, else of dy * x * rstd */
    enum ds_dtype dtype; /* of dy and x */
    const float *rstd;   /* [token][head], with x; NULL: 1 */
    size_t token_count, head_count, width;
    size_t dy_stride, x_stride; /* elements from token to token */
    /* with x, or NULL: dy is the gradient of a rotated head, summed as that of the head itself
     * (rotary.h) */
    const float *rotary;
    const int32_t *position;
    void *out;
    enum ds_dtype out_dtype;
    int add;
};

void kernel_columns(const struct columns *columns);

#endif
