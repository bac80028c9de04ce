/* normal.c - Box-Muller, as a loop that becomes vectors: a billion first weights wait for it.
 *
 * A number is what libm's log and cos make of its two words, rounded from double to float. The loop has a
 * logarithm and a cosine of its own (polynomials of fdlibm, less than 1 unit in the last of 53 bits away), whose
 * double lies a few units beside libm's. Where both ends of an interval much wider than that round to one float,
 * so does libm's; in the other cases, one of a million, libm is asked. So the bits are libm's. */
#include "normal.h"

#include "dstrain/clones.h"
#include "dstrain/philox.h"
#include "dstrain/random.h"

#include <math.h>

#define TURN  (0x1p-32 * 6.283185307179586476925) /* radians of 1 of an angle word */
#define DOUBT 0x1p-46 /* relative; the doubles differ by less than 2^-50 */
#define NEAR  1e-9    /* radians from where a cosine is 0: the reduced angle is not exact enough */
#define BATCH 128     /* numbers */

union word {
    double value;
    uint64_t bits;
};

/* In double, so that what libm rounds differently hardly ever reaches the float. The first word
 * becomes (0, 1): its logarithm is finite. */
float normal_of_libm(uint32_t radius, uint32_t angle)
{
    double length = sqrt(-2.0 * log(((double)radius + 0.5) * 0x1p-32));

    return (float)(length * cos((double)angle * TURN));
}

/* ln of x in (0, 1): x = 2^k m with m in [sqrt(1/2), sqrt(2)), and ln m by s = f / (2 + f), f = m - 1. */
static inline double log_of(double x)
{
    const uint64_t bits = ((union word){.value = x}).bits;
    const uint64_t above = bits - 0x3fe6a09e667f3bcdu + (UINT64_C(64) << 52); /* k + 64 on top */
    const uint64_t power = above >> 52;
    const union word magic = {.bits = power | 0x4330000000000000u}; /* 2^52 + power */
    const union word m = {.bits = bits - (power << 52) + (UINT64_C(64) << 52)};
    const double k = magic.value - (0x1p52 + 64), f = m.value - 1.0, half = 0.5 * f * f;
    const double s = f / (2.0 + f), z = s * s, w = z * z;
    const double even = w * (3.999999999940941908e-01 +
                             w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    const double odd = z * (6.666666666666735130e-01 +
                            w * (2.857142874366239149e-01 +
                                 w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));

    return k * 6.93147180369123816490e-01 -
           ((half - (s * (half + (even + odd)) + k * 1.90821492927058770002e-10)) - f);
}

/* for |r| <= pi / 4, both */
static inline double sin_of(double r)
{
    const double z = r * r;
    const double tail =
        8.33333333332248946124e-03 +
        z * (-1.98412698298579493134e-04 +
             z * (2.75573137070700676789e-06 +
                  z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)));

    return r + z * r * (-1.66666666666666324348e-01 + z * tail);
}

static inline double cos_of(double r)
{
    const double z = r * r, half = 0.5 * z, w = 1.0 - half;
    const double tail =
        z * (4.16666666666666019037e-02 +
             z * (-1.38888888888741095749e-03 +
                  z * (2.48015872894767294178e-05 +
                       z * (-2.75573143513906633035e-07 +
                            z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));

    return w + (((1.0 - w) - half) + z * tail);
}

/* One number; *doubt: libm's may be another one. The angle is k quarter turns and r, the quarter in two parts. */
static inline float number_of(uint32_t radius, uint32_t angle, uint32_t *doubt)
{
    const uint32_t k = ((angle >> 29) + 1) >> 1;
    const double quarters = (double)(int32_t)k;
    const double r = ((double)angle * TURN - quarters * 1.57079632673412561417e+00) -
                     quarters * 6.07710050650619224932e-11;
    const double wave = k & 1 ? sin_of(r) : cos_of(r);
    const double length = sqrt(-2.0 * log_of(((double)radius + 0.5) * 0x1p-32));
    const double value = (k + 1) & 2 ? -(length * wave) : length * wave;
    const float low = (float)(value - value * DOUBT), high = (float)(value + value * DOUBT);

    *doubt = (uint32_t)(low != high) | (uint32_t)(fabs(r) < NEAR);
    return low;
}

DS_CLONES static uint32_t fill(const uint32_t *radius, const uint32_t *angle, size_t count,
                               float *to)
{
    uint32_t any = 0;

    DS_NO_OVERLAP for (size_t i = 0; i < count; i++)
    {
        uint32_t doubt;

        to[i] = number_of(radius[i], angle[i], &doubt);
        any |= doubt;
    }
    return any;
}

void normal_of_words(const uint32_t *radius, const uint32_t *angle, size_t count, float *to)
{
    for (size_t done = 0; done < count; done += BATCH) {
        const size_t part = count - done < BATCH ? count - done : BATCH;

        if (!fill(radius + done, angle + done, part, to + done))
            continue;
        for (size_t i = done; i < done + part; i++)
            to[i] = normal_of_libm(radius[i], angle[i]);
    }
}

/* Words of blocks first.. in the order of numbers: each block has two. */
DS_CLONES static void draw(uint64_t key, uint64_t first, uint32_t *radius, uint32_t *angle)
{
    DS_NO_OVERLAP for (size_t i = 0; i < BATCH / 2; i++)
    {
        const uint32_t counter[4] = {(uint32_t)(first + i), (uint32_t)((first + i) >> 32), 0, 0};
        uint32_t words[4];

        ds_philox(counter, key, words);
        radius[2 * i] = words[0];
        angle[2 * i] = words[1];
        radius[2 * i + 1] = words[2];
        angle[2 * i + 1] = words[3];
    }
}

void ds_random_normal(struct ds_random random, uint64_t start, size_t count, float std, float *to)
{
    uint32_t radius[BATCH], angle[BATCH];

    for (size_t done = 0; done < count;) {
        const size_t odd = (size_t)((start + done) % 2), room = BATCH - odd;
        const size_t part = count - done < room ? count - done : room;

        draw(random.key, (start + done) / 2, radius, angle);
        normal_of_words(radius + odd, angle + odd, part, to + done);
        for (size_t i = done; i < done + part; i++)
            to[i] *= std;
        done += part;
    }
}
