/* tiling.c - the proof that pieces make up whole tensors: the ranges of a box follow one another from its first
 * element to its last, and its boxes are disjoint and have as many elements together as the tensor. */
#include "dstrain/logical.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int compare_boxes(const struct ds_box *a, const struct ds_box *b)
{
    int order = compare(a->dim_count, b->dim_count);

    for (uint32_t dim = 0; dim < a->dim_count && order == 0; dim++) {
        order = compare(a->begin[dim], b->begin[dim]);
        if (order == 0)
            order = compare(a->end[dim], b->end[dim]);
    }
    return order;
}

static int by_place(const void *a, const void *b)
{
    const struct ds_piece *left = a, *right = b;
    int order = compare(left->tensor, right->tensor);

    if (order == 0)
        order = compare_boxes(&left->box, &right->box);
    return order != 0 ? order : compare(left->begin, right->begin);
}

static int are_disjoint(const struct ds_box *a, const struct ds_box *b)
{
    for (uint32_t dim = 0; dim < a->dim_count; dim++)
        if (a->end[dim] <= b->begin[dim] || b->end[dim] <= a->begin[dim])
            return 1;
    return 0;
}

/* One tensor's pieces, sorted, while they are looked at. */
struct proof {
    const struct ds_logical_tensor *tensor;
    const struct ds_piece *at, *end;
    const struct ds_box **boxes; /* room for one a piece */
    size_t box_count;
    uint64_t elems; /* of the boxes so far */
};

static ds_status not_whole(const struct proof *p, const char *how, uint64_t begin)
{
    return ds_fail(DS_ERR_DATA, "%s of '%s' is not whole: %s element %" PRIu64,
                   ds_state_kind_name(p->tensor->kind), p->tensor->name, how, begin);
}

/* The ranges of one box; moves behind them. */
static ds_status prove_box(struct proof *p)
{
    const struct ds_box *box = &p->at->box;
    const uint64_t elems = ds_box_elems(box);
    uint64_t due = 0;

    for (; p->at < p->end && ds_box_equal(&p->at->box, box); p->at++) {
        if (p->at->begin > due)
            return not_whole(p, "no rank has a box's", due);
        if (p->at->begin < due)
            return not_whole(p, "several ranks have a box's", p->at->begin);
        due = p->at->end;
    }
    if (due != elems)
        return not_whole(p, "no rank has a box's", due);
    for (size_t i = 0; i < p->box_count; i++)
        if (!are_disjoint(p->boxes[i], box))
            return not_whole(p, "several boxes have one; the second begins at",
                             box->dim_count ? box->begin[0] : 0);
    p->boxes[p->box_count++] = box;
    p->elems += elems;
    return DS_OK;
}

static ds_status prove_tensor(struct proof *p)
{
    while (p->at < p->end)
        DS_TRY(prove_box(p));
    if (p->elems != ds_logical_elems(p->tensor))
        return ds_fail(DS_ERR_DATA,
                       "%s of '%s' is not whole: ranks have %" PRIu64 " of %" PRIu64 " elements",
                       ds_state_kind_name(p->tensor->kind), p->tensor->name, p->elems,
                       ds_logical_elems(p->tensor));
    return DS_OK;
}

static ds_status prove_all(const struct ds_catalogue *catalogue, const struct ds_piece *pieces,
                           size_t count, uint32_t first, uint32_t stride,
                           const struct ds_box **boxes)
{
    size_t at = 0;

    for (uint32_t tensor = first; tensor < catalogue->count; tensor += stride) {
        while (at < count && pieces[at].tensor < tensor)
            at++;
        size_t end = at;
        while (end < count && pieces[end].tensor == tensor)
            end++;
        struct proof proof = {.tensor = &catalogue->tensors[tensor],
                              .at = pieces + at,
                              .end = pieces + end,
                              .boxes = boxes};
        DS_TRY(prove_tensor(&proof));
        at = end;
    }
    return DS_OK;
}

ds_status ds_tiling_prove(const struct ds_catalogue *catalogue, struct ds_piece *pieces,
                          size_t count, uint32_t first, uint32_t stride)
{
    const struct ds_box **boxes = calloc(count + 1, sizeof *boxes);

    DS_ASSERT(stride > 0);
    if (!boxes)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to prove that tensors are whole");
    for (size_t i = 0; i < count; i++)
        if (!ds_piece_fits(&pieces[i], catalogue)) {
            free(boxes);
            return ds_fail(DS_ERR_DATA, "a piece of tensor %u does not lie in it",
                           pieces[i].tensor);
        }
    if (count > 0)
        qsort(pieces, count, sizeof *pieces, by_place);
    ds_status st = prove_all(catalogue, pieces, count, first, stride, boxes);
    free(boxes);
    return st;
}
