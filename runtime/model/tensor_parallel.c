/* tensor_parallel.c - the collectives of a block, on the compute stream, at the same place on all ranks, each a
 * span of the timeline. */
#include "tensor_parallel.h"

#include "dstrain/timeline.h"

/* A model that is shared out needs its ranks; a whole one has none. */
static int is_alone(const struct ds_model *model, const struct ds_pass *pass)
{
    DS_ASSERT(model->share.tp_size == 1 || (pass->tp && pass->tp->size == model->share.tp_size &&
                                            pass->tp->rank == model->share.tp_rank));
    return model->share.tp_size == 1;
}

static size_t elems_of(const struct ds_tensor *matrix)
{
    return (size_t)(matrix->shape[0] * matrix->shape[1]);
}

static ds_status begin(const struct ds_pass *pass, uint32_t *span)
{
    return ds_timeline_wait(pass->timeline, DS_TIMELINE_COMPUTE, DS_TIMELINE_COLLECTIVE, span);
}

ds_status tp_all_reduce(const struct ds_pass *pass, void *data, size_t count, enum ds_dtype dtype,
                        enum ds_reduce op)
{
    uint32_t span;

    DS_TRY(begin(pass, &span));
    DS_TRY(ds_comm_all_reduce(pass->tp, data, count, dtype, op, pass->stream));
    return ds_timeline_end(pass->timeline, span);
}

ds_status tp_gather(const struct ds_model *model, const struct ds_pass *pass, struct ds_tensor part,
                    struct ds_tensor room, struct ds_tensor *whole)
{
    uint32_t span;

    *whole = room.data ? room : part;
    if (is_alone(model, pass) || !room.data)
        return DS_OK;
    DS_TRY(begin(pass, &span));
    DS_TRY(ds_comm_all_gather(pass->tp, part.data, room.data, elems_of(&part), part.dtype,
                              pass->stream));
    return ds_timeline_end(pass->timeline, span);
}

struct ds_tensor tp_partial(struct ds_tensor sum, struct ds_tensor room)
{
    return room.data ? room : sum;
}

ds_status tp_sum(const struct ds_model *model, const struct ds_pass *pass, struct ds_tensor sum,
                 struct ds_tensor room)
{
    uint32_t span;

    if (is_alone(model, pass))
        return DS_OK;
    if (!room.data)
        return tp_all_reduce(pass, sum.data, elems_of(&sum), sum.dtype, DS_REDUCE_SUM);
    DS_TRY(begin(pass, &span));
    DS_TRY(ds_comm_reduce_scatter(pass->tp, room.data, sum.data, elems_of(&sum), sum.dtype,
                                  pass->stream));
    return ds_timeline_end(pass->timeline, span);
}

ds_status row_forward(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor x,
                      struct ds_tensor room, struct ds_tensor y)
{
    DS_TRY(linear_product(pass, layer, x, tp_partial(y, room)));
    DS_TRY(tp_sum(layer->model, pass, y, room));
    return linear_bias(pass, layer, y);
}

/* In one call where the product is all there is to add: one pass over the stream in place of three. */
ds_status row_forward_onto(const struct ds_pass *pass, const struct linear *layer,
                           struct ds_tensor x, struct ds_tensor room, struct ds_tensor residual,
                           struct ds_tensor y)
{
    const struct ds_add_args add = {y, residual};

    if (is_alone(layer->model, pass) && !layer->bias)
        return linear_product_onto(pass, layer, x, residual, y);
    DS_TRY(row_forward(pass, layer, x, room, y));
    return pass->kernels->add(pass->stream, &add);
}

ds_status column_backward_input(const struct ds_pass *pass, const struct linear *layer,
                                struct ds_tensor dy, struct ds_tensor room, struct ds_tensor dx)
{
    DS_TRY(linear_backward_input(pass, layer, dy, tp_partial(dx, room)));
    return tp_sum(layer->model, pass, dx, room);
}
