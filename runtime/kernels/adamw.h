/* adamw.h - one element of AdamW. The cpu loop and the CUDA kernel both include this file, so that a
 * shard updated on either has the same bits: fma where it is written, none where it is not. */
#ifndef KERNELS_ADAMW_H
#define KERNELS_ADAMW_H

#include <math.h>

#ifdef __CUDACC__
#define ADAMW_INLINE static __device__ __forceinline__
#else
#define ADAMW_INLINE static inline __attribute__((always_inline))
#endif

struct adamw_step {
    float beta1, beta2, epsilon;
    float rate;                     /* this step's learning rate */
    float decay;                    /* weight decay of the span */
    float correction1, correction2; /* 1/(1-beta1^t), 1/(1-beta2^t) */
    float gradient_factor;          /* clips and takes the loss scale off */
};

ADAMW_INLINE void adamw_moments(float gradient, float *m, float *v, const struct adamw_step *s)
{
    float g = gradient * s->gradient_factor;

    *m = fmaf(s->beta1, *m, (1.0f - s->beta1) * g);
    *v = fmaf(s->beta2, *v, (1.0f - s->beta2) * g * g);
}

/* The new parameter: `direction` is m over the root of the corrected v. */
ADAMW_INLINE float adamw_move(float param, float direction, const struct adamw_step *s)
{
    float decayed = fmaf(-s->rate * s->decay, param, param);

    return fmaf(-s->rate * s->correction1, direction, decayed);
}

/* Returns the new parameter. epsilon comes after the bias correction of the second moment. */
ADAMW_INLINE float adamw_element(float param, float gradient, float *m, float *v,
                                 const struct adamw_step *s)
{
    adamw_moments(gradient, m, v, s);
    return adamw_move(param, *m / (sqrtf(*v * s->correction2) + s->epsilon), s);
}

#endif
