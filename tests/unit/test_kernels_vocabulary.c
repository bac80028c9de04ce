/* test_kernels_vocabulary.c - the kernels with a vocabulary, in 16 bits: cross-entropy whole and in parts is
 * as near to fp64 as the storage allows, the embedding's sums are made in fp32 and rounded once. */
// link: device kernels base
#include "test.h"

#include "kernel_case.h"

#define TOKENS 161
#define WIDTH  1100 /* more than one piece of a row */
#define IDS    9
#define FOR_16_BITS(k) \
    for ((k)->storage = CASE_BF16; (k)->storage < CASE_STORAGE_COUNT; (k)->storage++)

/* On a GPU a row is one block's, that of a cluster of two, four or eight, or of larger blocks, or is read twice. */
static const struct size {
    size_t rows, vocabulary;
} sizes[] = {{23, 509}, {5, 50257}, {4, 30011}, {3, 128256}, {2, 300007}, {2, 500003}};
#define SIZE_COUNT (sizeof sizes / sizeof sizes[0])

struct loss_case {
    size_t rows, vocabulary;
    float *logits, *loss;
    int32_t *target;
    double *want, *want_loss; /* gradient and loss in fp64 */
    struct ds_step_record record;
};

static void plain_row(struct loss_case *c, size_t row, double factor)
{
    const size_t vocabulary = c->vocabulary;
    const float *x = c->logits + row * vocabulary;
    double max = -INFINITY, sum = 0;

    for (size_t i = 0; i < vocabulary; i++)
        max = fmax(max, x[i]);
    for (size_t i = 0; i < vocabulary; i++)
        sum += exp(x[i] - max);
    for (size_t i = 0; i < vocabulary; i++)
        c->want[row * vocabulary + i] =
            (exp(x[i] - max) / sum - (i == (size_t)c->target[row])) * factor;
    c->want_loss[row] = log(sum) + max - x[c->target[row]];
}

/* Logits as the storage holds them, every fourth row ignored. */
static struct loss_case make_loss(struct kernel_case *k, struct size size)
{
    const size_t rows = size.rows, vocabulary = size.vocabulary;
    struct loss_case c = {
        .rows = rows,
        .vocabulary = vocabulary,
        .logits = case_floats(k, rows * vocabulary),
        .loss = case_floats(k, rows),
        .target = case_bytes(k, rows * sizeof(int32_t)),
        .want = case_doubles(k, rows * vocabulary),
        .want_loss = case_doubles(k, rows),
        .record = {.inverse_tokens = 1.0f / 7.0f, .loss_scale = 512.0f},
    };

    for (size_t i = 0; i < rows * vocabulary; i++)
        c.logits[i] = case_rounded(k->storage, 6 * c.logits[i]);
    for (size_t row = 0; row < rows; row++) {
        c.target[row] = row % 4 == 3 ? DS_IGNORE_INDEX : (int32_t)(case_bits(k) % vocabulary);
        if (row % 4 != 3)
            plain_row(&c, row, 512.0 / 7.0);
    }
    return c;
}

/* One rounding at the end, and before it fp32: of the whole, and of the 1 in a target's p - 1. */
static void check_gradient(const struct kernel_case *k, const struct loss_case *c)
{
    for (size_t i = 0; i < c->rows * c->vocabulary; i++) {
        const int is_target = (int32_t)(i % c->vocabulary) == c->target[i / c->vocabulary];
        const double allowed = case_half_ulp(k->storage, c->want[i]) + 2e-6 * fabs(c->want[i]) +
                               (is_target ? 2e-7 * 512 / 7 : 0);

        if (!(fabs(c->logits[i] - c->want[i]) <= allowed))
            fail_msg("%s, row %zu, column %zu: %g, fp64 says %g",
                     ds_dtype_name(case_dtypes[k->storage]), i / c->vocabulary, i % c->vocabulary,
                     (double)c->logits[i], c->want[i]);
    }
    for (size_t row = 0; row < c->rows; row++)
        if (!(fabs(c->loss[row] - c->want_loss[row]) <= 1e-6 * (1 + c->want_loss[row])))
            fail_msg("loss of row %zu: %g, fp64 says %g", row, (double)c->loss[row],
                     c->want_loss[row]);
}

static struct ds_cross_entropy_args loss_args(struct loss_case *c)
{
    return (struct ds_cross_entropy_args){
        .logits_NV = ds_tensor2(c->logits, DS_F32, c->rows, c->vocabulary),
        .target_N = ds_tensor1(c->target, DS_I32, c->rows),
        .loss_N = ds_tensor1(c->loss, DS_F32, c->rows),
        .record = &c->record,
        .gradient = 1,
        .vocabulary = c->vocabulary,
    };
}

static void loss_and_gradient_of_16_bits_are_rounded_once(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    for (size_t i = 0; i < SIZE_COUNT; i++)
        FOR_16_BITS(&k)
        {
            struct loss_case c = make_loss(&k, sizes[i]);
            struct ds_cross_entropy_args args = loss_args(&c);

            print_message("%s: %zu x %zu\n", ds_dtype_name(case_dtypes[k.storage]), c.rows,
                          c.vocabulary);
            case_store(&k, &args.logits_NV);
            assert_ok(CASE_RUN(cross_entropy, &args));
            case_load(&k);
            check_gradient(&k, &c);
            case_free(&k);
        }
}

/* The vocabulary as one part of itself: the three calls without ranks between them. */
static void the_three_calls_are_rounded_once(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    for (size_t i = 0; i < 2; i++)
        FOR_16_BITS(&k)
        {
            struct loss_case c = make_loss(&k, sizes[i]);
            struct ds_cross_entropy_args args = loss_args(&c);

            args.max_N = ds_tensor1(case_floats(&k, c.rows), DS_F32, c.rows);
            args.sums_N2 = ds_tensor2(case_floats(&k, 2 * c.rows), DS_F32, c.rows, 2);
            case_store(&k, &args.logits_NV);
            assert_ok(CASE_RUN(cross_entropy_max, &args));
            assert_ok(CASE_RUN(cross_entropy_sum, &args));
            assert_ok(CASE_RUN(cross_entropy_finish, &args));
            case_load(&k);
            check_gradient(&k, &c);
            case_free(&k);
        }
}

static void rows_of_16_bits_are_copied(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_16_BITS(&k)
    {
        int32_t *id = case_bytes(&k, TOKENS * sizeof *id);
        float *table = case_floats(&k, IDS * WIDTH), *y = case_floats(&k, TOKENS * WIDTH);
        struct ds_embedding_args args = {.id_T = ds_tensor1(id, DS_I32, TOKENS),
                                         .table_VC = ds_tensor2(table, DS_F32, IDS, WIDTH),
                                         .y_TC = ds_tensor2(y, DS_F32, TOKENS, WIDTH),
                                         .first = 2};

        for (size_t t = 0; t < TOKENS; t++)
            id[t] = (int32_t)(case_bits(&k) % (IDS + 4)); /* some before, some behind the table */
        case_store(&k, &args.table_VC);
        case_store(&k, &args.y_TC);
        assert_ok(CASE_RUN(embedding_forward, &args));
        case_load(&k);
        for (size_t i = 0; i < TOKENS * WIDTH; i++) {
            const size_t row = (size_t)id[i / WIDTH] - 2;
            assert_true(y[i] == (row < IDS ? table[row * WIDTH + i % WIDTH] : 0));
        }
        case_free(&k);
    }
}

/* To the bit: terms in token order, in fp32; a table of 16 bits is rounded once, however often a row occurs. */
static void check_scatter(struct kernel_case *k, enum case_storage table_storage, int add)
{
    int32_t *id = case_bytes(k, TOKENS * sizeof *id);
    float *table = case_floats(k, IDS * WIDTH), *dy = case_floats(k, TOKENS * WIDTH);
    float *want = case_bytes(k, IDS * WIDTH * sizeof *want), *sum;
    struct ds_embedding_args args = {.id_T = ds_tensor1(id, DS_I32, TOKENS),
                                     .table_VC = ds_tensor2(table, DS_F32, IDS, WIDTH),
                                     .y_TC = ds_tensor2(dy, DS_F32, TOKENS, WIDTH),
                                     .add = add,
                                     .first = 2,
                                     .padding = add ? 5 : -1};

    for (size_t t = 0; t < TOKENS; t++) /* the commonest id has half of them */
        id[t] = case_bits(k) % 2 ? 7 : (int32_t)(case_bits(k) % (IDS + 4));
    for (size_t i = 0; i < IDS * WIDTH; i++)
        table[i] = case_rounded(table_storage, table[i]);
    sum = case_copy(k, table, IDS * WIDTH);
    for (size_t i = 0; i < IDS * WIDTH; i++)
        if (!add || table_storage != CASE_F32)
            sum[i] = 0;
    for (size_t i = 0; i < TOKENS * WIDTH; i++) {
        const size_t row = (size_t)id[i / WIDTH] - 2;
        if (row < IDS && id[i / WIDTH] != args.padding)
            sum[row * WIDTH + i % WIDTH] += dy[i];
    }
    for (size_t i = 0; i < IDS * WIDTH; i++)
        want[i] = case_rounded(table_storage,
                               add && table_storage != CASE_F32 ? table[i] + sum[i] : sum[i]);
    case_store(k, &args.y_TC);
    case_store_as(k, &args.table_VC, table_storage);
    assert_ok(CASE_RUN(embedding_backward, &args));
    case_load(k);
    for (size_t i = 0; i < IDS * WIDTH; i++)
        assert_true(table[i] == want[i]);
    case_free(k);
}

static void gradients_of_16_bits_are_added_in_fp32(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_16_BITS(&k)
    for (int add = 0; add < 2; add++) {
        check_scatter(&k, CASE_F32, add);
        check_scatter(&k, CASE_BF16, add);
        check_scatter(&k, CASE_F16, add);
    }
}

static void other_dtypes_are_refused(void **state)
{
    struct kernel_case k = {.random = 1, .storage = CASE_BF16};
    struct loss_case c = make_loss(&k, sizes[0]);
    struct ds_cross_entropy_args args = loss_args(&c);
    float *y = case_floats(&k, 4);
    struct ds_embedding_args embedding = {.id_T = ds_tensor1(c.target, DS_I32, 2),
                                          .table_VC = ds_tensor2(c.logits, DS_BF16, 2, 2),
                                          .y_TC = ds_tensor2(y, DS_F16, 2, 2)};

    (void)state;
    args.logits_NV.dtype = DS_I16;
    assert_int_equal(CASE_RUN(cross_entropy, &args), DS_ERR_UNSUPPORTED);
    assert_int_equal(CASE_RUN(embedding_forward, &embedding), DS_ERR_UNSUPPORTED);
    case_free(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_and_gradient_of_16_bits_are_rounded_once),
        cmocka_unit_test(the_three_calls_are_rounded_once),
        cmocka_unit_test(rows_of_16_bits_are_copied),
        cmocka_unit_test(gradients_of_16_bits_are_added_in_fp32),
        cmocka_unit_test(other_dtypes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
