/* row.cuh - a row of elements that begins anywhere, cut into slots of 16 bytes at aligned addresses: only its
 * first and last slot may be incomplete, and are then read and written element by element. A slot is kept as
 * words: elements of 16 bits would take a register each. */
#ifndef KERNELS_CUDA_ROW_CUH
#define KERNELS_CUDA_ROW_CUH

#include "copy_async.cuh"
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

/* The larger elements of two words, half by half where there are two; a NaN is not seen. And the largest of a word. */
template <typename T> __device__ __forceinline__ uint32_t word_max(uint32_t a, uint32_t b);
template <> __device__ __forceinline__ uint32_t word_max<float>(uint32_t a, uint32_t b)
{
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}
template <> __device__ __forceinline__ uint32_t word_max<__nv_bfloat16>(uint32_t a, uint32_t b)
{
    const __nv_bfloat162 max = __hmax2(*reinterpret_cast<const __nv_bfloat162 *>(&a),
                                       *reinterpret_cast<const __nv_bfloat162 *>(&b));

    return *reinterpret_cast<const uint32_t *>(&max);
}
template <> __device__ __forceinline__ uint32_t word_max<__half>(uint32_t a, uint32_t b)
{
    const __half2 max =
        __hmax2(*reinterpret_cast<const __half2 *>(&a), *reinterpret_cast<const __half2 *>(&b));

    return *reinterpret_cast<const uint32_t *>(&max);
}

template <typename T> __device__ __forceinline__ float word_top(uint32_t word)
{
    const slot<T> s = {{word}};

    return fmaxf(slot_get(s, 0), slot_get(s, 4 / sizeof(T) - 1));
}

template <typename T> __device__ __forceinline__ uint32_t slot_max_word(const slot<T> &s)
{
    return word_max<T>(word_max<T>(s.word[0], s.word[1]), word_max<T>(s.word[2], s.word[3]));
}

/* Both halves of a word, or all of it: rounded to nearest even. */
template <typename T> __device__ __forceinline__ uint32_t word_of(float low, float high)
{
    return pair_of<T>(low, high);
}
template <> __device__ __forceinline__ uint32_t word_of<float>(float x, float)
{
    return __float_as_uint(x);
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

template <typename T> __device__ __forceinline__ slot<T> slot_scaled(const slot<T> &s, float factor)
{
    float scaled[slot<T>::count];

#pragma unroll
    for (int j = 0; j < slot<T>::count; j++)
        scaled[j] = slot_get(s, j) * factor;
    return slot_make<T>(scaled);
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

/* Said with the instruction: left to itself the compiler at times cuts such a copy into words. */
template <typename T> __device__ __forceinline__ void put_slot(T *to, const slot<T> &s)
{
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(s.word[0]),
                 "r"(s.word[1]), "r"(s.word[2]), "r"(s.word[3])
                 : "memory");
}

/* Out of shared memory. */
template <typename T> __device__ __forceinline__ slot<T> held_slot(const slot<T> *from)
{
    slot<T> s;

    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(s.word[0]), "=r"(s.word[1]), "=r"(s.word[2]), "=r"(s.word[3])
                 : "r"(shared_address(from))
                 : "memory");
    return s;
}

/* Is a slot that begins at element `first` all of the row? */
template <typename T> __device__ __forceinline__ bool is_inside(const row<T> &r, int first)
{
    return first >= 0 && first + slot<T>::count <= r.count;
}

/* One that is not, or not wholly. */
template <typename T> __device__ __forceinline__ slot<T> edge_slot(const row<T> &r, int first)
{
    constexpr int WIDE = slot<T>::count;
    slot<T> s;

#pragma unroll
    for (int i = 0; i < 4; i++)
        if (WIDE == 4)
            s.word[i] = element_bits(r, first + i);
        else
            s.word[i] = element_bits(r, first + 2 * i) | element_bits(r, first + 2 * i + 1) << 16;
    return s;
}

template <typename T> __device__ __forceinline__ slot<T> load_slot(const row<T> &r, int index)
{
    const int first = index * slot<T>::count - r.shift;
    slot<T> s;

    if (!is_inside(r, first))
        return edge_slot(r, first);
    *reinterpret_cast<uint4 *>(&s) = *reinterpret_cast<const uint4 *>(r.at + first);
    return s;
}

/* Into shared memory, on the way when it returns; for this thread until there has been a barrier. */
template <typename T>
__device__ __forceinline__ void fetch_slot(slot<T> *to, const row<T> &r, int index)
{
    const int first = index * slot<T>::count - r.shift;

    if (is_inside(r, first))
        copy_async_16(to, r.at + first);
    else
        *to = edge_slot(r, first);
}

template <typename T>
__device__ __forceinline__ void store_slot(const row<T> &r, int index, const slot<T> &s)
{
    constexpr int WIDE = slot<T>::count;
    const int first = index * WIDE - r.shift;

    if (is_inside(r, first)) {
        put_slot(r.at + first, s);
        return;
    }
#pragma unroll
    for (int j = 0; j < WIDE; j++)
        if (first + j >= 0 && first + j < r.count)
            r.at[first + j] = from_float<T>(slot_get(s, j)); /* exact: it was rounded to T */
}

#endif
