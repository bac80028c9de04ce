/* linear.h - a linear layer over the kernel table, and how a block reaches its weights; private to this
 * folder. y = x W^T (+ b), W [out, in] row-major. Several matrices that lie without a gap are one
 * layer with the sum of their rows. Everything is queued on the pass's stream, nothing waits. */
#ifndef MODEL_LINEAR_H
#define MODEL_LINEAR_H

#include "params.h"

#include "dstrain/memory.h"

struct linear {
    const struct ds_model *model;
    const struct ds_param *weight, *bias; /* bias NULL: none */
    uint64_t out, in;                     /* of what lies here */
    uint32_t slot;                        /* of the block's units */
};

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
/* dx = dy W */
DS_CHECKED ds_status linear_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                           struct ds_tensor dy, struct ds_tensor dx);
/* dW = (add) + dy^T x */
DS_CHECKED ds_status linear_backward_matrix(const struct ds_pass *pass, const struct linear *layer,
                                            struct ds_tensor x, struct ds_tensor dy, int add);
/* db = (add) + column sums of dy, if there is one */
DS_CHECKED ds_status linear_backward_bias(const struct ds_pass *pass, const struct linear *layer,
                                          struct ds_tensor dy, int add);

/* A tensor of the parameter's elements in the block's unit `slot`, seen as one dim. */
struct ds_tensor pass_weight(const struct ds_pass *pass, const struct ds_model *model,
                             uint32_t slot, const struct ds_param *param);
struct ds_tensor pass_grad(const struct ds_pass *pass, const struct ds_model *model, uint32_t slot,
                           const struct ds_param *param);

/* y = gain * x * rstd; with `residual` s = x + residual goes first, and to `sum` (may be x) */
struct norm {
    const struct ds_model *model;
    const struct ds_param *gain;
    uint32_t slot;
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
