/* test_kernels_states.c - add, cast, norm and AdamW of the cpu table on states of 16 bits: the bits of
 * fp32 arithmetic on what is stored, rounded once. */
// link: device kernels base
#include "kernel_case.h"

#include "dstrain/master.h"
#include "dstrain/random.h"

static const enum ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

/* `count` numbers in [-1, 1), rounded to the dtype, and what they are in fp32 */
static struct ds_tensor make(struct kernel_case *k, size_t count, enum ds_dtype dtype, float **wide)
{
    float *x = case_floats(k, count);
    void *at = case_bytes(k, count * ds_dtype_bytes(dtype));

    assert_true(ds_dtype_from_f32(at, dtype, x, count) && ds_dtype_to_f32(x, at, dtype, count));
    *wide = x;
    return ds_tensor1(at, dtype, count);
}

static float *widened(struct kernel_case *k, const struct ds_tensor *tensor)
{
    float *x = case_floats(k, tensor->shape[0]);

    assert_true(ds_dtype_to_f32(x, tensor->data, tensor->dtype, tensor->shape[0]));
    return x;
}

static float rounded(float value, enum ds_dtype dtype)
{
    uint16_t half;

    if (dtype == DS_F32)
        return value;
    assert_true(ds_dtype_from_f32(&half, dtype, &value, 1));
    assert_true(ds_dtype_to_f32(&value, &half, dtype, 1));
    return value;
}

static void check_add_and_cast(struct kernel_case *k, size_t count, enum ds_dtype to,
                               enum ds_dtype from)
{
    float *y, *x, *got;
    struct ds_tensor y_tensor = make(k, count, to, &y), x_tensor = make(k, count, from, &x);

    assert_ok(CASE_RUN(add, &(struct ds_add_args){y_tensor, x_tensor}));
    got = widened(k, &y_tensor);
    for (size_t i = 0; i < count; i++)
        assert_true(got[i] == rounded(y[i] + x[i], to));
    assert_ok(CASE_RUN(cast, &(struct ds_cast_args){y_tensor, x_tensor}));
    got = widened(k, &y_tensor);
    for (size_t i = 0; i < count; i++)
        assert_true(got[i] == rounded(x[i], to));
    case_free(k);
}

static void every_pair_of_dtypes_is_added_and_cast(void **state)
{
    static const size_t counts[] = {1, 1023, 1025, 20011};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(counts, c)
    {
        for (int to = 0; to < 3; to++)
            for (int from = 0; from < 3; from++)
                check_add_and_cast(&k, counts[c], floats[to], floats[from]);
    }
}

static void a_norm_is_that_of_the_numbers_stored(void **state)
{
    static const struct ds_span skip = {2000, 100};
    struct kernel_case k = {.random = test_seed(__func__)};
    const size_t count = 3 * DS_NORM_PIECE + 5;

    (void)state;
    for (int i = 1; i < 3; i++) {
        float *wide;
        struct ds_tensor x = make(&k, count, floats[i], &wide);
        double *got = case_doubles(&k, 4), *want = case_doubles(&k, 4);
        struct ds_norm_pieces_args narrow = {x, ds_tensor1(got, DS_F64, 4), &skip, 1};
        struct ds_norm_pieces_args plain = {f32_1(wide, count), ds_tensor1(want, DS_F64, 4), &skip,
                                            1};

        assert_ok(CASE_RUN(norm_pieces, &narrow));
        assert_ok(CASE_RUN(norm_pieces, &plain));
        assert_memory_equal(got, want, 4 * sizeof *got);
        case_free(&k);
    }
}

/* ---- AdamW */

enum master { OWN, FP32, REMAINDER, NONE }; /* OWN: the param is the master */

static const struct pair {
    enum ds_dtype param;
    enum master master;
} pairs[] = {{DS_F32, OWN}, {DS_BF16, FP32}, {DS_F16, FP32}, {DS_BF16, REMAINDER}, {DS_BF16, NONE}};

struct shard {
    struct pair pair;
    size_t count;
    struct ds_tensor master, param, grad, m, v;
    float *master0, *grad0, *m0, *v0; /* before the step, in fp32 */
    struct ds_step_record record;
};

static void make_master(struct kernel_case *k, struct shard *s)
{
    const size_t count = s->count;
    int16_t *remainder = case_bytes(k, count * sizeof *remainder);
    uint16_t *param = s->param.data;

    s->master0 = case_floats(k, count);
    if (s->pair.master == NONE)
        assert_true(ds_dtype_from_f32(param, DS_BF16, s->master0, count) &&
                    ds_dtype_to_f32(s->master0, param, DS_BF16, count));
    if (s->pair.master == REMAINDER)
        for (size_t i = 0; i < count; i++) {
            param[i] = ds_master_weight(s->master0[i]);
            remainder[i] = ds_master_remainder(s->master0[i]);
        }
    if (s->pair.master == OWN)
        memcpy(s->param.data, s->master0, count * sizeof(float));
    s->master = s->pair.master == OWN         ? s->param
                : s->pair.master == FP32      ? f32_1(case_copy(k, s->master0, count), count)
                : s->pair.master == REMAINDER ? ds_tensor1(remainder, DS_I16, count)
                                              : ds_tensor1(NULL, DS_F32, count);
}

static struct shard make_shard(struct kernel_case *k, size_t count, struct pair pair,
                               enum ds_dtype grad, enum ds_dtype m, enum ds_dtype v)
{
    struct shard s = {.pair = pair,
                      .count = count,
                      .record = {.step = 7,
                                 .learning_rate = 0.01f,
                                 .loss_scale = 4,
                                 .clip_factor = 0.5f,
                                 .correction1 = 1.25f,
                                 .correction2 = 1.5f}};
    float *unused;

    s.param = make(k, count, pair.param, &unused);
    s.grad = make(k, count, grad, &s.grad0);
    s.m = make(k, count, m, &s.m0);
    s.v = make(k, count, v, &s.v0);
    for (size_t i = 0; i < count; i++)
        s.v0[i] = fabsf(s.v0[i]);
    assert_true(ds_dtype_from_f32(s.v.data, v, s.v0, count));
    make_master(k, &s);
    return s;
}

static void update(struct shard *s, const struct ds_adamw_span *spans, size_t span_count)
{
    const struct ds_adamw_args args = {s->master,  s->param,   s->grad, s->m,  s->v, spans,
                                       span_count, &s->record, 0.9f,    0.99f, 1e-8f};

    assert_ok(CASE_RUN(adamw, &args));
}

/* The formula on one element, in scalar code. */
static float formula(const struct shard *s, size_t i, float decay, float *m, float *v)
{
    const struct ds_step_record *r = &s->record;
    const float g = s->grad0[i] * (r->clip_factor / r->loss_scale), rate = r->learning_rate;

    *m = fmaf(0.9f, s->m0[i], (1 - 0.9f) * g);
    *v = fmaf(0.99f, s->v0[i], (1 - 0.99f) * g * g);
    return fmaf(-rate * r->correction1, *m / (sqrtf(*v * r->correction2) + 1e-8f),
                fmaf(-rate * decay, s->master0[i], s->master0[i]));
}

/* Number n of a step: the 16-bit part n % 8 of block n / 8. */
static uint16_t number(uint64_t key, uint64_t step, uint64_t n)
{
    const uint32_t counter[4] = {(uint32_t)(n / 8), (uint32_t)(n / 8 >> 32), (uint32_t)step,
                                 (uint32_t)(step >> 32)};
    uint32_t words[4];

    ds_random_philox(counter, key, words);
    return (uint16_t)(words[n % 8 / 2] >> (n % 2 ? 16 : 0));
}

/* Element i of the span in the whole parameter. */
static uint64_t place(const struct ds_adamw_span *span, uint64_t i)
{
    const uint64_t columns = span->columns > 0 ? span->columns : UINT64_MAX;

    i += span->column;
    return span->random_start + i / columns * span->whole_columns + i % columns;
}

static float stored(const struct shard *s, size_t i, float master, const struct ds_adamw_span *span)
{
    uint16_t weight = ds_master_weight(master);

    if (s->pair.master == NONE)
        weight = ds_master_round_randomly(
            master, number(span->random_key, s->record.step, place(span, i - span->start)));
    if (s->pair.param == DS_BF16)
        return ds_master_join(weight, 0);
    return rounded(master, s->pair.param);
}

static float master_at(const struct shard *s, size_t i)
{
    if (s->pair.master == REMAINDER)
        return ds_master_join(((uint16_t *)s->param.data)[i], ((int16_t *)s->master.data)[i]);
    return ((float *)s->master.data)[i];
}

static void check_span(struct kernel_case *k, const struct shard *s,
                       const struct ds_adamw_span *span)
{
    float *param = widened(k, &s->param), *m = widened(k, &s->m), *v = widened(k, &s->v);

    for (size_t i = span->start; i < span->start + span->count; i++) {
        float m_want, v_want, want = formula(s, i, span->weight_decay, &m_want, &v_want);

        assert_true(m[i] == rounded(m_want, s->m.dtype) && v[i] == rounded(v_want, s->v.dtype));
        assert_true(param[i] == stored(s, i, want, span));
        assert_true(s->pair.master == NONE || master_at(s, i) == want);
    }
}

static void every_combination_has_the_bits_of_the_formula(void **state)
{
    static const struct ds_adamw_span spans[] = {
        {.start = 3, .count = 600, .random_key = 11, .random_start = 5, .weight_decay = 0.5f},
        {.start = 640, .count = 5000, .random_key = 12, .random_start = 1ull << 35},
        {.start = 5700, .count = 101, .random_start = 8, .columns = 7, .whole_columns = 50},
        {.start = 5802,
         .count = 4200,
         .random_key = 13,
         .random_start = 1ull << 35,
         .columns = 600,
         .whole_columns = 1801,
         .column = 599},
        {.start = 10010,
         .count = 190,
         .random_key = 13,
         .random_start = 9,
         .columns = 1,
         .whole_columns = 3}};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++)
        for (int choice = 0; choice < 12; choice++) {
            struct shard s = make_shard(&k, 10200, pairs[p], floats[choice % 3],
                                        floats[choice / 3 % 2], floats[choice / 6]);
            unsigned char *kept = case_bytes(&k, 10200 * 4);
            const size_t bytes = ds_dtype_bytes(s.param.dtype);

            memcpy(kept, s.param.data, 10200 * bytes);
            update(&s, spans, sizeof spans / sizeof *spans);
            FOR_ROWS(spans, i)
            check_span(&k, &s, &spans[i]);
            for (size_t i = 603; i < 640; i++) /* padding */
                assert_memory_equal((char *)s.param.data + i * bytes, kept + i * bytes, bytes);
            case_free(&k);
        }
}

/* One element of eight has moments that are nothing, or far from 1: a root or quotient may be subnormal or infinite. */
static void scatter_sizes(struct kernel_case *k, struct shard *s)
{
    static const float sizes[] = {0,        0x1p-140f, 0x1p-110f, 0x1p-101f, 0x1p-99f,
                                  0x1p-61f, 0x1p-59f,  0x1p-30f,  0x1p60f,   0x1p120f};

    for (size_t i = 0; i < s->count; i++) {
        if (case_bits(k) % 8 != 0)
            continue;
        s->m0[i] = sizes[case_bits(k) % 10] * (case_bits(k) % 2 ? 1 : -1);
        s->v0[i] = sizes[case_bits(k) % 10];
        s->grad0[i] *= (float)(case_bits(k) % 2);
    }
    assert_true(ds_dtype_from_f32(s->m.data, s->m.dtype, s->m0, s->count) &&
                ds_dtype_to_f32(s->m0, s->m.data, s->m.dtype, s->count) &&
                ds_dtype_from_f32(s->v.data, s->v.dtype, s->v0, s->count) &&
                ds_dtype_to_f32(s->v0, s->v.data, s->v.dtype, s->count) &&
                ds_dtype_from_f32(s->grad.data, s->grad.dtype, s->grad0, s->count));
}

static void numbers_of_all_sizes_have_the_bits_of_the_formula(void **state)
{
    const struct ds_adamw_span span = {.count = 6000, .random_key = 5, .weight_decay = 0.25f};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(pairs, p)
    for (int choice = 0; choice < 2; choice++) { /* fp32, bf16 */
        struct shard s =
            make_shard(&k, 6000, pairs[p], floats[choice], floats[choice], floats[choice]);

        scatter_sizes(&k, &s);
        update(&s, &span, 1);
        check_span(&k, &s, &span);
        case_free(&k);
    }
}

/* The low halves of all masters under high halves of every kind; a rate of 0 leaves masters as they are. */
static void a_remainder_follows_an_fp32_master_through_all_roundings(void **state)
{
    static const uint32_t highs[] = {0x0000, 0x8000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81,
                                     0xbf80, 0xbfff, 0x7f7e, 0x7f7f, 0xff7f, 0x4123};
    const struct ds_adamw_span span = {.count = 65536};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(highs, h)
    {
        struct shard a = make_shard(&k, 65536, pairs[1], DS_F32, DS_F32, DS_F32);
        struct shard b = make_shard(&k, 65536, pairs[3], DS_F32, DS_F32, DS_F32);
        float *master = a.master.data;
        uint16_t *param = b.param.data;
        int16_t *remainder = b.master.data;

        for (uint32_t low = 0; low <= 0xffff; low++) {
            uint32_t bits = highs[h] << 16 | low;
            memcpy(&master[low], &bits, sizeof bits);
            param[low] = ds_master_weight(master[low]);
            remainder[low] = ds_master_remainder(master[low]);
        }
        a.record.learning_rate = b.record.learning_rate = 0;
        update(&a, &span, 1);
        update(&b, &span, 1);
        assert_memory_equal(a.param.data, b.param.data, 65536 * 2);
        for (uint32_t low = 0; low <= 0xffff; low++)
            assert_int_equal(ds_master_bits(master[low]), ds_master_bits(master_at(&b, low)));
        case_free(&k);
    }
}

/* A hundred updates of a bf16 weight: what fp32 keeps, the remainder keeps. */
static void a_remainder_follows_an_fp32_master_through_updates(void **state)
{
    const struct ds_adamw_span span = {.count = 5000, .weight_decay = 0.1f};
    struct kernel_case k = {.random = test_seed(__func__)}, again = k;
    struct shard a = make_shard(&k, 5000, pairs[1], DS_F32, DS_F32, DS_F32);
    struct shard b = make_shard(&again, 5000, pairs[3], DS_F32, DS_F32, DS_F32);

    (void)state;
    memset(a.m.data, 0, 5000 * 4);
    memset(a.v.data, 0, 5000 * 4);
    memset(b.m.data, 0, 5000 * 4);
    memset(b.v.data, 0, 5000 * 4);
    for (size_t i = 0; i < 5000; i++) {
        const float master = ((float *)a.master.data)[i];
        ((uint16_t *)b.param.data)[i] = ds_master_weight(master);
        ((int16_t *)b.master.data)[i] = ds_master_remainder(master);
    }
    for (int step = 1; step <= 100; step++) {
        for (size_t i = 0; i < 5000; i++)
            ((float *)a.grad.data)[i] = ((float *)b.grad.data)[i] = (float)case_uniform(&k);
        a.record.learning_rate = b.record.learning_rate = 1e-3f;
        update(&a, &span, 1);
        update(&b, &span, 1);
        assert_memory_equal(a.param.data, b.param.data, 5000 * 2);
    }
    for (size_t i = 0; i < 5000; i++)
        assert_true(((float *)a.master.data)[i] == master_at(&b, i));
    case_free(&k);
    case_free(&again);
}

/* Weights of 1 go down by 0.3 of the distance to their lower neighbour. Over n draws the mean is within five
 * standard deviations, sqrt(0.3 * 0.7 / n), and half a step of the 16-bit numbers. */
static void small_updates_are_right_on_average(void **state)
{
    enum { COUNT = 4096, STEPS = 64 };
    const double gap = 1.0 / 256, draws = (double)COUNT * STEPS;
    const struct ds_adamw_span span = {.count = COUNT, .random_key = test_seed(__func__)};
    struct kernel_case k = {.random = 1};
    struct shard s = make_shard(&k, COUNT, pairs[4], DS_F32, DS_F32, DS_F32);
    double moved = 0;

    (void)state;
    s.record.learning_rate = (float)(0.3 * gap);
    s.record.clip_factor = s.record.loss_scale = s.record.correction1 = s.record.correction2 = 1;
    for (s.record.step = 1; s.record.step <= STEPS; s.record.step++) {
        uint16_t *param = s.param.data;

        for (size_t i = 0; i < COUNT; i++) { /* moments that make the update the rate itself */
            param[i] = 0x3f80;
            ((float *)s.m.data)[i] = ((float *)s.v.data)[i] = ((float *)s.grad.data)[i] = 1;
        }
        update(&s, &span, 1);
        for (size_t i = 0; i < COUNT; i++) {
            assert_true(param[i] == 0x3f80 || param[i] == 0x3f7f);
            moved += param[i] == 0x3f7f;
        }
    }
    assert_true(fabs(moved / draws - 0.3) <= 5 * sqrt(0.3 * 0.7 / draws) + 0x1p-16);
    case_free(&k);
}

/* Whatever the cut: the number belongs to the element of the range. */
static void a_range_cut_in_two_rounds_as_the_whole(void **state)
{
    const struct ds_adamw_span whole = {.start = 1, .count = 4999, .random_key = 99};
    struct kernel_case k = {.random = test_seed(__func__)}, again = k;

    (void)state;
    struct shard want = make_shard(&k, 5000, pairs[4], DS_F32, DS_F32, DS_F32);
    update(&want, &whole, 1);
    for (uint64_t cut = 1; cut < 4999; cut += 611) {
        struct kernel_case c = again;
        struct shard s = make_shard(&c, 5000, pairs[4], DS_F32, DS_F32, DS_F32);
        const struct ds_adamw_span parts[] = {
            {.start = 1, .count = cut, .random_key = 99},
            {.start = 1 + cut, .count = 4999 - cut, .random_key = 99, .random_start = cut}};
        update(&s, parts, 2);
        assert_memory_equal(s.param.data, want.param.data, 5000 * 2);
        case_free(&c);
    }
    case_free(&k);
}

static uint32_t differences(struct kernel_case k, uint64_t key, uint64_t step)
{
    const struct ds_adamw_span span = {.count = 5000, .random_key = 99};
    const struct ds_adamw_span other_span = {.count = 5000, .random_key = key};
    struct kernel_case again = k;
    struct shard s = make_shard(&k, 5000, pairs[4], DS_F32, DS_F32, DS_F32);
    struct shard other = make_shard(&again, 5000, pairs[4], DS_F32, DS_F32, DS_F32);
    uint32_t count = 0;

    other.record.step = step;
    update(&s, &span, 1);
    update(&other, &other_span, 1);
    for (size_t i = 0; i < 5000; i++)
        count += ((uint16_t *)s.param.data)[i] != ((uint16_t *)other.param.data)[i];
    case_free(&k);
    case_free(&again);
    return count;
}

static void steps_and_keys_round_differently(void **state)
{
    const struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    assert_int_equal(differences(k, 99, 7), 0);
    assert_true(differences(k, 99, 8) > 500);
    assert_true(differences(k, 99, 7 + (1ull << 32)) > 500);
    assert_true(differences(k, 98, 7) > 500);
}

static void run_adamw(uint64_t seed, size_t row, void *out)
{
    static const struct ds_adamw_span spans[] = {
        {.start = 0, .count = 5, .random_key = 1, .random_start = 0, .weight_decay = 0.1f},
        {.start = 64, .count = 9000, .random_key = 2, .random_start = 3, .weight_decay = 0},
        {.start = 10000, .count = 4097, .random_key = 3, .random_start = 1, .weight_decay = 0.1f}};
    struct kernel_case k = {.random = seed};
    struct shard s = make_shard(&k, 20000, pairs[row], DS_BF16, DS_BF16, DS_BF16);

    for (int i = 0; i < 3; i++)
        update(&s, spans, 3);
    memset(out, 0, 20000 * 4);
    memcpy(out, s.param.data, s.count * ds_dtype_bytes(s.param.dtype));
    case_free(&k);
}

static void states_have_the_same_bits_on_any_number_of_threads(void **state)
{
    const uint64_t seed = test_seed(__func__);

    (void)state;
    FOR_ROWS(pairs, p)
    {
        case_assert_threads_agree(run_adamw, seed, p, 20000 * sizeof(float));
    }
}

static void a_skipped_step_leaves_every_bit(void **state)
{
    const struct ds_adamw_span span = {.count = 5000, .weight_decay = 0.5f};
    struct kernel_case k = {.random = test_seed(__func__)};

    (void)state;
    FOR_ROWS(pairs, p)
    {
        struct shard s = make_shard(&k, 5000, pairs[p], DS_BF16, DS_BF16, DS_BF16);
        const size_t bytes = 5000 * ds_dtype_bytes(s.param.dtype);
        void *param = memcpy(case_bytes(&k, bytes), s.param.data, bytes);
        void *m = memcpy(case_bytes(&k, 10000), s.m.data, 10000);

        s.record.skip = 1;
        update(&s, &span, 1);
        assert_memory_equal(param, s.param.data, bytes);
        assert_memory_equal(m, s.m.data, 10000);
        case_free(&k);
    }
}

static void masters_that_do_not_fit_are_refused(void **state)
{
    static const struct {
        enum ds_dtype param, master;
        int has_master;
    } bad[] = {{DS_F32, DS_F32, 0}, {DS_F16, DS_F32, 0},   {DS_F16, DS_I16, 1},
               {DS_F32, DS_I16, 1}, {DS_BF16, DS_BF16, 1}, {DS_BF16, DS_U16, 1}};
    struct kernel_case k = {.random = 1};

    (void)state;
    FOR_ROWS(bad, i)
    {
        struct shard s = make_shard(&k, 8, pairs[0], DS_F32, DS_F32, DS_F32);
        struct ds_adamw_args args = {
            ds_tensor1(bad[i].has_master ? s.m.data : NULL, bad[i].master, 8),
            ds_tensor1(s.param.data, bad[i].param, 8),
            s.grad,
            s.m,
            s.v,
            NULL,
            0,
            &s.record,
            0.9f,
            0.99f,
            1e-8f};

        assert_int_equal(CASE_RUN(adamw, &args), DS_ERR_UNSUPPORTED);
        case_free(&k);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_dtypes_is_added_and_cast),
        cmocka_unit_test(a_norm_is_that_of_the_numbers_stored),
        cmocka_unit_test(every_combination_has_the_bits_of_the_formula),
        cmocka_unit_test(numbers_of_all_sizes_have_the_bits_of_the_formula),
        cmocka_unit_test(a_remainder_follows_an_fp32_master_through_all_roundings),
        cmocka_unit_test(a_remainder_follows_an_fp32_master_through_updates),
        cmocka_unit_test(small_updates_are_right_on_average),
        cmocka_unit_test(a_range_cut_in_two_rounds_as_the_whole),
        cmocka_unit_test(steps_and_keys_round_differently),
        cmocka_unit_test(states_have_the_same_bits_on_any_number_of_threads),
        cmocka_unit_test(a_skipped_step_leaves_every_bit),
        cmocka_unit_test(masters_that_do_not_fit_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
