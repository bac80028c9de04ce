// link: base
// private: runtime/base
/* test_random.c - random numbers are a function of position, and permutations are bijections. */
#include "normal.h"

#include "dstrain/random.h"
#include "test.h"

#include <math.h>

/* From the known answers that the authors of Philox publish with Random123 (kat_vectors). */
static void philox_gives_the_published_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } answers[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    uint32_t got[4];

    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        ds_random_philox(answers[i].counter, answers[i].key[0] | (uint64_t)answers[i].key[1] << 32,
                         got);
        assert_memory_equal(got, answers[i].want, sizeof got);
    }
}

static void words_are_those_of_the_block_at_their_position(void **state)
{
    const struct ds_random random = {0x0123456789abcdefu};
    const uint64_t starts[] = {0, 4, 1000, (uint64_t)1 << 34, UINT64_MAX - 3};

    (void)state;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        uint64_t block = starts[s] / 4;
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), 0, 0};
        uint32_t want[4];

        ds_random_philox(counter, random.key, want);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(ds_random_u32(random, starts[s] + i), want[i]);
    }
    for (uint64_t i = 0; i < 100; i++)
        assert_true(ds_random_u64(random, i) == (ds_random_u32(random, 2 * i) |
                                                 (uint64_t)ds_random_u32(random, 2 * i + 1) << 32));
}

static void seeds_streams_and_details_draw_differently(void **state)
{
    uint64_t keys[3 * 7 * 10];
    size_t count = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++)
        for (int stream = DS_RANDOM_INIT; stream <= DS_RANDOM_ROUND; stream++)
            for (uint64_t detail = 0; detail < 10; detail++)
                keys[count++] = ds_random_of(seed, (enum ds_random_stream)stream, detail).key;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(keys[i] != keys[j]);
}

static void units_and_bounded_numbers_stay_in_range_and_are_even(void **state)
{
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 0);
    unsigned hits[10] = {0};
    double sum = 0;

    (void)state;
    for (uint64_t i = 0; i < 100000; i++) {
        double unit = ds_random_unit(random, i);

        assert_true(unit >= 0 && unit < 1);
        sum += unit;
        hits[ds_random_below(random, i, 10)]++;
        assert_int_equal(ds_random_below(random, i, 1), 0);
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.006); /* 6.5 sigma */
    for (int i = 0; i < 10; i++)
        assert_true(fabs(hits[i] - 10000.0) < 650); /* 6.8 sigma */
}

static void normals_do_not_depend_on_where_a_range_starts(void **state)
{
    const struct ds_random random = ds_random_of(5, DS_RANDOM_INIT, 3);
    float whole[64], part[64];

    (void)state;
    ds_random_normal(random, 1000, 64, 0.02f, whole);
    for (size_t start = 0; start < 64; start++)
        for (size_t count = 0; start + count <= 64; count++) {
            ds_random_normal(random, 1000 + start, count, 0.02f, part);
            assert_memory_equal(part, whole + start, count * sizeof *part);
        }
}

/* Words around every quarter turn, and the first and last of them, beside words by chance. */
static void normals_are_those_of_libm(void **state)
{
    enum { COUNT = 1 << 18 };
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 2);
    uint32_t *radius = malloc(COUNT * sizeof *radius), *angle = malloc(COUNT * sizeof *angle);
    float *got = malloc(COUNT * sizeof *got);

    (void)state;
    assert_true(radius && angle && got);
    for (int kind = 0; kind < 5; kind++) {
        for (uint32_t i = 0; i < COUNT; i++) {
            const uint32_t turn = i % 8 * (1u << 29) + i / 8 - COUNT / 16;

            radius[i] = kind == 0 ? i : kind == 1 ? UINT32_MAX - i : ds_random_u32(random, i);
            angle[i] = kind == 4   ? (1u << 30) + (i << 31) /* where cosines are 0 */
                       : kind == 3 ? ds_random_u32(random, COUNT + i)
                                   : turn;
        }
        normal_of_words(radius, angle, COUNT, got);
        for (uint32_t i = 0; i < COUNT; i++)
            if (got[i] != normal_of_libm(radius[i], angle[i]))
                fail_msg("words %08x %08x: %a and not %a", radius[i], angle[i], (double)got[i],
                         (double)normal_of_libm(radius[i], angle[i]));
    }
    free(radius);
    free(angle);
    free(got);
}

static void a_normal_is_made_of_the_two_words_of_its_place(void **state)
{
    const struct ds_random random = ds_random_of(6, DS_RANDOM_INIT, 4);
    float x[700];

    (void)state;
    ds_random_normal(random, UINT64_C(0x1fffffff3), 700, 0.02f,
                     x); /* over a carry of the counter */
    for (uint64_t i = 0; i < 700; i++) {
        const uint64_t at = 2 * (UINT64_C(0x1fffffff3) + i);

        assert_true(x[i] == 0.02f * normal_of_libm(ds_random_u32(random, at),
                                                   ds_random_u32(random, at + 1)));
    }
}

/* The first four moments of N(0, 9), and that neighbours know nothing of each other. */
static void normals_have_the_moments_of_a_normal_distribution(void **state)
{
    enum { COUNT = 400000 };
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 1);
    float *x = malloc(COUNT * sizeof *x);
    double moment[5] = {0}, neighbours = 0;

    (void)state;
    assert_non_null(x);
    ds_random_normal(random, 0, COUNT, 3.0f, x);
    for (size_t i = 0; i < COUNT; i++) {
        double z = x[i] / 3.0;

        assert_true(isfinite(z) && fabs(z) < 7);
        for (int k = 1; k <= 4; k++)
            moment[k] += pow(z, k) / COUNT;
        neighbours += i > 0 ? z * x[i - 1] / 3.0 / COUNT : 0;
    }
    free(x);
    assert_true(fabs(moment[1]) < 0.01); /* 6 sigma, all of them */
    assert_true(fabs(moment[2] - 1) < 0.014);
    assert_true(fabs(moment[3]) < 0.037);
    assert_true(fabs(moment[4] - 3) < 0.095);
    assert_true(fabs(neighbours) < 0.01);
}

/* One word in 2^32 is 0, whose logarithm is not a number to train with. With key 0 it is the first
 * word of element 6461483181. */
static void a_word_of_zero_gives_a_finite_normal(void **state)
{
    const struct ds_random random = {0};
    const uint64_t index = UINT64_C(6461483181);
    float x = 0;

    (void)state;
    assert_int_equal(ds_random_u32(random, 2 * index), 0);
    ds_random_normal(random, index, 1, 1.0f, &x);
    assert_true(isfinite(x) && fabsf(x) > 6.5f && fabsf(x) < 7.0f);
}

static void assert_bijection(struct ds_random random, uint64_t count)
{
    uint8_t *seen = calloc(count, 1);

    assert_non_null(seen);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t to = ds_random_permute(random, i, count);

        assert_true(to < count);
        assert_false(seen[to]);
        seen[to] = 1;
    }
    free(seen);
}

static void permutations_are_bijections_for_every_count(void **state)
{
    const uint64_t seed = test_seed(__func__);
    const uint64_t big[] = {1023, 1024, 1025, 4095, 4097, 65535, 65536, 65537, 300007};

    (void)state;
    for (uint64_t count = 1; count <= 500; count++)
        for (uint64_t detail = 0; detail < 3; detail++)
            assert_bijection(ds_random_of(seed, DS_RANDOM_SHUFFLE, detail), count);
    for (size_t i = 0; i < sizeof big / sizeof *big; i++)
        assert_bijection(ds_random_of(seed, DS_RANDOM_SHUFFLE, i), big[i]);
}

static void huge_permutations_stay_in_range_and_do_not_collide(void **state)
{
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_SHUFFLE, 9);
    const uint64_t counts[] = {((uint64_t)1 << 40) + 1, ((uint64_t)1 << 62) + 1, UINT64_MAX};
    uint64_t to[300];

    (void)state;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (size_t i = 0; i < 300; i++) {
            to[i] = ds_random_permute(random, i, counts[c]);
            assert_true(to[i] < counts[c]);
            for (size_t j = 0; j < i; j++)
                assert_true(to[i] != to[j]);
        }
}

/* Where does an element land? Over many keys: everywhere, equally often. */
static void permutations_move_every_element_everywhere(void **state)
{
    enum { COUNT = 7, KEYS = 14000 };
    const uint64_t seed = test_seed(__func__);
    unsigned hits[COUNT][COUNT] = {{0}};

    (void)state;
    for (uint64_t key = 0; key < KEYS; key++)
        for (uint64_t i = 0; i < COUNT; i++)
            hits[i][ds_random_permute(ds_random_of(seed, DS_RANDOM_SHUFFLE, key), i, COUNT)]++;
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++)
            assert_true(fabs(hits[i][j] - 2000.0) < 290); /* 7 sigma */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(words_are_those_of_the_block_at_their_position),
        cmocka_unit_test(seeds_streams_and_details_draw_differently),
        cmocka_unit_test(units_and_bounded_numbers_stay_in_range_and_are_even),
        cmocka_unit_test(normals_do_not_depend_on_where_a_range_starts),
        cmocka_unit_test(normals_are_those_of_libm),
        cmocka_unit_test(a_normal_is_made_of_the_two_words_of_its_place),
        cmocka_unit_test(normals_have_the_moments_of_a_normal_distribution),
        cmocka_unit_test(a_word_of_zero_gives_a_finite_normal),
        cmocka_unit_test(permutations_are_bijections_for_every_count),
        cmocka_unit_test(huge_permutations_stay_in_range_and_do_not_collide),
        cmocka_unit_test(permutations_move_every_element_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
