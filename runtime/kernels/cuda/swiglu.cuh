/* swiglu.cuh - the gated activation and its way back, element by element: y = silu(gate) * up, sigma(g) = 1 / (1 + exp(-g)). */
#ifndef KERNELS_CUDA_SWIGLU_CUH
#define KERNELS_CUDA_SWIGLU_CUH

#include "element.cuh"

/* fp32 as exactly as it goes; where 16 bits are kept, the hardware's guesses at 2^x and at the inverse are exact enough. */
template <typename T> __device__ __forceinline__ float sigmoid(float x)
{
    float power, inverse;

    if (sizeof(T) == sizeof(float))
        return 1.0f / (1.0f + expf(-x));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
    return inverse;
}

template <typename T>
__device__ __forceinline__ pack<T> swiglu_pack(const pack<T> &gates, const pack<T> &ups)
{
    pack<T> y;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float gate = to_float(gates.at[i]);

        y.at[i] = from_float<T>(gate * sigmoid<T>(gate) * to_float(ups.at[i]));
    }
    return y;
}

/* In place: gate becomes dgate, up dup, dy the product. */
template <typename T>
__device__ __forceinline__ void swiglu_backward_pack(pack<T> &gates, pack<T> &ups, pack<T> &dys)
{
#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float gate = to_float(gates.at[i]), up = to_float(ups.at[i]);
        const float dy = to_float(dys.at[i]), sigma = sigmoid<T>(gate), silu = gate * sigma;

        gates.at[i] = from_float<T>(dy * up * (sigma * fmaf(gate, 1.0f - sigma, 1.0f)));
        ups.at[i] = from_float<T>(dy * silu);
        dys.at[i] = from_float<T>(silu * up);
    }
}

#endif
