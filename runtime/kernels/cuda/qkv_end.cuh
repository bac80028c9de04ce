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
    static constexpr uint32_t AT_ONCE = 2;

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

    /* What a thread has of a row, and its angles: all is on its way before any of it is waited for. */
    struct piece {
        head_part<T> in;
        angles<pack<T>::count> turn;
    };
    __device__ __forceinline__ void look(piece &piece, const T *from, int32_t where, uint32_t at,
                                         bool turns) const
    {
        const float *row = rotary + (size_t)where * 2 * half;

        piece.in = {load_pack(from), load_pack(from + half)};
        if (!turns)
            return;
        load_floats<true>(piece.turn.cosine, row, at, half);
        load_floats<true>(piece.turn.sine, row + half, at, half);
    }

    __device__ __forceinline__ void tile(const held &held, const T *staged, uint32_t row,
                                         uint32_t strip, uint32_t thread) const
    {
        const uint32_t unit = thread % 16 * 8, at = unit % half, column = unit / half * 2 * half;
        uint32_t head = (strip * TILE_COLUMNS + column) / (2 * half), part = QKV_Q;

        while (part < QKV_PARTS && head >= count[part])
            head -= count[part++];
        const bool is_here = part < QKV_PARTS, turns = is_here && part != QKV_V;
#pragma unroll 1
        for (uint32_t i = 0; i * APART < TILE_ROWS; i += AT_ONCE) {
            piece pieces[AT_ONCE];

#pragma unroll
            for (uint32_t j = 0; j < AT_ONCE; j++) {
                const uint32_t r = thread / 16 + (i + j) * APART;
                const int32_t where =
                    __shfl_sync(0xffffffffu, i + j < 16 ? held.position[0] : held.position[1],
                                (2 * (i + j) + thread / 16 % 2) % 32);

                look(pieces[j], staged + min(r, TILE_ROWS - 1) * STAGED_PITCH + column + at, where,
                     at, turns);
            }
#pragma unroll
            for (uint32_t j = 0; j < AT_ONCE; j++) {
                const uint32_t r = thread / 16 + (i + j) * APART;

                if (!is_here || r >= TILE_ROWS || row + r >= rows)
                    continue;
                T *to = heads[part] + ((size_t)(row + r) * count[part] + head) * 2 * half + at;
                if (turns)
                    pieces[j].in = rotate(widen(pieces[j].in), pieces[j].turn);
                store_pack(to, pieces[j].in.low);
                store_pack(to + half, pieces[j].in.high);
            }
        }
    }
#endif
};

#endif
