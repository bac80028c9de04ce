/* convert.c - runs of elements between their storage and fp32. */
#include "convert.h"

#include "elements.h"
#include "kernels.h"

KERNEL_INLINE void widen(float *to, const void *from, size_t count, enum ds_dtype dtype)
{
    for (size_t i = 0; i < count; i++)
        to[i] = element_load(from, i, dtype);
}

KERNEL_INLINE void narrow(void *to, const float *from, size_t count, enum ds_dtype dtype)
{
    for (size_t i = 0; i < count; i++)
        element_store(to, i, from[i], dtype);
}

KERNEL_CLONES void kernel_widen(float *to, const void *from, enum ds_dtype dtype, size_t count)
{
    ELEMENT_SWITCH(dtype, widen, to, from, count);
}

KERNEL_CLONES void kernel_narrow(void *to, enum ds_dtype dtype, const float *from, size_t count)
{
    ELEMENT_SWITCH(dtype, narrow, to, from, count);
}

float *kernel_borrow(const struct ds_tensor *tensor, size_t start, size_t count, float *buffer)
{
    if (tensor->dtype == DS_F32)
        return (float *)tensor->data + start;
    kernel_widen(buffer, element_from(tensor->data, start, tensor->dtype), tensor->dtype, count);
    return buffer;
}

void kernel_return(const struct ds_tensor *tensor, size_t start, size_t count, const float *values)
{
    if (tensor->dtype != DS_F32)
        kernel_narrow(element_to(tensor->data, start, tensor->dtype), tensor->dtype, values, count);
}
