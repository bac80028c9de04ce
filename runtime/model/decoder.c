/* decoder.c - one decoder layer: attention and a gated MLP, each behind a norm and with a residual.
 *
 *   n1 = norm1(x)        qkv = n1 Wqkv^T       q, k, v = split and turned by position
 *   o = attention        h = x + o Wo^T        n2 = norm2(h)
 *   gu = n2 Wgu^T        y = h + (silu(g) * u) Wd^T
 *
 * Tensor ranks have some heads and some columns of the MLP; they meet after Wo and Wd, and, where they share
 * the stream's tokens out, before Wqkv and Wgu.
 *
 * Forward keeps what backward reads in `saved`; only the product silu(g) * u is made again and, where
 * the model keeps products alone, n1 and n2. The sum h is made by norm2 on its way. Backward writes nothing
 * into `saved`. */
#include "decoder.h"

#include "tensor_parallel.h"

#include <math.h>

static void describe_layers(struct decoder *d, const struct ds_model *model, uint32_t unit)
{
    d->qkv = (struct linear){.model = model,
                             .weight = model_param(model, unit, ROLE_Q),
                             .bias = model_param(model, unit, ROLE_Q_BIAS),
                             .out = d->N,
                             .in = d->C};
    d->o = (struct linear){.model = model,
                           .weight = model_param(model, unit, ROLE_O),
                           .bias = model_param(model, unit, ROLE_O_BIAS),
                           .out = d->C,
                           .in = d->H * d->D};
    d->gate_up = (struct linear){.model = model,
                                 .weight = model_param(model, unit, ROLE_GATE),
                                 .bias = model_param(model, unit, ROLE_GATE_BIAS),
                                 .out = 2 * d->I,
                                 .in = d->C};
    d->down = (struct linear){.model = model,
                              .weight = model_param(model, unit, ROLE_DOWN),
                              .bias = model_param(model, unit, ROLE_DOWN_BIAS),
                              .out = d->C,
                              .in = d->I};
}

struct decoder decoder_of(const struct ds_block *block, uint64_t token_count)
{
    const struct ds_model *model = block->model;
    const struct ds_model_config *config = &model->config;
    const uint32_t unit = block->units[0];
    const float epsilon = (float)config->rms_norm_eps;
    struct decoder d = {
        .model = model,
        .T = token_count,
        .R = ds_model_stream_tokens(model, token_count),
        .C = config->hidden_size,
        .H = model_param(model, unit, ROLE_Q)->local[0] / config->head_dim,
        .G = model_param(model, unit, ROLE_K)->local[0] / config->head_dim,
        .D = config->head_dim,
        .I = model_param(model, unit, ROLE_GATE)->local[0],
        .dtype = model->share.compute,
        .norm1 = {model, model_param(model, unit, ROLE_NORM1), 0, epsilon},
        .norm2 = {model, model_param(model, unit, ROLE_NORM2), 0, epsilon},
        .q_norm = model_param(model, unit, ROLE_Q_NORM),
        .k_norm = model_param(model, unit, ROLE_K_NORM),
        .epsilon = epsilon,
        .keeps_norms = model->keeps == DS_KEEPS_ALL,
    };

    d.N = (d.H + 2 * d.G) * d.D;
    d.has_room = d.R < d.T;
    describe_layers(&d, model, unit);
    return d;
}

/* ---- memory: the same code measures and places */

struct forward_space {
    struct ds_tensor qkv_TN, product_TI;
    struct ds_tensor norm_RC; /* n1, then n2, where they are not kept */
    struct ds_tensor room_TC;
};

struct decoder_saved decoder_take_saved(struct ds_arena *arena, const struct decoder *d)
{
    struct decoder_saved s = {0};

    if (d->keeps_norms) {
        s.n1_RC = take_matrix(arena, d->dtype, d->R, d->C);
        s.n2_RC = take_matrix(arena, d->dtype, d->R, d->C);
    }
    s.rstd1_R = take_vector(arena, DS_F32, d->R);
    s.q_THD = take_heads(arena, d, d->H);
    s.k_TGD = take_heads(arena, d, d->G);
    s.v_TGD = take_heads(arena, d, d->G);
    s.o_THD = take_heads(arena, d, d->H);
    s.lse_TH = take_matrix(arena, DS_F32, d->T, d->H);
    s.h_RC = take_matrix(arena, d->dtype, d->R, d->C);
    s.rstd2_R = take_vector(arena, DS_F32, d->R);
    s.gate_up_TN = take_matrix(arena, d->dtype, d->T, 2 * d->I);
    if (d->q_norm) {
        s.qkv_TN = take_matrix(arena, d->dtype, d->T, d->N);
        s.q_rstd_TH = take_matrix(arena, DS_F32, d->T, d->H);
        s.k_rstd_TG = take_matrix(arena, DS_F32, d->T, d->G);
    }
    return s;
}

static struct forward_space take_forward(struct ds_arena *arena, const struct decoder *d)
{
    struct forward_space w = {0};

    if (!d->q_norm)
        w.qkv_TN = take_matrix(arena, d->dtype, d->T, d->N);
    w.product_TI = take_matrix(arena, d->dtype, d->T, d->I);
    if (!d->keeps_norms)
        w.norm_RC = take_matrix(arena, d->dtype, d->R, d->C);
    if (d->has_room)
        w.room_TC = take_matrix(arena, d->dtype, d->T, d->C);
    return w;
}

static size_t decoder_saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct decoder d = decoder_of(block, token_count);
    struct ds_arena measure = {.size = SIZE_MAX};

    decoder_take_saved(&measure, &d);
    return measure.used;
}

static size_t decoder_workspace_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct decoder d = decoder_of(block, token_count);
    struct ds_arena forward = {.size = SIZE_MAX};
    const size_t backward_bytes = decoder_backward_bytes(&d);

    take_forward(&forward, &d);
    return forward.used > backward_bytes ? forward.used : backward_bytes;
}

/* ---- forward */

struct ds_tensor decoder_gain(const struct decoder *d, const struct ds_pass *pass,
                              const struct ds_param *param)
{
    return param ? pass_weight(pass, d->model, 0, param) : (struct ds_tensor){0};
}

struct ds_tensor decoder_rotary(const struct decoder *d, const struct ds_pass *pass)
{
    return matrix_at(pass->rotary, DS_F32, pass->batch->seq_length, d->D);
}

static ds_status split_heads(const struct decoder *d, const struct ds_pass *pass,
                             const struct decoder_saved *s, struct ds_tensor qkv_TN)
{
    struct ds_qkv_split_args args = {
        .qkv_TN = qkv_TN,
        .position_T = pass->batch->position_T,
        .rotary_PD = decoder_rotary(d, pass),
        .q_gain_D = decoder_gain(d, pass, d->q_norm),
        .k_gain_D = decoder_gain(d, pass, d->k_norm),
        .q_THD = s->q_THD,
        .k_TGD = s->k_TGD,
        .v_TGD = s->v_TGD,
        .q_rstd_TH = s->q_rstd_TH,
        .k_rstd_TG = s->k_rstd_TG,
        .epsilon = d->epsilon,
    };

    return pass->kernels->qkv_split(pass->stream, &args);
}

struct ds_attention_args decoder_attention(const struct decoder *d, const struct ds_pass *pass,
                                           const struct decoder_saved *s)
{
    return (struct ds_attention_args){
        .q_THD = s->q_THD,
        .k_TGD = s->k_TGD,
        .v_TGD = s->v_TGD,
        .document_T = pass->batch->document_T,
        .o_THD = s->o_THD,
        .lse_TH = s->lse_TH,
        .seq_length = pass->batch->seq_length,
        .scale = (float)(1 / sqrt((double)d->D)),
        .one_document = pass->batch->one_document,
        .document_count = pass->batch->document_count,
    };
}

/* Heads side by side: what a matrix product reads. */
static struct ds_tensor flat(const struct decoder *d, struct ds_tensor heads)
{
    return ds_tensor2(heads.data, heads.dtype, d->T, heads.shape[1] * heads.shape[2]);
}

/* h = x + o Wo^T stays without its x here: norm2 adds it while it reads. */
static ds_status attention_half(const struct decoder *d, struct ds_pass *pass,
                                const struct decoder_saved *s, const struct forward_space *w,
                                struct ds_tensor x_RC)
{
    const struct ds_attention_args attention = decoder_attention(d, pass, s);
    const struct ds_tensor qkv_TN = d->q_norm ? s->qkv_TN : w->qkv_TN;
    const struct ds_rmsnorm_args norm = {
        .x_TC = x_RC, .y_TC = d->keeps_norms ? s->n1_RC : w->norm_RC, .rstd_T = s->rstd1_R};
    struct ds_tensor n1_TC;

    DS_TRY(norm_forward(pass, &d->norm1, &norm));
    DS_TRY(tp_gather(d->model, pass, norm.y_TC, w->room_TC, &n1_TC));
    DS_TRY(linear_forward(pass, &d->qkv, n1_TC, qkv_TN));
    DS_TRY(split_heads(d, pass, s, qkv_TN));
    DS_TRY(pass->kernels->attention_forward(pass->stream, &attention));
    return row_forward(pass, &d->o, flat(d, s->o_THD), w->room_TC, s->h_RC);
}

static ds_status mlp_half(const struct decoder *d, struct ds_pass *pass,
                          const struct decoder_saved *s, const struct forward_space *w,
                          struct ds_tensor x_RC, struct ds_tensor y_RC)
{
    const struct ds_rmsnorm_args norm = {.x_TC = s->h_RC,
                                         .residual_TC = x_RC,
                                         .sum_TC = s->h_RC,
                                         .y_TC = d->keeps_norms ? s->n2_RC : w->norm_RC,
                                         .rstd_T = s->rstd2_R};
    struct ds_swiglu_args swiglu = {.gate_up_TN = s->gate_up_TN, .y_TI = w->product_TI};
    struct ds_tensor n2_TC;

    DS_TRY(norm_forward(pass, &d->norm2, &norm));
    DS_TRY(tp_gather(d->model, pass, norm.y_TC, w->room_TC, &n2_TC));
    DS_TRY(linear_forward(pass, &d->gate_up, n2_TC, s->gate_up_TN));
    if (!y_RC.data)
        return DS_OK;
    DS_TRY(pass->kernels->swiglu_forward(pass->stream, &swiglu));
    return row_forward_onto(pass, &d->down, w->product_TI, w->room_TC, s->h_RC, y_RC);
}

static ds_status decoder_forward(const struct ds_block *block, struct ds_pass *pass, const void *x,
                                 void *y)
{
    const struct decoder d = decoder_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena saved = {.base = pass->saved, .size = SIZE_MAX};
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    const struct decoder_saved s = decoder_take_saved(&saved, &d);
    const struct forward_space w = take_forward(&workspace, &d);
    const struct ds_tensor x_RC = matrix_at(x, d.dtype, d.R, d.C);

    DS_TRY(attention_half(&d, pass, &s, &w, x_RC));
    return mlp_half(&d, pass, &s, &w, x_RC, matrix_at(y, d.dtype, d.R, d.C));
}

/* Of all ways the backward in one call has most: both gradients and both norms' outputs gathered, both
 * products' inputs summed. */
static uint32_t decoder_collectives(const struct ds_block *block, uint64_t token_count)
{
    (void)block, (void)token_count;
    return 6;
}

const struct ds_block_ops model_decoder_ops = {
    .name = "decoder",
    .saved_bytes = decoder_saved_bytes,
    .workspace_bytes = decoder_workspace_bytes,
    .held_bytes = decoder_held_bytes,
    .collective_count = decoder_collectives,
    .forward = decoder_forward,
    .backward = decoder_backward,
};
