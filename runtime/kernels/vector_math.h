/* vector_math.h - exp for loops: plain C that compilers turn into vector code.
 *
 * No branch, no table, no call, only operations that SSE2 has: the loop around it vectorises for any
 * instruction set and gives the same bits on all of them (contraction is off). Largest error 1.0 ulp
 * over all floats, measured against fp64; exp(-inf) is 0, results below the smallest subnormal are 0,
 * above FLT_MAX inf; NaN stays NaN. */
#ifndef DSTRAIN_KERNELS_VECTOR_MATH_H
#define DSTRAIN_KERNELS_VECTOR_MATH_H

#include <stdint.h>
#include <string.h>

static inline float vector_float_of_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t vector_bits_of_float(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float vector_expf(float x)
{
    const float shift =
        12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */

    x = x > 89.0f ? 89.0f : x; /* a NaN passes both */
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * 1.44269504f + shift;
    const float n = shifted - shift;
    /* ln 2 in two parts; the first has 9 bits, so its product with n is exact */
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    /* times 2^n in two halves: n reaches from -150 to 128, the exponent of one float does not */
    const uint32_t whole = vector_bits_of_float(shifted) - vector_bits_of_float(shift) + 512u;
    const uint32_t half = whole / 2; /* 512 makes it positive, so halving is a shift */
    const float scale1 = vector_float_of_bits((half - 256u + 127u) << 23);
    const float scale2 = vector_float_of_bits((whole - half - 256u + 127u) << 23);
    return p * scale1 * scale2;
}

#endif
