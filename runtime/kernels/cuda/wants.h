/* wants.h - the dtypes that a CUDA kernel computes in, looked at when it is called. An absent tensor (data
 * NULL) passes. Read by C and by nvcc. */
#ifndef KERNELS_CUDA_WANTS_H
#define KERNELS_CUDA_WANTS_H

#include "dstrain/status.h"
#include "dstrain/tensor.h"

static inline ds_status cuda_wants(const char *kernel, const char *name,
                                   const struct ds_tensor *tensor, enum ds_dtype dtype)
{
    if (!tensor->data || tensor->dtype == dtype)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "cuda kernel %s: %s is %s, only %s is available", kernel,
                   name, ds_dtype_name(tensor->dtype), ds_dtype_name(dtype));
}

static inline ds_status cuda_wants_float(const char *kernel, const char *name,
                                         const struct ds_tensor *tensor)
{
    if (!tensor->data || tensor->dtype == DS_F32 || tensor->dtype == DS_BF16 ||
        tensor->dtype == DS_F16)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED,
                   "cuda kernel %s: %s is %s, only F32, BF16 and F16 are available", kernel, name,
                   ds_dtype_name(tensor->dtype));
}

static inline ds_status cuda_wants_same(const char *kernel, const char *name,
                                        const struct ds_tensor *tensor, const char *other_name,
                                        const struct ds_tensor *other)
{
    if (!tensor->data || tensor->dtype == other->dtype)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED,
                   "cuda kernel %s: %s is %s and %s %s, only one dtype for both is available",
                   kernel, name, ds_dtype_name(tensor->dtype), other_name,
                   ds_dtype_name(other->dtype));
}

/* In a kernel's entry: CUDA_WANTS("add", args, y, DS_F32) or return. */
#define CUDA_WANTS(kernel, args, field, type) \
    DS_TRY(cuda_wants((kernel), #field, &(args)->field, (type)))
#define CUDA_WANTS_FLOAT(kernel, args, field) \
    DS_TRY(cuda_wants_float((kernel), #field, &(args)->field))
#define CUDA_WANTS_SAME(kernel, args, field, other) \
    DS_TRY(cuda_wants_same((kernel), #field, &(args)->field, #other, &(args)->other))

#endif
