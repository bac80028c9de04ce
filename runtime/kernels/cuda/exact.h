/* exact.h - square root and quotient of fp32, rounded to nearest even like those of the language, from what the GPU
 * has a good guess at. Read by C, too: a test on the host checks the bits for guesses further off than the GPU's.
 *
 * The compiler has the same for both, but with a branch at each for numbers that are too large or too small: who
 * asks for many at once finds out about all of them, in one branch. The root is refined once more than the compiler's,
 * which is exact for the guesses of the GPUs of today and not for all that are one place off. */
#ifndef KERNELS_CUDA_EXACT_H
#define KERNELS_CUDA_EXACT_H

#include <math.h>

#ifdef __CUDACC__
#define EXACT_INLINE static __device__ __forceinline__
#else
#define EXACT_INLINE static inline
#endif

#define EXACT_SQUARE_MIN   0x1p-100f /* of x; to all finite ones */
#define EXACT_DIVIDEND_MIN 0x1p-60f  /* of |a|; to those with a finite quotient: it is NaN else */
#define EXACT_DIVISOR_MIN  0x1p-50f  /* of b .. */
#define EXACT_DIVISOR_MAX  0x1p65f

/* The root of x; `guess`: about 1 / it. */
EXACT_INLINE float exact_sqrt(float x, float guess)
{
    const float near = x * guess, half_near = guess * 0.5f;
    const float error = fmaf(-half_near, near, 0.5f);
    const float root = fmaf(near, error, near), half = fmaf(half_near, error, half_near);

    return fmaf(fmaf(-root, root, x), half, root);
}

/* a / b; `guess`: about 1 / b. */
EXACT_INLINE float exact_divide(float a, float b, float guess)
{
    const float inverse = fmaf(guess, fmaf(-b, guess, 1.0f), guess), quotient = a * inverse;

    return fmaf(inverse, fmaf(-b, quotient, a), quotient);
}

#ifdef __CUDACC__
EXACT_INLINE float guess_inverse_sqrt(float x)
{
    float guess;

    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(guess) : "f"(x));
    return guess;
}
EXACT_INLINE float guess_inverse(float x)
{
    float guess;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(guess) : "f"(x));
    return guess;
}
#endif
#endif
