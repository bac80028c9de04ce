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
/* y = x W^T summed over the ranks, + b */
DS_CHECKED ds_status row_forward(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor x, struct ds_tensor room, struct ds_tensor y);
/* y = residual + what row_forward makes, which lies apart from the residual */
DS_CHECKED ds_status row_forward_onto(const struct ds_pass *pass, const struct linear *layer,
                                      struct ds_tensor x, struct ds_tensor room,
                                      struct ds_tensor residual, struct ds_tensor y);
/* dx = dy W summed over the ranks, after tp_wait */
DS_CHECKED ds_status column_backward_input_begin(const struct ds_pass *pass,
                                                 const struct linear *layer, struct ds_tensor dy,
                                                 struct ds_tensor room, struct ds_tensor dx,
                                                 struct tp_call *call);

#endif
