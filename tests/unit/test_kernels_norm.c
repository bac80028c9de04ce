/* test_kernels_norm.c - RMSNorm of the cpu table against fp64, and the norm of gradients. */
// link: device kernels base
#include "kernel_case.h"

static const struct {
    size_t tokens, width;
} rows[] = {{1, 1}, {1, 33}, {5, 7}, {3, 64}, {130, 33}, {67, 200}, {2, 2048}, {200, 65}};

#define EPSILON 1e-5f

struct norm_reference {
    size_t tokens, width;
    double *x, *gain, *dy;
};

static double reference_rstd(const struct norm_reference *r, size_t t)
{
    double sum = 0;

    for (size_t i = 0; i < r->width; i++)
        sum += r->x[t * r->width + i] * r->x[t * r->width + i];
    return 1 / sqrt(sum / (double)r->width + EPSILON);
}

static void reference_forward(const struct norm_reference *r, double *y, double *rstd)
{
    for (size_t t = 0; t < r->tokens; t++) {
        rstd[t] = reference_rstd(r, t);
        for (size_t i = 0; i < r->width; i++)
            y[t * r->width + i] = r->gain[i] * r->x[t * r->width + i] * rstd[t];
    }
}

static double reference_loss(void *of)
{
    const struct norm_reference *r = of;
    double loss = 0;

    for (size_t t = 0; t < r->tokens; t++) {
        double rstd = reference_rstd(r, t);
        for (size_t i = 0; i < r->width; i++)
            loss += r->dy[t * r->width + i] * r->gain[i] * r->x[t * r->width + i] * rstd;
    }
    return loss;
}

static void reference_backward(const struct norm_reference *r, double *dx, double *dgain)
{
    for (size_t t = 0; t < r->tokens; t++) {
        const double *x = r->x + t * r->width, *dy = r->dy + t * r->width;
        double rstd = reference_rstd(r, t), mean = 0;

        for (size_t i = 0; i < r->width; i++) {
            mean += dy[i] * r->gain[i] * x[i] * rstd / (double)r->width;
            dgain[i] += dy[i] * x[i] * rstd;
        }
        for (size_t i = 0; i < r->width; i++)
            dx[t * r->width + i] += rstd * (dy[i] * r->gain[i] - x[i] * rstd * mean);
    }
}

static void run_forward(struct kernel_case *k, struct ds_rmsnorm_args args)
{
    struct ds_tensor *stored[] = {&args.x_TC, &args.residual_TC, &args.gain_C, &args.sum_TC,
                                  &args.y_TC};

    FOR_ROWS(stored, i) case_store(k, stored[i]);
    assert_ok(CASE_RUN(rmsnorm_forward, &args));
    case_load(k);
}

static void check_forward(struct kernel_case *k, size_t tokens, size_t width, int residual,
                          int sum_is_x)
{
    size_t count = tokens * width;
    float *x = case_floats(k, count), *add = case_floats(k, count), *gain = case_floats(k, width);
    float *y = case_floats(k, count), *rstd = case_floats(k, tokens);
    float *sum = sum_is_x ? x : case_floats(k, count);
    double *want_y = case_doubles(k, count), *want_rstd = case_doubles(k, tokens);
    struct norm_reference r = {tokens, width, case_widen(k, x, count), case_widen(k, gain, width),
                               NULL};
    struct ds_rmsnorm_args args = {.x_TC = f32_2(x, tokens, width),
                                   .gain_C = f32_1(gain, width),
                                   .y_TC = f32_2(y, tokens, width),
                                   .rstd_T = f32_1(rstd, tokens),
                                   .epsilon = EPSILON};

    if (residual) {
        args.residual_TC = f32_2(add, tokens, width);
        args.sum_TC = f32_2(sum, tokens, width);
        for (size_t i = 0; i < count; i++) /* the norm is that of the sum that is kept */
            r.x[i] = (double)case_rounded(k->storage, x[i] + add[i]);
    }
    reference_forward(&r, want_y, want_rstd);
    run_forward(k, args);
    assert_rounded(k->storage, y, want_y, count);
    assert_close(rstd, want_rstd, tokens);
    if (residual)
        for (size_t i = 0; i < count; i++)
            assert_true((double)sum[i] == r.x[i]);
}

static void rmsnorm_forward_matches_fp64(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    FOR_ROWS(rows, i)
    {
        check_forward(&k, rows[i].tokens, rows[i].width, 0, 0);
        check_forward(&k, rows[i].tokens, rows[i].width, 1, 0);
        check_forward(&k, rows[i].tokens, rows[i].width, 1, 1);
        case_free(&k);
    }
}

static void rmsnorm_forward_without_rstd_gives_the_same_output(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    float *x = case_floats(&k, 66), *gain = case_floats(&k, 33), *rstd = case_floats(&k, 2);
    float *y = case_floats(&k, 66), *other = case_floats(&k, 66);
    struct ds_rmsnorm_args args = {f32_2(x, 2, 33), case_absent,    f32_1(gain, 33), case_absent,
                                   f32_2(y, 2, 33), f32_1(rstd, 2), EPSILON};

    (void)state;
    assert_ok(CASE_RUN(rmsnorm_forward, &args));
    args.rstd_T.data = NULL;
    args.y_TC.data = other;
    assert_ok(CASE_RUN(rmsnorm_forward, &args));
    assert_memory_equal(y, other, 66 * sizeof *y);
    case_free(&k);
}

/* The order of the sum is part of the contract: lanes of 16, then pairs, in plain scalar code here,
 * in vectors there. */
static float scalar_mean_square(const float *x, size_t count)
{
    float lane[16] = {0};

    for (size_t i = 0; i < count; i++)
        lane[i % 16] += x[i] * x[i];
    for (size_t width = 8; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0] / (float)count;
}

static void rstd_has_the_bits_of_the_scalar_sum(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    CASE_CPU_ONLY();
    FOR_ROWS(rows, i)
    {
        size_t tokens = rows[i].tokens, width = rows[i].width;
        float *x = case_floats(&k, tokens * width), *y = case_floats(&k, tokens * width);
        float *gain = case_floats(&k, width), *rstd = case_floats(&k, tokens);
        struct ds_rmsnorm_args args = {f32_2(x, tokens, width),
                                       case_absent,
                                       f32_1(gain, width),
                                       case_absent,
                                       f32_2(y, tokens, width),
                                       f32_1(rstd, tokens),
                                       EPSILON};

        assert_ok(CASE_RUN(rmsnorm_forward, &args));
        for (size_t t = 0; t < tokens; t++)
            assert_true(rstd[t] ==
                        1.0f / sqrtf(scalar_mean_square(x + t * width, width) + EPSILON));
        case_free(&k);
    }
}

struct backward_case {
    struct norm_reference r;
    float *x, *gain, *rstd, *dy, *dx, *dgain;
    double *want_dx, *want_dgain;
};

static struct backward_case make_backward(struct kernel_case *k, size_t tokens, size_t width)
{
    size_t count = tokens * width;
    struct backward_case b = {
        .x = case_floats(k, count),
        .gain = case_floats(k, width),
        .rstd = case_floats(k, tokens),
        .dy = case_floats(k, count),
        .dx = case_floats(k, count),
        .dgain = case_floats(k, width),
        .want_dx = case_doubles(k, count),
        .want_dgain = case_doubles(k, width),
    };

    b.r = (struct norm_reference){tokens, width, case_widen(k, b.x, count),
                                  case_widen(k, b.gain, width), case_widen(k, b.dy, count)};
    for (size_t t = 0; t < tokens; t++)
        b.rstd[t] = (float)reference_rstd(&b.r, t);
    return b;
}

static struct ds_rmsnorm_backward_args backward_args(const struct backward_case *b)
{
    size_t tokens = b->r.tokens, width = b->r.width;

    return (struct ds_rmsnorm_backward_args){
        .x_TC = f32_2(b->x, tokens, width),
        .gain_C = f32_1(b->gain, width),
        .rstd_T = f32_1(b->rstd, tokens),
        .dy_TC = f32_2(b->dy, tokens, width),
        .dx_TC = f32_2(b->dx, tokens, width),
        .dgain_C = f32_1(b->dgain, width),
    };
}

static void run_backward(struct kernel_case *k, struct ds_rmsnorm_backward_args args,
                         enum case_storage gains)
{
    struct ds_tensor *stored[] = {&args.x_TC, &args.gain_C, &args.dy_TC, &args.residual_TC,
                                  &args.dx_TC};

    FOR_ROWS(stored, i) case_store(k, stored[i]);
    case_store_as(k, &args.dgain_C, gains);
    assert_ok(CASE_RUN(rmsnorm_backward, &args));
    case_load(k);
}

/* Where the residual lies: nowhere, apart, in dx. */
enum residual { RESIDUAL_NONE, RESIDUAL_APART, RESIDUAL_IN_DX, RESIDUAL_COUNT };

static void check_backward(struct kernel_case *k, size_t tokens, size_t width, int variant)
{
    const enum case_storage gains = (enum case_storage)(variant / 2 / RESIDUAL_COUNT);
    const enum residual where = (enum residual)(variant / 2 % RESIDUAL_COUNT);
    const int dx_is_dy = variant & 1, add = where != RESIDUAL_NONE;
    struct backward_case b = make_backward(k, tokens, width);
    float *residual = case_floats(k, tokens * width);
    struct ds_rmsnorm_backward_args args;

    if (dx_is_dy)
        b.dx = b.dy;
    if (where == RESIDUAL_IN_DX)
        residual = b.dx;
    args = backward_args(&b);
    if (add)
        args.residual_TC = f32_2(residual, tokens, width);
    args.gain_add = add;
    for (size_t i = 0; i < tokens * width && add; i++)
        b.want_dx[i] = residual[i];
    for (size_t i = 0; i < width && add; i++)
        b.want_dgain[i] = b.dgain[i] = case_rounded(gains, b.dgain[i]);
    reference_backward(&b.r, b.want_dx, b.want_dgain);
    run_backward(k, args, gains);
    /* of a single column the gradient is zero but for epsilon: only noise to compare */
    if (width > 1)
        assert_rounded(k->storage, b.dx, b.want_dx, tokens * width);
    assert_rounded(gains, b.dgain, b.want_dgain, width);
    case_free(k);
}

static void rmsnorm_backward_matches_fp64(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    FOR_ROWS(rows, i)
    for (int variant = 0; variant < 2 * RESIDUAL_COUNT * CASE_STORAGE_COUNT; variant++)
        check_backward(&k, rows[i].tokens, rows[i].width, variant);
}

static void rmsnorm_backward_matches_differences(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(rows, i)
    {
        struct backward_case b = make_backward(&k, rows[i].tokens, rows[i].width);
        struct ds_rmsnorm_backward_args args = backward_args(&b);

        if (rows[i].width == 1)
            continue;
        assert_ok(CASE_RUN(rmsnorm_backward, &args));
        case_assert_slope(&k, reference_loss, &b.r, b.r.x, b.dx, b.r.tokens * b.r.width);
        case_assert_slope(&k, reference_loss, &b.r, b.r.gain, b.dgain, b.r.width);
        case_free(&k);
    }
    case_free(&k);
}

/* The parts of a backward, input and weight, are separate calls. */
static void rmsnorm_backward_in_parts_gives_the_same_bits(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct backward_case b = make_backward(&k, 70, 33);
    struct ds_rmsnorm_backward_args args = backward_args(&b);
    float *dx = case_floats(&k, 70 * 33), *dgain = case_floats(&k, 33);
    float *kept = case_copy(&k, dgain, 33);

    (void)state;
    assert_ok(CASE_RUN(rmsnorm_backward, &args));
    args.dx_TC.data = dx;
    args.dgain_C.data = NULL;
    assert_ok(CASE_RUN(rmsnorm_backward, &args));
    assert_memory_equal(dgain, kept, 33 * sizeof *kept);
    args.dx_TC.data = NULL;
    args.dgain_C.data = dgain;
    assert_ok(CASE_RUN(rmsnorm_backward, &args));
    assert_memory_equal(b.dx, dx, 70 * 33 * sizeof *dx);
    assert_memory_equal(b.dgain, dgain, 33 * sizeof *dgain);
    case_free(&k);
}

/* `row`: a row in one storage */
static void run_norm(uint64_t seed, size_t row, void *out)
{
    struct kernel_case k = {.random = seed,
                            .storage = (enum case_storage)(row % CASE_STORAGE_COUNT)};
    struct backward_case b = make_backward(&k, rows[row / CASE_STORAGE_COUNT].tokens,
                                           rows[row / CASE_STORAGE_COUNT].width);
    size_t count = b.r.tokens * b.r.width;
    float *to = out;
    struct ds_rmsnorm_backward_args backward = backward_args(&b);
    struct ds_rmsnorm_args forward = {backward.x_TC,
                                      case_absent,
                                      backward.gain_C,
                                      case_absent,
                                      f32_2(to, b.r.tokens, b.r.width),
                                      f32_1(to + count, b.r.tokens),
                                      EPSILON};

    backward.dx_TC.data = to + count + b.r.tokens;
    backward.dgain_C.data = to + 2 * count + b.r.tokens;
    run_forward(&k, forward);
    run_backward(&k, backward, k.storage);
    case_free(&k);
}

static void rmsnorm_has_the_same_bits_on_any_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    FOR_ROWS(rows, i)
    {
        size_t count = rows[i].tokens * rows[i].width;

        for (size_t storage = 0; storage < CASE_STORAGE_COUNT; storage++)
            case_assert_threads_agree(run_norm, seed, i * CASE_STORAGE_COUNT + storage,
                                      (2 * count + rows[i].tokens + rows[i].width) * sizeof(float));
    }
}

static void dtypes_that_do_not_go_together_are_refused(void **state)
{
    struct kernel_case k = {.random = 1};
    struct backward_case b = make_backward(&k, 2, 3);
    struct ds_rmsnorm_backward_args args = backward_args(&b);
    struct ds_rmsnorm_args forward = {args.x_TC,  case_absent, args.gain_C, case_absent,
                                      args.dx_TC, args.rstd_T, EPSILON};

    (void)state;
    args.dy_TC.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(rmsnorm_backward, &args), DS_ERR_UNSUPPORTED);
    args = backward_args(&b);
    args.dgain_C.dtype = DS_F64;
    assert_int_equal(CASE_RUN(rmsnorm_backward, &args), DS_ERR_UNSUPPORTED);
    forward.gain_C.dtype = DS_F16;
    assert_int_equal(CASE_RUN(rmsnorm_forward, &forward), DS_ERR_UNSUPPORTED);
    forward.gain_C.dtype = DS_F32;
    forward.rstd_T.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(rmsnorm_forward, &forward), DS_ERR_UNSUPPORTED);
    case_free(&k);
}

static void what_is_not_finite_stays_in_its_token(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    {
        struct backward_case b = make_backward(&k, 3, 33);
        struct ds_rmsnorm_backward_args args = backward_args(&b);
        float *y = case_floats(&k, 3 * 33);

        b.x[33 + 4] = NAN;
        b.dy[66 + 5] = INFINITY;
        run_forward(&k, (struct ds_rmsnorm_args){args.x_TC, case_absent, args.gain_C, case_absent,
                                                 f32_2(y, 3, 33), args.rstd_T, EPSILON});
        run_backward(&k, args, CASE_F32);
        assert_true(isfinite(y[0]) && isnan(y[33]) && isfinite(y[66]));
        assert_true(isfinite(b.dx[0]) && isnan(b.dx[33]) && !isfinite(b.dx[66]));
        assert_true(isnan(b.dgain[4]) && isnan(b.dgain[6])); /* by way of rstd */
        case_free(&k);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_forward_matches_fp64),
        cmocka_unit_test(rmsnorm_forward_without_rstd_gives_the_same_output),
        cmocka_unit_test(rstd_has_the_bits_of_the_scalar_sum),
        cmocka_unit_test(rmsnorm_backward_matches_fp64),
        cmocka_unit_test(rmsnorm_backward_matches_differences),
        cmocka_unit_test(rmsnorm_backward_in_parts_gives_the_same_bits),
        cmocka_unit_test(rmsnorm_has_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(dtypes_that_do_not_go_together_are_refused),
        cmocka_unit_test(what_is_not_finite_stays_in_its_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
