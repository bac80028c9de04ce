/* narrow.c - the cases of one element are selected, not branched to, so that loops become vectors. */
#include "dstrain/narrow.h"

#include "dstrain/clones.h"

union word {
    float value;
    uint32_t bits;
};

#define INFINITY_BITS 0x7f800000u

static inline uint16_t bf16_of(float value)
{
    const uint32_t bits = ((union word){.value = value}).bits;
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > INFINITY_BITS ? bits >> 16 | 0x40u : rounded);
}

static inline float of_bf16(uint16_t half)
{
    return ((union word){.bits = (uint32_t)half << 16}).value;
}

/* An exponent of 5 bits becomes one of 8 by a factor of 2^112, which makes subnormals right, too. */
static inline float of_f16(uint16_t half)
{
    const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    const union word scaled = {.value = ((union word){.bits = magnitude}).value * 0x1p112f};
    const uint32_t bits = magnitude >= 0x7c00u << 13 ? magnitude | INFINITY_BITS : scaled.bits;

    return ((union word){.bits = bits | (uint32_t)(half & 0x8000) << 16}).value;
}

/* Subnormals: with 0.5 added, the last bit of the sum is worth 2^-24, and the adder rounds. */
static inline uint16_t f16_of(float value)
{
    const uint32_t bits = ((union word){.value = value}).bits, magnitude = bits & 0x7fffffffu;
    const union word lifted = {.value = ((union word){.bits = magnitude}).value + 0.5f};
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t half = magnitude < 0x38800000u ? lifted.bits - 0x3f000000u : normal;

    half = magnitude >= 0x477ff000u ? 0x7c00u : half; /* 65520 and more */
    half = magnitude > INFINITY_BITS ? 0x7e00u : half;
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

DS_CLONES void ds_bf16_widen(float *to, const uint16_t *from, size_t count)
{
    DS_NO_OVERLAP for (size_t i = 0; i < count; i++) to[i] = of_bf16(from[i]);
}

DS_CLONES void ds_bf16_narrow(uint16_t *to, const float *from, size_t count)
{
    DS_NO_OVERLAP for (size_t i = 0; i < count; i++) to[i] = bf16_of(from[i]);
}

DS_CLONES void ds_f16_widen(float *to, const uint16_t *from, size_t count)
{
    DS_NO_OVERLAP for (size_t i = 0; i < count; i++) to[i] = of_f16(from[i]);
}

DS_CLONES void ds_f16_narrow(uint16_t *to, const float *from, size_t count)
{
    DS_NO_OVERLAP for (size_t i = 0; i < count; i++) to[i] = f16_of(from[i]);
}
