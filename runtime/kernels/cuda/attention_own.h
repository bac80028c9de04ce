/* attention_own.h - attention by our own kernels: any head_dim up to 256, any length, documents anywhere, and the
 * same bits every time. */
#ifndef KERNELS_CUDA_ATTENTION_OWN_H
#define KERNELS_CUDA_ATTENTION_OWN_H

#include "kernels_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* local: arguments as attention.c has checked them. Nothing happens where *is_done, in device memory, is not 0 when
 * they run; it may be NULL. */
ds_status attention_own_forward(struct ds_stream *stream, const struct ds_attention_args *a,
                                const int32_t *is_done);
ds_status attention_own_backward(struct ds_stream *stream,
                                 const struct ds_attention_backward_args *a,
                                 const int32_t *is_done);

#ifdef __cplusplus
}
#endif
#endif
