/* part.cuh - the packs of a row, which may hang over its end or lie at any address. A thread has the same
 * elements either way, so a sum has the same bits whatever the alignment. */
#ifndef KERNELS_CUDA_PART_CUH
#define KERNELS_CUDA_PART_CUH

#include "element.cuh"

/* Elements first .. first + pack<T>::count of a row that ends at `end`; zero behind it. VECTOR: all packs are
 * whole and lie at multiples of 16 bytes; the row's first one is read in place of one behind the end (no
 * branch, so loads stay side by side), and so must be memory even where `end` is 0. */
template <bool VECTOR, typename T>
__device__ __forceinline__ pack<T> load_part(const T *row, uint32_t first, uint32_t end)
{
    pack<T> p;

    if constexpr (VECTOR) {
        const uint4 words = *reinterpret_cast<const uint4 *>(row + (first < end ? first : 0));
        const uint32_t mask = first < end ? 0xffffffffu : 0u;

        *reinterpret_cast<uint4 *>(&p) =
            make_uint4(words.x & mask, words.y & mask, words.z & mask, words.w & mask);
    } else {
#pragma unroll
        for (int i = 0; i < pack<T>::count; i++)
            p.at[i] = first + i < end ? row[first + i] : from_float<T>(0.0f);
    }
    return p;
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void store_part(T *row, uint32_t first, uint32_t end, const pack<T> &p)
{
    if constexpr (VECTOR) {
        if (first < end)
            store_pack(row + first, p);
    } else {
#pragma unroll
        for (int i = 0; i < pack<T>::count; i++)
            if (first + i < end)
                row[first + i] = p.at[i];
    }
}

/* From here on the pack itself is what is kept in registers: the compiler would rather keep its elements as
 * fp32, twice as many, than convert them a second time. */
template <typename T> __device__ __forceinline__ void keep_packed(pack<T> &p)
{
    uint4 &words = *reinterpret_cast<uint4 *>(&p);

    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}

static inline bool is_aligned(const void *at)
{
    return (uintptr_t)at % 16 == 0; /* NULL is */
}

static inline uint32_t grid_of(size_t blocks)
{
    DS_ASSERT(blocks <= INT32_MAX);
    return (uint32_t)blocks;
}

/* ---- sums over rows that several warps of a block have: blockDim.x threads a row, blockDim.y rows */

#define ROW_WARPS_MAX 16

/* Of ROWS rows at once. `shared` must not be that of the call before: a thread may still read there. */
template <int ROWS>
__device__ __forceinline__ void row_sums(float (&value)[ROWS], float (*shared)[ROWS])
{
    const uint32_t warps = blockDim.x / 32;

#pragma unroll
    for (int r = 0; r < ROWS; r++)
        value[r] = warp_sum(value[r]);
    if (warps == 1)
        return;
    shared += threadIdx.y * warps;
    if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            shared[threadIdx.x / 32][r] = value[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        value[r] = shared[0][r];
    for (uint32_t w = 1; w < warps; w++) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            value[r] += shared[w][r];
    }
}

#endif
