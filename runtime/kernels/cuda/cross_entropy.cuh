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

/* Exponentials of a row are taken above its level: its largest logit, or, between logits of 16 bits, that times
 * log2(e). There 2^(x * log2(e) - level) is one fma and one instruction, off by about 2 + |x - max| ulp of fp32;
 * what the level's rounding makes of them is the same for all of a row, and cancels. A row without any finite
 * logit has a level, too: there is no -inf - -inf. */
#define LOG2_E 1.44269504f

template <typename T> __device__ __forceinline__ float level_of(float max)
{
    return fmaxf(sizeof(T) < sizeof(float) ? max * LOG2_E : max, -FLT_MAX);
}

/* The level as a logit. */
template <typename T> __device__ __forceinline__ double level_logit(float level)
{
    return sizeof(T) < sizeof(float) ? (double)level * (1.0 / (double)LOG2_E) : (double)level;
}

/* What is too small for a normal number is 0. */
__device__ __forceinline__ float exp2_short(float x)
{
    float power;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

/* From sums above the level `from` to sums above `to`. */
template <typename T> __device__ __forceinline__ float exp_between(float from, float to)
{
    return sizeof(T) < sizeof(float) ? exp2_short(from - to) : expf(from - to);
}

template <typename T> __device__ __forceinline__ float exp_above(float level, float x)
{
    return sizeof(T) < sizeof(float) ? exp2_short(fmaf(x, LOG2_E, -level)) : expf(x - level);
}

template <typename T> __device__ __forceinline__ float exp_sum(const slot<T> &s, float level)
{
    float sum = 0.0f;

#pragma unroll
    for (int j = 0; j < slot<T>::count; j++)
        sum += exp_above<T>(level, slot_get(s, j));
    return sum;
}

/* A row's level, its target's logit, and the sum of the exponentials: all that loss and gradient take. */
struct facts {
    float level, chosen;
    double sum;
};

template <typename T> __device__ __forceinline__ float loss_of(const struct facts &facts)
{
    return (float)(log(facts.sum) + (level_logit<T>(facts.level) - (double)facts.chosen));
}

__device__ __forceinline__ float factor_of(const struct losses &a)
{
    return a.record->inverse_tokens * a.record->loss_scale;
}

/* (p - 1) * factor, not p * factor - factor. */
template <typename T>
__device__ __forceinline__ T target_gradient(const struct facts &facts, float factor)
{
    const float probability = (float)((double)exp_above<T>(facts.level, facts.chosen) / facts.sum);

    return from_float<T>((probability - 1.0f) * factor);
}

/* The target's logit; a column that is not here is NaN. */
template <typename T> __device__ __forceinline__ float chosen_of(const row<T> &r, int32_t target)
{
    return target >= 0 && target < r.count ? to_float(r.at[target]) : NAN;
}

/* The gradient of a slot that holds logits, none of which is the target's. */
template <typename T>
__device__ __forceinline__ void write_slot(const row<T> &r, int index, const slot<T> &logits,
                                           float level, float slope)
{
    float gradient[slot<T>::count];

#pragma unroll
    for (int j = 0; j < slot<T>::count; j++)
        gradient[j] = exp_above<T>(level, slot_get(logits, j)) * slope;
    store_slot(r, index, slot_make<T>(gradient));
}

/* The whole row by a block; `target`: negative, or beyond the row, if it is not here. */
template <typename T>
__device__ __forceinline__ void write_row(const struct losses &a, const row<T> &r,
                                          const struct facts &facts, int64_t target)
{
    const int target_slot = slot_of(r, target);
    const float factor = factor_of(a), slope = factor / (float)facts.sum;

    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS) {
        write_slot(r, i, load_slot(r, i), facts.level, slope);
        if (i == target_slot)
            r.at[target] = target_gradient<T>(facts, factor);
    }
}

/* Loss and gradient of a row that is not ignored, by a block of ROW_THREADS that reads it twice. */
template <typename T>
__device__ __forceinline__ void twice_row(const struct losses &a, const row<T> &r, uint64_t index,
                                          int32_t target)
{
    float level = -FLT_MAX, sum = 0.0f; /* of this thread's slots */
    struct facts facts;

#pragma unroll 4
    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS) {
        const slot<T> s = load_slot(r, i);
        const float higher = fmaxf(level, level_of<T>(word_top<T>(slot_max_word(s))));

        sum = (higher > level ? sum * exp_between<T>(level, higher) : sum) + exp_sum(s, higher);
        level = higher;
    }
    facts.chosen = chosen_of(r, target);
    facts.level = block_max<ROW_THREADS>(level); /* the block waits: all have read the target */
    facts.sum = block_sum<ROW_THREADS>((double)sum * exp_between<T>(level, facts.level));
    if (threadIdx.x == 0)
        a.loss[index] = loss_of<T>(facts);
    if (a.gradient)
        write_row(a, r, facts, target);
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
