/* logical.h - states in the model's own coordinates, whatever layout holds them: which tensors there are, and
 * which part of one a rank, a chunk or a reader means. Tensor parallelism cuts a box out of a tensor, sharding a
 * flat range out of the box; a piece is such a range. pure: everything here, but that a proof takes memory. */
#ifndef DSTRAIN_LOGICAL_H
#define DSTRAIN_LOGICAL_H

#include "dstrain/status.h"
#include "dstrain/tensor.h"

#define DS_LOGICAL_DIMS_MAX       8
#define DS_LOGICAL_NAME_BYTES_MAX 255
#define DS_LOGICAL_TENSORS_MAX    262144u

/* What a tensor is to training. The numbers stand in files: they stay. */
/* clang-format off */
#define DS_STATE_KIND_LIST(X) \
    X(PARAM, 1, "param") X(MASTER, 2, "master") X(EXP_AVG, 3, "exp_avg") X(EXP_AVG_SQ, 4, "exp_avg_sq")
/* clang-format on */
#define DS_STATE_KIND_ENUM(name, number, text) DS_STATE_KIND_##name = number,
enum ds_state_kind { DS_STATE_KIND_LIST(DS_STATE_KIND_ENUM) };
#undef DS_STATE_KIND_ENUM
const char *ds_state_kind_name(enum ds_state_kind kind);            /* NULL: no such kind */
int ds_state_kind_parse(const char *text, enum ds_state_kind *out); /* 0: unknown */

/* A whole tensor, row-major. The name is HF's; it and the kind together are unique in a catalogue. */
struct ds_logical_tensor {
    char name[DS_LOGICAL_NAME_BYTES_MAX +
              1]; /* printable ASCII without space, quote and backslash */
    enum ds_state_kind kind;
    enum ds_dtype dtype;
    uint32_t dim_count;
    uint64_t shape[DS_LOGICAL_DIMS_MAX]; /* none is 0 */
};

/* The tensors of a run, on every rank the same in the same order: a tensor's number is its place. */
struct ds_catalogue {
    struct ds_logical_tensor *tensors; /* the holder's */
    uint32_t count;
};

/* [begin, end) of each dim; never empty. Of a scalar: no dim, one element. */
struct ds_box {
    uint32_t dim_count;
    uint64_t begin[DS_LOGICAL_DIMS_MAX], end[DS_LOGICAL_DIMS_MAX];
};

/* Elements [begin, end) of a box, counted row-major inside the box. */
struct ds_piece {
    uint32_t tensor; /* of the catalogue */
    struct ds_box box;
    uint64_t begin, end;
};

/* 0 where the product does not fit 64 bits, or a dim is empty */
uint64_t ds_box_elems(const struct ds_box *box);
uint64_t ds_logical_elems(const struct ds_logical_tensor *tensor);
struct ds_box ds_box_whole(const struct ds_logical_tensor *tensor);
int ds_box_equal(const struct ds_box *a, const struct ds_box *b);
/* does it lie inside the tensor, with every dim as it should be; then its elements can be counted */
int ds_box_fits(const struct ds_box *box, const struct ds_logical_tensor *tensor);
/* a box that fits, and a range in it that is not empty */
int ds_piece_fits(const struct ds_piece *piece, const struct ds_catalogue *catalogue);

/* DS_ERR_DATA, one line that begins with `what`: a name or shape that may not be, a tensor that is there twice. */
DS_CHECKED ds_status ds_catalogue_check(const char *what, const struct ds_catalogue *catalogue);

/* The number in `from` of each tensor of `to`, by name and kind; UINT32_MAX: it is not there. DS_ERR_DATA, one line
 * that begins with `what`: one that is there has another shape, so this is another model. Takes memory for a while. */
DS_CHECKED ds_status ds_catalogue_match(const char *what, const struct ds_catalogue *from,
                                        const struct ds_catalogue *to, uint32_t *numbers);

/* ---- resharding: what two pieces of one tensor have in common, as runs that are contiguous in both: as few
 * as there can be, in row-major order. Time grows with the runs, not with the pieces. */
struct ds_overlap {
    uint64_t from, to; /* elements behind the beginning of one piece and of the other */
    uint64_t count;
};
struct ds_overlap_cursor {
    const struct ds_piece *from, *to; /* borrowed */
    struct ds_box common;             /* of the boxes */
    uint64_t at[DS_LOGICAL_DIMS_MAX]; /* the next element to look at */
    uint64_t
        row[DS_LOGICAL_DIMS_MAX]; /* elements of `common` from one index of a dim to the next */
    uint32_t row_dims;            /* dims of which a contiguous run fixes the index */
    int is_over;
};
void ds_overlap_begin(struct ds_overlap_cursor *cursor, const struct ds_piece *from,
                      const struct ds_piece *to);
/* 0: there is no more */
int ds_overlap_next(struct ds_overlap_cursor *cursor, struct ds_overlap *out);

/* Do the pieces cover every element of every tensor exactly once? They may come in any order and are sorted.
 * DS_ERR_DATA names the first tensor that is not whole, and how. Tensors from `first` on, every `stride`-th, are
 * looked at: pieces of others are passed over. */
DS_CHECKED ds_status ds_tiling_prove(const struct ds_catalogue *catalogue, struct ds_piece *pieces,
                                     size_t count, uint32_t first, uint32_t stride);

#endif
