/* attention_cudnn.h - attention through cuDNN, where it is installed and takes the shape. */
#ifndef KERNELS_CUDA_ATTENTION_CUDNN_H
#define KERNELS_CUDA_ATTENTION_CUDNN_H

#include "attention_graph.h"
#include "kernels_cuda.h"

struct attention_cudnn;

/* local: *out is NULL where cuDNN is not here, which is said once at INFO */
ds_status attention_cudnn_open(struct cuda_device *device, struct attention_cudnn **out);
void attention_cudnn_close(struct attention_cudnn *cudnn); /* NULL is allowed */

/* local: *is_done stays 0 where cuDNN does not do it; said at INFO when a shape is seen for the first time.
 * Plans are made at that time. */
ds_status attention_cudnn_forward(struct attention_cudnn *cudnn, struct ds_stream *stream,
                                  const struct ds_attention_args *a, int *is_done);
ds_status attention_cudnn_backward(struct attention_cudnn *cudnn, struct ds_stream *stream,
                                   const struct ds_attention_backward_args *a, int *is_done);

#endif
