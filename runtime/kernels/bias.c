/* bias.c - a bias added to rows, and its gradient. */
#include "columns.h"
#include "kernels.h"
#include "launch.h"

KERNEL_CLONES static void bias_row(float *y, const float *bias, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] += bias[i];
}

static ds_status bias_forward_work(void *args, int *done)
{
    const struct ds_bias_args *a = args;
    size_t token_count = a->y_TN.shape[0], width = a->y_TN.shape[1];
    float *y = a->y_TN.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++)
        bias_row(y + t * width, a->bias_N.data, width);
    *done = 1;
    return DS_OK;
}

static ds_status bias_backward_work(void *args, int *done)
{
    const struct ds_bias_args *a = args;
    size_t width = a->y_TN.shape[1];

    kernel_columns(&(struct columns){.dy = a->y_TN.data,
                                     .token_count = a->y_TN.shape[0],
                                     .head_count = 1,
                                     .width = width,
                                     .dy_stride = width,
                                     .out = a->bias_N.data,
                                     .add = a->add});
    *done = 1;
    return DS_OK;
}

static ds_status bias_check(const char *kernel, const struct ds_bias_args *args)
{
    DS_ASSERT(kernel_elems(&args->bias_N) == args->y_TN.shape[1]);
    KERNEL_WANTS(kernel, args, y_TN, DS_F32);
    KERNEL_WANTS(kernel, args, bias_N, DS_F32);
    return DS_OK;
}

ds_status kernel_bias_forward(struct ds_stream *stream, const struct ds_bias_args *args)
{
    DS_TRY(bias_check("bias_forward", args));
    return kernel_launch(stream, bias_forward_work, args, sizeof *args);
}

ds_status kernel_bias_backward(struct ds_stream *stream, const struct ds_bias_args *args)
{
    DS_TRY(bias_check("bias_backward", args));
    return kernel_launch(stream, bias_backward_work, args, sizeof *args);
}
