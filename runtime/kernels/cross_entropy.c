/* cross_entropy.c - loss of rows of logits, and in place their gradient: in one call, or, where each rank
 * has a part of the columns, in three with a sum over the ranks between.
 *
 * A thread takes whole rows. The sum of exponentials is made of pieces of PIECE columns in sixteen
 * lanes; the pieces add up in fp64, so that a vocabulary of 128,000 costs no accuracy. */
#include "kernels.h"
#include "lanes.h"
#include "launch.h"
#include "vector_math.h"

#include <math.h>
#include <string.h>

#define PIECE 1024

/* A NaN is not seen here, but makes the sum NaN. */
KERNEL_CLONES static float row_max(const float *x, size_t count)
{
    float lane[LANES], max = -INFINITY;
    size_t i = 0;

    for (size_t j = 0; j < LANES; j++)
        lane[j] = -INFINITY;
    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (size_t j = 0; i + j < count; j++)
        lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (size_t j = 0; j < LANES; j++)
        max = lane[j] > max ? lane[j] : max;
    return max;
}

/* x becomes exp(x - max), at most PIECE of them; returns their sum */
KERNEL_CLONES static float exp_piece(float *to, const float *x, size_t count, float max)
{
    float lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            to[i + j] = vector_expf(x[i + j] - max);
            lane[j] += to[i + j];
        }
    for (size_t j = 0; i + j < count; j++) {
        to[i + j] = vector_expf(x[i + j] - max);
        lane[j] += to[i + j];
    }
    return lanes_total(lane);
}

KERNEL_CLONES static void scale_row(float *x, size_t count, float factor)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
}

/* Sum of exp(x - max); with `keep` they replace the row. */
static double exp_row(float *x, size_t count, float max, int keep)
{
    float piece[PIECE];
    double sum = 0.0;

    for (size_t i = 0; i < count; i += PIECE) {
        size_t piece_count = count - i < PIECE ? count - i : PIECE;

        sum += exp_piece(keep ? x + i : piece, x + i, piece_count, max);
    }
    return sum;
}

static float one_row(float *logits, size_t count, int32_t target, int gradient, float factor)
{
    const float max = row_max(logits, count);
    const float chosen = logits[target];
    const double sum = exp_row(logits, count, max, gradient);

    if (gradient) {
        /* of the target apart: (p - 1) * factor, not p * factor - factor */
        const float probability = (float)(logits[target] / sum);

        scale_row(logits, count, (float)(factor / sum));
        logits[target] = (probability - 1.0f) * factor;
    }
    return (float)(log(sum) + ((double)max - (double)chosen));
}

static ds_status targets_exist(const int32_t *target, size_t count, size_t vocabulary)
{
    for (size_t i = 0; i < count; i++)
        if (target[i] != DS_IGNORE_INDEX && (target[i] < 0 || (size_t)target[i] >= vocabulary))
            return ds_fail(DS_ERR_DATA, "target %d of row %zu is not in the vocabulary of %zu",
                           target[i], i, vocabulary);
    return DS_OK;
}

static ds_status cross_entropy_work(void *args, int *done)
{
    const struct ds_cross_entropy_args *a = args;
    const size_t row_count = a->logits_NV.shape[0], width = a->logits_NV.shape[1];
    const int32_t *target = a->target_N.data;
    const float factor = a->gradient ? a->record->inverse_tokens * a->record->loss_scale : 0.0f;

    DS_TRY(targets_exist(target, row_count, width));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++) {
        float *row = (float *)a->logits_NV.data + i * width;
        float *loss = (float *)a->loss_N.data + i;

        *loss = 0.0f;
        if (target[i] != DS_IGNORE_INDEX)
            *loss = one_row(row, width, target[i], a->gradient, factor);
        else if (a->gradient)
            memset(row, 0, width * sizeof *row);
    }
    *done = 1;
    return DS_OK;
}

/* ---- a part of the vocabulary */

static ds_status max_work(void *args, int *done)
{
    const struct ds_cross_entropy_args *a = args;
    const size_t row_count = a->logits_NV.shape[0], width = a->logits_NV.shape[1];
    float *max = a->max_N.data;

    DS_TRY(targets_exist(a->target_N.data, row_count, a->vocabulary));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++)
        max[i] = row_max((const float *)a->logits_NV.data + i * width, width);
    *done = 1;
    return DS_OK;
}

/* The target's column of this part; one that lies elsewhere, or is ignored, is beyond all columns. */
static size_t column_of(const struct ds_cross_entropy_args *a, size_t row)
{
    return (size_t)((const int32_t *)a->target_N.data)[row] - a->first;
}

static ds_status sum_work(void *args, int *done)
{
    const struct ds_cross_entropy_args *a = args;
    const size_t row_count = a->logits_NV.shape[0], width = a->logits_NV.shape[1];
    const float *max = a->max_N.data;
    float *sums = a->sums_N2.data;

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++) {
        float *row = (float *)a->logits_NV.data + i * width;
        const size_t target = column_of(a, i);

        sums[2 * i] = (float)exp_row(row, width, max[i], 0);
        sums[2 * i + 1] = target < width ? row[target] : 0.0f;
    }
    *done = 1;
    return DS_OK;
}

KERNEL_CLONES static void gradient_row(float *x, size_t count, float max, float factor)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        x[i] = vector_expf(x[i] - max) * factor;
}

/* As one_row does it. */
static void finish_row(const struct ds_cross_entropy_args *a, size_t i, float factor)
{
    const size_t width = a->logits_NV.shape[1], target = column_of(a, i);
    const float max = ((const float *)a->max_N.data)[i], *sums = (float *)a->sums_N2.data + 2 * i;
    float *row = (float *)a->logits_NV.data + i * width;

    ((float *)a->loss_N.data)[i] = (float)(log((double)sums[0]) + ((double)max - (double)sums[1]));
    if (!a->gradient)
        return;
    gradient_row(row, width, max, factor / sums[0]);
    if (target < width) /* (p - 1) * factor, not p * factor - factor */
        row[target] = (vector_expf(sums[1] - max) / sums[0] - 1.0f) * factor;
}

static ds_status finish_work(void *args, int *done)
{
    const struct ds_cross_entropy_args *a = args;
    const size_t row_count = a->logits_NV.shape[0], width = a->logits_NV.shape[1];
    const int32_t *target = a->target_N.data;
    const float factor = a->gradient ? a->record->inverse_tokens * a->record->loss_scale : 0.0f;

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++) {
        if (target[i] != DS_IGNORE_INDEX) {
            finish_row(a, i, factor);
            continue;
        }
        ((float *)a->loss_N.data)[i] = 0.0f;
        if (a->gradient)
            memset((float *)a->logits_NV.data + i * width, 0, width * sizeof(float));
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_cross_entropy(struct ds_stream *stream, const struct ds_cross_entropy_args *args)
{
    KERNEL_WANTS("cross_entropy", args, logits_NV, DS_F32);
    KERNEL_WANTS("cross_entropy", args, target_N, DS_I32);
    KERNEL_WANTS("cross_entropy", args, loss_N, DS_F32);
    return kernel_launch(stream, cross_entropy_work, args, sizeof *args);
}

static ds_status part_check(const char *kernel, const struct ds_cross_entropy_args *args)
{
    DS_ASSERT(args->first + args->logits_NV.shape[1] <= args->vocabulary);
    DS_ASSERT(kernel_elems(&args->max_N) == args->logits_NV.shape[0]);
    KERNEL_WANTS(kernel, args, logits_NV, DS_F32);
    KERNEL_WANTS(kernel, args, target_N, DS_I32);
    KERNEL_WANTS(kernel, args, max_N, DS_F32);
    KERNEL_WANTS(kernel, args, sums_N2, DS_F32);
    KERNEL_WANTS(kernel, args, loss_N, DS_F32);
    return DS_OK;
}

ds_status kernel_cross_entropy_max(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args)
{
    DS_TRY(part_check("cross_entropy_max", args));
    return kernel_launch(stream, max_work, args, sizeof *args);
}

ds_status kernel_cross_entropy_sum(struct ds_stream *stream,
                                   const struct ds_cross_entropy_args *args)
{
    DS_TRY(part_check("cross_entropy_sum", args));
    DS_ASSERT(kernel_elems(&args->sums_N2) == 2 * args->logits_NV.shape[0]);
    return kernel_launch(stream, sum_work, args, sizeof *args);
}

ds_status kernel_cross_entropy_finish(struct ds_stream *stream,
                                      const struct ds_cross_entropy_args *args)
{
    DS_TRY(part_check("cross_entropy_finish", args));
    DS_ASSERT(kernel_elems(&args->sums_N2) == 2 * args->logits_NV.shape[0]);
    return kernel_launch(stream, finish_work, args, sizeof *args);
}
