/* attention_index.h - where things lie and who meets whom in the own attention kernels. Plain arithmetic, read
 * by C, too: a test on the host checks it. */
#ifndef KERNELS_CUDA_ATTENTION_INDEX_H
#define KERNELS_CUDA_ATTENTION_INDEX_H

#include <stdint.h>

#ifdef __CUDACC__
#define ATTENTION_INLINE __host__ __device__ static __forceinline__
#else
#define ATTENTION_INLINE static inline
#endif

/* A tile in shared memory: rows of `row_bytes`, a multiple of 128. Pieces of 16 bytes are exchanged within
 * 128 bytes, so that the same piece of 8 rows in a row lies in 8 different groups of banks. */
ATTENTION_INLINE uint32_t attention_offset(uint32_t row, uint32_t piece, uint32_t row_bytes)
{
    return row * row_bytes + ((piece ^ (row & 7)) << 4);
}

/* What a block works on. Heads are next to each other, since those of a group read the same keys; tiles come
 * last, so that the longest can be started first. */
struct attention_place {
    int32_t head, seq, tile;
};

ATTENTION_INLINE struct attention_place attention_place_of(uint32_t block, int32_t heads,
                                                           int32_t seq_count)
{
    struct attention_place p;

    p.head = (int32_t)(block % (uint32_t)heads);
    p.seq = (int32_t)(block / (uint32_t)heads % (uint32_t)seq_count);
    p.tile = (int32_t)(block / (uint32_t)heads / (uint32_t)seq_count);
    return p;
}

ATTENTION_INLINE int32_t attention_steps(int32_t from, int32_t to, int32_t width)
{
    return (to - from + width - 1) / width;
}

/* Where the walk over keys begins for queries from `query` on. document: of the sequence; NULL: it is one.
 * Documents follow each other, so their starts never fall. */
ATTENTION_INLINE int32_t attention_key_begin(const int32_t *document, int32_t query, int32_t width)
{
    return document ? document[query] / width * width : 0;
}

/* Behind the last query that sees a key before `key_end`, itself at most seq_length. */
ATTENTION_INLINE int32_t attention_query_end(const int32_t *document, int32_t seq_length,
                                             int32_t key_end)
{
    int32_t low = key_end, high = seq_length;

    while (document && low < high) {
        const int32_t middle = low + (high - low) / 2;

        if (document[middle] < key_end)
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

ATTENTION_INLINE int attention_sees(int32_t query, int32_t key, int32_t document)
{
    return key <= query && key >= document;
}

#endif
