/* cross_entropy.c - loss of rows of logits, and in place their gradient: in one call, or, where each rank
 * has a part of the columns, in three with a sum over the ranks between.
 *
 * A thread takes whole rows. The sum of exponentials is made of pieces of PIECE columns in sixteen
 * lanes; the pieces add up in fp64, so that a vocabulary of 128,000 costs no accuracy. */
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

#include <math.h>
#include <string.h>

#define PIECE 1024

KERNEL_INLINE void max_loop(float *out, const void *x, size_t count, enum ds_dtype dtype)
{
    float lane[LANES], max = -INFINITY;
    size_t i = 0;

    for (size_t j = 0; j < LANES; j++)
        lane[j] = -INFINITY;
    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const float value = element_load(x, i + j, dtype);
            lane[j] = value > lane[j] ? value : lane[j];
        }
    for (size_t j = 0; i + j < count; j++) {
        const float value = element_load(x, i + j, dtype);
        lane[j] = value > lane[j] ? value : lane[j];
    }
    for (size_t j = 0; j < LANES; j++)
        max = lane[j] > max ? lane[j] : max;
    *out = max;
}

/* A NaN is not seen here, but makes the sum NaN. */
KERNEL_CLONES static void row_max(float *out, const void *x, size_t count, enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, max_loop, out, x, count);
}

KERNEL_INLINE void exp_loop(float *sum, float *to, const void *x, size_t count, float max,
                            enum ds_dtype dtype)
{
    float lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            to[i + j] = vector_expf(element_load(x, i + j, dtype) - max);
            lane[j] += to[i + j];
        }
    for (size_t j = 0; i + j < count; j++) {
        to[i + j] = vector_expf(element_load(x, i + j, dtype) - max);
        lane[j] += to[i + j];
    }
    *sum = lanes_total(lane);
}

/* exp(x - max) of at most PIECE elements, and their sum */
KERNEL_CLONES static void exp_piece(float *sum, float *to, const void *x, size_t count, float max,
                                    enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, exp_loop, sum, to, x, count, max);
}

/* Sum of exp(x - max); with `keep` they replace the row, of fp32. */
static double exp_row(void *x, size_t count, float max, int keep, enum ds_dtype dtype)
{
    float piece[PIECE], piece_sum;
    double sum = 0.0;

    for (size_t i = 0; i < count; i += PIECE) {
        size_t piece_count = count - i < PIECE ? count - i : PIECE;

        exp_piece(&piece_sum, keep ? (float *)x + i : piece, element_from(x, i, dtype), piece_count,
                  max, dtype);
        sum += piece_sum;
    }
    return sum;
}

KERNEL_CLONES static void scale_row(float *x, size_t count, float factor)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
}

KERNEL_INLINE void gradient_loop(void *x, size_t count, float max, float factor,
                                 enum ds_dtype dtype)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        element_store(x, i, vector_expf(element_load(x, i, dtype) - max) * factor, dtype);
}

/* The same where exp(x - max) was not kept. */
KERNEL_CLONES static void gradient_row(void *x, size_t count, float max, float factor,
                                       enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, gradient_loop, x, count, max, factor);
}

/* A row's largest logit, the sum of exp(x - max), and its target's logit: all that loss and gradient take. */
struct row_facts {
    float max, chosen;
    double sum;
};

static float loss_of(const struct row_facts *facts)
{
    return (float)(log(facts->sum) + ((double)facts->max - (double)facts->chosen));
}

/* Of the target apart: (p - 1) * factor, not p * factor - factor. */
static float target_gradient(const struct row_facts *facts, float factor)
{
    const float probability = (float)(vector_expf(facts->chosen - facts->max) / facts->sum);

    return (probability - 1.0f) * factor;
}

/* Only fp32 holds the exponentials until they are scaled. */
static float one_row(void *logits, size_t count, size_t target, int gradient, float factor,
                     enum ds_dtype dtype)
{
    const int keep = gradient && dtype == DS_F32;
    struct row_facts facts = {.chosen = element_load(logits, target, dtype)};

    row_max(&facts.max, logits, count, dtype);
    facts.sum = exp_row(logits, count, facts.max, keep, dtype);
    if (keep)
        scale_row(logits, count, (float)(factor / facts.sum));
    else if (gradient)
        gradient_row(logits, count, facts.max, (float)(factor / facts.sum), dtype);
    if (gradient)
        element_store(logits, target, target_gradient(&facts, factor), dtype);
    return loss_of(&facts);
}

static ds_status targets_exist(const int32_t *target, size_t count, size_t vocabulary)
{
    for (size_t i = 0; i < count; i++)
        if (target[i] != DS_IGNORE_INDEX && (target[i] < 0 || (size_t)target[i] >= vocabulary))
            return ds_fail(DS_ERR_DATA, "target %d of row %zu is not in the vocabulary of %zu",
                           target[i], i, vocabulary);
    return DS_OK;
}

static void *logits_of(const struct ds_cross_entropy_args *a, size_t row)
{
    return element_to(a->logits_NV.data, row * a->logits_NV.shape[1], a->logits_NV.dtype);
}

static void ignore_row(const struct ds_cross_entropy_args *a, size_t row)
{
    ((float *)a->loss_N.data)[row] = 0.0f;
    if (a->gradient)
        memset(logits_of(a, row), 0, a->logits_NV.shape[1] * ds_dtype_bytes(a->logits_NV.dtype));
}

static float factor_of(const struct ds_cross_entropy_args *a)
{
    return a->gradient ? a->record->inverse_tokens * a->record->loss_scale : 0.0f;
}

/* Of a loss behind its product: no factor is left away here. */
static void leave_factors(const struct ds_cross_entropy_args *a)
{
    const struct ds_tensor *x = &a->x_NC, *scaled = &a->scaled_NC;
    float *factor = a->factor_N.data;

    if (!x->data || !a->gradient)
        return;
    for (size_t i = 0; i < a->logits_NV.shape[0]; i++)
        factor[i] = 1.0f;
    if (scaled->data != x->data)
        memcpy(scaled->data, x->data, kernel_elems(x) * ds_dtype_bytes(x->dtype));
}

static ds_status cross_entropy_work(void *args, int *done)
{
    const struct ds_cross_entropy_args *a = args;
    const size_t row_count = a->logits_NV.shape[0], width = a->logits_NV.shape[1];
    const int32_t *target = a->target_N.data;
    const float factor = factor_of(a);
    float *loss = a->loss_N.data;

    DS_TRY(targets_exist(target, row_count, width));
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++) {
        if (target[i] == DS_IGNORE_INDEX)
            ignore_row(a, i);
        else
            loss[i] = one_row(logits_of(a, i), width, (size_t)target[i], a->gradient, factor,
                              a->logits_NV.dtype);
    }
    leave_factors(a);
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
        row_max(&max[i], logits_of(a, i), width, a->logits_NV.dtype);
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
    const enum ds_dtype dtype = a->logits_NV.dtype;
    const float *max = a->max_N.data;
    float *sums = a->sums_N2.data;

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++) {
        const size_t target = column_of(a, i);
        void *row = logits_of(a, i);

        sums[2 * i] = (float)exp_row(row, width, max[i], 0, dtype);
        sums[2 * i + 1] = target < width ? element_load(row, target, dtype) : 0.0f;
    }
    *done = 1;
    return DS_OK;
}

static void finish_row(const struct ds_cross_entropy_args *a, size_t i, float factor)
{
    const enum ds_dtype dtype = a->logits_NV.dtype;
    const size_t width = a->logits_NV.shape[1], target = column_of(a, i);
    const float *sums = (const float *)a->sums_N2.data + 2 * i;
    const struct row_facts facts = {
        .max = ((const float *)a->max_N.data)[i], .chosen = sums[1], .sum = sums[0]};

    ((float *)a->loss_N.data)[i] = loss_of(&facts);
    if (!a->gradient)
        return;
    gradient_row(logits_of(a, i), width, facts.max, (float)(factor / facts.sum), dtype);
    if (target < width)
        element_store(logits_of(a, i), target, target_gradient(&facts, factor), dtype);
}

static ds_status finish_work(void *args, int *done)
{
    const struct ds_cross_entropy_args *a = args;
    const size_t row_count = a->logits_NV.shape[0];
    const int32_t *target = a->target_N.data;
    const float factor = factor_of(a);

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < row_count; i++) {
        if (target[i] == DS_IGNORE_INDEX)
            ignore_row(a, i);
        else
            finish_row(a, i, factor);
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_cross_entropy(struct ds_stream *stream, const struct ds_cross_entropy_args *args)
{
    const struct ds_matmul_args product = {
        .a = args->x_NC, .b = args->weight_VC, .c = args->logits_NV, .trans_b = 1};

    if (args->x_NC.data)
        DS_TRY(kernel_matmul(stream, &product));
    KERNEL_WANTS_FLOAT("cross_entropy", args, logits_NV);
    KERNEL_WANTS("cross_entropy", args, target_N, DS_I32);
    KERNEL_WANTS("cross_entropy", args, loss_N, DS_F32);
    return kernel_launch(stream, cross_entropy_work, args, sizeof *args);
}

static ds_status part_check(const char *kernel, const struct ds_cross_entropy_args *args)
{
    DS_ASSERT(args->first + args->logits_NV.shape[1] <= args->vocabulary);
    DS_ASSERT(kernel_elems(&args->max_N) == args->logits_NV.shape[0]);
    KERNEL_WANTS_FLOAT(kernel, args, logits_NV);
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
