/* draw.cuh - the random numbers of a run of elements of a shard, by which weights without a master are rounded. An
 * element's number depends on its place in the whole parameter, not on the shard. */
#ifndef KERNELS_CUDA_DRAW_CUH
#define KERNELS_CUDA_DRAW_CUH

#include "states.cuh"

#include "dstrain/philox.h"

#define NUMBERS 8                 /* of 16 bits in a block of Philox */
#define FULL    ((1u << RUN) - 1) /* the mask of a whole run */

/* The number of element `at` of a span, and how many elements from there on follow one another. */
__device__ __forceinline__ struct ds_span number_of(const struct ds_adamw_span &span, uint64_t at)
{
    const uint64_t place = span.column + (at - span.start);

    if (span.columns == 0)
        return {span.random_start + place, UINT64_MAX};
    const uint64_t row = place / span.columns, column = place - row * span.columns;
    return {span.random_start + row * span.whole_columns + column, span.columns - column};
}

__device__ __forceinline__ uint4 numbers_block(uint64_t block, uint64_t key, uint64_t step)
{
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)step,
                                 (uint32_t)(step >> 32)};
    uint32_t words[4];

    ds_philox(counter, key, words);
    return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ uint32_t number_at(const uint4 &block, unsigned i)
{
    const uint32_t low = i & 2 ? block.y : block.x, high = i & 2 ? block.w : block.z;

    return (i & 4 ? high : low) >> 16 * (i & 1) & 0xffffu;
}

/* The numbers from `start` on that follow one another, each in its half word: of one block, or of two. */
template <int RUN>
__device__ __forceinline__ struct bits draw_run(uint64_t start, uint64_t key, uint64_t step)
{
    const unsigned skip = (unsigned)(start % NUMBERS);
    const uint4 one = numbers_block(start / NUMBERS, key, step);
    const uint4 two = skip + RUN > NUMBERS ? numbers_block(start / NUMBERS + 1, key, step) : one;
    uint32_t word[] = {one.x, one.y, one.z, one.w, two.x, two.y, two.z, two.w};

#pragma unroll
    for (int i = 0; i < 6; i++)
        word[i] = skip & 4 ? word[i + 2] : word[i];
#pragma unroll
    for (int i = 0; i < 5; i++)
        word[i] = skip & 2 ? word[i + 1] : word[i];
#pragma unroll
    for (int i = 0; i < 4; i++)
        word[i] = skip & 1 ? word[i] >> 16 | word[i + 1] << 16 : word[i];
    return {{word[0], word[1], word[2], word[3]}};
}

template <int RUN> __device__ __forceinline__ void shift_in(struct bits *x, uint32_t half)
{
#pragma unroll
    for (int i = 0; i < RUN / 2 - 1; i++)
        x->word[i] = x->word[i] >> 16 | x->word[i + 1] << 16;
    x->word[RUN / 2 - 1] = x->word[RUN / 2 - 1] >> 16 | half << 16;
}

/* The numbers of those elements first .. that are set in `mask`, each in its half word. Mostly they follow one
 * another; else they are shifted in one by one. */
template <int RUN>
__device__ __forceinline__ struct bits draw(const struct ds_adamw_span &span, uint64_t first,
                                            uint32_t mask, uint64_t step)
{
    const int skip = __ffs((int)mask) - 1;
    struct ds_span number = number_of(span, first + skip);
    struct bits random = {};

    if (mask == FULL && number.count >= RUN)
        return draw_run<RUN>(number.start, span.random_key, step);
#pragma unroll 1
    for (int i = 0; i < RUN; i++) {
        const bool is_set = mask >> i & 1;

        if (is_set && number.count == 0)
            number = number_of(span, first + i);
        const uint4 block = numbers_block(number.start / NUMBERS, span.random_key, step);
        shift_in<RUN>(&random, number_at(block, (unsigned)(number.start % NUMBERS)));
        number.start += is_set;
        number.count -= is_set;
    }
    return random;
}

#endif
