// link: comm device kernels base
// private: runtime/comm
/* test_comm_narrow.c - the loops that widen and round 16-bit floats inside a sum give what a
 * conversion of one element gives (test_base.c says which that is), whatever the processor; and a sum of them is
 * rounded once. */
#include "dstrain/narrow.h"

#include "combine.h"
#include "dstrain/tensor.h"
#include "test.h"

#include <math.h>

#define HALVES 65536

typedef void widen_fn(float *to, const uint16_t *from, size_t count);
typedef void narrow_fn(uint16_t *to, const float *from, size_t count);

struct kind {
    enum ds_dtype dtype;
    widen_fn *widen;
    narrow_fn *narrow;
};

static const struct kind kinds[] = {{DS_BF16, ds_bf16_widen, ds_bf16_narrow},
                                    {DS_F16, ds_f16_widen, ds_f16_narrow}};

static void every_half_is_widened_to_its_value(void **state)
{
    static uint16_t halves[HALVES];
    static float got[HALVES], want[HALVES];

    (void)state;
    for (uint32_t i = 0; i < HALVES; i++)
        halves[i] = (uint16_t)i;
    for (int k = 0; k < 2; k++) {
        kinds[k].widen(got, halves, HALVES);
        for (uint32_t i = 0; i < HALVES; i++)
            assert_true(ds_dtype_to_f32(&want[i], &halves[i], kinds[k].dtype, 1));
        for (uint32_t i = 0; i < HALVES; i++)
            if (isnan(want[i]))
                assert_true(isnan(got[i]));
            else
                assert_memory_equal(&got[i], &want[i], sizeof got[i]);
    }
}

/* What lies around `value`, and around the middle between it and the next one. */
static size_t borders(float value, float next, float *to)
{
    const float middle = (float)(((double)value + next) / 2);
    const float around[] = {value, middle};
    size_t count = 0;

    for (int i = 0; i < 2; i++) {
        to[count++] = nextafterf(around[i], -INFINITY);
        to[count++] = around[i];
        to[count++] = nextafterf(around[i], INFINITY);
    }
    return count;
}

static void every_border_is_rounded_to_nearest_even(void **state)
{
    static uint16_t got[6 * HALVES], want[6 * HALVES];
    static float values[6 * HALVES];

    (void)state;
    for (int k = 0; k < 2; k++) {
        size_t count = 0;

        for (uint32_t i = 0; i < HALVES; i++) {
            const uint16_t pair[2] = {(uint16_t)i, (uint16_t)(i + 1)};
            float value[2];

            (void)ds_dtype_to_f32(value, pair, kinds[k].dtype, 2);
            count += borders(value[0], value[1], values + count);
        }
        kinds[k].narrow(got, values, count);
        for (size_t i = 0; i < count; i++)
            assert_true(ds_dtype_from_f32(&want[i], kinds[k].dtype, &values[i], 1));
        for (size_t i = 0; i < count; i++)
            if (!isnan(values[i]))
                assert_int_equal(got[i], want[i]);
    }
}

static void what_is_no_number_stays_none(void **state)
{
    const uint32_t bits[] = {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xff801000u, 0x7fffffffu};
    uint16_t half;
    float value, back;

    (void)state;
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++)
        for (int k = 0; k < 2; k++) {
            memcpy(&value, &bits[i], sizeof value);
            kinds[k].narrow(&half, &value, 1);
            (void)ds_dtype_to_f32(&back, &half, kinds[k].dtype, 1);
            assert_true(isnan(back));
        }
}

/* 1 + 2^-8 + 2^-8: bf16 in between would give 1 twice. */
static void a_sum_is_rounded_once(void **state)
{
    const uint16_t parts[3] = {0x3f80, 0x3b80, 0x3b80};
    const struct combine_parts ranks = {.base = (const uint8_t *)parts,
                                        .stride = 2,
                                        .own = &parts[1],
                                        .own_rank = 1,
                                        .rank_count = 3};
    uint16_t sum = 0;

    (void)state;
    combine_ranks(combine_find(DS_BF16, DS_REDUCE_SUM), &sum, &ranks, 1);
    assert_int_equal(sum, 0x3f81);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_is_widened_to_its_value),
        cmocka_unit_test(every_border_is_rounded_to_nearest_even),
        cmocka_unit_test(what_is_no_number_stays_none),
        cmocka_unit_test(a_sum_is_rounded_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
