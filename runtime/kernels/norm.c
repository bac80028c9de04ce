/* norm.c - the gradient's norm: fp64 sums of squares of fixed pieces, then their sum in index order.
 * Shards are cut at pieces, so every number of shards gives the same bits. A square of fp32 is exact
 * in fp64. */
#include "convert.h"
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

#include <string.h>

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

/* Elements at .. at + count as they count: fp32, and zero where a span is skipped; in `copy` where they do
 * not lie so. */
static const float *counted(const struct ds_norm_pieces_args *a, size_t at, size_t count,
                            float *copy)
{
    const float *from = kernel_borrow(&a->x, at, count, copy);

    for (size_t i = 0; i < a->skip_count; i++) {
        const struct ds_span *skip = &a->skips[i];
        const uint64_t skip_end = skip->start + skip->count, end = at + count;
        const uint64_t lo = skip->start > at ? skip->start : at;
        const uint64_t hi = skip_end < end ? skip_end : end;

        if (lo >= hi)
            continue;
        if (from != copy)
            memcpy(copy, from, count * sizeof *copy);
        from = copy;
        memset(copy + (lo - at), 0, (hi - lo) * sizeof *copy);
    }
    return from;
}

static ds_status pieces_work(void *args, int *done)
{
    const struct ds_norm_pieces_args *a = args;
    size_t count = kernel_elems(&a->x), piece_count = kernel_elems(&a->sums);
    double *sums = a->sums.data;

#pragma omp parallel for schedule(static) if (piece_count > 8)
    for (size_t i = 0; i < piece_count; i++) {
        size_t at = i * DS_NORM_PIECE, left = count - at;
        size_t here = left < DS_NORM_PIECE ? left : DS_NORM_PIECE;
        float copy[DS_NORM_PIECE];

        sums[i] = piece_sum(counted(a, at, here, copy), here);
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
    KERNEL_WANTS_FLOAT("norm_pieces", args, x);
    KERNEL_WANTS("norm_pieces", args, sums, DS_F64);
    return kernel_launch(stream, pieces_work, args, sizeof *args);
}

ds_status kernel_norm_sum(struct ds_stream *stream, const struct ds_norm_sum_args *args)
{
    KERNEL_WANTS("norm_sum", args, sums, DS_F64);
    return kernel_launch(stream, sum_work, args, sizeof *args);
}
