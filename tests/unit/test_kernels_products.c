/* test_kernels_products.c - a product as a part of the call that reads it has the bits of two calls, or, of a loss, which may
 * leave a factor away, the same gradient. Factors are -1, 0 and 1, so that every product is exact in 16 bits, whoever makes
 * it; that the two are right by themselves other tests say. */
// link: device kernels base
#include "kernel_case.h"

#define POSITIONS 50

/* Those with many tokens are worth a kernel of their own on a GPU; none is in whole tiles of it. */
static const struct {
    size_t tokens, hidden, width;
} rows[] = {{5, 33, 7}, {37, 8, 40}, {300, 72, 2184}, {1030, 136, 2184}, {1290, 8, 1800}};

static float *small_wholes(struct kernel_case *k, size_t count)
{
    float *x = case_floats(k, count);

    for (size_t i = 0; i < count; i++)
        x[i] = (float)((int)(case_bits(k) % 3) - 1);
    return x;
}

static float *emptied(struct kernel_case *k, size_t count)
{
    float *x = case_floats(k, count);

    for (size_t i = 0; i < count; i++)
        x[i] = NAN;
    return x;
}

static void run_matmul(struct kernel_case *k, struct ds_matmul_args args)
{
    case_store(k, &args.a);
    case_store(k, &args.b);
    case_store(k, &args.c);
    assert_ok(CASE_RUN(matmul, &args));
    case_load(k);
}

static void run_forward(struct kernel_case *k, struct ds_swiglu_args args)
{
    case_store(k, &args.x_TC);
    case_store(k, &args.weight_NC);
    case_store(k, &args.gate_up_TN);
    case_store(k, &args.y_TI);
    assert_ok(CASE_RUN(swiglu_forward, &args));
    case_load(k);
}

static void run_backward(struct kernel_case *k, struct ds_swiglu_backward_args args)
{
    case_store(k, &args.dz_TC);
    case_store(k, &args.weight_CI);
    case_store(k, &args.gate_up_TN);
    case_store(k, &args.dy_TI);
    case_store(k, &args.dgate_up_TN);
    case_store(k, &args.y_TI);
    assert_ok(CASE_RUN(swiglu_backward, &args));
    case_load(k);
}

static void check_forward(struct kernel_case *k, size_t t, size_t c, size_t i)
{
    float *x = small_wholes(k, t * c), *w = small_wholes(k, 2 * i * c);
    float *gate_up = emptied(k, t * 2 * i), *y = emptied(k, t * i);
    float *want_gate_up = emptied(k, t * 2 * i), *want_y = emptied(k, t * i);
    struct ds_swiglu_args args = {.gate_up_TN = f32_2(gate_up, t, 2 * i),
                                  .y_TI = f32_2(y, t, i),
                                  .x_TC = f32_2(x, t, c),
                                  .weight_NC = f32_2(w, 2 * i, c)};

    run_matmul(k, (struct ds_matmul_args){.a = args.x_TC,
                                          .b = args.weight_NC,
                                          .c = f32_2(want_gate_up, t, 2 * i),
                                          .trans_b = 1});
    run_forward(k, (struct ds_swiglu_args){.gate_up_TN = f32_2(want_gate_up, t, 2 * i),
                                           .y_TI = f32_2(want_y, t, i)});
    run_forward(k, args);
    assert_memory_equal(gate_up, want_gate_up, t * 2 * i * sizeof *gate_up);
    assert_memory_equal(y, want_y, t * i * sizeof *y);
    for (size_t at = 0; at < t * 2 * i; at++)
        gate_up[at] = NAN;
    args.y_TI = case_absent;
    run_forward(k, args);
    assert_memory_equal(gate_up, want_gate_up, t * 2 * i * sizeof *gate_up);
    case_free(k);
}

static void swiglu_behind_its_product_has_the_bits_of_two_calls(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    FOR_ROWS(rows, i) check_forward(&k, rows[i].tokens, rows[i].hidden, rows[i].width);
}

/* With the product written again, without, and in place. */
static void check_backward(struct kernel_case *k, size_t t, size_t c, size_t i)
{
    float *dz = small_wholes(k, t * c), *w = small_wholes(k, c * i);
    float *gate_up = case_floats(k, t * 2 * i), *room = emptied(k, t * i);
    float *dgate_up = emptied(k, t * 2 * i), *y = emptied(k, t * i);
    float *want = emptied(k, t * 2 * i), *want_y = emptied(k, t * i), *dy = emptied(k, t * i);
    struct ds_swiglu_backward_args args = {.gate_up_TN = f32_2(gate_up, t, 2 * i),
                                           .dy_TI = f32_2(room, t, i),
                                           .dgate_up_TN = f32_2(dgate_up, t, 2 * i),
                                           .y_TI = f32_2(y, t, i),
                                           .dz_TC = f32_2(dz, t, c),
                                           .weight_CI = f32_2(w, c, i)};

    run_matmul(k,
               (struct ds_matmul_args){.a = args.dz_TC, .b = args.weight_CI, .c = f32_2(dy, t, i)});
    run_backward(k, (struct ds_swiglu_backward_args){.gate_up_TN = args.gate_up_TN,
                                                     .dy_TI = f32_2(dy, t, i),
                                                     .dgate_up_TN = f32_2(want, t, 2 * i),
                                                     .y_TI = f32_2(want_y, t, i)});
    run_backward(k, args);
    assert_memory_equal(dgate_up, want, t * 2 * i * sizeof *want);
    assert_memory_equal(y, want_y, t * i * sizeof *y);
    args.y_TI = case_absent;
    args.dgate_up_TN = args.gate_up_TN;
    run_backward(k, args);
    assert_memory_equal(gate_up, want, t * 2 * i * sizeof *want);
    case_free(k);
}

static void swiglu_back_behind_a_product_has_the_bits_of_two_calls(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    FOR_ROWS(rows, i) check_backward(&k, rows[i].tokens, rows[i].hidden, rows[i].width);
}

/* ---- heads */

static const struct {
    size_t tokens, hidden, q_heads, k_heads, dim;
    int has_gains;
} heads[] = {{5, 33, 3, 1, 10, 0},      {37, 8, 2, 1, 32, 0},     {1030, 136, 20, 4, 64, 0},
             {1030, 72, 12, 1, 128, 0}, {1030, 8, 5, 1, 256, 0},  {1030, 72, 50, 3, 32, 0},
             {1290, 72, 21, 4, 64, 0},  {1030, 72, 20, 4, 64, 1}, {1030, 72, 10, 4, 96, 0}};

static void run_split(struct kernel_case *k, struct ds_qkv_split_args args)
{
    case_store(k, &args.x_TC);
    case_store(k, &args.weight_NC);
    case_store(k, &args.qkv_TN);
    case_store(k, &args.q_gain_D);
    case_store(k, &args.k_gain_D);
    case_store(k, &args.q_THD);
    case_store(k, &args.k_TGD);
    case_store(k, &args.v_TGD);
    assert_ok(CASE_RUN(qkv_split, &args));
    case_load(k);
}

/* Where the answer goes; all the rest as it is in `like`. */
static struct ds_qkv_split_args apart(struct kernel_case *k, struct ds_qkv_split_args like,
                                      size_t row)
{
    const size_t t = heads[row].tokens, h = heads[row].q_heads, g = heads[row].k_heads;
    const size_t d = heads[row].dim;

    like.q_THD = f32_3(emptied(k, t * h * d), t, h, d);
    like.k_TGD = f32_3(emptied(k, t * g * d), t, g, d);
    like.v_TGD = f32_3(emptied(k, t * g * d), t, g, d);
    if (heads[row].has_gains) {
        like.q_rstd_TH = f32_2(emptied(k, t * h), t, h);
        like.k_rstd_TG = f32_2(emptied(k, t * g), t, g);
    }
    return like;
}

static struct ds_qkv_split_args inputs_of_heads(struct kernel_case *k, size_t row)
{
    const size_t t = heads[row].tokens, c = heads[row].hidden, d = heads[row].dim;
    const size_t n = (heads[row].q_heads + 2 * heads[row].k_heads) * d;
    int32_t *position = case_bytes(k, t * sizeof *position);
    struct ds_qkv_split_args args = {.qkv_TN = f32_2(emptied(k, t * n), t, n),
                                     .position_T = ds_tensor1(position, DS_I32, t),
                                     .rotary_PD =
                                         f32_2(case_floats(k, POSITIONS * d), POSITIONS, d),
                                     .epsilon = 1e-6f,
                                     .x_TC = f32_2(small_wholes(k, t * c), t, c),
                                     .weight_NC = f32_2(small_wholes(k, n * c), n, c)};

    for (size_t i = 0; i < t; i++)
        position[i] = (int32_t)(case_bits(k) % POSITIONS);
    if (heads[row].has_gains) {
        args.q_gain_D = f32_1(case_floats(k, d), d);
        args.k_gain_D = f32_1(case_floats(k, d), d);
    }
    return args;
}

static void assert_same(struct ds_tensor got, struct ds_tensor want)
{
    if (want.data)
        assert_memory_equal(got.data, want.data, case_elems(&want) * sizeof(float));
}

static void check_split(struct kernel_case *k, size_t row)
{
    const struct ds_qkv_split_args inputs = inputs_of_heads(k, row);
    const struct ds_qkv_split_args got = apart(k, inputs, row);
    struct ds_qkv_split_args want = apart(k, inputs, row);

    run_split(k, got);
    run_matmul(k, (struct ds_matmul_args){
                      .a = want.x_TC, .b = want.weight_NC, .c = want.qkv_TN, .trans_b = 1});
    want.x_TC = want.weight_NC = case_absent;
    run_split(k, want);
    assert_same(got.q_THD, want.q_THD);
    assert_same(got.k_TGD, want.k_TGD);
    assert_same(got.v_TGD, want.v_TGD);
    assert_same(got.q_rstd_TH, want.q_rstd_TH);
    assert_same(got.k_rstd_TG, want.k_rstd_TG);
    case_free(k);
}

static void heads_behind_their_product_have_the_bits_of_two_calls(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k) FOR_ROWS(heads, i) check_split(&k, i);
}

/* ---- loss */

static const struct {
    size_t tokens, hidden, vocabulary;
} losses[] = {{5, 33, 7}, {37, 8, 40}, {300, 72, 4099}, {1030, 136, 2184}, {1290, 8, 2184}};

#define LOSS_FACTOR (4.0 / 512.0) /* what the record says */

struct loss {
    size_t n, c, v;
    float *x, *w, *logits, *loss, *factor, *scaled;
    int32_t *target;
    struct ds_step_record record;
};

/* Where there are many factors the first row's target could not be less likely, and another column not more likely: p is
 * below what fp32 holds. The second row's target is as far below all others, of which none stands out. Every fifth row is
 * ignored. */
static struct loss loss_make(struct kernel_case *k, size_t row)
{
    const size_t n = losses[row].tokens, c = losses[row].hidden, v = losses[row].vocabulary;
    struct loss l = {.n = n, .c = c, .v = v};

    l.x = small_wholes(k, n * c);
    l.w = small_wholes(k, v * c);
    l.logits = emptied(k, n * v);
    l.loss = emptied(k, n);
    l.factor = emptied(k, n);
    l.scaled = emptied(k, n * c);
    l.target = case_bytes(k, n * sizeof *l.target);
    l.record = (struct ds_step_record){.inverse_tokens = 1.0f / 512.0f, .loss_scale = 4.0f};
    for (size_t i = 0; i < n; i++)
        l.target[i] = i % 5 == 4 ? DS_IGNORE_INDEX : (int32_t)(case_bits(k) % v);
    l.target[1] = (int32_t)(((size_t)l.target[0] + 2) % v);
    for (size_t j = 0; j < c; j++) {
        const float sign = j % 2 == 0 ? 1.0f : -1.0f;

        l.x[j] = 1.0f;
        l.x[c + j] = 2.0f * sign;
        l.w[(size_t)l.target[0] * c + j] = -1.0f;
        l.w[((size_t)l.target[0] + 1) % v * c + j] = j % 8 == 0 ? 0.0f : 1.0f;
        l.w[(size_t)l.target[1] * c + j] = -sign;
    }
    return l;
}

static void run_loss(struct kernel_case *k, const struct loss *l, int gradient, int in_place)
{
    struct ds_cross_entropy_args args = {.logits_NV = f32_2(l->logits, l->n, l->v),
                                         .target_N = ds_tensor1(l->target, DS_I32, l->n),
                                         .loss_N = f32_1(l->loss, l->n),
                                         .record = &l->record,
                                         .gradient = gradient,
                                         .x_NC = f32_2(l->x, l->n, l->c),
                                         .weight_VC = f32_2(l->w, l->v, l->c)};

    case_store(k, &args.logits_NV);
    case_store(k, &args.x_NC);
    case_store(k, &args.weight_VC);
    if (gradient) {
        args.factor_N = f32_1(l->factor, l->n);
        args.scaled_NC = in_place ? args.x_NC : f32_2(l->scaled, l->n, l->c);
        if (!in_place)
            case_store(k, &args.scaled_NC);
    }
    assert_ok(CASE_RUN(cross_entropy, &args));
    case_load(k);
}

/* The row's logits, and by return log of the sum of their exponentials. */
static double plain_logits(const struct loss *l, size_t row, double *logits)
{
    double max = -INFINITY, sum = 0;

    for (size_t j = 0; j < l->v; j++) {
        logits[j] = 0;
        for (size_t i = 0; i < l->c; i++)
            logits[j] += (double)l->x[row * l->c + i] * (double)l->w[j * l->c + i];
        max = fmax(max, logits[j]);
    }
    for (size_t j = 0; j < l->v; j++)
        sum += exp(logits[j] - max);
    return log(sum) + max;
}

/* Off by a rounding to the storage (a factor of its own is one more, of fp32), or by what its least number is. */
static void assert_near(const struct kernel_case *k, double got, double want)
{
    static const double roundings[] = {0x1p-18, 0x1.1p-8, 0x1.1p-11};
    const double least = k->storage == CASE_F16 ? 0x1p-24 : 0x1p-100;

    if (!(fabs(got - want) <= roundings[k->storage] * fabs(want) + least))
        print_message("%.9g, fp64 says %.9g\n", got, want);
    assert_true(fabs(got - want) <= roundings[k->storage] * fabs(want) + least);
}

/* Of some rows, every tile's among them. */
static void assert_loss(const struct kernel_case *k, const struct loss *l)
{
    double *logits = malloc(l->v * sizeof *logits);

    for (size_t i = 0; i < l->n; i += i < 10 || i + 10 > l->n ? 1 : 7) {
        const int is_ignored = l->target[i] == DS_IGNORE_INDEX;
        const double all = plain_logits(l, i, logits), f = is_ignored ? 0 : LOSS_FACTOR;
        const double want = is_ignored ? 0 : all - logits[l->target[i]];

        assert_true(fabs((double)l->loss[i] - want) <= 3e-5 + 3e-7 * want);
        for (size_t j = 0; j < l->v; j++) {
            const int is_target = (int64_t)j == l->target[i];
            const double p = exp(logits[j] - all);

            assert_near(k, (double)l->factor[i] * (double)l->logits[i * l->v + j],
                        is_target ? f * expm1(-want) : f * p);
        }
        for (size_t j = 0; j < l->c; j++)
            assert_near(k, (double)l->scaled[i * l->c + j],
                        (double)l->factor[i] * (double)l->x[i * l->c + j]);
    }
    free(logits);
}

static void check_loss(struct kernel_case *k, size_t row)
{
    const struct loss l = loss_make(k, row);
    float *loss = case_copy(k, l.loss, l.n), *logits = emptied(k, l.n * l.v);

    run_loss(k, &l, 0, 0);
    memcpy(loss, l.loss, l.n * sizeof *loss);
    run_loss(k, &l, 1, 0);
    assert_loss(k, &l);
    assert_memory_equal(l.loss, loss, l.n * sizeof *loss);
    memcpy(logits, l.logits, l.n * l.v * sizeof *logits);
    run_loss(k, &l, 1, 1);
    assert_memory_equal(l.x, l.scaled, l.n * l.c * sizeof *l.x);
    assert_memory_equal(l.logits, logits, l.n * l.v * sizeof *logits);
    case_free(k);
}

static void a_loss_behind_its_product_has_the_gradient_of_fp64(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k) FOR_ROWS(losses, i) check_loss(&k, i);
}

static void what_is_not_finite_behind_a_product_gives_such_a_loss(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__), .storage = CASE_BF16};
    struct loss l = loss_make(&k, 3);

    (void)state;
    l.x[0] = NAN;
    l.x[2 * l.c] = INFINITY;
    run_loss(&k, &l, 1, 0);
    assert_false(isfinite(l.loss[0]));
    assert_true(isfinite(l.loss[1]));
    assert_false(isfinite(l.loss[2]));
    case_free(&k);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(swiglu_behind_its_product_has_the_bits_of_two_calls),
        cmocka_unit_test(swiglu_back_behind_a_product_has_the_bits_of_two_calls),
        cmocka_unit_test(heads_behind_their_product_have_the_bits_of_two_calls),
        cmocka_unit_test(a_loss_behind_its_product_has_the_gradient_of_fp64),
        cmocka_unit_test(what_is_not_finite_behind_a_product_gives_such_a_loss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
