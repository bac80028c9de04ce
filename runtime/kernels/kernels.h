/* kernels.h - the functions behind the cpu table, and the one way they are compiled.
 *
 * A kernel checks its dtypes at the call, then queues its work (launch.h); the work reads memory.
 * Threads come from OpenMP's own setting. Every sum has one order that depends on shapes only: not
 * on the number of threads, and not on the instruction set, so the clones of a loop agree to the
 * bit. Private to this folder. */
#ifndef KERNELS_H
#define KERNELS_H

#include "dstrain/kernels.h"

/* A loop compiled once for every width of vector, chosen when the program is loaded. avx2 alone has
 * no fma instruction, the levels of the x86-64 ABI (v3, v4) have; v3 is what every server since 2015
 * runs. Goes on functions that hold no OpenMP region (gcc does not clone what it outlines) and call
 * nothing but inline functions. Sanitizers instrument the resolver, which runs before they are
 * ready, so their builds have the plain loop: it has the same bits. */
#if defined(__x86_64__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KERNEL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL_CLONES
#endif

ds_status kernel_matmul(struct ds_stream *stream, const struct ds_matmul_args *args);
ds_status kernel_bias_forward(struct ds_stream *stream, const struct ds_bias_args *args);
ds_status kernel_bias_backward(struct ds_stream *stream, const struct ds_bias_args *args);
ds_status kernel_row_squares(struct ds_stream *stream, const struct ds_row_squares_args *args);
ds_status kernel_magnitude(struct ds_stream *stream, const struct ds_magnitude_args *args);
ds_status kernel_scale_columns(struct ds_stream *stream, const struct ds_scale_columns_args *args);
ds_status kernel_rmsnorm_forward(struct ds_stream *stream, const struct ds_rmsnorm_args *args);
ds_status kernel_rmsnorm_backward(struct ds_stream *stream,
                                  const struct ds_rmsnorm_backward_args *args);
ds_status kernel_qkv_split(struct ds_stream *stream, const struct ds_qkv_split_args *args);
ds_status kernel_qkv_join(struct ds_stream *stream, const struct ds_qkv_join_args *args);
ds_status kernel_attention_forward(struct ds_stream *stream, const struct ds_attention_args *args);
ds_status kernel_attention_backward(struct ds_stream *stream,
                                    const struct ds_attention_backward_args *args);
ds_status kernel_swiglu_forward(struct ds_stream *stream, const struct ds_swiglu_args *args);
ds_status kernel_swiglu_backward(struct ds_stream *stream,
                                 const struct ds_swiglu_backward_args *args);
ds_status kernel_embedding_forward(struct ds_stream *stream, const struct ds_embedding_args *args);
ds_status kernel_embedding_backward(struct ds_stream *stream, const struct ds_embedding_args *args);
ds_status kernel_cross_entropy(struct ds_stream *stream, const struct ds_cross_entropy_args *args);
ds_status kernel_cross_entropy_max(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args);
ds_status kernel_cross_entropy_sum(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args);
ds_status kernel_cross_entropy_finish(struct ds_stream *stream,
                                      const struct ds_cross_entropy_args *args);
ds_status kernel_loss_sum(struct ds_stream *stream, const struct ds_loss_sum_args *args);
ds_status kernel_add(struct ds_stream *stream, const struct ds_add_args *args);
ds_status kernel_cast(struct ds_stream *stream, const struct ds_cast_args *args);
ds_status kernel_scale_rows(struct ds_stream *stream, const struct ds_scale_rows_args *args);
ds_status kernel_dropout(struct ds_stream *stream, const struct ds_dropout_args *args);
ds_status kernel_dequantise(struct ds_stream *stream, const struct ds_dequantise_args *args);
ds_status kernel_fill(struct ds_stream *stream, const struct ds_fill_args *args);
ds_status kernel_norm_pieces(struct ds_stream *stream, const struct ds_norm_pieces_args *args);
ds_status kernel_norm_sum(struct ds_stream *stream, const struct ds_norm_sum_args *args);
ds_status kernel_step_begin(struct ds_stream *stream, const struct ds_step_begin_args *args);
ds_status kernel_verdict(struct ds_stream *stream, const struct ds_verdict_args *args);
ds_status kernel_adamw(struct ds_stream *stream, const struct ds_adamw_args *args);

#endif
