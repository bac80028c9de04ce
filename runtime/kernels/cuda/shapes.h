/* shapes.h - how rows, heads and sums over tokens are shared out over blocks and threads. Numbers depend on
 * the tensors' shapes alone, never on the device: they decide the order of sums. pure: everything here; read
 * by C, so that a test without a GPU can walk through it. */
#ifndef KERNELS_CUDA_SHAPES_H
#define KERNELS_CUDA_SHAPES_H

#include <stddef.h>
#include <stdint.h>

#define SHAPE_WARP 32

static inline size_t shape_ceil(size_t count, size_t by)
{
    return (count + by - 1) / by;
}

static inline uint32_t shape_least(size_t a, size_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* Rows of which one thread holds `packs` packs in registers: pack i of thread t is number i * threads + t of
 * the row. Small rows lie side by side in a block. */
struct row_shape {
    uint32_t threads; /* of a row: whole warps */
    uint32_t rows;    /* of a block */
};
static inline struct row_shape shape_rows(size_t width, size_t pack, size_t packs,
                                          size_t block_threads)
{
    const size_t warps = shape_ceil(shape_ceil(width ? width : 1, pack), packs * SHAPE_WARP);
    struct row_shape shape;

    shape.threads = (uint32_t)(warps * SHAPE_WARP);
    shape.rows = shape.threads < block_threads ? (uint32_t)(block_threads / shape.threads) : 1;
    return shape;
}

/* Element by element: a row is cut into chunks, a thread of a chunk has `packs` packs of it. Block b has chunk
 * b % chunks of row b / chunks; pack i of thread t is number (b % chunks * packs + i) * threads + t. */
struct chunk_shape {
    uint32_t threads, chunks;
};
static inline struct chunk_shape shape_chunks(size_t width, size_t pack, size_t packs)
{
    const size_t count = shape_ceil(width ? width : 1, pack);
    struct chunk_shape shape;

    shape.threads = shape_least(shape_ceil(count, packs * SHAPE_WARP) * SHAPE_WARP, 256);
    shape.chunks = (uint32_t)shape_ceil(count, packs * shape.threads);
    return shape;
}

/* Sums over tokens: a block sums some tokens of some columns, SHAPE_WARP packs of them, into a row of partial
 * sums; its warps take tokens in turn. A second kernel adds the rows (columns.cuh). */
#define COLUMN_WARPS  8
#define COLUMN_BLOCKS 1056 /* about: eight for each of 132 multiprocessors */
struct column_shape {
    uint32_t strips; /* of columns */
    uint32_t slabs;  /* of tokens: rows of partial sums */
    size_t tokens;   /* of a slab */
};
static inline struct column_shape shape_columns(size_t token_count, size_t width, size_t pack)
{
    const size_t strips = shape_ceil(width, pack * SHAPE_WARP);
    struct column_shape shape;

    shape.strips = (uint32_t)strips;
    shape.tokens = shape_ceil(token_count, shape_ceil(COLUMN_BLOCKS, strips ? strips : 1));
    if (shape.tokens < 8 * COLUMN_WARPS)
        shape.tokens = 8 * COLUMN_WARPS;
    shape.slabs = (uint32_t)shape_ceil(token_count, shape.tokens);
    return shape;
}

/* Backward of RMSNorm: blocks stay, and each goes through the tokens with a stride, so that the gain's
 * gradient is summed in registers. `slabs`: blocks. */
#define BACKWARD_SLABS 264 /* two for each of 132 multiprocessors */
static inline uint32_t shape_slabs(size_t token_count, size_t tokens_at_once)
{
    return shape_least(shape_ceil(token_count, tokens_at_once), BACKWARD_SLABS);
}

/* Heads of D elements: `width` threads side by side, a power of two, have one head; each has a pack of its
 * first half and the same of its second, the two that a rotation mixes. A block has 256 / width such units;
 * unit u has token u / lanes of the block's tokens, and heads u % lanes + i * lanes. */
#define HEAD_THREADS  256
#define HEADS_AT_ONCE 2 /* heads that a thread has under way */
#define HEAD_SLABS    528
struct head_shape {
    uint32_t lanes, tokens; /* lanes * tokens <= 256 / width */
    size_t groups;          /* of `tokens` tokens */
};
static inline uint32_t shape_head_width(size_t dim, size_t pack)
{
    uint32_t width = 1;

    while (width * pack < dim / 2)
        width *= 2;
    return width;
}
static inline struct head_shape shape_heads(size_t token_count, size_t head_count, uint32_t width)
{
    const size_t units = HEAD_THREADS / width;
    struct head_shape shape;

    shape.lanes = shape_least(shape_ceil(head_count ? head_count : 1, HEADS_AT_ONCE), units);
    shape.tokens = (uint32_t)(units / shape.lanes);
    shape.groups = head_count ? shape_ceil(token_count, shape.tokens) : 0;
    return shape;
}

#endif
