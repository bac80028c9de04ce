/* attention_graph.c - attention as a graph of products, sums over rows and pointwise operations.
 *
 * cuDNN knows its fused kernels by their pattern: operations and their order are those of cudnn-frontend for
 * versions before 9.21, whose one-piece attention takes no causal mask. Tensors are (b, h, s, d) to cuDNN and
 * lie as ours do. Documents are packed one behind the other: each is a b of its own, from an offset on, and
 * what lies behind its length is padding. */
#include "attention_node.h"

/* Where documents begin in queries, keys and lse, and how long they are. Whole sequences have none of it. */
struct documents {
    struct node queries_at, keys_at, lse_at, query_lengths, key_lengths;
};

static struct documents documents_of(struct attention_graph *g, const struct attention_key *key)
{
    const int64_t count = key->documents;

    return (struct documents){
        .queries_at = node_list(g, ATTENTION_QUERIES_AT, CUDNN_DATA_INT64, count + 1),
        .keys_at = node_list(g, ATTENTION_KEYS_AT, CUDNN_DATA_INT64, count + 1),
        .lse_at = node_list(g, ATTENTION_LSE_AT, CUDNN_DATA_INT64, count + 1),
        .query_lengths = node_list(g, ATTENTION_QUERY_LENGTHS, CUDNN_DATA_INT32, count),
        .key_lengths = node_list(g, ATTENTION_KEY_LENGTHS, CUDNN_DATA_INT32, count)};
}

/* What all parts of a graph are made with; pointers are NULL for whole sequences. */
struct pass {
    struct attention_graph *g;
    const struct attention_key *key;
    cudnnDataType_t stored;
    const struct node *queries_at, *keys_at, *lse_at, *query_lengths, *key_lengths;
    struct node scale, hidden;
};

static struct pass pass_of(struct attention_graph *g, const struct attention_key *key,
                           struct documents *documents)
{
    struct pass p = {.g = g,
                     .key = key,
                     .stored = node_stored_type(key),
                     .scale = node_scalar(g, ATTENTION_SCALE),
                     .hidden = node_scalar(g, ATTENTION_HIDDEN)};

    if (key->documents == 0)
        return p;
    *documents = documents_of(g, key);
    p.queries_at = &documents->queries_at;
    p.keys_at = &documents->keys_at;
    p.lse_at = &documents->lse_at;
    p.query_lengths = &documents->query_lengths;
    p.key_lengths = &documents->key_lengths;
    return p;
}

/* [T, h, d] */
static struct node queries(const struct pass *p, int64_t id)
{
    return node_heads(p->g, id, p->stored, p->key, p->key->heads, p->queries_at);
}

/* [T, g, d] */
static struct node keys(const struct pass *p, int64_t id)
{
    return node_heads(p->g, id, p->stored, p->key, p->key->kv_heads, p->keys_at);
}

static struct node turned_keys(const struct pass *p, int64_t id)
{
    return node_turned_keys(p->g, id, p->key, p->keys_at);
}

static struct node scores(const struct pass *p, cudnnDataType_t type)
{
    return node_scores(p->g, type, p->key);
}

static struct node of_scores(const struct pass *p, cudnnPointwiseMode_t mode, cudnnDataType_t type,
                             const struct node *x, const struct node *b)
{
    return node_of_scores(p->g, p->key, mode, type, x, b);
}

/* Of every query, inside. */
static struct node per_query(const struct pass *p)
{
    return node_square(p->g, INSIDE, FP32, p->key, p->key->seq_length, 1);
}

/* queries keys^T */
static struct node score(const struct pass *p, const struct node *q, const struct node *k_turned)
{
    const struct node x = scores(p, FP32);

    node_multiply(
        p->g,
        &(struct product){
            .a = q, .b = k_turned, .c = &x, .rows = p->query_lengths, .columns = p->key_lengths});
    return x;
}

/* ---- masks */

static struct node index_of(const struct pass *p, const struct node *x, cudnnDataType_t math,
                            int64_t axis)
{
    const struct node y = scores(p, CUDNN_DATA_INT32);

    node_pointwise(
        p->g,
        &(struct pointwise){.mode = CUDNN_POINTWISE_GEN_INDEX, .math = math, .axis = axis, .x = x},
        &y);
    return y;
}

static struct node compare(const struct pass *p, cudnnPointwiseMode_t mode, const struct node *x,
                           const struct node *b)
{
    const struct node y = scores(p, CUDNN_DATA_BOOLEAN);

    node_pointwise(
        p->g, &(struct pointwise){.mode = mode, .math = CUDNN_DATA_BOOLEAN, .x = x, .b = b}, &y);
    return y;
}

/* Scores that are not seen become -inf. */
static struct node hide(const struct pass *p, const struct node *x, const struct node *sees)
{
    const struct node y = scores(p, FP32);

    node_pointwise(p->g,
                   &(struct pointwise){.mode = CUDNN_POINTWISE_BINARY_SELECT,
                                       .math = FP32,
                                       .x = x,
                                       .b = &p->hidden,
                                       .by = sees},
                   &y);
    return y;
}

/* What lies behind the end of a document. */
static struct node hide_padding(const struct pass *p, const struct node *x)
{
    const struct node row = index_of(p, x, CUDNN_DATA_INT32, 2);
    const struct node column = index_of(p, x, CUDNN_DATA_INT32, 3);
    const struct node is_query = compare(p, CUDNN_POINTWISE_CMP_LT, &row, p->query_lengths);
    const struct node is_key = compare(p, CUDNN_POINTWISE_CMP_LT, &column, p->key_lengths);
    const struct node is_there = compare(p, CUDNN_POINTWISE_LOGICAL_AND, &is_query, &is_key);

    return hide(p, x, &is_there);
}

static struct node hide_later(const struct pass *p, const struct node *x)
{
    const struct node row = index_of(p, x, FP32, 2), column = index_of(p, x, FP32, 3);
    const struct node sees = compare(p, CUDNN_POINTWISE_CMP_GE, &row, &column);

    return hide(p, x, &sees);
}

static struct node hide_unseen(const struct pass *p, const struct node *x)
{
    const struct node y = p->query_lengths ? hide_padding(p, x) : *x;

    return hide_later(p, &y);
}

/* ---- forward */

/* x becomes probabilities, lse = max + log(sum of exp) on the way. */
static struct node soften(const struct pass *p, const struct node *x, const struct node *lse)
{
    const struct node top = per_query(p);
    struct node sum, log, below, power;

    node_reduce(p->g, CUDNN_REDUCE_TENSOR_MAX, x, &top);
    below = of_scores(p, CUDNN_POINTWISE_SUB, FP32, x, &top);
    power = of_scores(p, CUDNN_POINTWISE_EXP, FP32, &below, NULL);
    sum = per_query(p);
    node_reduce(p->g, CUDNN_REDUCE_TENSOR_ADD, &power, &sum);
    log = per_query(p);
    node_pointwise(p->g, &(struct pointwise){.mode = CUDNN_POINTWISE_LOG, .math = FP32, .x = &sum},
                   &log);
    node_pointwise(
        p->g, &(struct pointwise){.mode = CUDNN_POINTWISE_ADD, .math = FP32, .x = &top, .b = &log},
        lse);
    return of_scores(p, CUDNN_POINTWISE_DIV, p->stored, &power, &sum);
}

void graph_forward(struct attention_graph *g, const struct attention_key *key)
{
    struct documents documents;
    const struct pass p = pass_of(g, key, &documents);
    const struct node q = queries(&p, ATTENTION_Q), k = turned_keys(&p, ATTENTION_K);
    const struct node v = keys(&p, ATTENTION_V), o = queries(&p, ATTENTION_O);
    const struct node lse = node_per_query(g, ATTENTION_LSE, key, p.lse_at);
    struct node x = score(&p, &q, &k);

    x = of_scores(&p, CUDNN_POINTWISE_MUL, FP32, &x, &p.scale);
    x = hide_unseen(&p, &x);
    x = soften(&p, &x, &lse);
    node_multiply(g,
                  &(struct product){
                      .a = &x, .b = &v, .c = &o, .rows = p.query_lengths, .sums = p.key_lengths});
}

/* ---- backward */

/* delta = sum over d of do * o */
static struct node delta_of(const struct pass *p, const struct node *dout)
{
    struct attention_graph *g = p->g;
    const int64_t s = p->key->seq_length;
    const struct node o = queries(p, ATTENTION_O), one = node_scalar(g, ATTENTION_ONE);
    const struct node product = node_square(g, INSIDE, FP32, p->key, s, p->key->dim);
    const struct node sum = per_query(p);
    const struct node delta = p->lse_at ? node_per_query(g, ATTENTION_DELTA, p->key, p->lse_at)
                                        : node_square(g, ATTENTION_DELTA, FP32, p->key, s, 1);

    node_pointwise(
        g, &(struct pointwise){.mode = CUDNN_POINTWISE_MUL, .math = FP32, .x = dout, .b = &o},
        &product);
    node_reduce(g, CUDNN_REDUCE_TENSOR_ADD, &product, &sum);
    node_pointwise(
        g, &(struct pointwise){.mode = CUDNN_POINTWISE_MUL, .math = FP32, .x = &sum, .b = &one},
        &delta);
    return delta;
}

/* Padding is hidden behind the subtraction: nobody has written an lse of what is not there. */
static struct node probabilities(const struct pass *p, const struct node *q,
                                 const struct node *k_turned)
{
    const struct node lse = node_per_query(p->g, ATTENTION_LSE, p->key, p->lse_at);
    struct node x = score(p, q, k_turned);

    x = of_scores(p, CUDNN_POINTWISE_MUL, FP32, &x, &p->scale);
    x = of_scores(p, CUDNN_POINTWISE_SUB, FP32, &x, &lse);
    x = hide_unseen(p, &x);
    return of_scores(p, CUDNN_POINTWISE_EXP, FP32, &x, NULL);
}

/* What each query head adds to the keys it shares. In memory where documents are packed, since inside it would have
 * the length of a sequence for every document. Its offsets are those of the keys: cuDNN multiplies them. */
static struct node of_query_heads(const struct pass *p, int64_t id)
{
    const struct attention_key *key = p->key;

    return p->keys_at ? node_heads(p->g, id, p->stored, key, key->heads, p->keys_at)
                      : node_square(p->g, INSIDE, p->stored, key, key->seq_length, key->dim);
}

/* A tensor of the kv heads = x^T y, where heads share one summed over them. */
struct key_sum {
    int64_t id, heads_id;
};

static void sum_over_queries(const struct pass *p, const struct node *x, const struct node *y,
                             struct key_sum to)
{
    const int64_t s = p->key->seq_length, heads = p->key->heads;
    const int64_t dims[4] = {node_batch(p->key), heads, s, s};
    const int64_t strides[4] = {heads * s * s, s * s, 1, s};
    const struct node turned = node_tensor(p->g, INSIDE, p->stored, dims, strides, NULL);
    const struct node out = keys(p, to.id);
    struct product product = {
        .a = &turned, .b = y, .c = &out, .rows = p->key_lengths, .sums = p->query_lengths};
    struct node of_heads;

    node_reshape(p->g, x, &turned);
    if (heads == p->key->kv_heads) {
        node_multiply(p->g, &product);
        return;
    }
    of_heads = of_query_heads(p, to.heads_id);
    product.c = &of_heads;
    node_multiply(p->g, &product);
    node_reduce(p->g, CUDNN_REDUCE_TENSOR_ADD, &of_heads, &out);
}

/* ds = scale * probability * (do v - delta) */
static struct node slopes(const struct pass *p, const struct node *probability,
                          const struct node *dout, const struct node *delta)
{
    const struct node v_turned = turned_keys(p, ATTENTION_V);
    struct node x = score(p, dout, &v_turned);

    x = of_scores(p, CUDNN_POINTWISE_SUB, FP32, &x, delta);
    x = of_scores(p, CUDNN_POINTWISE_MUL, FP32, &x, probability);
    return of_scores(p, CUDNN_POINTWISE_MUL, p->stored, &x, &p->scale);
}

/* dq = ds k, by way of fp32 sums in memory */
static void sum_over_keys(const struct pass *p, const struct node *ds, const struct node *k_turned)
{
    const struct attention_key *key = p->key;
    const int64_t *from = k_turned->strides;
    const int64_t dims[4] = {node_batch(key), key->kv_heads, key->seq_length, key->dim};
    const int64_t strides[4] = {from[0], from[1], from[3], from[2]};
    const struct node k = node_tensor(p->g, INSIDE, p->stored, dims, strides, p->keys_at);
    const struct node sums =
        p->queries_at ? node_heads(p->g, ATTENTION_DQ_SUMS, FP32, key, key->heads, p->queries_at)
                      : node_square(p->g, ATTENTION_DQ_SUMS, FP32, key, key->seq_length, key->dim);
    const struct node dq = queries(p, ATTENTION_DQ);

    node_reshape(p->g, k_turned, &k);
    node_multiply(
        p->g, &(struct product){
                  .a = ds, .b = &k, .c = &sums, .rows = p->query_lengths, .sums = p->key_lengths});
    node_pointwise(
        p->g, &(struct pointwise){.mode = CUDNN_POINTWISE_IDENTITY, .math = FP32, .x = &sums}, &dq);
}

void graph_backward(struct attention_graph *g, const struct attention_key *key)
{
    struct documents documents;
    const struct pass p = pass_of(g, key, &documents);
    const struct node q = queries(&p, ATTENTION_Q), dout = queries(&p, ATTENTION_DO);
    const struct node k_turned = turned_keys(&p, ATTENTION_K);
    const struct node delta = delta_of(&p, &dout);
    const struct node probability = probabilities(&p, &q, &k_turned);
    struct node ds;

    sum_over_queries(&p, &probability, &dout, (struct key_sum){ATTENTION_DV, ATTENTION_DV_HEADS});
    ds = slopes(&p, &probability, &dout, &delta);
    sum_over_queries(&p, &ds, &q, (struct key_sum){ATTENTION_DK, ATTENTION_DK_HEADS});
    sum_over_keys(&p, &ds, &k_turned);
}
