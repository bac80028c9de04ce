/* loss_end.cuh - exponentials of logits as the end of the product that makes these (loss_product.cu). Logits themselves
 * never leave the multiprocessor. */
#ifndef KERNELS_CUDA_LOSS_END_CUH
#define KERNELS_CUDA_LOSS_END_CUH

#include "cross_entropy.cuh"
#include "ended_product.cuh"

/* What an exponential is cut off at, as a power of two: even sums of them are finite, and a row that comes near it is made
 * again (loss_product.cu). */
#define LOSS_POWER_MAX 92.0f

/* Of a row above its level, the target's logit: 2^(x * log2(e) - level), and a strip's sum of them without the target's,
 * which is 1. A warp has a row, AT_ONCE of them on their way. */
template <typename T> struct loss_end {
    T *power_NV; /* or NULL */
    float *sum_SN;
    const float *level_N;
    const int32_t *target_N;
    uint32_t rows, width;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    static constexpr uint32_t AT_ONCE = 4;
    static constexpr uint32_t APART =
        END_THREADS / 32; /* groups of rows from one of a warp to its next */

    /* Of the warp's rows: number i is in lane i % 32. */
    struct held {
        float level[2];
        int32_t target[2];
    };
    __device__ __forceinline__ void before(held &held, uint32_t row, uint32_t,
                                           uint32_t thread) const
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t number = thread % 32 + 32 * i;
            const uint32_t group = thread / 32 + number / AT_ONCE * APART;
            const uint32_t r = group * AT_ONCE + number % AT_ONCE;
            const bool is_here = r < TILE_ROWS && row + r < rows;

            held.level[i] = is_here ? level_N[row + r] : 0.0f;
            held.target[i] = is_here ? target_N[row + r] : DS_IGNORE_INDEX;
        }
    }

    /* A NaN stays one. */
    __device__ __forceinline__ static float power(float logit, float level)
    {
        float x = fmaf(logit, LOG2_E, -level);

        asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(LOSS_POWER_MAX));
        return exp2_short(x);
    }

    /* A pack's logits become exponentials. Their sum, without number `skip`. */
    __device__ __forceinline__ static float pack_powers(uint4 &bits, float level, uint32_t skip)
    {
        pack<T> &logits = *reinterpret_cast<pack<T> *>(&bits);
        float powers[pack<T>::count], sum = 0.0f;

#pragma unroll
        for (int j = 0; j < pack<T>::count; j++) {
            powers[j] = power(to_float(logits.at[j]), level);
            logits.at[j] = from_float<T>(powers[j]);
            sum += (uint32_t)j == skip ? 0.0f : powers[j];
        }
        return sum;
    }

    /* Lane l gets sum number l / 8 of the warp. */
    __device__ __forceinline__ static float sums_over_warp(const float (&sum)[AT_ONCE],
                                                           uint32_t lane)
    {
        const bool high = lane & 16, odd = lane & 8;
        const float a =
            (high ? sum[2] : sum[0]) + __shfl_xor_sync(0xffffffffu, high ? sum[0] : sum[2], 16);
        const float b =
            (high ? sum[3] : sum[1]) + __shfl_xor_sync(0xffffffffu, high ? sum[1] : sum[3], 16);
        float c = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 8);

#pragma unroll
        for (int step = 4; step > 0; step /= 2)
            c += __shfl_xor_sync(0xffffffffu, c, step);
        return c;
    }

    /* A warp's rows group * AT_ONCE .., the first of which is its number `number`. */
    __device__ __forceinline__ void rows_of_warp(const held &held, const T *staged, uint32_t row,
                                                 uint32_t strip, uint32_t group, uint32_t number,
                                                 uint32_t lane) const
    {
        const uint32_t r = group * AT_ONCE, column = strip * TILE_COLUMNS + lane * 8;
        const bool is_low = number < 32, is_column = column < width;
        T *to = power_NV + (size_t)(row + r) * width + column;
        uint4 bits[AT_ONCE];
        float sum[AT_ONCE];

#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++)
            bits[j] = *reinterpret_cast<const uint4 *>(staged + (r + j) * STAGED_PITCH + lane * 8);
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++) {
            const uint32_t from = (number + j) % 32;
            const float level =
                __shfl_sync(0xffffffffu, is_low ? held.level[0] : held.level[1], from);
            const int32_t target =
                __shfl_sync(0xffffffffu, is_low ? held.target[0] : held.target[1], from);

            sum[j] = pack_powers(bits[j], level, (uint32_t)target - column);
            sum[j] = is_column ? sum[j] : 0.0f;
        }
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE; j++)
            if (power_NV && is_column && row + r + j < rows)
                __stcs(reinterpret_cast<uint4 *>(to + (size_t)j * width), bits[j]);
        sum[0] = sums_over_warp(sum, lane);
        if (lane % 8 == 0 && row + r + lane / 8 < rows)
            sum_SN[(size_t)strip * rows + row + r + lane / 8] = sum[0];
    }

    __device__ __forceinline__ void tile(const held &held, const T *staged, uint32_t row,
                                         uint32_t strip, uint32_t thread) const
    {
        uint32_t number = 0;

#pragma unroll 1
        for (uint32_t group = thread / 32; group < TILE_ROWS / AT_ONCE; group += APART) {
            rows_of_warp(held, staged, row, strip, group, number, thread % 32);
            number += AT_ONCE;
        }
    }
#endif
};

#endif
