/* combine.h - sums of several ranks' parts, element by element in rank order, and the copy that
 * leaves the cache alone. Pure: no communicator, no clock. The order of the additions is
 * ((r0 + r1) + r2) + ... for each element by itself, so where a range is cut changes no bit. 16-bit
 * floats are widened, added in fp32 and rounded when the last rank's part is in. */
#ifndef DSTRAIN_COMM_COMBINE_H
#define DSTRAIN_COMM_COMBINE_H

#include "dstrain/comm.h"

typedef void combine_fn(void *to, const void *a, const void *b, size_t count);

struct combine {
    combine_fn *fold; /* of two parts; in fp32 where `widen` is there */
    void (*widen)(float *to, const uint16_t *from, size_t count);
    void (*narrow)(uint16_t *to, const float *from, size_t count);
    size_t elem_bytes;
};

/* NULL: this dtype is not reduced. A NaN wins MAX and MIN. */
const struct combine *combine_find(enum ds_dtype dtype, enum ds_reduce op);

/* One part a rank: `stride` bytes apart from `base` on, but this rank's lies at `own`. */
struct combine_parts {
    const uint8_t *base;
    size_t stride;
    const void *own;
    uint32_t own_rank, rank_count;
};

/* `to` may be `own` or the place that `own_rank` has from `base` on. */
void combine_ranks(const struct combine *combine, void *to, const struct combine_parts *parts,
                   size_t count);

/* Elements [start, start + count) of `total` that rank `rank` of `rank_count` sums. */
struct ds_span combine_slice(size_t total, uint32_t rank_count, uint32_t rank);

/* memcpy for large results that nobody reads soon: the lines of `to` are not fetched first. */
void copy_past_cache(void *to, const void *from, size_t bytes);

#endif
