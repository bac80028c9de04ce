/* swiglu.c - y = silu(gate) * up, and the way back; sigma(g) = 1 / (1 + exp(-g)). y is the same
 * expression in both, so what backward recomputes has forward's bits. */
#include "kernels.h"
#include "launch.h"
#include "vector_math.h"

KERNEL_CLONES static void forward_row(float *y, const float *gate, const float *up, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        y[i] = gate[i] * (1.0f / (1.0f + vector_expf(-gate[i]))) * up[i];
}

struct row {
    const float *gate, *up, *dy;
    float *dgate, *dup; /* may be gate and up */
    float *y;           /* or NULL */
};

/* Every element is read before it is written, so outputs may lie on inputs. */
static inline __attribute__((always_inline)) void backward_loop(struct row row, size_t count,
                                                                int has_y)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float gate = row.gate[i], up = row.up[i], dy = row.dy[i];
        float sigma = 1.0f / (1.0f + vector_expf(-gate));
        float silu = gate * sigma;

        row.dgate[i] = dy * up * (sigma * (1.0f + gate * (1.0f - sigma)));
        row.dup[i] = dy * silu;
        if (has_y)
            row.y[i] = silu * up;
    }
}

KERNEL_CLONES static void backward_row(struct row row, size_t count)
{
    if (row.y)
        backward_loop(row, count, 1);
    else
        backward_loop(row, count, 0);
}

static ds_status forward_work(void *args, int *done)
{
    const struct ds_swiglu_args *a = args;
    size_t token_count = a->y_TI.shape[0], width = a->y_TI.shape[1];

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const float *gate = (const float *)a->gate_up_TN.data + t * 2 * width;

        forward_row((float *)a->y_TI.data + t * width, gate, gate + width, width);
    }
    *done = 1;
    return DS_OK;
}

static ds_status backward_work(void *args, int *done)
{
    const struct ds_swiglu_backward_args *a = args;
    size_t token_count = a->dy_TI.shape[0], width = a->dy_TI.shape[1];

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const float *gate = (const float *)a->gate_up_TN.data + t * 2 * width;
        float *dgate = (float *)a->dgate_up_TN.data + t * 2 * width;
        float *y = a->y_TI.data ? (float *)a->y_TI.data + t * width : NULL;

        backward_row((struct row){.gate = gate,
                                  .up = gate + width,
                                  .dy = (const float *)a->dy_TI.data + t * width,
                                  .dgate = dgate,
                                  .dup = dgate + width,
                                  .y = y},
                     width);
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_swiglu_forward(struct ds_stream *stream, const struct ds_swiglu_args *args)
{
    DS_ASSERT(args->gate_up_TN.shape[1] == 2 * args->y_TI.shape[1]);
    KERNEL_WANTS("swiglu_forward", args, gate_up_TN, DS_F32);
    KERNEL_WANTS("swiglu_forward", args, y_TI, DS_F32);
    return kernel_launch(stream, forward_work, args, sizeof *args);
}

ds_status kernel_swiglu_backward(struct ds_stream *stream,
                                 const struct ds_swiglu_backward_args *args)
{
    DS_ASSERT(args->gate_up_TN.shape[1] == 2 * args->dy_TI.shape[1]);
    KERNEL_WANTS("swiglu_backward", args, gate_up_TN, DS_F32);
    KERNEL_WANTS("swiglu_backward", args, dy_TI, DS_F32);
    KERNEL_WANTS("swiglu_backward", args, dgate_up_TN, DS_F32);
    KERNEL_WANTS("swiglu_backward", args, y_TI, DS_F32);
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
