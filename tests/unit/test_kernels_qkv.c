/* test_kernels_qkv.c - cutting, normalising and rotating heads of the cpu table, and the way back,
 * against fp64. */
// link: device kernels base
#include "kernel_case.h"

#define POSITIONS 50
#define EPSILON   1e-6f

static const struct {
    size_t tokens, q_heads, k_heads, dim;
    int has_gains;
} rows[] = {
    {1, 1, 1, 2, 0},  {5, 7, 1, 10, 0},  {70, 4, 2, 32, 0}, {3, 6, 3, 128, 0}, {1, 1, 1, 2, 1},
    {5, 7, 1, 10, 1}, {70, 4, 2, 32, 1}, {3, 6, 3, 128, 1}, {130, 2, 2, 6, 1},
};

struct qkv_case {
    size_t tokens, q_heads, k_heads, dim, width;
    int has_gains;
    double sign; /* of what backward subtracts: -1; 1 where all inputs are sizes */
    int32_t *position;
    float *rotary, *qkv, *q_gain, *k_gain;
    float *q, *k, *v, *q_rstd, *k_rstd;
    float *dq, *dk, *dv, *dqkv, *dq_gain, *dk_gain;
    /* the inputs once more, for the reference */
    double *qkv64, *q_gain64, *k_gain64, *dq64, *dk64, *dv64;
};

static void make_tables(struct kernel_case *k, struct qkv_case *c)
{
    c->position = case_bytes(k, c->tokens * sizeof *c->position);
    for (size_t t = 0; t < c->tokens; t++)
        c->position[t] = (int32_t)(case_bits(k) % POSITIONS);
    c->rotary = case_floats(k, POSITIONS * c->dim);
    for (size_t p = 0; p < POSITIONS; p++)
        for (size_t i = 0; i < c->dim / 2; i++) {
            double angle = (double)p * pow(10000, -2.0 * (double)i / (double)c->dim);
            c->rotary[p * c->dim + i] = (float)(1.1 * cos(angle)); /* yarn scales both */
            c->rotary[p * c->dim + c->dim / 2 + i] = (float)(1.1 * sin(angle));
        }
}

static struct qkv_case make_case(struct kernel_case *k, size_t row)
{
    size_t t = rows[row].tokens, h = rows[row].q_heads, g = rows[row].k_heads, d = rows[row].dim;
    struct qkv_case c = {.tokens = t,
                         .q_heads = h,
                         .k_heads = g,
                         .dim = d,
                         .width = (h + 2 * g) * d,
                         .has_gains = rows[row].has_gains,
                         .sign = -1};

    make_tables(k, &c);
    c.qkv = case_floats(k, t * c.width);
    c.q_gain = case_floats(k, d);
    c.k_gain = case_floats(k, d);
    c.q = case_floats(k, t * h * d);
    c.k = case_floats(k, t * g * d);
    c.v = case_floats(k, t * g * d);
    c.q_rstd = case_floats(k, t * h);
    c.k_rstd = case_floats(k, t * g);
    c.dq = case_floats(k, t * h * d);
    c.dk = case_floats(k, t * g * d);
    c.dv = case_floats(k, t * g * d);
    c.dqkv = case_floats(k, t * c.width);
    c.dq_gain = case_floats(k, d);
    c.dk_gain = case_floats(k, d);
    c.qkv64 = case_widen(k, c.qkv, t * c.width);
    c.q_gain64 = case_widen(k, c.q_gain, d);
    c.k_gain64 = case_widen(k, c.k_gain, d);
    c.dq64 = case_widen(k, c.dq, t * h * d);
    c.dk64 = case_widen(k, c.dk, t * g * d);
    c.dv64 = case_widen(k, c.dv, t * g * d);
    return c;
}

static struct ds_qkv_split_args split_args(const struct qkv_case *c)
{
    struct ds_qkv_split_args args = {
        .qkv_TN = f32_2(c->qkv, c->tokens, c->width),
        .position_T = ds_tensor1(c->position, DS_I32, c->tokens),
        .rotary_PD = f32_2(c->rotary, POSITIONS, c->dim),
        .q_THD = f32_3(c->q, c->tokens, c->q_heads, c->dim),
        .k_TGD = f32_3(c->k, c->tokens, c->k_heads, c->dim),
        .v_TGD = f32_3(c->v, c->tokens, c->k_heads, c->dim),
        .epsilon = EPSILON,
    };

    if (c->has_gains) {
        args.q_gain_D = f32_1(c->q_gain, c->dim);
        args.k_gain_D = f32_1(c->k_gain, c->dim);
        args.q_rstd_TH = f32_2(c->q_rstd, c->tokens, c->q_heads);
        args.k_rstd_TG = f32_2(c->k_rstd, c->tokens, c->k_heads);
    }
    return args;
}

static struct ds_qkv_join_args join_args(const struct qkv_case *c)
{
    struct ds_qkv_split_args split = split_args(c);
    struct ds_qkv_join_args args = {
        .dq_THD = f32_3(c->dq, c->tokens, c->q_heads, c->dim),
        .dk_TGD = f32_3(c->dk, c->tokens, c->k_heads, c->dim),
        .dv_TGD = f32_3(c->dv, c->tokens, c->k_heads, c->dim),
        .position_T = split.position_T,
        .rotary_PD = split.rotary_PD,
        .dqkv_TN = f32_2(c->dqkv, c->tokens, c->width),
    };

    if (c->has_gains) {
        args.qkv_TN = split.qkv_TN;
        args.q_gain_D = split.q_gain_D;
        args.k_gain_D = split.k_gain_D;
        args.q_rstd_TH = split.q_rstd_TH;
        args.k_rstd_TG = split.k_rstd_TG;
        args.dq_gain_D = f32_1(c->dq_gain, c->dim);
        args.dk_gain_D = f32_1(c->dk_gain, c->dim);
    }
    return args;
}

/* ---- the reference: one head at a time */

static double head_rstd(const struct qkv_case *c, const double *x)
{
    double sum = 0;

    if (!c->has_gains)
        return 1;
    for (size_t i = 0; i < c->dim; i++)
        sum += x[i] * x[i];
    return 1 / sqrt(sum / (double)c->dim + EPSILON);
}

static void reference_head(const struct qkv_case *c, size_t t, const double *x, const double *gain,
                           double *out)
{
    const float *cosine = c->rotary + (size_t)c->position[t] * c->dim, *sine = cosine + c->dim / 2;
    double rstd = head_rstd(c, x);
    size_t half = c->dim / 2;

    for (size_t i = 0; i < half; i++) {
        double low = x[i] * rstd * (c->has_gains ? gain[i] : 1);
        double high = x[i + half] * rstd * (c->has_gains ? gain[i + half] : 1);

        out[i] = low * cosine[i] - high * sine[i];
        out[i + half] = high * cosine[i] + low * sine[i];
    }
}

static void reference_split(const struct qkv_case *c, double *q, double *k, double *v)
{
    for (size_t t = 0; t < c->tokens; t++) {
        const double *x = c->qkv64 + t * c->width;

        for (size_t h = 0; h < c->q_heads; h++, x += c->dim, q += c->dim)
            reference_head(c, t, x, c->q_gain64, q);
        for (size_t g = 0; g < c->k_heads; g++, x += c->dim, k += c->dim)
            reference_head(c, t, x, c->k_gain64, k);
        for (size_t i = 0; i < c->k_heads * c->dim; i++)
            *v++ = x[i];
    }
}

static void reference_head_back(const struct qkv_case *c, size_t t, const double *x,
                                const double *gain, const double *dy, double *dx, double *dgain)
{
    const float *cosine = c->rotary + (size_t)c->position[t] * c->dim, *sine = cosine + c->dim / 2;
    double rstd = head_rstd(c, x), mean = 0;
    size_t half = c->dim / 2;

    for (size_t i = 0; i < half; i++) {
        dx[i] = dy[i] * cosine[i] + dy[i + half] * sine[i];
        dx[i + half] = dy[i + half] * cosine[i] + c->sign * dy[i] * sine[i];
    }
    for (size_t i = 0; i < c->dim && c->has_gains; i++) {
        dgain[i] += dx[i] * x[i] * rstd;
        mean += dx[i] * gain[i] * x[i] * rstd / (double)c->dim;
    }
    for (size_t i = 0; i < c->dim && c->has_gains; i++)
        dx[i] = rstd * (dx[i] * gain[i] + c->sign * x[i] * rstd * mean);
}

static void reference_join(const struct qkv_case *c, double *dqkv, double *dq_gain, double *dk_gain)
{
    const double *dq = c->dq64, *dk = c->dk64, *dv = c->dv64;

    for (size_t t = 0; t < c->tokens; t++) {
        const double *x = c->qkv64 + t * c->width;

        for (size_t h = 0; h < c->q_heads; h++, x += c->dim, dqkv += c->dim, dq += c->dim)
            reference_head_back(c, t, x, c->q_gain64, dq, dqkv, dq_gain);
        for (size_t g = 0; g < c->k_heads; g++, x += c->dim, dqkv += c->dim, dk += c->dim)
            reference_head_back(c, t, x, c->k_gain64, dk, dqkv, dk_gain);
        for (size_t i = 0; i < c->k_heads * c->dim; i++)
            *dqkv++ = *dv++;
    }
}

static double reference_loss(void *of)
{
    const struct qkv_case *c = of;
    size_t q_count = c->tokens * c->q_heads * c->dim, k_count = c->tokens * c->k_heads * c->dim;
    double *out = calloc(q_count + 2 * k_count, sizeof *out), loss = 0;

    assert_non_null(out);
    reference_split(c, out, out + q_count, out + q_count + k_count);
    for (size_t i = 0; i < q_count; i++)
        loss += out[i] * c->dq64[i];
    for (size_t i = 0; i < k_count; i++)
        loss += out[q_count + i] * c->dk64[i] + out[q_count + k_count + i] * c->dv64[i];
    free(out);
    return loss;
}

/* ---- tests */

static void run_split(struct kernel_case *k, const struct qkv_case *c)
{
    struct ds_qkv_split_args args = split_args(c);
    struct ds_tensor *stored[] = {&args.qkv_TN, &args.q_gain_D, &args.k_gain_D,
                                  &args.q_THD,  &args.k_TGD,    &args.v_TGD};

    FOR_ROWS(stored, i) case_store(k, stored[i]);
    assert_ok(CASE_RUN(qkv_split, &args));
    case_load(k);
}

static void run_join(struct kernel_case *k, struct ds_qkv_join_args args, enum case_storage gains)
{
    struct ds_tensor *stored[] = {&args.dq_THD,   &args.dk_TGD,   &args.dv_TGD, &args.qkv_TN,
                                  &args.q_gain_D, &args.k_gain_D, &args.dqkv_TN};

    FOR_ROWS(stored, i) case_store(k, stored[i]);
    case_store_as(k, &args.dq_gain_D, gains);
    case_store_as(k, &args.dk_gain_D, gains);
    assert_ok(CASE_RUN(qkv_join, &args));
    case_load(k);
}

static void check_split(struct kernel_case *k, size_t row)
{
    struct qkv_case c = make_case(k, row);
    size_t q_count = c.tokens * c.q_heads * c.dim, k_count = c.tokens * c.k_heads * c.dim;
    double *q = case_doubles(k, q_count), *key = case_doubles(k, k_count);
    double *v = case_doubles(k, k_count);

    reference_split(&c, q, key, v);
    run_split(k, &c);
    assert_rounded(k->storage, c.q, q, q_count);
    assert_rounded(k->storage, c.k, key, k_count);
    for (size_t at = 0; at < k_count; at++)
        assert_true(c.v[at] == v[at]);
    case_free(k);
}

static void split_matches_fp64(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k) FOR_ROWS(rows, i) check_split(&k, i);
}

/* What backward sums up: its results, and the sizes of their terms. */
struct join_sums {
    double *dqkv, *dq_gain, *dk_gain;
};

static struct join_sums join_sums(struct kernel_case *k, const struct qkv_case *c, int add)
{
    struct join_sums s = {case_doubles(k, c->tokens * c->width), case_doubles(k, c->dim),
                          case_doubles(k, c->dim)};

    for (size_t i = 0; i < c->dim && add; i++) {
        s.dq_gain[i] = c->dq_gain[i];
        s.dk_gain[i] = c->dk_gain[i];
    }
    return s;
}

static void to_sizes(double *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] = fabs(x[i]);
}

static void float_sizes(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] = fabsf(x[i]);
}

/* The reference once more, with sizes instead of values: nothing cancels. What it was made of are sizes
 * from then on. */
static struct join_sums reference_sizes(struct kernel_case *k, const struct qkv_case *of, int add)
{
    struct qkv_case c = *of;
    size_t q_count = c.tokens * c.q_heads * c.dim, k_count = c.tokens * c.k_heads * c.dim;
    struct join_sums sizes;

    c.sign = 1;
    c.rotary = case_copy(k, of->rotary, POSITIONS * c.dim);
    float_sizes(c.rotary, POSITIONS * c.dim);
    to_sizes(c.qkv64, c.tokens * c.width);
    to_sizes(c.q_gain64, c.dim);
    to_sizes(c.k_gain64, c.dim);
    to_sizes(c.dq64, q_count);
    to_sizes(c.dk64, k_count);
    to_sizes(c.dv64, k_count);
    sizes = join_sums(k, &c, add);
    to_sizes(sizes.dq_gain, c.dim);
    to_sizes(sizes.dk_gain, c.dim);
    reference_join(&c, sizes.dqkv, sizes.dq_gain, sizes.dk_gain);
    return sizes;
}

/* Roundings on the way of a term: a sum in 16 lanes (LANES_DEPTH additions), rstd (such a sum, its square,
 * division, epsilon, of all that the root takes half; root, division), rotation (2). Into dqkv it goes
 * through the mean (3 factors, the sum, 3 more and rstd twice), x, the difference, and rstd once more.
 * Into a gain's gradient: x rstd, the product, and blocks of 64 tokens summed before they are added up. */
#define LANES_DEPTH(dim)    ((double)(((dim) + 15) / 16) + 4)
#define RSTD_ROUNDINGS(dim) ((LANES_DEPTH(dim) + 3) / 2 + 2)
#define JOIN_ROUNDINGS(dim) (2 + 2 + LANES_DEPTH(dim) + 3 + 3 * RSTD_ROUNDINGS(dim) + 3)
#define GAIN_ROUNDINGS(c, heads) \
    (2 + 2 + RSTD_ROUNDINGS((c).dim) + 64.0 * (double)(heads) + (double)(c).tokens / 64 + 2)

static void check_join(struct kernel_case *k, size_t row, int add, enum case_storage gains)
{
    struct qkv_case c = make_case(k, row);
    struct join_sums want, size;

    for (size_t i = 0; i < c.dim; i++) {
        c.dq_gain[i] = case_rounded(gains, c.dq_gain[i]);
        c.dk_gain[i] = case_rounded(gains, c.dk_gain[i]);
    }
    want = join_sums(k, &c, add);
    reference_join(&c, want.dqkv, want.dq_gain, want.dk_gain);
    size = reference_sizes(k, &c, add);
    struct ds_qkv_join_args args = join_args(&c);
    args.gain_add = add;
    run_split(k, &c);
    run_join(k, args, gains);
    assert_bounded(k->storage, c.dqkv, want.dqkv, size.dqkv, c.tokens * c.width,
                   JOIN_ROUNDINGS(c.dim));
    if (c.has_gains) {
        assert_bounded(gains, c.dq_gain, want.dq_gain, size.dq_gain, c.dim,
                       GAIN_ROUNDINGS(c, c.q_heads));
        assert_bounded(gains, c.dk_gain, want.dk_gain, size.dk_gain, c.dim,
                       GAIN_ROUNDINGS(c, c.k_heads));
    }
    case_free(k);
}

static void join_matches_fp64(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    FOR_ROWS(rows, i)
    for (int variant = 0; variant < 2 * CASE_STORAGE_COUNT; variant++)
        check_join(&k, i, variant % 2, (enum case_storage)(variant / 2));
}

static void join_matches_differences(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(rows, i)
    {
        struct qkv_case c = make_case(&k, i);

        run_split(&k, &c);
        run_join(&k, join_args(&c), CASE_F32);
        case_assert_slope(&k, reference_loss, &c, c.qkv64, c.dqkv, c.tokens * c.width);
        if (c.has_gains) {
            case_assert_slope(&k, reference_loss, &c, c.q_gain64, c.dq_gain, c.dim);
            case_assert_slope(&k, reference_loss, &c, c.k_gain64, c.dk_gain, c.dim);
        }
        case_free(&k);
    }
}

/* The parts of a backward: without the gains' outputs dqkv has the same bits. */
static void join_without_gain_gradients_gives_the_same_bits(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct qkv_case c = make_case(&k, 6);
    struct ds_qkv_join_args args = join_args(&c);
    float *dqkv = case_floats(&k, c.tokens * c.width), *kept;

    (void)state;
    run_split(&k, &c);
    assert_ok(CASE_RUN(qkv_join, &args));
    kept = case_copy(&k, c.dq_gain, c.dim);
    args.dqkv_TN.data = dqkv;
    args.dq_gain_D.data = args.dk_gain_D.data = NULL;
    assert_ok(CASE_RUN(qkv_join, &args));
    assert_memory_equal(dqkv, c.dqkv, c.tokens * c.width * sizeof *dqkv);
    assert_memory_equal(kept, c.dq_gain, c.dim * sizeof *kept);
    case_free(&k);
}

/* `row`: a row in one storage */
static void run_both(uint64_t seed, size_t row, void *out)
{
    struct kernel_case k = {.random = seed,
                            .storage = (enum case_storage)(row % CASE_STORAGE_COUNT)};
    struct qkv_case c = make_case(&k, row / CASE_STORAGE_COUNT);
    size_t q_count = c.tokens * c.q_heads * c.dim;
    struct ds_qkv_join_args args = join_args(&c);
    float *to = out;

    run_split(&k, &c);
    args.dqkv_TN.data = to + q_count;
    if (c.has_gains)
        args.dq_gain_D.data = to + q_count + c.tokens * c.width;
    run_join(&k, args, k.storage);
    memcpy(to, c.q, q_count * sizeof *to);
    case_free(&k);
}

static void qkv_has_the_same_bits_on_any_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    FOR_ROWS(rows, i)
    {
        size_t width = (rows[i].q_heads + 2 * rows[i].k_heads) * rows[i].dim;
        size_t count = rows[i].tokens * (rows[i].q_heads * rows[i].dim + width);

        if (rows[i].has_gains)
            count += rows[i].dim;
        for (size_t storage = 0; storage < CASE_STORAGE_COUNT; storage++)
            case_assert_threads_agree(run_both, seed, i * CASE_STORAGE_COUNT + storage,
                                      count * sizeof(float));
    }
}

static void dtypes_that_do_not_go_together_are_refused(void **state)
{
    struct kernel_case k = {.random = 1};
    struct qkv_case c = make_case(&k, 5);
    struct ds_qkv_split_args split = split_args(&c);
    struct ds_qkv_join_args join = join_args(&c);

    (void)state;
    split.k_TGD.dtype = DS_F16;
    assert_int_equal(CASE_RUN(qkv_split, &split), DS_ERR_UNSUPPORTED);
    split = split_args(&c);
    split.rotary_PD.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(qkv_split, &split), DS_ERR_UNSUPPORTED);
    split = split_args(&c);
    split.qkv_TN.dtype = DS_I32;
    assert_int_equal(CASE_RUN(qkv_split, &split), DS_ERR_UNSUPPORTED);
    join.dv_TGD.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(qkv_join, &join), DS_ERR_UNSUPPORTED);
    join = join_args(&c);
    join.k_rstd_TG.dtype = DS_F16;
    assert_int_equal(CASE_RUN(qkv_join, &join), DS_ERR_UNSUPPORTED);
    case_free(&k);
}

/* One element that is not finite reaches its own head, forward and back, and no other. */
static void what_is_not_finite_stays_in_its_head(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    for (size_t row = 2; row < 8; row += 4) { /* without gains and with them */
        struct qkv_case c = make_case(&k, row);

        c.qkv[3] = row == 2 ? INFINITY : NAN;
        c.dq[3] = NAN;
        run_split(&k, &c);
        assert_false(isfinite(c.q[3]));
        assert_true(isfinite(c.q[c.dim]) && isfinite(c.k[0]));
        run_join(&k, join_args(&c), CASE_F32);
        assert_true(isnan(c.dqkv[3]));
        assert_true(isfinite(c.dqkv[c.dim]));
        assert_true(!c.has_gains || isnan(c.dq_gain[3]));
        case_free(&k);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_matches_fp64),
        cmocka_unit_test(join_matches_fp64),
        cmocka_unit_test(join_matches_differences),
        cmocka_unit_test(join_without_gain_gradients_gives_the_same_bits),
        cmocka_unit_test(qkv_has_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(dtypes_that_do_not_go_together_are_refused),
        cmocka_unit_test(what_is_not_finite_stays_in_its_head),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
