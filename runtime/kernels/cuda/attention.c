/* attention.c - attention on CUDA: arguments are checked, and who computes is chosen.
 *
 * cuDNN is the fastest where it takes the call; its backward adds in an order of the moment. Our own kernels take
 * every call and always give the same bits: they are for deterministic devices, fp32, short documents, and what
 * cuDNN refuses. */
#include "attention_cudnn.h"
#include "attention_own.h"
#include "wants.h"

#include <stdlib.h>

struct cuda_attention {
    struct attention_cudnn *cudnn; /* owned; NULL: own kernels only */
};

ds_status cuda_attention_open(struct cuda_device *device, struct cuda_attention **out)
{
    struct cuda_attention *attention = calloc(1, sizeof *attention);
    ds_status st = DS_OK;

    if (!attention)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for attention plans");
    if (!device->is_deterministic)
        st = attention_cudnn_open(device, &attention->cudnn);
    if (st != DS_OK) {
        cuda_attention_close(attention);
        return st;
    }
    *out = attention;
    return DS_OK;
}

void cuda_attention_close(struct cuda_attention *attention)
{
    if (!attention)
        return;
    attention_cudnn_close(attention->cudnn);
    free(attention);
}

static ds_status check_forward(const char *kernel, const struct ds_attention_args *a)
{
    CUDA_WANTS_FLOAT(kernel, a, q_THD);
    CUDA_WANTS_SAME(kernel, a, k_TGD, q_THD);
    CUDA_WANTS_SAME(kernel, a, v_TGD, q_THD);
    CUDA_WANTS_SAME(kernel, a, o_THD, q_THD);
    CUDA_WANTS(kernel, a, lse_TH, DS_F32);
    CUDA_WANTS(kernel, a, document_T, DS_I32);
    if (a->q_THD.shape[2] > DS_HEAD_DIM_MAX)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "cuda kernel %s: head_dim is %llu, at most %u is available", kernel,
                       (unsigned long long)a->q_THD.shape[2], DS_HEAD_DIM_MAX);
    DS_ASSERT(a->seq_length > 0 && a->q_THD.shape[0] % a->seq_length == 0);
    DS_ASSERT(a->q_THD.shape[0] > 0 && a->q_THD.shape[0] <= INT32_MAX);
    DS_ASSERT(a->q_THD.shape[1] % a->k_TGD.shape[1] == 0);
    DS_ASSERT(a->k_TGD.shape[0] == a->q_THD.shape[0]);
    DS_ASSERT(a->k_TGD.shape[2] == a->q_THD.shape[2]);
    DS_ASSERT(a->scale > 0);
    return DS_OK;
}

static ds_status check_backward(const struct ds_attention_backward_args *a)
{
    static const char kernel[] = "attention_backward";

    DS_TRY(check_forward(kernel, &a->forward));
    CUDA_WANTS_SAME(kernel, a, do_THD, forward.q_THD);
    CUDA_WANTS_SAME(kernel, a, dq_THD, forward.q_THD);
    CUDA_WANTS_SAME(kernel, a, dk_TGD, forward.q_THD);
    CUDA_WANTS_SAME(kernel, a, dv_TGD, forward.q_THD);
    CUDA_WANTS(kernel, a, delta_TH, DS_F32);
    return DS_OK;
}

static struct attention_cudnn *cudnn_of(struct ds_stream *stream)
{
    return cuda_device_of(stream)->math->attention->cudnn;
}

ds_status cuda_attention_forward(struct ds_stream *stream, const struct ds_attention_args *a)
{
    struct attention_cudnn *cudnn = cudnn_of(stream);
    int is_done = 0;

    DS_TRY(check_forward("attention_forward", a));
    if (cudnn)
        DS_TRY(attention_cudnn_forward(cudnn, stream, a, &is_done));
    return is_done ? DS_OK : attention_own_forward(stream, a, NULL);
}

ds_status cuda_attention_backward(struct ds_stream *stream,
                                  const struct ds_attention_backward_args *a)
{
    struct attention_cudnn *cudnn = cudnn_of(stream);
    int is_done = 0;

    DS_TRY(check_backward(a));
    if (cudnn)
        DS_TRY(attention_cudnn_backward(cudnn, stream, a, &is_done));
    return is_done ? DS_OK : attention_own_backward(stream, a, NULL);
}
