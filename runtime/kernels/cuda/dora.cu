/* dora.cu - lengths of the rows of W + scale * B A, and columns of a product multiplied by what follows from them. */
#include "part.cuh"
#include "shapes.h"
#include "wants.h"

#include "../launch.h"

#define THREADS 256
#define ROWS    8  /* of W that a block has: each element of A is read once for them */
#define RANKS   64 /* of B that lie in shared memory */
#define PACKS   4  /* of a thread */

struct factors_shape {
    uint64_t rows, columns, ranks;
};

/* Ranks first .. of the block's rows of B, times the scale; zeros behind the last row. */
template <typename T>
__device__ __forceinline__ void load_ranks(float (*to)[ROWS], const T *b_OR,
                                           const factors_shape &shape, uint64_t row, uint64_t first,
                                           float scale)
{
    for (uint32_t i = threadIdx.x; i < RANKS * ROWS; i += THREADS) {
        const uint64_t rank = first + i / ROWS, at = row + i % ROWS;
        const bool is_there = rank < shape.ranks && at < shape.rows;

        to[i / ROWS][i % ROWS] = is_there ? scale * to_float(b_OR[at * shape.ranks + rank]) : 0.0f;
    }
}

/* Thread t has columns t, t + THREADS, .. of all rows of its block; sums of threads are added in one order. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    row_squares_kernel(const T *w_OI, const T *a_RI, const T *b_OR, float *squares,
                       factors_shape shape, float scale)
{
    __shared__ float b[RANKS][ROWS];
    __shared__ float parts[THREADS / 32][ROWS];
    const uint64_t row = (uint64_t)blockIdx.x * ROWS;
    float sum[ROWS] = {};

    for (uint64_t first = 0; first < shape.columns; first += THREADS) {
        const uint64_t column = first + threadIdx.x;
        const bool is_in = column < shape.columns;
        float value[ROWS];

#pragma unroll
        for (int j = 0; j < ROWS; j++)
            value[j] = is_in && row + j < shape.rows
                           ? to_float(w_OI[(row + j) * shape.columns + column])
                           : 0.0f;
        for (uint64_t rank = 0; rank < shape.ranks; rank += RANKS) {
            const uint64_t left = shape.ranks - rank;
            const int count = (int)(left < RANKS ? left : RANKS);

            if (first == 0 || shape.ranks > RANKS) { /* else they are there already */
                __syncthreads();
                load_ranks(b, b_OR, shape, row, rank, scale);
                __syncthreads();
            }
            for (int k = 0; k < count; k++) {
                const float a = is_in ? to_float(a_RI[(rank + k) * shape.columns + column]) : 0.0f;

#pragma unroll
                for (int j = 0; j < ROWS; j++)
                    value[j] = fmaf(b[k][j], a, value[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++)
            sum[j] = fmaf(value[j], value[j], sum[j]);
    }
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        sum[j] = warp_sum(sum[j]);
        if (threadIdx.x % 32 == 0)
            parts[threadIdx.x / 32][j] = sum[j];
    }
    __syncthreads();
    if (threadIdx.x >= ROWS || row + threadIdx.x >= shape.rows)
        return;
    float total = parts[0][threadIdx.x];
    for (int w = 1; w < THREADS / 32; w++)
        total += parts[w][threadIdx.x];
    squares[row + threadIdx.x] = total;
}

template <typename T>
static ds_status launch_squares(struct ds_stream *stream, const struct ds_row_squares_args *a)
{
    const factors_shape shape = {a->w_OI.shape[0], a->w_OI.shape[1],
                                 a->b_OR.data ? a->b_OR.shape[1] : 0};

    if (shape.rows == 0)
        return DS_OK;
    row_squares_kernel<T>
        <<<grid_of(shape_ceil(shape.rows, ROWS)), THREADS, 0, cuda_stream_of(stream)>>>(
            (const T *)a->w_OI.data, (const T *)a->a_RI.data, (const T *)a->b_OR.data,
            (float *)a->squares_O.data, shape, a->scale);
    CUDA_LAUNCHED("row_squares");
    return DS_OK;
}

extern "C" ds_status cuda_row_squares(struct ds_stream *stream, const struct ds_row_squares_args *a)
{
    DS_ASSERT(kernel_elems(&a->squares_O) == a->w_OI.shape[0]);
    DS_ASSERT(!a->b_OR.data ||
              (a->b_OR.shape[0] == a->w_OI.shape[0] && a->a_RI.shape[1] == a->w_OI.shape[1] &&
               a->a_RI.shape[0] == a->b_OR.shape[1]));
    CUDA_WANTS_FLOAT("row_squares", a, w_OI);
    CUDA_WANTS_SAME("row_squares", a, a_RI, w_OI);
    CUDA_WANTS_SAME("row_squares", a, b_OR, w_OI);
    CUDA_WANTS("row_squares", a, squares_O, DS_F32);
    return DISPATCH(a->w_OI.dtype, T, launch_squares<T>(stream, a));
}

/* ---- what columns are multiplied by */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    magnitude_kernel(const float *squares, const T *magnitude, float *inverse, float *factor,
                     uint64_t count)
{
    const uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;

    if (i >= count)
        return;
    const float length = magnitude ? sqrtf(squares[i]) : 1.0f;
    const float one = length > 0.0f ? 1.0f / length : 0.0f;
    inverse[i] = one;
    factor[i] = magnitude ? to_float(magnitude[i]) * one : 1.0f;
}

template <typename T>
static ds_status launch_magnitude(struct ds_stream *stream, const struct ds_magnitude_args *a)
{
    const uint64_t count = a->inverse_O.shape[0];

    if (count == 0)
        return DS_OK;
    magnitude_kernel<T>
        <<<grid_of(shape_ceil(count, THREADS)), THREADS, 0, cuda_stream_of(stream)>>>(
            (const float *)a->squares_O.data, (const T *)a->magnitude_O.data,
            (float *)a->inverse_O.data, (float *)a->factor_O.data, count);
    CUDA_LAUNCHED("magnitude");
    return DS_OK;
}

extern "C" ds_status cuda_magnitude(struct ds_stream *stream, const struct ds_magnitude_args *a)
{
    const enum ds_dtype dtype = a->magnitude_O.data ? a->magnitude_O.dtype : DS_F32;

    DS_ASSERT(a->inverse_O.shape[0] == a->factor_O.shape[0]);
    DS_ASSERT(!a->magnitude_O.data || (kernel_elems(&a->magnitude_O) == a->inverse_O.shape[0] &&
                                       kernel_elems(&a->squares_O) == a->inverse_O.shape[0]));
    CUDA_WANTS_FLOAT("magnitude", a, magnitude_O);
    CUDA_WANTS("magnitude", a, squares_O, DS_F32);
    CUDA_WANTS("magnitude", a, inverse_O, DS_F32);
    CUDA_WANTS("magnitude", a, factor_O, DS_F32);
    return DISPATCH(dtype, T, launch_magnitude<T>(stream, a));
}

/* ---- columns */

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(256)
    scale_rows(T *y_TN, const T *x_TN, const T *addend_TN, const float *scale, float plus,
               uint32_t width, uint32_t chunks)
{
    constexpr int COUNT = pack<T>::count;
    const uint32_t first = (blockIdx.x % chunks * PACKS * blockDim.x + threadIdx.x) * COUNT;
    const uint32_t step = blockDim.x * COUNT;
    const size_t at = (size_t)(blockIdx.x / chunks) * width;
    pack<T> x[PACKS], more[PACKS];

#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        x[p] = load_part<VECTOR>(x_TN + at, first + p * step, width);
        if (addend_TN)
            more[p] = load_part<VECTOR>(addend_TN + at, first + p * step, width);
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const uint32_t column = first + p * step + i;
            const float by = (scale && column < width ? scale[column] : 0.0f) + plus;
            const float value = by * to_float(x[p].at[i]);

            /* rounded twice, as on the cpu */
            x[p].at[i] =
                from_float<T>(addend_TN ? __fadd_rn(to_float(more[p].at[i]), value) : value);
        }
        store_part<VECTOR>(y_TN + at, first + p * step, width, x[p]);
    }
}

template <typename T>
static ds_status launch_scale(struct ds_stream *stream, const struct ds_scale_columns_args *a)
{
    const size_t token_count = a->x_TN.shape[0], width = a->x_TN.shape[1];
    const struct chunk_shape shape = shape_chunks(width, pack<T>::count, PACKS);
    const uint32_t grid = grid_of(token_count * shape.chunks);
    T *y = (T *)a->y_TN.data;
    const T *x = (const T *)a->x_TN.data, *addend = (const T *)a->addend_TN.data;
    const float *scale = (const float *)a->scale_N.data;

    if (grid == 0 || width == 0)
        return DS_OK;
    if (width % pack<T>::count == 0 && is_aligned(y) && is_aligned(x) && is_aligned(addend))
        scale_rows<T, true><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(
            y, x, addend, scale, a->plus, (uint32_t)width, shape.chunks);
    else
        scale_rows<T, false><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(
            y, x, addend, scale, a->plus, (uint32_t)width, shape.chunks);
    CUDA_LAUNCHED("scale_columns");
    return DS_OK;
}

extern "C" ds_status cuda_scale_columns(struct ds_stream *stream,
                                        const struct ds_scale_columns_args *a)
{
    DS_ASSERT(kernel_elems(&a->y_TN) == kernel_elems(&a->x_TN) && a->x_TN.shape[1] < INT32_MAX);
    DS_ASSERT(!a->scale_N.data || kernel_elems(&a->scale_N) == a->x_TN.shape[1]);
    CUDA_WANTS_FLOAT("scale_columns", a, x_TN);
    CUDA_WANTS_SAME("scale_columns", a, y_TN, x_TN);
    CUDA_WANTS_SAME("scale_columns", a, addend_TN, x_TN);
    CUDA_WANTS("scale_columns", a, scale_N, DS_F32);
    return DISPATCH(a->x_TN.dtype, T, launch_scale<T>(stream, a));
}
