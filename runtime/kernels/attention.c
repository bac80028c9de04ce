/* attention.c - causal attention within documents, forward.
 *
 * A thread takes a block of queries of one head and walks over the keys it sees, block by block, with
 * a running maximum and sum (Dao et al. 2022). Scores lie transposed, score[key][query]: then the
 * softmax of sixteen queries is sixteen lanes side by side, summed over the keys in order, and only
 * the queries have to be turned round, once a block. On the diagonal, groups of TILE_LANES keys or
 * queries are cut off where nothing is seen. */
#include "attention.h"

#include "launch.h"
#include "vector_math.h"

#include <math.h>

#define BLOCK ATTENTION_BLOCK

ds_status kernel_attention_check(const char *kernel, const struct ds_attention_args *args)
{
    KERNEL_WANTS_FLOAT(kernel, args, q_THD);
    KERNEL_WANTS_SAME(kernel, args, k_TGD, q_THD);
    KERNEL_WANTS_SAME(kernel, args, v_TGD, q_THD);
    KERNEL_WANTS_SAME(kernel, args, o_THD, q_THD);
    KERNEL_WANTS(kernel, args, lse_TH, DS_F32);
    KERNEL_WANTS(kernel, args, document_T, DS_I32);
    if (args->q_THD.shape[2] > DS_HEAD_DIM_MAX)
        return ds_fail(DS_ERR_UNSUPPORTED, "kernel %s: head_dim is %llu, at most %u is available",
                       kernel, (unsigned long long)args->q_THD.shape[2], DS_HEAD_DIM_MAX);
    DS_ASSERT(args->seq_length > 0 && args->q_THD.shape[0] % args->seq_length == 0);
    DS_ASSERT(args->seq_length <= INT32_MAX);
    DS_ASSERT(args->q_THD.shape[1] % args->k_TGD.shape[1] == 0);
    DS_ASSERT(args->k_TGD.shape[0] == args->q_THD.shape[0]);
    DS_ASSERT(args->k_TGD.shape[2] == args->q_THD.shape[2]);
    return DS_OK;
}

struct attention kernel_attention_describe(const struct ds_attention_args *args)
{
    return (struct attention){.q = args->q_THD.data,
                              .k = args->k_TGD.data,
                              .v = args->v_TGD.data,
                              .dtype = args->q_THD.dtype,
                              .document = args->document_T.data,
                              .seq_count = args->q_THD.shape[0] / args->seq_length,
                              .seq_length = args->seq_length,
                              .heads = args->q_THD.shape[1],
                              .kv_heads = args->k_TGD.shape[1],
                              .dim = args->q_THD.shape[2],
                              .group = args->q_THD.shape[1] / args->k_TGD.shape[1],
                              .dim_padded = TILE_ROUND_UP(args->q_THD.shape[2]),
                              .scale = args->scale};
}

size_t kernel_attention_first_key(const struct attention *at, size_t seq, size_t query_first,
                                  size_t query_count)
{
    const int32_t *document = at->document + seq * at->seq_length + query_first;
    size_t first = query_first;

    for (size_t i = 0; i < query_count; i++) {
        DS_ASSERT(document[i] >= 0 && (size_t)document[i] <= query_first + i);
        first = attention_smaller(first, (size_t)document[i]);
    }
    return first;
}

/* A block of queries on its way over the keys. */
struct forward {
    _Alignas(64) float query[DS_HEAD_DIM_MAX * BLOCK]; /* [dim][query] */
    float key[BLOCK * DS_HEAD_DIM_MAX];                /* [key][dim_padded], if not fp32 */
    float value[BLOCK * DS_HEAD_DIM_MAX];              /* [key][dim_padded] */
    float score[BLOCK * BLOCK];                        /* [key][query] */
    float out[BLOCK * DS_HEAD_DIM_MAX];                /* [query][dim_padded] */
    float max[BLOCK], sum[BLOCK], shrink[BLOCK];       /* of each query */
    int32_t first[BLOCK], last[BLOCK];                 /* positions it sees */
    size_t seq, head, query_first, query_count;
};

/* Scores of sixteen queries become exp(score - max), max and sum move on, and `shrink` is what the
 * earlier sums have to be multiplied with. A query that has seen nothing yet has a maximum of
 * -inf. `key` is the position of the first row. */
KERNEL_CLONES static void softmax_lanes(struct forward *f, size_t lane, size_t key_count,
                                        int32_t key, float scale)
{
    float max[TILE_LANES], sum[TILE_LANES], shift[TILE_LANES];

    for (size_t i = 0; i < TILE_LANES; i++) {
        max[i] = f->max[lane + i];
        sum[i] = 0.0f;
    }
    for (size_t j = 0; j < key_count; j++) {
        const int32_t position = key + (int32_t)j;
        float *score = f->score + j * BLOCK + lane;

        for (size_t i = 0; i < TILE_LANES; i++) {
            const int is_seen = (position >= f->first[lane + i]) & (position <= f->last[lane + i]);
            const float x = is_seen ? score[i] * scale : -INFINITY;

            score[i] = x;
            max[i] = x > max[i] ? x : max[i];
        }
    }
    for (size_t i = 0; i < TILE_LANES; i++)
        shift[i] = max[i] == -INFINITY ? 0.0f : max[i];
    for (size_t j = 0; j < key_count; j++) {
        float *score = f->score + j * BLOCK + lane;

        for (size_t i = 0; i < TILE_LANES; i++) {
            score[i] = vector_expf(score[i] - shift[i]);
            sum[i] += score[i];
        }
    }
    for (size_t i = 0; i < TILE_LANES; i++) {
        const float shrink = vector_expf(f->max[lane + i] - shift[i]);

        f->sum[lane + i] = f->sum[lane + i] * shrink + sum[i];
        f->max[lane + i] = max[i];
        f->shrink[lane + i] = shrink;
    }
}

KERNEL_INLINE void scale(void *to, const float *from, float factor, size_t count,
                         enum ds_dtype dtype)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        element_store(to, i, from[i] * factor, dtype);
}

KERNEL_CLONES static void scale_row(void *to, enum ds_dtype dtype, const float *from, float factor,
                                    size_t count)
{
    ELEMENT_SWITCH(dtype, scale, to, from, factor, count);
}

/* `key`: rows of the keys, key_stride apart */
static void score_keys(const struct attention *at, struct forward *f, size_t key_first,
                       size_t key_count, const float *key, size_t key_stride)
{
    const size_t lane_count = TILE_ROUND_UP(f->query_count);
    const int is_diagonal = key_first == f->query_first;
    const size_t step = is_diagonal ? TILE_LANES : BLOCK;

    for (size_t j = 0; j < key_count; j += step) {
        const size_t lane = is_diagonal ? j : 0; /* earlier queries do not see key j */

        kernel_tile_product(&(struct tile_product){.m = attention_smaller(step, key_count - j),
                                                   .n = lane_count - lane,
                                                   .k = at->dim,
                                                   .a = key + j * key_stride,
                                                   .a_row = key_stride,
                                                   .a_column = 1,
                                                   .b = f->query + lane,
                                                   .b_stride = BLOCK,
                                                   .c = f->score + j * BLOCK + lane,
                                                   .c_stride = BLOCK});
    }
}

static void add_values(const struct attention *at, struct forward *f, size_t query, size_t count,
                       size_t key_count, int is_first)
{
    float *out = f->out + query * at->dim_padded;

    if (!is_first)
        for (size_t i = 0; i < count; i++)
            scale_row(out + i * at->dim_padded, DS_F32, out + i * at->dim_padded,
                      f->shrink[query + i], at->dim_padded);
    kernel_tile_product(&(struct tile_product){.m = count,
                                               .n = at->dim_padded,
                                               .k = key_count,
                                               .a = f->score + query,
                                               .a_row = 1,
                                               .a_column = BLOCK,
                                               .b = f->value,
                                               .b_stride = at->dim_padded,
                                               .c = out,
                                               .c_stride = at->dim_padded,
                                               .add = !is_first});
}

/* The queries in hand meet one block of keys. */
static void forward_keys(const struct attention *at, struct forward *f, size_t key_first,
                         int is_first)
{
    const size_t key_count = attention_smaller(BLOCK, at->seq_length - key_first);
    const int is_diagonal = key_first == f->query_first;
    const size_t row = attention_row(at, f->seq, key_first, at->kv_heads, f->head / at->group);
    const struct tile_source keys = attention_rows(at, at->k, row, at->kv_heads, key_count);
    const struct tile_source values = attention_rows(at, at->v, row, at->kv_heads, key_count);

    kernel_tile_copy(f->value, &values);
    if (at->dtype == DS_F32) {
        score_keys(at, f, key_first, key_count, keys.from, keys.from_stride);
    } else {
        kernel_tile_copy(f->key, &keys);
        score_keys(at, f, key_first, key_count, f->key, at->dim_padded);
    }
    for (size_t query = 0; query < f->query_count; query += TILE_LANES) {
        const size_t seen =
            is_diagonal ? attention_smaller(query + TILE_LANES, key_count) : key_count;

        softmax_lanes(f, query, seen, (int32_t)key_first, at->scale);
        add_values(at, f, query, attention_smaller(TILE_LANES, f->query_count - query), seen,
                   is_first);
    }
}

static void forward_begin(const struct attention *at, struct forward *f)
{
    const int32_t *document = at->document + f->seq * at->seq_length + f->query_first;
    const size_t row = attention_row(at, f->seq, f->query_first, at->heads, f->head);
    const struct tile_source queries = attention_rows(at, at->q, row, at->heads, f->query_count);

    kernel_tile_transpose(f->query, BLOCK, &queries);
    for (size_t i = 0; i < BLOCK; i++) {
        const int is_query = i < f->query_count;

        f->max[i] = -INFINITY;
        f->sum[i] = 0.0f;
        f->first[i] = is_query ? document[i] : 0;
        f->last[i] = (int32_t)(f->query_first + i);
    }
}

static void forward_end(const struct attention *at, const struct forward *f, void *o, float *lse)
{
    for (size_t i = 0; i < f->query_count; i++) {
        const size_t row = attention_row(at, f->seq, f->query_first + i, at->heads, f->head);

        scale_row(element_to(o, row, at->dtype), at->dtype, f->out + i * at->dim_padded,
                  1.0f / f->sum[i], at->dim);
        lse[row / at->dim] = (float)((double)f->max[i] + log((double)f->sum[i]));
    }
}

static void forward_queries(const struct attention *at, struct forward *f, void *o, float *lse)
{
    const size_t first =
        kernel_attention_first_key(at, f->seq, f->query_first, f->query_count) / BLOCK * BLOCK;

    forward_begin(at, f);
    for (size_t key = first; key <= f->query_first; key += BLOCK)
        forward_keys(at, f, key, key == first);
    forward_end(at, f, o, lse);
}

static ds_status forward_work(void *args, int *done)
{
    const struct ds_attention_args *a = args;
    const struct attention at = kernel_attention_describe(a);
    const size_t blocks = (at.seq_length + BLOCK - 1) / BLOCK;

#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < at.seq_count * at.heads * blocks; i++) {
        struct forward f;

        f.seq = i / blocks / at.heads;
        f.head = i / blocks % at.heads;
        f.query_first = (blocks - 1 - i % blocks) * BLOCK; /* the longest first */
        f.query_count = attention_smaller(BLOCK, at.seq_length - f.query_first);
        forward_queries(&at, &f, a->o_THD.data, a->lse_TH.data);
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_attention_forward(struct ds_stream *stream, const struct ds_attention_args *args)
{
    DS_TRY(kernel_attention_check("attention_forward", args));
    return kernel_launch(stream, forward_work, args, sizeof *args);
}
