/* test_kernels_dora.c - lengths of rows beside factors, what columns are multiplied by and the products of DoRA's
 * magnitudes, against fp64; and the same bits whatever the number of threads and of rows beside. */
// link: device kernels base
#include "kernel_case.h"

#include <math.h>

static const struct {
    size_t rows, columns, ranks;
} shapes[] = {{1, 1, 1},     {3, 7, 0},    {9, 64, 2},   {33, 511, 5},
              {5, 1300, 16}, {17, 40, 70}, {8, 513, 130}};

static void check_squares(struct kernel_case *k, size_t rows, size_t columns, size_t ranks)
{
    float *w = case_floats(k, rows * columns), *a = case_floats(k, ranks * columns + 1);
    float *b = case_floats(k, rows * ranks + 1), *got = case_floats(k, rows);
    struct ds_row_squares_args args = {
        .w_OI = f32_2(w, rows, columns), .squares_O = f32_1(got, rows), .scale = 1.75f};

    if (ranks > 0) {
        args.a_RI = f32_2(a, ranks, columns);
        args.b_OR = f32_2(b, rows, ranks);
        case_store(k, &args.a_RI);
        case_store(k, &args.b_OR);
    }
    case_store(k, &args.w_OI);
    assert_ok(CASE_RUN(row_squares, &args));
    case_load(k);
    for (size_t row = 0; row < rows; row++) {
        double want = 0, size = 0;

        for (size_t i = 0; i < columns; i++) {
            double sum = w[row * columns + i], terms = fabs(sum);
            for (size_t r = 0; r < ranks; r++) {
                sum += 1.75 * (double)b[row * ranks + r] * (double)a[r * columns + i];
                terms += fabs(1.75 * (double)b[row * ranks + r] * (double)a[r * columns + i]);
            }
            want += sum * sum;
            size += terms * terms;
        }
        if (!(fabs((double)got[row] - want) <= 2e-6 * size))
            fail_msg("%zu x %zu, rank %zu: row %zu is %.9g, not %.9g", rows, columns, ranks, row,
                     (double)got[row], want);
    }
    case_free(k);
}

static void rows_have_lengths(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    FOR_ROWS(shapes, i) check_squares(&k, shapes[i].rows, shapes[i].columns, shapes[i].ranks);
}

/* A part of the rows has the bits that it has in the whole. */
static void rows_do_not_know_of_each_other(void **state)
{
    enum { ROWS = 29, COLUMNS = 700, RANKS = 3 };
    struct kernel_case k = {.random = test_seed(__func__)};
    float *w = case_floats(&k, ROWS * COLUMNS), *a = case_floats(&k, RANKS * COLUMNS);
    float *b = case_floats(&k, ROWS * RANKS), *whole = case_floats(&k, ROWS), one[1];
    struct ds_row_squares_args args = {.w_OI = f32_2(w, ROWS, COLUMNS),
                                       .a_RI = f32_2(a, RANKS, COLUMNS),
                                       .b_OR = f32_2(b, ROWS, RANKS),
                                       .squares_O = f32_1(whole, ROWS),
                                       .scale = 0.5f};

    (void)state;
    assert_ok(CASE_RUN(row_squares, &args));
    args.squares_O = f32_1(one, 1);
    for (size_t row = 0; row < ROWS; row++) {
        args.w_OI = f32_2(w + row * COLUMNS, 1, COLUMNS);
        args.b_OR = f32_2(b + row * RANKS, 1, RANKS);
        assert_ok(CASE_RUN(row_squares, &args));
        assert_memory_equal(one, &whole[row], sizeof *one);
    }
    case_free(&k);
}

static void check_magnitude(struct kernel_case *k, size_t count)
{
    float *squares = case_floats(k, count), *magnitude = case_floats(k, count);
    float *inverse = case_floats(k, count), *factor = case_floats(k, count);
    struct ds_magnitude_args args = {.squares_O = f32_1(squares, count),
                                     .magnitude_O = f32_1(magnitude, count),
                                     .inverse_O = f32_1(inverse, count),
                                     .factor_O = f32_1(factor, count)};

    for (size_t i = 0; i < count; i++)
        squares[i] = i % 5 == 4 ? 0 : 0.01f + fabsf(squares[i]);
    case_store(k, &args.magnitude_O);
    assert_ok(CASE_RUN(magnitude, &args));
    case_load(k);
    for (size_t i = 0; i < count; i++) {
        const double want = squares[i] > 0 ? 1 / sqrt((double)squares[i]) : 0;

        assert_true(fabs((double)inverse[i] - want) <= 3e-7 * want);
        assert_true(fabs((double)factor[i] - want * (double)magnitude[i]) <=
                    4e-7 * want * fabs((double)magnitude[i]));
    }
    args.magnitude_O = args.squares_O = (struct ds_tensor){0};
    assert_ok(CASE_RUN(magnitude, &args));
    for (size_t i = 0; i < count; i++)
        assert_true(inverse[i] == 1 && factor[i] == 1);
    case_free(k);
}

static void factors_follow_from_lengths(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    {
        check_magnitude(&k, 1);
        check_magnitude(&k, 777);
    }
}

/* variant bits: an addend, scales, in place */
static void check_scale(struct kernel_case *k, size_t tokens, size_t width, int variant)
{
    const size_t count = tokens * width;
    float *x = case_floats(k, count), *addend = case_floats(k, count);
    float *scale = case_floats(k, width), *out = case_floats(k, count);
    float *kept = case_copy(k, x, count), *y = variant & 4 ? x : out;
    struct ds_scale_columns_args args = {.x_TN = f32_2(x, tokens, width), .plus = -1};

    case_store(k, &args.x_TN);
    args.y_TN = args.x_TN;
    if (!(variant & 4)) {
        args.y_TN = f32_2(out, tokens, width);
        case_store(k, &args.y_TN);
    }
    if (variant & 1) {
        args.addend_TN = f32_2(addend, tokens, width);
        case_store(k, &args.addend_TN);
    }
    if (variant & 2)
        args.scale_N = f32_1(scale, width);
    assert_ok(CASE_RUN(scale_columns, &args));
    case_load(k);
    for (size_t at = 0; at < count; at++) {
        const float value =
            ((variant & 2 ? scale[at % width] : 0) - 1) * case_rounded(k->storage, kept[at]);

        assert_true(y[at] == case_rounded(k->storage, variant & 1 ? addend[at] + value : value));
    }
    case_free(k);
}

static void columns_are_multiplied(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    for (int variant = 0; variant < 8; variant++) {
        check_scale(&k, 1, 1, variant);
        check_scale(&k, 3, 64, variant);
        check_scale(&k, 9, 33, variant);
        check_scale(&k, 2, 2056, variant);
    }
}

/* sums of dy * x over tokens, of some columns of wider rows */
static void products_are_summed(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    enum { TOKENS = 150, WIDE = 96, FIRST = 16, WIDTH = 40 };

    (void)state;
    FOR_STORAGES(&k)
    for (int add = 0; add < 2; add++) {
        float *dy = case_floats(&k, TOKENS * WIDE), *x = case_floats(&k, TOKENS * WIDE);
        float *sums = case_floats(&k, WIDTH);
        double *want = case_doubles(&k, WIDTH);
        struct ds_bias_args args = {.y_TN = f32_2(dy, TOKENS, WIDE),
                                    .bias_N = f32_1(sums, WIDTH),
                                    .add = add,
                                    .y_stride = WIDE,
                                    .x_TN = f32_2(x, TOKENS, WIDE)};

        for (size_t i = 0; i < WIDTH; i++) {
            want[i] = add ? sums[i] : 0;
            for (size_t t = 0; t < TOKENS; t++)
                want[i] += (double)dy[t * WIDE + FIRST + i] * (double)x[t * WIDE + FIRST + i];
        }
        case_store(&k, &args.y_TN);
        case_store(&k, &args.x_TN);
        args.y_TN.data = (char *)args.y_TN.data + FIRST * ds_dtype_bytes(args.y_TN.dtype);
        args.x_TN.data = (char *)args.x_TN.data + FIRST * ds_dtype_bytes(args.x_TN.dtype);
        args.y_TN.shape[1] = args.x_TN.shape[1] = WIDTH;
        assert_ok(CASE_RUN(bias_backward, &args));
        for (size_t i = 0; i < WIDTH; i++)
            assert_true(fabs((double)sums[i] - want[i]) <= 2e-5 * (1 + fabs(want[i])));
        case_free(&k);
    }
}

static void other_dtypes_are_refused(void **state)
{
    float x[4] = {0};
    struct ds_row_squares_args squares = {.w_OI = f32_2(x, 1, 4),
                                          .a_RI = ds_tensor2(x, DS_BF16, 1, 4),
                                          .b_OR = f32_2(x, 1, 1),
                                          .squares_O = f32_1(x, 1)};
    struct ds_magnitude_args magnitude = {.inverse_O = ds_tensor1(x, DS_BF16, 4),
                                          .factor_O = f32_1(x, 4)};
    struct ds_scale_columns_args scale = {.y_TN = ds_tensor2(x, DS_F16, 1, 4),
                                          .x_TN = f32_2(x, 1, 4)};

    (void)state;
    assert_int_equal(CASE_RUN(row_squares, &squares), DS_ERR_UNSUPPORTED);
    assert_int_equal(CASE_RUN(magnitude, &magnitude), DS_ERR_UNSUPPORTED);
    assert_int_equal(CASE_RUN(scale_columns, &scale), DS_ERR_UNSUPPORTED);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_lengths),
        cmocka_unit_test(rows_do_not_know_of_each_other),
        cmocka_unit_test(factors_follow_from_lengths),
        cmocka_unit_test(columns_are_multiplied),
        cmocka_unit_test(products_are_summed),
        cmocka_unit_test(other_dtypes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
