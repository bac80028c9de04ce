/* kernels_null.c - every operation of the table, done by not doing it. */
#include "null.h"

/* a row an operation */
/* clang-format off */
#define NULL_KERNELS(X)                                                                \
    X(matmul, matmul)                                                                  \
    X(bias_forward, bias) X(bias_backward, bias)                                       \
    X(row_squares, row_squares) X(magnitude, magnitude) X(scale_columns, scale_columns) \
    X(rmsnorm_forward, rmsnorm) X(rmsnorm_backward, rmsnorm_backward)                  \
    X(qkv_split, qkv_split) X(qkv_join, qkv_join)                                      \
    X(attention_forward, attention) X(attention_backward, attention_backward)          \
    X(swiglu_forward, swiglu) X(swiglu_backward, swiglu_backward)                      \
    X(embedding_forward, embedding) X(embedding_backward, embedding)                   \
    X(cross_entropy, cross_entropy) X(cross_entropy_max, cross_entropy)                \
    X(cross_entropy_sum, cross_entropy) X(cross_entropy_finish, cross_entropy)         \
    X(loss_sum, loss_sum) X(add, add) X(cast, cast) X(fill, fill)                      \
    X(dequantise, dequantise) X(dropout, dropout)                                      \
    X(norm_pieces, norm_pieces) X(norm_sum, norm_sum)                                  \
    X(step_begin, step_begin) X(verdict, verdict) X(adamw, adamw)
/* clang-format on */

#define NULL_KERNEL(op, args)                                                                   \
    static ds_status null_##op(struct ds_stream *stream, const struct ds_##args##_args *unused) \
    {                                                                                           \
        (void)stream;                                                                           \
        (void)unused;                                                                           \
        return DS_OK;                                                                           \
    }
NULL_KERNELS(NULL_KERNEL)

#define NULL_ROW(op, args) .op = null_##op,
const struct ds_kernel_ops ds_kernels_null = {.name = "null", NULL_KERNELS(NULL_ROW)};
