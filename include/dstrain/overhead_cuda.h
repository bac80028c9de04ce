/* overhead_cuda.h - what a process takes of a GPU beside what it asks for. Read by the plugin, and by the plan
 * where there is no GPU. pure.
 *
 * Measured on an H100 (CUDA 13.0, cuBLASLt, cuDNN 9.19, driver 580): what the driver counts after the last step,
 * less arenas in whole pages and scratch, is 556.6 MB with examples/bench-1b.ini (38 GB in 122 pieces) and
 * 558.7 MB with bench-124m.ini (11 GB in 92). NCCL 2.28.9 on two of them: 871 MiB with one group (bench-1b.ini, ZeRO-3),
 * 1,359 MiB with two (bench-1b-tp2.ini), so 488 MiB a group and 383 MiB once. Later, 0f7bbb9: 566 to 570 MB in eight runs; a
 * limit shall hold, so the most counts.
 * With 27.5, 63.4 and 83.0 GB of pinned memory the driver counted 61, 132 and 173 MB more than without: 8 bytes for each of
 * its pages of 4 KiB, 54, 124 and 162 MB, and a little. */
#ifndef DSTRAIN_OVERHEAD_CUDA_H
#define DSTRAIN_OVERHEAD_CUDA_H

#include "dstrain/device.h"

#define DS_CUDA_SCRATCH_BYTES ((uint64_t)320 << 20)

static const struct ds_device_overhead ds_overhead_cuda = {
    /* library_bytes */ (uint64_t)546 << 20,
    /* first_group_bytes */ (uint64_t)383 << 20,
    /* group_bytes */ (uint64_t)488 << 20,
    /* scratch_bytes */ DS_CUDA_SCRATCH_BYTES,
    /* page_bytes */ (uint64_t)2 << 20,
    /* pinned_per_byte */ 512,
};

#endif
