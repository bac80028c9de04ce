/* attention.h - what forward and backward of attention share: shapes, and who sees whom.
 *
 * Both go over blocks of ATTENTION_BLOCK queries and keys, so that no score is ever kept: memory is
 * O(S). A pair of blocks in which no query sees a key is not visited. */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include "elements.h"
#include "kernels.h"
#include "tile.h"

#define ATTENTION_BLOCK 64 /* queries, keys */

struct attention {
    const void *q, *k, *v;
    enum ds_dtype dtype; /* of all tensors with a D */
    const int32_t *document;
    size_t seq_count, seq_length, heads, kv_heads, dim;
    size_t group;      /* query heads of a kv head */
    size_t dim_padded; /* rows of blocks in hand: a multiple of TILE_LANES */
    float scale;
};

/* local: reads the shapes; what this table cannot do is an error that names it. */
ds_status kernel_attention_check(const char *kernel, const struct ds_attention_args *args);
struct attention kernel_attention_describe(const struct ds_attention_args *args);

/* The first position that some query of the block sees; documents start where they may. */
size_t kernel_attention_first_key(const struct attention *at, size_t seq, size_t query_first,
                                  size_t query_count);

/* Where the row of a token's head lies, in tensors of `heads` heads. */
static inline size_t attention_row(const struct attention *at, size_t seq, size_t position,
                                   size_t heads, size_t head)
{
    return ((seq * at->seq_length + position) * heads + head) * at->dim;
}

/* `rows` rows of a head, from element `row` on, in a tensor of `heads` heads. */
static inline struct tile_source attention_rows(const struct attention *at, const void *tensor,
                                                size_t row, size_t heads, size_t rows)
{
    return (struct tile_source){.from = element_from(tensor, row, at->dtype),
                                .dtype = at->dtype,
                                .from_stride = heads * at->dim,
                                .rows = rows,
                                .columns = at->dim};
}

static inline size_t attention_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

#endif
