/* random.c - Philox-4x32-10 by position, and what is drawn from it: words, units, and a
 * permutation that needs no memory. Pure: no state, safe on every thread. */
#include "dstrain/random.h"

#include "dstrain/philox.h"
#include "dstrain/status.h"

#define FEISTEL_ROUNDS 8

/* The finaliser of SplitMix64: a bijection in which every input bit reaches every output bit. */
static uint64_t mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void ds_random_philox(const uint32_t counter[4], uint64_t key, uint32_t to[4])
{
    ds_philox(counter, key, to);
}

static void block_of(struct ds_random random, uint64_t block, uint32_t to[4])
{
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), 0, 0};

    ds_random_philox(counter, random.key, to);
}

struct ds_random ds_random_of(uint64_t seed, enum ds_random_stream stream, uint64_t detail)
{
    return (struct ds_random){mix64(mix64(mix64(seed) + (uint64_t)stream) + detail)};
}

uint32_t ds_random_u32(struct ds_random random, uint64_t index)
{
    uint32_t words[4];

    block_of(random, index / 4, words);
    return words[index % 4];
}

uint64_t ds_random_u64(struct ds_random random, uint64_t index)
{
    const unsigned at = 2 * (unsigned)(index % 2);
    uint32_t words[4];

    block_of(random, index / 2, words);
    return (uint64_t)words[at] | (uint64_t)words[at + 1] << 32;
}

double ds_random_unit(struct ds_random random, uint64_t index)
{
    return (double)(ds_random_u64(random, index) >> 11) * 0x1p-53;
}

/* The high half of a 64x64-bit product; what it favours, it favours by less than bound / 2^64. */
uint64_t ds_random_below(struct ds_random random, uint64_t index, uint64_t bound)
{
    DS_ASSERT(bound >= 1);
    return (uint64_t)((unsigned __int128)ds_random_u64(random, index) * bound >> 64);
}

/* The smallest h with 4^h >= count: a Feistel network wants two halves of equal width. */
static unsigned half_bits(uint64_t count)
{
    unsigned bits = 0;

    while (bits < 32 && ((uint64_t)1 << (2 * bits)) < count)
        bits++;
    return bits;
}

static uint64_t feistel(const uint64_t keys[FEISTEL_ROUNDS], unsigned bits, uint64_t index)
{
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    uint64_t left = index >> bits, right = index & mask;

    for (int round = 0; round < FEISTEL_ROUNDS; round++) {
        uint64_t next = left ^ (mix64(keys[round] ^ right) & mask);

        left = right;
        right = next;
    }
    return left << bits | right;
}

/* Walks the network's cycle until it is back below count. The network covers less than 4 * count
 * numbers, so that takes less than 4 walks on average; a bijection stays one. */
uint64_t ds_random_permute(struct ds_random random, uint64_t index, uint64_t count)
{
    const unsigned bits = half_bits(count);
    uint64_t keys[FEISTEL_ROUNDS];

    DS_ASSERT(index < count);
    if (count == 1)
        return 0;
    for (unsigned round = 0; round < FEISTEL_ROUNDS; round++)
        keys[round] = mix64(random.key + round);
    do {
        index = feistel(keys, bits, index);
    } while (index >= count);
    return index;
}
