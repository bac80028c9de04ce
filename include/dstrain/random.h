/* random.h - random numbers by position, not by order of calls: a value is a function of
 * (seed, stream, index) only, so any rank can make any part of any tensor.
 *
 * Philox-4x32 with 10 rounds (Salmon et al., SC'11): key = 64 bits mixed from seed and stream,
 * counter = index / 4; element i of a stream is word i % 4 of block i / 4. pure: everything here. */
#ifndef DSTRAIN_RANDOM_H
#define DSTRAIN_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct ds_random {
    uint64_t key;
};

/* pure: one block of Philox-4x32-10; the low half of `key` is key word 0. */
void ds_random_philox(const uint32_t counter[4], uint64_t key, uint32_t to[4]);

/* What draws from a seed. A stream may be refined by a number (a parameter's index, an epoch). */
enum ds_random_stream {
    DS_RANDOM_INIT,
    DS_RANDOM_SHUFFLE,
    DS_RANDOM_BLEND,
    DS_RANDOM_SAMPLE,
    DS_RANDOM_TEST,
    DS_RANDOM_DROPOUT,
    DS_RANDOM_ROUND
};

struct ds_random ds_random_of(uint64_t seed, enum ds_random_stream stream, uint64_t detail);
uint32_t ds_random_u32(struct ds_random random, uint64_t index);
uint64_t ds_random_u64(struct ds_random random, uint64_t index); /* words 2i and 2i+1 */
double ds_random_unit(struct ds_random random, uint64_t index);  /* [0, 1), 53 bits */
uint64_t ds_random_below(struct ds_random random, uint64_t index, uint64_t bound); /* bound >= 1 */
/* elements start..start+count of N(0, std^2), Box-Muller on words 2i, 2i+1 of element i */
void ds_random_normal(struct ds_random random, uint64_t start, size_t count, float std, float *to);

/* pure: a permutation of 0..count-1 by position, O(1) memory (a 4-round-or-more Feistel network on
 * the next even power of two, cycle-walked). A bijection for every (random, count). */
uint64_t ds_random_permute(struct ds_random random, uint64_t index, uint64_t count);

#endif
