/* lanes.h - sums in one order: element i goes to lane i % 16, the lanes are added pairwise. Whatever
 * the width of the machine's vectors, these are the same additions. Inline only, for clones. */
#ifndef KERNELS_LANES_H
#define KERNELS_LANES_H

#include <stddef.h>

#define LANES       16
#define LANE_INLINE static inline __attribute__((always_inline))

LANE_INLINE float lanes_total(float lane[LANES])
{
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

/* sum of a[i] * b[i] */
LANE_INLINE float lanes_dot(const float *a, const float *b, size_t count)
{
    float lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += a[i + j] * b[i + j];
    for (size_t j = 0; i + j < count; j++)
        lane[j] += a[i + j] * b[i + j];
    return lanes_total(lane);
}

/* sum of a[i] * b[i] * c[i] */
LANE_INLINE float lanes_dot3(const float *a, const float *b, const float *c, size_t count)
{
    float lane[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += a[i + j] * b[i + j] * c[i + j];
    for (size_t j = 0; i + j < count; j++)
        lane[j] += a[i + j] * b[i + j] * c[i + j];
    return lanes_total(lane);
}

#endif
