/* record.h - the arithmetic of the step record: what a step starts from, and its verdict. The cpu and the
 * CUDA kernel both include this file, so that a step is judged alike on either. */
#ifndef KERNELS_RECORD_H
#define KERNELS_RECORD_H

#include "dstrain/kernels.h"

#include <float.h>
#include <math.h>

#ifdef __CUDACC__
#define RECORD_INLINE static __device__ __forceinline__
#else
#define RECORD_INLINE static inline
#endif

#define NORM_FLOOR 1e-6 /* PyTorch's: a clip of a zero gradient stays finite */

/* PyTorch's GradScaler, but for the floor: what is divided by the scale stays finite. */
#define SCALE_FIRST     65536.0f
#define SCALE_MIN       FLT_MIN
#define SCALE_GROWTH    2.0f
#define SCALE_BACKOFF   0.5f
#define GROWTH_INTERVAL 2000

RECORD_INLINE void record_begin_local(struct ds_step_record *record)
{
    record->trained_tokens = record->local_tokens;
}

RECORD_INLINE void record_begin_global(struct ds_step_record *record)
{
    record->inverse_tokens =
        record->trained_tokens ? (float)(1.0 / (double)record->trained_tokens) : 0.0f;
    if (record->scales_loss && record->next_loss_scale == 0)
        record->next_loss_scale = SCALE_FIRST;
    record->loss_scale = record->scales_loss ? record->next_loss_scale : 1.0f;
    record->loss_sum = 0;
    record->asked = (double)record->asks;
    record->norm_squared = 0;
}

RECORD_INLINE float record_clip_factor(double norm, float clip)
{
    double factor = clip / (norm + NORM_FLOOR);

    return clip == 0 || factor > 1 ? 1.0f : (float)factor;
}

RECORD_INLINE void record_scale_next(struct ds_step_record *record, int is_finite)
{
    const float grown = record->next_loss_scale * SCALE_GROWTH;

    if (!is_finite) {
        record->next_loss_scale = fmaxf(record->next_loss_scale * SCALE_BACKOFF, SCALE_MIN);
        record->finite_count = 0;
    } else if (++record->finite_count == GROWTH_INTERVAL) {
        record->next_loss_scale = isfinite(grown) ? grown : record->next_loss_scale;
        record->finite_count = 0;
    }
}

RECORD_INLINE void record_verdict(const struct ds_verdict_args *a)
{
    struct ds_step_record *record = a->record;
    double norm = sqrt(record->norm_squared) / record->loss_scale;
    double update = (double)record->updates + 1;
    int is_finite;

    record->norm = (float)norm;
    is_finite = isfinite(record->norm) && isfinite(record->loss_sum);
    record->skip = !is_finite || record->trained_tokens == 0;
    record->clip_factor = record->skip ? 0.0f : record_clip_factor(norm, a->grad_clip);
    record->correction1 = (float)(1 / (1 - pow((double)a->beta1, update)));
    record->correction2 = (float)(1 / (1 - pow((double)a->beta2, update)));
    record->updates += !record->skip;
    record->skipped += record->skip != 0;
    if (record->scales_loss && record->trained_tokens > 0)
        record_scale_next(record, is_finite);
}

#endif
