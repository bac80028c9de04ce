/* kernels_cuda.h - the CUDA rows of the kernel table, and what their files share. Read by C and by nvcc. */
#ifndef KERNELS_CUDA_H
#define KERNELS_CUDA_H

#include "device_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* State of the library-backed operations, one a device; made before step 1, but what depends on a shape
 * (a GEMM's algorithm, an attention plan) at the first call with it. */
struct cuda_gemm;      /* matmul.c */
struct cuda_attention; /* attention.c */
struct cuda_math {
    struct cuda_gemm *gemm;
    struct cuda_attention *attention;
    void (*encode)(void); /* ended_map.c: of the driver; NULL: there are no products with ends */
};
void cuda_ended_open(const struct cuda_device *device, struct cuda_math *math);
ds_status cuda_gemm_open(struct cuda_device *device, struct cuda_gemm **out);
void cuda_gemm_close(struct cuda_gemm *gemm);
ds_status cuda_attention_open(struct cuda_device *device, struct cuda_attention **out);
void cuda_attention_close(struct cuda_attention *attention);

#define CUDA_KERNEL(name, args) \
    ds_status cuda_##name(struct ds_stream *stream, const struct args *a)
CUDA_KERNEL(matmul, ds_matmul_args);
CUDA_KERNEL(bias_forward, ds_bias_args);
CUDA_KERNEL(bias_backward, ds_bias_args);
CUDA_KERNEL(row_squares, ds_row_squares_args);
CUDA_KERNEL(magnitude, ds_magnitude_args);
CUDA_KERNEL(scale_columns, ds_scale_columns_args);
CUDA_KERNEL(rmsnorm_forward, ds_rmsnorm_args);
CUDA_KERNEL(rmsnorm_backward, ds_rmsnorm_backward_args);
CUDA_KERNEL(qkv_split, ds_qkv_split_args);
CUDA_KERNEL(qkv_join, ds_qkv_join_args);
CUDA_KERNEL(attention_forward, ds_attention_args);
CUDA_KERNEL(attention_backward, ds_attention_backward_args);
CUDA_KERNEL(swiglu_forward, ds_swiglu_args);
CUDA_KERNEL(swiglu_backward, ds_swiglu_backward_args);
CUDA_KERNEL(embedding_forward, ds_embedding_args);
CUDA_KERNEL(embedding_backward, ds_embedding_args);
CUDA_KERNEL(cross_entropy, ds_cross_entropy_args);
CUDA_KERNEL(cross_entropy_max, ds_cross_entropy_args);
CUDA_KERNEL(cross_entropy_sum, ds_cross_entropy_args);
CUDA_KERNEL(cross_entropy_finish, ds_cross_entropy_args);
CUDA_KERNEL(loss_sum, ds_loss_sum_args);
CUDA_KERNEL(add, ds_add_args);
CUDA_KERNEL(cast, ds_cast_args);
CUDA_KERNEL(scale_rows, ds_scale_rows_args);
CUDA_KERNEL(dropout, ds_dropout_args);
CUDA_KERNEL(dequantise, ds_dequantise_args);
CUDA_KERNEL(fill, ds_fill_args);
CUDA_KERNEL(norm_pieces, ds_norm_pieces_args);
CUDA_KERNEL(norm_sum, ds_norm_sum_args);
CUDA_KERNEL(step_begin, ds_step_begin_args);
CUDA_KERNEL(verdict, ds_verdict_args);
CUDA_KERNEL(adamw, ds_adamw_args);

#ifdef __cplusplus
}
#endif
#endif
