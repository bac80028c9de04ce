/* lanes.h - sums in one order: element i goes to lane i % 16, the lanes are added pairwise. Whatever
 * the width of the machine's vectors, these are the same additions. Inline only, for clones. */
#ifndef KERNELS_LANES_H
#define KERNELS_LANES_H

#include "elements.h"

#define LANES 16

KERNEL_INLINE float lanes_total(float lane[LANES])
{
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

/* sum of a[i] * b[i] */
KERNEL_INLINE float lanes_dot(const void *a, const void *b, size_t count, enum ds_dtype dtype)
{
    float lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += element_load(a, i + j, dtype) * element_load(b, i + j, dtype);
    for (size_t j = 0; i + j < count; j++)
        lane[j] += element_load(a, i + j, dtype) * element_load(b, i + j, dtype);
    return lanes_total(lane);
}

/* sum of a[i] * b[i] * c[i]; a has a dtype of its own */
KERNEL_INLINE float lanes_dot3(const void *a, enum ds_dtype a_dtype, const void *b, const void *c,
                               size_t count, enum ds_dtype dtype)
{
    float lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += element_load(a, i + j, a_dtype) * element_load(b, i + j, dtype) *
                       element_load(c, i + j, dtype);
    for (size_t j = 0; i + j < count; j++)
        lane[j] += element_load(a, i + j, a_dtype) * element_load(b, i + j, dtype) *
                   element_load(c, i + j, dtype);
    return lanes_total(lane);
}

#endif
