/* cross_entropy.cu - loss of rows of logits, and in place their gradient, in one call; cross_entropy_part.cu has
 * the three calls of a vocabulary that is shared out.
 *
 * A row that fits is read once and written once: the threads of a block keep it in registers, those of a
 * cluster of up to eight blocks where one is not enough (128,256 columns of bf16: four). What does not fit, or
 * has no clusters, is read twice; the second time it mostly comes out of the cache. */
#include "cross_entropy.cuh"

#include "../launch.h"

#include <cooperative_groups.h>

#define THREADS     512
#define HELD        8 /* slots that a thread keeps */
#define CLUSTER_MAX 8

/* ---- rows in registers */

/* The largest number, or the sum, of a cluster's blocks, in their order; every thread of a block has the block's.
 * `cell` is this block's for others to read: of one call only. */
template <int CLUSTER> __device__ __forceinline__ float cluster_max(float x, float *cell)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1) {
        const auto cluster = cooperative_groups::this_cluster();

        if (threadIdx.x == 0)
            *cell = x;
        cluster.sync();
        for (int i = 0; i < CLUSTER; i++)
            x = fmaxf(x, *cluster.map_shared_rank(cell, i));
    }
#endif
    return x;
}

template <int CLUSTER> __device__ __forceinline__ double cluster_sum(double x, double *cell)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1) {
        const auto cluster = cooperative_groups::this_cluster();

        if (threadIdx.x == 0)
            *cell = x;
        cluster.sync();
        x = 0;
        for (int i = 0; i < CLUSTER; i++)
            x += *cluster.map_shared_rank(cell, i);
    }
#endif
    return x;
}

/* Nobody's cell is read any more: its block may end. */
template <int CLUSTER> __device__ __forceinline__ void cluster_end(void)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1)
        cooperative_groups::this_cluster().sync();
#endif
}

template <typename T> __device__ __forceinline__ float held_max(const slot<T> (&held)[HELD])
{
    float max = -INFINITY;

#pragma unroll
    for (int i = 0; i < HELD; i++)
        max = fmaxf(max, slot_max(held[i]));
    return max;
}

/* The compiler forgets what it has made of the words: it would keep the numbers in them, in twice as many
 * registers, from one use to the next. */
template <typename T> __device__ __forceinline__ void forget(slot<T> (&held)[HELD])
{
#pragma unroll
    for (int i = 0; i < HELD; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm volatile("" : "+r"(held[i].word[j]));
}

template <typename T>
__device__ __forceinline__ float held_sum(const slot<T> (&held)[HELD], float max)
{
    float sum = 0.0f;

#pragma unroll
    for (int i = 0; i < HELD; i++)
        sum += exp_sum(held[i], max);
    return sum;
}

template <typename T, int CLUSTER>
__global__ void __launch_bounds__(THREADS, 2) held_kernel(const __grid_constant__ struct losses a)
{
    const uint64_t index = blockIdx.x / CLUSTER;
    const int first = (int)(blockIdx.x % CLUSTER * THREADS + threadIdx.x);
    const row<T> r = row_at((T *)a.logits + index * a.width, a.width);
    const int32_t target = a.target[index];
    __shared__ float max_cell;
    __shared__ double sum_cell;
    slot<T> held[HELD];
    struct facts facts;

    if (target == DS_IGNORE_INDEX) {
        ignore_row(a, r, index, first, CLUSTER * THREADS);
        return;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++)
        held[i] = load_slot(r, first + i * (CLUSTER * THREADS));
    facts.chosen = chosen_of(r, target); /* before anybody writes */
    facts.max = cluster_max<CLUSTER>(block_max<THREADS>(held_max(held)), &max_cell);
    forget(held);
    facts.sum = cluster_sum<CLUSTER>(block_sum<THREADS>(held_sum(held, facts.max)), &sum_cell);
    forget(held);
    if (first == 0)
        a.loss[index] = loss_of(facts);
    if (a.gradient) {
        const struct slope slope = slope_of(a, facts);
        const int target_slot = slot_of(r, target);

#pragma unroll
        for (int i = 0; i < HELD; i++)
            write_slot(r, first + i * (CLUSTER * THREADS), held[i], slope, target, target_slot);
    }
    cluster_end<CLUSTER>();
}

template <typename T, int CLUSTER>
static ds_status launch_held(struct ds_stream *stream, const struct losses *a)
{
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};

    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = CLUSTER;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)(a->row_count * CLUSTER));
    config.blockDim = dim3(THREADS);
    config.stream = cuda_stream_of(stream);
    config.attrs = &attribute;
    config.numAttrs = CLUSTER > 1;
    CUDA_TRY(cudaLaunchKernelEx(&config, held_kernel<T, CLUSTER>, *a));
    return DS_OK;
}

/* ---- rows that are read twice */

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) twice_kernel(const __grid_constant__ struct losses a)
{
    const uint64_t index = blockIdx.x;
    const row<T> r = row_at((T *)a.logits + index * a.width, a.width);
    const int32_t target = a.target[index];
    float max = -FLT_MAX, sum = 0.0f; /* of this thread's slots */
    struct facts facts;

    if (target == DS_IGNORE_INDEX) {
        ignore_row(a, r, index, (int)threadIdx.x, ROW_THREADS);
        return;
    }
#pragma unroll 4
    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS) {
        const slot<T> s = load_slot(r, i);
        const float larger = fmaxf(max, slot_max(s));

        sum = (larger > max ? sum * expf(max - larger) : sum) + exp_sum(s, larger);
        max = larger;
    }
    facts.chosen = chosen_of(r, target);
    facts.max = block_max<ROW_THREADS>(max); /* the block waits: all have read what they chose */
    facts.sum = block_sum<ROW_THREADS>((double)sum * expf(max - facts.max));
    if (threadIdx.x == 0)
        a.loss[index] = loss_of(facts);
    if (a.gradient)
        write_row(r, slope_of(a, facts), target);
}

template <typename T>
static ds_status launch_twice(struct ds_stream *stream, const struct losses *a)
{
    twice_kernel<T><<<(unsigned)a->row_count, ROW_THREADS, 0, cuda_stream_of(stream)>>>(*a);
    CUDA_LAUNCHED("cross_entropy");
    return DS_OK;
}

/* ---- which */

/* The most slots that a row has. */
template <typename T> static uint64_t slots_max(const struct losses *a)
{
    const uint64_t wide = slot<T>::count;
    const bool is_aligned = a->width % wide == 0 && (uintptr_t)a->logits % 16 == 0;

    return (a->width + (is_aligned ? 0 : wide - 1) + wide - 1) / wide;
}

template <typename T> static ds_status launch(struct ds_stream *stream, const struct losses *a)
{
    const uint64_t blocks = (slots_max<T>(a) + HELD * THREADS - 1) / (HELD * THREADS);
    const bool has_clusters = cuda_device_of(stream)->major >= 9;

    if (a->row_count == 0)
        return DS_OK;
    if (blocks <= 1)
        return launch_held<T, 1>(stream, a);
    if (!has_clusters || blocks > CLUSTER_MAX)
        return launch_twice<T>(stream, a);
    if (blocks <= 2)
        return launch_held<T, 2>(stream, a);
    return blocks <= 4 ? launch_held<T, 4>(stream, a) : launch_held<T, CLUSTER_MAX>(stream, a);
}

extern "C" ds_status cuda_cross_entropy(struct ds_stream *stream,
                                        const struct ds_cross_entropy_args *args)
{
    const struct losses losses = losses_of(args);

    DS_ASSERT(losses.width <= ROW_ELEMS_MAX);
    KERNEL_WANTS_FLOAT("cross_entropy", args, logits_NV);
    KERNEL_WANTS("cross_entropy", args, target_N, DS_I32);
    KERNEL_WANTS("cross_entropy", args, loss_N, DS_F32);
    return DISPATCH(args->logits_NV.dtype, T, launch<T>(stream, &losses));
}
