/* attention_own.cu - causal attention within documents, forward (Dao 2023).
 *
 * A block takes a tile of queries of one head and walks over the keys they see, tile by tile, with a running
 * maximum and sum. While scores are made the values travel, while values are added up the next keys do. A
 * tile in which every query sees every key is not masked. */
#include "attention_launch.cuh"

#define LOG2_E 1.4426950408889634f

struct forward_args {
    attention_shape s;
    const void *q, *k, *v;
    void *o;
    float *lse;
};

/* Of the queries that a lane has rows of: largest score, sum of powers in this lane, first key seen. */
template <class W> struct forward_rows {
    float max[W::row_tiles][2], sum[W::row_tiles][2];
    int32_t start[W::row_tiles][2];
};

template <class W>
__device__ __forceinline__ void begin_rows(forward_rows<W> &r, const int32_t *document,
                                           int32_t first, int32_t end)
{
    for_rows<W>([&](int i, int half) {
        r.max[i][half] = -INFINITY;
        r.sum[i][half] = 0.0f;
        r.start[i][half] = document ? document[min(first + score_row<W>(i, half), end - 1)] : 0;
    });
}

template <class W>
__device__ __forceinline__ void hide_keys(typename W::scores &x, const forward_rows<W> &r,
                                          int32_t query_first, int32_t key_first)
{
    for_scores<W>([&](int i, int n, int e) {
        if (!attention_sees(query_first + score_row<W>(i, e / 2), key_first + score_column(n, e),
                            r.start[i][e / 2]))
            x[i][n][e] = -INFINITY;
    });
}

/* Scores of one row become powers of 2, their maximum and sum move on. Returns what was summed before has to be
 * multiplied with. A row that has seen nothing yet has a maximum of -inf. */
template <class W>
__device__ __forceinline__ float soften_row(typename W::scores &x, forward_rows<W> &r, int i,
                                            int half, float scale_log2)
{
    const float before = r.max[i][half];
    float top = before, sum = 0.0f;

#pragma unroll
    for (int n = 0; n < W::column_tiles; n++)
        top = fmaxf(top, fmaxf(x[i][n][2 * half], x[i][n][2 * half + 1]));
    top = row_max(top);

    const float shift = top == -INFINITY ? 0.0f : top * scale_log2;
    const float shrink = power_of_2<typename W::T>(fmaf(before, scale_log2, -shift));

#pragma unroll
    for (int n = 0; n < W::column_tiles; n++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
            x[i][n][e] = power_of_2<typename W::T>(fmaf(x[i][n][e], scale_log2, -shift));
            sum += x[i][n][e];
        }
    r.max[i][half] = top;
    r.sum[i][half] = r.sum[i][half] * shrink + sum;
    return top == before ? 1.0f : shrink;
}

/* The maximum soon stays where it is: then there is nothing to multiply. */
template <class W>
__device__ __forceinline__ void soften(typename W::scores &x, typename W::sums &out,
                                       forward_rows<W> &r, float scale_log2)
{
#pragma unroll
    for (int i = 0; i < W::row_tiles; i++) {
        const float upper = soften_row<W>(x, r, i, 0, scale_log2);
        const float lower = soften_row<W>(x, r, i, 1, scale_log2);

        if (__any_sync(0xffffffffu, upper != 1.0f || lower != 1.0f))
#pragma unroll
            for (int n = 0; n < W::dim_tiles; n++) {
                out[i][n][0] *= upper;
                out[i][n][1] *= upper;
                out[i][n][2] *= lower;
                out[i][n][3] *= lower;
            }
    }
}

template <class W>
__device__ __forceinline__ void end_rows(const forward_args &f, const attention_place &p,
                                         int32_t first, const typename W::sums &out,
                                         forward_rows<W> &r, char *tile)
{
    const attention_shape &s = f.s;
    const head_rows<typename W::T> to =
        rows_of((typename W::T *)f.o, s, p.seq, first, s.heads, p.head);
    float inverse[W::row_tiles][2];

    for_rows<W>([&](int i, int half) {
        const float sum = row_sum(r.sum[i][half]);
        const int64_t position = first + score_row<W>(i, half);

        inverse[i][half] = 1.0f / sum;
        if (threadIdx.x % 4 == 0 && position < s.seq_length)
            f.lse[((int64_t)p.seq * s.seq_length + position) * s.heads + p.head] =
                r.max[i][half] * s.scale + logf(sum);
    });
    store_rows<W>(to, s, tile, out, inverse);
}

template <class W> __global__ void __launch_bounds__(W::threads) forward_kernel(forward_args f)
{
    if (!is_left_to_do(f.s.is_done))
        return;

    using T = typename W::T;
    extern __shared__ __align__(128) char shared[];
    char *const query = shared, *const key = query + W::rows_bytes;
    char *const value = key + W::columns_bytes;
    const attention_shape &s = f.s;
    const struct attention_place p = attention_place_of(blockIdx.x, s.heads, s.seq_count);
    const int32_t *document = s.document ? s.document + (int64_t)p.seq * s.seq_length : NULL;
    const int32_t first = (attention_steps(0, s.seq_length, W::rows) - 1 - p.tile) * W::rows;
    const int32_t end = min(first + W::rows, s.seq_length);
    const int32_t last_start = document ? document[end - 1] : 0;
    typename W::sums out;
    forward_rows<W> r;
    auto keys = [&](const void *from, int32_t position) {
        return rows_of((const T *)from, s, p.seq, position, s.kv_heads, p.head / s.group);
    };
    int32_t at = attention_key_begin(document, first, W::columns);

    load_tile<W, W::rows>(query, rows_of((const T *)f.q, s, p.seq, first, s.heads, p.head), s);
    load_tile<W, W::columns>(key, keys(f.k, at), s);
    begin_rows<W>(r, document, first, end);
    clear(out);
    for (; at < end; at += W::columns) {
        typename W::scores x;

        copy_async_wait();
        __syncthreads(); /* keys are here; nobody reads the values before */
        load_tile<W, W::columns>(value, keys(f.v, at), s);
        products<W>::rows_by_rows(x, query, key);
        if (at + W::columns - 1 > first || last_start > at)
            hide_keys<W>(x, r, first, at);
        soften<W>(x, out, r, s.scale * LOG2_E);
        copy_async_wait();
        __syncthreads(); /* values are here; nobody reads the keys any more */
        if (at + W::columns < end)
            load_tile<W, W::columns>(key, keys(f.k, at + W::columns), s);
        products<W>::add_rows(out, x, value);
    }
    end_rows<W>(f, p, first, out, r, query);
}

/* 16 bits: two row tiles a warp where their sums fit the registers. Shared memory stays below 99 KiB, which all
 * GPUs since 8.0 have. */
template <typename T, int D> struct forward_tiling {
    using W = tiling<T, D, 4, D <= 128 ? 2 : 1, D == 64 ? 64 : 32>;
};
template <int D> struct forward_tiling<float, D> {
    using W = tiling<float, D, 4, 1, 64 * 64 / D>;
};

template <typename T, int D>
static ds_status launch_forward(struct ds_stream *stream, const ds_attention_args *a,
                                const int32_t *is_done)
{
    using W = typename forward_tiling<T, D>::W;
    forward_args f = {};

    f.s = shape_of(a, is_done);
    f.s.is_aligned = are_aligned({&a->q_THD, &a->k_TGD, &a->v_TGD, &a->o_THD});
    f.q = a->q_THD.data;
    f.k = a->k_TGD.data;
    f.v = a->v_TGD.data;
    f.o = a->o_THD.data;
    f.lse = (float *)a->lse_TH.data;
    return launch_tiles<W>(stream, forward_kernel<W>, "attention_forward", f, f.s.heads,
                           W::rows_bytes + 2 * W::columns_bytes);
}

extern "C" ds_status attention_own_forward(struct ds_stream *stream, const ds_attention_args *a,
                                           const int32_t *is_done)
{
    return DISPATCH(a->q_THD.dtype, T,
                    DISPATCH_DIM(a->q_THD.shape[2], D, (launch_forward<T, D>(stream, a, is_done))));
}
