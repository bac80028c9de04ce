/* rmsnorm.c - RMSNorm with the residual addition before it, and the way back. */
#include "columns.h"
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

#include <math.h>

KERNEL_CLONES static void residual_row(float *sum, const float *x, const float *residual,
                                       size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) /* sum may be x */
        sum[i] = x[i] + residual[i];
}

KERNEL_CLONES static float norm_row(float *y, const float *s, const float *gain, size_t count,
                                    float epsilon)
{
    float rstd = 1.0f / sqrtf(lanes_dot(s, s, count) / (float)count + epsilon);

#pragma omp simd
    for (size_t i = 0; i < count; i++)
        y[i] = gain[i] * (s[i] * rstd);
    return rstd;
}

static ds_status forward_work(void *args, int *done)
{
    const struct ds_rmsnorm_args *a = args;
    size_t token_count = a->x_TC.shape[0], width = a->x_TC.shape[1];
    float *rstd = a->rstd_T.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const float *s = (const float *)a->x_TC.data + t * width;
        float rstd_t;

        if (a->residual_TC.data) {
            float *sum = (float *)a->sum_TC.data + t * width;
            residual_row(sum, s, (const float *)a->residual_TC.data + t * width, width);
            s = sum;
        }
        rstd_t = norm_row((float *)a->y_TC.data + t * width, s, a->gain_C.data, width, a->epsilon);
        if (rstd)
            rstd[t] = rstd_t;
    }
    *done = 1;
    return DS_OK;
}

/* dx = (add) + rstd * (dy * gain - x * rstd * mean(dy * gain * x * rstd)); dx may be dy */
KERNEL_CLONES static void backward_row(float *dx, const float *dy, const float *x,
                                       const float *gain, float rstd, size_t count, int add)
{
    float mean = lanes_dot3(dy, gain, x, count) * rstd / (float)count;
    float slope = mean * rstd;

    if (add) {
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            dx[i] += rstd * (dy[i] * gain[i] - x[i] * slope);
    } else {
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            dx[i] = rstd * (dy[i] * gain[i] - x[i] * slope);
    }
}

static void gain_gradient(const struct ds_rmsnorm_backward_args *a)
{
    size_t width = a->x_TC.shape[1];

    kernel_columns(&(struct columns){.dy = a->dy_TC.data,
                                     .x = a->x_TC.data,
                                     .rstd = a->rstd_T.data,
                                     .token_count = a->x_TC.shape[0],
                                     .head_count = 1,
                                     .width = width,
                                     .dy_stride = width,
                                     .x_stride = width,
                                     .out = a->dgain_C.data,
                                     .add = a->gain_add});
}

static void input_gradient(const struct ds_rmsnorm_backward_args *a)
{
    size_t token_count = a->x_TC.shape[0], width = a->x_TC.shape[1];
    const float *x = a->x_TC.data, *dy = a->dy_TC.data, *rstd = a->rstd_T.data;
    float *dx = a->dx_TC.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++)
        backward_row(dx + t * width, dy + t * width, x + t * width, a->gain_C.data, rstd[t], width,
                     a->add);
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
    KERNEL_WANTS("rmsnorm_forward", args, x_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_forward", args, residual_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_forward", args, gain_C, DS_F32);
    KERNEL_WANTS("rmsnorm_forward", args, sum_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_forward", args, y_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_forward", args, rstd_T, DS_F32);
    return kernel_launch(stream, forward_work, args, sizeof *args);
}

ds_status kernel_rmsnorm_backward(struct ds_stream *stream,
                                  const struct ds_rmsnorm_backward_args *args)
{
    DS_ASSERT(kernel_elems(&args->gain_C) == args->x_TC.shape[1]);
    KERNEL_WANTS("rmsnorm_backward", args, x_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_backward", args, gain_C, DS_F32);
    KERNEL_WANTS("rmsnorm_backward", args, rstd_T, DS_F32);
    KERNEL_WANTS("rmsnorm_backward", args, dy_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_backward", args, dx_TC, DS_F32);
    KERNEL_WANTS("rmsnorm_backward", args, dgain_C, DS_F32);
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
