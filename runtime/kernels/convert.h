/* convert.h - runs of elements between their storage and fp32, for kernels whose arithmetic is too long
 * to be compiled for every combination of dtypes. */
#ifndef KERNELS_CONVERT_H
#define KERNELS_CONVERT_H

#include "dstrain/tensor.h"

/* F32, BF16 and F16; rounded to nearest even */
void kernel_widen(float *to, const void *from, enum ds_dtype dtype, size_t count);
void kernel_narrow(void *to, enum ds_dtype dtype, const float *from, size_t count);

/* Elements start .. start + count of a tensor as fp32: in place where they are, else in `buffer`, from
 * which kernel_return puts back what was changed. */
float *kernel_borrow(const struct ds_tensor *tensor, size_t start, size_t count, float *buffer);
void kernel_return(const struct ds_tensor *tensor, size_t start, size_t count, const float *values);

#endif
