/* loss_product.h - cross-entropy behind the product that makes the logits. */
#ifndef KERNELS_CUDA_LOSS_PRODUCT_H
#define KERNELS_CUDA_LOSS_PRODUCT_H

#include "kernels_cuda.h"

/* local; args: with x_NC. Either all of it, then *is_made, or the product alone and factors of 1. */
DS_CHECKED ds_status cuda_loss_product(struct ds_stream *stream,
                                       const struct ds_cross_entropy_args *args, bool *is_made);

#endif
