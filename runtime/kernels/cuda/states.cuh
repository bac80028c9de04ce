/* states.cuh - runs of neighbours of an optimizer state, as bits: four of a word each or of half a word, or eight
 * of half a word. What the dtype is, is looked at when the kernel runs, but where a kernel is for one alone. */
#ifndef KERNELS_CUDA_STATES_CUH
#define KERNELS_CUDA_STATES_CUH

#include "element.cuh"

struct state {
    char *at; /* NULL: absent */
    enum ds_dtype dtype;
    uint32_t bytes; /* of an element: 2 or 4 */
};

struct alignas(16) bits {
    uint32_t
        word[4]; /* of a run of eight, two halves each: i % 4 is there for the compiler alone */
};

/* NULL: absent */
static inline struct state state_of(const struct ds_tensor *tensor)
{
    struct state state = {NULL, DS_F32, 4};

    if (tensor && tensor->data) {
        state.at = (char *)tensor->data;
        state.dtype = tensor->dtype;
        state.bytes = tensor->dtype == DS_F32 ? 4 : 2;
    }
    return state;
}

/* May whole runs be loaded at once? An absent one does not mind. */
static inline bool is_run_aligned(const struct state &state, uint32_t run)
{
    return (uintptr_t)state.at % (run * state.bytes) == 0;
}

/* The state, in the dtype that the compiler is told. */
template <bool IS_BF16> __device__ __forceinline__ struct state known(struct state state)
{
    if (IS_BF16) {
        state.dtype = DS_BF16;
        state.bytes = 2;
    }
    return state;
}

/* ---- halves of words; `i` is a constant where the loop over it is unrolled */

__device__ __forceinline__ uint32_t half_of(const struct bits &x, int i)
{
    return x.word[i / 2] >> 16 * (i % 2) & 0xffffu;
}

__device__ __forceinline__ void set_half(struct bits *x, int i, uint16_t half)
{
    const int shift = 16 * (i % 2);

    x->word[i / 2] = (x->word[i / 2] & ~(0xffffu << shift)) | (uint32_t)half << shift;
}

/* A run as fp32, and back: rounded to nearest even. */
template <int RUN>
__device__ __forceinline__ void widen(float (&to)[RUN], const struct bits &x, enum ds_dtype dtype)
{
#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (dtype == DS_F32)
            to[i] = __uint_as_float(x.word[i % 4]);
        else if (dtype == DS_BF16)
            to[i] = __uint_as_float(half_of(x, i) << 16);
        else
            to[i] = __half2float(__ushort_as_half((unsigned short)half_of(x, i)));
}

template <int RUN>
__device__ __forceinline__ struct bits narrow(const float (&from)[RUN], enum ds_dtype dtype)
{
    struct bits x = {};

#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (dtype == DS_F32)
            x.word[i % 4] = __float_as_uint(from[i]);
        else if (dtype == DS_BF16)
            set_half(&x, i, __bfloat16_as_ushort(__float2bfloat16_rn(from[i])));
        else
            set_half(&x, i, __half_as_ushort(__float2half_rn(from[i])));
    return x;
}

/* ---- elements first .. first + count of a state; `is_whole`: all RUN, and aligned */

template <int RUN>
__device__ __forceinline__ struct bits load_bits(const struct state &state, uint64_t first,
                                                 int count, bool is_whole)
{
    const char *at = state.at + first * state.bytes;
    struct bits x = {};

    if (is_whole && RUN * state.bytes == 16) {
        *reinterpret_cast<uint4 *>(&x) = *reinterpret_cast<const uint4 *>(at);
    } else if (is_whole) {
        *reinterpret_cast<uint2 *>(&x) = *reinterpret_cast<const uint2 *>(at);
    } else {
#pragma unroll
        for (int i = 0; i < RUN; i++)
            if (i < count && state.bytes == 4)
                x.word[i % 4] = reinterpret_cast<const uint32_t *>(at)[i];
            else if (i < count)
                set_half(&x, i, reinterpret_cast<const uint16_t *>(at)[i]);
    }
    return x;
}

/* Those whose bit is set in `touched`; `is_whole`: all RUN, and aligned */
template <int RUN>
__device__ __forceinline__ void store_bits(const struct state &state, const struct bits &x,
                                           uint64_t first, uint32_t touched, bool is_whole)
{
    char *at = state.at + first * state.bytes;

    if (is_whole && RUN * state.bytes == 16) {
        *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(&x);
    } else if (is_whole) {
        *reinterpret_cast<uint2 *>(at) = *reinterpret_cast<const uint2 *>(&x);
    } else {
#pragma unroll
        for (int i = 0; i < RUN; i++)
            if (touched >> i & 1 && state.bytes == 4)
                reinterpret_cast<uint32_t *>(at)[i] = x.word[i % 4];
            else if (touched >> i & 1)
                reinterpret_cast<uint16_t *>(at)[i] = (uint16_t)half_of(x, i);
    }
}

#endif
