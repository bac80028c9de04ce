/* qkv_end.cuh - cutting into heads and rotating (qkv.cu) as the end of the product that makes qkv. */
#ifndef KERNELS_CUDA_QKV_END_CUH
#define KERNELS_CUDA_QKV_END_CUH

#include "ended_product.cuh"
#include "qkv.cuh"

/* 16 threads have a row of a tile: each a pack of some head's first half and the same of its second. */
template <typename T> struct qkv_end {
    T *heads[QKV_PARTS];
    uint32_t count[QKV_PARTS];
    const int32_t *position;
    const float *rotary;
    uint32_t rows, half; /* half: of a head */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    static constexpr uint32_t APART = END_THREADS / 16; /* rows from one of a thread to its next */

    /* Positions of the warp's rows: row i of its lower and of its upper 16 threads are in lanes 2 i and 2 i + 1. */
    struct held {
        int32_t position[2];
    };
    __device__ __forceinline__ void before(held &held, uint32_t row, uint32_t,
                                           uint32_t thread) const
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t lane = thread % 32 + i * 32;
            const uint32_t r = thread / 32 * 2 + lane % 2 + lane / 2 * APART;

            held.position[i] = r < TILE_ROWS && row + r < rows ? position[row + r] : 0;
        }
    }

    __device__ __forceinline__ head_part<T> turned(const head_part<T> &in, int32_t at_position,
                                                   uint32_t at) const
    {
        const float *row = rotary + (size_t)at_position * 2 * half;
        angles<pack<T>::count> a;

        load_floats<true>(a.cosine, row, at, half);
        load_floats<true>(a.sine, row + half, at, half);
        return rotate(widen(in), a);
    }

    __device__ __forceinline__ void tile(const held &held, const T *staged, uint32_t row,
                                         uint32_t strip, uint32_t thread) const
    {
        const uint32_t unit = thread % 16 * 8, at = unit % half, column = unit / half * 2 * half;
        uint32_t head = (strip * TILE_COLUMNS + column) / (2 * half), part = QKV_Q;

        while (part < QKV_PARTS && head >= count[part])
            head -= count[part++];
#pragma unroll 2
        for (uint32_t i = 0; i * APART < TILE_ROWS; i++) {
            const uint32_t r = thread / 16 + i * APART;
            const int32_t where =
                __shfl_sync(0xffffffffu, i < 16 ? held.position[0] : held.position[1],
                            (2 * i + thread / 16 % 2) % 32);

            if (part == QKV_PARTS || r >= TILE_ROWS || row + r >= rows)
                continue;
            const T *from = staged + r * STAGED_PITCH + column + at;
            T *to = heads[part] + ((size_t)(row + r) * count[part] + head) * 2 * half + at;
            head_part<T> in = {load_pack(from), load_pack(from + half)};

            if (part != QKV_V)
                in = turned(in, where, at);
            store_pack(to, in.low);
            store_pack(to + half, in.high);
        }
    }
#endif
};

#endif
