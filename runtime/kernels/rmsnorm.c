/* rmsnorm.c - RMSNorm with the residual addition before it, and the way back. */
#include "columns.h"
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

#include <math.h>

KERNEL_INLINE void add_residual(void *sum, const void *x, const void *residual, size_t count,
                                enum ds_dtype dtype)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) /* sum may be x */
        element_store(sum, i, element_load(x, i, dtype) + element_load(residual, i, dtype), dtype);
}

KERNEL_CLONES static void residual_row(void *sum, const void *x, const void *residual, size_t count,
                                       enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, add_residual, sum, x, residual, count);
}

KERNEL_INLINE void normalise(float *rstd_out, void *y, const void *s, const void *gain,
                             size_t count, float epsilon, enum ds_dtype dtype)
{
    const float rstd = 1.0f / sqrtf(lanes_dot(s, s, count, dtype) / (float)count + epsilon);

#pragma omp simd
    for (size_t i = 0; i < count; i++)
        element_store(y, i, element_load(gain, i, dtype) * (element_load(s, i, dtype) * rstd),
                      dtype);
    *rstd_out = rstd;
}

KERNEL_CLONES static void norm_row(float *rstd, void *y, const void *s, const void *gain,
                                   size_t count, float epsilon, enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, normalise, rstd, y, s, gain, count, epsilon);
}

/* With a residual the sum is rounded where it is stored, and the norm is that of the stored sum:
 * backward sees no other. */
static ds_status forward_work(void *args, int *done)
{
    const struct ds_rmsnorm_args *a = args;
    size_t token_count = a->x_TC.shape[0], width = a->x_TC.shape[1];
    enum ds_dtype dtype = a->x_TC.dtype;
    float *rstd = a->rstd_T.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const void *s = element_from(a->x_TC.data, t * width, dtype);
        float rstd_t;

        if (a->residual_TC.data) {
            void *sum = element_to(a->sum_TC.data, t * width, dtype);
            residual_row(sum, s, element_from(a->residual_TC.data, t * width, dtype), width, dtype);
            s = sum;
        }
        norm_row(&rstd_t, element_to(a->y_TC.data, t * width, dtype), s, a->gain_C.data, width,
                 a->epsilon, dtype);
        if (rstd)
            rstd[t] = rstd_t;
    }
    *done = 1;
    return DS_OK;
}

struct row {
    void *dx;                             /* may be dy, or the residual */
    const void *dy, *x, *gain, *residual; /* the last may be NULL */
    float rstd;
    size_t count;
};

/* dx = (residual) + rstd * (dy * gain - x * rstd * mean(dy * gain * x * rstd)) */
KERNEL_INLINE void backward_loop(const struct row *row, int has_residual, enum ds_dtype dtype)
{
    const struct row r = *row; /* values of its own: stores cannot change them */
    const float mean =
        lanes_dot3(r.dy, dtype, r.gain, r.x, r.count, dtype) * r.rstd / (float)r.count;
    const float slope = mean * r.rstd;

#pragma omp simd
    for (size_t i = 0; i < r.count; i++) {
        const float dy = element_load(r.dy, i, dtype), gain = element_load(r.gain, i, dtype);
        const float dx = r.rstd * (dy * gain - element_load(r.x, i, dtype) * slope);

        element_store(r.dx, i, has_residual ? element_load(r.residual, i, dtype) + dx : dx, dtype);
    }
}

KERNEL_CLONES static void backward_row(const struct row *row, enum ds_dtype dtype)
{
    if (row->residual)
        ELEMENT_SWITCH(dtype, backward_loop, row, 1);
    else
        ELEMENT_SWITCH(dtype, backward_loop, row, 0);
}

static void gain_gradient(const struct ds_rmsnorm_backward_args *a)
{
    size_t width = a->x_TC.shape[1];

    kernel_columns(&(struct columns){.dy = a->dy_TC.data,
                                     .x = a->x_TC.data,
                                     .dtype = a->x_TC.dtype,
                                     .rstd = a->rstd_T.data,
                                     .token_count = a->x_TC.shape[0],
                                     .head_count = 1,
                                     .width = width,
                                     .dy_stride = width,
                                     .x_stride = width,
                                     .out = a->dgain_C.data,
                                     .out_dtype = a->dgain_C.dtype,
                                     .add = a->gain_add});
}

static void input_gradient(const struct ds_rmsnorm_backward_args *a)
{
    size_t token_count = a->x_TC.shape[0], width = a->x_TC.shape[1];
    enum ds_dtype dtype = a->x_TC.dtype;
    const void *residual = a->residual_TC.data;
    const float *rstd = a->rstd_T.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const struct row row = {.dx = element_to(a->dx_TC.data, t * width, dtype),
                                .dy = element_from(a->dy_TC.data, t * width, dtype),
                                .x = element_from(a->x_TC.data, t * width, dtype),
                                .gain = a->gain_C.data,
                                .residual =
                                    residual ? element_from(residual, t * width, dtype) : NULL,
                                .rstd = rstd[t],
                                .count = width};

        backward_row(&row, dtype);
    }
}

static ds_status backward_work(void *args, int *done)
{
    const struct ds_rmsnorm_backward_args *a = args;

    if (a->dgain_C.data)
        gain_gradient(a); /* first: it reads dy, which dx may overwrite */
    if (a->dx_TC.data)
        input_gradient(a);
    *done = 1;
    return DS_OK;
}

ds_status kernel_rmsnorm_forward(struct ds_stream *stream, const struct ds_rmsnorm_args *args)
{
    DS_ASSERT(!args->residual_TC.data || args->sum_TC.data);
    DS_ASSERT(kernel_elems(&args->gain_C) == args->x_TC.shape[1]);
    KERNEL_WANTS_FLOAT("rmsnorm_forward", args, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_forward", args, residual_TC, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_forward", args, gain_C, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_forward", args, sum_TC, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_forward", args, y_TC, x_TC);
    KERNEL_WANTS("rmsnorm_forward", args, rstd_T, DS_F32);
    return kernel_launch(stream, forward_work, args, sizeof *args);
}

ds_status kernel_rmsnorm_backward(struct ds_stream *stream,
                                  const struct ds_rmsnorm_backward_args *args)
{
    DS_ASSERT(kernel_elems(&args->gain_C) == args->x_TC.shape[1]);
    KERNEL_WANTS_FLOAT("rmsnorm_backward", args, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_backward", args, gain_C, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_backward", args, dy_TC, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_backward", args, residual_TC, x_TC);
    KERNEL_WANTS_SAME("rmsnorm_backward", args, dx_TC, x_TC);
    KERNEL_WANTS("rmsnorm_backward", args, rstd_T, DS_F32);
    KERNEL_WANTS_FLOAT("rmsnorm_backward", args, dgain_C);
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
