// link: base
/* Weights of 16 bits and their masters: every master is its weight and its correction, every weight the
 * nearest, and rounding by chance is right on average. */
#include "test.h"

#include "dstrain/master.h"
#include "dstrain/tensor.h"

#include <math.h>

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static float weight_value(uint16_t weight)
{
    return float_of((uint32_t)weight << 16);
}

static void expect_pair(uint32_t bits)
{
    const float master = float_of(bits);
    const uint16_t weight = ds_master_weight(master);
    const float joined = ds_master_join(weight, ds_master_remainder(master));

    if (isnan(master))
        assert_true(isnan(weight_value(weight)) && isnan(joined));
    else
        assert_int_equal(ds_master_bits(joined), bits);
}

/* The low halves where rounding changes, for every high half: both zeros, infinity, NaN, subnormal numbers
 * and the largest are among them. All 2^32 with --long. */
static void a_master_is_its_weight_and_its_remainder(void **state)
{
    static const uint32_t lows[] = {0, 1, 2, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff};
    const uint32_t count = sizeof lows / sizeof *lows;
    uint64_t random = test_seed(__func__);

    (void)state;
    for (uint32_t high = 0; high <= 0xffff; high++) {
        for (uint32_t i = 0; i < count; i++)
            expect_pair(high << 16 | lows[i]);
        random = random * 6364136223846793005u + 1442695040888963407u;
        expect_pair(high << 16 | (uint32_t)(random >> 48));
        for (uint32_t low = 0; test_is_long() && low <= 0xffff; low++)
            expect_pair(high << 16 | low);
    }
}

/* As ties to even have it, but for the ties themselves, which go away from zero. */
static void a_weight_is_the_nearest_bf16(void **state)
{
    (void)state;
    for (uint32_t high = 0; high < 0xffff; high++)
        for (uint32_t low = 0; low <= 0xffff; low += low == 0x7ffe || low == 0x7fff ? 1 : 0x7fe) {
            const float master = float_of(high << 16 | low);
            uint16_t even;

            if (isnan(master))
                continue;
            (void)ds_dtype_from_f32(&even, DS_BF16, &master, 1);
            assert_int_equal(ds_master_weight(master), low == 0x8000 ? high + 1 : even);
        }
}

/* Over all 2^16 equally likely numbers the mean is the value itself, exactly. */
static void rounding_by_chance_has_no_bias(void **state)
{
    static const float values[] = {1.0f,      0.3f,  -0.3f, 1.00001f, -123.456f,      3e-39f,
                                   1.17e-38f, 1e30f, 0.0f,  -1e-45f,  0x1.fffffep-1f, -0x1.8001p7f};

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        double sum = 0; /* 2^16 multiples of one power of two, of 8 bits: exact */
        for (uint32_t random = 0; random <= 0xffff; random++)
            sum += weight_value(ds_master_round_randomly(values[i], (uint16_t)random));
        assert_true(sum / 65536 == (double)values[i]);
    }
}

static void what_is_not_finite_stays(void **state)
{
    (void)state;
    for (uint32_t random = 0; random <= 0xffff; random++) {
        const uint16_t number = (uint16_t)random;
        assert_int_equal(ds_master_round_randomly(INFINITY, number), 0x7f80);
        assert_int_equal(ds_master_round_randomly(-INFINITY, number), 0xff80);
        assert_true(isnan(weight_value(ds_master_round_randomly(NAN, number))));
        assert_true(isnan(weight_value(ds_master_round_randomly(float_of(0x7f800001), number))));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_master_is_its_weight_and_its_remainder),
        cmocka_unit_test(a_weight_is_the_nearest_bf16),
        cmocka_unit_test(rounding_by_chance_has_no_bias),
        cmocka_unit_test(what_is_not_finite_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
