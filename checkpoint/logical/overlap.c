/* overlap.c - what two pieces of one tensor have in common.
 *
 * Row-major order inside a box is the tensor's own order, whichever box it is. So both pieces meet their common
 * elements in one order, and the cursor walks it from run to run: from the later of the two beginnings up to the
 * earlier end, jumping over what only one of the boxes has.
 *
 *   box of `from`   +---------+            a run is a row of the common box, or more of them where the inner
 *                   |    +----|----+       dims are whole in both boxes
 *                   |    |=run|    |
 *                   +----|----+    |
 *                        +---------+   box of `to` */
#include "dstrain/logical.h"

#include <string.h>

/* The tensor's index of element `flat` of a box. */
static void index_of(const struct ds_box *box, uint64_t flat, uint64_t at[DS_LOGICAL_DIMS_MAX])
{
    for (uint32_t dim = box->dim_count; dim-- > 0;) {
        const uint64_t extent = box->end[dim] - box->begin[dim];

        at[dim] = box->begin[dim] + flat % extent;
        flat /= extent;
    }
}

static uint64_t flat_of(const struct ds_box *box, const uint64_t at[DS_LOGICAL_DIMS_MAX])
{
    uint64_t flat = 0;

    for (uint32_t dim = 0; dim < box->dim_count; dim++)
        flat = flat * (box->end[dim] - box->begin[dim]) + (at[dim] - box->begin[dim]);
    return flat;
}

static int is_before(const uint64_t *a, const uint64_t *b, uint32_t dim_count)
{
    for (uint32_t dim = 0; dim < dim_count; dim++)
        if (a[dim] != b[dim])
            return a[dim] < b[dim];
    return 0;
}

static void to_begin(struct ds_overlap_cursor *c, uint32_t first_dim)
{
    for (uint32_t dim = first_dim; dim < c->common.dim_count; dim++)
        c->at[dim] = c->common.begin[dim];
}

/* The next index of dim - 1 (or of one further out), at the beginning of all behind it. */
static void carry(struct ds_overlap_cursor *c, uint32_t dim)
{
    while (dim > 0 && ++c->at[dim - 1] >= c->common.end[dim - 1])
        dim--;
    c->is_over |= dim == 0;
    to_begin(c, dim);
}

/* Moves on to the first index that is in the common box. */
static void enter(struct ds_overlap_cursor *c)
{
    for (uint32_t dim = 0; dim < c->common.dim_count; dim++) {
        if (c->at[dim] < c->common.begin[dim]) {
            to_begin(c, dim);
            return;
        }
        if (c->at[dim] >= c->common.end[dim]) {
            carry(c, dim);
            return;
        }
    }
}

static int is_whole(const struct ds_box *common, const struct ds_box *box, uint32_t dim)
{
    return common->begin[dim] == box->begin[dim] && common->end[dim] == box->end[dim];
}

/* Dims behind row_dims are whole in both boxes, so that a run goes on over the index before them. */
static void measure_rows(struct ds_overlap_cursor *c)
{
    uint32_t dim = c->common.dim_count;
    uint64_t elems = 1;

    for (uint32_t i = dim; i-- > 0;) {
        c->row[i] = elems;
        elems *= c->common.end[i] - c->common.begin[i];
    }
    while (dim > 1 && is_whole(&c->common, &c->from->box, dim - 1) &&
           is_whole(&c->common, &c->to->box, dim - 1))
        dim--;
    c->row_dims = dim > 0 ? dim - 1 : 0;
}

void ds_overlap_begin(struct ds_overlap_cursor *c, const struct ds_piece *from,
                      const struct ds_piece *to)
{
    const uint32_t dim_count = from->box.dim_count;
    uint64_t other[DS_LOGICAL_DIMS_MAX] = {0};

    DS_ASSERT(from->tensor == to->tensor && dim_count == to->box.dim_count);
    *c = (struct ds_overlap_cursor){.from = from, .to = to, .common.dim_count = dim_count};
    for (uint32_t dim = 0; dim < dim_count; dim++) {
        const uint64_t a = from->box.begin[dim], b = to->box.begin[dim];
        const uint64_t y = from->box.end[dim], z = to->box.end[dim];

        c->common.begin[dim] = a > b ? a : b;
        c->common.end[dim] = y < z ? y : z;
        c->is_over |= c->common.begin[dim] >= c->common.end[dim];
    }
    if (c->is_over)
        return;
    measure_rows(c);
    index_of(&from->box, from->begin, c->at);
    index_of(&to->box, to->begin, other);
    if (is_before(c->at, other, dim_count))
        memcpy(c->at, other, sizeof other);
    enter(c);
}

/* Elements from the cursor to the end of its run in the common box. */
static uint64_t run_left(const struct ds_overlap_cursor *c)
{
    uint64_t done = 0, elems = 1;

    for (uint32_t dim = c->row_dims; dim < c->common.dim_count; dim++) {
        done += (c->at[dim] - c->common.begin[dim]) * c->row[dim];
        elems *= c->common.end[dim] - c->common.begin[dim];
    }
    return elems - done;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

int ds_overlap_next(struct ds_overlap_cursor *c, struct ds_overlap *out)
{
    if (c->is_over)
        return 0;
    const uint64_t from = flat_of(&c->from->box, c->at), to = flat_of(&c->to->box, c->at);
    if (from >= c->from->end || to >= c->to->end) {
        c->is_over = 1;
        return 0;
    }
    *out = (struct ds_overlap){
        .from = from - c->from->begin,
        .to = to - c->to->begin,
        .count = least(run_left(c), least(c->from->end - from, c->to->end - to)),
    };
    carry(c, c->row_dims); /* a run that was cut short was the last */
    return 1;
}
