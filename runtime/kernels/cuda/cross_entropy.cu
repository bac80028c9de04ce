/* cross_entropy.cu - loss of rows of logits, and in place their gradient, in one call; cross_entropy_part.cu has
 * the three calls of a vocabulary that is shared out.
 *
 * A row that fits is read once and written once: the threads of a block keep it in registers, those of a
 * cluster of up to eight blocks where one is not enough (128,256 columns of bf16). Small blocks are better: more
 * rows are under way on a multiprocessor, one loads while another computes. What does not fit, or has no clusters,
 * is read twice; the second time it mostly comes out of the cache. */
#include "cross_entropy.cuh"

#include "../launch.h"

#include <cooperative_groups.h>

#define SMALL       256 /* threads of a block */
#define LARGE       512
#define RESIDENT    1024 /* threads of a multiprocessor: what they keep are half of its registers */
#define HELD        8    /* slots that a thread keeps */
#define CLUSTER_MAX 8

/* ---- rows in registers */

/* What a warp has seen of a row: the sum of exp(x - max), `max` being its block's largest logit. */
struct share {
    double sum;
    float max;
};

/* All threads of the cluster, or of the block that is alone, have come here. */
template <int CLUSTER> __device__ __forceinline__ void meet(void)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1) {
        cooperative_groups::this_cluster().sync();
        return;
    }
#endif
    __syncthreads();
}

template <int CLUSTER>
__device__ __forceinline__ struct share share_of(struct share *shares, int rank, int warp)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1)
        return *cooperative_groups::this_cluster().map_shared_rank(shares + warp, rank);
#endif
    return shares[warp];
}

/* Has read the shares of others; and: all have read this one's, its block may end. */
template <int CLUSTER> __device__ __forceinline__ void leave_begin(void)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1)
        cooperative_groups::this_cluster().barrier_arrive();
#endif
}
template <int CLUSTER> __device__ __forceinline__ void leave_end(void)
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER > 1)
        cooperative_groups::this_cluster().barrier_wait();
#endif
}

/* The row's, from all its warps, in one order on every thread. `shares` is in shared memory. */
template <int CLUSTER, int THREADS>
__device__ __forceinline__ struct share row_total(struct share own, struct share *shares)
{
    constexpr int WARPS = THREADS / WARP, EACH = (CLUSTER * WARPS + WARP - 1) / WARP;
    const int lane = (int)threadIdx.x % WARP;
    struct share part[EACH], total = {0.0, -FLT_MAX};

    if (lane == 0)
        shares[threadIdx.x / WARP] = own;
    meet<CLUSTER>();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int index = lane + i * WARP;

        part[i] = {0.0, -FLT_MAX};
        if (index < CLUSTER * WARPS)
            part[i] = share_of<CLUSTER>(shares, index / WARPS, index % WARPS);
        total.max = fmaxf(total.max, part[i].max);
    }
    leave_begin<CLUSTER>();
    total.max = warp_max(total.max);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        total.sum += part[i].sum * (double)expf(part[i].max - total.max);
    total.sum = warp_sum(total.sum);
    return total;
}

template <typename T> __device__ __forceinline__ float held_max(const slot<T> (&held)[HELD])
{
    float max = -FLT_MAX; /* of what is not in the row: no -inf - -inf */

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

template <typename T, int CLUSTER, int THREADS>
__global__ void __launch_bounds__(THREADS, RESIDENT / THREADS)
    held_kernel(const __grid_constant__ struct losses a)
{
    const uint64_t index = blockIdx.x / CLUSTER;
    const int first = (int)(blockIdx.x % CLUSTER * THREADS + threadIdx.x);
    const row<T> r = row_at((T *)a.logits + index * a.width, a.width);
    const int32_t target = a.target[index];
    __shared__ struct share shares[THREADS / WARP];
    slot<T> held[HELD];
    struct share own, total;

    if (target == DS_IGNORE_INDEX) {
        ignore_row(a, r, index, first, CLUSTER * THREADS);
        return;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++)
        held[i] = load_slot(r, first + i * (CLUSTER * THREADS));
    const float chosen = chosen_of(r, target); /* before anybody writes */
    own.max = block_max<THREADS>(held_max(held));
    forget(held);
    own.sum = warp_sum((double)held_sum(held, own.max));
    forget(held);
    total = row_total<CLUSTER, THREADS>(own, shares);
    const struct facts facts = {total.max, chosen, total.sum};
    if (first == 0)
        a.loss[index] = loss_of(facts);
    if (a.gradient) {
        const struct slope slope = slope_of(a, facts);
        const int target_slot = slot_of(r, target);

#pragma unroll
        for (int i = 0; i < HELD; i++)
            write_slot(r, first + i * (CLUSTER * THREADS), held[i], slope, target, target_slot);
    }
    leave_end<CLUSTER>();
}

template <typename T, int CLUSTER, int THREADS>
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
    CUDA_TRY(cudaLaunchKernelEx(&config, held_kernel<T, CLUSTER, THREADS>, *a));
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
    const uint64_t slots = slots_max<T>(a);
    const uint64_t small = (slots + HELD * SMALL - 1) / (HELD * SMALL);
    const uint64_t large = (slots + HELD * LARGE - 1) / (HELD * LARGE);
    const bool has_clusters = cuda_device_of(stream)->major >= 9;

    if (a->row_count == 0)
        return DS_OK;
    if (large <= 1)
        return launch_held<T, 1, LARGE>(stream, a);
    if (!has_clusters || large > CLUSTER_MAX)
        return launch_twice<T>(stream, a);
    if (small <= 4)
        return launch_held<T, 4, SMALL>(stream, a);
    return small <= CLUSTER_MAX ? launch_held<T, CLUSTER_MAX, SMALL>(stream, a)
                                : launch_held<T, CLUSTER_MAX, LARGE>(stream, a);
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
