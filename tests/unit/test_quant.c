// link: base
/* NF4 and int8 as numbers: the codes that bitsandbytes gives, the nearest of what can be stored, and back again from
 * any place on. */
#include "kernel_compare.h"
#include "test.h"

#include "dstrain/quant.h"

#include <math.h>

#define ROWS    320u
#define COLUMNS 128u
#define ELEMS   (ROWS * COLUMNS)
#define BLOCKS  (ELEMS / DS_NF4_BLOCK)

static float *floats(size_t count)
{
    float *x = malloc(count * sizeof *x);

    assert_non_null(x);
    return x;
}

/* ---- vectors: bitsandbytes 0.50.2 on a cpu was given this matrix */

static float *the_matrix(void)
{
    uint64_t state = 1;
    float *x = floats(ELEMS);

    for (size_t i = 0; i < ELEMS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)((int64_t)(state >> 40) - (1 << 23)) * 0x1p-23);
        x[i] *= (float)(i / COLUMNS % 7 + 1) / 8;
    }
    return x;
}

static uint64_t hash_as(enum ds_dtype dtype, const float *x)
{
    void *stored = malloc(ELEMS * sizeof(float));
    uint64_t hash;

    assert_non_null(stored);
    assert_true(ds_dtype_from_f32(stored, dtype, x, ELEMS));
    hash = bits_hash(stored, ELEMS * ds_dtype_bytes(dtype));
    free(stored);
    return hash;
}

static void nf4_is_that_of_bitsandbytes(void **state)
{
    static const uint8_t first[] = {87, 180, 215, 128, 226, 200, 211, 45};
    float *x = the_matrix(), *absmax = floats(BLOCKS), *back = floats(ELEMS);
    uint8_t *codes = malloc(ELEMS / 2);

    (void)state;
    assert_int_equal(ds_nf4_quantise(x, ELEMS, codes, absmax), ELEMS);
    assert_memory_equal(codes, first, sizeof first);
    assert_true(bits_hash(codes, ELEMS / 2) == 0x39bd8de28baf2615u);
    assert_true(bits_hash(absmax, BLOCKS * sizeof *absmax) == 0x4713cb98c9cab827u);
    ds_dequantise(&(struct ds_quantised){.kind = DS_QUANT_NF4, .absmax = absmax}, codes, 0, ELEMS,
                  back);
    assert_true(hash_as(DS_F32, back) == 0x625a939e9de1dd92u);
    assert_true(hash_as(DS_BF16, back) == 0x923e70ab34ddd9d5u);
    assert_true(hash_as(DS_F16, back) == 0x7a27c70803b6ac45u);
    free(x);
    free(absmax);
    free(back);
    free(codes);
}

/* bitsandbytes makes its map, and the mean, in fp32, and the last bit depends on the processor: it was given those of
 * here. */
static void nested_absmax_are_those_of_bitsandbytes(void **state)
{
    static const uint8_t first[] = {3, 3, 25, 26, 49, 49, 106, 160, 206, 206, 229, 231};
    static const float nest_wanted[] = {0x1.89f6f2p-2f, 0x1.89d26ap-2f, 0x1.897a4ap-2f};
    float *x = the_matrix(), *absmax = floats(BLOCKS), *back = floats(ELEMS);
    float map[DS_QUANT_MAP], nest[3], offset;
    uint8_t *codes = malloc(ELEMS / 2), *absmax_codes = malloc(BLOCKS);

    (void)state;
    ds_quant_map(map);
    assert_true(bits_hash(map, sizeof map) == 0x1e28a45b2a45b220u);
    assert_int_equal(ds_nf4_quantise(x, ELEMS, codes, absmax), ELEMS);
    ds_nf4_nest(absmax, BLOCKS, map, absmax_codes, nest, &offset);
    assert_true(offset == 0x1.f5ef52p-2f);
    assert_memory_equal(nest, nest_wanted, sizeof nest);
    assert_memory_equal(absmax_codes, first, sizeof first);
    assert_true(bits_hash(absmax_codes, BLOCKS) == 0x7b3b91087a0c8bffu);
    ds_dequantise(&(struct ds_quantised){.kind = DS_QUANT_NF4,
                                         .absmax_codes = absmax_codes,
                                         .nest_absmax = nest,
                                         .map = map,
                                         .offset = offset},
                  codes, 0, ELEMS, back);
    assert_true(hash_as(DS_F32, back) == 0x51ed8f9dcf893f10u);
    assert_true(hash_as(DS_BF16, back) == 0x7d656a15b788349au);
    assert_true(hash_as(DS_F16, back) == 0x78fe1de83b2c9b42u);
    free(x);
    free(absmax);
    free(back);
    free(codes);
    free(absmax_codes);
}

static void int8_is_that_of_bitsandbytes(void **state)
{
    static const int8_t first[] = {-20, 2, 38, -30, 76, 0, 14, -111, 87, -77, 63, 9};
    float *x = the_matrix(), *absmax = floats(ROWS), *back = floats(ELEMS);
    int8_t *codes = malloc(ELEMS);

    (void)state;
    assert_int_equal(ds_int8_quantise(x, ROWS, COLUMNS, codes, absmax), ELEMS);
    assert_memory_equal(codes, first, sizeof first);
    assert_true(bits_hash(codes, ELEMS) == 0xbd1b4c40e924f676u);
    assert_true(bits_hash(absmax, ROWS * sizeof *absmax) == 0xa463c13748aa1c23u);
    ds_dequantise(
        &(struct ds_quantised){.kind = DS_QUANT_INT8, .columns = COLUMNS, .absmax = absmax}, codes,
        0, ELEMS, back);
    assert_true(hash_as(DS_F32, back) == 0xa4fa3c71d1f0ef27u);
    free(x);
    free(absmax);
    free(back);
    free(codes);
}

/* ---- properties */

static void the_map_rises_and_is_even_but_for_its_ends(void **state)
{
    float map[DS_QUANT_MAP];

    (void)state;
    ds_quant_map(map);
    for (size_t i = 1; i < DS_QUANT_MAP; i++)
        assert_true(map[i - 1] < map[i]);
    for (size_t i = 0; i < 127; i++)
        assert_true(map[i] == -map[254 - i]);
    assert_true(map[127] == 0 && map[255] == 1);
    assert_true(map[0] == -0.99296875f && map[128] == 5.5e-7f);
}

/* In fp64: no other level is nearer, but by what rounding may hide. */
static void every_code_is_the_nearest_level(void **state)
{
    static const float levels[] = DS_NF4_LEVELS;
    const size_t count = 4096 + 31;
    float *x = random_floats(count, test_seed(__func__)), *absmax = floats(ds_nf4_blocks(count));
    uint8_t *codes = malloc(ds_nf4_bytes(count));

    (void)state;
    for (size_t i = 0; i < count; i++)
        x[i] = ldexpf(x[i], (int)(i / DS_NF4_BLOCK % 9) * 10 - 40);
    assert_int_equal(ds_nf4_quantise(x, count, codes, absmax), count);
    for (size_t i = 0; i < count; i++) {
        const double most = absmax[i / DS_NF4_BLOCK], scaled = x[i] / most;
        const size_t code = i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4;

        assert_true(fabs(scaled) <= 1);
        for (size_t other = 0; other < 16; other++)
            assert_true(fabs(levels[code] - scaled) <= fabs(levels[other] - scaled) + 1e-6);
    }
    assert_int_equal(codes[count / 2] & 15, 7); /* nothing's partner is 0 */
    free(x);
    free(absmax);
    free(codes);
}

static void int8_is_off_by_half_a_step_at_most(void **state)
{
    const size_t rows = 37, columns = 101;
    float *x = random_floats(rows * columns, test_seed(__func__)), *absmax = floats(rows);
    float *back = floats(rows * columns);
    int8_t *codes = malloc(rows * columns);

    (void)state;
    for (size_t i = 0; i < rows * columns; i++)
        x[i] = ldexpf(x[i], (int)(i / columns) - 20);
    assert_int_equal(ds_int8_quantise(x, rows, columns, codes, absmax), rows * columns);
    ds_dequantise(
        &(struct ds_quantised){.kind = DS_QUANT_INT8, .columns = columns, .absmax = absmax}, codes,
        0, rows * columns, back);
    for (size_t i = 0; i < rows * columns; i++) {
        const double step = absmax[i / columns] / 127.0;

        assert_true(fabs((double)x[i] - back[i]) <= step * (0.5 + 1e-4));
    }
    free(x);
    free(absmax);
    free(back);
    free(codes);
}

/* What is exact already stays as it is: the same codes, the same absmax. */
static void quantising_twice_is_quantising_once(void **state)
{
    const size_t count = 64 * 200;
    float *x = random_floats(count, test_seed(__func__)), *absmax = floats(count / 64);
    float *back = floats(count), *again_absmax = floats(count / 64);
    uint8_t *codes = malloc(count / 2), *again = malloc(count / 2);

    (void)state;
    assert_int_equal(ds_nf4_quantise(x, count, codes, absmax), count);
    ds_dequantise(&(struct ds_quantised){.kind = DS_QUANT_NF4, .absmax = absmax}, codes, 0, count,
                  back);
    assert_int_equal(ds_nf4_quantise(back, count, again, again_absmax), count);
    assert_memory_equal(again, codes, count / 2);
    assert_memory_equal(again_absmax, absmax, count / 64 * sizeof *absmax);
    free(x);
    free(absmax);
    free(back);
    free(again_absmax);
    free(codes);
    free(again);
}

/* Every nested absmax is the nearest that there is: an eighth of the last decade's width, or less. */
static void nested_absmax_are_near(void **state)
{
    const size_t blocks = 1000;
    float *absmax = random_floats(blocks, test_seed(__func__)), nest[4], map[DS_QUANT_MAP], offset;
    uint8_t codes[1000];
    double sum = 0;

    (void)state;
    for (size_t i = 0; i < blocks; i++)
        sum += absmax[i] = fabsf(absmax[i]);
    ds_quant_map(map);
    ds_nf4_nest(absmax, blocks, map, codes, nest, &offset);
    assert_true(fabs(offset - sum / blocks) <= 1e-7);
    for (size_t i = 0; i < blocks; i++) {
        const double got = (double)map[codes[i]] * nest[i / DS_NF4_NEST] + offset;

        assert_true(fabs(got - absmax[i]) <= nest[i / DS_NF4_NEST] * (0.9 / 64 / 2 + 1e-5));
    }
    free(absmax);
}

/* All equal: nothing is left to nest. */
static void equal_absmax_come_back_exactly(void **state)
{
    float absmax[300], nest[2], map[DS_QUANT_MAP], offset;
    uint8_t codes[300];

    (void)state;
    for (size_t i = 0; i < 300; i++)
        absmax[i] = 0.75f;
    ds_quant_map(map);
    ds_nf4_nest(absmax, 300, map, codes, nest, &offset);
    for (size_t i = 0; i < 300; i++)
        assert_true(map[codes[i]] * nest[i / DS_NF4_NEST] + offset == 0.75f);
}

/* A matrix is the same whether it is brought back at once or from any place on. */
static void parts_are_those_of_the_whole(void **state)
{
    const size_t rows = 7, columns = 333, count = rows * columns; /* the last block is short */
    uint64_t seed = test_seed(__func__);
    float *x = random_floats(count, seed), *absmax = floats(ds_nf4_blocks(count));
    float *whole = floats(count), *part = floats(count);
    uint8_t *codes = malloc(count);

    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        const struct ds_quantised m = {
            .kind = (enum ds_quant_kind)kind, .columns = columns, .absmax = absmax};
        const uint64_t done = kind == DS_QUANT_NF4
                                  ? ds_nf4_quantise(x, count, codes, absmax)
                                  : ds_int8_quantise(x, rows, columns, (int8_t *)codes, absmax);

        assert_int_equal(done, count);
        ds_dequantise(&m, codes, 0, count, whole);
        for (int trial = 0; trial < 200; trial++) {
            const size_t align = kind == DS_QUANT_NF4 ? DS_NF4_BLOCK : 1;
            const size_t start = random_next(&seed) % count / align * align;
            const size_t some = random_next(&seed) % (count - start) + 1;

            ds_dequantise(&m, codes + (kind == DS_QUANT_NF4 ? start / 2 : start), start, some,
                          part);
            assert_memory_equal(part, whole + start, some * sizeof *part);
        }
    }
    free(x);
    free(absmax);
    free(whole);
    free(part);
    free(codes);
}

static void zeros_and_the_smallest_numbers_come_back(void **state)
{
    static const float sizes[] = {0, 0x1p-149f, 0x1p-130f, 1e-38f, 2e-37f, 1e30f};
    float x[DS_NF4_BLOCK], back[DS_NF4_BLOCK], absmax;
    int8_t codes[DS_NF4_BLOCK];

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int kind = 0; kind < 2; kind++) {
            const struct ds_quantised m = {
                .kind = (enum ds_quant_kind)kind, .columns = DS_NF4_BLOCK, .absmax = &absmax};

            for (size_t i = 0; i < DS_NF4_BLOCK; i++)
                x[i] = sizes[s] * (float)((int)(i % 3) - 1);
            if (kind == DS_QUANT_NF4)
                assert_int_equal(ds_nf4_quantise(x, DS_NF4_BLOCK, (uint8_t *)codes, &absmax),
                                 DS_NF4_BLOCK);
            else
                assert_int_equal(ds_int8_quantise(x, 1, DS_NF4_BLOCK, codes, &absmax),
                                 DS_NF4_BLOCK);
            ds_dequantise(&m, codes, 0, DS_NF4_BLOCK, back);
            for (size_t i = 0; i < DS_NF4_BLOCK; i++) {
                assert_true(isfinite(back[i]));
                assert_true(x[i] != 0 || back[i] == 0);
                assert_true(fabs((double)x[i] - back[i]) <= sizes[s] * 1e-6 + 1e-36);
            }
        }
}

static void what_is_not_finite_is_found(void **state)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    const size_t count = 1000;
    uint64_t seed = test_seed(__func__);
    float *x = random_floats(count, seed), absmax[100];
    uint8_t codes[1000];

    (void)state;
    for (size_t i = 0; i < 30; i++) {
        const size_t at = random_next(&seed) % count;
        const float kept = x[at];

        x[at] = bad[i % 3];
        assert_int_equal(ds_nf4_quantise(x, count, codes, absmax), at);
        assert_int_equal(ds_int8_quantise(x, 10, 100, (int8_t *)codes, absmax), at);
        x[at] = kept;
    }
    free(x);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(nf4_is_that_of_bitsandbytes),
        cmocka_unit_test(nested_absmax_are_those_of_bitsandbytes),
        cmocka_unit_test(int8_is_that_of_bitsandbytes),
        cmocka_unit_test(the_map_rises_and_is_even_but_for_its_ends),
        cmocka_unit_test(every_code_is_the_nearest_level),
        cmocka_unit_test(int8_is_off_by_half_a_step_at_most),
        cmocka_unit_test(quantising_twice_is_quantising_once),
        cmocka_unit_test(nested_absmax_are_near),
        cmocka_unit_test(equal_absmax_come_back_exactly),
        cmocka_unit_test(parts_are_those_of_the_whole),
        cmocka_unit_test(zeros_and_the_smallest_numbers_come_back),
        cmocka_unit_test(what_is_not_finite_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
