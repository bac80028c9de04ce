/* qkv.c - from the fused projection to attention's inputs and back: cut into heads, normalise a head
 * (Qwen3), rotate by position (rotary.h).
 *
 * Backward turns each head's gradient back, then into the gradient of its unnormalised input; the
 * gains' gradients are sums over the turned gradients of all tokens (columns.h). */
#include "columns.h"
#include "kernels.h"
#include "lanes.h"
#include "launch.h"
#include "rotary.h"

#include <math.h>
#include <string.h>

/* The q heads or the k heads: both are treated alike. */
struct heads {
    const void *gain; /* NULL: not normalised */
    float *rstd;      /* [T][count] */
    void *out;        /* q_THD or k_TGD; dq or dk in backward */
    void *dgain;      /* backward */
    enum ds_dtype dgain_dtype;
    size_t count, at; /* at: their first column in a row of qkv */
};

struct cut {
    struct heads q, k;
    const int32_t *position;
    const float *rotary;
    enum ds_dtype dtype;                 /* of all but rstd and the gains' gradients */
    size_t token_count, head_dim, width; /* width: columns of qkv */
};

/* Element i of a head, normalised if has_gain. */
KERNEL_INLINE float head_element(const void *x, const void *gain, float rstd, size_t i,
                                 int has_gain, enum ds_dtype dtype)
{
    const float value = element_load(x, i, dtype);

    return has_gain ? element_load(gain, i, dtype) * (value * rstd) : value;
}

KERNEL_INLINE void rotate(void *out, const void *x, const void *gain, float rstd,
                          const float *cosine, size_t half, int has_gain, enum ds_dtype dtype)
{
    const float *sine = cosine + half;

#pragma omp simd
    for (size_t i = 0; i < half; i++) {
        const float low = head_element(x, gain, rstd, i, has_gain, dtype);
        const float high = head_element(x, gain, rstd, i + half, has_gain, dtype);

        element_store(out, i, low * cosine[i] - high * sine[i], dtype);
        element_store(out, i + half, high * cosine[i] + low * sine[i], dtype);
    }
}

KERNEL_INLINE void split_loop(const struct cut *cut, const struct heads *heads, const void *qkv,
                              size_t token, float epsilon, enum ds_dtype dtype)
{
    const size_t dim = cut->head_dim, half = dim / 2;
    const float *cosine = cut->rotary + (size_t)cut->position[token] * dim;

    for (size_t head = 0; head < heads->count; head++) {
        const size_t at = token * heads->count + head;
        const void *x = element_from(qkv, token * cut->width + heads->at + head * dim, dtype);
        void *out = element_to(heads->out, at * dim, dtype);

        if (heads->gain) {
            const float rstd = 1.0f / sqrtf(lanes_dot(x, x, dim, dtype) / (float)dim + epsilon);

            heads->rstd[at] = rstd;
            rotate(out, x, heads->gain, rstd, cosine, half, 1, dtype);
        } else {
            rotate(out, x, NULL, 1.0f, cosine, half, 0, dtype);
        }
    }
}

KERNEL_CLONES static void split_heads(const struct cut *cut, const struct heads *heads,
                                      const void *qkv, size_t token, float epsilon)
{
    ELEMENT_SWITCH(cut->dtype, split_loop, cut, heads, qkv, token, epsilon);
}

/* The gradient of a head before it was normalised, from that of the normalised head. */
KERNEL_INLINE void unnormalise(void *dx, const float *dy, const void *x, const void *gain,
                               float rstd, size_t dim, enum ds_dtype dtype)
{
    const float slope = lanes_dot3(dy, DS_F32, gain, x, dim, dtype) * rstd / (float)dim * rstd;

#pragma omp simd
    for (size_t i = 0; i < dim; i++)
        element_store(
            dx, i,
            rstd * (dy[i] * element_load(gain, i, dtype) - element_load(x, i, dtype) * slope),
            dtype);
}

KERNEL_INLINE void rotate_back(void *out, enum ds_dtype out_dtype, const void *dy,
                               const float *cosine, size_t half, enum ds_dtype dtype)
{
#pragma omp simd
    for (size_t i = 0; i < half; i++) {
        const float low = rotary_back_low(dy, cosine, half, i, dtype);
        const float high = rotary_back_high(dy, cosine, half, i, dtype);

        element_store(out, i, low, out_dtype);
        element_store(out, i + half, high, out_dtype);
    }
}

KERNEL_INLINE void join_loop(const struct cut *cut, const struct heads *heads, void *dqkv,
                             const void *qkv, size_t token, enum ds_dtype dtype)
{
    const size_t dim = cut->head_dim;
    const float *cosine = cut->rotary + (size_t)cut->position[token] * dim;

    for (size_t head = 0; head < heads->count; head++) {
        const size_t at = token * heads->count + head;
        const size_t column = token * cut->width + heads->at + head * dim;
        const void *dy = element_from(heads->out, at * dim, dtype);
        void *dx = element_to(dqkv, column, dtype);

        if (heads->gain) {
            float turned[DS_HEAD_DIM_MAX];

            rotate_back(turned, DS_F32, dy, cosine, dim / 2, dtype);
            unnormalise(dx, turned, element_from(qkv, column, dtype), heads->gain, heads->rstd[at],
                        dim, dtype);
        } else {
            rotate_back(dx, dtype, dy, cosine, dim / 2, dtype);
        }
    }
}

KERNEL_CLONES static void join_heads(const struct cut *cut, const struct heads *heads, void *dqkv,
                                     const void *qkv, size_t token)
{
    ELEMENT_SWITCH(cut->dtype, join_loop, cut, heads, dqkv, qkv, token);
}

static struct cut split_cut(const struct ds_qkv_split_args *a)
{
    size_t dim = a->q_THD.shape[2], q_count = a->q_THD.shape[1], k_count = a->k_TGD.shape[1];

    return (struct cut){
        .q = {.gain = a->q_gain_D.data,
              .rstd = a->q_rstd_TH.data,
              .out = a->q_THD.data,
              .count = q_count},
        .k = {.gain = a->k_gain_D.data,
              .rstd = a->k_rstd_TG.data,
              .out = a->k_TGD.data,
              .count = k_count,
              .at = q_count * dim},
        .position = a->position_T.data,
        .rotary = a->rotary_PD.data,
        .dtype = a->q_THD.dtype,
        .token_count = a->q_THD.shape[0],
        .head_dim = dim,
        .width = (q_count + 2 * k_count) * dim,
    };
}

static struct cut join_cut(const struct ds_qkv_join_args *a)
{
    size_t dim = a->dq_THD.shape[2], q_count = a->dq_THD.shape[1], k_count = a->dk_TGD.shape[1];

    return (struct cut){
        .q = {.gain = a->q_gain_D.data,
              .rstd = a->q_rstd_TH.data,
              .out = a->dq_THD.data,
              .dgain = a->dq_gain_D.data,
              .dgain_dtype = a->dq_gain_D.dtype,
              .count = q_count},
        .k = {.gain = a->k_gain_D.data,
              .rstd = a->k_rstd_TG.data,
              .out = a->dk_TGD.data,
              .dgain = a->dk_gain_D.data,
              .dgain_dtype = a->dk_gain_D.dtype,
              .count = k_count,
              .at = q_count * dim},
        .position = a->position_T.data,
        .rotary = a->rotary_PD.data,
        .dtype = a->dq_THD.dtype,
        .token_count = a->dq_THD.shape[0],
        .head_dim = dim,
        .width = (q_count + 2 * k_count) * dim,
    };
}

static ds_status split_work(void *args, int *done)
{
    const struct ds_qkv_split_args *a = args;
    const struct cut cut = split_cut(a);
    const size_t v_width = cut.k.count * cut.head_dim, bytes = ds_dtype_bytes(cut.dtype);

#pragma omp parallel for schedule(static) if (cut.token_count > 1)
    for (size_t t = 0; t < cut.token_count; t++) {
        const char *qkv = a->qkv_TN.data;

        split_heads(&cut, &cut.q, qkv, t, a->epsilon);
        split_heads(&cut, &cut.k, qkv, t, a->epsilon);
        memcpy((char *)a->v_TGD.data + t * v_width * bytes,
               qkv + ((t + 1) * cut.width - v_width) * bytes, v_width * bytes);
    }
    *done = 1;
    return DS_OK;
}

static void head_gain_gradient(const struct cut *cut, const struct heads *heads, const void *qkv,
                               int add)
{
    kernel_columns(&(struct columns){.dy = heads->out,
                                     .x = element_from(qkv, heads->at, cut->dtype),
                                     .dtype = cut->dtype,
                                     .rstd = heads->rstd,
                                     .token_count = cut->token_count,
                                     .head_count = heads->count,
                                     .width = cut->head_dim,
                                     .dy_stride = heads->count * cut->head_dim,
                                     .x_stride = cut->width,
                                     .rotary = cut->rotary,
                                     .position = cut->position,
                                     .out = heads->dgain,
                                     .out_dtype = heads->dgain_dtype,
                                     .add = add});
}

static ds_status join_work(void *args, int *done)
{
    const struct ds_qkv_join_args *a = args;
    const struct cut cut = join_cut(a);
    const size_t v_width = cut.k.count * cut.head_dim, bytes = ds_dtype_bytes(cut.dtype);

    if (cut.q.gain && cut.q.dgain)
        head_gain_gradient(&cut, &cut.q, a->qkv_TN.data, a->gain_add);
    if (cut.k.gain && cut.k.dgain)
        head_gain_gradient(&cut, &cut.k, a->qkv_TN.data, a->gain_add);
#pragma omp parallel for schedule(static) if (cut.token_count > 1)
    for (size_t t = 0; t < cut.token_count; t++) {
        char *dqkv = a->dqkv_TN.data;

        join_heads(&cut, &cut.q, dqkv, a->qkv_TN.data, t);
        join_heads(&cut, &cut.k, dqkv, a->qkv_TN.data, t);
        memcpy(dqkv + ((t + 1) * cut.width - v_width) * bytes,
               (const char *)a->dv_TGD.data + t * v_width * bytes, v_width * bytes);
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_qkv_split(struct ds_stream *stream, const struct ds_qkv_split_args *args)
{
    static const char kernel[] = "qkv_split";
    const struct ds_matmul_args product = {
        .a = args->x_TC, .b = args->weight_NC, .c = args->qkv_TN, .trans_b = 1};

    if (args->x_TC.data)
        DS_TRY(kernel_matmul(stream, &product));
    DS_ASSERT(args->q_THD.shape[2] % 2 == 0);
    DS_ASSERT(kernel_elems(&args->qkv_TN) == args->q_THD.shape[0] * split_cut(args).width);
    DS_ASSERT(!args->q_gain_D.data ||
              (args->k_gain_D.data && args->q_rstd_TH.data && args->k_rstd_TG.data));
    KERNEL_WANTS_FLOAT(kernel, args, qkv_TN);
    KERNEL_WANTS(kernel, args, position_T, DS_I32);
    KERNEL_WANTS(kernel, args, rotary_PD, DS_F32);
    KERNEL_WANTS_SAME(kernel, args, q_gain_D, qkv_TN);
    KERNEL_WANTS_SAME(kernel, args, k_gain_D, qkv_TN);
    KERNEL_WANTS_SAME(kernel, args, q_THD, qkv_TN);
    KERNEL_WANTS_SAME(kernel, args, k_TGD, qkv_TN);
    KERNEL_WANTS_SAME(kernel, args, v_TGD, qkv_TN);
    KERNEL_WANTS(kernel, args, q_rstd_TH, DS_F32);
    KERNEL_WANTS(kernel, args, k_rstd_TG, DS_F32);
    return kernel_launch(stream, split_work, args, sizeof *args);
}

ds_status kernel_qkv_join(struct ds_stream *stream, const struct ds_qkv_join_args *args)
{
    static const char kernel[] = "qkv_join";
    const uint64_t dim = args->dq_THD.shape[2];

    DS_ASSERT(dim % 2 == 0);
    DS_ASSERT(kernel_elems(&args->dqkv_TN) == args->dq_THD.shape[0] * join_cut(args).width);
    DS_ASSERT(!args->q_gain_D.data || (args->qkv_TN.data && args->k_gain_D.data &&
                                       args->q_rstd_TH.data && args->k_rstd_TG.data));
    if (dim > DS_HEAD_DIM_MAX)
        return ds_fail(DS_ERR_UNSUPPORTED, "kernel %s: head_dim is %llu, at most %u is available",
                       kernel, (unsigned long long)dim, DS_HEAD_DIM_MAX);
    KERNEL_WANTS_FLOAT(kernel, args, dq_THD);
    KERNEL_WANTS_SAME(kernel, args, dk_TGD, dq_THD);
    KERNEL_WANTS_SAME(kernel, args, dv_TGD, dq_THD);
    KERNEL_WANTS(kernel, args, position_T, DS_I32);
    KERNEL_WANTS(kernel, args, rotary_PD, DS_F32);
    KERNEL_WANTS_SAME(kernel, args, qkv_TN, dq_THD);
    KERNEL_WANTS_SAME(kernel, args, q_gain_D, dq_THD);
    KERNEL_WANTS_SAME(kernel, args, k_gain_D, dq_THD);
    KERNEL_WANTS(kernel, args, q_rstd_TH, DS_F32);
    KERNEL_WANTS(kernel, args, k_rstd_TG, DS_F32);
    KERNEL_WANTS_SAME(kernel, args, dqkv_TN, dq_THD);
    KERNEL_WANTS_FLOAT(kernel, args, dq_gain_D);
    KERNEL_WANTS_FLOAT(kernel, args, dk_gain_D);
    return kernel_launch(stream, join_work, args, sizeof *args);
}
