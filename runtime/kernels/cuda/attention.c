/* attention.c - attention on CUDA: arguments are checked here. */
#include "attention_own.h"

ds_status cuda_attention_open(struct cuda_device *device, struct cuda_attention **out)
{
    (void)device;
    *out = NULL; /* own kernels keep nothing */
    return DS_OK;
}

void cuda_attention_close(struct cuda_attention *attention)
{
    DS_ASSERT(attention == NULL);
}

static ds_status wants(const char *kernel, const char *name, const struct ds_tensor *tensor,
                       enum ds_dtype dtype)
{
    if (tensor->dtype == dtype)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "cuda kernel %s: %s is %s, not %s", kernel, name,
                   ds_dtype_name(tensor->dtype), ds_dtype_name(dtype));
}

static ds_status check_forward(const char *kernel, const struct ds_attention_args *a)
{
    const enum ds_dtype dtype = a->q_THD.dtype;

    DS_TRY(wants(kernel, "k_TGD", &a->k_TGD, dtype));
    DS_TRY(wants(kernel, "v_TGD", &a->v_TGD, dtype));
    DS_TRY(wants(kernel, "o_THD", &a->o_THD, dtype));
    DS_TRY(wants(kernel, "lse_TH", &a->lse_TH, DS_F32));
    DS_TRY(wants(kernel, "document_T", &a->document_T, DS_I32));
    if (a->q_THD.shape[2] > ATTENTION_DIM_MAX)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "cuda kernel %s: head_dim is %llu, at most %d is available", kernel,
                       (unsigned long long)a->q_THD.shape[2], ATTENTION_DIM_MAX);
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
    const enum ds_dtype dtype = a->forward.q_THD.dtype;

    DS_TRY(check_forward(kernel, &a->forward));
    DS_TRY(wants(kernel, "do_THD", &a->do_THD, dtype));
    DS_TRY(wants(kernel, "dq_THD", &a->dq_THD, dtype));
    DS_TRY(wants(kernel, "dk_TGD", &a->dk_TGD, dtype));
    DS_TRY(wants(kernel, "dv_TGD", &a->dv_TGD, dtype));
    return wants(kernel, "delta_TH", &a->delta_TH, DS_F32);
}

ds_status cuda_attention_forward(struct ds_stream *stream, const struct ds_attention_args *a)
{
    DS_TRY(check_forward("attention_forward", a));
    return attention_own_forward(stream, a);
}

ds_status cuda_attention_backward(struct ds_stream *stream,
                                  const struct ds_attention_backward_args *a)
{
    DS_TRY(check_backward(a));
    return attention_own_backward(stream, a);
}
