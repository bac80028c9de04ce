/* bench_kernels_cases.c - the table of kernels to measure: each row of a device's table in its uses, with how it is
 * set up, called and checked. */
#include "bench_kernels.h"

#define RUN(entry, field)                                    \
    static ds_status run_##entry(struct rig *r)              \
    {                                                        \
        return r->kernels->entry(r->stream, &r->args.field); \
    }
RUN(matmul, matmul)
RUN(bias_forward, bias)
RUN(bias_backward, bias)
RUN(row_squares, row_squares)
RUN(magnitude, magnitude)
RUN(scale_columns, scale_columns)
RUN(rmsnorm_forward, rmsnorm)
RUN(rmsnorm_backward, rmsnorm_backward)
RUN(qkv_split, split)
RUN(qkv_join, join)
RUN(attention_forward, attention.forward)
RUN(attention_backward, attention)
RUN(swiglu_forward, swiglu)
RUN(swiglu_backward, swiglu_backward)
RUN(embedding_forward, embedding)
RUN(embedding_backward, embedding)
RUN(cross_entropy, cross_entropy)
RUN(cross_entropy_max, cross_entropy)
RUN(cross_entropy_sum, cross_entropy)
RUN(cross_entropy_finish, cross_entropy)
RUN(loss_sum, loss_sum)
RUN(add, add)
RUN(cast, cast)
RUN(scale_rows, scale_rows)
RUN(dequantise, dequantise)
RUN(dropout, dropout)
RUN(fill, fill)
RUN(norm_pieces, norm_pieces)
RUN(norm_sum, norm_sum)
RUN(step_begin, step_begin)
RUN(verdict, verdict)
RUN(adamw, adamw)

static ds_status max_and_sum(struct rig *r)
{
    DS_TRY(run_cross_entropy_max(r));
    return run_cross_entropy_sum(r);
}

#define ROW(name, first, run, check, when)                         \
    {                                                              \
#name, setup_##name, first, run_##run, check_##check, when \
    }
#define PRODUCT(name) ROW(name, NULL, matmul, matmul, RIG_ALWAYS)
#define PLAIN(name)   ROW(name, NULL, name, name, RIG_ALWAYS)

/* clang-format off */
const struct rig_kernel rig_kernels[] = {
    PRODUCT(matmul_square),
    PRODUCT(matmul_forward), PRODUCT(matmul_input), PRODUCT(matmul_weight), PRODUCT(matmul_weight_add), /* gate, up */
    PRODUCT(matmul_head), PRODUCT(matmul_head_input), PRODUCT(matmul_head_weight),
    PRODUCT(matmul_qkv), PRODUCT(matmul_qkv_weight),
    PRODUCT(matmul_o), PRODUCT(matmul_o_weight),
    PRODUCT(matmul_down), PRODUCT(matmul_down_weight),
    ROW(matmul_linear, NULL, matmul, matmul, RIG_NAMED),
    ROW(product_split, NULL, qkv_split, product_split, RIG_ALWAYS),
    ROW(product_swiglu, NULL, swiglu_forward, product_swiglu, RIG_ALWAYS),
    ROW(product_swiglu_back, NULL, swiglu_backward, product_swiglu_back, RIG_ALWAYS),
    ROW(product_loss, NULL, cross_entropy, product_loss, RIG_ALWAYS),
    PLAIN(attention_forward),
    ROW(attention_backward, run_attention_forward, attention_backward, attention_backward, RIG_ALWAYS),
    ROW(packed_forward, NULL, attention_forward, attention_forward, RIG_ALWAYS),
    ROW(packed_backward, run_attention_forward, attention_backward, attention_backward, RIG_ALWAYS),
    PLAIN(bias_forward), PLAIN(bias_backward),
    PLAIN(row_squares), PLAIN(magnitude), PLAIN(scale_columns),
    PLAIN(rmsnorm_forward), PLAIN(rmsnorm_backward),
    {"qkv_split", setup_split, NULL, run_qkv_split, check_split, RIG_ALWAYS},
    {"qkv_join", setup_join, NULL, run_qkv_join, check_join, RIG_ALWAYS},
    PLAIN(swiglu_forward), PLAIN(swiglu_backward),
    PLAIN(embedding_forward), PLAIN(embedding_backward),
    PLAIN(cross_entropy),
    PLAIN(cross_entropy_max),
    ROW(cross_entropy_sum, run_cross_entropy_max, cross_entropy_sum, cross_entropy_sum, RIG_ALWAYS),
    ROW(cross_entropy_finish, max_and_sum, cross_entropy_finish, cross_entropy, RIG_ALWAYS),
    PLAIN(loss_sum),
    PLAIN(add), PLAIN(cast), PLAIN(scale_rows),
    ROW(dequantise_nf4, NULL, dequantise, dequantise, RIG_ALWAYS),
    ROW(dequantise_int8, NULL, dequantise, dequantise, RIG_ALWAYS),
    PLAIN(dropout), PLAIN(fill),
    PLAIN(norm_pieces),
    ROW(norm_pieces16, NULL, norm_pieces, norm_pieces, RIG_16_BITS),
    PLAIN(norm_sum), PLAIN(step_begin), PLAIN(verdict),
    PLAIN(adamw),
    ROW(adamw_moments16, NULL, adamw, adamw, RIG_ALWAYS),
    ROW(adamw_remainder16, NULL, adamw, adamw, RIG_BF16),
    ROW(adamw_none, NULL, adamw, adamw, RIG_BF16),
    ROW(adamw_all16, NULL, adamw, adamw, RIG_BF16),
};
/* clang-format on */
const size_t rig_kernel_count = sizeof rig_kernels / sizeof rig_kernels[0];
