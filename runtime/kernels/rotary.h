/* rotary.h - the way back of a head's rotation by its position, in the half layout (pair i, i + D/2).
 * `cosine` holds D/2 cosines, then D/2 sines. Inline only, for clones. */
#ifndef KERNELS_ROTARY_H
#define KERNELS_ROTARY_H

#include "elements.h"

/* The gradient of element i of the first half of a head, and of its partner in the second, from that
 * of the rotated head. */
KERNEL_INLINE float rotary_back_low(const void *dy, const float *cosine, size_t half, size_t i,
                                    enum ds_dtype dtype)
{
    return element_load(dy, i, dtype) * cosine[i] +
           element_load(dy, i + half, dtype) * cosine[i + half];
}

KERNEL_INLINE float rotary_back_high(const void *dy, const float *cosine, size_t half, size_t i,
                                     enum ds_dtype dtype)
{
    return element_load(dy, i + half, dtype) * cosine[i] -
           element_load(dy, i, dtype) * cosine[i + half];
}

#endif
