/* test_kernels_products.c - a product as a part of the call that reads it has the bits of two calls. Factors are -1, 0 and 1, so
 * that every product is exact in 16 bits, whoever makes it; that the two are right by themselves other tests say. */
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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(swiglu_behind_its_product_has_the_bits_of_two_calls),
        cmocka_unit_test(swiglu_back_behind_a_product_has_the_bits_of_two_calls),
        cmocka_unit_test(heads_behind_their_product_have_the_bits_of_two_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
