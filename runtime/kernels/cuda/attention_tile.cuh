/* attention_tile.cuh - tiles of rows of one head in shared memory, and products of them in registers.
 *
 * A block holds `rows` rows, 16 * row_tiles of them a warp's, and walks over tiles of `columns` rows of the other
 * kind: queries over keys, or keys over queries. Its scores and its sums lie in registers as multiply_add leaves
 * them, x[row tile][column tile][4]; so scores are the left side of the next product where they are, without a
 * way through memory. In fp32 the same lanes hold the same elements, made by plain multiplication. */
#ifndef KERNELS_CUDA_ATTENTION_TILE_CUH
#define KERNELS_CUDA_ATTENTION_TILE_CUH

#include "attention_index.h"
#include "attention_warp.cuh"

struct attention_shape {
    const int32_t *document; /* [T]; NULL: every sequence is one */
    const int32_t *is_done;  /* not 0: by somebody else; NULL: by nobody */
    int32_t seq_count, seq_length, heads, kv_heads, group, dim;
    int32_t is_aligned; /* rows can be read and written 16 bytes at a time */
    float scale;
};

__device__ __forceinline__ bool is_left_to_do(const int32_t *is_done)
{
    return !is_done || *is_done == 0;
}

template <typename Element, int dim_, int warps_, int row_tiles_, int columns_> struct tiling {
    using T = Element;
    static constexpr int dim = dim_; /* of a row in shared memory */
    static constexpr int row_bytes = dim_ * (int)sizeof(T);
    static constexpr int row_tiles = row_tiles_, dim_tiles = dim_ / 8, column_tiles = columns_ / 8;
    static constexpr int warp_rows = 16 * row_tiles_, rows = warps_ * warp_rows;
    static constexpr int columns = columns_, threads = warps_ * 32;
    static constexpr int rows_bytes = rows * row_bytes, columns_bytes = columns * row_bytes;
    using sums = float[row_tiles][dim_tiles][4];
    using scores = float[row_tiles][column_tiles][4];

    static_assert(rows % columns == 0, "a tile of rows begins where one of columns does");
    static_assert(sizeof(T) == 4 || columns % 16 == 0, "columns are multiplied 16 at a time");
};

template <typename X> __device__ __forceinline__ void clear(X &x)
{
    for (auto &row_tile : x)
        for (auto &tile : row_tile)
            for (float &element : tile)
                element = 0.0f;
}

/* ---- between device and shared memory */

/* Rows of one head from a position of a sequence on. */
template <typename T> struct head_rows {
    T *at;
    int64_t stride; /* elements */
    int32_t count;  /* rows up to the end of the sequence */
};

template <typename T>
__device__ __forceinline__ head_rows<T> rows_of(T *tensor, const attention_shape &s, int32_t seq,
                                                int32_t position, int32_t heads, int32_t head)
{
    const int64_t token = (int64_t)seq * s.seq_length + position;

    return {tensor + (token * heads + head) * s.dim, (int64_t)heads * s.dim,
            s.seq_length - position};
}

/* `count` elements, fewer than none too, and zeros behind them */
template <typename T> __device__ __forceinline__ pack<T> load_elements(const T *from, int32_t count)
{
    pack<T> p;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        p.at[i] = i < count ? from[i] : from_float<T>(0.0f);
    return p;
}

/* `rows` rows; what is not there, below and beside, is zero. Done behind copy_async_wait and a barrier. */
template <class W, int rows>
__device__ __forceinline__ void load_tile(char *tile, const head_rows<const typename W::T> &from,
                                          const attention_shape &s)
{
    constexpr int elems = pack<typename W::T>::count, pieces = W::dim / elems;

    for (int i = threadIdx.x; i < rows * pieces; i += W::threads) {
        const int row = i / pieces, piece = i % pieces;
        const int count = row < from.count ? s.dim - piece * elems : 0;
        char *to = tile + attention_offset(row, piece, W::row_bytes);
        const typename W::T *at = from.at + (count > 0 ? row * from.stride + piece * elems : 0);

        if (s.is_aligned)
            copy_async_16(to, at, count > 0);
        else
            store_pack((typename W::T *)to, load_elements(at, count));
    }
}

template <class W>
__device__ __forceinline__ char *pair_at(char *tile, int row, int column) /* an even column */
{
    constexpr int elems = pack<typename W::T>::count;

    return tile + attention_offset(row, column / elems, W::row_bytes) +
           column % elems * (int)sizeof(typename W::T);
}

template <typename T> __device__ __forceinline__ void store_pair(char *to, float x, float y)
{
    *(uint32_t *)to = pair_of<T>(x, y);
}
template <> __device__ __forceinline__ void store_pair<float>(char *to, float x, float y)
{
    *(float2 *)to = make_float2(x, y);
}

/* A warp's sums, times factor[row tile][upper, lower], go to its rows of the output by way of its rows of
 * `tile`, which nobody else may be using. */
template <class W>
__device__ __forceinline__ void
store_rows(const head_rows<typename W::T> &to, const attention_shape &s, char *tile,
           const typename W::sums &x, const float (&factor)[W::row_tiles][2])
{
    using T = typename W::T;
    constexpr int elems = pack<T>::count, pieces = W::dim / elems;
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * W::warp_rows;

    __syncwarp();
#pragma unroll
    for (int i = 0; i < W::row_tiles; i++)
#pragma unroll
        for (int n = 0; n < W::dim_tiles; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                store_pair<T>(
                    pair_at<W>(tile, first + i * 16 + half * 8 + lane / 4, n * 8 + lane % 4 * 2),
                    x[i][n][2 * half] * factor[i][half], x[i][n][2 * half + 1] * factor[i][half]);
    __syncwarp();
    for (int i = lane; i < W::warp_rows * pieces; i += 32) {
        const int row = first + i / pieces, piece = i % pieces;
        const pack<T> p = load_pack((const T *)(tile + attention_offset(row, piece, W::row_bytes)));
        const int count = row < to.count ? s.dim - piece * elems : 0;
        T *at = to.at + row * to.stride + piece * elems;

        if (s.is_aligned && count > 0)
            store_pack(at, p);
        for (int j = 0; !s.is_aligned && j < elems && j < count; j++)
            at[j] = p.at[j];
    }
}

/* ---- products */

/* scores = left right^T: the warp's rows of `left` with all rows of `right`. */
template <class W> struct products {
    using T = typename W::T;

    static __device__ __forceinline__ void rows_by_rows(typename W::scores &x, const char *left,
                                                        const char *right)
    {
        const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * W::warp_rows;

        clear(x);
#pragma unroll
        for (int k = 0; k < W::dim / 16; k++) {
            uint32_t a[W::row_tiles][4];

#pragma unroll
            for (int i = 0; i < W::row_tiles; i++)
                load_matrices(a[i], left + attention_offset(first + i * 16 + lane % 16,
                                                            k * 2 + lane / 16, W::row_bytes));
#pragma unroll
            for (int n = 0; n < W::column_tiles; n += 2) {
                uint32_t b[4];

                load_matrices(b, right + attention_offset(n * 8 + lane % 8 + lane / 16 * 8,
                                                          k * 2 + lane / 8 % 2, W::row_bytes));
#pragma unroll
                for (int i = 0; i < W::row_tiles; i++) {
                    multiply_add<T>(x[i][n], a[i], b[0], b[1]);
                    multiply_add<T>(x[i][n + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    /* sums += scores right: each row of scores weighs the rows of `right`. */
    static __device__ __forceinline__ void add_rows(typename W::sums &y,
                                                    const typename W::scores &x, const char *right)
    {
        const int lane = threadIdx.x % 32;

#pragma unroll
        for (int k = 0; k < W::column_tiles; k += 2) {
            uint32_t a[W::row_tiles][4];

#pragma unroll
            for (int i = 0; i < W::row_tiles; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float *pair = &x[i][k + j / 2][j % 2 * 2];

                    a[i][j] = pair_of<T>(pair[0], pair[1]);
                }
#pragma unroll
            for (int n = 0; n < W::dim_tiles; n += 2) {
                uint32_t b[4];

                load_matrices_turned(
                    b, right + attention_offset(k * 8 + lane % 16, n + lane / 16, W::row_bytes));
#pragma unroll
                for (int i = 0; i < W::row_tiles; i++) {
                    multiply_add<T>(y[i][n], a[i], b[0], b[1]);
                    multiply_add<T>(y[i][n + 1], a[i], b[2], b[3]);
                }
            }
        }
    }
};

__device__ __forceinline__ float dot4(float sum, float4 a, float4 b)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* The same by fp32 multiplication. */
template <int dim, int warps, int row_tiles, int columns>
struct products<tiling<float, dim, warps, row_tiles, columns>> {
    using W = tiling<float, dim, warps, row_tiles, columns>;

    static __device__ __forceinline__ float4 four_at(const char *tile, int row, int piece)
    {
        return *(const float4 *)(tile + attention_offset(row, piece, W::row_bytes));
    }

    static __device__ __forceinline__ void rows_by_rows(typename W::scores &x, const char *left,
                                                        const char *right)
    {
        const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * W::warp_rows + lane / 4;

        clear(x);
#pragma unroll 2
        for (int k = 0; k < W::dim / 4; k++)
#pragma unroll
            for (int i = 0; i < row_tiles; i++) {
                const float4 upper = four_at(left, first + i * 16, k);
                const float4 lower = four_at(left, first + i * 16 + 8, k);

#pragma unroll
                for (int j = 0; j < W::column_tiles * 2; j++) {
                    const float4 b = four_at(right, j / 2 * 8 + lane % 4 * 2 + j % 2, k);

                    x[i][j / 2][j % 2] = dot4(x[i][j / 2][j % 2], upper, b);
                    x[i][j / 2][j % 2 + 2] = dot4(x[i][j / 2][j % 2 + 2], lower, b);
                }
            }
    }

    static __device__ __forceinline__ void add_row(typename W::sums &y, const float *weights,
                                                   int row_tile, char *right, int row)
    {
        const int lane = threadIdx.x % 32;

#pragma unroll
        for (int n = 0; n < W::dim_tiles; n++) {
            const float2 b = *(const float2 *)pair_at<W>(right, row, n * 8 + lane % 4 * 2);

            y[row_tile][n][0] = fmaf(weights[0], b.x, y[row_tile][n][0]);
            y[row_tile][n][1] = fmaf(weights[0], b.y, y[row_tile][n][1]);
            y[row_tile][n][2] = fmaf(weights[1], b.x, y[row_tile][n][2]);
            y[row_tile][n][3] = fmaf(weights[1], b.y, y[row_tile][n][3]);
        }
    }

    static __device__ __forceinline__ void add_rows(typename W::sums &y,
                                                    const typename W::scores &x, const char *right)
    {
        const int quad = threadIdx.x % 32 / 4 * 4;

#pragma unroll
        for (int i = 0; i < row_tiles; i++)
#pragma unroll
            for (int k = 0; k < W::column_tiles * 8; k++) {
                const int owner = quad + k % 8 / 2;
                const float weights[2] = {__shfl_sync(0xffffffffu, x[i][k / 8][k % 2], owner),
                                          __shfl_sync(0xffffffffu, x[i][k / 8][k % 2 + 2], owner)};

                add_row(y, weights, i, (char *)right, k);
            }
    }
};

/* ---- elements of scores: x[i][n][e] of this lane lies at row score_row(i, e / 2) of the tile, column
 * score_column(n, e) */

template <class W> __device__ __forceinline__ int score_row(int i, int half)
{
    return threadIdx.x / 32 * W::warp_rows + i * 16 + half * 8 + threadIdx.x % 32 / 4;
}

__device__ __forceinline__ int score_column(int n, int e)
{
    return n * 8 + threadIdx.x % 4 * 2 + e % 2;
}

template <class W, typename Work> __device__ __forceinline__ void for_scores(Work work)
{
#pragma unroll
    for (int i = 0; i < W::row_tiles; i++)
#pragma unroll
        for (int n = 0; n < W::column_tiles; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                work(i, n, e);
}

template <class W, typename Work> __device__ __forceinline__ void for_rows(Work work)
{
#pragma unroll
    for (int i = 0; i < W::row_tiles; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            work(i, half);
}

#endif
