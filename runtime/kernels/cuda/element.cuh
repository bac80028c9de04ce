/* element.cuh - loading and storing elements of 16 and 32 bits, 16 bytes at a time, and sums over a warp and
 * a block. Arithmetic is in fp32. */
#ifndef KERNELS_CUDA_ELEMENT_CUH
#define KERNELS_CUDA_ELEMENT_CUH

#include "kernels_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

/* The C++ type of a dtype, for templates. */
__device__ __forceinline__ float to_float(float x)
{
    return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x)
{
    return __half2float(x);
}

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ __half from_float<__half>(float x)
{
    return __float2half_rn(x);
}

/* Two elements side by side, the first in the lower half. */
template <typename T> __device__ __forceinline__ uint32_t pair_of(float first, float second);
template <> __device__ __forceinline__ uint32_t pair_of<__nv_bfloat16>(float first, float second)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t *>(&pair);
}
template <> __device__ __forceinline__ uint32_t pair_of<__half>(float first, float second)
{
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* 16 bytes of elements: load with `pack<T> p = load_pack(ptr)`, use p.at[i]. Pointers must be aligned to 16. */
template <typename T> struct alignas(16) pack {
    static constexpr int count = 16 / sizeof(T);
    T at[count];
};
template <typename T> __device__ __forceinline__ pack<T> load_pack(const T *from)
{
    pack<T> p;
    *reinterpret_cast<uint4 *>(&p) = *reinterpret_cast<const uint4 *>(from);
    return p;
}
template <typename T>
__device__ __forceinline__ pack<T> load_pack_once(const T *from) /* not read again */
{
    pack<T> p;
    *reinterpret_cast<uint4 *>(&p) = __ldcs(reinterpret_cast<const uint4 *>(from));
    return p;
}
template <typename T> __device__ __forceinline__ void store_pack(T *to, const pack<T> &p)
{
    *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(&p);
}
template <typename T> __device__ __forceinline__ void store_pack_once(T *to, const pack<T> &p)
{
    __stcs(reinterpret_cast<uint4 *>(to), *reinterpret_cast<const uint4 *>(&p));
}

/* Sums of one fixed order. */
__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/* Call `f.template operator()<T>()`-style code for a dtype of activations: one switch, used by every launcher:
 *     return DISPATCH(dtype, T, launch<T>(stream, a));
 * What is not F32, BF16 or F16 is DS_ERR_UNSUPPORTED. */
#define DISPATCH(dtype, T, call)                                                                \
    ([&]() -> ds_status {                                                                       \
        switch (dtype) {                                                                        \
        case DS_F32: {                                                                          \
            using T = float;                                                                    \
            return call;                                                                        \
        }                                                                                       \
        case DS_BF16: {                                                                         \
            using T = __nv_bfloat16;                                                            \
            return call;                                                                        \
        }                                                                                       \
        case DS_F16: {                                                                          \
            using T = __half;                                                                   \
            return call;                                                                        \
        }                                                                                       \
        default:                                                                                \
            return ds_fail(DS_ERR_UNSUPPORTED, "%s: dtype %s", __func__, ds_dtype_name(dtype)); \
        }                                                                                       \
    }())

#endif
