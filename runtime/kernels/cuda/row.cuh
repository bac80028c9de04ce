/* row.cuh - a row of elements that begins anywhere, cut into slots of 16 bytes at aligned addresses: only its
 * first and last slot may be incomplete, and are then read and written element by element. A slot is kept as
 * words: elements of 16 bits would take a register each. */
#ifndef KERNELS_CUDA_ROW_CUH
#define KERNELS_CUDA_ROW_CUH

#include "element.cuh"

#define ROW_ELEMS_MAX (1 << 30)

template <typename T> struct row {
    T *at;
    int count;
    int shift; /* elements of the first slot that lie before the row */
    int slot_count;
};

template <typename T> struct alignas(16) slot {
    static constexpr int count = 16 / sizeof(T);
    uint32_t word[4];
};

template <typename T> __host__ __device__ __forceinline__ row<T> row_at(T *at, uint64_t count)
{
    constexpr int WIDE = slot<T>::count;
    const int shift = (int)((uintptr_t)at % 16 / sizeof(T));

    return {at, (int)count, shift, ((int)count + shift + WIDE - 1) / WIDE};
}

/* The slot of element `i`; of one that is not in the row: none. */
template <typename T> __host__ __device__ __forceinline__ int slot_of(const row<T> &r, int64_t i)
{
    return i >= 0 && i < r.count ? (int)((i + r.shift) / slot<T>::count) : -1;
}

/* ---- elements of a slot; `j` is a constant where the loop over them is unrolled */

template <typename T> __device__ __forceinline__ float slot_get(const slot<T> &s, int j);
template <> __device__ __forceinline__ float slot_get<float>(const slot<float> &s, int j)
{
    return __uint_as_float(s.word[j]);
}
template <>
__device__ __forceinline__ float slot_get<__nv_bfloat16>(const slot<__nv_bfloat16> &s, int j)
{
    return __uint_as_float(j % 2 ? s.word[j / 2] & 0xffff0000u : s.word[j / 2] << 16);
}
template <> __device__ __forceinline__ float slot_get<__half>(const slot<__half> &s, int j)
{
    return __half2float(__ushort_as_half((unsigned short)(s.word[j / 2] >> 16 * (j % 2))));
}

/* Both halves of a word, or all of it: rounded to nearest even. */
template <typename T> __device__ __forceinline__ uint32_t word_of(float low, float high);
template <> __device__ __forceinline__ uint32_t word_of<float>(float x, float)
{
    return __float_as_uint(x);
}
template <> __device__ __forceinline__ uint32_t word_of<__nv_bfloat16>(float low, float high)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);

    return *reinterpret_cast<const uint32_t *>(&both);
}
template <> __device__ __forceinline__ uint32_t word_of<__half>(float low, float high)
{
    const __half2 both = __floats2half2_rn(low, high);

    return *reinterpret_cast<const uint32_t *>(&both);
}

template <typename T>
__device__ __forceinline__ slot<T> slot_make(const float (&from)[slot<T>::count])
{
    constexpr int EACH = slot<T>::count / 4; /* elements of a word */
    slot<T> s;

#pragma unroll
    for (int i = 0; i < 4; i++)
        s.word[i] = word_of<T>(from[i * EACH], from[i * EACH + EACH - 1]);
    return s;
}

/* ---- slots of a row */

/* The element as bits; one that is not in the row is -inf: it changes no largest element and no sum of
 * exponentials. */
template <typename T> __device__ __forceinline__ uint32_t element_bits(const row<T> &r, int i)
{
    const bool is_here = i >= 0 && i < r.count;

    if (sizeof(T) == 4)
        return is_here ? reinterpret_cast<const uint32_t *>(r.at)[i] : word_of<T>(-INFINITY, 0);
    return is_here ? reinterpret_cast<const uint16_t *>(r.at)[i]
                   : word_of<T>(-INFINITY, 0) & 0xffffu;
}

template <typename T> __device__ __forceinline__ slot<T> load_slot(const row<T> &r, int index)
{
    constexpr int WIDE = slot<T>::count;
    const int first = index * WIDE - r.shift;
    slot<T> s;

    if (first >= 0 && first + WIDE <= r.count) {
        *reinterpret_cast<uint4 *>(&s) = *reinterpret_cast<const uint4 *>(r.at + first);
        return s;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (WIDE == 4)
            s.word[i] = element_bits(r, first + i);
        else
            s.word[i] = element_bits(r, first + 2 * i) | element_bits(r, first + 2 * i + 1) << 16;
    return s;
}

template <typename T>
__device__ __forceinline__ void store_slot(const row<T> &r, int index, const slot<T> &s)
{
    constexpr int WIDE = slot<T>::count;
    const int first = index * WIDE - r.shift;

    if (first >= 0 && first + WIDE <= r.count) {
        *reinterpret_cast<uint4 *>(r.at + first) = *reinterpret_cast<const uint4 *>(&s);
        return;
    }
#pragma unroll
    for (int j = 0; j < WIDE; j++)
        if (first + j >= 0 && first + j < r.count)
            r.at[first + j] = from_float<T>(slot_get(s, j)); /* exact: it was rounded to T */
}

#endif
