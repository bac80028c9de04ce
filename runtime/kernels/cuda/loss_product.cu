/* loss_product.cu - cross-entropy behind the product that makes the logits, in bf16: exponentials leave the multiprocessor
 * where logits would, and no row is gone over again.
 *
 * A softmax wants the sum of a row before its first gradient is known, but only as a factor: with exponentials above the
 * target's logit, e_j = exp(x_j - x_t), and the sum R of all but the target's, which is 1, the loss is log(1 + R) and the
 * gradient f / (1 + R) times e_j, and times -R at the target. bf16 has the range of fp32: a row's scale costs no digit.
 * The target's logit is known first, a product of two rows; then comes the product with its end (loss_end.cuh), then for
 * each row its loss, its factor and the one element at the target. What the end has cut off, where R would be beyond
 * LOSS_FAR, a loss above 61, is made again with all care, and reads the whole matrix for that. */
#include "ended_launch.cuh"
#include "loss_end.cuh"
#include "loss_product.h"

#include "../launch.h"

#define LEVEL_THREADS 256
#define BLOCK_ROWS    (ROW_THREADS / WARP) /* a warp has a row */
#define LOSS_FAR      0x1p88

struct behind {
    struct losses losses;
    const void *x, *weight;
    void *scaled;
    float *factor;
    const float *sum_SN;
    uint64_t inner, strips;
};

/* ---- the targets' logits */

/* A warp's product of two rows; C is a multiple of a pack. */
template <typename T>
__device__ __forceinline__ float warp_dot(const T *x, const T *y, uint64_t count)
{
    float sum = 0.0f;

    for (uint64_t i = threadIdx.x % WARP * pack<T>::count; i < count; i += WARP * pack<T>::count) {
        const pack<T> a = load_pack(x + i), b = load_pack(y + i);

#pragma unroll
        for (int j = 0; j < pack<T>::count; j++)
            sum = fmaf(to_float(a.at[j]), to_float(b.at[j]), sum);
    }
    return warp_sum(sum);
}

/* Where the losses will be. Above +inf all exponentials are 0: an ignored row has no gradient. */
template <typename T>
__global__ void __launch_bounds__(LEVEL_THREADS) level_kernel(const __grid_constant__ behind b)
{
    const uint64_t row = (blockIdx.x * (uint64_t)LEVEL_THREADS + threadIdx.x) / WARP;
    const int32_t target = row < b.losses.row_count ? b.losses.target[row] : DS_IGNORE_INDEX;
    float level = target == DS_IGNORE_INDEX ? INFINITY : NAN;

    if (target >= 0 && (uint64_t)target < b.losses.width)
        level = LOG2_E * warp_dot((const T *)b.x + row * b.inner,
                                  (const T *)b.weight + (uint64_t)target * b.inner, b.inner);
    if (row < b.losses.row_count && threadIdx.x % WARP == 0)
        b.losses.loss[row] = level;
}

/* ---- what is known when all exponentials are */

/* R of the warp's row: in double, strip by strip in one order. */
__device__ __forceinline__ double rest_of(const behind &b, uint64_t first)
{
    __shared__ double part[BLOCK_ROWS][WARP + 1];
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    const uint64_t rows = b.losses.row_count;
    double sum = 0;

    for (uint64_t s = warp; s < b.strips && first + lane < rows; s += BLOCK_ROWS)
        sum += (double)b.sum_SN[s * rows + first + lane];
    part[warp][lane] = sum;
    __syncthreads();
    return warp_sum(part[lane][warp]);
}

/* scaled = x * factor, of row `at` by threads `first`, first + stride .. */
template <typename T>
__device__ __forceinline__ void scale_row(const behind &b, uint64_t at, float factor, int first,
                                          int stride)
{
    const row<T> from = row_at((T *)b.x + at * b.inner, b.inner);
    const row<T> to = row_at((T *)b.scaled + at * b.inner, b.inner);

    if (factor == 1.0f && b.scaled == b.x)
        return;
    for (int i = first; i < from.slot_count; i += stride)
        store_slot(to, i, slot_scaled(load_slot(from, i), factor));
}

/* By a warp; `rest` is not far. */
template <typename T>
__device__ __forceinline__ void finish_row(const behind &b, uint64_t row, int32_t target,
                                           double rest)
{
    const int lane = (int)threadIdx.x % WARP;
    const bool is_ignored = target == DS_IGNORE_INDEX;
    const float factor = is_ignored ? 1.0f : factor_of(b.losses) / (float)(1.0 + rest);

    if (lane == 0)
        b.losses.loss[row] = is_ignored ? 0.0f : (float)log1p(rest);
    if (!b.losses.gradient)
        return;
    if (lane == 0)
        b.factor[row] = factor;
    if (lane == 0 && target >= 0 && (uint64_t)target < b.losses.width)
        ((T *)b.losses.logits)[row * b.losses.width + (uint64_t)target] =
            from_float<T>(-(float)rest);
    scale_row<T>(b, row, factor, lane, WARP);
}

/* By the block: logits, then loss and gradient as where the product was made apart. */
template <typename T> __device__ __noinline__ void redo_row(const behind &b, uint64_t row)
{
    const T *x = (const T *)b.x + row * b.inner, *weight = (const T *)b.weight;
    T *logits = (T *)b.losses.logits + row * b.losses.width;

    for (uint64_t column = threadIdx.x / WARP; column < b.losses.width; column += BLOCK_ROWS) {
        const float logit = warp_dot(x, weight + column * b.inner, b.inner);

        if (threadIdx.x % WARP == 0)
            logits[column] = from_float<T>(logit);
    }
    __syncthreads();
    twice_row(b.losses, row_at(logits, b.losses.width), row, b.losses.target[row]);
    if (b.losses.gradient && threadIdx.x == 0)
        b.factor[row] = 1.0f;
    if (b.losses.gradient)
        scale_row<T>(b, row, 1.0f, (int)threadIdx.x, ROW_THREADS);
    __syncthreads();
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) finish_kernel(const __grid_constant__ behind b)
{
    __shared__ bool is_far[BLOCK_ROWS];
    const int warp = (int)threadIdx.x / WARP;
    const uint64_t first = blockIdx.x * (uint64_t)BLOCK_ROWS, row = first + warp;
    const double rest = rest_of(b, first);
    const bool is_here = row < b.losses.row_count, has_rest = !(rest >= LOSS_FAR);

    if (is_here && has_rest)
        finish_row<T>(b, row, b.losses.target[row], rest);
    if (threadIdx.x % WARP == 0)
        is_far[warp] = is_here && !has_rest;
    __syncthreads();
    for (int i = 0; i < BLOCK_ROWS; i++)
        if (is_far[i])
            redo_row<T>(b, first + i);
}

/* ---- which */

static ds_status make(struct ds_stream *stream, const struct ds_cross_entropy_args *a,
                      const struct ended_call &call, const behind &b)
{
    using T = __nv_bfloat16;
    const uint32_t rows = (uint32_t)b.losses.row_count;
    const loss_end<T> end = {a->gradient ? (T *)b.losses.logits : NULL,
                             (float *)b.sum_SN,
                             b.losses.loss,
                             b.losses.target,
                             rows,
                             (uint32_t)b.losses.width};
    const uint64_t per_block = LEVEL_THREADS / WARP;

    level_kernel<T><<<(unsigned)((rows + per_block - 1) / per_block), LEVEL_THREADS, 0,
                      cuda_stream_of(stream)>>>(b);
    CUDA_LAUNCHED("levels of cross_entropy");
    DS_TRY((ended_launch<T, 0>(stream, call, end)));
    finish_kernel<T><<<(unsigned)((rows + BLOCK_ROWS - 1) / BLOCK_ROWS), ROW_THREADS, 0,
                       cuda_stream_of(stream)>>>(b);
    CUDA_LAUNCHED("end of cross_entropy");
    return DS_OK;
}

static __global__ void ones_kernel(float *to, uint64_t count)
{
    const uint64_t i = blockIdx.x * (uint64_t)LEVEL_THREADS + threadIdx.x;

    if (i < count)
        to[i] = 1.0f;
}

static ds_status leave_factors(struct ds_stream *stream, const struct ds_cross_entropy_args *a)
{
    const uint64_t rows = a->x_NC.shape[0];

    if (!a->gradient || rows == 0)
        return DS_OK;
    ones_kernel<<<(unsigned)((rows + LEVEL_THREADS - 1) / LEVEL_THREADS), LEVEL_THREADS, 0,
                  cuda_stream_of(stream)>>>((float *)a->factor_N.data, rows);
    CUDA_LAUNCHED("factors of cross_entropy");
    if (a->scaled_NC.data != a->x_NC.data)
        CUDA_TRY(cudaMemcpyAsync(a->scaled_NC.data, a->x_NC.data,
                                 kernel_elems(&a->x_NC) * ds_dtype_bytes(a->x_NC.dtype),
                                 cudaMemcpyDeviceToDevice, cuda_stream_of(stream)));
    return DS_OK;
}

ds_status cuda_loss_product(struct ds_stream *stream, const struct ds_cross_entropy_args *a,
                            bool *is_made)
{
    const struct ended_call call = {&a->x_NC, &a->weight_VC, a->logits_NV.shape[1], TILE_COLUMNS,
                                    TILE_HALF};
    behind b = {losses_of(a), a->x_NC.data, a->weight_VC.data, a->scaled_NC.data,
                (float *)a->factor_N.data};
    size_t bytes;
    void *scratch;

    DS_ASSERT(a->x_NC.shape[1] == a->weight_VC.shape[1] &&
              a->weight_VC.shape[0] == a->logits_NV.shape[1] &&
              a->x_NC.shape[0] == a->logits_NV.shape[0]);
    DS_ASSERT(!a->gradient || (a->factor_N.data && a->scaled_NC.data));
    b.inner = a->x_NC.shape[1];
    b.strips = shape_ceil(b.losses.width, TILE_COLUMNS);
    bytes = ENDED_SCRATCH_BYTES + b.strips * b.losses.row_count * sizeof(float);
    *is_made = a->x_NC.dtype == DS_BF16 && a->logits_NV.dtype == DS_BF16 &&
               b.losses.width % 8 == 0 && (uintptr_t)a->logits_NV.data % 16 == 0 &&
               bytes <= CUDA_SCRATCH_BYTES && ended_is_worth_it(stream, call);
    if (!*is_made) {
        DS_TRY(ended_apart(stream, call, a->logits_NV, 0));
        return leave_factors(stream, a);
    }
    DS_TRY(cuda_scratch(stream, bytes, &scratch));
    b.sum_SN = (const float *)((const char *)scratch + ENDED_SCRATCH_BYTES);
    return make(stream, a, call, b);
}
