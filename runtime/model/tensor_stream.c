/* tensor_stream.c - the stream on which tensor ranks meet beside the compute stream, and its events. */
#include "dstrain/model.h"

/* On a host its work is driven by calls and waits: a thread of its own would have to wake ten times a layer. */
ds_status ds_tensor_stream_open(struct ds_device *device, struct ds_tensor_stream *out)
{
    *out = (struct ds_tensor_stream){0};
    DS_TRY(device->ops->stream_open(device, 0, &out->stream));
    DS_TRY(device->ops->event_open(device, &out->handover));
    for (int i = 0; i < DS_TENSOR_CALLS_MAX; i++)
        DS_TRY(device->ops->event_open(device, &out->done[i]));
    return DS_OK;
}

void ds_tensor_stream_close(struct ds_tensor_stream *tensor)
{
    if (!tensor->stream)
        return;
    const struct ds_device_ops *ops = tensor->stream->device->ops;

    for (int i = 0; i < DS_TENSOR_CALLS_MAX; i++)
        if (tensor->done[i])
            ops->event_close(tensor->done[i]);
    if (tensor->handover)
        ops->event_close(tensor->handover);
    ops->stream_close(tensor->stream);
    *tensor = (struct ds_tensor_stream){0};
}
