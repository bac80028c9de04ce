/* elements.h - where kernels meet storage: an element of any float dtype is read as fp32, and written
 * rounded to nearest even.
 *
 * A loop is written once, as an inline function whose last parameter is the dtype; ELEMENT_SWITCH
 * calls it with the dtype as a constant, so that it is compiled for each of the three and fp32 is a
 * plain load or store. No branch, no table: it vectorises, and has the same bits everywhere. A NaN
 * stays a NaN; what fp16 cannot hold becomes inf. */
#ifndef KERNELS_ELEMENTS_H
#define KERNELS_ELEMENTS_H

#include "vector_math.h"

#include "dstrain/tensor.h"

#define KERNEL_INLINE static inline __attribute__((always_inline))

/* function(..., dtype); DS_F32, DS_BF16 and DS_F16 passed the kernel's check */
#define ELEMENT_SWITCH(dtype, function, ...) \
    do {                                     \
        if ((dtype) == DS_F32)               \
            function(__VA_ARGS__, DS_F32);   \
        else if ((dtype) == DS_BF16)         \
            function(__VA_ARGS__, DS_BF16);  \
        else                                 \
            function(__VA_ARGS__, DS_F16);   \
    } while (0)

KERNEL_INLINE uint16_t element_to_bf16(float value)
{
    const uint32_t bits = vector_bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}

KERNEL_INLINE float element_of_f16(uint16_t half)
{
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13, sign = (uint32_t)half & 0x8000u;
    const uint32_t rebias = 112u << 23; /* the difference of the exponents' biases */
    const float tiny_base = vector_float_of_bits(113u << 23); /* 2^-14 */
    const float tiny = vector_float_of_bits(magnitude + (113u << 23)) - tiny_base;
    const uint32_t normal = magnitude + (magnitude >= 31u << 23 ? 2 * rebias : rebias);
    const uint32_t bits = magnitude < 1u << 23 ? vector_bits_of_float(tiny) : normal;

    return vector_float_of_bits(bits | sign << 16);
}

KERNEL_INLINE uint16_t element_to_f16(float value)
{
    const uint32_t bits = vector_bits_of_float(value), magnitude = bits & 0x7fffffffu;
    /* subnormal: adding 1/2 rounds to multiples of 2^-24 and leaves them in the low bits */
    const uint32_t tiny =
        vector_bits_of_float(vector_float_of_bits(magnitude) + 0.5f) - (126u << 23);
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < 113u << 23 ? tiny : normal;

    return (uint16_t)((magnitude >= 143u << 23 ? special : finite) | (bits >> 16 & 0x8000u));
}

KERNEL_INLINE float element_load(const void *from, size_t i, enum ds_dtype dtype)
{
    if (dtype == DS_F32)
        return ((const float *)from)[i];
    const uint16_t half = ((const uint16_t *)from)[i];

    return dtype == DS_BF16 ? vector_float_of_bits((uint32_t)half << 16) : element_of_f16(half);
}

KERNEL_INLINE void element_store(void *to, size_t i, float value, enum ds_dtype dtype)
{
    if (dtype == DS_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] = dtype == DS_BF16 ? element_to_bf16(value) : element_to_f16(value);
}

/* Element i of memory that may be read, and that may be written. */
static inline const void *element_from(const void *memory, size_t i, enum ds_dtype dtype)
{
    return (const char *)memory + i * (dtype == DS_F32 ? 4 : 2);
}

static inline void *element_to(void *memory, size_t i, enum ds_dtype dtype)
{
    return (char *)memory + i * (dtype == DS_F32 ? 4 : 2);
}

#endif
