/* test_cuda_exact.c - roots and quotients of CUDA's AdamW have the bits of sqrtf and of the division, for any guess
 * that a GPU may have: its own are off by 1 (1/x) or 2 places (1/sqrt(x)) at most. Needs no GPU. */
// link: base
// private: runtime/kernels/cuda
#include "test.h"

#include "exact.h"
#include "kernel_compare.h"

#include <float.h>

#define PLACES 3 /* that a guess is off, both ways */

static float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static float off_by(double exact, int places)
{
    const float nearest = (float)exact;
    uint32_t bits;

    memcpy(&bits, &nearest, sizeof bits);
    return float_of(bits + (uint32_t)places);
}

static void check_root(float x)
{
    const float want = sqrtf(x);

    for (int places = -PLACES; places <= PLACES; places++) {
        const float got = exact_sqrt(x, off_by(1 / sqrt((double)x), places));

        if (got != want)
            fail_msg("root of %a, guess off by %d: %a, not %a", (double)x, places, (double)got,
                     (double)want);
    }
}

/* All mantissas, of an even and an odd exponent: others differ by a power of 4, which changes no rounding. Of them
 * a part, and some known to be hard; DSTRAIN_TEST_LONG: all. */
static void roots_are_rounded_to_nearest(void **state)
{
    const float hard[] = {EXACT_SQUARE_MIN, FLT_MAX,       0x1.fffffep0f, 0x1.fffffep1f, 1.0f, 2.0f,
                          0x1.f82294p0f,    0x1.9a2854p1f, 0x1.b5c076p1f, 0x1.dd26e4p1f};
    uint64_t seed = test_seed(__func__);
    const uint32_t stride = getenv("DSTRAIN_TEST_LONG") ? 1 : 61;

    (void)state;
    for (size_t i = 0; i < sizeof hard / sizeof hard[0]; i++)
        check_root(hard[i]);
    for (uint32_t i = (uint32_t)random_next(&seed) % stride; i < 1u << 24; i += stride)
        check_root(float_of(0x3f800000u + i));
}

static void check_quotient(float a, float b)
{
    const float want = a / b;

    for (int places = -PLACES; places <= PLACES; places++) {
        const float got = exact_divide(a, b, off_by(1 / (double)b, places));

        if (got != want)
            fail_msg("%a / %a, guess off by %d: %a, not %a", (double)a, (double)b, places,
                     (double)got, (double)want);
    }
}

static float random_between(uint64_t *seed, int low, int high)
{
    const uint32_t exponent =
        (uint32_t)(127 + low) + (uint32_t)random_next(seed) % (uint32_t)(high - low);

    return float_of(exponent << 23 | (uint32_t)(random_next(seed) & 0x7fffffu));
}

/* Divisors of all kinds, those with the most ones and the fewest too; dividends whose quotient lies about half way
 * between two numbers. */
static void quotients_are_rounded_to_nearest(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (int i = 0; i < 300000; i++) {
        const float b = i % 4 == 0   ? float_of(0x3fffffffu - (uint32_t)random_next(&seed) % 64)
                        : i % 4 == 1 ? float_of(0x3f800000u + (uint32_t)random_next(&seed) % 64)
                                     : random_between(&seed, -50, 65);
        const float quotient = random_between(&seed, -8, 8);

        check_quotient(random_between(&seed, -60, 60), b);
        check_quotient(-random_between(&seed, -60, 60), b);
        if (b > 0x1p-50f)
            check_quotient((float)((double)b * ((double)quotient * (1 + 0x1p-25))), b);
    }
}

/* What has no quotient in fp32 is seen in the result. */
static void what_overflows_is_not_finite(void **state)
{
    (void)state;
    assert_false(isfinite(exact_divide(FLT_MAX, EXACT_DIVISOR_MIN, 1 / EXACT_DIVISOR_MIN)));
    assert_false(isfinite(exact_divide(INFINITY, 1.0f, 1.0f)));
    assert_false(isfinite(exact_divide(NAN, 1.0f, 1.0f)));
    assert_false(isfinite(exact_sqrt(INFINITY, 0.0f)));
    assert_false(isfinite(exact_sqrt(NAN, NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roots_are_rounded_to_nearest),
        cmocka_unit_test(quotients_are_rounded_to_nearest),
        cmocka_unit_test(what_overflows_is_not_finite),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
