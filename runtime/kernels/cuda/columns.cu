/* columns.cu - sums over tokens. Blocks sum slabs of tokens into rows of partial sums, a second kernel adds
 * those: every sum has one order, and no chain is longer than a few hundred. */
#include "columns.cuh"

#include "part.cuh"
#include "shapes.h"

template <typename T> struct slab_sums {
    const T *dy, *x;
    const float *rstd;
    float *partial; /* [slabs][width] */
    size_t token_count, slab_tokens, stride;
    uint32_t width;
};

#define TOKENS_AT_ONCE 4

/* Adds tokens first, first + COLUMN_WARPS, .. of the columns at `column`. */
template <bool VECTOR, bool PRODUCT, typename T>
__device__ __forceinline__ void add_tokens(const slab_sums<T> &s, size_t first, size_t end,
                                           uint32_t column, float (&sum)[pack<T>::count])
{
    pack<T> dy[TOKENS_AT_ONCE], x[TOKENS_AT_ONCE];
    float rstd[TOKENS_AT_ONCE];

#pragma unroll
    for (int i = 0; i < TOKENS_AT_ONCE; i++) {
        const bool is_there = first + i * COLUMN_WARPS < end; /* zeros behind the last token */
        const size_t token = is_there ? first + i * COLUMN_WARPS : first;
        const uint32_t width = is_there ? s.width : 0;

        dy[i] = load_part<VECTOR>(s.dy + token * s.stride, column, width);
        if (PRODUCT) {
            x[i] = load_part<VECTOR>(s.x + token * s.stride, column, width);
            rstd[i] = s.rstd ? s.rstd[token] : 1.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < TOKENS_AT_ONCE; i++) {
#pragma unroll
        for (int j = 0; j < pack<T>::count; j++)
            sum[j] = PRODUCT ? fmaf(to_float(dy[i].at[j]), to_float(x[i].at[j]) * rstd[i], sum[j])
                             : sum[j] + to_float(dy[i].at[j]);
    }
}

template <typename T, bool VECTOR, bool PRODUCT>
__global__ void __launch_bounds__(SHAPE_WARP *COLUMN_WARPS) columns_slab(const slab_sums<T> s)
{
    constexpr int COUNT = pack<T>::count, COLUMNS = SHAPE_WARP * COUNT;
    __shared__ float sums[COLUMN_WARPS][COLUMNS];
    const uint32_t strip = blockIdx.x * COLUMNS, warp = threadIdx.x / SHAPE_WARP;
    const uint32_t at = threadIdx.x % SHAPE_WARP * COUNT;
    const size_t begin = blockIdx.y * s.slab_tokens;
    const size_t end =
        begin + s.slab_tokens < s.token_count ? begin + s.slab_tokens : s.token_count;
    float sum[COUNT] = {};

    for (size_t first = begin + warp; first < end; first += COLUMN_WARPS * TOKENS_AT_ONCE)
        add_tokens<VECTOR, PRODUCT>(s, first, end, strip + at, sum);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        sums[warp][at + j] = sum[j];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < COLUMNS && strip + i < s.width; i += blockDim.x) {
        float total = sums[0][i];

        for (int w = 1; w < COLUMN_WARPS; w++)
            total += sums[w][i];
        s.partial[blockIdx.y * (size_t)s.width + strip + i] = total;
    }
}

#define TOTAL_WARPS  32
#define ROWS_AT_ONCE 8

/* The columns of a block are 32; its warps take rows in turn, ROWS_AT_ONCE of them at once. */
__device__ __forceinline__ float sum_rows(const float *partial, size_t count, size_t width)
{
    float sum = 0;

    for (size_t first = threadIdx.y; first < count; first += TOTAL_WARPS * ROWS_AT_ONCE) {
        float row[ROWS_AT_ONCE];

#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; i++) { /* no branch: loads stay side by side */
            const size_t at = first + i * TOTAL_WARPS;

            row[i] = partial[(at < count ? at : first) * width];
            row[i] = at < count ? row[i] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < ROWS_AT_ONCE; i++)
            sum += row[i];
    }
    return sum;
}

template <typename T>
__global__ void __launch_bounds__(32 * TOTAL_WARPS)
    columns_total(const float *partial, size_t count, uint32_t width, T *out, int add)
{
    __shared__ float sums[TOTAL_WARPS][32];
    const uint32_t column = blockIdx.x * 32 + threadIdx.x;
    float sum = column < width ? sum_rows(partial + column, count, width) : 0.0f;

    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= width)
        return;
#pragma unroll
    for (int w = 1; w < TOTAL_WARPS; w++)
        sum += sums[w][threadIdx.x];
    out[column] = from_float<T>(add ? to_float(out[column]) + sum : sum);
}

template <typename T>
static ds_status launch_total(struct ds_stream *stream, const float *partial, size_t count,
                              size_t width, const struct ds_tensor *out, int add)
{
    const dim3 block(32, TOTAL_WARPS);

    columns_total<T><<<grid_of(shape_ceil(width, 32)), block, 0, cuda_stream_of(stream)>>>(
        partial, count, (uint32_t)width, (T *)out->data, add);
    CUDA_LAUNCHED("columns_total");
    return DS_OK;
}

ds_status cuda_columns_total(struct ds_stream *stream, const float *partial, size_t count,
                             size_t width, const struct ds_tensor *out, int add)
{
    if (width == 0)
        return DS_OK;
    return DISPATCH(out->dtype, T, launch_total<T>(stream, partial, count, width, out, add));
}

template <typename T, bool VECTOR>
static ds_status launch_slabs(struct ds_stream *stream, const struct column_shape *shape,
                              const slab_sums<T> &s)
{
    const dim3 grid(grid_of(shape->strips), shape->slabs);
    const uint32_t threads = SHAPE_WARP * COLUMN_WARPS;

    if (shape->strips == 0 || shape->slabs == 0)
        return DS_OK;
    if (s.x)
        columns_slab<T, VECTOR, true><<<grid, threads, 0, cuda_stream_of(stream)>>>(s);
    else
        columns_slab<T, VECTOR, false><<<grid, threads, 0, cuda_stream_of(stream)>>>(s);
    CUDA_LAUNCHED("columns_slab");
    return DS_OK;
}

template <typename T>
static ds_status sum_columns(struct ds_stream *stream, const struct cuda_columns *c)
{
    const struct column_shape shape = shape_columns(c->token_count, c->width, pack<T>::count);
    void *partial;

    DS_TRY(cuda_scratch(stream, shape.slabs * c->width * sizeof(float), &partial));
    const slab_sums<T> sums = {(const T *)c->dy, (const T *)c->x, c->rstd,   (float *)partial,
                               c->token_count,   shape.tokens,    c->stride, (uint32_t)c->width};
    if (c->width % pack<T>::count == 0 && c->stride % pack<T>::count == 0 && is_aligned(c->dy) &&
        is_aligned(c->x))
        DS_TRY((launch_slabs<T, true>(stream, &shape, sums)));
    else
        DS_TRY((launch_slabs<T, false>(stream, &shape, sums)));
    return cuda_columns_total(stream, (const float *)partial, shape.slabs, c->width, &c->out,
                              c->add);
}

ds_status cuda_columns_sum(struct ds_stream *stream, const struct cuda_columns *c)
{
    return DISPATCH(c->dtype, T, sum_columns<T>(stream, c));
}
