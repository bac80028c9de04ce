/* bias.c - a bias added to rows, and its gradient. */
#include "columns.h"
#include "elements.h"
#include "kernels.h"
#include "launch.h"

KERNEL_INLINE void add_bias(void *y, const void *bias, size_t count, enum ds_dtype dtype)
{
    for (size_t i = 0; i < count; i++)
        element_store(y, i, element_load(y, i, dtype) + element_load(bias, i, dtype), dtype);
}

KERNEL_CLONES static void bias_row(void *y, const void *bias, size_t count, enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, add_bias, y, bias, count);
}

static size_t stride_of(const struct ds_bias_args *a)
{
    return a->y_stride ? a->y_stride : a->y_TN.shape[1];
}

static ds_status bias_forward_work(void *args, int *done)
{
    const struct ds_bias_args *a = args;
    size_t token_count = a->y_TN.shape[0], width = a->y_TN.shape[1], stride = stride_of(a);
    enum ds_dtype dtype = a->y_TN.dtype;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++)
        bias_row(element_to(a->y_TN.data, t * stride, dtype), a->bias_N.data, width, dtype);
    *done = 1;
    return DS_OK;
}

static ds_status bias_backward_work(void *args, int *done)
{
    const struct ds_bias_args *a = args;
    size_t width = a->y_TN.shape[1];

    kernel_columns(&(struct columns){.dy = a->y_TN.data,
                                     .dtype = a->y_TN.dtype,
                                     .token_count = a->y_TN.shape[0],
                                     .head_count = 1,
                                     .width = width,
                                     .dy_stride = stride_of(a),
                                     .x = a->x_TN.data,
                                     .x_stride = stride_of(a),
                                     .out = a->bias_N.data,
                                     .out_dtype = a->bias_N.dtype,
                                     .add = a->add});
    *done = 1;
    return DS_OK;
}

ds_status kernel_bias_forward(struct ds_stream *stream, const struct ds_bias_args *args)
{
    DS_ASSERT(kernel_elems(&args->bias_N) == args->y_TN.shape[1]);
    KERNEL_WANTS_FLOAT("bias_forward", args, y_TN);
    KERNEL_WANTS_SAME("bias_forward", args, bias_N, y_TN);
    return kernel_launch(stream, bias_forward_work, args, sizeof *args);
}

ds_status kernel_bias_backward(struct ds_stream *stream, const struct ds_bias_args *args)
{
    DS_ASSERT(kernel_elems(&args->bias_N) == args->y_TN.shape[1]);
    KERNEL_WANTS_FLOAT("bias_backward", args, y_TN);
    KERNEL_WANTS_FLOAT("bias_backward", args, bias_N);
    KERNEL_WANTS_SAME("bias_backward", args, x_TN, y_TN);
    return kernel_launch(stream, bias_backward_work, args, sizeof *args);
}
