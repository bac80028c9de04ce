/* tensor_parallel.c - the collectives of a block: queued at the same place on all ranks, beside the compute
 * stream, which waits for each of them before it reads what they bring; that wait is a span of the timeline. */
#include "tensor_parallel.h"

#include "dstrain/timeline.h"

int tp_is_alone(const struct ds_model *model, const struct ds_pass *pass)
{
    DS_ASSERT(model->share.tp_size == 1 || (pass->tp && pass->tp->size == model->share.tp_size &&
                                            pass->tp->rank == model->share.tp_rank));
    return model->share.tp_size == 1;
}

static size_t elems_of(const struct ds_tensor *matrix)
{
    return (size_t)(matrix->shape[0] * matrix->shape[1]);
}

/* The stream for a collective of what the compute stream has made so far. */
static ds_status take_turn(const struct ds_pass *pass, struct ds_stream **stream)
{
    struct ds_tensor_stream *tensor = pass->tensor_stream;

    *stream = tensor ? tensor->stream : pass->stream;
    return tensor ? ds_stream_after(tensor->stream, pass->stream, tensor->handover) : DS_OK;
}

static ds_status mark(const struct ds_pass *pass, struct tp_call *call)
{
    struct ds_tensor_stream *tensor = pass->tensor_stream;

    if (!tensor)
        return DS_OK;
    call->done = tensor->done[tensor->call_count++ % DS_TENSOR_CALLS_MAX];
    return pass->stream->device->ops->event_record(call->done, tensor->stream);
}

ds_status tp_wait(const struct ds_pass *pass, struct tp_call *call)
{
    uint32_t span;

    if (!call->done)
        return DS_OK;
    DS_TRY(ds_timeline_wait(pass->timeline, DS_TIMELINE_COMPUTE, DS_TIMELINE_COLLECTIVE, &span));
    DS_TRY(pass->stream->device->ops->stream_wait(pass->stream, call->done));
    call->done = NULL;
    return ds_timeline_end(pass->timeline, span);
}

static ds_status all_reduce_begin(const struct ds_pass *pass, void *data, size_t count,
                                  enum ds_dtype dtype, enum ds_reduce op, struct tp_call *call)
{
    struct ds_stream *stream;

    DS_TRY(take_turn(pass, &stream));
    DS_TRY(ds_comm_all_reduce(pass->tp, data, count, dtype, op, stream));
    return mark(pass, call);
}

ds_status tp_all_reduce(const struct ds_pass *pass, void *data, size_t count, enum ds_dtype dtype,
                        enum ds_reduce op)
{
    struct tp_call call = {0};

    DS_TRY(all_reduce_begin(pass, data, count, dtype, op, &call));
    return tp_wait(pass, &call);
}

ds_status tp_gather_begin(const struct ds_model *model, const struct ds_pass *pass,
                          struct ds_tensor part, struct ds_tensor room, struct ds_tensor *whole,
                          struct tp_call *call)
{
    struct ds_stream *stream;

    *whole = room.data ? room : part;
    *call = (struct tp_call){0};
    if (tp_is_alone(model, pass) || !room.data)
        return DS_OK;
    DS_TRY(take_turn(pass, &stream));
    DS_TRY(ds_comm_all_gather(pass->tp, part.data, room.data, elems_of(&part), part.dtype, stream));
    return mark(pass, call);
}

ds_status tp_gather(const struct ds_model *model, const struct ds_pass *pass, struct ds_tensor part,
                    struct ds_tensor room, struct ds_tensor *whole)
{
    struct tp_call call;

    DS_TRY(tp_gather_begin(model, pass, part, room, whole, &call));
    return tp_wait(pass, &call);
}

struct ds_tensor tp_partial(struct ds_tensor sum, struct ds_tensor room)
{
    return room.data ? room : sum;
}

ds_status tp_sum_begin(const struct ds_model *model, const struct ds_pass *pass,
                       struct ds_tensor sum, struct ds_tensor room, struct tp_call *call)
{
    struct ds_stream *stream;

    *call = (struct tp_call){0};
    if (tp_is_alone(model, pass))
        return DS_OK;
    if (!room.data)
        return all_reduce_begin(pass, sum.data, elems_of(&sum), sum.dtype, DS_REDUCE_SUM, call);
    DS_TRY(take_turn(pass, &stream));
    DS_TRY(
        ds_comm_reduce_scatter(pass->tp, room.data, sum.data, elems_of(&sum), sum.dtype, stream));
    return mark(pass, call);
}

ds_status tp_sum(const struct ds_model *model, const struct ds_pass *pass, struct ds_tensor sum,
                 struct ds_tensor room)
{
    struct tp_call call;

    DS_TRY(tp_sum_begin(model, pass, sum, room, &call));
    return tp_wait(pass, &call);
}

ds_status column_backward_input_begin(const struct ds_pass *pass, const struct linear *layer,
                                      struct ds_tensor dy, struct ds_tensor room,
                                      struct ds_tensor dx, struct tp_call *call)
{
    DS_TRY(linear_backward_input(pass, layer, dy, tp_partial(dx, room)));
    return tp_sum_begin(layer->block->model, pass, dx, room, call);
}
