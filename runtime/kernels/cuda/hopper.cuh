/* hopper.cuh - the instructions of a Hopper multiprocessor that a product is made of: barriers in shared memory that
 * count threads and bytes, copies of tiles by the copy engine, for two blocks of a cluster at once, and products of a
 * warp group from shared memory. Compiled for sm_90a alone. */
#ifndef KERNELS_CUDA_HOPPER_CUH
#define KERNELS_CUDA_HOPPER_CUH

#include "copy_async.cuh"
#include "element.cuh"

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* ---- barriers: phase p of one is over when all its threads have arrived and all its bytes are there */

__device__ __forceinline__ void barrier_init(uint64_t *barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(count)
                 : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}
/* At the same barrier of block `rank` of the cluster. */
__device__ __forceinline__ void barrier_arrive_at(uint64_t *barrier, uint32_t rank)
{
    asm volatile("{\n\t"
                 ".reg .b32 there;\n\t"
                 "mapa.shared::cluster.u32 there, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}
/* Until the phase of that parity is over. `far`: what it counted may be another block's writes, which this thread then
 * sees; that empties the first cache. */
#define BARRIER_WAIT(scope)                                                                  \
    uint32_t is_over;                                                                        \
                                                                                             \
    do                                                                                       \
        asm volatile("{\n\t"                                                                 \
                     ".reg .pred over;\n\t"                                                  \
                     "mbarrier.try_wait.parity" scope ".shared::cta.b64 over, [%1], %2;\n\t" \
                     "selp.u32 %0, 1, 0, over;\n\t"                                          \
                     "}"                                                                     \
                     : "=r"(is_over)                                                         \
                     : "r"(shared_address(barrier)), "r"(parity)                             \
                     : "memory");                                                            \
    while (!is_over)
__device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    BARRIER_WAIT("");
}
__device__ __forceinline__ void barrier_wait_far(uint64_t *barrier, uint32_t parity)
{
    BARRIER_WAIT(".acquire.cluster");
}
#undef BARRIER_WAIT

__device__ __forceinline__ void cluster_meet()
{
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
            : "memory");
}
__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;

    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* ---- a box of a matrix into shared memory, counted there; x: column, y: row of its first element */

__device__ __forceinline__ void box_load(void *to, const CUtensorMap *map, uint32_t x, uint32_t y,
                                         uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
                 "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
                 : "memory");
}
/* To the same place in both blocks of a cluster of two, counted in each. */
__device__ __forceinline__ void box_load_both(void *to, const CUtensorMap *map, uint32_t x,
                                              uint32_t y, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
                 "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier)), "h"((uint16_t)3)
                 : "memory");
}
/* ---- a warp group's product: c[64x256] (+)= a[64x16] b[16x256], operands in boxes of 128-byte rows, swizzled */

/* Where an operand lies. stride: bytes from 8 rows to the next 8; lead: from 64 columns to the next, of an operand
 * whose rows are along the product's inner dimension. */
__device__ __forceinline__ uint64_t operand_at(const void *at, uint32_t lead, uint32_t stride)
{
    return ((uint64_t)(shared_address(at) & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ __forceinline__ void product_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void product_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int OPEN> __device__ __forceinline__ void product_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(OPEN) : "memory");
}

#define C8(i)                                                                                   \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
        "+f"(c[i + 6]), "+f"(c[i + 7])
#define C64(i) \
    C8(i), C8(i + 8), C8(i + 16), C8(i + 24), C8(i + 32), C8(i + 40), C8(i + 48), C8(i + 56)
#define PRODUCT(type)                                                                             \
    asm volatile("{\n\t"                                                                          \
                 ".reg .pred adds;\n\t"                                                           \
                 "setp.ne.b32 adds, %130, 0;\n\t"                                                 \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " "                 \
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "        \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "    \
                 "%31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "    \
                 "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, "    \
                 "%61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, "    \
                 "%76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, "    \
                 "%91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "    \
                 "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, " \
                 "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "                  \
                 "%128, %129, adds, 1, 1, 0, %131;\n\t"                                           \
                 "}"                                                                              \
                 : C64(0), C64(64)                                                                \
                 : "l"(a), "l"(b), "r"(adds), "n"(B_TURNED))

/* B_TURNED: b's rows in memory are along the inner dimension. adds: 0 overwrites c. */
template <int B_TURNED>
__device__ __forceinline__ void product_begin(__nv_bfloat16, float (&c)[128], uint64_t a,
                                              uint64_t b, int adds)
{
    PRODUCT("bf16");
}
template <int B_TURNED>
__device__ __forceinline__ void product_begin(__half, float (&c)[128], uint64_t a, uint64_t b,
                                              int adds)
{
    PRODUCT("f16");
}

#undef PRODUCT
#undef C64
#undef C8

/* Four 8x8 matrices of 16 bits into shared memory: lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void store_matrices(void *row, const uint32_t (&from)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
}

template <int COUNT> __device__ __forceinline__ void registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void registers_less()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

#endif
#endif
