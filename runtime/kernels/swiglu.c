/* swiglu.c - y = silu(gate) * up, and the way back; sigma(g) = 1 / (1 + exp(-g)). y is the same
 * expression in both, so what backward recomputes has forward's bits. */
#include "elements.h"
#include "kernels.h"
#include "launch.h"
#include "vector_math.h"

KERNEL_INLINE void forward_loop(void *y, const void *gate_up, size_t count, enum ds_dtype dtype)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        const float gate = element_load(gate_up, i, dtype);
        const float up = element_load(gate_up, count + i, dtype);

        element_store(y, i, gate * (1.0f / (1.0f + vector_expf(-gate))) * up, dtype);
    }
}

KERNEL_CLONES static void forward_row(void *y, const void *gate_up, size_t count,
                                      enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, forward_loop, y, gate_up, count);
}

struct row {
    const void *gate_up, *dy;
    void *dgate_up; /* may be gate_up */
    void *y;        /* or NULL */
    size_t count;
};

/* Every element is read before it is written, so outputs may lie on inputs. */
KERNEL_INLINE void backward_loop(const struct row *row, int has_y, enum ds_dtype dtype)
{
    const void *gate_up = row->gate_up, *dy_row = row->dy;
    void *dgate_up = row->dgate_up, *y = row->y;
    const size_t count = row->count;

#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        const float gate = element_load(gate_up, i, dtype);
        const float up = element_load(gate_up, count + i, dtype);
        const float dy = element_load(dy_row, i, dtype);
        const float sigma = 1.0f / (1.0f + vector_expf(-gate));
        const float silu = gate * sigma;

        element_store(dgate_up, i, dy * up * (sigma * (1.0f + gate * (1.0f - sigma))), dtype);
        element_store(dgate_up, count + i, dy * silu, dtype);
        if (has_y)
            element_store(y, i, silu * up, dtype);
    }
}

KERNEL_CLONES static void backward_row(const struct row *row, enum ds_dtype dtype)
{
    if (row->y)
        ELEMENT_SWITCH(dtype, backward_loop, row, 1);
    else
        ELEMENT_SWITCH(dtype, backward_loop, row, 0);
}

static ds_status forward_work(void *args, int *done)
{
    const struct ds_swiglu_args *a = args;
    size_t token_count = a->y_TI.shape[0], width = a->y_TI.shape[1];
    enum ds_dtype dtype = a->y_TI.dtype;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++)
        forward_row(element_to(a->y_TI.data, t * width, dtype),
                    element_from(a->gate_up_TN.data, t * 2 * width, dtype), width, dtype);
    *done = 1;
    return DS_OK;
}

static ds_status backward_work(void *args, int *done)
{
    const struct ds_swiglu_backward_args *a = args;
    size_t token_count = a->dy_TI.shape[0], width = a->dy_TI.shape[1];
    enum ds_dtype dtype = a->dy_TI.dtype;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const struct row row = {.gate_up = element_from(a->gate_up_TN.data, t * 2 * width, dtype),
                                .dy = element_from(a->dy_TI.data, t * width, dtype),
                                .dgate_up = element_to(a->dgate_up_TN.data, t * 2 * width, dtype),
                                .y = a->y_TI.data ? element_to(a->y_TI.data, t * width, dtype)
                                                  : NULL,
                                .count = width};

        backward_row(&row, dtype);
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_swiglu_forward(struct ds_stream *stream, const struct ds_swiglu_args *args)
{
    const struct ds_matmul_args product = {
        .a = args->x_TC, .b = args->weight_NC, .c = args->gate_up_TN, .trans_b = 1};

    if (args->x_TC.data)
        DS_TRY(kernel_matmul(stream, &product));
    if (args->x_TC.data && !args->y_TI.data)
        return DS_OK;
    DS_ASSERT(args->gate_up_TN.shape[1] == 2 * args->y_TI.shape[1]);
    KERNEL_WANTS_FLOAT("swiglu_forward", args, gate_up_TN);
    KERNEL_WANTS_SAME("swiglu_forward", args, y_TI, gate_up_TN);
    return kernel_launch(stream, forward_work, args, sizeof *args);
}

ds_status kernel_swiglu_backward(struct ds_stream *stream,
                                 const struct ds_swiglu_backward_args *args)
{
    const struct ds_matmul_args product = {
        .a = args->dz_TC, .b = args->weight_CI, .c = args->dy_TI};

    if (args->dz_TC.data)
        DS_TRY(kernel_matmul(stream, &product));
    DS_ASSERT(args->gate_up_TN.shape[1] == 2 * args->dy_TI.shape[1]);
    KERNEL_WANTS_FLOAT("swiglu_backward", args, gate_up_TN);
    KERNEL_WANTS_SAME("swiglu_backward", args, dy_TI, gate_up_TN);
    KERNEL_WANTS_SAME("swiglu_backward", args, dgate_up_TN, gate_up_TN);
    KERNEL_WANTS_SAME("swiglu_backward", args, y_TI, gate_up_TN);
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
