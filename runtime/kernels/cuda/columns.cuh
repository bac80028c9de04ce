/* columns.cuh - sums over tokens, one for each column: gradients of biases and gains. */
#ifndef KERNELS_CUDA_COLUMNS_CUH
#define KERNELS_CUDA_COLUMNS_CUH

#include "kernels_cuda.h"

struct cuda_columns {
    const void *dy, *x; /* [token_count][width]; x NULL: sums of dy alone, else of dy * x * rstd */
    enum ds_dtype dtype;
    const float *rstd; /* with x; NULL: 1 */
    size_t token_count, width;
    size_t stride;        /* elements from a row of dy, and of x, to the next */
    struct ds_tensor out; /* [width] */
    int add;
};
ds_status cuda_columns_sum(struct ds_stream *stream, const struct cuda_columns *columns);

/* The second step of such a sum: out = (add) + `count` rows of partial sums, in their order. */
ds_status cuda_columns_total(struct ds_stream *stream, const float *partial, size_t count,
                             size_t width, const struct ds_tensor *out, int add);

#endif
