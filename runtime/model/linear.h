/* linear.h - a linear layer over the kernel table, and how a block reaches its weights; private to this
 * folder. y = x W^T (+ b), W [out, in] row-major. Several matrices that lie without a gap are one
 * layer with the sum of their rows. */
#ifndef MODEL_LINEAR_H
#define MODEL_LINEAR_H

#include "params.h"

struct linear {
    const struct ds_param *weight, *bias; /* bias NULL: none */
    uint64_t out, in;
    uint32_t slot; /* of the block's units */
};

/* local: queued on the pass's stream. x [T, in], y [T, out], all F32. */
DS_CHECKED ds_status linear_forward(const struct ds_pass *pass, const struct linear *layer,
                                    uint64_t token_count, const float *x, float *y);
/* dx = dy W */
DS_CHECKED ds_status linear_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                           uint64_t token_count, const float *dy, float *dx);
/* dW = (add) + dy^T x, db = (add) + column sums of dy */
DS_CHECKED ds_status linear_backward_weight(const struct ds_pass *pass, const struct linear *layer,
                                            uint64_t token_count, const float *x, const float *dy,
                                            int add);

/* A tensor of the parameter's elements in the block's unit `slot`, seen as one dim. */
struct ds_tensor pass_weight(const struct ds_pass *pass, uint32_t slot,
                             const struct ds_param *param);
struct ds_tensor pass_grad(const struct ds_pass *pass, uint32_t slot, const struct ds_param *param);

/* Read-only inputs and outputs share one tensor struct; kernels write only what they call out. */
static inline struct ds_tensor vector_of(const float *at, uint64_t d0)
{
    return ds_tensor1((void *)(uintptr_t)at, DS_F32, d0);
}
static inline struct ds_tensor matrix_of(const float *at, uint64_t d0, uint64_t d1)
{
    return ds_tensor2((void *)(uintptr_t)at, DS_F32, d0, d1);
}

/* y = gain * x * rstd; with `residual` s = x + residual goes first, and to `sum` (may be x) */
struct norm {
    const struct ds_param *gain;
    uint32_t slot;
    float epsilon;
};
DS_CHECKED ds_status norm_forward(const struct ds_pass *pass, const struct norm *norm,
                                  uint64_t token_count, const float *x, const float *residual,
                                  float *sum, float *y, float *rstd);
/* dx (NULL: not wanted) = (add) + the gradient of x; the gain's gradient if parts ask for weights */
DS_CHECKED ds_status norm_backward(const struct ds_pass *pass, const struct norm *norm,
                                   uint64_t token_count, uint32_t parts, const float *x,
                                   const float *rstd, const float *dy, float *dx, int add);

#endif
