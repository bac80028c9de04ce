/* cross_entropy.cu - loss of rows of logits, and in place their gradient, in one call; cross_entropy_part.cu has
 * the three calls of a vocabulary that is shared out.
 *
 * A row that fits is read once and written once: the blocks of a cluster, up to eight, keep it in shared memory.
 * Small parts are better: more rows are under way on a multiprocessor, some load while others compute or wait for
 * their cluster. A thread sees only slots that it has fetched itself, so the blocks of a row meet once, with what
 * each warp has found. What does not fit, or has no clusters, is read twice; the second time it mostly comes out
 * of the cache. */
#include "cluster.cuh"
#include "cross_entropy.cuh"
#include "loss_product.h"

#include "../launch.h"

#define SMALL       256 /* threads of a block, most of which have eight slots */
#define LARGE       512
#define SMALL_MAX   2560 /* slots: of a block with few threads, .. */
#define PART_BEST   2048 /* .. of one that leaves room for others */
#define PART_MAX    7168 /* .. of two on a multiprocessor */
#define PART_ALONE  4096 /* .. where there are no clusters, and less shared memory */
#define CLUSTER_MAX 8

/* ---- rows in shared memory */

struct held {
    struct losses losses;
    int part, cluster_log2; /* slots that a block has; blocks of a row */
};

/* What a warp has seen of a row: the sum of exponentials above its own level. */
struct share {
    double sum;
    float level;
};

/* Those of all warps of the row come together in each of its blocks. */
template <int THREADS> struct box {
    struct letter shares[CLUSTER_MAX * THREADS / WARP];
    uint64_t counter;
};

__device__ __forceinline__ struct letter share_pack(const struct share &share)
{
    const uint64_t sum = (uint64_t)__double_as_longlong(share.sum);

    return {{(uint32_t)sum, (uint32_t)(sum >> 32), __float_as_uint(share.level), 0}};
}
__device__ __forceinline__ struct share share_unpack(const struct letter &letter)
{
    const uint64_t sum = letter.word[0] | (uint64_t)letter.word[1] << 32;

    return {__longlong_as_double((long long)sum), __uint_as_float(letter.word[2])};
}

/* The warp's, from its threads'. */
template <typename T> __device__ __forceinline__ struct share warp_share(float sum, float level)
{
    const float highest = warp_max(level);

    return {warp_sum(sum * exp_between<T>(level, highest)), highest};
}

/* Into the boxes of all blocks of the row. The box is full when it returns. */
template <int THREADS>
__device__ __forceinline__ void exchange(const struct share &own, struct box<THREADS> *box,
                                         int rank, int cluster)
{
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    struct letter *to = box->shares + rank * (THREADS / WARP) + warp;

    if (cluster == 1) {
        if (lane == 0)
            *to = share_pack(own);
        __syncthreads();
        return;
    }
    box_ready(&box->counter, (uint32_t)(cluster * (THREADS / WARP) * sizeof(struct letter)));
    if (lane < cluster)
        box_send(to, &box->counter, (uint32_t)lane, share_pack(own));
    box_wait(&box->counter);
}

/* The row's, from all its warps, in one order on every thread. */
template <typename T, int THREADS>
__device__ __forceinline__ struct share row_share(const struct box<THREADS> *box, int cluster)
{
    constexpr int WARPS = THREADS / WARP, EACH = CLUSTER_MAX * WARPS / WARP;
    struct share part[EACH], total = {0.0, -FLT_MAX};

#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int index = (int)threadIdx.x % WARP + i * WARP;

        part[i] = {0.0, -FLT_MAX};
        if (index < cluster * WARPS)
            part[i] = share_unpack(box->shares[index]);
        total.level = fmaxf(total.level, part[i].level);
    }
    total.level = warp_max(total.level);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        total.sum += part[i].sum * (double)exp_between<T>(part[i].level, total.level);
    total.sum = warp_sum(total.sum);
    return total;
}

/* What a thread has seen of the `count` slots of its block. */
template <typename T, int THREADS>
__device__ __forceinline__ struct share held_share(const slot<T> *slots, int count)
{
    uint32_t max = word_of<T>(-INFINITY, -INFINITY);
    float sum = 0.0f;

#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += THREADS)
        max = word_max<T>(max, slot_max_word(held_slot(slots + i)));
    const float level = level_of<T>(word_top<T>(max));
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += THREADS)
        sum += exp_sum(held_slot(slots + i), level);
    return warp_share<T>(sum, level);
}

/* By the thread that has fetched the target's slot, `held`, and has written what is beside it; a target that is in
 * no slot is told by one of the row's threads. */
template <typename T>
__device__ __forceinline__ void finish_target(const struct losses &a, const row<T> &r,
                                              uint64_t index, int32_t target, const T *held,
                                              const struct share &total, float factor)
{
    struct facts facts = {total.level, NAN, total.sum};

    if (held) {
        facts.chosen = to_float(held[(target + r.shift) % slot<T>::count]);
        if (a.gradient)
            r.at[target] = target_gradient<T>(facts, factor);
    }
    a.loss[index] = loss_of<T>(facts);
}

template <typename T, int THREADS>
__global__ void __launch_bounds__(THREADS, THREADS == SMALL ? 6 : 3)
    held_kernel(const __grid_constant__ struct held a)
{
    extern __shared__ uint4 memory[];
    __shared__ struct box<THREADS> box;
    slot<T> *slots = reinterpret_cast<slot<T> *>(memory);
    const int cluster = 1 << a.cluster_log2, rank = (int)blockIdx.x & (cluster - 1);
    const int first = rank * a.part, thread = (int)threadIdx.x;
    const uint64_t index = blockIdx.x >> a.cluster_log2;
    const row<T> r = row_at((T *)a.losses.logits + index * a.losses.width, a.losses.width);
    const float factor = factor_of(a.losses); /* early: who waits for it later waits alone */
    const int32_t target = a.losses.target[index];
    const int count = min(a.part, r.slot_count - first), target_slot = slot_of(r, target);

    if (target == DS_IGNORE_INDEX) {
        ignore_row(a.losses, r, index, rank * THREADS + thread, cluster * THREADS);
        return;
    }
    if (cluster > 1)
        box_open(&box.counter);
#pragma unroll 1
    for (int i = thread; i < count; i += THREADS)
        fetch_slot(slots + i, r, first + i);
    copy_async_wait();
    exchange(held_share<T, THREADS>(slots, count), &box, rank, cluster);
    const struct share total = row_share<T>(&box, cluster);
    if (a.losses.gradient) {
        const float slope = factor / (float)total.sum;

#pragma unroll 1
        for (int i = thread; i < count; i += THREADS)
            write_slot(r, first + i, held_slot(slots + i), total.level, slope);
    }
    const int mine = target_slot - first; /* the slot's place here */
    if (target_slot >= 0 && mine >= 0 && mine < count && mine % THREADS == thread)
        finish_target(a.losses, r, index, target, (const T *)(slots + mine), total, factor);
    if (target_slot < 0 && rank == 0 && thread == 0)
        finish_target(a.losses, r, index, target, (const T *)NULL, total, factor);
}

template <typename T, int THREADS>
static ds_status launch_held(struct ds_stream *stream, const struct held *a)
{
    const size_t bytes = (size_t)a->part * sizeof(slot<T>);
    const void *kernel = (const void *)held_kernel<T, THREADS>;
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};

    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = 1u << a->cluster_log2;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)(a->losses.row_count << a->cluster_log2));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = cuda_stream_of(stream);
    config.attrs = &attribute;
    config.numAttrs = a->cluster_log2 > 0;
    CUDA_TRY(cudaLaunchKernelEx(&config, held_kernel<T, THREADS>, *a));
    return DS_OK;
}

/* ---- rows that are read twice */

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) twice_kernel(const __grid_constant__ struct losses a)
{
    const uint64_t index = blockIdx.x;
    const row<T> r = row_at((T *)a.logits + index * a.width, a.width);
    const int32_t target = a.target[index];

    if (target == DS_IGNORE_INDEX)
        ignore_row(a, r, index, (int)threadIdx.x, ROW_THREADS);
    else
        twice_row(a, r, index, target);
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

/* It is the machine code that knows of clusters or does not: a newer GPU may run what was made for an older one. */
static ds_status has_clusters_find(const void *kernel, bool *out)
{
    cudaFuncAttributes attributes;

    CUDA_TRY(cudaFuncGetAttributes(&attributes, kernel));
    *out = attributes.ptxVersion >= 90;
    return DS_OK;
}

template <typename T> static ds_status launch(struct ds_stream *stream, const struct losses *a)
{
    const uint64_t slots = slots_max<T>(a);
    bool has_clusters;
    struct held held = {*a, 0, 0};

    if (a->row_count == 0)
        return DS_OK;
    DS_TRY(has_clusters_find((const void *)held_kernel<T, SMALL>, &has_clusters));
    while (has_clusters && 1 << held.cluster_log2 < CLUSTER_MAX &&
           slots > (uint64_t)PART_BEST << held.cluster_log2)
        held.cluster_log2++;
    if (slots > (uint64_t)(has_clusters ? PART_MAX : PART_ALONE) << held.cluster_log2)
        return launch_twice<T>(stream, a);
    held.part = (int)((slots + (1u << held.cluster_log2) - 1) >> held.cluster_log2);
    held.part = (held.part + 7) / 8 * 8; /* 128 bytes: no line of the cache is shared */
    return held.part <= SMALL_MAX ? launch_held<T, SMALL>(stream, &held)
                                  : launch_held<T, LARGE>(stream, &held);
}

extern "C" ds_status cuda_cross_entropy(struct ds_stream *stream,
                                        const struct ds_cross_entropy_args *args)
{
    const struct losses losses = losses_of(args);
    bool is_made = false;

    DS_ASSERT(losses.width <= ROW_ELEMS_MAX);
    KERNEL_WANTS_FLOAT("cross_entropy", args, logits_NV);
    KERNEL_WANTS("cross_entropy", args, target_N, DS_I32);
    KERNEL_WANTS("cross_entropy", args, loss_N, DS_F32);
    if (args->x_NC.data)
        DS_TRY(cuda_loss_product(stream, args, &is_made));
    if (is_made)
        return DS_OK;
    return DISPATCH(args->logits_NV.dtype, T, launch<T>(stream, &losses));
}
