/* test_kernels_attention.c - attention, forward and backward, against plain fp64 loops; the loops'
 * own gradient is held against finite differences. */
// link: device kernels base
// cost: 30
#define CASE_GUARD 0xff /* NaN of every dtype: what is read outside shows */
#include "test.h"

#include "kernel_case.h"
#include "kernel_compare.h"

#include "dstrain/kernels.h"

#include <math.h>
#include <omp.h>

struct row {
    const char *name;
    size_t seq_count, seq_length, heads, kv_heads, dim;
    int documents; /* about so many in a sequence, starting anywhere; or where one of these says */
    uint64_t expected; /* documents of all, as the host thinks; 0: it has no idea */
};
enum {
    AT_EDGES = 0, /* 63 and 128: the last key of a block, the first of another */
    AT_ENDS = -1, /* 1 and the last: documents of one token, and what is between */
    IN_FOUR = -2, /* 100, 228, 400 */
};

static const struct row rows[] = {
    {"one token", 1, 1, 1, 1, 1, 1, 0},
    {"one token a sequence, grouped", 3, 1, 8, 2, 33, 1, 0},
    {"odd", 2, 37, 7, 7, 33, 1, 0},
    {"odd, documents", 2, 37, 7, 7, 33, 4, 0},
    {"grouped 8:2, three blocks", 1, 150, 8, 2, 64, 1, 0},
    {"grouped 6:3, documents", 2, 200, 6, 3, 17, 5, 0},
    {"whole blocks", 1, 128, 2, 1, 128, 1, 0},
    {"block and one", 1, 65, 2, 2, 80, 2, 0},
    {"widest", 1, 70, 2, 1, 256, 3, 0},
    {"every token a document", 1, 67, 2, 2, 5, 1000, 0},
    {"documents at the edges of blocks", 1, 210, 2, 1, 20, AT_EDGES, 0},
    {"two whole sequences, grouped", 2, 256, 4, 2, 64, 1, 0},
    {"three whole sequences", 3, 128, 3, 3, 80, 1, 0},
    /* for cuDNN's lists, which have 4, 7 or 9 slots where 1, 2 or 3 documents are expected */
    {"expected: one document a sequence", 2, 256, 4, 2, 64, 1, 2},
    {"expected: documents of one token", 2, 512, 2, 1, 64, AT_ENDS, 2},
    {"expected: as many as there is room for", 1, 512, 2, 2, 128, IN_FOUR, 1},
    {"expected: the same, grouped", 3, 256, 6, 2, 80, AT_EDGES, 3},
    {"expected: more than there is room for", 2, 256, 4, 1, 64, 1000, 2},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

/* Tensors of one case, and the fp64 answers. */
struct attend {
    struct row shape;
    enum case_storage storage;
    int has_o; /* delta of the reference comes from o: backward is given its stored values */
    size_t tokens, q_count, kv_count;
    float scale;
    int32_t *document;
    float *q, *k, *v, *dout;
    float *o, *lse, *dq, *dk, *dv, *delta;
    double *want_o, *want_lse, *want_dq, *want_dk, *want_dv;
};

static int begins_at(const struct row *shape, size_t s)
{
    switch (shape->documents) {
    case AT_EDGES:
        return s == 63 || s == 128;
    case AT_ENDS:
        return s == 1 || s == shape->seq_length - 1;
    case IN_FOUR:
        return s == 100 || s == 228 || s == 400;
    default:
        return 0;
    }
}

static int32_t *make_documents(const struct row *shape, uint64_t seed)
{
    int32_t *document = malloc(shape->seq_count * shape->seq_length * sizeof *document);

    for (size_t b = 0; b < shape->seq_count; b++)
        for (size_t s = 0, start = 0; s < shape->seq_length; s++) {
            const int at_random = shape->documents > 0 && random_next(&seed) % shape->seq_length <
                                                              (uint64_t)shape->documents - 1;

            if (at_random || begins_at(shape, s))
                start = s;
            document[b * shape->seq_length + s] = (int32_t)start;
        }
    return document;
}

static float *stored_floats(size_t count, uint64_t seed, enum case_storage storage)
{
    float *x = random_floats(count, seed);

    for (size_t i = 0; i < count; i++)
        x[i] = case_rounded(storage, x[i]);
    return x;
}

static struct attend attend_make_stored(const struct row *shape, uint64_t seed,
                                        enum case_storage storage)
{
    struct attend c = {
        .storage = storage, .shape = *shape, .tokens = shape->seq_count * shape->seq_length};

    c.q_count = c.tokens * shape->heads * shape->dim;
    c.kv_count = c.tokens * shape->kv_heads * shape->dim;
    c.scale = 2.0f / sqrtf((float)shape->dim);
    c.document = make_documents(shape, seed + 5);
    c.q = stored_floats(c.q_count, seed + 1, storage);
    c.k = stored_floats(c.kv_count, seed + 2, storage);
    c.v = stored_floats(c.kv_count, seed + 3, storage);
    c.dout = stored_floats(c.q_count, seed + 4, storage);
    c.o = random_floats(c.q_count, 1); /* outputs: what they held before does not matter */
    c.dq = random_floats(c.q_count, 2);
    c.dk = random_floats(c.kv_count, 3);
    c.dv = random_floats(c.kv_count, 4);
    c.lse = random_floats(c.tokens * shape->heads, 5);
    c.delta = random_floats(c.tokens * shape->heads, 6);
    c.want_o = calloc(c.q_count, sizeof(double));
    c.want_lse = calloc(c.tokens * shape->heads, sizeof(double));
    c.want_dq = calloc(c.q_count, sizeof(double));
    c.want_dk = calloc(c.kv_count, sizeof(double));
    c.want_dv = calloc(c.kv_count, sizeof(double));
    return c;
}

static struct attend attend_make(const struct row *shape, uint64_t seed)
{
    return attend_make_stored(shape, seed, CASE_F32);
}

static void attend_free(struct attend *c)
{
    void *all[] = {c->document, c->q,       c->k,       c->v,      c->dout,  c->o,
                   c->lse,      c->dq,      c->dk,      c->dv,     c->delta, c->want_o,
                   c->want_lse, c->want_dq, c->want_dk, c->want_dv};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static int one_document(const struct attend *c)
{
    for (size_t t = 0; t < c->tokens; t++)
        if (c->document[t] != 0)
            return 0;
    return 1;
}

static struct ds_attention_args forward_args(const struct attend *c)
{
    const struct row *s = &c->shape;

    return (struct ds_attention_args){
        .q_THD = ds_tensor3(c->q, DS_F32, c->tokens, s->heads, s->dim),
        .k_TGD = ds_tensor3(c->k, DS_F32, c->tokens, s->kv_heads, s->dim),
        .v_TGD = ds_tensor3(c->v, DS_F32, c->tokens, s->kv_heads, s->dim),
        .document_T = ds_tensor1(c->document, DS_I32, c->tokens),
        .o_THD = ds_tensor3(c->o, DS_F32, c->tokens, s->heads, s->dim),
        .lse_TH = ds_tensor2(c->lse, DS_F32, c->tokens, s->heads),
        .seq_length = s->seq_length,
        .scale = c->scale,
        .one_document = s->expected == 0 && one_document(c),
        .document_count = s->expected};
}

static void store_forward(struct kernel_case *k, struct ds_attention_args *args)
{
    case_store(k, &args->q_THD);
    case_store(k, &args->k_TGD);
    case_store(k, &args->v_TGD);
    case_store(k, &args->o_THD);
}

static void run_forward(const struct attend *c)
{
    struct kernel_case k = {.storage = c->storage};
    struct ds_attention_args args = forward_args(c);

    store_forward(&k, &args);
    assert_ok(CASE_RUN(attention_forward, &args));
    case_load(&k);
    case_free(&k);
}

static struct ds_attention_backward_args backward_args(const struct attend *c)
{
    const struct row *s = &c->shape;

    return (struct ds_attention_backward_args){
        .forward = forward_args(c),
        .do_THD = ds_tensor3(c->dout, DS_F32, c->tokens, s->heads, s->dim),
        .dq_THD = ds_tensor3(c->dq, DS_F32, c->tokens, s->heads, s->dim),
        .dk_TGD = ds_tensor3(c->dk, DS_F32, c->tokens, s->kv_heads, s->dim),
        .dv_TGD = ds_tensor3(c->dv, DS_F32, c->tokens, s->kv_heads, s->dim),
        .delta_TH = ds_tensor2(c->delta, DS_F32, c->tokens, s->heads)};
}

static void run_backward(const struct attend *c)
{
    struct kernel_case k = {.storage = c->storage};
    struct ds_attention_backward_args args = backward_args(c);

    store_forward(&k, &args.forward);
    case_store(&k, &args.do_THD);
    case_store(&k, &args.dq_THD);
    case_store(&k, &args.dk_TGD);
    case_store(&k, &args.dv_TGD);
    assert_ok(CASE_RUN(attention_backward, &args));
    case_load(&k);
    case_free(&k);
}

static double dot(const float *a, const float *b, size_t count)
{
    double sum = 0.0;

    for (size_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* One query of one head: p of the positions it sees, by the definition. */
static void plain_query(struct attend *c, size_t token, size_t head, double *p)
{
    const struct row *s = &c->shape;
    const size_t seq = token / s->seq_length * s->seq_length, dim = s->dim;
    const size_t first = seq + (size_t)c->document[token], kv = head / (s->heads / s->kv_heads);
    const float *q = c->q + (token * s->heads + head) * dim;
    const float *dout = c->dout + (token * s->heads + head) * dim;
    double *o = c->want_o + (token * s->heads + head) * dim;
    double *dq = c->want_dq + (token * s->heads + head) * dim;
    double max = -INFINITY, sum = 0.0, delta = 0.0;

    for (size_t t = first; t <= token; t++) {
        p[t] = c->scale * dot(q, c->k + (t * s->kv_heads + kv) * dim, dim);
        max = fmax(max, p[t]);
    }
    for (size_t t = first; t <= token; t++)
        sum += exp(p[t] - max);
    c->want_lse[token * s->heads + head] = max + log(sum);
    for (size_t t = first; t <= token; t++) {
        p[t] = exp(p[t] - max) / sum;
        delta += p[t] * dot(dout, c->v + (t * s->kv_heads + kv) * dim, dim);
    }
    if (c->has_o)
        delta = dot(dout, c->o + (token * s->heads + head) * dim, dim);
    for (size_t t = first; t <= token; t++) {
        const size_t row = (t * s->kv_heads + kv) * dim;
        const double ds = p[t] * (dot(dout, c->v + row, dim) - delta) * c->scale;

        for (size_t d = 0; d < dim; d++) {
            o[d] += p[t] * c->v[row + d];
            dq[d] += ds * c->k[row + d];
            c->want_dk[row + d] += ds * q[d];
            c->want_dv[row + d] += p[t] * dout[d];
        }
    }
}

static void plain_attention(struct attend *c)
{
    double *p = malloc(c->tokens * sizeof *p);

    memset(c->want_o, 0, c->q_count * sizeof *p);
    memset(c->want_dq, 0, c->q_count * sizeof *p);
    memset(c->want_dk, 0, c->kv_count * sizeof *p);
    memset(c->want_dv, 0, c->kv_count * sizeof *p);
    for (size_t token = 0; token < c->tokens; token++)
        for (size_t head = 0; head < c->shape.heads; head++)
            plain_query(c, token, head, p);
    free(p);
}

static void forward_and_backward_equal_fp64(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        struct attend c = attend_make(&rows[i], seed + 100 * i);

        plain_attention(&c);
        run_forward(&c);
        run_backward(&c);
        print_message("%s\n", rows[i].name);
        assert_error(relative_error(c.o, c.want_o, c.q_count), 1e-6);
        assert_error(relative_error(c.lse, c.want_lse, c.tokens * c.shape.heads), 1e-6);
        assert_error(relative_error(c.dv, c.want_dv, c.kv_count), 1e-6);
        /* a query that sees itself alone has gradients of zero, up to rounding */
        assert_error(relative_error_above(c.dq, c.want_dq, c.q_count, 0.1), 2e-6);
        assert_error(relative_error_above(c.dk, c.want_dk, c.kv_count, 0.1), 2e-6);
        attend_free(&c);
    }
}

/* The cpu rounds once, at the end. Where products of 16 bits are made of probabilities these are rounded, too:
 * then the distance is some of the storage's roundings. */
static void assert_attended(const struct attend *c, const float *got, const double *want,
                            size_t count, double limit)
{
    if (case_on_cpu())
        assert_rounded_within(c->storage, got, want, count, limit);
    else
        assert_error(relative_error_above(got, want, count, 0.1), 4 * case_half_ulp(c->storage, 1));
}

static void forward_and_backward_of_16_bits_are_rounded(void **state)
{
    uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t i = 0; i < 2 * ROW_COUNT; i++) {
        const enum case_storage storage = i % 2 ? CASE_BF16 : CASE_F16;
        struct attend c = attend_make_stored(&rows[i / 2], seed + 100 * i, storage);

        print_message("%s, %s\n", rows[i / 2].name, ds_dtype_name(case_dtypes[storage]));
        plain_attention(&c);
        run_forward(&c);
        assert_attended(&c, c.o, c.want_o, c.q_count, CASE_CLOSE);
        assert_error(relative_error(c.lse, c.want_lse, c.tokens * c.shape.heads),
                     case_on_cpu() ? 1e-6 : 1e-5);
        c.has_o = 1;
        plain_attention(&c);
        run_backward(&c);
        assert_attended(&c, c.dv, c.want_dv, c.kv_count, CASE_CLOSE);
        assert_attended(&c, c.dq, c.want_dq, c.q_count, 2e-6);
        assert_attended(&c, c.dk, c.want_dk, c.kv_count, 2e-6);
        attend_free(&c);
    }
}

/* sum of dout * o, in fp64 */
static double plain_objective(struct attend *c)
{
    double sum = 0.0;

    plain_attention(c);
    for (size_t i = 0; i < c->q_count; i++)
        sum += c->want_o[i] * c->dout[i];
    return sum;
}

static void check_slope(struct attend *c, float *x, double slope)
{
    const float before = *x, step = 0x1p-10f;
    double up, down;

    *x = before + step;
    up = plain_objective(c);
    const float above = *x;
    *x = before - step;
    down = plain_objective(c);
    assert_true(fabs((up - down) / ((double)above - (double)*x) - slope) < 1e-4);
    *x = before;
}

static void gradients_are_slopes_of_the_output(void **state)
{
    const struct row shape = {"slopes", 1, 9, 4, 2, 3, 2, 0};
    struct attend c = attend_make(&shape, test_seed(__func__));

    (void)state;
    run_forward(&c);
    run_backward(&c);
    for (size_t i = 0; i < c.q_count; i++)
        check_slope(&c, c.q + i, c.dq[i]);
    for (size_t i = 0; i < c.kv_count; i++) {
        check_slope(&c, c.k + i, c.dk[i]);
        check_slope(&c, c.v + i, c.dv[i]);
    }
    attend_free(&c);
}

static int same_answers(const struct attend *a, const struct attend *b)
{
    return memcmp(a->o, b->o, a->q_count * 4) == 0 && memcmp(a->dq, b->dq, a->q_count * 4) == 0 &&
           memcmp(a->dk, b->dk, a->kv_count * 4) == 0 &&
           memcmp(a->dv, b->dv, a->kv_count * 4) == 0 &&
           memcmp(a->lse, b->lse, a->tokens * a->shape.heads * 4) == 0;
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    uint64_t seed = test_seed(__func__);
    int thread_count = omp_get_max_threads();

    (void)state;
    if (!case_repeats())
        skip();
    for (size_t i = 3; i < 9; i++) {
        const enum case_storage storage = i < 6 ? CASE_F32 : CASE_BF16;
        const struct row *shape = &rows[i < 6 ? i : i - 3];
        struct attend one = attend_make_stored(shape, seed, storage);

        omp_set_num_threads(1);
        run_forward(&one);
        run_backward(&one);
        for (int threads = 2; threads <= OMP_TEAM_MAX; threads++) {
            struct attend more = attend_make_stored(shape, seed, storage);

            omp_set_num_threads(threads);
            run_forward(&more);
            run_backward(&more);
            assert_true(same_answers(&one, &more));
            attend_free(&more);
        }
        attend_free(&one);
    }
    omp_set_num_threads(thread_count);
}

/* Vectors of any width, with and without fma: the same additions. (lse is left out: it has a
 * logarithm of the C library.) */
static void bits_are_the_same_on_every_machine(void **state)
{
    struct attend c = attend_make(&rows[5], 1);

    (void)state;
    CASE_CPU_ONLY();
    run_forward(&c);
    assert_int_equal(bits_hash(c.o, c.q_count * sizeof(float)), 0xed58c94ae5c4abd6u);
    for (size_t i = 0; i < c.tokens * c.shape.heads; i++)
        c.lse[i] = 3.0f;
    run_backward(&c);
    assert_int_equal(bits_hash(c.dq, c.q_count * sizeof(float)), 0xb98ada6083660d08u);
    assert_int_equal(bits_hash(c.dk, c.kv_count * sizeof(float)), 0xf5b723bfd707580eu);
    attend_free(&c);
}

/* What a token does not see does not reach it: another document, a later token. */
static void unseen_keys_leave_no_trace(void **state)
{
    const struct row shape = {"two documents", 1, 200, 2, 1, 24, 1, 0};
    struct attend clean = attend_make(&shape, test_seed(__func__));
    const size_t start = 131, seen = 170, width = shape.kv_heads * shape.dim;

    (void)state;
    for (size_t t = start; t < shape.seq_length; t++)
        clean.document[t] = (int32_t)start;
    run_forward(&clean);
    float *kept = malloc(clean.q_count * sizeof *kept);
    memcpy(kept, clean.o, clean.q_count * sizeof *kept);
    for (size_t i = 0; i < start * width; i++)
        clean.k[i] = clean.v[i] = 9.0f;
    for (size_t i = seen * width; i < clean.kv_count; i++)
        clean.k[i] = clean.v[i] = -9.0f;
    run_forward(&clean);
    assert_memory_equal(kept + start * shape.heads * shape.dim,
                        clean.o + start * shape.heads * shape.dim,
                        (seen - start) * shape.heads * shape.dim * sizeof *kept);
    free(kept);
    attend_free(&clean);
}

static void large_scores_stay_finite_and_nan_is_not_hidden(void **state)
{
    const struct row shape = {"large", 1, 80, 2, 2, 16, 1, 0};
    struct attend c = attend_make(&shape, test_seed(__func__));

    (void)state;
    c.scale = 1000.0f;
    plain_attention(&c);
    run_forward(&c);
    run_backward(&c);
    for (size_t i = 0; i < c.q_count; i++)
        assert_true(isfinite(c.o[i]) && isfinite(c.dq[i]));
    /* a score near 3,000 has an absolute error of 1e-4 */
    assert_error(relative_error(c.o, c.want_o, c.q_count), 1e-2);
    c.q[5] = NAN;
    run_forward(&c);
    assert_true(isnan(c.o[0]) && isnan(c.lse[0]));
    attend_free(&c);
}

/* A NaN in one head's query stays in it; a sum of values that fp16 cannot hold is inf. */
static void what_is_not_finite_passes_through_16_bits(void **state)
{
    const struct row shape = {"not finite", 1, 70, 2, 2, 5, 1, 0};

    (void)state;
    for (enum case_storage storage = CASE_BF16; storage <= CASE_F16; storage++) {
        struct attend c = attend_make_stored(&shape, test_seed(__func__), storage);

        c.q[5 * 2 * 5] = NAN; /* token 5, head 0 */
        run_forward(&c);
        run_backward(&c);
        assert_true(isnan(c.o[5 * 2 * 5]) && isnan(c.dq[5 * 2 * 5]) && isnan(c.dk[0]));
        assert_true(isfinite(c.o[5 * 2 * 5 + 5]) && isfinite(c.dk[5]));
        for (size_t i = 0; i < c.q_count; i++)
            c.dout[i] = 60000;
        run_backward(&c);
        if (storage == CASE_F16)
            assert_true(c.dv[5] == INFINITY); /* all 70 queries see key 0 of head 1 */
        attend_free(&c);
    }
}

static void what_is_not_available_is_named(void **state)
{
    const struct row shape = {"one", 1, 1, 1, 1, 1, 1, 0};
    struct attend c = attend_make(&shape, 1);
    struct ds_attention_args args = forward_args(&c);

    (void)state;
    args.k_TGD.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(attention_forward, &args), DS_ERR_UNSUPPORTED);
    args.k_TGD.dtype = DS_F32;
    args.lse_TH.dtype = DS_BF16;
    assert_int_equal(CASE_RUN(attention_forward, &args), DS_ERR_UNSUPPORTED);
    args.lse_TH.dtype = DS_F32;
    struct ds_attention_backward_args backward = backward_args(&c);
    backward.dk_TGD.dtype = DS_F16;
    assert_int_equal(CASE_RUN(attention_backward, &backward), DS_ERR_UNSUPPORTED);
    args.q_THD.shape[2] = args.k_TGD.shape[2] = 257;
    assert_int_equal(CASE_RUN(attention_forward, &args), DS_ERR_UNSUPPORTED);
    attend_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_and_backward_equal_fp64),
        cmocka_unit_test(gradients_are_slopes_of_the_output),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(bits_are_the_same_on_every_machine),
        cmocka_unit_test(unseen_keys_leave_no_trace),
        cmocka_unit_test(large_scores_stay_finite_and_nan_is_not_hidden),
        cmocka_unit_test(forward_and_backward_of_16_bits_are_rounded),
        cmocka_unit_test(what_is_not_finite_passes_through_16_bits),
        cmocka_unit_test(what_is_not_available_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
