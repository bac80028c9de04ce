/* test_kernels_record.c - the norm of a gradient and the step record of the cpu table. */
// link: device kernels base
#include "kernel_case.h"

#define PIECES(count) (((count) + DS_NORM_PIECE - 1) / DS_NORM_PIECE)

static const size_t counts[] = {1, 33, 2047, 2048, 2049, 4096, 50001};

/* Lanes of 16, then pairs: in plain scalar code here, in vectors there. Other devices have an order of their
 * own. */
static double scalar_piece(const float *x, size_t count)
{
    double lane[16] = {0};

    for (size_t i = 0; i < count; i++)
        lane[i % 16] += (double)x[i] * x[i];
    for (size_t width = 8; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

static void norm_pieces_have_the_bits_of_the_scalar_sum(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(counts, c)
    {
        size_t count = counts[c], piece_count = PIECES(count);
        float *x = case_floats(&k, count);
        double *sums = case_doubles(&k, piece_count + 1), whole = 0, total = 0;
        struct ds_norm_pieces_args args = {f32_1(x, count), ds_tensor1(sums, DS_F64, piece_count),
                                           NULL, 0};

        sums[piece_count] = -1;
        assert_ok(CASE_RUN(norm_pieces, &args));
        for (size_t i = 0; i < piece_count; i++) {
            size_t left = count - i * DS_NORM_PIECE;
            double want =
                scalar_piece(x + i * DS_NORM_PIECE, left < DS_NORM_PIECE ? left : DS_NORM_PIECE);

            assert_true(fabs(sums[i] - want) <= (case_on_cpu() ? 0 : 1e-14 * want));
            total += sums[i];
        }
        for (size_t i = 0; i < count; i++)
            whole += (double)x[i] * x[i];
        assert_true(fabs(total - whole) <= 1e-13 * whole);
        assert_true(sums[piece_count] == -1);
        case_free(&k);
    }
}

/* Two shards cut at a piece, put together, are the whole. */
static void norm_does_not_depend_on_where_shards_are_cut(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    size_t count = 5 * DS_NORM_PIECE + 77, cut = 2 * DS_NORM_PIECE;
    float *x = case_floats(&k, count);
    double *whole = case_doubles(&k, 6), *parts = case_doubles(&k, 6);
    struct ds_norm_pieces_args args = {f32_1(x, count), ds_tensor1(whole, DS_F64, 6), NULL, 0};
    struct ds_norm_pieces_args first = {f32_1(x, cut), ds_tensor1(parts, DS_F64, 2), NULL, 0};
    struct ds_norm_pieces_args second = {f32_1(x + cut, count - cut),
                                         ds_tensor1(parts + 2, DS_F64, 4), NULL, 0};

    (void)state;
    assert_ok(CASE_RUN(norm_pieces, &args));
    assert_ok(CASE_RUN(norm_pieces, &first));
    assert_ok(CASE_RUN(norm_pieces, &second));
    assert_memory_equal(whole, parts, 6 * sizeof *whole);
    case_free(&k);
}

/* Spans inside a piece, over several, at both ends, of one element: the bits of zeros there. */
static void skipped_spans_count_as_zeros(void **state)
{
    static const struct ds_span skips[] = {{0, 1},    {2000, 48}, {2050, 2048 * 2},
                                           {9000, 0}, {9001, 3},  {12287, 2}};
    struct kernel_case k = {.random = test_seed(__func__)};
    size_t count = 6 * DS_NORM_PIECE + 1, piece_count = PIECES(count);
    float *x = case_floats(&k, count), *zeroed = case_copy(&k, x, count);
    double *got = case_doubles(&k, piece_count), *want = case_doubles(&k, piece_count);
    struct ds_norm_pieces_args args = {f32_1(x, count), ds_tensor1(got, DS_F64, piece_count), skips,
                                       sizeof skips / sizeof *skips};
    struct ds_norm_pieces_args plain = {f32_1(zeroed, count), ds_tensor1(want, DS_F64, piece_count),
                                        NULL, 0};

    (void)state;
    FOR_ROWS(skips, i)
    {
        memset(zeroed + skips[i].start, 0, skips[i].count * sizeof *zeroed);
    }
    float *kept = case_copy(&k, x, count);
    assert_ok(CASE_RUN(norm_pieces, &args));
    assert_ok(CASE_RUN(norm_pieces, &plain));
    assert_memory_equal(got, want, piece_count * sizeof *got);
    assert_memory_equal(x, kept, count * sizeof *x);
    case_free(&k);
}

static void norm_sum_adds_pieces_in_index_order(void **state)
{
    /* in any other order the small ones would not be lost */
    double sums[] = {0x1p53, 1, 1, 1, 1};
    struct ds_step_record record = {.norm_squared = 99};
    struct ds_norm_sum_args args = {ds_tensor1(sums, DS_F64, 5), &record};

    (void)state;
    CASE_CPU_ONLY();
    assert_ok(CASE_RUN(norm_sum, &args));
    assert_true(record.norm_squared == 0x1p53);
}

/* Whole numbers: in every order their sum is the same. */
static void norm_sum_counts_every_piece_once(void **state)
{
    static const size_t piece_counts[] = {1, 31, 255, 256, 257, 4095, 4096, 4097, 40961};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(piece_counts, c)
    {
        double *sums = case_doubles(&k, piece_counts[c]), want = 0;
        struct ds_step_record record = {.norm_squared = 99};
        struct ds_norm_sum_args args = {ds_tensor1(sums, DS_F64, piece_counts[c]), &record};

        for (size_t i = 0; i < piece_counts[c]; i++)
            want += sums[i] = (double)(case_bits(&k) >> 40);
        assert_ok(CASE_RUN(norm_sum, &args));
        assert_true(record.norm_squared == want);
        case_free(&k);
    }
}

static void run_norm(uint64_t seed, size_t row, void *out)
{
    struct kernel_case k = {.random = seed};
    float *x = case_floats(&k, counts[row]);
    struct ds_norm_pieces_args args = {f32_1(x, counts[row]),
                                       ds_tensor1(out, DS_F64, PIECES(counts[row])), NULL, 0};

    assert_ok(CASE_RUN(norm_pieces, &args));
    case_free(&k);
}

static void norm_has_the_same_bits_on_any_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    FOR_ROWS(counts, c)
    {
        case_assert_threads_agree(run_norm, seed, c, PIECES(counts[c]) * sizeof(double));
    }
}

static void a_step_begins_with_cleared_sums_and_the_weight_of_a_token(void **state)
{
    struct ds_step_record record = {.local_tokens = 96,
                                    .asks = 3,
                                    .loss_sum = 4,
                                    .asked = 9,
                                    .norm_squared = 5,
                                    .updates = 7,
                                    .skipped = 2};

    (void)state;
    assert_ok(CASE_RUN(step_begin, &(struct ds_step_begin_args){&record, 0}));
    assert_int_equal(record.trained_tokens, 96);
    record.trained_tokens = 3 * 96; /* the sum over ranks */
    assert_ok(CASE_RUN(step_begin, &(struct ds_step_begin_args){&record, 1}));
    assert_true(record.inverse_tokens == (float)(1.0 / 288));
    assert_true(record.loss_sum == 0 && record.norm_squared == 0 && record.loss_scale == 1);
    assert_true(record.asked == 3);
    assert_true(record.updates == 7 && record.skipped == 2);
    record.trained_tokens = 0;
    assert_ok(CASE_RUN(step_begin, &(struct ds_step_begin_args){&record, 1}));
    assert_true(record.inverse_tokens == 0);
}

static struct ds_step_record verdict(struct ds_step_record record, float clip)
{
    assert_ok(CASE_RUN(verdict, &(struct ds_verdict_args){&record, clip, 0.9f, 0.95f}));
    return record;
}

static const struct ds_step_record fine = {.trained_tokens = 10,
                                           .loss_scale = 1,
                                           .loss_sum = 20,
                                           .norm_squared = 9,
                                           .updates = 4,
                                           .skipped = 1};

static void a_finite_step_counts_and_is_clipped(void **state)
{
    struct ds_step_record record = verdict(fine, 1.5f);

    (void)state;
    assert_true(record.norm == 3 && record.skip == 0);
    assert_true(record.clip_factor == (float)(1.5 / (3 + 1e-6)));
    assert_true(record.updates == 5 && record.skipped == 1);
    assert_true(record.loss_sum == 20);
    assert_true(verdict(fine, 5).clip_factor == 1);
    assert_true(verdict(fine, 0).clip_factor == 1); /* 0: no clipping */
}

static void bias_corrections_are_those_of_the_next_update(void **state)
{
    struct ds_step_record record = verdict(fine, 0);

    (void)state;
    assert_true(record.correction1 == (float)(1 / (1 - pow(0.9f, 5))));
    assert_true(record.correction2 == (float)(1 / (1 - pow(0.95f, 5))));
}

static void what_is_not_finite_is_skipped_and_counted(void **state)
{
    static const struct {
        double loss_sum, norm_squared;
    } bad[] = {{NAN, 1}, {INFINITY, 1}, {1, NAN}, {1, INFINITY}, {1, 1e80}};

    (void)state;
    FOR_ROWS(bad, i)
    {
        struct ds_step_record record = fine;

        record.loss_sum = bad[i].loss_sum;
        record.norm_squared = bad[i].norm_squared;
        record = verdict(record, 1);
        assert_true(record.skip == 1 && record.clip_factor == 0);
        assert_true(record.updates == 4 && record.skipped == 2);
        record.loss_sum = record.norm_squared = 1; /* the next step is not held back */
        record = verdict(record, 1);
        assert_true(record.skip == 0 && record.updates == 5 && record.skipped == 2);
    }
}

static void a_step_without_trained_tokens_is_skipped_and_counted(void **state)
{
    struct ds_step_record record = fine;

    (void)state;
    record.trained_tokens = 0;
    record = verdict(record, 1);
    assert_true(record.skip == 1 && record.updates == 4 && record.skipped == 2);
}

/* One step of fp16: it begins, its gradients are what the scale makes of a norm of 3, the verdict. */
static void scaled_step(struct ds_step_record *record, int is_finite)
{
    record->trained_tokens = 10;
    assert_ok(CASE_RUN(step_begin, &(struct ds_step_begin_args){record, 1}));
    record->norm_squared =
        is_finite ? 9.0 * record->loss_scale * record->loss_scale : (double)INFINITY;
    *record = verdict(*record, 1.5f);
}

static void the_loss_scale_halves_and_the_step_is_skipped(void **state)
{
    struct ds_step_record record = {.scales_loss = 1};

    (void)state;
    scaled_step(&record, 1);
    assert_true(record.loss_scale == 65536 && record.norm == 3 && record.skip == 0);
    assert_true(record.clip_factor == (float)(1.5 / (3 + 1e-6)));
    for (int i = 0; i < 3; i++) {
        scaled_step(&record, 0);
        assert_true(record.loss_scale == ldexpf(65536, -i) && record.skip == 1);
    }
    scaled_step(&record, 1);
    assert_true(record.loss_scale == 8192 && record.norm == 3 && record.skip == 0);
    assert_true(record.updates == 2 && record.skipped == 3);
    assert_true(record.correction1 == (float)(1 / (1 - pow(0.9f, 2))));
}

static void the_loss_scale_doubles_after_2000_finite_steps_in_a_row(void **state)
{
    struct ds_step_record record = {.scales_loss = 1};

    (void)state;
    for (int i = 0; i < 1999; i++)
        scaled_step(&record, 1);
    scaled_step(&record, 0); /* starts the count anew */
    for (int i = 0; i < 2000; i++) {
        scaled_step(&record, 1);
        assert_true(record.loss_scale == 32768);
    }
    for (int i = 0; i < 2000; i++) {
        scaled_step(&record, 1);
        assert_true(record.loss_scale == 65536);
    }
    scaled_step(&record, 1);
    assert_true(record.loss_scale == 131072);
}

static void the_loss_scale_stays_finite_and_above_zero(void **state)
{
    struct ds_step_record record = {.scales_loss = 1, .next_loss_scale = 0x1p127f};

    (void)state;
    for (int i = 0; i < 2001; i++)
        scaled_step(&record, 1);
    assert_true(record.loss_scale == 0x1p127f);
    for (int i = 0; i < 400; i++)
        scaled_step(&record, 0);
    assert_true(record.loss_scale > 0 && isfinite(1 / record.loss_scale));
    record.trained_tokens = 0; /* nothing was learned about the scale */
    struct ds_step_record kept = verdict(record, 0);
    assert_true(kept.next_loss_scale == record.next_loss_scale);
}

static void a_loss_that_is_not_scaled_keeps_a_scale_of_1(void **state)
{
    struct ds_step_record record = {0};

    (void)state;
    scaled_step(&record, 0);
    scaled_step(&record, 1);
    assert_true(record.loss_scale == 1 && record.skipped == 1);
    record.scales_loss = 1; /* as after an evaluation before the first step */
    scaled_step(&record, 1);
    assert_true(record.loss_scale == 65536);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_pieces_have_the_bits_of_the_scalar_sum),
        cmocka_unit_test(norm_does_not_depend_on_where_shards_are_cut),
        cmocka_unit_test(skipped_spans_count_as_zeros),
        cmocka_unit_test(norm_sum_adds_pieces_in_index_order),
        cmocka_unit_test(norm_sum_counts_every_piece_once),
        cmocka_unit_test(norm_has_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(a_step_begins_with_cleared_sums_and_the_weight_of_a_token),
        cmocka_unit_test(a_finite_step_counts_and_is_clipped),
        cmocka_unit_test(bias_corrections_are_those_of_the_next_update),
        cmocka_unit_test(what_is_not_finite_is_skipped_and_counted),
        cmocka_unit_test(a_step_without_trained_tokens_is_skipped_and_counted),
        cmocka_unit_test(the_loss_scale_halves_and_the_step_is_skipped),
        cmocka_unit_test(the_loss_scale_doubles_after_2000_finite_steps_in_a_row),
        cmocka_unit_test(the_loss_scale_stays_finite_and_above_zero),
        cmocka_unit_test(a_loss_that_is_not_scaled_keeps_a_scale_of_1),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
