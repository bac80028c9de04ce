/* rmsnorm.cu - RMSNorm with the residual addition before it. A row is read once and stays in registers; one
 * that does not fit there is read a second time. */
#include "part.cuh"
#include "shapes.h"
#include "wants.h"

#define PACKS         4 /* of a thread */
#define BLOCK_THREADS 128
#define ROW_THREADS   (32 * ROW_WARPS_MAX) /* the most for a row */

template <typename T> struct norm_rows {
    const T *x, *residual, *gain; /* residual NULL: s = x */
    T *sum, *y;                   /* sum may be x */
    float *rstd;                  /* or NULL */
    size_t token_count;
    uint32_t width;
    float epsilon;
};

/* With a residual the sum is rounded where it is stored, and the norm is that of the stored sum. */
template <typename T>
__device__ __forceinline__ pack<T> pack_sum(const pack<T> &a, const pack<T> &b)
{
    pack<T> sum;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        sum.at[i] = from_float<T>(to_float(a.at[i]) + to_float(b.at[i]));
    return sum;
}

template <typename T> __device__ __forceinline__ float add_squares(float square, const pack<T> &s)
{
#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        square = fmaf(to_float(s.at[i]), to_float(s.at[i]), square);
    return square;
}

template <typename T>
__device__ __forceinline__ pack<T> pack_norm(const pack<T> &s, const pack<T> &gain, float rstd)
{
    pack<T> y;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        y.at[i] = from_float<T>(to_float(gain.at[i]) * (to_float(s.at[i]) * rstd));
    return y;
}

/* 1 / sqrt(mean of squares + epsilon), known to all threads of a row and kept by the first. */
template <typename T>
__device__ __forceinline__ float row_rstd(const norm_rows<T> &n, size_t token, float square)
{
    __shared__ float shared[ROW_WARPS_MAX][1];
    float squares[1] = {square};

    row_sums(squares, shared);
    const float rstd = 1.0f / sqrtf(squares[0] / (float)n.width + n.epsilon);
    if (n.rstd && threadIdx.x == 0 && token < n.token_count)
        n.rstd[token] = rstd;
    return rstd;
}

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(ROW_THREADS) rmsnorm_rows(const norm_rows<T> n)
{
    const uint32_t first = threadIdx.x * pack<T>::count, step = blockDim.x * pack<T>::count;
    const size_t token = (size_t)blockIdx.x * blockDim.y + threadIdx.y;
    const bool is_there = token < n.token_count; /* behind the last: an empty row */
    const size_t row = is_there ? token * n.width : 0;
    const uint32_t end = is_there ? n.width : 0;
    pack<T> s[PACKS], gain[PACKS];
    float square = 0;

#pragma unroll
    for (int p = 0; p < PACKS; p++)
        s[p] = load_part<VECTOR>(n.x + row, first + p * step, end);
    if (n.residual) {
        pack<T> residual[PACKS];

#pragma unroll
        for (int p = 0; p < PACKS; p++)
            residual[p] = load_part<VECTOR>(n.residual + row, first + p * step, end);
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            s[p] = pack_sum(s[p], residual[p]);
            store_part<VECTOR>(n.sum + row, first + p * step, end, s[p]);
        }
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        gain[p] = load_part<VECTOR>(n.gain, first + p * step, end);
        square = add_squares(square, s[p]);
    }
    const float rstd = row_rstd(n, token, square);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        keep_packed(s[p]);
        store_part<VECTOR>(n.y + row, first + p * step, end, pack_norm(s[p], gain[p], rstd));
    }
}

/* A block for a row of any width; what a thread reads again it has itself written, or nobody. */
template <typename T, bool VECTOR>
__global__ void __launch_bounds__(ROW_THREADS) rmsnorm_wide_rows(const norm_rows<T> n)
{
    const uint32_t first = threadIdx.x * pack<T>::count, step = blockDim.x * pack<T>::count;
    const size_t token = blockIdx.x, row = token * n.width;
    const T *summed = n.residual ? n.sum : n.x;
    float square = 0;

    for (uint32_t at = first; at < n.width; at += step) {
        pack<T> s = load_part<VECTOR>(n.x + row, at, n.width);

        if (n.residual) {
            s = pack_sum(s, load_part<VECTOR>(n.residual + row, at, n.width));
            store_part<VECTOR>(n.sum + row, at, n.width, s);
        }
        square = add_squares(square, s);
    }
    const float rstd = row_rstd(n, token, square);
    for (uint32_t at = first; at < n.width; at += step)
        store_part<VECTOR>(n.y + row, at, n.width,
                           pack_norm(load_part<VECTOR>(summed + row, at, n.width),
                                     load_part<VECTOR>(n.gain, at, n.width), rstd));
}

template <typename T, bool VECTOR>
static ds_status launch_rows(struct ds_stream *stream, const norm_rows<T> &n)
{
    const struct row_shape shape = shape_rows(n.width, pack<T>::count, PACKS, BLOCK_THREADS);
    const dim3 block(shape.threads, shape.rows);

    if (n.token_count == 0)
        return DS_OK;
    if (shape.threads > ROW_THREADS)
        rmsnorm_wide_rows<T, VECTOR>
            <<<grid_of(n.token_count), ROW_THREADS, 0, cuda_stream_of(stream)>>>(n);
    else
        rmsnorm_rows<T, VECTOR>
            <<<grid_of(shape_ceil(n.token_count, shape.rows)), block, 0, cuda_stream_of(stream)>>>(
                n);
    CUDA_LAUNCHED("rmsnorm_rows");
    return DS_OK;
}

template <typename T>
static ds_status launch_forward(struct ds_stream *stream, const struct ds_rmsnorm_args *a)
{
    const norm_rows<T> n = {(const T *)a->x_TC.data,
                            (const T *)a->residual_TC.data,
                            (const T *)a->gain_C.data,
                            (T *)a->sum_TC.data,
                            (T *)a->y_TC.data,
                            (float *)a->rstd_T.data,
                            a->x_TC.shape[0],
                            (uint32_t)a->x_TC.shape[1],
                            a->epsilon};

    if (n.width % pack<T>::count == 0 && is_aligned(n.x) && is_aligned(n.residual) &&
        is_aligned(n.gain) && is_aligned(n.y) && (!n.residual || is_aligned(n.sum)))
        return launch_rows<T, true>(stream, n);
    return launch_rows<T, false>(stream, n);
}

ds_status cuda_rmsnorm_forward(struct ds_stream *stream, const struct ds_rmsnorm_args *a)
{
    DS_ASSERT(!a->residual_TC.data || a->sum_TC.data);
    DS_ASSERT(a->gain_C.shape[0] == a->x_TC.shape[1] && a->x_TC.shape[1] < INT32_MAX);
    CUDA_WANTS_FLOAT("rmsnorm_forward", a, x_TC);
    CUDA_WANTS_SAME("rmsnorm_forward", a, residual_TC, x_TC);
    CUDA_WANTS_SAME("rmsnorm_forward", a, gain_C, x_TC);
    CUDA_WANTS_SAME("rmsnorm_forward", a, sum_TC, x_TC);
    CUDA_WANTS_SAME("rmsnorm_forward", a, y_TC, x_TC);
    CUDA_WANTS("rmsnorm_forward", a, rstd_T, DS_F32);
    return DISPATCH(a->x_TC.dtype, T, launch_forward<T>(stream, a));
}
