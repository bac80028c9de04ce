/* launch.h - how a kernel enters: look at the dtypes, then queue the work on the stream's device. */
#ifndef KERNELS_LAUNCH_H
#define KERNELS_LAUNCH_H

#include "dstrain/device.h"
#include "dstrain/status.h"
#include "dstrain/tensor.h"

/* local: `args` (`bytes` long) is copied by the device; the work sees the copy. */
static inline ds_status kernel_launch(struct ds_stream *stream, ds_work_fn work, const void *args,
                                      size_t bytes)
{
    return stream->device->ops->call(stream, work, args, bytes);
}

static inline uint64_t kernel_elems(const struct ds_tensor *tensor)
{
    uint64_t count = 1;

    for (uint32_t i = 0; i < tensor->dim_count; i++)
        count *= tensor->shape[i];
    return count;
}

/* local: `dtype` is what `kernel` computes `name` in; an absent tensor (data NULL) passes. */
static inline ds_status kernel_wants(const char *kernel, const char *name,
                                     const struct ds_tensor *tensor, enum ds_dtype dtype)
{
    if (!tensor->data || tensor->dtype == dtype)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "cpu kernel %s: %s is %s, only %s is available", kernel,
                   name, ds_dtype_name(tensor->dtype), ds_dtype_name(dtype));
}

/* The same in a kernel's entry: KERNEL_WANTS("add", args, y, DS_F32) or return. */
#define KERNEL_WANTS(kernel, args, field, type) \
    DS_TRY(kernel_wants((kernel), #field, &(args)->field, (type)))

#endif
