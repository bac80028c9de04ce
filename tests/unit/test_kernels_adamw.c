/* test_kernels_adamw.c - AdamW of the cpu table: PyTorch's numbers, fp64, spans, skipped steps. */
// link: device kernels base
#include "kernel_case.h"

#include "dstrain/master.h"

struct shard {
    size_t count;
    float *master, *param, *grad, *m, *v;
    struct ds_step_record record;
    struct ds_adamw_args args;
};

static struct shard make_shard(struct kernel_case *k, size_t count, int own_param)
{
    struct shard s = {
        .count = count,
        .master = case_floats(k, count),
        .grad = case_floats(k, count),
        .m = case_floats(k, count),
        .v = case_floats(k, count),
        .record = {.learning_rate = 1e-3f, .loss_scale = 1, .clip_factor = 1, .trained_tokens = 1},
    };

    s.param = own_param ? case_floats(k, count) : s.master;
    memset(s.m, 0, count * sizeof *s.m);
    memset(s.v, 0, count * sizeof *s.v);
    s.args = (struct ds_adamw_args){f32_1(s.master, count),
                                    f32_1(s.param, count),
                                    f32_1(s.grad, count),
                                    f32_1(s.m, count),
                                    f32_1(s.v, count),
                                    NULL,
                                    0,
                                    NULL,
                                    0.9f,
                                    0.999f,
                                    1e-8f};
    return s;
}

/* One step as the trainer makes it: verdict, then update. */
static void step(struct shard *s, const struct ds_adamw_span *spans, size_t span_count)
{
    struct ds_verdict_args verdict = {&s->record, 0, s->args.beta1, s->args.beta2};

    s->args.record = &s->record;
    s->args.spans = spans;
    s->args.span_count = span_count;
    assert_ok(CASE_RUN(verdict, &verdict));
    assert_ok(CASE_RUN(adamw, &s->args));
}

/* Made with PyTorch: lr 1e-3, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01. */
static void three_steps_give_pytorchs_numbers(void **state)
{
    static const float gradients[3][2] = {{0.1f, -0.2f}, {0.3f, 0}, {-0.05f, 0.4f}};
    static const double want[3][2] = {{0.998990000100, -1.998980000050},
                                      {0.998062229122, -1.998289952043},
                                      {0.997451335177, -1.998610003601}};
    const struct ds_adamw_span span = {.count = 2, .weight_decay = 0.01f};
    struct kernel_case k = {.random = 1};
    struct shard s = make_shard(&k, 2, 0);

    (void)state;
    s.master[0] = 1;
    s.master[1] = -2;
    for (int i = 0; i < 3; i++) {
        memcpy(s.grad, gradients[i], sizeof gradients[i]);
        step(&s, &span, 1);
        for (int j = 0; j < 2; j++)
            assert_true(fabs(s.master[j] - want[i][j]) < 1.5e-7 * fabs(want[i][j]));
    }
    case_free(&k);
}

struct reference {
    double *p, *m, *v;
};

static void reference_step(struct reference *r, const struct shard *s, double decay, int t)
{
    const double b1 = s->args.beta1, b2 = s->args.beta2, rate = s->record.learning_rate;

    for (size_t i = 0; i < s->count; i++) {
        double g = (double)s->grad[i] * s->record.clip_factor;

        r->p[i] *= 1 - rate * decay;
        r->m[i] = b1 * r->m[i] + (1 - b1) * g;
        r->v[i] = b2 * r->v[i] + (1 - b2) * g * g;
        r->p[i] -= rate / (1 - pow(b1, t)) * r->m[i] /
                   (sqrt(r->v[i]) / sqrt(1 - pow(b2, t)) + s->args.epsilon);
    }
}

static void thirty_steps_follow_fp64(void **state)
{
    static const size_t counts[] = {1, 33, 4096, 10001};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(counts, c)
    {
        size_t count = counts[c];
        struct shard s = make_shard(&k, count, 0);
        struct reference r = {case_widen(&k, s.master, count), case_doubles(&k, count),
                              case_doubles(&k, count)};
        const struct ds_adamw_span span = {.count = count, .weight_decay = 0.1f};

        for (int t = 1; t <= 30; t++) {
            s.record.learning_rate = 1e-2f / (float)t;
            for (size_t i = 0; i < count; i++)
                s.grad[i] = (float)(case_uniform(&k) + 0.5);
            step(&s, &span, 1);
            reference_step(&r, &s, span.weight_decay, t);
        }
        assert_close(s.master, r.p, count);
        assert_close(s.m, r.m, count);
        assert_close(s.v, r.v, count);
        case_free(&k);
    }
}

static void gradients_are_clipped_and_unscaled(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct shard s = make_shard(&k, 65, 0), other = make_shard(&k, 65, 0);
    const struct ds_adamw_span span = {.count = 65};

    (void)state;
    s.record.norm_squared = 16 * 1024.0 * 1024.0; /* a norm of 4 times the loss scale */
    s.record.loss_scale = 1024;
    memcpy(other.master, s.master, 65 * sizeof(float));
    for (size_t i = 0; i < 65; i++)
        other.grad[i] = s.grad[i] * ((float)(2 / (4 + 1e-6)) / 1024);
    other.args.record = &other.record;
    assert_ok(CASE_RUN(verdict, &(struct ds_verdict_args){&s.record, 2, 0.9f, 0.999f}));
    s.args.record = &s.record;
    s.args.spans = &span;
    s.args.span_count = 1;
    assert_ok(CASE_RUN(adamw, &s.args));
    step(&other, &span, 1);
    assert_true(s.record.norm == 4);
    assert_memory_equal(s.master, other.master, 65 * sizeof(float));
    assert_memory_equal(s.v, other.v, 65 * sizeof(float));
    case_free(&k);
}

/* Scalar code with libm's fmaf here, vectors with the processor's there. */
static void every_element_has_the_bits_of_the_formula(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct shard s = make_shard(&k, 5003, 1);
    const struct ds_adamw_span span = {.count = 5003, .weight_decay = 0.3f};

    (void)state;
    s.record.learning_rate = 0.1f; /* large: where fma and two roundings differ, it shows */
    for (size_t i = 0; i < s.count; i++) {
        s.m[i] = (float)case_uniform(&k);
        s.v[i] = (float)fabs(case_uniform(&k));
    }
    struct shard kept = s;
    kept.master = case_copy(&k, s.master, s.count);
    kept.m = case_copy(&k, s.m, s.count);
    kept.v = case_copy(&k, s.v, s.count);
    step(&s, &span, 1);
    for (size_t i = 0; i < s.count; i++) {
        const struct ds_step_record *r = &s.record;
        float g = s.grad[i] * r->clip_factor, rate = r->learning_rate;
        float m = fmaf(0.9f, kept.m[i], (1 - 0.9f) * g);
        float v = fmaf(0.999f, kept.v[i], (1 - 0.999f) * g * g);
        float decayed = fmaf(-rate * 0.3f, kept.master[i], kept.master[i]);
        float p = fmaf(-rate * r->correction1, m / (sqrtf(v * r->correction2) + 1e-8f), decayed);

        assert_true(s.m[i] == m && s.v[i] == v && s.master[i] == p && s.param[i] == p);
    }
    case_free(&k);
}

static void padding_between_spans_is_untouched(void **state)
{
    /* decay below 1: at 1 an element near +-1 could stay where it is */
    static const struct ds_adamw_span spans[] = {
        {.start = 3, .count = 1, .weight_decay = 0.1f},
        {.start = 7, .count = 90},
        {.start = 128, .count = 5000, .weight_decay = 0.5f}};
    struct kernel_case k = {.random = test_seed(__func__)};
    struct shard s = make_shard(&k, 6000, 1), kept = s;

    (void)state;
    for (size_t i = 0; i < s.count; i++)
        s.param[i] += 4; /* nothing that a weight could become */
    kept.master = case_copy(&k, s.master, s.count);
    kept.param = case_copy(&k, s.param, s.count);
    step(&s, spans, 3);
    for (size_t i = 0; i < s.count; i++) {
        int is_padding = i < 3 || (i >= 4 && i < 7) || (i >= 97 && i < 128) || i >= 5128;

        assert_int_equal(s.master[i] == kept.master[i], is_padding);
        assert_int_equal(s.param[i] == kept.param[i], is_padding);
        assert_int_equal(s.m[i] == 0 && s.v[i] == 0, is_padding);
        assert_true(is_padding || s.param[i] == s.master[i]);
    }
    case_free(&k);
}

static void a_span_uses_its_own_weight_decay(void **state)
{
    static const struct ds_adamw_span spans[] = {{.count = 8, .weight_decay = 0.5f},
                                                 {.start = 8, .count = 8}};
    struct kernel_case k = {.random = test_seed(__func__)};
    struct shard s = make_shard(&k, 16, 0);

    (void)state;
    memset(s.grad, 0, 16 * sizeof *s.grad);
    s.record.learning_rate = 0.25f;
    float *kept = case_copy(&k, s.master, 16);
    step(&s, spans, 2);
    for (size_t i = 0; i < 16; i++)
        assert_true(s.master[i] == (i < 8 ? kept[i] * 0.875f : kept[i]));
    case_free(&k);
}

static void check_skip_changes_nothing(struct kernel_case *k, struct ds_step_record record)
{
    struct shard s = make_shard(k, 5000, 1);
    const struct ds_adamw_span span = {.count = 5000, .weight_decay = 0.1f};
    float *master = case_copy(k, s.master, 5000), *param = case_copy(k, s.param, 5000);
    float *zero = case_copy(k, s.m, 5000);

    s.record = record;
    s.grad[17] = NAN;
    step(&s, &span, 1);
    assert_int_equal(s.record.skip, 1);
    assert_int_equal(s.record.updates, record.updates);
    assert_memory_equal(s.master, master, 5000 * sizeof *master);
    assert_memory_equal(s.param, param, 5000 * sizeof *param);
    assert_memory_equal(s.m, zero, 5000 * sizeof *zero);
    assert_memory_equal(s.v, zero, 5000 * sizeof *zero);
    case_free(k);
}

static void a_skipped_step_leaves_every_bit(void **state)
{
    struct kernel_case k = {.random = test_seed(__func__)};
    struct ds_step_record fine = {
        .learning_rate = 1, .loss_scale = 1, .trained_tokens = 3, .updates = 5, .norm_squared = 1};
    struct ds_step_record bad_norm = fine, bad_loss = fine, no_tokens = fine;

    (void)state;
    bad_norm.norm_squared = NAN;
    bad_loss.loss_sum = INFINITY;
    no_tokens.trained_tokens = 0;
    check_skip_changes_nothing(&k, bad_norm);
    check_skip_changes_nothing(&k, bad_loss);
    check_skip_changes_nothing(&k, no_tokens);
}

static void run_adamw(uint64_t seed, size_t row, void *out)
{
    static const struct ds_adamw_span spans[] = {
        {.count = 5, .weight_decay = 0.1f},
        {.start = 64, .count = 9000},
        {.start = 10000, .count = 4097, .weight_decay = 0.1f}};
    struct kernel_case k = {.random = seed};
    struct shard s = make_shard(&k, 20000, 0);
    float *to = out;

    (void)row;
    for (int i = 0; i < 3; i++)
        step(&s, spans, 3);
    memcpy(to, s.master, s.count * sizeof *to);
    memcpy(to + s.count, s.m, s.count * sizeof *to);
    memcpy(to + 2 * s.count, s.v, s.count * sizeof *to);
    case_free(&k);
}

static void adamw_has_the_same_bits_on_any_number_of_threads(void **state)
{
    (void)state;
    case_assert_threads_agree(run_adamw, test_seed(__func__), 0, 60000 * sizeof(float));
}

static void a_dtype_that_is_not_there_is_refused_by_name(void **state)
{
    struct kernel_case k = {.random = 1};
    struct shard s = make_shard(&k, 4, 1);

    (void)state;
    s.args.exp_avg.dtype = DS_I32;
    assert_int_equal(CASE_RUN(adamw, &s.args), DS_ERR_UNSUPPORTED);
    case_free(&k);
}

/* ---- updates by the host */

enum { PART_COUNT = 5000 };

/* The same states elsewhere. */
static struct shard copy_of(struct kernel_case *k, const struct shard *from)
{
    struct shard to = *from;

    to.master = case_copy(k, from->master, PART_COUNT);
    to.m = case_copy(k, from->m, PART_COUNT);
    to.v = case_copy(k, from->v, PART_COUNT);
    to.args.master = f32_1(to.master, PART_COUNT);
    to.args.exp_avg = f32_1(to.m, PART_COUNT);
    to.args.exp_avg_sq = f32_1(to.v, PART_COUNT);
    return to;
}

static void update_in_parts(const struct shard *s)
{
    for (uint64_t at = 0, count; at < PART_COUNT; at += count) {
        count = 1 + at * 7 % 900;
        count = count < PART_COUNT - at ? count : PART_COUNT - at;
        ds_adamw_part(&s->args, at, count);
    }
}

/* Wherever it is cut; and weights, whatever they were, follow their masters beside spans, in a skipped step everywhere. */
static void parts_of_an_update_have_the_bits_of_the_whole(void **state)
{
    static const struct ds_adamw_span spans[] = {{.count = 1000, .weight_decay = 0.1f},
                                                 {.start = 1500, .count = 3000},
                                                 {.start = 4500, .count = 7}};
    static uint16_t right[PART_COUNT], any[PART_COUNT];
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    for (uint32_t skip = 0; skip < 2; skip++) {
        struct shard whole = make_shard(&k, PART_COUNT, 0);
        whole.record.correction1 = whole.record.correction2 = 2;
        whole.record.skip = skip;
        whole.args.record = &whole.record;
        whole.args.spans = spans;
        whole.args.span_count = 3;
        struct shard parts = copy_of(&k, &whole);
        for (size_t i = 0; i < PART_COUNT; i++) {
            right[i] = ds_master_weight(whole.master[i]);
            any[i] = (uint16_t)(i * 40503u);
        }
        whole.args.param = ds_tensor1(right, DS_BF16, PART_COUNT);
        parts.args.param = ds_tensor1(any, DS_BF16, PART_COUNT);
        assert_ok(CASE_RUN(adamw, &whole.args));
        update_in_parts(&parts);
        assert_memory_equal(whole.master, parts.master, PART_COUNT * sizeof *whole.master);
        assert_memory_equal(whole.m, parts.m, PART_COUNT * sizeof *whole.m);
        assert_memory_equal(whole.v, parts.v, PART_COUNT * sizeof *whole.v);
        assert_memory_equal(right, any, sizeof right);
    }
    case_free(&k);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_of_an_update_have_the_bits_of_the_whole),
        cmocka_unit_test(three_steps_give_pytorchs_numbers),
        cmocka_unit_test(thirty_steps_follow_fp64),
        cmocka_unit_test(gradients_are_clipped_and_unscaled),
        cmocka_unit_test(every_element_has_the_bits_of_the_formula),
        cmocka_unit_test(padding_between_spans_is_untouched),
        cmocka_unit_test(a_span_uses_its_own_weight_decay),
        cmocka_unit_test(a_skipped_step_leaves_every_bit),
        cmocka_unit_test(adamw_has_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(a_dtype_that_is_not_there_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
