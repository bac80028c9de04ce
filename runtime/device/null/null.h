/* null.h (private) - the null device's kernels. */
#ifndef DSTRAIN_DEVICE_NULL_H
#define DSTRAIN_DEVICE_NULL_H

#include "dstrain/device.h"
#include "dstrain/kernels.h"

extern const struct ds_kernel_ops ds_kernels_null;

#endif
