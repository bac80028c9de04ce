/* dequantise.h - what the entry of a quantised matrix looks at, on any device. */
#ifndef KERNELS_DEQUANTISE_H
#define KERNELS_DEQUANTISE_H

#include "launch.h"

#include "dstrain/kernels.h"
#include "dstrain/quant.h"

/* local: its parts are stored as they must be, and NF4 begins where a block does */
static inline ds_status dequantise_wants(const struct ds_dequantise_args *a)
{
    KERNEL_WANTS_FLOAT("dequantise", a, y);
    if (a->codes.dtype == DS_I8) {
        DS_ASSERT(a->columns > 0);
        KERNEL_WANTS("dequantise", a, absmax, DS_F32);
        return DS_OK;
    }
    DS_ASSERT(a->start % DS_NF4_BLOCK == 0);
    KERNEL_WANTS("dequantise", a, codes, DS_U8);
    if (a->absmax.dtype == DS_U8) {
        DS_ASSERT(a->nest_absmax.data && a->map.data && a->offset.data);
        KERNEL_WANTS("dequantise", a, nest_absmax, DS_F32);
        KERNEL_WANTS("dequantise", a, map, DS_F32);
        KERNEL_WANTS("dequantise", a, offset, DS_F32);
        return DS_OK;
    }
    KERNEL_WANTS("dequantise", a, absmax, DS_F32);
    return DS_OK;
}

#endif
