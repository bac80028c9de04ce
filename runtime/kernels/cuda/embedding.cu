/* embedding.cu - rows of a table, or of a part of one, by token id, and the scatter of their gradients.
 *
 * Backward sorts the tokens by row, in stages: how often is each row named, where does its list begin, who is
 * on it, and what is everyone's place on it by token number. Atomics of integers hand out room; what they
 * leave to chance is where a list lies and, until it is ordered, how. Then each row named gets its terms in
 * token order, as the cpu adds them. */
#include "quad.cuh"

#include "../launch.h"

#define THREADS 256
#define WARP    32
#define COLUMNS (4 * THREADS) /* of a block */
#define BATCH   4             /* gradients that a thread has in flight */

/* The row of an id; of one that has none here: beyond all rows. */
__device__ __forceinline__ uint64_t row_of(const int32_t *id, uint64_t t, uint64_t first)
{
    return (uint64_t)id[t] - first;
}

/* ---- forward: a warp copies a row, `width` words of W */

template <typename W>
__global__ void __launch_bounds__(THREADS)
    gather_kernel(W *__restrict__ y, const W *__restrict__ table, const int32_t *id,
                  uint64_t token_count, uint64_t row_count, uint64_t width, uint64_t first)
{
    const uint64_t t = ((uint64_t)blockIdx.x * THREADS + threadIdx.x) / WARP;

    if (t >= token_count)
        return;
    const uint64_t row = row_of(id, t, first);
    const bool is_here = row < row_count;
    const W *from = table + (is_here ? row : 0) * width;
    W *to = y + t * width;

#pragma unroll 8
    for (uint64_t i = threadIdx.x % WARP; i < width; i += WARP)
        to[i] = is_here ? from[i] : W{};
}

template <typename W>
static ds_status gather(struct ds_stream *stream, const struct ds_embedding_args *a,
                        uint64_t row_bytes)
{
    const uint64_t token_count = a->id_T.shape[0], block = THREADS / WARP;

    gather_kernel<W>
        <<<(unsigned)((token_count + block - 1) / block), THREADS, 0, cuda_stream_of(stream)>>>(
            (W *)a->y_TC.data, (const W *)a->table_VC.data, (const int32_t *)a->id_T.data,
            token_count, a->table_VC.shape[0], row_bytes / sizeof(W), a->first);
    CUDA_LAUNCHED("embedding_forward");
    return DS_OK;
}

static ds_status embedding_check(const char *kernel, const struct ds_embedding_args *args)
{
    DS_ASSERT(args->id_T.dim_count == 1);
    DS_ASSERT(kernel_elems(&args->y_TC) == args->id_T.shape[0] * args->table_VC.shape[1]);
    KERNEL_WANTS(kernel, args, id_T, DS_I32);
    KERNEL_WANTS_FLOAT(kernel, args, table_VC);
    KERNEL_WANTS_FLOAT(kernel, args, y_TC);
    return DS_OK;
}

extern "C" ds_status cuda_embedding_forward(struct ds_stream *stream,
                                            const struct ds_embedding_args *a)
{
    const uint64_t row_bytes = a->table_VC.shape[1] * ds_dtype_bytes(a->table_VC.dtype);
    const uint64_t places = row_bytes | (uintptr_t)a->table_VC.data | (uintptr_t)a->y_TC.data;

    DS_TRY(embedding_check("embedding_forward", a));
    KERNEL_WANTS_SAME("embedding_forward", a, y_TC, table_VC);
    if (kernel_elems(&a->y_TC) == 0)
        return DS_OK;
    if (places % sizeof(uint4) == 0)
        return gather<uint4>(stream, a, row_bytes);
    if (places % sizeof(uint32_t) == 0)
        return gather<uint32_t>(stream, a, row_bytes);
    return gather<uint16_t>(stream, a, row_bytes);
}

/* ---- backward: lists of tokens */

/* In scratch memory, V rows and T tokens. The first three are cleared. */
struct lists {
    uint32_t *totals; /* tokens on lists, rows with a list */
    uint32_t *length; /* [V] */
    uint32_t *taken;  /* [V] places on the list */
    uint32_t *start;  /* [V] */
    uint32_t *named;  /* [min(T, V)] rows with a list */
    uint32_t *chance; /* [T] tokens, row after row, in the order of chance */
    uint32_t *sorted; /* [T] the same in their own */
};

struct tokens {
    const int32_t *id;
    uint64_t count, first, row_count;
    int64_t padding;
};

/* The row that gets the gradient of token `t`; of one whose gradient goes nowhere: row_count or beyond. */
__device__ __forceinline__ uint64_t term_row(const struct tokens &tokens, uint64_t t)
{
    if (t >= tokens.count || tokens.id[t] == tokens.padding)
        return tokens.row_count;
    return row_of(tokens.id, t, tokens.first);
}

__device__ __forceinline__ uint64_t thread_index(void)
{
    return (uint64_t)blockIdx.x * THREADS + threadIdx.x;
}

static __global__ void count_kernel(struct lists lists, struct tokens tokens)
{
    const uint64_t row = term_row(tokens, thread_index());

    if (row < tokens.row_count)
        atomicAdd(&lists.length[row], 1u);
}

static __global__ void room_kernel(struct lists lists, uint64_t row_count)
{
    const uint64_t row = thread_index();

    if (row >= row_count || lists.length[row] == 0)
        return;
    lists.start[row] = atomicAdd(&lists.totals[0], lists.length[row]);
    lists.named[atomicAdd(&lists.totals[1], 1u)] = (uint32_t)row;
}

static __global__ void enlist_kernel(struct lists lists, struct tokens tokens)
{
    const uint64_t t = thread_index();
    const uint64_t row = term_row(tokens, t);

    if (row < tokens.row_count)
        lists.chance[lists.start[row] + atomicAdd(&lists.taken[row], 1u)] = (uint32_t)t;
}

/* A token's place is the number of those on its list that come before it. */
static __global__ void sort_kernel(struct lists lists, struct tokens tokens)
{
    const uint64_t t = thread_index();
    const uint64_t row = term_row(tokens, t);
    uint32_t place = 0;

    if (row >= tokens.row_count)
        return;
    const uint32_t start = lists.start[row], length = lists.length[row];
#pragma unroll 8
    for (uint32_t i = 0; i < length; i++)
        place += lists.chance[start + i] < (uint32_t)t;
    lists.sorted[start + place] = (uint32_t)t;
}

static unsigned blocks_of(uint64_t thread_count)
{
    return (unsigned)((thread_count + THREADS - 1) / THREADS);
}

/* Cuts the scratch memory up, and clears what counts. */
static ds_status lists_begin(struct ds_stream *stream, const struct tokens *tokens,
                             struct lists *out)
{
    const size_t V = tokens->row_count, T = tokens->count, named = T < V ? T : V;
    void *scratch;

    DS_TRY(cuda_scratch(stream, (2 + 3 * V + named + 2 * T) * sizeof(uint32_t), &scratch));
    out->totals = (uint32_t *)scratch;
    out->length = out->totals + 2;
    out->taken = out->length + V;
    out->start = out->taken + V;
    out->named = out->start + V;
    out->chance = out->named + named;
    out->sorted = out->chance + T;
    CUDA_TRY(cudaMemsetAsync(scratch, 0, (2 + 2 * V) * sizeof(uint32_t), cuda_stream_of(stream)));
    return DS_OK;
}

static ds_status lists_make(struct ds_stream *stream, const struct tokens *tokens,
                            struct lists *lists)
{
    const cudaStream_t on = cuda_stream_of(stream);

    DS_TRY(lists_begin(stream, tokens, lists));
    count_kernel<<<blocks_of(tokens->count), THREADS, 0, on>>>(*lists, *tokens);
    room_kernel<<<blocks_of(tokens->row_count), THREADS, 0, on>>>(*lists, tokens->row_count);
    enlist_kernel<<<blocks_of(tokens->count), THREADS, 0, on>>>(*lists, *tokens);
    sort_kernel<<<blocks_of(tokens->count), THREADS, 0, on>>>(*lists, *tokens);
    CUDA_LAUNCHED("embedding_backward");
    return DS_OK;
}

/* ---- backward: the terms of a row */

/* Up to four neighbours, `count` of them; absent ones are not looked at again. */
template <typename T>
__device__ __forceinline__ quad<T> load_some(const T *from, int count, bool is_aligned)
{
    quad<T> q;

    if (is_aligned)
        return load_quad(from);
#pragma unroll
    for (int i = 0; i < 4; i++)
        q.at[i] = from[i < count ? i : 0];
    return q;
}

template <typename T>
__device__ __forceinline__ void store_some(T *to, const quad<T> &q, int count, bool is_aligned)
{
    if (is_aligned) {
        store_quad(to, q);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count)
            to[i] = q.at[i];
}

/* Adds the rows `sorted` of dy to `sum`, one after another. */
template <typename Y>
__device__ __forceinline__ void add_terms(float (&sum)[4], const Y *dy, const uint32_t *sorted,
                                          uint32_t length, uint64_t width, int count,
                                          bool is_aligned)
{
    for (uint32_t at = 0; at < length; at += BATCH) {
        quad<Y> term[BATCH];

#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++)
            if (at + i < length)
                term[i] = load_some(dy + sorted[at + i] * width, count, is_aligned);
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (at + i < length)
                    sum[j] += to_float(term[i].at[j]);
    }
}

/* A table of fp32 is what the terms are added to; of 16 bits: their sum is, once. */
template <typename V, typename Y>
__global__ void __launch_bounds__(THREADS) scatter_kernel(V *table, const Y *dy, struct lists lists,
                                                          uint64_t width, bool add, bool is_aligned)
{
    const uint64_t column = (uint64_t)blockIdx.y * COLUMNS + 4 * threadIdx.x;

    if (blockIdx.x >= lists.totals[1] || column >= width)
        return;
    const uint32_t row = lists.named[blockIdx.x];
    const int count = width - column < 4 ? (int)(width - column) : 4;
    V *at = table + row * width + column;
    float sum[4] = {};
    quad<V> old = {};

    if (add)
        old = load_some(at, count, is_aligned);
#pragma unroll
    for (int j = 0; j < 4; j++)
        sum[j] = add && sizeof(V) == sizeof(float) ? to_float(old.at[j]) : 0.0f;
    add_terms(sum, dy + column, lists.sorted + lists.start[row], lists.length[row], width, count,
              is_aligned);
#pragma unroll
    for (int j = 0; j < 4; j++)
        old.at[j] =
            from_float<V>(add && sizeof(V) < sizeof(float) ? to_float(old.at[j]) + sum[j] : sum[j]);
    store_some(at, old, count, is_aligned);
}

template <typename V, typename Y>
static ds_status scatter(struct ds_stream *stream, const struct ds_embedding_args *a,
                         const struct tokens *tokens)
{
    const uint64_t width = a->table_VC.shape[1];
    const uint64_t named = tokens->count < tokens->row_count ? tokens->count : tokens->row_count;
    const dim3 grid((unsigned)named, (unsigned)((width + COLUMNS - 1) / COLUMNS));
    const bool is_aligned =
        width % 4 == 0 && is_quad_aligned<V>(a->table_VC.data) && is_quad_aligned<Y>(a->y_TC.data);
    struct lists lists;

    DS_TRY(lists_make(stream, tokens, &lists));
    scatter_kernel<V, Y><<<grid, THREADS, 0, cuda_stream_of(stream)>>>(
        (V *)a->table_VC.data, (const Y *)a->y_TC.data, lists, width, a->add != 0, is_aligned);
    CUDA_LAUNCHED("embedding_backward");
    return DS_OK;
}

extern "C" ds_status cuda_embedding_backward(struct ds_stream *stream,
                                             const struct ds_embedding_args *a)
{
    const struct tokens tokens = {(const int32_t *)a->id_T.data, a->id_T.shape[0], a->first,
                                  a->table_VC.shape[0], a->padding};
    const size_t table_bytes = kernel_elems(&a->table_VC) * ds_dtype_bytes(a->table_VC.dtype);

    DS_TRY(embedding_check("embedding_backward", a));
    DS_ASSERT(tokens.count <= INT32_MAX && tokens.row_count <= INT32_MAX);
    if (!a->add && table_bytes > 0)
        CUDA_TRY(cudaMemsetAsync(a->table_VC.data, 0, table_bytes, cuda_stream_of(stream)));
    if (tokens.count == 0 || table_bytes == 0)
        return DS_OK;
    return DISPATCH(a->table_VC.dtype, V,
                    DISPATCH(a->y_TC.dtype, Y, (scatter<V, Y>(stream, a, &tokens))));
}
