/* tensor_parallel.h - where tensor ranks meet inside a block (Shoeybi et al. 2019, Korthikanti et al. 2022);
 * private to this folder.
 *
 * Column-parallel layers have rows of the matrix here: every rank gives them the same input, and the
 * gradients of it are parts of a sum. Row-parallel layers have columns: their outputs are parts of a sum,
 * the bias joins it once. A sum over the ranks is an all-reduce; where the residual stream's tokens are
 * shared out, too, it is a reduce-scatter, and its opposite an all-gather. Then a block has a `room` for
 * the whole [T, C]; an absent one says that every rank has all tokens. */
#ifndef MODEL_TENSOR_PARALLEL_H
#define MODEL_TENSOR_PARALLEL_H

#include "linear.h"

/* collective over pass->tp, all of these but tp_wait, in this order on every rank; alone they do nothing. */

/* A collective that goes on beside what the block computes next. */
struct tp_call {
    struct ds_event *done; /* NULL: there is nothing to wait for */
};

/* What the compute stream gets from here on comes after the collective. local */
DS_CHECKED ds_status tp_wait(const struct ds_pass *pass, struct tp_call *call);

/* pure: a model that is shared out needs its ranks; a whole one has none. */
int tp_is_alone(const struct ds_model *model, const struct ds_pass *pass);

/* The whole of `part`, which is `part` itself without a room; not to be read before tp_wait. */
DS_CHECKED ds_status tp_gather_begin(const struct ds_model *model, const struct ds_pass *pass,
                                     struct ds_tensor part, struct ds_tensor room,
                                     struct ds_tensor *whole, struct tp_call *call);
DS_CHECKED ds_status tp_gather(const struct ds_model *model, const struct ds_pass *pass,
                               struct ds_tensor part, struct ds_tensor room,
                               struct ds_tensor *whole);
/* Of what every rank has, however it came there. */
DS_CHECKED ds_status tp_all_reduce(const struct ds_pass *pass, void *data, size_t count,
                                   enum ds_dtype dtype, enum ds_reduce op);
/* Where a part of the sum that will be `sum` is made. */
struct ds_tensor tp_partial(struct ds_tensor sum, struct ds_tensor room);
/* `sum` becomes the sum over the ranks of what they have made there, which stays as it is until tp_wait. */
DS_CHECKED ds_status tp_sum_begin(const struct ds_model *model, const struct ds_pass *pass,
                                  struct ds_tensor sum, struct ds_tensor room,
                                  struct tp_call *call);
DS_CHECKED ds_status tp_sum(const struct ds_model *model, const struct ds_pass *pass,
                            struct ds_tensor sum, struct ds_tensor room);
/* dx = dy W summed over the ranks, after tp_wait */
DS_CHECKED ds_status column_backward_input_begin(const struct ds_pass *pass,
                                                 const struct linear *layer, struct ds_tensor dy,
                                                 struct ds_tensor room, struct ds_tensor dx,
                                                 struct tp_call *call);

/* ---- the way forward in pieces, where tokens are shared out: of every rank's run of tokens one half's collective runs
 * beside the other half's arithmetic. The room has the pieces one after the other, in each the ranks' rows in turn; what
 * products write has its tokens in order. In one piece all of it is as if there were none. */

#define TP_PIECES_MAX 2

struct tp_pieces {
    uint32_t count, ranks;
    uint64_t rows; /* of a piece, in every rank's run */
    struct tp_call calls[TP_PIECES_MAX];
};

/* pure: `R` tokens of every rank's, in two pieces if each is large enough for products to stay worth their while */
struct tp_pieces tp_pieces_of(const struct ds_model *model, uint64_t R);
/* pure: the rows of piece `i` of what has R rows; absent stays absent */
struct ds_tensor tp_piece(const struct tp_pieces *pieces, uint32_t i, struct ds_tensor rows);
/* begins to gather piece `i` of `part` [R, C]; *whole is what column_forward reads */
DS_CHECKED ds_status tp_gather_piece(const struct ds_model *model, const struct ds_pass *pass,
                                     struct tp_pieces *pieces, uint32_t i, struct ds_tensor part,
                                     struct ds_tensor room, struct ds_tensor *whole);
/* y = x W^T + b, of pieces that are being gathered; local */
DS_CHECKED ds_status column_forward(const struct ds_pass *pass, const struct linear *layer,
                                    struct tp_pieces *pieces, struct ds_tensor whole,
                                    struct ds_tensor y);
/* and of gates and ups their product, unless it is absent */
DS_CHECKED ds_status column_forward_swiglu(const struct ds_pass *pass, const struct linear *layer,
                                           struct tp_pieces *pieces, struct ds_tensor whole,
                                           struct ds_tensor y, struct ds_tensor product);
/* y = x W^T summed over the ranks, + b; of piece `i` of y, after its end (which is local) */
DS_CHECKED ds_status row_forward_begin(const struct ds_pass *pass, const struct linear *layer,
                                       struct tp_pieces *pieces, struct ds_tensor x,
                                       struct ds_tensor room, struct ds_tensor y);
DS_CHECKED ds_status row_forward_end(const struct ds_pass *pass, const struct linear *layer,
                                     struct tp_pieces *pieces, uint32_t i, struct ds_tensor y);
/* y = residual + what these make, which lies apart from the residual */
DS_CHECKED ds_status row_forward_onto(const struct ds_pass *pass, const struct linear *layer,
                                      struct tp_pieces *pieces, struct ds_tensor x,
                                      struct ds_tensor room, struct ds_tensor residual,
                                      struct ds_tensor y);

#endif
