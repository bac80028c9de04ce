/* test_kernels_gemm.c - matrix products against fp64 loops, with whatever sgemm this machine has
 * (test_kernels_gemm_own.c runs the same tests on the own kernel). */
// link: device kernels base
#include "test.h"

#include "kernel_case.h"
#include "kernel_compare.h"

#include "dstrain/kernels.h"

#include <math.h>
#include <omp.h>
#include <pthread.h>

struct row {
    uint64_t m, n, k;
};

static const struct row rows[] = {{1, 1, 1},       {1, 509, 33},    {37, 1, 65},    {37, 33, 1},
                                  {7, 231, 66},    {64, 64, 64},    {100, 67, 300}, {37, 509, 129},
                                  {259, 130, 517}, {130, 1100, 40}, {1030, 65, 31}};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

/* What is added to a product: nothing, what C held before, the same lying apart. */
enum added { ADDED_NOTHING, ADDED_C, ADDED_APART, ADDED_COUNT };

#define TRANSPOSES 4
#define VARIANTS   (TRANSPOSES * ADDED_COUNT)

/* One product: inputs, what is added, and room for the answer. */
struct product {
    struct row shape;
    int trans_a, trans_b;
    enum added added;
    float *a, *b, *before, *c;
    enum case_storage in, out; /* of A and B, of C */
};

static struct product product_make(struct row shape, int variant, uint64_t seed)
{
    struct product p = {.shape = shape,
                        .trans_a = variant & 1,
                        .trans_b = variant >> 1 & 1,
                        .added = (enum added)(variant / TRANSPOSES)};

    p.a = random_floats(shape.m * shape.k, seed + 1);
    p.b = random_floats(shape.k * shape.n, seed + 2);
    p.before = random_floats(shape.m * shape.n, seed + 3);
    p.c = random_floats(shape.m * shape.n, seed + 3);
    return p;
}

/* The same with values that 16 bits hold. */
static struct product product_stored(struct row shape, int variant, uint64_t seed,
                                     enum case_storage in, enum case_storage out)
{
    struct product p = product_make(shape, variant, seed);

    p.in = in;
    p.out = out;
    for (size_t i = 0; i < shape.m * shape.k; i++)
        p.a[i] = case_rounded(in, p.a[i]);
    for (size_t i = 0; i < shape.k * shape.n; i++)
        p.b[i] = case_rounded(in, p.b[i]);
    for (size_t i = 0; i < shape.m * shape.n; i++)
        p.before[i] = case_rounded(out, p.before[i]);
    return p;
}

static void product_free(struct product *p)
{
    free(p->a);
    free(p->b);
    free(p->before);
    free(p->c);
}

static void product_run(struct product *p)
{
    const struct row s = p->shape;
    struct kernel_case k = {0};
    struct ds_matmul_args args = {
        .a = p->trans_a ? ds_tensor2(p->a, DS_F32, s.k, s.m) : ds_tensor2(p->a, DS_F32, s.m, s.k),
        .b = p->trans_b ? ds_tensor2(p->b, DS_F32, s.n, s.k) : ds_tensor2(p->b, DS_F32, s.k, s.n),
        .c = ds_tensor2(p->c, DS_F32, s.m, s.n),
        .trans_a = p->trans_a,
        .trans_b = p->trans_b,
        .add = p->added == ADDED_C};

    if (p->added == ADDED_APART)
        args.addend = ds_tensor2(p->before, DS_F32, s.m, s.n);
    for (size_t i = 0; i < s.m * s.n; i++)
        p->c[i] = args.add ? p->before[i] : NAN; /* what is overwritten is not read */
    case_store_as(&k, &args.a, p->in);
    case_store_as(&k, &args.b, p->in);
    case_store_as(&k, &args.c, p->out);
    case_store_as(&k, &args.addend, p->out);
    assert_ok(CASE_RUN(matmul, &args));
    case_load(&k);
    case_free(&k);
}

/* In fp64, with the sizes of what was added up. */
static void product_want(const struct product *p, double *want, double *size)
{
    const struct row s = p->shape;

    for (size_t i = 0; i < s.m; i++)
        for (size_t j = 0; j < s.n; j++) {
            const size_t at = i * s.n + j;

            want[at] = p->added == ADDED_NOTHING ? 0.0 : p->before[at];
            size[at] = fabs(want[at]);
            for (size_t l = 0; l < s.k; l++) {
                const double term = (double)p->a[p->trans_a ? l * s.m + i : i * s.k + l] *
                                    (double)p->b[p->trans_b ? j * s.k + l : l * s.n + j];

                want[at] += term;
                size[at] += fabs(term);
            }
        }
}

/* Unit roundoffs of the size of all that is added up, which a product of k on tensor cores may be off by. A step
 * of theirs takes a few products (4, later 8 or 16), which are exact, and the sum so far; these are aligned to
 * the largest and cut off, not rounded, behind 24 bits at the least, and so is their sum (Fasi, Higham, Mikaitis
 * and Pranesh 2021). A cut loses up to two unit roundoffs, and a step of 4 makes 6 of them: 3 roundoffs a
 * product. The rest is for a last step that is not full and for what is added in the end. */
static double tensor_core_roundings(uint64_t k)
{
    return 3 * (double)k + 16;
}

/* cuBLASLt has algorithms that round the product to C's 16 bits before C is added (seen on an H100, bf16, 64 x 64 x
 * 64): a unit roundoff of the product, which is no larger than the size. */
static double addition_roundings(const struct product *p)
{
    if (p->added == ADDED_NOTHING || p->out == CASE_F32)
        return 0;
    return p->out == CASE_BF16 ? 0x1p16 : 0x1p13;
}

static void product_check(const struct product *p)
{
    const size_t count = p->shape.m * p->shape.n;
    double *want = calloc(count, sizeof *want), *size = calloc(count, sizeof *size);
    char text[96];

    snprintf(text, sizeof text, "c of %dx%dx%d, %s, transposed %d %d, added %d", (int)p->shape.m,
             (int)p->shape.n, (int)p->shape.k, ds_dtype_name(case_dtypes[p->in]), p->trans_a,
             p->trans_b, p->added);
    product_want(p, want, size);
    if (case_on_cpu() || p->in == CASE_F32)
        case_assert_rounded(p->out, p->c, want, count, CASE_CLOSE, text, __FILE__, __LINE__);
    else
        case_assert_bounded(p->out, p->c, want, size, count,
                            tensor_core_roundings(p->shape.k) + addition_roundings(p), text,
                            __FILE__, __LINE__);
    free(want);
    free(size);
}

static void products_equal_fp64_for_all_transposes(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    printf("%s\n", ds_kernels_cpu_gemm_name());
    for (size_t i = 0; i < ROW_COUNT; i++)
        for (int variant = 0; variant < VARIANTS; variant++) {
            struct product p = product_make(rows[i], variant, seed);

            product_run(&p);
            product_check(&p);
            product_free(&p);
        }
}

/* Rows whose sides are more than a piece in fp32, and products that are so deep. */
static void products_of_16_bits_are_rounded_once(void **state)
{
    static const struct row deep[] = {{300, 17, 700}, {17, 290, 513}, {33, 40, 256}};
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t i = 0; i < ROW_COUNT + 3; i++)
        for (int variant = 0; variant < VARIANTS * 8; variant++) {
            const struct row row = i < ROW_COUNT ? rows[i] : deep[i - ROW_COUNT];
            const int storages = variant / VARIANTS + 1; /* all but fp32 alone */
            struct product p;

            if (row.m * row.n * row.k > 1 << 21 && variant % VARIANTS != (int)(seed % VARIANTS))
                continue; /* large ones in one variant of transposes */
            p = product_stored(row, variant % VARIANTS, seed, (enum case_storage)(storages / 3),
                               (enum case_storage)(storages % 3));
            product_run(&p);
            product_check(&p);
            product_free(&p);
        }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    static const struct row shapes[] = {{100, 67, 300}, {777, 500, 601}, {65, 1030, 257}};
    uint64_t seed = test_seed(__func__);
    int thread_count = omp_get_max_threads();

    (void)state;
    for (int variant = 0; variant < 2 * 3 * VARIANTS; variant++) {
        const enum case_storage storage = variant % 2 ? CASE_BF16 : CASE_F32;
        struct product p =
            product_stored(shapes[variant / 2 % 3], variant / 6, seed, storage, storage);
        size_t bytes = p.shape.m * p.shape.n * sizeof(float);
        float *first = malloc(bytes);

        omp_set_num_threads(1);
        product_run(&p);
        memcpy(first, p.c, bytes);
        for (int threads = 2; threads <= OMP_TEAM_MAX; threads++) {
            omp_set_num_threads(threads);
            product_run(&p);
            assert_memory_equal(first, p.c, bytes);
        }
        assert_int_equal(omp_get_max_threads(),
                         OMP_TEAM_MAX); /* the caller's setting is left alone */
        free(first);
        product_free(&p);
    }
    omp_set_num_threads(thread_count);
}

static void an_addend_has_the_bits_of_a_product_and_an_add(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    CASE_CPU_ONLY();
    for (size_t i = 0; i < ROW_COUNT; i++)
        for (int transposes = 0; transposes < TRANSPOSES; transposes++) {
            struct product p = product_make(rows[i], transposes, seed);
            struct product with =
                product_make(rows[i], transposes + TRANSPOSES * ADDED_APART, seed);
            const size_t count = p.shape.m * p.shape.n;
            const struct ds_add_args add = {ds_tensor1(p.c, DS_F32, count),
                                            ds_tensor1(p.before, DS_F32, count)};

            product_run(&p);
            assert_ok(CASE_RUN(add, &add));
            product_run(&with);
            assert_memory_equal(p.c, with.c, count * sizeof(float));
            product_free(&p);
            product_free(&with);
        }
}

/* A matrix of so many rows and columns inside a wider one, behind `skip` of its columns. */
struct part {
    uint64_t rows, columns, skip, stride;
    float *values; /* of the wide one */
    uint8_t *stored;
};

static struct part part_make(uint64_t row_count, uint64_t columns, enum ds_dtype dtype,
                             uint64_t seed)
{
    struct part part = {.rows = row_count, .columns = columns, .skip = 8, .stride = columns + 16};
    const uint64_t count = row_count * part.stride;

    part.values = random_floats(count, seed);
    part.stored = malloc(count * sizeof(float));
    assert_true(part.stored && ds_dtype_from_f32(part.stored, dtype, part.values, count));
    assert_true(ds_dtype_to_f32(part.values, part.stored, dtype, count));
    return part;
}

static struct ds_tensor part_tensor(const struct part *part, enum ds_dtype dtype)
{
    return ds_tensor2(part->stored + part->skip * ds_dtype_bytes(dtype), dtype, part->rows,
                      part->columns);
}

static float part_at(const struct part *part, uint64_t row, uint64_t column)
{
    return part->values[row * part->stride + part->skip + column];
}

static void part_free(struct part *part)
{
    free(part->values);
    free(part->stored);
}

/* c = scale * op(a) op(b) (+ c) in its columns; what is beside them stays as it was. */
static void check_parts(struct row shape, int variant, enum ds_dtype dtype, uint64_t seed)
{
    const int trans_a = variant & 1, trans_b = variant >> 1 & 1, add = variant >> 2 & 1;
    const uint64_t m = shape.m, n = shape.n, k = shape.k;
    struct part a = part_make(trans_a ? k : m, trans_a ? m : k, dtype, seed);
    struct part b = part_make(trans_b ? n : k, trans_b ? k : n, dtype, seed + 1);
    struct part c = part_make(m, n, dtype, seed + 2);
    const struct ds_matmul_args args = {.a = part_tensor(&a, dtype),
                                        .b = part_tensor(&b, dtype),
                                        .c = part_tensor(&c, dtype),
                                        .trans_a = trans_a,
                                        .trans_b = trans_b,
                                        .add = add,
                                        .scale = 0.75f,
                                        .a_stride = a.stride,
                                        .b_stride = b.stride,
                                        .c_stride = c.stride};
    const double unit = dtype == DS_F32 ? 0x1p-20 : 0x1p-7;
    float *got = malloc(m * c.stride * sizeof *got);

    assert_ok(CASE_RUN(matmul, &args));
    assert_true(ds_dtype_to_f32(got, c.stored, dtype, m * c.stride));
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t j = 0; j < c.stride; j++) {
            const int is_inside = j >= c.skip && j < c.skip + n;
            double want = is_inside && !add ? 0 : c.values[i * c.stride + j], size = fabs(want);

            for (uint64_t l = 0; is_inside && l < k; l++) {
                const uint64_t column = j - c.skip;
                const double term =
                    0.75 * (double)(trans_a ? part_at(&a, l, i) : part_at(&a, i, l)) *
                    (double)(trans_b ? part_at(&b, column, l) : part_at(&b, l, column));
                want += term;
                size += fabs(term);
            }
            if (!(fabs(got[i * c.stride + j] - want) <= (is_inside ? unit * size : 0)))
                fail_msg("%s, variant %d, row %d, column %d: %g, not %g", ds_dtype_name(dtype),
                         variant, (int)i, (int)j, (double)got[i * c.stride + j], want);
        }
    free(got);
    part_free(&a);
    part_free(&b);
    part_free(&c);
}

static void columns_of_wider_matrices_are_multiplied_and_scaled(void **state)
{
    static const struct row shapes[] = {{1, 1, 1}, {37, 16, 65}, {64, 129, 8}, {70, 300, 130}};
    static const enum ds_dtype dtypes[] = {DS_F32, DS_BF16, DS_F16};
    uint64_t seed = test_seed(__func__);

    (void)state;
    FOR_ROWS(shapes, i)
    for (int variant = 0; variant < 24; variant++)
        check_parts(shapes[i], variant / 3, dtypes[variant % 3], seed + i);
}

static void *multiply_in_a_thread(void *argument)
{
    struct product *p = argument;

    omp_set_num_threads(p->trans_b ? 1 : OMP_TEAM_MAX);
    for (int i = 0; i < 10; i++)
        product_run(p);
    return NULL;
}

static void threads_of_a_process_may_multiply_at_the_same_time(void **state)
{
    uint64_t seed = test_seed(__func__);
    struct product here[4], there[4];
    pthread_t thread[4];

    (void)state;
    CASE_CPU_ONLY();
    for (int i = 0; i < 4; i++) {
        struct row shape = {200 + 50 * (uint64_t)i, 301, 150};

        here[i] = product_make(shape, i, seed + (uint64_t)i);
        there[i] = product_make(shape, i, seed + (uint64_t)i);
        product_run(&here[i]);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, multiply_in_a_thread, &there[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++) {
        size_t bytes = here[i].shape.m * here[i].shape.n * sizeof(float);

        assert_memory_equal(here[i].c, there[i].c, bytes);
        product_free(&here[i]);
        product_free(&there[i]);
    }
}

static void an_empty_sum_is_zero(void **state)
{
    float c[6] = {1, 2, 3, 4, 5, 6}, addend[6] = {6, 5, 4, 3, 2, 1};
    struct ds_matmul_args args = {.a = ds_tensor2(c, DS_F32, 2, 0),
                                  .b = ds_tensor2(c, DS_F32, 0, 3),
                                  .c = ds_tensor2(c, DS_F32, 2, 3),
                                  .add = 1};

    (void)state;
    assert_ok(CASE_RUN(matmul, &args));
    assert_true(c[0] == 1.0f && c[5] == 6.0f);
    args.add = 0;
    assert_ok(CASE_RUN(matmul, &args));
    for (int i = 0; i < 6; i++)
        assert_true(c[i] == 0.0f);
    args.addend = ds_tensor2(addend, DS_F32, 2, 3);
    assert_ok(CASE_RUN(matmul, &args));
    assert_memory_equal(c, addend, sizeof c);
}

static void an_empty_sum_of_16_bits_is_zero_and_no_more(void **state)
{
    uint16_t c[6] = {1, 2, 3, 4, 5, 6};
    struct ds_matmul_args args = {.a = ds_tensor2(c, DS_BF16, 2, 0),
                                  .b = ds_tensor2(c, DS_BF16, 0, 2),
                                  .c = ds_tensor2(c, DS_BF16, 2, 2)};

    (void)state;
    assert_ok(CASE_RUN(matmul, &args));
    assert_true(c[0] == 0 && c[3] == 0 && c[4] == 5 && c[5] == 6);
}

static void fp16_overflows_to_inf_and_nan_stays_in_its_row(void **state)
{
    struct kernel_case k = {.storage = CASE_F16};
    float a[] = {300, 300, 1, 1, NAN, 1}, b[] = {300, 1, 300, 1}, c[6] = {0};
    struct ds_matmul_args args = {.a = f32_2(a, 3, 2), .b = f32_2(b, 2, 2), .c = f32_2(c, 3, 2)};

    (void)state;
    case_store(&k, &args.a);
    case_store(&k, &args.b);
    case_store(&k, &args.c);
    assert_ok(CASE_RUN(matmul, &args));
    case_load(&k);
    assert_true(c[0] == INFINITY && c[1] == 600 && c[2] == 600 && c[3] == 2);
    assert_true(isnan(c[4]) && isnan(c[5]));
    case_free(&k);
}

static void dtypes_that_do_not_go_together_are_refused(void **state)
{
    float x[4] = {0};
    struct ds_matmul_args args = {.a = ds_tensor2(x, DS_F32, 2, 2),
                                  .b = ds_tensor2(x, DS_BF16, 2, 2),
                                  .c = ds_tensor2(x, DS_F32, 2, 2)};

    (void)state;
    assert_int_equal(CASE_RUN(matmul, &args), DS_ERR_UNSUPPORTED);
    args.a.dtype = DS_F16;
    assert_int_equal(CASE_RUN(matmul, &args), DS_ERR_UNSUPPORTED);
    args.a.dtype = DS_BF16;
    args.c.dtype = DS_F64;
    assert_int_equal(CASE_RUN(matmul, &args), DS_ERR_UNSUPPORTED);
}

#ifndef GEMM_IS_OWN
#define GEMM_IS_OWN   0
#define GEMM_OWN_HASH 0u
#endif

/* Not so with OpenBLAS, which has kernels of its own for every processor. */
static void the_own_kernel_gives_the_same_bits_on_every_machine(void **state)
{
    struct product p;

    (void)state;
    if (!GEMM_IS_OWN)
        skip();
    p = product_make((struct row){123, 77, 600}, 2, 1);
    product_run(&p);
    assert_int_equal(bits_hash(p.c, 123 * 77 * sizeof(float)), GEMM_OWN_HASH);
    product_free(&p);
}

static void the_name_says_what_multiplies(void **state)
{
    const char *name = ds_kernels_cpu_gemm_name();
    int is_own = strncmp(name, "own blocked kernel: ", 20) == 0;

    (void)state;
    CASE_CPU_ONLY();
    assert_ptr_equal(name, ds_kernels_cpu_gemm_name());
    assert_true(is_own || (!GEMM_IS_OWN && strncmp(name, "OpenBLAS ", 9) == 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_fp64_for_all_transposes),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(an_addend_has_the_bits_of_a_product_and_an_add),
        cmocka_unit_test(threads_of_a_process_may_multiply_at_the_same_time),
        cmocka_unit_test(columns_of_wider_matrices_are_multiplied_and_scaled),
        cmocka_unit_test(an_empty_sum_is_zero),
        cmocka_unit_test(products_of_16_bits_are_rounded_once),
        cmocka_unit_test(an_empty_sum_of_16_bits_is_zero_and_no_more),
        cmocka_unit_test(fp16_overflows_to_inf_and_nan_stays_in_its_row),
        cmocka_unit_test(dtypes_that_do_not_go_together_are_refused),
        cmocka_unit_test(the_own_kernel_gives_the_same_bits_on_every_machine),
        cmocka_unit_test(the_name_says_what_multiplies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
