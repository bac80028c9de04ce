/* cross_entropy_part.cu - the three calls where each rank has a part of the columns: a block goes over a row. */
#include "cross_entropy.cuh"

#include "../launch.h"

/* The target's column of this part; one that lies elsewhere, or is ignored, is negative or beyond all columns. */
__device__ __forceinline__ int64_t column_of(const struct losses &a, uint64_t index)
{
    return (int64_t)a.target[index] - (int64_t)a.first;
}

template <typename T> __device__ __forceinline__ row<T> row_of(const struct losses &a)
{
    return row_at((T *)a.logits + blockIdx.x * a.width, a.width);
}

/* A NaN is not seen here, but makes the sum NaN. */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) max_kernel(const __grid_constant__ struct losses a)
{
    const row<T> r = row_of<T>(a);
    uint32_t word = word_of<T>(-INFINITY, -INFINITY);

#pragma unroll 4
    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS)
        word = word_max<T>(word, slot_max_word(load_slot(r, i)));
    const float max = block_max<ROW_THREADS>(word_top<T>(word));
    if (threadIdx.x == 0)
        a.max[blockIdx.x] = max;
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) sum_kernel(const __grid_constant__ struct losses a)
{
    const row<T> r = row_of<T>(a);
    const int64_t target = column_of(a, blockIdx.x);
    const float level = level_of<T>(a.max[blockIdx.x]);
    float sum = 0.0f;

#pragma unroll 4
    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS)
        sum += exp_sum(load_slot(r, i), level);
    const double total = block_sum<ROW_THREADS>(sum);
    if (threadIdx.x != 0)
        return;
    a.sums[2 * blockIdx.x] = (float)total;
    a.sums[2 * blockIdx.x + 1] = target >= 0 && target < r.count ? to_float(r.at[target]) : 0.0f;
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    finish_kernel(const __grid_constant__ struct losses a)
{
    const row<T> r = row_of<T>(a);
    const uint64_t index = blockIdx.x;
    const int32_t target = a.target[index];
    const bool is_known = target >= 0 && (uint64_t)target < a.vocabulary;

    if (target == DS_IGNORE_INDEX) {
        ignore_row(a, r, index, (int)threadIdx.x, ROW_THREADS);
        return;
    }
    const struct facts facts = {level_of<T>(a.max[index]), is_known ? a.sums[2 * index + 1] : NAN,
                                a.sums[2 * index]};
    if (threadIdx.x == 0)
        a.loss[index] = loss_of<T>(facts);
    if (a.gradient)
        write_row(a, r, facts, column_of(a, index));
}

typedef void (*part_kernel)(const struct losses a);

static ds_status launch(struct ds_stream *stream, part_kernel kernel, const struct losses *a)
{
    if (a->row_count == 0)
        return DS_OK;
    kernel<<<(unsigned)a->row_count, ROW_THREADS, 0, cuda_stream_of(stream)>>>(*a);
    CUDA_LAUNCHED("cross_entropy of a part");
    return DS_OK;
}

static ds_status part_check(const char *kernel, const struct ds_cross_entropy_args *args)
{
    DS_ASSERT(args->first + args->logits_NV.shape[1] <= args->vocabulary);
    DS_ASSERT(args->logits_NV.shape[1] <= ROW_ELEMS_MAX);
    DS_ASSERT(kernel_elems(&args->max_N) == args->logits_NV.shape[0]);
    KERNEL_WANTS_FLOAT(kernel, args, logits_NV);
    KERNEL_WANTS(kernel, args, target_N, DS_I32);
    KERNEL_WANTS(kernel, args, max_N, DS_F32);
    KERNEL_WANTS(kernel, args, sums_N2, DS_F32);
    KERNEL_WANTS(kernel, args, loss_N, DS_F32);
    return DS_OK;
}

extern "C" ds_status cuda_cross_entropy_max(struct ds_stream *stream,
                                            const struct ds_cross_entropy_args *args)
{
    const struct losses losses = losses_of(args);

    DS_TRY(part_check("cross_entropy_max", args));
    return DISPATCH(args->logits_NV.dtype, T, launch(stream, max_kernel<T>, &losses));
}

extern "C" ds_status cuda_cross_entropy_sum(struct ds_stream *stream,
                                            const struct ds_cross_entropy_args *args)
{
    const struct losses losses = losses_of(args);

    DS_TRY(part_check("cross_entropy_sum", args));
    DS_ASSERT(kernel_elems(&args->sums_N2) == 2 * args->logits_NV.shape[0]);
    return DISPATCH(args->logits_NV.dtype, T, launch(stream, sum_kernel<T>, &losses));
}

extern "C" ds_status cuda_cross_entropy_finish(struct ds_stream *stream,
                                               const struct ds_cross_entropy_args *args)
{
    const struct losses losses = losses_of(args);

    DS_TRY(part_check("cross_entropy_finish", args));
    DS_ASSERT(kernel_elems(&args->sums_N2) == 2 * args->logits_NV.shape[0]);
    return DISPATCH(args->logits_NV.dtype, T, launch(stream, finish_kernel<T>, &losses));
}
