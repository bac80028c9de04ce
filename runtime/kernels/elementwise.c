/* elementwise.c - add, fill, and the sum of a micro-batch's losses. */
#include "kernels.h"
#include "launch.h"

#include <string.h>

#define PIECE_ELEMS 16384 /* what one thread takes at a time; smaller work stays on one thread */

KERNEL_CLONES static void add_piece(float *y, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] += x[i];
}

static ds_status add_work(void *args, int *done)
{
    const struct ds_add_args *a = args;
    size_t count = kernel_elems(&a->y);

#pragma omp parallel for schedule(static) if (count > PIECE_ELEMS)
    for (size_t at = 0; at < count; at += PIECE_ELEMS) {
        size_t left = count - at;

        add_piece((float *)a->y.data + at, (const float *)a->x.data + at,
                  left < PIECE_ELEMS ? left : PIECE_ELEMS);
    }
    *done = 1;
    return DS_OK;
}

static ds_status fill_work(void *args, int *done)
{
    const struct ds_fill_args *a = args;
    const size_t piece = PIECE_ELEMS * sizeof(float);

#pragma omp parallel for schedule(static) if (a->bytes > piece)
    for (size_t at = 0; at < a->bytes; at += piece) {
        size_t left = a->bytes - at;

        memset((unsigned char *)a->at + at, 0, left < piece ? left : piece);
    }
    *done = 1;
    return DS_OK;
}

static ds_status loss_sum_work(void *args, int *done)
{
    const struct ds_loss_sum_args *a = args;
    size_t count = kernel_elems(&a->loss_T);
    const float *loss = a->loss_T.data;
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += loss[i];
    a->record->loss_sum += sum;
    *done = 1;
    return DS_OK;
}

ds_status kernel_add(struct ds_stream *stream, const struct ds_add_args *args)
{
    DS_ASSERT(kernel_elems(&args->y) == kernel_elems(&args->x));
    KERNEL_WANTS("add", args, y, DS_F32);
    KERNEL_WANTS("add", args, x, DS_F32);
    return kernel_launch(stream, add_work, args, sizeof *args);
}

ds_status kernel_fill(struct ds_stream *stream, const struct ds_fill_args *args)
{
    return kernel_launch(stream, fill_work, args, sizeof *args);
}

ds_status kernel_loss_sum(struct ds_stream *stream, const struct ds_loss_sum_args *args)
{
    KERNEL_WANTS("loss_sum", args, loss_T, DS_F32);
    return kernel_launch(stream, loss_sum_work, args, sizeof *args);
}
