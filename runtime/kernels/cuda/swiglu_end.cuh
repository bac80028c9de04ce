/* swiglu_end.cuh - the gated activation as the end of a product (ended_product.cuh), and its way back. */
#ifndef KERNELS_CUDA_SWIGLU_END_CUH
#define KERNELS_CUDA_SWIGLU_END_CUH

#include "ended_product.cuh"
#include "swiglu.cuh"

/* Of the product of gate and up: a tile's first half is gates, its second the same columns of up. */
template <typename T> struct swiglu_end {
    T *gate_up_TN;
    T *y_TI; /* or NULL */
    uint32_t rows, width;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    struct held {
    };
    __device__ __forceinline__ void before(held &, uint32_t, uint32_t, uint32_t) const
    {
    }
    __device__ __forceinline__ void tile(const held &, const T *staged, uint32_t row,
                                         uint32_t strip, uint32_t thread) const
    {
        const uint32_t chunk = thread % 16 * 8, column = strip * TILE_HALF + chunk;

#pragma unroll 2
        for (uint32_t r = thread / 16; r < TILE_ROWS; r += END_THREADS / 16) {
            const pack<T> gate = load_pack(staged + r * STAGED_PITCH + chunk);
            const pack<T> up = load_pack(staged + r * STAGED_PITCH + TILE_HALF + chunk);
            T *to = gate_up_TN + (size_t)(row + r) * 2 * width + column;

            if (row + r >= rows || column >= width)
                return;
            store_pack_once(to, gate);
            store_pack_once(to + width, up);
            if (y_TI)
                store_pack(y_TI + (size_t)(row + r) * width + column, swiglu_pack(gate, up));
        }
    }
#endif
};

/* Of the product that is dy: 256 columns of it. */
template <typename T> struct swiglu_backward_end {
    const T *gate_up_TN;
    T *dgate_up_TN; /* may be gate_up_TN */
    T *y_TI;        /* or NULL */
    uint32_t rows, width;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    static constexpr int AT_ONCE = 11;                  /* rows of a thread that are on their way */
    static constexpr uint32_t APART = END_THREADS / 32; /* from each to the next */

    /* As it lies in memory: unpacked, it would take twice the registers. */
    __device__ __forceinline__ void look(uint4 &gate, uint4 &up, uint32_t row, uint32_t place,
                                         uint32_t column) const
    {
        const T *from = gate_up_TN + (size_t)(row + place) * 2 * width + column;

        if (place >= TILE_ROWS || row + place >= rows || column >= width)
            return;
        gate = *reinterpret_cast<const uint4 *>(from);
        up = *reinterpret_cast<const uint4 *>(from + width);
    }

    __device__ __forceinline__ void leave(const uint4 &gate_bits, const uint4 &up_bits,
                                          const T *staged, uint32_t row, uint32_t place,
                                          uint32_t column) const
    {
        const size_t at = row + place;
        pack<T> gate = *reinterpret_cast<const pack<T> *>(&gate_bits);
        pack<T> up = *reinterpret_cast<const pack<T> *>(&up_bits), dy;

        if (place >= TILE_ROWS || at >= rows || column >= width)
            return;
        dy = load_pack(staged + place * STAGED_PITCH + column % TILE_COLUMNS);
        swiglu_backward_pack(gate, up, dy);
        store_pack(dgate_up_TN + at * 2 * width + column, gate);
        store_pack(dgate_up_TN + at * 2 * width + width + column, up);
        if (y_TI)
            store_pack(y_TI + at * width + column, dy);
    }

    struct held {
        uint4 gate[AT_ONCE], up[AT_ONCE];
    };

    __device__ __forceinline__ void before(held &held, uint32_t row, uint32_t strip,
                                           uint32_t thread) const
    {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            look(held.gate[i], held.up[i], row, thread / 32 + i * APART,
                 strip * TILE_COLUMNS + thread % 32 * 8);
    }

    __device__ __forceinline__ void tile(held &held, const T *staged, uint32_t row, uint32_t strip,
                                         uint32_t thread) const
    {
        const uint32_t column = strip * TILE_COLUMNS + thread % 32 * 8;

#pragma unroll 1
        for (uint32_t r = thread / 32; r < TILE_ROWS; r += APART * AT_ONCE) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                leave(held.gate[i], held.up[i], staged, row, r + i * APART, column);
                look(held.gate[i], held.up[i], row, r + (i + AT_ONCE) * APART, column);
            }
        }
    }
#endif
};

#endif
