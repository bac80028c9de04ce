/* logical.c - names of kinds, boxes inside tensors, a catalogue that can be trusted. */
#include "dstrain/logical.h"

#include <stdlib.h>
#include <string.h>

const char *ds_state_kind_name(enum ds_state_kind kind)
{
#define CASE(name, number, text) \
    case DS_STATE_KIND_##name:   \
        return text;
    switch (kind) {
        DS_STATE_KIND_LIST(CASE)
    }
#undef CASE
    return NULL;
}

int ds_state_kind_parse(const char *text, enum ds_state_kind *out)
{
    for (int kind = 1; ds_state_kind_name((enum ds_state_kind)kind); kind++)
        if (strcmp(text, ds_state_kind_name((enum ds_state_kind)kind)) == 0) {
            *out = (enum ds_state_kind)kind;
            return 1;
        }
    return 0;
}

uint64_t ds_box_elems(const struct ds_box *box)
{
    uint64_t elems = 1;

    for (uint32_t dim = 0; dim < box->dim_count; dim++)
        if (box->end[dim] <= box->begin[dim] ||
            __builtin_mul_overflow(elems, box->end[dim] - box->begin[dim], &elems))
            return 0;
    return elems;
}

struct ds_box ds_box_whole(const struct ds_logical_tensor *tensor)
{
    struct ds_box box = {.dim_count = tensor->dim_count};

    for (uint32_t dim = 0; dim < tensor->dim_count; dim++)
        box.end[dim] = tensor->shape[dim];
    return box;
}

uint64_t ds_logical_elems(const struct ds_logical_tensor *tensor)
{
    const struct ds_box whole = ds_box_whole(tensor);

    return ds_box_elems(&whole);
}

int ds_box_equal(const struct ds_box *a, const struct ds_box *b)
{
    int same = a->dim_count == b->dim_count;

    for (uint32_t dim = 0; dim < a->dim_count && same; dim++)
        same = a->begin[dim] == b->begin[dim] && a->end[dim] == b->end[dim];
    return same;
}

int ds_box_fits(const struct ds_box *box, const struct ds_logical_tensor *tensor)
{
    int fits = box->dim_count == tensor->dim_count;

    for (uint32_t dim = 0; dim < tensor->dim_count && fits; dim++)
        fits = box->begin[dim] < box->end[dim] && box->end[dim] <= tensor->shape[dim];
    return fits;
}

int ds_piece_fits(const struct ds_piece *piece, const struct ds_catalogue *catalogue)
{
    return piece->tensor < catalogue->count &&
           ds_box_fits(&piece->box, &catalogue->tensors[piece->tensor]) &&
           piece->begin < piece->end && piece->end <= ds_box_elems(&piece->box);
}

/* ---- the catalogue */

static int is_name(const char *name)
{
    size_t length = strnlen(name, DS_LOGICAL_NAME_BYTES_MAX + 1);
    int good = length > 0 && length <= DS_LOGICAL_NAME_BYTES_MAX;

    for (size_t i = 0; i < length && good; i++)
        good = name[i] > ' ' && name[i] < 0x7f && name[i] != '"' && name[i] != '\\';
    return good;
}

static ds_status check_tensor(const char *what, uint32_t index,
                              const struct ds_logical_tensor *tensor)
{
    const uint64_t elems = tensor->dim_count <= DS_LOGICAL_DIMS_MAX ? ds_logical_elems(tensor) : 0;

    if (!is_name(tensor->name))
        return ds_fail(DS_ERR_DATA, "%s: tensor %u has a name that cannot be one", what, index);
    if (!ds_state_kind_name(tensor->kind) || tensor->dtype >= DS_DTYPE_COUNT)
        return ds_fail(DS_ERR_DATA, "%s: tensor %u, '%s': unknown kind or dtype", what, index,
                       tensor->name);
    if (elems == 0 || elems > INT64_MAX / 16)
        return ds_fail(DS_ERR_DATA, "%s: tensor %u, '%s': a shape that cannot be one", what, index,
                       tensor->name);
    return DS_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct ds_logical_tensor *left = *(const struct ds_logical_tensor *const *)a;
    const struct ds_logical_tensor *right = *(const struct ds_logical_tensor *const *)b;
    const int order = strcmp(left->name, right->name);

    return order != 0 ? order : (left->kind > right->kind) - (left->kind < right->kind);
}

static ds_status sort_by_name(const char *what, const struct ds_catalogue *catalogue,
                              const struct ds_logical_tensor ***out)
{
    const struct ds_logical_tensor **sorted = calloc(catalogue->count + 1u, sizeof *sorted);

    if (!sorted)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for the catalogue", what);
    for (uint32_t i = 0; i < catalogue->count; i++)
        sorted[i] = &catalogue->tensors[i];
    qsort(sorted, catalogue->count, sizeof *sorted, by_name);
    *out = sorted;
    return DS_OK;
}

static ds_status check_unique(const char *what, const struct ds_catalogue *catalogue)
{
    const struct ds_logical_tensor **sorted = NULL;
    ds_status st = DS_OK;

    DS_TRY(sort_by_name(what, catalogue, &sorted));
    for (uint32_t i = 1; i < catalogue->count && st == DS_OK; i++)
        if (by_name(&sorted[i - 1], &sorted[i]) == 0)
            st = ds_fail(DS_ERR_DATA, "%s: %s of '%s' is there twice", what,
                         ds_state_kind_name(sorted[i]->kind), sorted[i]->name);
    free(sorted);
    return st;
}

ds_status ds_catalogue_check(const char *what, const struct ds_catalogue *catalogue)
{
    if (catalogue->count == 0 || catalogue->count > DS_LOGICAL_TENSORS_MAX)
        return ds_fail(DS_ERR_DATA, "%s: %u tensors: there can be 1..%u", what, catalogue->count,
                       DS_LOGICAL_TENSORS_MAX);
    for (uint32_t i = 0; i < catalogue->count; i++)
        DS_TRY(check_tensor(what, i, &catalogue->tensors[i]));
    return check_unique(what, catalogue);
}

static int has_shape_of(const struct ds_logical_tensor *a, const struct ds_logical_tensor *b)
{
    return a->dim_count == b->dim_count &&
           memcmp(a->shape, b->shape, a->dim_count * sizeof a->shape[0]) == 0;
}

ds_status ds_catalogue_match(const char *what, const struct ds_catalogue *from,
                             const struct ds_catalogue *to, uint32_t *numbers)
{
    const struct ds_logical_tensor **sorted = NULL;
    ds_status st = DS_OK;

    DS_TRY(sort_by_name(what, from, &sorted));
    for (uint32_t i = 0; i < to->count && st == DS_OK; i++) {
        const struct ds_logical_tensor *wanted = &to->tensors[i];
        const struct ds_logical_tensor **found =
            bsearch(&wanted, sorted, from->count, sizeof *sorted, by_name);

        numbers[i] = found ? (uint32_t)(*found - from->tensors) : UINT32_MAX;
        if (found && !has_shape_of(*found, wanted))
            st = ds_fail(DS_ERR_DATA, "%s: '%s' has another shape there: it is of another model",
                         what, wanted->name);
    }
    free(sorted);
    return st;
}
