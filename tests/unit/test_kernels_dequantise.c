/* test_kernels_dequantise.c - numbers of quantised matrices: the bits of the formula (dstrain/quant.h), each product
 * and sum rounded to fp32 and the last once more, from any block or number on. */
// link: device kernels base
#include "kernel_case.h"

#include "dstrain/quant.h"

enum form { FLAT, NESTED, INT8, FORM_COUNT };

struct matrix {
    enum form form;
    size_t rows, columns;
    uint8_t *codes, *absmax_codes;
    float *absmax, *nest, *map, *offset;
};

static uint8_t *random_bytes(struct kernel_case *k, size_t count)
{
    uint8_t *bytes = case_bytes(k, count);

    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(case_bits(k) >> 56);
    return bytes;
}

/* Any bytes are codes of some matrix; the map is any, too. */
static struct matrix make(struct kernel_case *k, enum form form, size_t rows, size_t columns)
{
    const size_t elems = rows * columns;
    struct matrix m = {.form = form, .rows = rows, .columns = columns};

    m.codes = random_bytes(k, form == INT8 ? elems : ds_nf4_bytes(elems));
    m.absmax_codes = random_bytes(k, ds_nf4_blocks(elems));
    m.absmax = case_floats(k, form == INT8 ? rows : ds_nf4_blocks(elems));
    m.nest = case_floats(k, ds_nf4_nests(elems));
    m.map = case_floats(k, DS_QUANT_MAP);
    m.offset = case_floats(k, 1);
    return m;
}

static struct ds_dequantise_args args_of(const struct matrix *m, struct ds_tensor y, size_t start)
{
    const size_t elems = m->rows * m->columns, blocks = ds_nf4_blocks(elems);
    struct ds_dequantise_args a = {.y = y, .start = start, .columns = m->columns};

    a.codes = m->form == INT8 ? ds_tensor1(m->codes, DS_I8, elems)
                              : ds_tensor1(m->codes, DS_U8, ds_nf4_bytes(elems));
    a.absmax = f32_1(m->absmax, m->form == INT8 ? m->rows : blocks);
    if (m->form == NESTED) {
        a.absmax = ds_tensor1(m->absmax_codes, DS_U8, blocks);
        a.nest_absmax = f32_1(m->nest, ds_nf4_nests(elems));
        a.map = f32_1(m->map, DS_QUANT_MAP);
        a.offset = f32_1(m->offset, 1);
    }
    return a;
}

/* The product of two floats is exact in fp64, so it is rounded once. */
static float product(float a, float b)
{
    return (float)((double)a * b);
}

static float wanted(const struct matrix *m, size_t i)
{
    static const float levels[] = DS_NF4_LEVELS;
    const size_t block = i / 64;

    if (m->form == INT8)
        return product(product((int8_t)m->codes[i], m->absmax[i / m->columns]),
                       0.007874015718698502f);
    const float absmax =
        m->form == FLAT
            ? m->absmax[block]
            : product(m->map[m->absmax_codes[block]], m->nest[block / 256]) + m->offset[0];
    return product(levels[i % 2 ? m->codes[i / 2] & 15 : m->codes[i / 2] >> 4], absmax);
}

/* `count` numbers from `start` on, to memory that is `shift` elements off. */
static void check(struct kernel_case *k, const struct matrix *m, enum ds_dtype dtype, size_t start,
                  size_t count, size_t shift)
{
    const size_t bytes = ds_dtype_bytes(dtype);
    uint8_t *memory = case_bytes(k, (count + shift) * bytes), *want = case_bytes(k, count * bytes);
    struct ds_dequantise_args a =
        args_of(m, ds_tensor1(memory + shift * bytes, dtype, count), start);

    for (size_t i = 0; i < count; i++) {
        const float x = wanted(m, start + i);

        assert_true(ds_dtype_from_f32(want + i * bytes, dtype, &x, 1));
    }
    assert_ok(CASE_RUN(dequantise, &a));
    assert_memory_equal(memory + shift * bytes, want, count * bytes);
}

static void every_number_has_the_bits_of_the_formula(void **state)
{
    static const size_t shapes[][2] = {{1, 1}, {3, 7}, {2, 64}, {5, 100}, {129, 256}, {77, 333}};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(shapes, s)
    {
        for (int form = 0; form < FORM_COUNT; form++) {
            for (int d = 0; d < 3; d++)
                for (size_t shift = 0; shift < 2; shift++) {
                    const struct matrix m = make(&k, (enum form)form, shapes[s][0], shapes[s][1]);

                    check(&k, &m, case_dtypes[d], 0, m.rows * m.columns, shift);
                    case_free(&k);
                }
        }
    }
}

/* A matrix of several nests: parts of it, as they lie in slots and as ranks have them. */
static void parts_are_those_of_the_whole(void **state)
{
    static const size_t shapes[][2] = {{300, 256}, {257, 200}};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    for (int trial = 0; trial < 60; trial++) {
        const enum form form = (enum form)(trial % FORM_COUNT);
        const struct matrix m = make(&k, form, shapes[trial / 3 % 2][0], shapes[trial / 3 % 2][1]);
        const size_t elems = m.rows * m.columns, align = form == INT8 ? 1 : DS_NF4_BLOCK;
        const size_t start = case_bits(&k) % elems / align * align;
        const size_t count = case_bits(&k) % (elems - start) + 1;

        check(&k, &m, case_dtypes[trial % 5 % 3], start, count, 0);
        case_free(&k);
    }
}

/* What a tensor rank has of a matrix: whole blocks of each row, and the scales of all of them. */
static void a_part_has_the_scales_of_the_whole(void **state)
{
    const size_t rows = 150, columns = 512, parts = 4, width = columns / parts;
    struct kernel_case k = {.random = test_seed(__func__)};
    const struct matrix m = make(&k, NESTED, rows, columns);

    (void)state;
    for (size_t part = 0; part < parts; part++) {
        struct matrix cut = m;
        float *y = case_floats(&k, rows * width);

        cut.columns = width;
        cut.codes = case_bytes(&k, rows * width / 2);
        cut.absmax_codes = case_bytes(&k, rows * width / 64);
        for (size_t row = 0; row < rows; row++) {
            const size_t from = row * columns + part * width;

            memcpy(cut.codes + row * width / 2, m.codes + from / 2, width / 2);
            memcpy(cut.absmax_codes + row * width / 64, m.absmax_codes + from / 64, width / 64);
        }
        struct ds_dequantise_args a = args_of(&cut, f32_1(y, rows * width), 0);
        a.nest_absmax = f32_1(m.nest, ds_nf4_nests(rows * columns));
        a.first_block = part * width / 64;
        a.row_blocks = width / 64;
        a.whole_row_blocks = columns / 64;
        assert_ok(CASE_RUN(dequantise, &a));
        for (size_t i = 0; i < rows * width; i++)
            assert_true(y[i] == wanted(&m, i / width * columns + part * width + i % width));
    }
    case_free(&k);
}

/* No thread sees another's. */
static void run_threads(uint64_t seed, size_t row, void *out)
{
    struct kernel_case k = {.random = seed};
    const struct matrix m = make(&k, (enum form)row, 100, 321);
    const struct ds_dequantise_args a = args_of(&m, ds_tensor1(out, DS_BF16, 100 * 321), 0);

    assert_ok(CASE_RUN(dequantise, &a));
    case_free(&k);
}

static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    for (size_t form = 0; form < FORM_COUNT; form++)
        case_assert_threads_agree(run_threads, test_seed(__func__), form, 100 * 321 * 2);
}

static void what_cannot_be_dequantised_is_refused(void **state)
{
    struct kernel_case k = {.random = 1};
    const struct matrix m = make(&k, NESTED, 2, 64);
    struct ds_tensor y = ds_tensor1(case_bytes(&k, 1024), DS_BF16, 128);
    struct ds_dequantise_args a = args_of(&m, y, 0);

    (void)state;
    a.y.dtype = DS_I32;
    assert_int_equal(CASE_RUN(dequantise, &a), DS_ERR_UNSUPPORTED);
    a = args_of(&m, y, 0);
    a.codes.dtype = DS_BOOL;
    assert_int_equal(CASE_RUN(dequantise, &a), DS_ERR_UNSUPPORTED);
    a = args_of(&m, y, 0);
    a.absmax.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(dequantise, &a), DS_ERR_UNSUPPORTED);
    a = args_of(&m, y, 0);
    a.map.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(dequantise, &a), DS_ERR_UNSUPPORTED);
    case_free(&k);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_has_the_bits_of_the_formula),
        cmocka_unit_test(parts_are_those_of_the_whole),
        cmocka_unit_test(a_part_has_the_scales_of_the_whole),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(what_cannot_be_dequantised_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
