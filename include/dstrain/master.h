/* master.h - how a bf16 weight follows what the optimizer keeps of it. Read by C and by nvcc.
 *
 * With an fp32 master the weight is the nearest bf16, ties away from zero: then a master is its weight and
 * one signed 16-bit correction, all 2^32 of them, since what rounds to one weight are 65,536 numbers that
 * follow each other. (Ties to even would give every other weight 65,537.) So a master kept as correction
 * and one kept as fp32 have the same bits, and so have their weights. Without a master a weight is rounded
 * up or down by chance, so that it moves by the right amount on average. pure: everything here. */
#ifndef DSTRAIN_MASTER_H
#define DSTRAIN_MASTER_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define DS_MASTER_INLINE static __host__ __device__ __forceinline__
#else
#define DS_MASTER_INLINE static inline __attribute__((always_inline))
#endif

#ifdef __cplusplus
extern "C" {
#endif

DS_MASTER_INLINE uint32_t ds_master_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

DS_MASTER_INLINE int ds_master_is_nan(uint32_t bits)
{
    return (bits & 0x7fffffffu) > 0x7f800000u;
}

/* the weight of a master; NaN stays NaN */
DS_MASTER_INLINE uint16_t ds_master_weight(float master)
{
    const uint32_t bits = ds_master_bits(master);

    return (uint16_t)(ds_master_is_nan(bits) ? bits >> 16 | 0x40u : (bits + 0x8000u) >> 16);
}

/* what the master is away from its weight, in units of the fp32 numbers between them; 0 of a NaN */
DS_MASTER_INLINE int16_t ds_master_remainder(float master)
{
    const uint32_t bits = ds_master_bits(master);

    return (int16_t)(uint16_t)(ds_master_is_nan(bits) ? 0 : bits & 0xffffu);
}

DS_MASTER_INLINE float ds_master_join(uint16_t weight, int16_t remainder)
{
    const uint32_t bits = ((uint32_t)weight << 16) + (uint32_t)(int32_t)remainder;
    float master;

    memcpy(&master, &bits, sizeof master);
    return master;
}

/* away from zero with the probability that makes the mean `value`; `random` is uniform over all 2^16.
 * Infinity and NaN stay. */
DS_MASTER_INLINE uint16_t ds_master_round_randomly(float value, uint16_t random)
{
    const uint32_t bits = ds_master_bits(value);

    if ((bits & 0x7f800000u) == 0x7f800000u)
        return (uint16_t)(ds_master_is_nan(bits) ? bits >> 16 | 0x40u : bits >> 16);
    return (uint16_t)((bits + random) >> 16);
}

#ifdef __cplusplus
}
#endif
#endif
