/* linear.h - a linear layer over the kernel table, and how a block reaches its weights; private to this
 * folder. y = x W^T (+ b), W [out, in] row-major. Several matrices that lie without a gap are one
 * layer with the sum of their rows. Factors beside them are part of every product here; a gradient is made of what is
 * trained alone. Everything is queued on the pass's stream, nothing waits. */
#ifndef MODEL_LINEAR_H
#define MODEL_LINEAR_H

#include "lora.h"

/* Of those of its matrices some, whose biases lie without a gap. */
struct bias_part {
    const struct ds_param *first;
    uint64_t start, count; /* columns of y */
};

#define BIAS_PARTS_MAX 3

struct linear {
    const struct ds_block *block;
    const struct ds_param *weight;
    struct bias_part biases[BIAS_PARTS_MAX];
    uint32_t bias_count; /* 0: none; more than 1: of several matrices not all are trained */
    uint64_t out, in;    /* of what lies here */
    struct lora lora;
};

/* pure: the next of its matrices has this bias; NULL: none of them has one */
void linear_add_bias(struct linear *layer, const struct ds_param *bias);

/* pure: is there a gradient that x is needed for? */
static inline int linear_needs_x(const struct linear *layer)
{
    return layer->weight->is_trainable || layer->lora.ranks > 0;
}

/* local, all of these. x [T, in], y [T, out]; of parts of the sum alone, `product` leaves the bias away. */
DS_CHECKED ds_status linear_forward(const struct ds_pass *pass, const struct linear *layer,
                                    struct ds_tensor x, struct ds_tensor y);
DS_CHECKED ds_status linear_product(const struct ds_pass *pass, const struct linear *layer,
                                    struct ds_tensor x, struct ds_tensor y);
/* y = addend + x W^T, of a layer without a bias */
DS_CHECKED ds_status linear_product_onto(const struct ds_pass *pass, const struct linear *layer,
                                         struct ds_tensor x, struct ds_tensor addend,
                                         struct ds_tensor y);
/* y += b, if there is one */
DS_CHECKED ds_status linear_bias(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor y);
/* A layer of all heads: y is q, k and v side by side, or room for them, and `places` where they go and how. */
DS_CHECKED ds_status linear_forward_split(const struct ds_pass *pass, const struct linear *layer,
                                          struct ds_tensor x, struct ds_qkv_split_args places);
/* A layer of gates and ups: y is both, and the product silu(gate) * up, unless that is absent. */
DS_CHECKED ds_status linear_forward_swiglu(const struct ds_pass *pass, const struct linear *layer,
                                           struct ds_tensor x, struct ds_tensor y,
                                           struct ds_tensor product);
/* The way back through the layer that reads this product, to gates and ups: dy is the layer's, `places` all the rest. */
DS_CHECKED ds_status linear_backward_swiglu(const struct ds_pass *pass, const struct linear *layer,
                                            struct ds_tensor dy,
                                            struct ds_swiglu_backward_args places);
/* Logits and from them `loss`, whose logits_NV is room for these. Is the product part of the call, so that its gradient
 * may lack factors? linear_has_loss says so. */
int linear_has_loss(const struct linear *layer);
DS_CHECKED ds_status linear_forward_loss(const struct ds_pass *pass, const struct linear *layer,
                                         struct ds_tensor x, struct ds_cross_entropy_args loss);
/* dx = dy W */
DS_CHECKED ds_status linear_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                           struct ds_tensor dy, struct ds_tensor dx);
/* the part of it that linear_backward_matrix reads: for whoever wants no dx */
DS_CHECKED ds_status linear_backward_no_input(const struct ds_pass *pass,
                                              const struct linear *layer, struct ds_tensor dy);
/* dW = (add) + dy^T x; behind the input part, where there are factors */
DS_CHECKED ds_status linear_backward_matrix(const struct ds_pass *pass, const struct linear *layer,
                                            struct ds_tensor x, struct ds_tensor dy, int add);
/* db = (add) + column sums of dy, of what is trained */
DS_CHECKED ds_status linear_backward_bias(const struct ds_pass *pass, const struct linear *layer,
                                          struct ds_tensor dy);

/* A tensor of the parameter's elements in that unit of the block which has it, seen as one dim. A gradient is absent
 * where there is none: of no parameter, or one that is frozen. */
struct ds_tensor pass_weight(const struct ds_pass *pass, const struct ds_block *block,
                             const struct ds_param *param);
struct ds_tensor pass_grad(const struct ds_pass *pass, const struct ds_block *block,
                           const struct ds_param *param);
/* pure: does the buffer of its gradient hold a part of it already? Not of what has none. */
int pass_adds(const struct ds_pass *pass, const struct ds_block *block,
              const struct ds_param *param);

/* y = gain * x * rstd; with `residual` s = x + residual goes first, and to `sum` (may be x) */
struct norm {
    const struct ds_block *block;
    const struct ds_param *gain;
    float epsilon;
};
DS_CHECKED ds_status norm_forward(const struct ds_pass *pass, const struct norm *norm,
                                  const struct ds_rmsnorm_args *places);
/* dx = (residual) + the gradient of x; the gain's gradient goes where `places` say, if anywhere */
DS_CHECKED ds_status norm_backward(const struct ds_pass *pass, const struct norm *norm,
                                   const struct ds_rmsnorm_backward_args *places);

/* ---- memory. An absent tensor is a zeroed one. */

static inline struct ds_tensor take_matrix(struct ds_arena *arena, enum ds_dtype dtype,
                                           uint64_t rows, uint64_t columns)
{
    void *at = ds_arena_take(arena, rows * columns * ds_dtype_bytes(dtype));

    return ds_tensor2(at, dtype, rows, columns);
}

static inline struct ds_tensor take_vector(struct ds_arena *arena, enum ds_dtype dtype,
                                           uint64_t count)
{
    return ds_tensor1(ds_arena_take(arena, count * ds_dtype_bytes(dtype)), dtype, count);
}

/* Somebody else's memory. Read-only inputs and outputs share one tensor struct; kernels write only what they
 * call out. */
static inline struct ds_tensor matrix_at(const void *at, enum ds_dtype dtype, uint64_t rows,
                                         uint64_t columns)
{
    return ds_tensor2((void *)(uintptr_t)at, dtype, rows, columns);
}

/* Rows start.. of a matrix. */
static inline struct ds_tensor rows_of(struct ds_tensor matrix, uint64_t start, uint64_t rows)
{
    matrix.data = (char *)matrix.data + start * matrix.shape[1] * ds_dtype_bytes(matrix.dtype);
    matrix.shape[0] = rows;
    return matrix;
}

#endif
