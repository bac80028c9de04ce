/* cross_entropy.cuh - what the one call and the three of a shared vocabulary have in common: from a row's
 * facts to its loss and gradient.
 *
 * A target that is in no vocabulary cannot be reported from here; its loss is NaN, and the verdict skips the
 * step. Ids are checked where data is read. */
#ifndef KERNELS_CUDA_CROSS_ENTROPY_CUH
#define KERNELS_CUDA_CROSS_ENTROPY_CUH

#include "row.cuh"
#include "sums.cuh"

#include <float.h>
#include <math.h>

#define ROW_THREADS 1024 /* of a block that goes over a row */

struct losses {
    void *logits;
    const int32_t *target;
    float *loss, *max, *sums;
    const struct ds_step_record *record;
    int gradient;
    uint64_t row_count, width, first, vocabulary;
};

static inline struct losses losses_of(const struct ds_cross_entropy_args *a)
{
    return {a->logits_NV.data,
            (const int32_t *)a->target_N.data,
            (float *)a->loss_N.data,
            (float *)a->max_N.data,
            (float *)a->sums_N2.data,
            a->record,
            a->gradient,
            a->logits_NV.shape[0],
            a->logits_NV.shape[1],
            a->first,
            a->vocabulary};
}

/* A row's largest logit, its target's, and the sum of exp(x - max): all that loss and gradient take. */
struct facts {
    float max, chosen;
    double sum;
};

__device__ __forceinline__ float loss_of(const struct facts &facts)
{
    return (float)(log(facts.sum) + ((double)facts.max - (double)facts.chosen));
}

/* Gradients are exp(x - max) * factor; the target's is apart: (p - 1) * factor, not p * factor - factor. */
struct slope {
    float max, factor, target;
};

__device__ __forceinline__ struct slope slope_of(const struct losses &a, const struct facts &facts)
{
    const float factor = a.record->inverse_tokens * a.record->loss_scale;
    const float probability = (float)((double)expf(facts.chosen - facts.max) / facts.sum);

    return {facts.max, (float)((double)factor / facts.sum), (probability - 1.0f) * factor};
}

template <typename T> __device__ __forceinline__ float slot_max(const slot<T> &s)
{
    float max = slot_get(s, 0);

#pragma unroll
    for (int j = 1; j < slot<T>::count; j++)
        max = fmaxf(max, slot_get(s, j));
    return max;
}

/* Between logits of 16 bits the short one will do: off by about 2 + |x| ulp of fp32. */
template <typename T> __device__ __forceinline__ float exp_of(float x)
{
    return sizeof(T) < sizeof(float) ? __expf(x) : expf(x);
}

template <typename T> __device__ __forceinline__ float exp_sum(const slot<T> &s, float max)
{
    float sum = 0.0f;

#pragma unroll
    for (int j = 0; j < slot<T>::count; j++)
        sum += exp_of<T>(slot_get(s, j) - max);
    return sum;
}

/* The target's logit; a column that is not here is NaN. */
template <typename T> __device__ __forceinline__ float chosen_of(const row<T> &r, int32_t target)
{
    return target >= 0 && target < r.count ? to_float(r.at[target]) : NAN;
}

/* The gradient of a slot that holds logits. `target`: of this row here, in `target_slot` */
template <typename T>
__device__ __forceinline__ void write_slot(const row<T> &r, int index, const slot<T> &logits,
                                           const struct slope &slope, int64_t target,
                                           int target_slot)
{
    float gradient[slot<T>::count];

#pragma unroll
    for (int j = 0; j < slot<T>::count; j++)
        gradient[j] = exp_of<T>(slot_get(logits, j) - slope.max) * slope.factor;
    store_slot(r, index, slot_make<T>(gradient));
    if (index == target_slot)
        r.at[target] = from_float<T>(slope.target);
}

/* The whole row by a block; `target`: negative, or beyond the row, if it is not here. */
template <typename T>
__device__ __forceinline__ void write_row(const row<T> &r, const struct slope &slope,
                                          int64_t target)
{
    const int target_slot = slot_of(r, target);

    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS)
        write_slot(r, i, load_slot(r, i), slope, target, target_slot);
}

/* By `stride` threads, of which this is number `first`. */
template <typename T>
__device__ __forceinline__ void ignore_row(const struct losses &a, const row<T> &r, uint64_t index,
                                           int first, int stride)
{
    const slot<T> zero = {}; /* of every dtype */

    if (first == 0)
        a.loss[index] = 0.0f;
    if (!a.gradient)
        return;
    for (int i = first; i < r.slot_count; i += stride)
        store_slot(r, i, zero);
}

#endif
