/* norm_ring.h - where a warp that adds up pieces of the norm keeps what it has read ahead. Plain arithmetic, read
 * by C, too: a test on the host checks it.
 *
 * A warp has as many pieces as it has threads over the threads of a piece, and reads the same rows of all of them
 * at once, a batch; a ring holds some batches. Copied are slots of 16 bytes, neighbours by neighbouring threads: a
 * piece's part of a batch lies side by side in memory. Read is one row by the threads of a piece. So that both
 * meet all banks of shared memory, the parts of two pieces are one row further apart than they are long. */
#ifndef KERNELS_CUDA_NORM_RING_H
#define KERNELS_CUDA_NORM_RING_H

#include <stdint.h>

#ifdef __CUDACC__
#define NORM_INLINE __host__ __device__ static constexpr __forceinline__
#else
#define NORM_INLINE static inline
#endif

#define NORM_LANES 16 /* elements of a row */
#define NORM_BATCH 8  /* rows */
#define NORM_RING  4  /* batches */
#define NORM_WARP  32

/* Threads of a piece: each has 16 bytes of a row. */
NORM_INLINE uint32_t norm_shares(uint32_t elem_bytes)
{
    return NORM_LANES * elem_bytes / 16;
}

/* From a piece's part of a batch to the next one's, in shared memory. */
NORM_INLINE uint32_t norm_part_bytes(uint32_t elem_bytes)
{
    return (NORM_BATCH + 1) * NORM_LANES * elem_bytes;
}

/* A warp copies a batch in as many turns as it has rows, a slot a thread and turn: those of so many pieces. */
NORM_INLINE uint32_t norm_turn_pieces(uint32_t elem_bytes)
{
    return NORM_WARP / (NORM_BATCH * norm_shares(elem_bytes));
}

/* What thread `lane` copies in the first turn; later ones are pieces further. */
struct norm_slot {
    uint32_t piece; /* of the warp's */
    uint32_t elem;  /* of the piece's part of the batch */
    uint32_t at;    /* bytes from the batch's start in shared memory */
};

NORM_INLINE struct norm_slot norm_slot_of(uint32_t lane, uint32_t elem_bytes)
{
    const uint32_t part = NORM_BATCH * norm_shares(elem_bytes);
    const uint32_t piece = lane / part, place = lane % part;
    const struct norm_slot slot = {piece, place * (16 / elem_bytes),
                                   piece * norm_part_bytes(elem_bytes) + place * 16};

    return slot;
}

/* Where thread `lane` finds its 16 bytes of a row. */
NORM_INLINE uint32_t norm_row_at(uint32_t lane, uint32_t row, uint32_t elem_bytes)
{
    const uint32_t shares = norm_shares(elem_bytes);

    return lane / shares * norm_part_bytes(elem_bytes) + row * NORM_LANES * elem_bytes +
           lane % shares * 16;
}

/* Of a batch, gaps and all. */
NORM_INLINE uint32_t norm_batch_bytes(uint32_t elem_bytes)
{
    return NORM_WARP / norm_shares(elem_bytes) * norm_part_bytes(elem_bytes);
}

#endif
