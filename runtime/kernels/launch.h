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
    return ds_fail(DS_ERR_UNSUPPORTED, "kernel %s: %s is %s, only %s is available", kernel, name,
                   ds_dtype_name(tensor->dtype), ds_dtype_name(dtype));
}

/* local: stored as fp32, bf16 or fp16 (elements.h); an absent tensor passes. */
static inline ds_status kernel_wants_float(const char *kernel, const char *name,
                                           const struct ds_tensor *tensor)
{
    if (!tensor->data || tensor->dtype == DS_F32 || tensor->dtype == DS_BF16 ||
        tensor->dtype == DS_F16)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "kernel %s: %s is %s, only F32, BF16 and F16 are available",
                   kernel, name, ds_dtype_name(tensor->dtype));
}

/* local: `name` is stored as `other_name` is; an absent tensor passes. */
static inline ds_status kernel_wants_same(const char *kernel, const char *name,
                                          const struct ds_tensor *tensor, const char *other_name,
                                          const struct ds_tensor *other)
{
    if (!tensor->data || tensor->dtype == other->dtype)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED,
                   "kernel %s: %s is %s and %s %s, only one dtype for both is available", kernel,
                   name, ds_dtype_name(tensor->dtype), other_name, ds_dtype_name(other->dtype));
}

/* The same in a kernel's entry: KERNEL_WANTS("add", args, y, DS_F32) or return. */
#define KERNEL_WANTS(kernel, args, field, type) \
    DS_TRY(kernel_wants((kernel), #field, &(args)->field, (type)))
#define KERNEL_WANTS_FLOAT(kernel, args, field) \
    DS_TRY(kernel_wants_float((kernel), #field, &(args)->field))
#define KERNEL_WANTS_SAME(kernel, args, field, other) \
    DS_TRY(kernel_wants_same((kernel), #field, &(args)->field, #other, &(args)->other))

#endif
