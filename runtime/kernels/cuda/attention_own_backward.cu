/* attention_own_backward.cu - gradients of attention_own.cu's queries, keys and values.
 *
 * Probabilities are made again from lse, in two walks, so that each sum has one writer and one order:
 *   P = exp(scale q k - lse), dP = do v, dS = P (dP - delta), delta = do . o
 *   dv = sum P^T do, dk = scale * sum dS^T q   a block has keys, walks over the heads of their group and queries
 *   dq = scale * sum dS k                      a block has queries, walks over keys
 * The next tiles of a walk travel while the present ones are worked on. */
#include "attention_launch.cuh"

#define LOG2_E 1.4426950408889634f

struct backward_args {
    attention_shape s;
    const void *q, *k, *v, *dout;
    const float *lse, *delta;
    void *dq, *dk, *dv;
};

/* ---- delta: eight lanes a row */

#define DELTA_LANES   8
#define DELTA_THREADS 256

template <typename T>
__global__ void delta_kernel(const T *o, const T *dout, float *delta, int64_t row_count, int dim,
                             int is_aligned, const int32_t *is_done)
{
    if (!is_left_to_do(is_done))
        return;

    const int64_t row = ((int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x) / DELTA_LANES;
    float sum = 0.0f;

    for (int i = threadIdx.x % DELTA_LANES * pack<T>::count; i < dim && row < row_count;
         i += DELTA_LANES * pack<T>::count) {
        const T *x = o + row * dim + i, *y = dout + row * dim + i;
        const pack<T> a = is_aligned ? load_pack(x) : load_elements(x, dim - i);
        const pack<T> b = is_aligned ? load_pack(y) : load_elements(y, dim - i);

#pragma unroll
        for (int j = 0; j < pack<T>::count; j++)
            sum = fmaf(to_float(a.at[j]), to_float(b.at[j]), sum);
    }
#pragma unroll
    for (int step = DELTA_LANES / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % DELTA_LANES == 0 && row < row_count)
        delta[row] = sum;
}

/* ---- what both walks do with a tile */

/* Scores become probabilities: lse(i, n, e) is that of the element's query. */
template <class W, typename Lse>
__device__ __forceinline__ void make_probabilities(typename W::scores &x, float scale_log2, Lse lse)
{
    for_scores<W>([&](int i, int n, int e) {
        x[i][n][e] = power_of_2<typename W::T>(fmaf(x[i][n][e], scale_log2, -lse(i, n, e)));
    });
}

/* dp becomes ds / scale */
template <class W, typename Delta>
__device__ __forceinline__ void make_slopes(typename W::scores &dp, const typename W::scores &p,
                                            Delta delta)
{
    for_scores<W>(
        [&](int i, int n, int e) { dp[i][n][e] = p[i][n][e] * (dp[i][n][e] - delta(i, n, e)); });
}

template <class W>
__device__ __forceinline__ void store_scaled(const head_rows<typename W::T> &to,
                                             const attention_shape &s, char *tile,
                                             const typename W::sums &x, float scale)
{
    float factor[W::row_tiles][2];

    for_rows<W>([&](int i, int half) { factor[i][half] = scale; });
    store_rows<W>(to, s, tile, x, factor);
}

/* ---- keys: rows are keys, columns are queries */

enum { WITH_DK = 1, WITH_DV = 2 };

/* Of the queries in a tile. */
template <class W> struct query_facts {
    float lse[W::columns], delta[W::columns];
    int32_t start[W::columns];
};

/* Where a walk keeps one tile of queries. */
template <class W> struct query_stage {
    char *query, *dout;
    query_facts<W> *facts;

    static constexpr int bytes = 2 * W::columns_bytes + (int)sizeof(query_facts<W>);

    __device__ __forceinline__ explicit query_stage(char *at)
        : query(at), dout(at + W::columns_bytes),
          facts((query_facts<W> *)(at + 2 * W::columns_bytes))
    {
    }
};

template <class W>
__device__ __forceinline__ void load_facts(query_facts<W> *to, const backward_args &b, int32_t seq,
                                           int32_t first, int32_t head)
{
    const attention_shape &s = b.s;

    for (int i = threadIdx.x; i < W::columns; i += W::threads) {
        const bool is_there = first + i < s.seq_length;
        const int64_t token = (int64_t)seq * s.seq_length + (is_there ? first + i : first);

        copy_async_4(&to->lse[i], b.lse + token * s.heads + head, is_there);
        copy_async_4(&to->delta[i], b.delta + token * s.heads + head, is_there);
        if (s.document)
            copy_async_4(&to->start[i], s.document + token, is_there);
    }
}

template <class W>
__device__ __forceinline__ void load_queries(const query_stage<W> &to, const backward_args &b,
                                             int32_t seq, int32_t first, int32_t head)
{
    using T = typename W::T;
    const attention_shape &s = b.s;

    load_tile<W, W::columns>(to.query, rows_of((const T *)b.q, s, seq, first, s.heads, head), s);
    load_tile<W, W::columns>(to.dout, rows_of((const T *)b.dout, s, seq, first, s.heads, head), s);
    load_facts<W>(to.facts, b, seq, first, head);
}

/* What a query does not see has a score of -inf, and so has all that meets a query behind the end. */
template <class W>
__device__ __forceinline__ void hide_from_queries(typename W::scores &x, const attention_shape &s,
                                                  const query_facts<W> &facts, int32_t key_first,
                                                  int32_t query_first)
{
    const int32_t last = min(W::columns, s.seq_length - query_first) - 1;

    if (query_first >= key_first + W::rows - 1 && last == W::columns - 1 &&
        (!s.document || facts.start[last] <= key_first))
        return;
    for_scores<W>([&](int i, int n, int e) {
        const int column = score_column(n, e);

        if (column > last ||
            !attention_sees(query_first + column, key_first + score_row<W>(i, e / 2),
                            s.document ? facts.start[column] : 0))
            x[i][n][e] = -INFINITY;
    });
}

/* One tile of queries: dv += P^T do, dk += dS^T q */
template <class W, int parts>
__device__ __forceinline__ void meet_queries(const attention_shape &s, const query_stage<W> &stage,
                                             const char *key, const char *value, int32_t key_first,
                                             int32_t query_first, typename W::sums &dk,
                                             typename W::sums &dv)
{
    const query_facts<W> &facts = *stage.facts;
    typename W::scores p, slope;

    products<W>::rows_by_rows(p, key, stage.query);
    hide_from_queries<W>(p, s, facts, key_first, query_first);
    make_probabilities<W>(p, s.scale * LOG2_E, [&](int, int n, int e) {
        return facts.lse[score_column(n, e)] * LOG2_E;
    });
    if (parts & WITH_DV)
        products<W>::add_rows(dv, p, stage.dout);
    if (parts & WITH_DK) {
        products<W>::rows_by_rows(slope, value, stage.dout);
        make_slopes<W>(slope, p,
                       [&](int, int n, int e) { return facts.delta[score_column(n, e)]; });
        products<W>::add_rows(dk, slope, stage.query);
    }
}

template <class W, int parts>
__global__ void __launch_bounds__(W::threads) backward_keys_kernel(backward_args b)
{
    if (!is_left_to_do(b.s.is_done))
        return;

    using T = typename W::T;
    extern __shared__ __align__(128) char shared[];
    char *const key = shared, *const value = key + W::rows_bytes;
    char *const stages = value + W::rows_bytes;
    const attention_shape &s = b.s;
    const struct attention_place p = attention_place_of(blockIdx.x, s.kv_heads, s.seq_count);
    const int32_t *document = s.document ? s.document + (int64_t)p.seq * s.seq_length : NULL;
    const int32_t first = p.tile * W::rows;
    const int32_t end = min(first + W::rows, s.seq_length);
    const int32_t steps =
        attention_steps(first, attention_query_end(document, s.seq_length, end), W::columns);
    const int32_t head = p.head * s.group;
    auto keys = [&](auto *tensor) { return rows_of(tensor, s, p.seq, first, s.kv_heads, p.head); };
    typename W::sums dk, dv;

    clear(dk);
    clear(dv);
    load_tile<W, W::rows>(key, keys((const T *)b.k), s);
    if (parts & WITH_DK)
        load_tile<W, W::rows>(value, keys((const T *)b.v), s);
    load_queries<W>(query_stage<W>(stages), b, p.seq, first, head);
    for (int32_t i = 0; i < s.group * steps; i++) {
        const int32_t next = i + 1;

        copy_async_wait();
        __syncthreads(); /* tile i is here; nobody reads the one before it */
        if (next < s.group * steps)
            load_queries<W>(query_stage<W>(stages + next % 2 * query_stage<W>::bytes), b, p.seq,
                            first + next % steps * W::columns, head + next / steps);
        meet_queries<W, parts>(s, query_stage<W>(stages + i % 2 * query_stage<W>::bytes), key,
                               value, first, first + i % steps * W::columns, dk, dv);
    }
    if (parts & WITH_DK)
        store_scaled<W>(keys((T *)b.dk), s, key, dk, s.scale);
    if (parts & WITH_DV)
        store_scaled<W>(keys((T *)b.dv), s, key, dv, 1.0f);
}

/* ---- queries: rows are queries, columns are keys */

/* Of the queries that a lane has rows of. */
template <class W> struct query_rows {
    float lse[W::row_tiles][2], delta[W::row_tiles][2]; /* lse in powers of 2 */
    int32_t start[W::row_tiles][2];
};

template <class W>
__device__ __forceinline__ void load_rows(query_rows<W> &r, const backward_args &b, int32_t seq,
                                          int32_t first, int32_t end, int32_t head)
{
    const attention_shape &s = b.s;

    for_rows<W>([&](int i, int half) {
        const int32_t position = min(first + score_row<W>(i, half), end - 1);
        const int64_t token = (int64_t)seq * s.seq_length + position;

        r.lse[i][half] = b.lse[token * s.heads + head] * LOG2_E;
        r.delta[i][half] = b.delta[token * s.heads + head];
        r.start[i][half] = s.document ? s.document[token] : 0;
    });
}

template <class W>
__device__ __forceinline__ void load_keys(char *key, const backward_args &b, int32_t seq,
                                          int32_t first, int32_t kv_head)
{
    using T = typename W::T;
    const attention_shape &s = b.s;

    load_tile<W, W::columns>(key, rows_of((const T *)b.k, s, seq, first, s.kv_heads, kv_head), s);
    load_tile<W, W::columns>(key + W::columns_bytes,
                             rows_of((const T *)b.v, s, seq, first, s.kv_heads, kv_head), s);
}

/* One tile of keys, values behind them: dq += dS k */
template <class W>
__device__ __forceinline__ void meet_keys(const attention_shape &s, const query_rows<W> &r,
                                          const char *query, const char *dout, const char *key,
                                          int32_t query_first, int32_t key_first, bool is_hidden,
                                          typename W::sums &dq)
{
    typename W::scores p, slope;

    products<W>::rows_by_rows(p, query, key);
    if (is_hidden)
        for_scores<W>([&](int i, int n, int e) {
            if (!attention_sees(query_first + score_row<W>(i, e / 2),
                                key_first + score_column(n, e), r.start[i][e / 2]))
                p[i][n][e] = -INFINITY;
        });
    make_probabilities<W>(p, s.scale * LOG2_E, [&](int i, int, int e) { return r.lse[i][e / 2]; });
    products<W>::rows_by_rows(slope, dout, key + W::columns_bytes);
    make_slopes<W>(slope, p, [&](int i, int, int e) { return r.delta[i][e / 2]; });
    products<W>::add_rows(dq, slope, key);
}

template <class W>
__global__ void __launch_bounds__(W::threads) backward_queries_kernel(backward_args b)
{
    if (!is_left_to_do(b.s.is_done))
        return;

    using T = typename W::T;
    extern __shared__ __align__(128) char shared[];
    char *const query = shared, *const dout = query + W::rows_bytes;
    char *const stages = dout + W::rows_bytes;
    const attention_shape &s = b.s;
    const struct attention_place p = attention_place_of(blockIdx.x, s.heads, s.seq_count);
    const int32_t *document = s.document ? s.document + (int64_t)p.seq * s.seq_length : NULL;
    const int32_t first = (attention_steps(0, s.seq_length, W::rows) - 1 - p.tile) * W::rows;
    const int32_t end = min(first + W::rows, s.seq_length);
    const int32_t last_start = document ? document[end - 1] : 0;
    const int32_t kv_head = p.head / s.group;
    const int32_t begin = attention_key_begin(document, first, W::columns);
    auto queries = [&](auto *tensor) { return rows_of(tensor, s, p.seq, first, s.heads, p.head); };
    typename W::sums dq;
    query_rows<W> r;

    clear(dq);
    load_tile<W, W::rows>(query, queries((const T *)b.q), s);
    load_tile<W, W::rows>(dout, queries((const T *)b.dout), s);
    load_keys<W>(stages, b, p.seq, begin, kv_head);
    load_rows<W>(r, b, p.seq, first, end, p.head);
    for (int32_t i = 0, at = begin; at < end; i++, at += W::columns) {
        copy_async_wait();
        __syncthreads(); /* tile i is here; nobody reads the one before it */
        if (at + W::columns < end)
            load_keys<W>(stages + (i + 1) % 2 * 2 * W::columns_bytes, b, p.seq, at + W::columns,
                         kv_head);
        meet_keys<W>(s, r, query, dout, stages + i % 2 * 2 * W::columns_bytes, first, at,
                     at + W::columns - 1 > first || last_start > at, dq);
    }
    store_scaled<W>(queries((T *)b.dq), s, query, dq, s.scale);
}

/* ---- launches */

/* Below 99 KiB of shared memory, as forward. */
template <typename T, int D> struct keys_tiling {
    using W = tiling<T, D, D == 128 ? 8 : 4, D == 64 ? 2 : 1, D == 256 ? 16 : 32>;
};
template <int D> struct keys_tiling<float, D> {
    using W = tiling<float, D, D == 256 ? 2 : 4, 1, 2048 / D>;
};
template <typename T, int D> struct queries_tiling {
    using W = tiling<T, D, 4, D == 256 ? 1 : 2, D == 64 ? 64 : D == 128 ? 32 : 16>;
};
template <int D> struct queries_tiling<float, D> {
    using W = typename keys_tiling<float, D>::W;
};

template <typename T>
static ds_status launch_delta(struct ds_stream *stream, const ds_attention_backward_args *a,
                              const int32_t *is_done)
{
    const struct ds_tensor *o = &a->forward.o_THD;
    const uint64_t row_count = o->shape[0] * o->shape[1];
    const uint64_t blocks = (row_count * DELTA_LANES + DELTA_THREADS - 1) / DELTA_THREADS;

    DS_ASSERT(blocks <= INT32_MAX);
    delta_kernel<T><<<(unsigned)blocks, DELTA_THREADS, 0, cuda_stream_of(stream)>>>(
        (const T *)o->data, (const T *)a->do_THD.data, (float *)a->delta_TH.data,
        (int64_t)row_count, (int)o->shape[2], are_aligned({o, &a->do_THD}), is_done);
    CUDA_LAUNCHED("attention_backward, delta");
    return DS_OK;
}

template <class W, int parts>
static ds_status launch_keys(struct ds_stream *stream, const backward_args &b)
{
    return launch_tiles<W>(stream, backward_keys_kernel<W, parts>, "attention_backward, keys", b,
                           b.s.kv_heads, 2 * W::rows_bytes + 2 * query_stage<W>::bytes);
}

/* Where the sums of both would not fit the registers, one after the other. */
template <typename T, int D>
static ds_status launch_backward(struct ds_stream *stream, const backward_args &b)
{
    using K = typename keys_tiling<T, D>::W;
    using Q = typename queries_tiling<T, D>::W;

    if constexpr (D * sizeof(T) <= 256) {
        DS_TRY((launch_keys<K, WITH_DK | WITH_DV>(stream, b)));
    } else {
        DS_TRY((launch_keys<K, WITH_DV>(stream, b)));
        DS_TRY((launch_keys<K, WITH_DK>(stream, b)));
    }
    return launch_tiles<Q>(stream, backward_queries_kernel<Q>, "attention_backward, queries", b,
                           b.s.heads, 2 * Q::rows_bytes + 4 * Q::columns_bytes);
}

static backward_args gather(const ds_attention_backward_args *a, const int32_t *is_done)
{
    const ds_attention_args *f = &a->forward;
    backward_args b = {};

    b.s = shape_of(f, is_done);
    b.s.is_aligned = are_aligned(
        {&f->q_THD, &f->k_TGD, &f->v_TGD, &a->do_THD, &a->dq_THD, &a->dk_TGD, &a->dv_TGD});
    b.q = f->q_THD.data;
    b.k = f->k_TGD.data;
    b.v = f->v_TGD.data;
    b.dout = a->do_THD.data;
    b.lse = (const float *)f->lse_TH.data;
    b.delta = (const float *)a->delta_TH.data;
    b.dq = a->dq_THD.data;
    b.dk = a->dk_TGD.data;
    b.dv = a->dv_TGD.data;
    return b;
}

extern "C" ds_status attention_own_backward(struct ds_stream *stream,
                                            const ds_attention_backward_args *a,
                                            const int32_t *is_done)
{
    const backward_args b = gather(a, is_done);

    DS_TRY(DISPATCH(a->forward.q_THD.dtype, T, launch_delta<T>(stream, a, is_done)));
    return DISPATCH(a->forward.q_THD.dtype, T,
                    DISPATCH_DIM(b.s.dim, D, (launch_backward<T, D>(stream, b))));
}
