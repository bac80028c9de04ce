/* quad.cuh - four neighbours at a time: 16 bytes of fp32, 8 of 16 bits, so that a warp's accesses to tensors of
 * either width lie side by side. */
#ifndef KERNELS_CUDA_QUAD_CUH
#define KERNELS_CUDA_QUAD_CUH

#include "element.cuh"

template <typename T> struct alignas(4 * sizeof(T)) quad {
    T at[4];
};

template <typename T> static bool is_quad_aligned(const void *at)
{
    return (uintptr_t)at % sizeof(quad<T>) == 0;
}

template <typename T> __device__ __forceinline__ quad<T> load_quad(const T *from)
{
    return *reinterpret_cast<const quad<T> *>(from);
}

template <typename T> __device__ __forceinline__ void store_quad(T *to, const quad<T> &q)
{
    *reinterpret_cast<quad<T> *>(to) = q;
}

#endif
