/* test_kernels_elementwise.c - bias, SwiGLU, embedding, add, fill and the sum of losses of the cpu
 * table, against fp64. */
// link: kernels base
#include "kernel_case.h"

static const struct {
    size_t tokens, width;
} rows[] = {{1, 1}, {1, 33}, {5, 7}, {3, 64}, {130, 33}, {64, 200}, {2, 2048}, {200, 65}};

static void bias_is_added_to_every_row(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(rows, i)
    {
        size_t tokens = rows[i].tokens, width = rows[i].width;
        float *y = case_floats(&k, tokens * width), *bias = case_floats(&k, width);
        float *kept = case_copy(&k, y, tokens * width);
        struct ds_bias_args args = {f32_2(y, tokens, width), f32_1(bias, width), 0};

        assert_ok(ds_kernels_cpu.bias_forward(&fake_stream, &args));
        for (size_t at = 0; at < tokens * width; at++)
            assert_true(y[at] == kept[at] + bias[at % width]);
        case_free(&k);
    }
}

static void check_bias_backward(struct kernel_case *k, size_t tokens, size_t width, int add)
{
    float *dy = case_floats(k, tokens * width), *dbias = case_floats(k, width);
    double *want = case_doubles(k, width);
    struct ds_bias_args args = {f32_2(dy, tokens, width), f32_1(dbias, width), add};

    for (size_t at = 0; at < width && add; at++)
        want[at] = dbias[at];
    for (size_t at = 0; at < tokens * width; at++)
        want[at % width] += dy[at];
    assert_ok(ds_kernels_cpu.bias_backward(&fake_stream, &args));
    assert_close(dbias, want, width);
    case_free(k);
}

static void bias_backward_sums_columns(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(rows, i)
    {
        check_bias_backward(&k, rows[i].tokens, rows[i].width, 0);
        check_bias_backward(&k, rows[i].tokens, rows[i].width, 1);
    }
    check_bias_backward(&k, 20000, 17, 1); /* a plain chain of fp32 additions fails here */
}

struct swiglu_case {
    size_t tokens, width;
    float *gate_up, *dy, *y, *dgate_up;
    double *input, *dy64; /* gate_up and dy in fp64 */
};

static struct swiglu_case make_swiglu(struct kernel_case *k, size_t tokens, size_t width)
{
    size_t count = tokens * width;
    struct swiglu_case s = {tokens,
                            width,
                            case_floats(k, 2 * count),
                            case_floats(k, count),
                            case_floats(k, count),
                            case_floats(k, 2 * count),
                            NULL,
                            NULL};

    for (size_t i = 0; i < 2 * count; i++)
        s.gate_up[i] *= 8; /* both tails of silu */
    s.input = case_widen(k, s.gate_up, 2 * count);
    s.dy64 = case_widen(k, s.dy, count);
    return s;
}

static void reference_swiglu(const struct swiglu_case *s, double *y, double *dgate_up)
{
    for (size_t at = 0; at < s->tokens * s->width; at++) {
        size_t gate_at = at / s->width * 2 * s->width + at % s->width;
        double gate = s->input[gate_at], up = s->input[gate_at + s->width];
        double sigma = 1 / (1 + exp(-gate));

        y[at] = gate * sigma * up;
        dgate_up[gate_at] = s->dy64[at] * up * sigma * (1 + gate * (1 - sigma));
        dgate_up[gate_at + s->width] = s->dy64[at] * gate * sigma;
    }
}

static double swiglu_loss(void *of)
{
    const struct swiglu_case *s = of;
    double loss = 0;

    for (size_t at = 0; at < s->tokens * s->width; at++) {
        size_t gate_at = at / s->width * 2 * s->width + at % s->width;
        double gate = s->input[gate_at];

        loss += s->dy64[at] * gate / (1 + exp(-gate)) * s->input[gate_at + s->width];
    }
    return loss;
}

static struct ds_swiglu_backward_args swiglu_backward(const struct swiglu_case *s)
{
    return (struct ds_swiglu_backward_args){
        f32_2(s->gate_up, s->tokens, 2 * s->width), f32_2(s->dy, s->tokens, s->width),
        f32_2(s->dgate_up, s->tokens, 2 * s->width), case_absent};
}

static void check_swiglu(struct kernel_case *k, size_t tokens, size_t width)
{
    size_t count = tokens * width;
    struct swiglu_case s = make_swiglu(k, tokens, width);
    double *want_y = case_doubles(k, count), *want = case_doubles(k, 2 * count);
    struct ds_swiglu_args forward = {f32_2(s.gate_up, tokens, 2 * width),
                                     f32_2(s.y, tokens, width)};
    struct ds_swiglu_backward_args backward = swiglu_backward(&s);

    reference_swiglu(&s, want_y, want);
    assert_ok(ds_kernels_cpu.swiglu_forward(&fake_stream, &forward));
    assert_close(s.y, want_y, count);
    assert_ok(ds_kernels_cpu.swiglu_backward(&fake_stream, &backward));
    assert_close(s.dgate_up, want, 2 * count);
    case_assert_slope(k, swiglu_loss, &s, s.input, s.dgate_up, 2 * count);
    case_free(k);
}

static void swiglu_matches_fp64_and_differences(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(rows, i) check_swiglu(&k, rows[i].tokens, rows[i].width);
}

static void swiglu_in_place_gives_the_same_bits_and_forwards_output(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct swiglu_case s = make_swiglu(&k, 5, 33);
    float *y = case_floats(&k, 5 * 33);
    struct ds_swiglu_args forward = {f32_2(s.gate_up, 5, 66), f32_2(s.y, 5, 33)};
    struct ds_swiglu_backward_args backward = swiglu_backward(&s);

    (void)state;
    assert_ok(ds_kernels_cpu.swiglu_forward(&fake_stream, &forward));
    assert_ok(ds_kernels_cpu.swiglu_backward(&fake_stream, &backward));
    backward.dgate_up_TN = backward.gate_up_TN;
    backward.y_TI = f32_2(y, 5, 33);
    assert_ok(ds_kernels_cpu.swiglu_backward(&fake_stream, &backward));
    assert_memory_equal(s.gate_up, s.dgate_up, 5 * 66 * sizeof(float));
    assert_memory_equal(y, s.y, 5 * 33 * sizeof(float));
    case_free(&k);
}

static void swiglu_of_extreme_gates_stays_finite(void **state)
{
    float gate_up[8] = {-1e4f, -100, 100, 1e4f, 2, 2, 2, 2};
    float y[4], dy[4] = {1, 1, 1, 1}, dgate_up[8];
    const float want[4] = {0, 0, 200, 2e4f}, want_gate[4] = {0, 0, 2, 2};
    struct ds_swiglu_args forward = {f32_2(gate_up, 1, 8), f32_2(y, 1, 4)};
    struct ds_swiglu_backward_args backward = {f32_2(gate_up, 1, 8), f32_2(dy, 1, 4),
                                               f32_2(dgate_up, 1, 8), case_absent};

    (void)state;
    assert_ok(ds_kernels_cpu.swiglu_forward(&fake_stream, &forward));
    assert_ok(ds_kernels_cpu.swiglu_backward(&fake_stream, &backward));
    for (size_t i = 0; i < 4; i++) {
        assert_true(fabsf(y[i] - want[i]) < 1e-30f);
        assert_true(fabsf(dgate_up[i] - want_gate[i]) < 1e-30f);
    }
}

#define VOCABULARY 11

static int32_t *random_ids(struct kernel_case *k, size_t count)
{
    int32_t *id = case_bytes(k, count * sizeof *id);

    for (size_t i = 0; i < count; i++)
        id[i] = (int32_t)(case_bits(k) % VOCABULARY);
    return id;
}

static void embedding_copies_the_rows_of_the_table(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(rows, i)
    {
        size_t tokens = rows[i].tokens, width = rows[i].width;
        int32_t *id = random_ids(&k, tokens);
        float *table = case_floats(&k, VOCABULARY * width), *y = case_floats(&k, tokens * width);
        struct ds_embedding_args args = {ds_tensor1(id, DS_I32, tokens),
                                         f32_2(table, VOCABULARY, width), f32_2(y, tokens, width),
                                         0};

        assert_ok(ds_kernels_cpu.embedding_forward(&fake_stream, &args));
        for (size_t t = 0; t < tokens; t++)
            assert_memory_equal(y + t * width, table + (size_t)id[t] * width, width * sizeof *y);
        case_free(&k);
    }
}

/* To the bit: the terms of a row are added to it one after another, in token order. */
static void embedding_backward_scatters_in_token_order(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    for (size_t i = 0; i < 2 * sizeof rows / sizeof rows[0]; i++) {
        size_t tokens = rows[i / 2].tokens, width = rows[i / 2].width, size = VOCABULARY * width;
        int32_t *id = random_ids(&k, tokens);
        float *table = case_floats(&k, size), *want = case_copy(&k, table, size);
        float *dy = case_floats(&k, tokens * width);
        struct ds_embedding_args args = {ds_tensor1(id, DS_I32, tokens),
                                         f32_2(table, VOCABULARY, width), f32_2(dy, tokens, width),
                                         (int)(i % 2)};

        if (!args.add)
            memset(want, 0, size * sizeof *want);
        for (size_t at = 0; at < tokens * width; at++)
            want[(size_t)id[at / width] * width + at % width] += dy[at];
        assert_ok(ds_kernels_cpu.embedding_backward(&fake_stream, &args));
        assert_memory_equal(table, want, size * sizeof *want);
        case_free(&k);
    }
}

static void add_and_fill_reach_every_element_and_no_other(void **state)
{
    static const size_t counts[] = {1, 33, 16384, 16385, 50001};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(counts, i)
    {
        size_t count = counts[i];
        float *y = case_floats(&k, count + 2), *x = case_floats(&k, count);
        float *kept = case_copy(&k, y, count + 2);
        struct ds_add_args add = {f32_1(y + 1, count), f32_1(x, count)};
        struct ds_fill_args fill = {y + 1, count * sizeof *y};

        assert_ok(ds_kernels_cpu.add(&fake_stream, &add));
        for (size_t at = 0; at < count; at++)
            assert_true(y[at + 1] == kept[at + 1] + x[at]);
        assert_ok(ds_kernels_cpu.fill(&fake_stream, &fill));
        for (size_t at = 0; at < count; at++)
            assert_true(y[at + 1] == 0);
        assert_true(y[0] == kept[0] && y[count + 1] == kept[count + 1]);
        case_free(&k);
    }
}

static void loss_sum_adds_in_fp64_and_in_order(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct ds_step_record record = {.loss_sum = 3.25};
    float *loss = case_floats(&k, 1001);
    struct ds_loss_sum_args args = {f32_1(loss, 1001), &record};
    double sum = 0;

    (void)state;
    for (size_t i = 0; i < 1001; i++)
        sum += loss[i];
    assert_ok(ds_kernels_cpu.loss_sum(&fake_stream, &args));
    assert_true(record.loss_sum == 3.25 + sum);
    case_free(&k);
}

static void run_all(uint64_t seed, size_t row, void *out)
{
    struct kernel_case k = {.random = seed};
    size_t tokens = rows[row].tokens, width = rows[row].width, count = tokens * width;
    struct swiglu_case s = make_swiglu(&k, tokens, width);
    int32_t *id = random_ids(&k, tokens);
    float *to = out;
    struct ds_swiglu_backward_args swiglu = swiglu_backward(&s);
    struct ds_bias_args bias = {f32_2(s.dy, tokens, width), f32_1(to, width), 0};
    struct ds_embedding_args embedding = {ds_tensor1(id, DS_I32, tokens),
                                          f32_2(to + width, VOCABULARY, width),
                                          f32_2(s.dy, tokens, width), 0};

    swiglu.dgate_up_TN.data = to + width + VOCABULARY * width;
    swiglu.y_TI = f32_2(to + width + VOCABULARY * width + 2 * count, tokens, width);
    assert_ok(ds_kernels_cpu.bias_backward(&fake_stream, &bias));
    assert_ok(ds_kernels_cpu.embedding_backward(&fake_stream, &embedding));
    assert_ok(ds_kernels_cpu.swiglu_backward(&fake_stream, &swiglu));
    case_free(&k);
}

static void elementwise_kernels_have_the_same_bits_on_any_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    FOR_ROWS(rows, i)
    {
        size_t width = rows[i].width, count = rows[i].tokens * width;

        case_assert_threads_agree(run_all, seed, i,
                                  (width + VOCABULARY * width + 3 * count) * sizeof(float));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(bias_is_added_to_every_row),
        cmocka_unit_test(bias_backward_sums_columns),
        cmocka_unit_test(swiglu_matches_fp64_and_differences),
        cmocka_unit_test(swiglu_in_place_gives_the_same_bits_and_forwards_output),
        cmocka_unit_test(swiglu_of_extreme_gates_stays_finite),
        cmocka_unit_test(embedding_copies_the_rows_of_the_table),
        cmocka_unit_test(embedding_backward_scatters_in_token_order),
        cmocka_unit_test(add_and_fill_reach_every_element_and_no_other),
        cmocka_unit_test(loss_sum_adds_in_fp64_and_in_order),
        cmocka_unit_test(elementwise_kernels_have_the_same_bits_on_any_number_of_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
