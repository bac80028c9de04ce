/* elementwise.c - add, cast, rows times a factor, fill, and the sum of a micro-batch's losses. */
#include "convert.h"
#include "kernels.h"
#include "launch.h"

#include <string.h>

#define PIECE_ELEMS 16384 /* what one thread takes at a time; smaller work stays on one thread */
#define TILE_ELEMS  1024  /* what is fp32 on the way */

KERNEL_CLONES static void add_piece(float *y, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] += x[i];
}

static void add_tile(const struct ds_add_args *a, size_t at, size_t count)
{
    float y_buffer[TILE_ELEMS], x_buffer[TILE_ELEMS];
    float *y = kernel_borrow(&a->y, at, count, y_buffer);

    add_piece(y, kernel_borrow(&a->x, at, count, x_buffer), count);
    kernel_return(&a->y, at, count, y);
}

static ds_status add_work(void *args, int *done)
{
    const struct ds_add_args *a = args;
    size_t count = kernel_elems(&a->y);

#pragma omp parallel for schedule(static) if (count > PIECE_ELEMS)
    for (size_t at = 0; at < count; at += TILE_ELEMS)
        add_tile(a, at, count - at < TILE_ELEMS ? count - at : TILE_ELEMS);
    *done = 1;
    return DS_OK;
}

static void cast_tile(const struct ds_cast_args *a, size_t at, size_t count)
{
    const size_t y_start = at * ds_dtype_bytes(a->y.dtype);
    float buffer[TILE_ELEMS];

    kernel_narrow((unsigned char *)a->y.data + y_start, a->y.dtype,
                  kernel_borrow(&a->x, at, count, buffer), count);
}

static ds_status cast_work(void *args, int *done)
{
    const struct ds_cast_args *a = args;
    size_t count = kernel_elems(&a->y);

#pragma omp parallel for schedule(static) if (count > PIECE_ELEMS)
    for (size_t at = 0; at < count; at += TILE_ELEMS)
        cast_tile(a, at, count - at < TILE_ELEMS ? count - at : TILE_ELEMS);
    *done = 1;
    return DS_OK;
}

KERNEL_CLONES static void scale_piece(float *y, float factor, size_t count)
{
    for (size_t i = 0; i < count; i++)
        y[i] *= factor;
}

static ds_status scale_rows_work(void *args, int *done)
{
    const struct ds_scale_rows_args *a = args;
    const size_t rows = a->y_NC.shape[0], width = a->y_NC.shape[1];
    const float *factor = a->factor_N.data;

#pragma omp parallel for schedule(static) if (rows * width > PIECE_ELEMS)
    for (size_t row = 0; row < rows; row++)
        for (size_t at = 0; at < width; at += TILE_ELEMS) {
            const size_t count = width - at < TILE_ELEMS ? width - at : TILE_ELEMS;
            float buffer[TILE_ELEMS];
            float *y = kernel_borrow(&a->y_NC, row * width + at, count, buffer);

            scale_piece(y, factor[row], count);
            kernel_return(&a->y_NC, row * width + at, count, y);
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
    KERNEL_WANTS_FLOAT("add", args, y);
    KERNEL_WANTS_FLOAT("add", args, x);
    return kernel_launch(stream, add_work, args, sizeof *args);
}

ds_status kernel_cast(struct ds_stream *stream, const struct ds_cast_args *args)
{
    DS_ASSERT(kernel_elems(&args->y) == kernel_elems(&args->x));
    KERNEL_WANTS_FLOAT("cast", args, y);
    KERNEL_WANTS_FLOAT("cast", args, x);
    return kernel_launch(stream, cast_work, args, sizeof *args);
}

ds_status kernel_scale_rows(struct ds_stream *stream, const struct ds_scale_rows_args *args)
{
    DS_ASSERT(kernel_elems(&args->factor_N) == args->y_NC.shape[0]);
    KERNEL_WANTS_FLOAT("scale_rows", args, y_NC);
    KERNEL_WANTS("scale_rows", args, factor_N, DS_F32);
    return kernel_launch(stream, scale_rows_work, args, sizeof *args);
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
