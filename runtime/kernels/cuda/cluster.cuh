/* cluster.cuh - what the blocks of a cluster tell each other. A sender writes into every block's box, the hardware
 * counts bytes, and who waits for a box looks at its own shared memory: nobody reads another's, so a block may end
 * as soon as it has read its box, and no fence goes out to all of the GPU, as one does with a barrier of the
 * cluster that orders memory. Where there are no clusters a block is alone and has no use for this. */
#ifndef KERNELS_CUDA_CLUSTER_CUH
#define KERNELS_CUDA_CLUSTER_CUH

#include "copy_async.cuh"

/* 16 bytes of a sender. */
struct alignas(16) letter {
    uint32_t word[4];
};

#if __CUDA_ARCH__ >= 900

/* All threads of all blocks, and early: what comes between this and box_ready costs nothing. */
__device__ __forceinline__ void box_open(uint64_t *counter)
{
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(counter))
                     : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

/* The boxes of all blocks are open, and this block's expects `bytes`, once: some may have come before it says so. */
__device__ __forceinline__ void box_ready(uint64_t *counter, uint32_t bytes)
{
    __syncwarp();
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (threadIdx.x == 0)
        asm volatile(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(counter)),
            "r"(bytes)
            : "memory");
}

/* To the place in block `rank` that is `to` here, counted there by what is `counter` here. */
__device__ __forceinline__ void box_send(const struct letter *to, const uint64_t *counter,
                                         uint32_t rank, const struct letter &letter)
{
    uint32_t at, of_counter;

    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(to)), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(of_counter)
        : "r"(shared_address(counter)), "r"(rank));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(at),
                 "r"(letter.word[0]), "r"(letter.word[1]), "r"(letter.word[2]), "r"(letter.word[3]),
                 "r"(of_counter)
                 : "memory");
}

/* This block's box has all its bytes, and this thread sees them. */
__device__ __forceinline__ void box_wait(const uint64_t *counter)
{
    uint32_t is_full;

    do
        asm volatile("{\n\t"
                     ".reg .pred full;\n\t"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 full, [%1], 0;\n\t"
                     "selp.u32 %0, 1, 0, full;\n\t"
                     "}"
                     : "=r"(is_full)
                     : "r"(shared_address(counter))
                     : "memory");
    while (!is_full);
}

#else

__device__ __forceinline__ void box_open(uint64_t *)
{
}
__device__ __forceinline__ void box_ready(uint64_t *, uint32_t)
{
}
__device__ __forceinline__ void box_send(const struct letter *, const uint64_t *, uint32_t,
                                         const struct letter &)
{
}
__device__ __forceinline__ void box_wait(const uint64_t *)
{
}

#endif
#endif
