/* test_kernels_elementwise.c - bias, SwiGLU, embedding, add, fill and the sum of losses of the cpu
 * table, against fp64. */
// link: device kernels base
#include "kernel_case.h"

static const struct {
    size_t tokens, width;
} rows[] = {{1, 1}, {1, 33}, {5, 7}, {3, 64}, {130, 33}, {64, 200}, {2, 2048}, {200, 65}};

/* Of a matrix that is stored, `width` columns from `first`. */
static void narrow(struct ds_bias_args *args, size_t first, size_t width)
{
    args->y_stride = args->y_TN.shape[1];
    args->y_TN.data = (char *)args->y_TN.data + first * ds_dtype_bytes(args->y_TN.dtype);
    args->y_TN.shape[1] = width;
}

/* Of rows that are `before` + `after` wider. */
static void check_bias(struct kernel_case *k, size_t tokens, size_t width, size_t before,
                       size_t after)
{
    const size_t wide = before + width + after;
    float *y = case_floats(k, tokens * wide), *bias = case_floats(k, width);
    float *kept = case_copy(k, y, tokens * wide);
    struct ds_bias_args args = {.y_TN = f32_2(y, tokens, wide), .bias_N = f32_1(bias, width)};

    case_store(k, &args.y_TN);
    case_store(k, &args.bias_N);
    if (wide > width)
        narrow(&args, before, width);
    assert_ok(CASE_RUN(bias_forward, &args));
    case_load(k);
    for (size_t at = 0; at < tokens * wide; at++) {
        const size_t column = at % wide;
        const int is_in = column >= before && column < before + width;

        assert_true(y[at] == (is_in ? case_rounded(k->storage, kept[at] + bias[column - before])
                                    : case_rounded(k->storage, kept[at])));
    }
    case_free(k);
}

static void bias_is_added_to_every_row(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k) FOR_ROWS(rows, i)
    {
        check_bias(&k, rows[i].tokens, rows[i].width, 0, 0);
        check_bias(&k, rows[i].tokens, rows[i].width, 5, 2);
        check_bias(&k, rows[i].tokens, rows[i].width, 64, 16);
    }
}

/* `sums`: what dbias is stored as */
static void check_bias_backward(struct kernel_case *k, size_t tokens, size_t width, size_t before,
                                int add, enum case_storage sums)
{
    const size_t wide = width + 3 * before;
    float *dy = case_floats(k, tokens * wide), *dbias = case_floats(k, width);
    double *want = case_doubles(k, width);
    struct ds_bias_args args = {f32_2(dy, tokens, wide), f32_1(dbias, width), add, 0, {0}};

    for (size_t at = 0; at < width; at++) {
        dbias[at] = case_rounded(sums, dbias[at]);
        want[at] = add ? dbias[at] : 0;
    }
    for (size_t at = 0; at < tokens * width; at++)
        want[at % width] += dy[at / width * wide + before + at % width];
    case_store(k, &args.y_TN);
    case_store_as(k, &args.bias_N, sums);
    if (before > 0)
        narrow(&args, before, width);
    assert_ok(CASE_RUN(bias_backward, &args));
    case_load(k);
    assert_rounded(sums, dbias, want, width);
    case_free(k);
}

static void bias_backward_sums_columns(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    for (int variant = 0; variant < 2 * CASE_STORAGE_COUNT; variant++) {
        const enum case_storage sums = (enum case_storage)(variant / 2);

        FOR_ROWS(rows, i)
        check_bias_backward(&k, rows[i].tokens, rows[i].width, 0, variant % 2, sums);
        check_bias_backward(&k, 130, 40, 16, variant % 2, sums);
        check_bias_backward(&k, 67, 33, 3, variant % 2, sums);
        /* a plain chain of fp32 additions fails here */
        check_bias_backward(&k, 20000, 17, 0, variant % 2, sums);
    }
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
        s.gate_up[i] *= 8; /* both tails of silu; stays a value of any storage */
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

static struct ds_swiglu_args swiglu_forward(float *gate_up, float *y, size_t tokens, size_t width)
{
    return (struct ds_swiglu_args){.gate_up_TN = f32_2(gate_up, tokens, 2 * width),
                                   .y_TI = f32_2(y, tokens, width)};
}

static struct ds_swiglu_backward_args swiglu_backward(const struct swiglu_case *s)
{
    return (struct ds_swiglu_backward_args){
        .gate_up_TN = f32_2(s->gate_up, s->tokens, 2 * s->width),
        .dy_TI = f32_2(s->dy, s->tokens, s->width),
        .dgate_up_TN = f32_2(s->dgate_up, s->tokens, 2 * s->width)};
}

static void run_swiglu(struct kernel_case *k, struct ds_swiglu_args args)
{
    case_store(k, &args.gate_up_TN);
    case_store(k, &args.y_TI);
    assert_ok(CASE_RUN(swiglu_forward, &args));
    case_load(k);
}

static void run_swiglu_backward(struct kernel_case *k, struct ds_swiglu_backward_args args)
{
    case_store(k, &args.gate_up_TN);
    case_store(k, &args.dy_TI);
    case_store(k, &args.dgate_up_TN);
    case_store(k, &args.y_TI);
    assert_ok(CASE_RUN(swiglu_backward, &args));
    case_load(k);
}

static void check_swiglu(struct kernel_case *k, size_t tokens, size_t width)
{
    size_t count = tokens * width;
    struct swiglu_case s = make_swiglu(k, tokens, width);
    double *want_y = case_doubles(k, count), *want = case_doubles(k, 2 * count);

    reference_swiglu(&s, want_y, want);
    run_swiglu(k, swiglu_forward(s.gate_up, s.y, tokens, width));
    assert_rounded(k->storage, s.y, want_y, count);
    run_swiglu_backward(k, swiglu_backward(&s));
    assert_rounded(k->storage, s.dgate_up, want, 2 * count);
    if (k->storage == CASE_F32)
        case_assert_slope(k, swiglu_loss, &s, s.input, s.dgate_up, 2 * count);
    case_free(k);
}

static void swiglu_matches_fp64_and_differences(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k) FOR_ROWS(rows, i) check_swiglu(&k, rows[i].tokens, rows[i].width);
}

static void swiglu_in_place_gives_the_same_bits_and_forwards_output(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k)
    {
        struct swiglu_case s = make_swiglu(&k, 5, 33);
        float *y = case_floats(&k, 5 * 33);
        struct ds_swiglu_backward_args backward = swiglu_backward(&s);

        run_swiglu(&k, swiglu_forward(s.gate_up, s.y, 5, 33));
        run_swiglu_backward(&k, backward);
        backward.dgate_up_TN = backward.gate_up_TN;
        backward.y_TI = f32_2(y, 5, 33);
        run_swiglu_backward(&k, backward);
        assert_memory_equal(s.gate_up, s.dgate_up, 5 * 66 * sizeof(float));
        assert_memory_equal(y, s.y, 5 * 33 * sizeof(float));
        case_free(&k);
    }
}

static void swiglu_of_extreme_gates_stays_finite(void **state)
{
    float gate_up[8] = {-1e4f, -100, 100, 1e4f, 2, 2, 2, 2};
    float y[4], dy[4] = {1, 1, 1, 1}, dgate_up[8];
    const float want[4] = {0, 0, 200, 2e4f}, want_gate[4] = {0, 0, 2, 2};
    struct ds_swiglu_args forward = swiglu_forward(gate_up, y, 1, 4);
    struct ds_swiglu_backward_args backward = {.gate_up_TN = f32_2(gate_up, 1, 8),
                                               .dy_TI = f32_2(dy, 1, 4),
                                               .dgate_up_TN = f32_2(dgate_up, 1, 8)};

    (void)state;
    assert_ok(CASE_RUN(swiglu_forward, &forward));
    assert_ok(CASE_RUN(swiglu_backward, &backward));
    for (size_t i = 0; i < 4; i++) {
        assert_true(fabsf(y[i] - want[i]) < 1e-30f);
        assert_true(fabsf(dgate_up[i] - want_gate[i]) < 1e-30f);
    }
}

#define VOCABULARY 11

#define COMMONEST 7 /* id of more than half of the tokens, as a language has some */

static int32_t *random_ids(struct kernel_case *k, size_t count)
{
    int32_t *id = case_bytes(k, count * sizeof *id);

    for (size_t i = 0; i < count; i++)
        id[i] = case_bits(k) % 2 ? COMMONEST : (int32_t)(case_bits(k) % VOCABULARY);
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
                                         f32_2(table, VOCABULARY, width),
                                         f32_2(y, tokens, width),
                                         0,
                                         0,
                                         2}; /* padding has its row, too */

        assert_ok(CASE_RUN(embedding_forward, &args));
        for (size_t t = 0; t < tokens; t++)
            assert_memory_equal(y + t * width, table + (size_t)id[t] * width, width * sizeof *y);
        case_free(&k);
    }
}

/* To the bit: the terms of a row are added to it one after another, in token order; padding gives none. */
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
                                         f32_2(table, VOCABULARY, width),
                                         f32_2(dy, tokens, width),
                                         (int)(i % 2),
                                         0,
                                         i % 3 ? (int64_t)(i % 5) : -1};

        if (!args.add)
            memset(want, 0, size * sizeof *want);
        for (size_t at = 0; at < tokens * width; at++)
            if (id[at / width] != args.padding)
                want[(size_t)id[at / width] * width + at % width] += dy[at];
        assert_ok(CASE_RUN(embedding_backward, &args));
        assert_memory_equal(table, want, size * sizeof *want);
        case_free(&k);
    }
}

/* To the bit: a part of a table gives its own rows, zeros for all others, and gets its own gradients. */
static void parts_of_a_table_are_the_table(void **state)
{
    static const size_t cuts[] = {0, 1, 4, VOCABULARY};
    struct kernel_case k = {.random = test_seed(__func__)};
    const size_t tokens = 37, width = 67;
    int32_t *id = random_ids(&k, tokens);
    float *table = case_floats(&k, VOCABULARY * width), *y = case_floats(&k, tokens * width);
    float *sum = calloc(tokens * width, sizeof *sum), *grad = calloc(VOCABULARY * width, 4);
    struct ds_embedding_args args = {ds_tensor1(id, DS_I32, tokens),
                                     f32_2(grad, VOCABULARY, width),
                                     f32_2(y, tokens, width),
                                     0,
                                     0,
                                     3}; /* of the middle part */
    float *part_grad = case_floats(&k, VOCABULARY * width),
          *part_y = case_floats(&k, tokens * width);

    (void)state;
    assert_ok(CASE_RUN(embedding_backward, &args));
    for (size_t i = 0; i < 3; i++) {
        struct ds_embedding_args part = args;

        part.first = cuts[i];
        part.table_VC = f32_2(part_grad + cuts[i] * width, cuts[i + 1] - cuts[i], width);
        assert_ok(CASE_RUN(embedding_backward, &part));
        part.table_VC.data = table + cuts[i] * width;
        part.y_TC.data = part_y;
        assert_ok(CASE_RUN(embedding_forward, &part));
        for (size_t at = 0; at < tokens * width; at++)
            sum[at] += part_y[at];
    }
    assert_memory_equal(part_grad, grad, VOCABULARY * width * sizeof *grad);
    for (size_t t = 0; t < tokens; t++)
        assert_memory_equal(sum + t * width, table + (size_t)id[t] * width, width * sizeof *sum);
    free(sum);
    free(grad);
    case_free(&k);
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

        assert_ok(CASE_RUN(add, &add));
        for (size_t at = 0; at < count; at++)
            assert_true(y[at + 1] == kept[at + 1] + x[at]);
        assert_ok(CASE_RUN(fill, &fill));
        for (size_t at = 0; at < count; at++)
            assert_true(y[at + 1] == 0);
        assert_true(y[0] == kept[0] && y[count + 1] == kept[count + 1]);
        case_free(&k);
    }
}

static void rows_are_scaled_and_rounded_once(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_STORAGES(&k) FOR_ROWS(rows, i)
    {
        const size_t count = rows[i].tokens * rows[i].width;
        float *y = case_floats(&k, count), *kept = case_copy(&k, y, count);
        float *factor = case_floats(&k, rows[i].tokens);
        struct ds_scale_rows_args args = {f32_2(y, rows[i].tokens, rows[i].width),
                                          f32_1(factor, rows[i].tokens)};

        case_store(&k, &args.y_NC);
        assert_ok(CASE_RUN(scale_rows, &args));
        case_load(&k);
        for (size_t at = 0; at < count; at++)
            assert_true(y[at] == case_rounded(k.storage, kept[at] * factor[at / rows[i].width]));
        case_free(&k);
    }
}

static void loss_sum_adds_in_fp64(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct ds_step_record record = {.loss_sum = 3.25};
    float *loss = case_floats(&k, 5003);
    struct ds_loss_sum_args args = {f32_1(loss, 5003), &record};
    double sum = 0;

    (void)state;
    for (size_t i = 0; i < 5003; i++)
        sum += loss[i];
    assert_ok(CASE_RUN(loss_sum, &args));
    assert_true(record.loss_sum == 3.25 + sum);
    case_free(&k);
}

/* `row`: a row in one storage */
static void run_all(uint64_t seed, size_t row, void *out)
{
    struct kernel_case k = {.random = seed,
                            .storage = (enum case_storage)(row % CASE_STORAGE_COUNT)};
    size_t tokens = rows[row / CASE_STORAGE_COUNT].tokens;
    size_t width = rows[row / CASE_STORAGE_COUNT].width, count = tokens * width;
    struct swiglu_case s = make_swiglu(&k, tokens, width);
    int32_t *id = random_ids(&k, tokens);
    float *to = out;
    struct ds_swiglu_backward_args swiglu = swiglu_backward(&s);
    struct ds_bias_args bias = {f32_2(s.dy, tokens, width), f32_1(to, width), 0, 0, {0}};
    struct ds_embedding_args embedding = {ds_tensor1(id, DS_I32, tokens),
                                          f32_2(to + width, VOCABULARY, width),
                                          f32_2(s.dy, tokens, width),
                                          0,
                                          0,
                                          -1};

    swiglu.dgate_up_TN.data = to + width + VOCABULARY * width;
    swiglu.y_TI = f32_2(to + width + VOCABULARY * width + 2 * count, tokens, width);
    run_swiglu_backward(&k, swiglu);
    assert_ok(CASE_RUN(embedding_backward, &embedding));
    case_store(&k, &bias.y_TN);
    assert_ok(CASE_RUN(bias_backward, &bias));
    case_free(&k);
}

static void elementwise_kernels_have_the_same_bits_on_any_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t i = 0; i < CASE_STORAGE_COUNT * sizeof rows / sizeof rows[0]; i++) {
        size_t width = rows[i / CASE_STORAGE_COUNT].width;
        size_t count = rows[i / CASE_STORAGE_COUNT].tokens * width;

        case_assert_threads_agree(run_all, seed, i,
                                  (width + VOCABULARY * width + 3 * count) * sizeof(float));
    }
}

/* A row of one token makes its bias gradient a conversion: every 16-bit code to fp32, and back. */
static void every_code_is_read_and_written_as_files_are(void **state)
{
    enum { CODES = 1 << 16 };
    struct kernel_case k = {0};
    uint16_t *code = case_bytes(&k, CODES * sizeof *code);
    uint16_t *back = case_bytes(&k, CODES * sizeof *back);
    float *value = case_floats(&k, CODES), *want = case_floats(&k, CODES);

    (void)state;
    for (size_t i = 0; i < CODES; i++)
        code[i] = (uint16_t)i;
    for (enum case_storage storage = CASE_BF16; storage <= CASE_F16; storage++) {
        const enum ds_dtype dtype = case_dtypes[storage];
        struct ds_bias_args load = {
            ds_tensor2(code, dtype, 1, CODES), f32_1(value, CODES), 0, 0, {0}};
        struct ds_bias_args store = {
            f32_2(value, 1, CODES), ds_tensor1(back, dtype, CODES), 0, 0, {0}};

        assert_true(ds_dtype_to_f32(want, code, dtype, CODES));
        assert_ok(CASE_RUN(bias_backward, &load));
        assert_ok(CASE_RUN(bias_backward, &store));
        for (size_t i = 0; i < CODES; i++) { /* 0 + -0 is 0, else all bits count */
            assert_true(value[i] == want[i] || (isnan(value[i]) && isnan(want[i])));
            assert_true(back[i] == code[i] || isnan(want[i]) || want[i] == 0);
        }
    }
    case_free(&k);
}

/* All exponents, mantissas at random and next to ties; NaN and inf among them. */
static void fp32_is_rounded_as_for_files(void **state)
{
    enum { COUNT = 1 << 18 };
    struct kernel_case k = {.random = test_seed(__func__)};
    float *value = case_floats(&k, COUNT);
    uint16_t *got = case_bytes(&k, COUNT * sizeof *got), *want = case_bytes(&k, COUNT * 2);

    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        uint32_t bits = (uint32_t)case_bits(&k);

        if (i % 2) /* half way for bf16 or fp16, or beside it */
            bits =
                (bits & 0xffffe000u) + (i % 4 == 1 ? 0x8000u : 0x1000u) + (uint32_t)(i / 4 % 3) - 1;
        memcpy(&value[i], &bits, sizeof bits);
        if (value[i] == 0)
            value[i] = 0; /* without a sign: a sum has lost it */
    }
    for (enum case_storage storage = CASE_BF16; storage <= CASE_F16; storage++) {
        struct ds_bias_args args = {
            f32_2(value, 1, COUNT), ds_tensor1(got, case_dtypes[storage], COUNT), 0, 0, {0}};

        assert_true(ds_dtype_from_f32(want, case_dtypes[storage], value, COUNT));
        assert_ok(CASE_RUN(bias_backward, &args));
        for (size_t i = 0; i < COUNT; i++)
            if (!isnan(value[i]))
                assert_int_equal(got[i], want[i]);
            else
                assert_true((got[i] & 0x7fff) > (storage == CASE_BF16 ? 0x7f80 : 0x7c00));
    }
    case_free(&k);
}

static void fp16_overflows_to_inf_and_not_finite_stays(void **state)
{
    struct kernel_case k = {.storage = CASE_F16};
    float values[] = {60000, -60000, INFINITY, NAN}, bias[] = {60000, -60000, 1, 1};
    struct ds_bias_args args = {f32_2(values, 1, 4), f32_1(bias, 4), 0, 0, {0}};

    (void)state;
    case_store(&k, &args.y_TN);
    case_store(&k, &args.bias_N);
    assert_ok(CASE_RUN(bias_forward, &args));
    case_load(&k);
    assert_true(values[0] == INFINITY && values[1] == -INFINITY && values[2] == INFINITY);
    assert_true(isnan(values[3]));
    case_free(&k);
}

static void swiglu_passes_on_what_is_not_finite(void **state)
{
    struct kernel_case k = {.random = 1};

    (void)state;
    FOR_STORAGES(&k)
    {
        struct swiglu_case s = make_swiglu(&k, 2, 33);

        s.gate_up[5] = NAN;
        s.gate_up[33 + 7] = INFINITY;
        s.gate_up[7] = 1;
        run_swiglu(&k, swiglu_forward(s.gate_up, s.y, 2, 33));
        run_swiglu_backward(&k, swiglu_backward(&s));
        assert_true(isnan(s.y[5]) && s.y[7] == INFINITY && isfinite(s.y[6]));
        assert_true(isnan(s.dgate_up[5]) && isnan(s.dgate_up[33 + 5]));
        case_free(&k);
    }
}

static void dtypes_that_do_not_go_together_are_refused(void **state)
{
    float x[8] = {0};
    struct ds_bias_args bias = {f32_2(x, 1, 4), ds_tensor1(x, DS_BF16, 4), 0, 0, {0}};
    struct ds_swiglu_args swiglu = {.gate_up_TN = ds_tensor2(x, DS_BF16, 1, 8),
                                    .y_TI = ds_tensor2(x, DS_F16, 1, 4)};
    struct ds_swiglu_backward_args backward = {.gate_up_TN = f32_2(x, 1, 8),
                                               .dy_TI = f32_2(x, 1, 4),
                                               .dgate_up_TN = f32_2(x, 1, 8),
                                               .y_TI = ds_tensor2(x, DS_BF16, 1, 4)};

    (void)state;
    assert_int_equal(CASE_RUN(bias_forward, &bias), DS_ERR_UNSUPPORTED);
    bias.bias_N.dtype = DS_F64;
    assert_int_equal(CASE_RUN(bias_backward, &bias), DS_ERR_UNSUPPORTED);
    assert_int_equal(CASE_RUN(swiglu_forward, &swiglu), DS_ERR_UNSUPPORTED);
    assert_int_equal(CASE_RUN(swiglu_backward, &backward), DS_ERR_UNSUPPORTED);
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
        cmocka_unit_test(parts_of_a_table_are_the_table),
        cmocka_unit_test(add_and_fill_reach_every_element_and_no_other),
        cmocka_unit_test(rows_are_scaled_and_rounded_once),
        cmocka_unit_test(loss_sum_adds_in_fp64),
        cmocka_unit_test(elementwise_kernels_have_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(every_code_is_read_and_written_as_files_are),
        cmocka_unit_test(fp32_is_rounded_as_for_files),
        cmocka_unit_test(fp16_overflows_to_inf_and_not_finite_stays),
        cmocka_unit_test(swiglu_passes_on_what_is_not_finite),
        cmocka_unit_test(dtypes_that_do_not_go_together_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
