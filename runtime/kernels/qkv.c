/* qkv.c - from the fused projection to attention's inputs and back: cut into heads, normalise a head
 * (Qwen3), rotate by position in the half layout (pair i, i + D/2).
 *
 * Backward rotates by the negative angle straight into dqkv, sums the gains' gradients over it, then
 * turns each head's gradient into the gradient of its unnormalised input, in place. */
#include "columns.h"
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

#include <math.h>
#include <string.h>

/* The q heads or the k heads: both are treated alike. */
struct heads {
    const float *gain; /* NULL: not normalised */
    float *rstd;       /* [T][count] */
    float *out;        /* q_THD or k_TGD; dq or dk in backward */
    float *dgain;      /* backward */
    size_t count, at;  /* at: their first column in a row of qkv */
};

struct cut {
    struct heads q, k;
    const int32_t *position;
    const float *rotary;
    size_t token_count, head_dim, width; /* width: columns of qkv */
};

/* out may be x */
LANE_INLINE void rotate(float *out, const float *x, const float *cosine, const float *sine,
                        size_t half)
{
#pragma omp simd
    for (size_t i = 0; i < half; i++) {
        float low = x[i], high = x[i + half];

        out[i] = low * cosine[i] - high * sine[i];
        out[i + half] = high * cosine[i] + low * sine[i];
    }
}

LANE_INLINE void rotate_back(float *out, const float *y, const float *cosine, const float *sine,
                             size_t half)
{
    for (size_t i = 0; i < half; i++) {
        float low = y[i], high = y[i + half];

        out[i] = low * cosine[i] + high * sine[i];
        out[i + half] = high * cosine[i] - low * sine[i];
    }
}

LANE_INLINE float normalise(float *out, const float *x, const float *gain, size_t dim,
                            float epsilon)
{
    float rstd = 1.0f / sqrtf(lanes_dot(x, x, dim) / (float)dim + epsilon);

    for (size_t i = 0; i < dim; i++)
        out[i] = gain[i] * (x[i] * rstd);
    return rstd;
}

KERNEL_CLONES static void split_heads(const struct cut *cut, const struct heads *heads,
                                      const float *qkv, size_t token, float epsilon)
{
    size_t dim = cut->head_dim, half = dim / 2;
    const float *cosine = cut->rotary + (size_t)cut->position[token] * dim;
    const float *x = qkv + token * cut->width + heads->at;
    float *out = heads->out + token * heads->count * dim;

    for (size_t head = 0; head < heads->count; head++, x += dim, out += dim) {
        if (heads->gain) {
            heads->rstd[token * heads->count + head] = normalise(out, x, heads->gain, dim, epsilon);
            rotate(out, out, cosine, cosine + half, half);
        } else {
            rotate(out, x, cosine, cosine + half, half);
        }
    }
}

/* dqkv receives the gradient of the rotation's input. */
KERNEL_CLONES static void unrotate_heads(const struct cut *cut, const struct heads *heads,
                                         float *dqkv, size_t token)
{
    size_t dim = cut->head_dim, half = dim / 2;
    const float *cosine = cut->rotary + (size_t)cut->position[token] * dim;
    const float *dy = heads->out + token * heads->count * dim;
    float *dx = dqkv + token * cut->width + heads->at;

    for (size_t head = 0; head < heads->count; head++, dx += dim, dy += dim)
        rotate_back(dx, dy, cosine, cosine + half, half);
}

/* In place: dx holds the gradient of the normalised head. */
KERNEL_CLONES static void unnormalise_heads(const struct cut *cut, const struct heads *heads,
                                            float *dqkv, const float *qkv, size_t token)
{
    size_t dim = cut->head_dim;
    const float *x = qkv + token * cut->width + heads->at;
    float *dx = dqkv + token * cut->width + heads->at;

    for (size_t head = 0; head < heads->count; head++, dx += dim, x += dim) {
        float rstd = heads->rstd[token * heads->count + head];
        float slope = lanes_dot3(dx, heads->gain, x, dim) * rstd / (float)dim * rstd;

        for (size_t i = 0; i < dim; i++)
            dx[i] = rstd * (dx[i] * heads->gain[i] - x[i] * slope);
    }
}

static struct cut split_cut(const struct ds_qkv_split_args *a)
{
    size_t dim = a->q_THD.shape[2], q_count = a->q_THD.shape[1], k_count = a->k_TGD.shape[1];

    return (struct cut){
        .q = {a->q_gain_D.data, a->q_rstd_TH.data, a->q_THD.data, NULL, q_count, 0},
        .k = {a->k_gain_D.data, a->k_rstd_TG.data, a->k_TGD.data, NULL, k_count, q_count * dim},
        .position = a->position_T.data,
        .rotary = a->rotary_PD.data,
        .token_count = a->q_THD.shape[0],
        .head_dim = dim,
        .width = (q_count + 2 * k_count) * dim,
    };
}

static struct cut join_cut(const struct ds_qkv_join_args *a)
{
    size_t dim = a->dq_THD.shape[2], q_count = a->dq_THD.shape[1], k_count = a->dk_TGD.shape[1];

    return (struct cut){
        .q = {a->q_gain_D.data, a->q_rstd_TH.data, a->dq_THD.data, a->dq_gain_D.data, q_count, 0},
        .k = {a->k_gain_D.data, a->k_rstd_TG.data, a->dk_TGD.data, a->dk_gain_D.data, k_count,
              q_count * dim},
        .position = a->position_T.data,
        .rotary = a->rotary_PD.data,
        .token_count = a->dq_THD.shape[0],
        .head_dim = dim,
        .width = (q_count + 2 * k_count) * dim,
    };
}

static ds_status split_work(void *args, int *done)
{
    const struct ds_qkv_split_args *a = args;
    struct cut cut = split_cut(a);
    size_t v_width = cut.k.count * cut.head_dim;

#pragma omp parallel for schedule(static) if (cut.token_count > 1)
    for (size_t t = 0; t < cut.token_count; t++) {
        const float *qkv = a->qkv_TN.data;

        split_heads(&cut, &cut.q, qkv, t, a->epsilon);
        split_heads(&cut, &cut.k, qkv, t, a->epsilon);
        memcpy((float *)a->v_TGD.data + t * v_width, qkv + (t + 1) * cut.width - v_width,
               v_width * sizeof(float));
    }
    *done = 1;
    return DS_OK;
}

static void head_gain_gradient(const struct cut *cut, const struct heads *heads, const float *dqkv,
                               const float *qkv, int add)
{
    kernel_columns(&(struct columns){.dy = dqkv + heads->at,
                                     .x = qkv + heads->at,
                                     .rstd = heads->rstd,
                                     .token_count = cut->token_count,
                                     .head_count = heads->count,
                                     .width = cut->head_dim,
                                     .dy_stride = cut->width,
                                     .x_stride = cut->width,
                                     .out = heads->dgain,
                                     .add = add});
}

static void normalised_gradient(const struct cut *cut, const struct ds_qkv_join_args *a)
{
    if (cut->q.dgain)
        head_gain_gradient(cut, &cut->q, a->dqkv_TN.data, a->qkv_TN.data, a->gain_add);
    if (cut->k.dgain)
        head_gain_gradient(cut, &cut->k, a->dqkv_TN.data, a->qkv_TN.data, a->gain_add);
#pragma omp parallel for schedule(static) if (cut->token_count > 1)
    for (size_t t = 0; t < cut->token_count; t++) {
        unnormalise_heads(cut, &cut->q, a->dqkv_TN.data, a->qkv_TN.data, t);
        unnormalise_heads(cut, &cut->k, a->dqkv_TN.data, a->qkv_TN.data, t);
    }
}

static ds_status join_work(void *args, int *done)
{
    const struct ds_qkv_join_args *a = args;
    struct cut cut = join_cut(a);
    size_t v_width = cut.k.count * cut.head_dim;

#pragma omp parallel for schedule(static) if (cut.token_count > 1)
    for (size_t t = 0; t < cut.token_count; t++) {
        float *dqkv = a->dqkv_TN.data;

        unrotate_heads(&cut, &cut.q, dqkv, t);
        unrotate_heads(&cut, &cut.k, dqkv, t);
        memcpy(dqkv + (t + 1) * cut.width - v_width, (const float *)a->dv_TGD.data + t * v_width,
               v_width * sizeof(float));
    }
    if (cut.q.gain)
        normalised_gradient(&cut, a);
    *done = 1;
    return DS_OK;
}

ds_status kernel_qkv_split(struct ds_stream *stream, const struct ds_qkv_split_args *args)
{
    DS_ASSERT(args->q_THD.shape[2] % 2 == 0);
    DS_ASSERT(kernel_elems(&args->qkv_TN) == args->q_THD.shape[0] * split_cut(args).width);
    DS_ASSERT(!args->q_gain_D.data ||
              (args->k_gain_D.data && args->q_rstd_TH.data && args->k_rstd_TG.data));
    KERNEL_WANTS("qkv_split", args, qkv_TN, DS_F32);
    KERNEL_WANTS("qkv_split", args, position_T, DS_I32);
    KERNEL_WANTS("qkv_split", args, rotary_PD, DS_F32);
    KERNEL_WANTS("qkv_split", args, q_gain_D, DS_F32);
    KERNEL_WANTS("qkv_split", args, k_gain_D, DS_F32);
    KERNEL_WANTS("qkv_split", args, q_THD, DS_F32);
    KERNEL_WANTS("qkv_split", args, k_TGD, DS_F32);
    KERNEL_WANTS("qkv_split", args, v_TGD, DS_F32);
    KERNEL_WANTS("qkv_split", args, q_rstd_TH, DS_F32);
    KERNEL_WANTS("qkv_split", args, k_rstd_TG, DS_F32);
    return kernel_launch(stream, split_work, args, sizeof *args);
}

ds_status kernel_qkv_join(struct ds_stream *stream, const struct ds_qkv_join_args *args)
{
    DS_ASSERT(args->dq_THD.shape[2] % 2 == 0);
    DS_ASSERT(kernel_elems(&args->dqkv_TN) == args->dq_THD.shape[0] * join_cut(args).width);
    DS_ASSERT(!args->q_gain_D.data || (args->qkv_TN.data && args->k_gain_D.data &&
                                       args->q_rstd_TH.data && args->k_rstd_TG.data));
    KERNEL_WANTS("qkv_join", args, dq_THD, DS_F32);
    KERNEL_WANTS("qkv_join", args, dk_TGD, DS_F32);
    KERNEL_WANTS("qkv_join", args, dv_TGD, DS_F32);
    KERNEL_WANTS("qkv_join", args, position_T, DS_I32);
    KERNEL_WANTS("qkv_join", args, rotary_PD, DS_F32);
    KERNEL_WANTS("qkv_join", args, qkv_TN, DS_F32);
    KERNEL_WANTS("qkv_join", args, q_gain_D, DS_F32);
    KERNEL_WANTS("qkv_join", args, k_gain_D, DS_F32);
    KERNEL_WANTS("qkv_join", args, q_rstd_TH, DS_F32);
    KERNEL_WANTS("qkv_join", args, k_rstd_TG, DS_F32);
    KERNEL_WANTS("qkv_join", args, dqkv_TN, DS_F32);
    KERNEL_WANTS("qkv_join", args, dq_gain_D, DS_F32);
    KERNEL_WANTS("qkv_join", args, dk_gain_D, DS_F32);
    return kernel_launch(stream, join_work, args, sizeof *args);
}
