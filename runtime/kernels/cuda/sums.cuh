/* sums.cuh - one number from all threads of a block, always made in the same order. Blocks have one dimension
 * and whole warps. */
#ifndef KERNELS_CUDA_SUMS_CUH
#define KERNELS_CUDA_SUMS_CUH

#include "element.cuh"

#define WARP 32

__device__ __forceinline__ double warp_sum(double x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* Every thread gets the sum. */
template <int THREADS> __device__ __forceinline__ double block_sum(double x)
{
    __shared__ double part[THREADS / WARP];
    double sum = 0;

    x = warp_sum(x);
    __syncthreads(); /* a sum before this one has been read */
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++)
        sum += part[i];
    return sum;
}

template <int THREADS> __device__ __forceinline__ float block_max(float x)
{
    __shared__ float part[THREADS / WARP];

    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++)
        x = fmaxf(x, part[i]);
    return x;
}

/* Thread t adds up elements t, t + THREADS, ... */
template <int THREADS, typename T>
__device__ __forceinline__ double block_sum_of(const T *x, uint64_t count)
{
    double sum = 0;

#pragma unroll 8
    for (uint64_t i = threadIdx.x; i < count; i += THREADS)
        sum += (double)x[i];
    return block_sum<THREADS>(sum);
}

#endif
