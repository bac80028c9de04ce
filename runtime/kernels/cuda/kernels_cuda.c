/* kernels_cuda.c - the CUDA kernel table, and what its library-backed rows keep for a device. */
#include "kernels_cuda.h"

#include <stdlib.h>

ds_status cuda_math_open(struct cuda_device *device, struct cuda_math **out)
{
    struct cuda_math *math = calloc(1, sizeof *math);
    ds_status st;

    if (!math)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the device's libraries");
    st = cuda_gemm_open(device, &math->gemm);
    if (st == DS_OK)
        st = cuda_attention_open(device, &math->attention);
    if (st != DS_OK) {
        cuda_math_close(math);
        return st;
    }
    cuda_ended_open(device, math);
    *out = math;
    return DS_OK;
}

void cuda_math_close(struct cuda_math *math)
{
    if (!math)
        return;
    cuda_attention_close(math->attention);
    cuda_gemm_close(math->gemm);
    free(math);
}

const struct ds_kernel_ops ds_kernels_cuda = {
    .name = "cuda",
    .matmul = cuda_matmul,
    .bias_forward = cuda_bias_forward,
    .bias_backward = cuda_bias_backward,
    .row_squares = cuda_row_squares,
    .magnitude = cuda_magnitude,
    .scale_columns = cuda_scale_columns,
    .rmsnorm_forward = cuda_rmsnorm_forward,
    .rmsnorm_backward = cuda_rmsnorm_backward,
    .qkv_split = cuda_qkv_split,
    .qkv_join = cuda_qkv_join,
    .attention_forward = cuda_attention_forward,
    .attention_backward = cuda_attention_backward,
    .swiglu_forward = cuda_swiglu_forward,
    .swiglu_backward = cuda_swiglu_backward,
    .embedding_forward = cuda_embedding_forward,
    .embedding_backward = cuda_embedding_backward,
    .cross_entropy = cuda_cross_entropy,
    .cross_entropy_max = cuda_cross_entropy_max,
    .cross_entropy_sum = cuda_cross_entropy_sum,
    .cross_entropy_finish = cuda_cross_entropy_finish,
    .loss_sum = cuda_loss_sum,
    .add = cuda_add,
    .cast = cuda_cast,
    .scale_rows = cuda_scale_rows,
    .dropout = cuda_dropout,
    .dequantise = cuda_dequantise,
    .fill = cuda_fill,
    .norm_pieces = cuda_norm_pieces,
    .norm_sum = cuda_norm_sum,
    .step_begin = cuda_step_begin,
    .verdict = cuda_verdict,
    .adamw = cuda_adamw,
};
