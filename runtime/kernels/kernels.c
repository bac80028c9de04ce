/* kernels.c - the cpu device's table of operations. The reference: every other table is compared
 * with this one. */
#include "kernels.h"

const struct ds_kernel_ops ds_kernels_cpu = {
    .name = "cpu",
    .matmul = kernel_matmul,
    .bias_forward = kernel_bias_forward,
    .bias_backward = kernel_bias_backward,
    .rmsnorm_forward = kernel_rmsnorm_forward,
    .rmsnorm_backward = kernel_rmsnorm_backward,
    .qkv_split = kernel_qkv_split,
    .qkv_join = kernel_qkv_join,
    .attention_forward = kernel_attention_forward,
    .attention_backward = kernel_attention_backward,
    .swiglu_forward = kernel_swiglu_forward,
    .swiglu_backward = kernel_swiglu_backward,
    .embedding_forward = kernel_embedding_forward,
    .embedding_backward = kernel_embedding_backward,
    .cross_entropy = kernel_cross_entropy,
    .cross_entropy_max = kernel_cross_entropy_max,
    .cross_entropy_sum = kernel_cross_entropy_sum,
    .cross_entropy_finish = kernel_cross_entropy_finish,
    .loss_sum = kernel_loss_sum,
    .add = kernel_add,
    .cast = kernel_cast,
    .fill = kernel_fill,
    .norm_pieces = kernel_norm_pieces,
    .norm_sum = kernel_norm_sum,
    .step_begin = kernel_step_begin,
    .verdict = kernel_verdict,
    .adamw = kernel_adamw,
};
