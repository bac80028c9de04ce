/* kernel_compare.h - random inputs for kernels, and how far an answer is from the fp64 one. */
#ifndef DSTRAIN_KERNEL_COMPARE_H
#define DSTRAIN_KERNEL_COMPARE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint64_t random_next(uint64_t *state) /* splitmix64 */
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* `count` floats from -1 to 1; the caller frees them. */
static inline float *random_floats(size_t count, uint64_t seed)
{
    float *x = malloc((count ? count : 1) * sizeof *x);

    for (size_t i = 0; x && i < count; i++)
        x[i] = (float)(random_next(&seed) >> 40) * 0x1p-23f - 1.0f;
    return x;
}

/* |got - want| / |want|, of the norms, each element of want counted as at least `floor`, for answers
 * that may vanish. NaN or inf where an answer is lost. */
static inline double relative_error_above(const float *got, const double *want, size_t count,
                                          double floor)
{
    double difference = 0.0, norm = 0.0;

    for (size_t i = 0; i < count; i++) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i] > floor * floor ? want[i] * want[i] : floor * floor;
    }
    return difference == 0.0 ? 0.0 : sqrt(difference / norm);
}

static inline double relative_error(const float *got, const double *want, size_t count)
{
    return relative_error_above(got, want, count, 0.0);
}

/* FNV-1a over bytes: for answers whose bits are fixed, whatever machine makes them */
static inline uint64_t bits_hash(const void *at, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)at)[i]) * 0x100000001b3u;
    return hash;
}

/* libgomp's barriers are invisible to the thread sanitizer: there, teams of one. */
#ifdef __SANITIZE_THREAD__
#define OMP_TEAM_MAX 1
#else
#define OMP_TEAM_MAX 3
#endif

#define assert_error(error, bound)                                                        \
    do {                                                                                  \
        double error_ = (error);                                                          \
        if (!(error_ <= (bound)))                                                         \
            print_message("relative error %g, allowed is %g\n", error_, (double)(bound)); \
        assert_true(error_ <= (bound));                                                   \
    } while (0)

#endif
