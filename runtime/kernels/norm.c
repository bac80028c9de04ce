/* norm.c - the gradient's norm: fp64 sums of squares of fixed pieces, then their sum in index order.
 * Shards are cut at pieces, so every number of shards gives the same bits. A square of fp32 is exact
 * in fp64. */
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

KERNEL_CLONES static double piece_sum(const float *x, size_t count)
{
    double lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t j = 0; i + j < count; j++)
        lane[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return lane[0];
}

static ds_status pieces_work(void *args, int *done)
{
    const struct ds_norm_pieces_args *a = args;
    size_t count = kernel_elems(&a->x), piece_count = kernel_elems(&a->sums);
    const float *x = a->x.data;
    double *sums = a->sums.data;

#pragma omp parallel for schedule(static) if (piece_count > 8)
    for (size_t i = 0; i < piece_count; i++) {
        size_t at = i * DS_NORM_PIECE, left = count - at;

        sums[i] = piece_sum(x + at, left < DS_NORM_PIECE ? left : DS_NORM_PIECE);
    }
    *done = 1;
    return DS_OK;
}

static ds_status sum_work(void *args, int *done)
{
    const struct ds_norm_sum_args *a = args;
    size_t piece_count = kernel_elems(&a->sums);
    const double *sums = a->sums.data;
    double total = 0;

    for (size_t i = 0; i < piece_count; i++)
        total += sums[i];
    a->record->norm_squared = total;
    *done = 1;
    return DS_OK;
}

ds_status kernel_norm_pieces(struct ds_stream *stream, const struct ds_norm_pieces_args *args)
{
    DS_ASSERT(kernel_elems(&args->sums) ==
              (kernel_elems(&args->x) + DS_NORM_PIECE - 1) / DS_NORM_PIECE);
    KERNEL_WANTS("norm_pieces", args, x, DS_F32);
    KERNEL_WANTS("norm_pieces", args, sums, DS_F64);
    return kernel_launch(stream, pieces_work, args, sizeof *args);
}

ds_status kernel_norm_sum(struct ds_stream *stream, const struct ds_norm_sum_args *args)
{
    KERNEL_WANTS("norm_sum", args, sums, DS_F64);
    return kernel_launch(stream, sum_work, args, sizeof *args);
}
