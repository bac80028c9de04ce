/* test_kernels_loss.c - cross-entropy against fp64, and the exp it is made of. */
// link: device kernels base
#include "test.h"

#include "kernel_compare.h"
#include "kernel_device.h"

#include "dstrain/kernels.h"

#include <math.h>
#include <omp.h>

struct row {
    size_t rows, vocabulary;
    float spread; /* logits from -spread to spread */
};

static const struct row cases[] = {{1, 1, 1},      {1, 2, 3},     {5, 15, 2},    {37, 509, 4},
                                   {3, 16, 8},     {9, 1025, 30}, {2, 40001, 1}, {7, 2048, 200},
                                   {2, 140003, 5}, {1, 240001, 5}};
#define CASE_COUNT (sizeof cases / sizeof cases[0])

struct batch {
    size_t rows, vocabulary;
    float *logits, *loss;
    int32_t *target;
    struct ds_step_record record;
    double *want_gradient, *want_loss;
};

/* Every third row is ignored, if there are that many. */
static struct batch batch_make(const struct row *row, uint64_t seed)
{
    struct batch b = {.rows = row->rows, .vocabulary = row->vocabulary};
    size_t count = row->rows * row->vocabulary;

    b.logits = random_floats(count, seed + 1);
    for (size_t i = 0; i < count; i++)
        b.logits[i] *= row->spread;
    b.loss = random_floats(row->rows, seed + 2);
    b.target = malloc(row->rows * sizeof *b.target);
    for (size_t i = 0; i < row->rows; i++)
        b.target[i] =
            i % 3 == 2 ? DS_IGNORE_INDEX : (int32_t)(random_next(&seed) % row->vocabulary);
    b.record.inverse_tokens = 1.0f / 7.0f;
    b.record.loss_scale = 4.0f;
    b.want_gradient = calloc(count, sizeof(double));
    b.want_loss = calloc(row->rows, sizeof(double));
    return b;
}

static void batch_free(struct batch *b)
{
    free(b->logits);
    free(b->loss);
    free(b->target);
    free(b->want_gradient);
    free(b->want_loss);
}

static ds_status batch_run(struct batch *b, int gradient)
{
    struct ds_cross_entropy_args args = {.logits_NV =
                                             ds_tensor2(b->logits, DS_F32, b->rows, b->vocabulary),
                                         .target_N = ds_tensor1(b->target, DS_I32, b->rows),
                                         .loss_N = ds_tensor1(b->loss, DS_F32, b->rows),
                                         .record = &b->record,
                                         .gradient = gradient};

    return CASE_RUN(cross_entropy, &args);
}

static void plain_row(const float *x, size_t count, int32_t target, double factor, double *gradient,
                      double *loss)
{
    double max = -INFINITY, sum = 0.0;

    for (size_t i = 0; i < count; i++)
        max = fmax(max, x[i]);
    for (size_t i = 0; i < count; i++)
        sum += exp(x[i] - max);
    for (size_t i = 0; i < count; i++)
        gradient[i] = (exp(x[i] - max) / sum - (i == (size_t)target)) * factor;
    *loss = log(sum) + max - x[target];
}

static void plain_cross_entropy(struct batch *b)
{
    double factor = (double)b->record.inverse_tokens * (double)b->record.loss_scale;

    for (size_t i = 0; i < b->rows; i++)
        if (b->target[i] != DS_IGNORE_INDEX)
            plain_row(b->logits + i * b->vocabulary, b->vocabulary, b->target[i], factor,
                      b->want_gradient + i * b->vocabulary, b->want_loss + i);
}

/* The gradient is (p - onehot) * factor. Where p is not subtracted from, nothing cancels and its error is
 * relative to p itself, however small: measured against a whole row, 1e-4 of a probability of 1e-5 would
 * pass. At the target p - 1 may cancel to nothing, and the error is that of the terms, p and 1. Roundings
 * of p: its exp and those of the sum (2 each, and the distance to the maximum rounded: d, the mean of d at
 * most log V), sixteen lanes over a piece of 1024 columns (64 and 4), factor / sum and the product (2);
 * where parts are added up `more`. Below the least subnormal only absolute errors are left. */
static void assert_gradient(const struct batch *b, double more)
{
    const double factor = (double)b->record.inverse_tokens * (double)b->record.loss_scale;
    const double tiny = 0x1p-148 * (1 + factor);

    for (size_t i = 0; i < b->rows * b->vocabulary; i++) {
        const int32_t target = b->target[i / b->vocabulary];
        const int is_target = target >= 0 && i % b->vocabulary == (size_t)target;
        const double want = b->want_gradient[i], p = want / factor + is_target;
        const double distance = p > 0 ? fmin(-log(p), 110) : 110;
        const double roundings = 2 + distance + 2 + log((double)b->vocabulary) + 68 + 2 + more;
        const double allowed = factor * 0x1p-24 * (roundings * p + 2 * is_target) + tiny;

        if (!(fabs(b->logits[i] - want) <= allowed))
            print_message("row %zu column %zu: %.9g, fp64 says %.9g +- %.3g\n", i / b->vocabulary,
                          i % b->vocabulary, (double)b->logits[i], want, allowed);
        assert_true(fabs(b->logits[i] - want) <= allowed);
    }
}

static void loss_and_gradient_equal_fp64(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t i = 0; i < CASE_COUNT; i++) {
        struct batch b = batch_make(&cases[i], seed + 10 * i);

        plain_cross_entropy(&b);
        assert_ok(batch_run(&b, 1));
        print_message("%zu x %zu\n", b.rows, b.vocabulary);
        assert_error(relative_error_above(b.loss, b.want_loss, b.rows, 1.0), 5e-7);
        assert_gradient(&b, 0);
        batch_free(&b);
    }
}

static void ignored_rows_have_no_loss_and_no_gradient(void **state)
{
    struct batch b = batch_make(&cases[3], test_seed(__func__));

    (void)state;
    assert_ok(batch_run(&b, 1));
    for (size_t i = 2; i < b.rows; i += 3) {
        assert_true(b.loss[i] == 0.0f);
        for (size_t j = 0; j < b.vocabulary; j++)
            assert_true(b.logits[i * b.vocabulary + j] == 0.0f);
    }
    batch_free(&b);
}

static void without_gradient_the_logits_stay(void **state)
{
    uint64_t seed = test_seed(__func__);
    struct batch b = batch_make(&cases[5], seed), untouched = batch_make(&cases[5], seed);

    (void)state;
    plain_cross_entropy(&b);
    assert_ok(batch_run(&b, 0));
    assert_memory_equal(b.logits, untouched.logits, b.rows * b.vocabulary * sizeof(float));
    assert_error(relative_error_above(b.loss, b.want_loss, b.rows, 1.0), 5e-7);
    batch_free(&b);
    batch_free(&untouched);
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);
    int thread_count = omp_get_max_threads();
    struct batch one = batch_make(&cases[3], seed);

    (void)state;
    omp_set_num_threads(1);
    assert_ok(batch_run(&one, 1));
    for (int threads = 2; threads <= OMP_TEAM_MAX; threads++) {
        struct batch more = batch_make(&cases[3], seed);

        omp_set_num_threads(threads);
        assert_ok(batch_run(&more, 1));
        assert_memory_equal(one.loss, more.loss, one.rows * sizeof(float));
        assert_memory_equal(one.logits, more.logits, one.rows * one.vocabulary * sizeof(float));
        batch_free(&more);
    }
    batch_free(&one);
    omp_set_num_threads(thread_count);
}

/* Vectors of any width, with and without fma: the same additions. */
static void bits_are_the_same_on_every_machine(void **state)
{
    struct batch b = batch_make(&cases[5], 1);

    (void)state;
    CASE_CPU_ONLY();
    assert_ok(batch_run(&b, 1));
    assert_int_equal(bits_hash(b.logits, b.rows * b.vocabulary * sizeof(float)),
                     0x9d1fd8dac0eb25a3u);
    batch_free(&b);
}

/* The contract: the record is device memory, written by work that is queued before. */
static struct {
    ds_work_fn work;
    unsigned char args[1024];
} held;

static ds_status hold_call(struct ds_stream *stream, ds_work_fn work, const void *args,
                           size_t bytes)
{
    (void)stream;
    held.work = work;
    memcpy(held.args, args, bytes);
    return DS_OK;
}

static void the_record_is_read_when_the_work_runs(void **state)
{
    static const struct ds_device_ops hold_ops = {.name = "hold", .call = hold_call};
    static struct ds_device device = {&hold_ops};
    static struct ds_stream stream = {&device};
    struct batch b = batch_make(&cases[3], test_seed(__func__));
    struct ds_cross_entropy_args args = {.logits_NV =
                                             ds_tensor2(b.logits, DS_F32, b.rows, b.vocabulary),
                                         .target_N = ds_tensor1(b.target, DS_I32, b.rows),
                                         .loss_N = ds_tensor1(b.loss, DS_F32, b.rows),
                                         .record = &b.record,
                                         .gradient = 1};
    int done = 0;

    (void)state;
    CASE_CPU_ONLY();
    b.record.inverse_tokens = NAN;
    assert_ok(ds_kernels_cpu.cross_entropy(&stream, &args));
    b.record.inverse_tokens = 0.25f;
    plain_cross_entropy(&b);
    assert_ok(held.work(held.args, &done));
    assert_int_equal(done, 1);
    assert_gradient(&b, 0);
    batch_free(&b);
}

static void not_finite_logits_give_a_loss_that_is_not_finite(void **state)
{
    const float poisons[] = {NAN, INFINITY};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct batch b = batch_make(&cases[3], 1);

        b.logits[(b.vocabulary - 1)] = poisons[i];
        assert_ok(batch_run(&b, 1));
        assert_false(isfinite(b.loss[0]));
        assert_true(isfinite(b.loss[1]));
        batch_free(&b);
    }
}

static void a_target_outside_the_vocabulary_is_refused(void **state)
{
    struct batch b = batch_make(&cases[3], 1);

    (void)state;
    CASE_CPU_ONLY();
    b.target[4] = 509;
    assert_int_equal(batch_run(&b, 1), DS_ERR_DATA);
    b.target[4] = -1;
    assert_int_equal(batch_run(&b, 1), DS_ERR_DATA);
    batch_free(&b);
}

#define PARTS 3

/* Three ranks by hand: columns cut unevenly, their maxima and sums put together between the calls. */
struct shared_out {
    struct batch *whole;
    size_t cuts[PARTS + 1];
    float *logits[PARTS], *loss[PARTS], *max[PARTS], *sums[PARTS];
};

static struct shared_out share_out(struct batch *b)
{
    struct shared_out s = {.whole = b, .cuts = {0, b->vocabulary / 7, b->vocabulary / 2 + 1}};

    s.cuts[PARTS] = b->vocabulary;
    for (size_t p = 0; p < PARTS; p++) {
        const size_t width = s.cuts[p + 1] - s.cuts[p];

        s.logits[p] = malloc(b->rows * width * sizeof(float));
        s.loss[p] = malloc(b->rows * sizeof(float));
        s.max[p] = malloc(b->rows * sizeof(float));
        s.sums[p] = malloc(b->rows * 2 * sizeof(float));
        for (size_t i = 0; i < b->rows; i++)
            memcpy(s.logits[p] + i * width, b->logits + i * b->vocabulary + s.cuts[p],
                   width * sizeof(float));
    }
    return s;
}

static void shared_free(struct shared_out *s)
{
    for (size_t p = 0; p < PARTS; p++) {
        free(s->logits[p]);
        free(s->loss[p]);
        free(s->max[p]);
        free(s->sums[p]);
    }
}

static struct ds_cross_entropy_args part_args(struct shared_out *s, size_t p, int gradient)
{
    const struct batch *b = s->whole;

    return (struct ds_cross_entropy_args){
        .logits_NV = ds_tensor2(s->logits[p], DS_F32, b->rows, s->cuts[p + 1] - s->cuts[p]),
        .target_N = ds_tensor1(b->target, DS_I32, b->rows),
        .loss_N = ds_tensor1(s->loss[p], DS_F32, b->rows),
        .record = &b->record,
        .gradient = gradient,
        .first = s->cuts[p],
        .vocabulary = b->vocabulary,
        .max_N = ds_tensor1(s->max[p], DS_F32, b->rows),
        .sums_N2 = ds_tensor2(s->sums[p], DS_F32, b->rows, 2),
    };
}

static ds_status shared_run(struct shared_out *s, int gradient)
{
    const size_t rows = s->whole->rows;

    for (size_t p = 0; p < PARTS; p++) {
        struct ds_cross_entropy_args args = part_args(s, p, gradient);
        DS_TRY(CASE_RUN(cross_entropy_max, &args));
        for (size_t i = 0; p > 0 && i < rows; i++)
            s->max[0][i] = fmaxf(s->max[0][i], s->max[p][i]);
    }
    for (size_t p = 0; p < PARTS; p++) {
        struct ds_cross_entropy_args args = part_args(s, p, gradient);
        memcpy(s->max[p], s->max[0], rows * sizeof(float));
        DS_TRY(CASE_RUN(cross_entropy_sum, &args));
        for (size_t i = 0; p > 0 && i < 2 * rows; i++)
            s->sums[0][i] += s->sums[p][i];
    }
    for (size_t p = 0; p < PARTS; p++) {
        struct ds_cross_entropy_args args = part_args(s, p, gradient);
        memcpy(s->sums[p], s->sums[0], 2 * rows * sizeof(float));
        DS_TRY(CASE_RUN(cross_entropy_finish, &args));
    }
    return DS_OK;
}

/* The parts' columns, back in their rows. */
static void shared_join(const struct shared_out *s)
{
    const struct batch *b = s->whole;

    for (size_t p = 0; p < PARTS; p++) {
        const size_t width = s->cuts[p + 1] - s->cuts[p];
        for (size_t i = 0; i < b->rows; i++)
            memcpy(b->logits + i * b->vocabulary + s->cuts[p], s->logits[p] + i * width,
                   width * sizeof(float));
    }
}

static void parts_of_the_vocabulary_give_the_loss_of_the_whole(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t i = 2; i < CASE_COUNT; i++) {
        struct batch b = batch_make(&cases[i], seed + 10 * i);
        struct batch untouched = batch_make(&cases[i], seed + 10 * i);
        struct shared_out s = share_out(&b);

        plain_cross_entropy(&b);
        assert_ok(shared_run(&s, 0));
        shared_join(&s);
        assert_memory_equal(b.logits, untouched.logits, b.rows * b.vocabulary * sizeof(float));
        assert_ok(shared_run(&s, 1));
        shared_join(&s);
        print_message("%zu x %zu in parts\n", b.rows, b.vocabulary);
        for (size_t p = 0; p < PARTS; p++) {
            assert_error(relative_error_above(s.loss[p], b.want_loss, b.rows, 1.0), 5e-7);
            assert_memory_equal(s.loss[p], s.loss[0], b.rows * sizeof(float));
        }
        assert_gradient(&b, 1 + PARTS); /* a part's sum is rounded, then added */
        shared_free(&s);
        batch_free(&b);
        batch_free(&untouched);
    }
}

static void a_poisoned_part_poisons_the_loss_of_all(void **state)
{
    const float poisons[] = {NAN, INFINITY};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct batch b = batch_make(&cases[3], 1);
        b.logits[b.vocabulary - 1] = poisons[i];
        struct shared_out s = share_out(&b);

        assert_ok(shared_run(&s, 1));
        for (size_t p = 0; p < PARTS; p++) {
            assert_false(isfinite(s.loss[p][0]));
            assert_true(isfinite(s.loss[p][1]));
        }
        b.target[4] = (int32_t)b.vocabulary;
        if (case_on_cpu())
            assert_int_equal(shared_run(&s, 1), DS_ERR_DATA);
        shared_free(&s);
        batch_free(&b);
    }
}

/* Rows of two, [x, 0] with target 1: p of the first is exp(x) / (exp(x) + 1), and so is its gradient. */
static void exp_is_exact_to_the_last_places_over_its_range(void **state)
{
    enum { ROWS = 80292 };
    static float logits[2 * ROWS], loss[ROWS];
    static int32_t target[ROWS];
    const struct ds_step_record record = {.inverse_tokens = 1.0f, .loss_scale = 1.0f};
    double worst = 0.0;

    (void)state;
    for (int i = 0; i < ROWS; i++) {
        logits[2 * i] = -110.0f + 0.00137f * (float)i;
        target[i] = 1;
    }
    struct batch b = {.rows = ROWS,
                      .vocabulary = 2,
                      .logits = logits,
                      .loss = loss,
                      .target = target,
                      .record = record};
    assert_ok(batch_run(&b, 1));
    for (int i = 0; i < ROWS; i++) {
        const float x = -110.0f + 0.00137f * (float)i;
        const double want = exp((double)x) / (exp((double)x) + 1.0);

        worst = fmax(worst, fabs(logits[2 * i] - want) / fmax(want * 0x1p-23, 0x1p-149));
    }
    print_message("largest error %g units in the last place\n", worst);
    assert_true(worst < 4.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_and_gradient_equal_fp64),
        cmocka_unit_test(ignored_rows_have_no_loss_and_no_gradient),
        cmocka_unit_test(without_gradient_the_logits_stay),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(bits_are_the_same_on_every_machine),
        cmocka_unit_test(the_record_is_read_when_the_work_runs),
        cmocka_unit_test(not_finite_logits_give_a_loss_that_is_not_finite),
        cmocka_unit_test(a_target_outside_the_vocabulary_is_refused),
        cmocka_unit_test(parts_of_the_vocabulary_give_the_loss_of_the_whole),
        cmocka_unit_test(a_poisoned_part_poisons_the_loss_of_all),
        cmocka_unit_test(exp_is_exact_to_the_last_places_over_its_range),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
