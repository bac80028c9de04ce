/* attention_backward.c - gradients of attention.c's queries, keys and values.
 *
 * Probabilities are made again from lse. A thread takes one kv head of one sequence: block by block
 * of keys, all query heads of its group in order, all queries that see the block in order. So each
 * sum has one writer and one order:
 *   P = exp(scale q k - lse), dP = do v, dS = scale P (dP - delta), delta = do . o
 *   dv += P^T do, dk += dS^T q over queries and heads; dq += dS k over blocks of keys
 * dq's sums grow in its memory. Where that has 16 bits they would be rounded at every block, so there a
 * second walk makes P and dS once more, a block of queries against its keys, and dq of it in hand. */
#include "attention.h"

#include "lanes.h"
#include "launch.h"
#include "vector_math.h"

#include <math.h>
#include <string.h>

#define BLOCK ATTENTION_BLOCK

struct gradients {
    const void *o, *dout;
    const float *lse;
    void *dq, *dk, *dv;
    float *delta;
};

/* A block of keys, and of the queries it meets. Rows of dim_padded, except the turned ones. */
struct backward {
    _Alignas(64) float key_turned[DS_HEAD_DIM_MAX * BLOCK]; /* [dim][key] */
    float value_turned[DS_HEAD_DIM_MAX * BLOCK];
    float key[BLOCK * DS_HEAD_DIM_MAX];
    float query[BLOCK * DS_HEAD_DIM_MAX], dout[BLOCK * DS_HEAD_DIM_MAX];
    float dq[BLOCK * DS_HEAD_DIM_MAX];
    float dk[BLOCK * DS_HEAD_DIM_MAX], dv[BLOCK * DS_HEAD_DIM_MAX];
    float p[BLOCK * BLOCK], ds[BLOCK * BLOCK]; /* [query][key] */
    size_t seq, kv_head, head;
    size_t key_first, key_count, query_first, query_count;
};

KERNEL_INLINE void dot(float *out, const void *a, const void *b, size_t count, enum ds_dtype dtype)
{
    *out = lanes_dot(a, b, count, dtype);
}

KERNEL_CLONES static void dot_row(float *out, const void *a, const void *b, size_t count,
                                  enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, dot, out, a, b, count);
}

KERNEL_CLONES static void add_row(float *to, const float *from, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        to[i] += from[i];
}

/* Scores become p, dp becomes ds. The query sees columns first..last. */
KERNEL_CLONES static void gradient_row(float *p, float *dp, size_t count, int32_t first,
                                       int32_t last, float scale, float lse, float delta)
{
#pragma omp simd
    for (int32_t j = 0; j < (int32_t)count; j++) {
        const int is_seen = (j >= first) & (j <= last);
        const float x = vector_expf(is_seen ? p[j] * scale - lse : -INFINITY);

        p[j] = x;
        dp[j] = x * (dp[j] - delta) * scale;
    }
}

/* C (add)= A B with blocks in hand: row i of A is a's row if `turned` is 0, else its column. */
static void multiply(size_t m, size_t n, size_t k, const float *a, size_t a_stride, int turned,
                     const float *b, size_t b_stride, float *c, size_t c_stride, int add)
{
    kernel_tile_product(&(struct tile_product){.m = m,
                                               .n = n,
                                               .k = k,
                                               .a = a,
                                               .a_row = turned ? 1 : a_stride,
                                               .a_column = turned ? a_stride : 1,
                                               .b = b,
                                               .b_stride = b_stride,
                                               .c = c,
                                               .c_stride = c_stride,
                                               .add = add});
}

/* p and ds of queries i .. i+count against the first `seen` keys. */
static void recompute(const struct attention *at, const struct gradients *g, struct backward *b,
                      size_t i, size_t count, size_t seen)
{
    const size_t width = at->dim_padded;

    multiply(count, seen, at->dim, b->query + i * width, width, 0, b->key_turned, BLOCK,
             b->p + i * BLOCK, BLOCK, 0);
    multiply(count, seen, at->dim, b->dout + i * width, width, 0, b->value_turned, BLOCK,
             b->ds + i * BLOCK, BLOCK, 0);
    for (size_t row = i; row < i + count; row++) {
        const size_t token = b->seq * at->seq_length + b->query_first + row;
        const size_t token_head = token * at->heads + b->head;

        gradient_row(b->p + row * BLOCK, b->ds + row * BLOCK, seen,
                     at->document[token] - (int32_t)b->key_first,
                     (int32_t)(b->query_first + row - b->key_first), at->scale, g->lse[token_head],
                     g->delta[token_head]);
    }
}

static void add_dq(const struct attention *at, const struct gradients *g, const struct backward *b)
{
    for (size_t i = 0; i < b->query_count; i++)
        add_row((float *)g->dq + attention_row(at, b->seq, b->query_first + i, at->heads, b->head),
                b->dq + i * at->dim_padded, at->dim);
}

/* Where queries and keys are the same block, only what lies at or left of the diagonal is made and
 * read, in steps of TILE_LANES. */
static size_t step_of(const struct backward *b)
{
    return b->query_first == b->key_first ? TILE_LANES : BLOCK;
}

/* p and ds of the blocks in hand; dq = or += ds k, if wanted. */
enum dq_use { DQ_NONE, DQ_SET, DQ_ADD };

static void meet_queries(const struct attention *at, const struct gradients *g, struct backward *b,
                         enum dq_use use)
{
    const size_t width = at->dim_padded, step = step_of(b);

    for (size_t i = 0; i < b->query_count; i += step) {
        const size_t count = attention_smaller(step, b->query_count - i);
        const size_t seen =
            step == BLOCK ? b->key_count : attention_smaller(i + step, b->key_count);

        recompute(at, g, b, i, count, TILE_ROUND_UP(seen));
        if (use != DQ_NONE)
            multiply(count, width, seen, b->ds + i * BLOCK, BLOCK, 0, b->key, width,
                     b->dq + i * width, width, use == DQ_ADD);
    }
}

/* dv += p^T do, dk += ds^T q */
static void meet_keys(const struct attention *at, struct backward *b)
{
    const size_t width = at->dim_padded, step = step_of(b);

    for (size_t j = 0; j < b->key_count; j += step) {
        const size_t count = attention_smaller(step, b->key_count - j);
        const size_t i = step == BLOCK ? 0 : j, queries = b->query_count - i;

        multiply(count, width, queries, b->p + i * BLOCK + j, BLOCK, 1, b->dout + i * width, width,
                 b->dv + j * width, width, 1);
        multiply(count, width, queries, b->ds + i * BLOCK + j, BLOCK, 1, b->query + i * width,
                 width, b->dk + j * width, width, 1);
    }
}

/* Queries from `first` on of the head in hand. */
static size_t load_queries(const struct attention *at, const struct gradients *g,
                           struct backward *b, size_t first)
{
    const size_t row = attention_row(at, b->seq, first, at->heads, b->head);
    const size_t count = attention_smaller(BLOCK, at->seq_length - first);
    const struct tile_source queries = attention_rows(at, at->q, row, at->heads, count);
    const struct tile_source douts = attention_rows(at, g->dout, row, at->heads, count);

    b->query_first = first;
    b->query_count = count;
    kernel_tile_copy(b->query, &queries);
    kernel_tile_copy(b->dout, &douts);
    return row;
}

static size_t load_keys(const struct attention *at, struct backward *b, size_t first)
{
    const size_t row = attention_row(at, b->seq, first, at->kv_heads, b->kv_head);
    const size_t count = attention_smaller(BLOCK, at->seq_length - first);
    const struct tile_source keys = attention_rows(at, at->k, row, at->kv_heads, count);
    const struct tile_source values = attention_rows(at, at->v, row, at->kv_heads, count);

    b->key_first = first;
    b->key_count = count;
    kernel_tile_transpose(b->key_turned, BLOCK, &keys);
    kernel_tile_transpose(b->value_turned, BLOCK, &values);
    kernel_tile_copy(b->key, &keys);
    return row;
}

/* One query head of the group against the keys in hand. */
static void backward_head(const struct attention *at, const struct gradients *g, struct backward *b)
{
    for (size_t first = b->key_first; first < at->seq_length; first += BLOCK) {
        const size_t count = attention_smaller(BLOCK, at->seq_length - first);

        if (kernel_attention_first_key(at, b->seq, first, count) >= b->key_first + b->key_count)
            continue; /* all of them began later */
        (void)load_queries(at, g, b, first);
        meet_queries(at, g, b, at->dtype == DS_F32 ? DQ_SET : DQ_NONE);
        meet_keys(at, b);
        if (at->dtype == DS_F32)
            add_dq(at, g, b);
    }
}

static void backward_keys(const struct attention *at, const struct gradients *g, struct backward *b,
                          size_t first)
{
    const size_t row = load_keys(at, b, first), stride = at->kv_heads * at->dim;

    memset(b->dk, 0, b->key_count * at->dim_padded * sizeof *b->dk);
    memset(b->dv, 0, b->key_count * at->dim_padded * sizeof *b->dv);
    for (size_t i = 0; i < at->group; i++) {
        b->head = b->kv_head * at->group + i;
        backward_head(at, g, b);
    }
    kernel_tile_store(element_to(g->dk, row, at->dtype), at->dtype, stride, b->dk, b->key_count,
                      at->dim);
    kernel_tile_store(element_to(g->dv, row, at->dtype), at->dtype, stride, b->dv, b->key_count,
                      at->dim);
}

/* The second walk: dq of a block of queries. */
static void backward_queries(const struct attention *at, const struct gradients *g,
                             struct backward *b, size_t first)
{
    const size_t row = load_queries(at, g, b, first);
    const size_t key_first =
        kernel_attention_first_key(at, b->seq, first, b->query_count) / BLOCK * BLOCK;

    for (size_t key = key_first; key <= first; key += BLOCK) {
        (void)load_keys(at, b, key);
        meet_queries(at, g, b, key == key_first ? DQ_SET : DQ_ADD);
    }
    kernel_tile_store(element_to(g->dq, row, at->dtype), at->dtype, at->heads * at->dim, b->dq,
                      b->query_count, at->dim);
}

/* What the walk over keys needs from the start: delta of every query, dq at zero where it grows. */
static void backward_begin(const struct attention *at, const struct gradients *g, size_t seq,
                           size_t kv_head)
{
    for (size_t position = 0; position < at->seq_length; position++)
        for (size_t i = 0; i < at->group; i++) {
            const size_t row = attention_row(at, seq, position, at->heads, kv_head * at->group + i);

            if (at->dtype == DS_F32)
                memset((float *)g->dq + row, 0, at->dim * sizeof(float));
            dot_row(&g->delta[row / at->dim], element_from(g->dout, row, at->dtype),
                    element_from(g->o, row, at->dtype), at->dim, at->dtype);
        }
}

static void backward_group(const struct attention *at, const struct gradients *g, size_t seq,
                           size_t kv_head)
{
    struct backward b;

    b.seq = seq;
    b.kv_head = kv_head;
    backward_begin(at, g, seq, kv_head);
    for (size_t first = 0; first < at->seq_length; first += BLOCK)
        backward_keys(at, g, &b, first);
    for (size_t i = 0; i < at->group && at->dtype != DS_F32; i++) {
        b.head = kv_head * at->group + i;
        for (size_t first = 0; first < at->seq_length; first += BLOCK)
            backward_queries(at, g, &b, first);
    }
}

static ds_status backward_work(void *args, int *done)
{
    const struct ds_attention_backward_args *a = args;
    const struct attention at = kernel_attention_describe(&a->forward);
    const struct gradients g = {.o = a->forward.o_THD.data,
                                .lse = a->forward.lse_TH.data,
                                .dout = a->do_THD.data,
                                .dq = a->dq_THD.data,
                                .dk = a->dk_TGD.data,
                                .dv = a->dv_TGD.data,
                                .delta = a->delta_TH.data};

#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < at.seq_count * at.kv_heads; i++)
        backward_group(&at, &g, i / at.kv_heads, i % at.kv_heads);
    *done = 1;
    return DS_OK;
}

ds_status kernel_attention_backward(struct ds_stream *stream,
                                    const struct ds_attention_backward_args *args)
{
    static const char kernel[] = "attention_backward";

    DS_TRY(kernel_attention_check(kernel, &args->forward));
    KERNEL_WANTS_SAME(kernel, args, do_THD, forward.q_THD);
    KERNEL_WANTS_SAME(kernel, args, dq_THD, forward.q_THD);
    KERNEL_WANTS_SAME(kernel, args, dk_TGD, forward.q_THD);
    KERNEL_WANTS_SAME(kernel, args, dv_TGD, forward.q_THD);
    KERNEL_WANTS(kernel, args, delta_TH, DS_F32);
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
