/* ended_map.h - where the operands of a product with an end of its own lie (ended_product.cuh). Read by C and by nvcc. */
#ifndef KERNELS_CUDA_ENDED_MAP_H
#define KERNELS_CUDA_ENDED_MAP_H

#include "kernels_cuda.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENDED_BOX_COLUMNS 64 /* 128 bytes */

/* pure: is there such a product for these operands here? Hopper's, of 16 bits, in rows of whole 16 bytes. */
int cuda_ended_fits(struct ds_stream *stream, const struct ds_tensor *a, const struct ds_tensor *b);

/* Boxes of `rows` rows; what is outside of the matrix reads as 0. local */
DS_CHECKED ds_status cuda_ended_map(struct ds_stream *stream, const struct ds_tensor *matrix,
                                    uint32_t rows, CUtensorMap *map);

#ifdef __cplusplus
}
#endif
#endif
