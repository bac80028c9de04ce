/* philox.h - Philox-4x32 with 10 rounds (Salmon et al., SC'11): random numbers by position. Read by C and by
 * nvcc: host and GPU draw the same ones. pure. */
#ifndef DSTRAIN_PHILOX_H
#define DSTRAIN_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define DS_PHILOX_INLINE static __host__ __device__ __forceinline__
#else
#define DS_PHILOX_INLINE static inline
#endif

#define DS_PHILOX_ROUNDS 10

/* One block: four words of a counter of four; the low half of `key` is key word 0. */
DS_PHILOX_INLINE void ds_philox(const uint32_t counter[4], uint64_t key, uint32_t to[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    for (int round = 0; round < DS_PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0;
        uint64_t p1 = (uint64_t)0xcd9e8d57u * c2;

        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    to[0] = c0;
    to[1] = c1;
    to[2] = c2;
    to[3] = c3;
}

#endif
