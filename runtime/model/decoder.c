/* decoder.c - one decoder layer: attention and a gated MLP, each behind a norm and with a residual.
 *
 *   n1 = norm1(x)        qkv = n1 Wqkv^T       q, k, v = split and turned by position
 *   o = attention        h = x + o Wo^T        n2 = norm2(h)
 *   gu = n2 Wgu^T        y = h + (silu(g) * u) Wd^T
 *
 * Forward keeps what backward reads in `saved`; only the product silu(g) * u is made again and, where
 * the model keeps products alone, n1 and n2. The sum h is made by norm2 on its way. Backward writes nothing into `saved`, so it may be run in two calls or
 * again. Asked for one part it goes through the same chain and leaves the other part's outputs away. */
#include "linear.h"

#include "dstrain/memory.h"

#include <math.h>

struct decoder {
    struct norm norm1, norm2;
    struct linear qkv, o, gate_up, down;
    const struct ds_param *q_norm, *k_norm; /* NULL: none */
    uint64_t T, C, H, G, D, I, N;           /* N = (H + 2G) D; kernels.h has the others */
    float epsilon;
    int keeps_norms;
};

static struct decoder decoder_of(const struct ds_block *block, uint64_t token_count)
{
    const struct ds_model_config *config = &block->model->config;
    const struct ds_model *model = block->model;
    const uint32_t unit = block->units[0];
    const float epsilon = (float)config->rms_norm_eps;
    struct decoder d = {
        .T = token_count,
        .C = config->hidden_size,
        .H = config->num_attention_heads,
        .G = config->num_key_value_heads,
        .D = config->head_dim,
        .I = config->intermediate_size,
        .norm1 = {model_param(model, unit, ROLE_NORM1), 0, epsilon},
        .norm2 = {model_param(model, unit, ROLE_NORM2), 0, epsilon},
        .q_norm = model_param(model, unit, ROLE_Q_NORM),
        .k_norm = model_param(model, unit, ROLE_K_NORM),
        .epsilon = epsilon,
        .keeps_norms = model->keeps == DS_KEEPS_ALL,
    };

    d.N = (d.H + 2 * d.G) * d.D;
    d.qkv = (struct linear){.weight = model_param(model, unit, ROLE_Q),
                            .bias = model_param(model, unit, ROLE_Q_BIAS),
                            .out = d.N,
                            .in = d.C};
    d.o = (struct linear){.weight = model_param(model, unit, ROLE_O),
                          .bias = model_param(model, unit, ROLE_O_BIAS),
                          .out = d.C,
                          .in = d.H * d.D};
    d.gate_up = (struct linear){.weight = model_param(model, unit, ROLE_GATE),
                                .bias = model_param(model, unit, ROLE_GATE_BIAS),
                                .out = 2 * d.I,
                                .in = d.C};
    d.down = (struct linear){.weight = model_param(model, unit, ROLE_DOWN),
                             .bias = model_param(model, unit, ROLE_DOWN_BIAS),
                             .out = d.C,
                             .in = d.I};
    return d;
}

/* ---- memory: the same code measures and places */

struct decoder_saved {
    float *n1_TC, *rstd1_T, *q_THD, *k_TGD, *v_TGD, *o_THD, *lse_TH, *h_TC, *n2_TC, *rstd2_T;
    float *gate_up_TN;
    float *qkv_TN, *q_rstd_TH, *k_rstd_TG; /* with head norms only */
};

struct forward_space {
    float *qkv_TN, *product_TI;
    float *norm_TC; /* n1, then n2, where they are not kept */
};

/* The MLP's and the attention's scratch lie in the same place: they are used one after the other. */
struct backward_space {
    float *dnorm_TC, *dh_TC;
    float *norm_TC, *rstd_T; /* n2, then n1, made again where they are not kept */
    float *dproduct_TI, *product_TI, *dgate_up_TN;
    float *do_THD, *dq_THD, *dk_TGD, *dv_TGD, *delta_TH, *dqkv_TN;
};

static float *take(struct ds_arena *arena, uint64_t rows, uint64_t columns)
{
    return ds_arena_take(arena, rows * columns * sizeof(float));
}

static struct decoder_saved take_saved(struct ds_arena *arena, const struct decoder *d)
{
    struct decoder_saved s = {0};

    if (d->keeps_norms) {
        s.n1_TC = take(arena, d->T, d->C);
        s.n2_TC = take(arena, d->T, d->C);
    }
    s.rstd1_T = take(arena, d->T, 1);
    s.q_THD = take(arena, d->T, d->H * d->D);
    s.k_TGD = take(arena, d->T, d->G * d->D);
    s.v_TGD = take(arena, d->T, d->G * d->D);
    s.o_THD = take(arena, d->T, d->H * d->D);
    s.lse_TH = take(arena, d->T, d->H);
    s.h_TC = take(arena, d->T, d->C);
    s.rstd2_T = take(arena, d->T, 1);
    s.gate_up_TN = take(arena, d->T, 2 * d->I);
    if (d->q_norm) {
        s.qkv_TN = take(arena, d->T, d->N);
        s.q_rstd_TH = take(arena, d->T, d->H);
        s.k_rstd_TG = take(arena, d->T, d->G);
    }
    return s;
}

static struct forward_space take_forward(struct ds_arena *arena, const struct decoder *d)
{
    struct forward_space w = {0};

    if (!d->q_norm)
        w.qkv_TN = take(arena, d->T, d->N);
    w.product_TI = take(arena, d->T, d->I);
    if (!d->keeps_norms)
        w.norm_TC = take(arena, d->T, d->C);
    return w;
}

static struct backward_space take_backward(struct ds_arena *arena, const struct decoder *d)
{
    struct backward_space w = {0};
    size_t shared, mlp_end;

    w.dnorm_TC = take(arena, d->T, d->C);
    w.dh_TC = take(arena, d->T, d->C);
    if (!d->keeps_norms) {
        w.norm_TC = take(arena, d->T, d->C);
        w.rstd_T = take(arena, d->T, 1);
    }
    shared = arena->used;
    w.dproduct_TI = take(arena, d->T, d->I);
    w.product_TI = take(arena, d->T, d->I);
    w.dgate_up_TN = take(arena, d->T, 2 * d->I);
    mlp_end = arena->used;
    arena->used = shared;
    w.do_THD = take(arena, d->T, d->H * d->D);
    w.dq_THD = take(arena, d->T, d->H * d->D);
    w.dk_TGD = take(arena, d->T, d->G * d->D);
    w.dv_TGD = take(arena, d->T, d->G * d->D);
    w.delta_TH = take(arena, d->T, d->H);
    w.dqkv_TN = take(arena, d->T, d->N);
    arena->used = arena->used > mlp_end ? arena->used : mlp_end;
    return w;
}

static size_t decoder_saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct decoder d = decoder_of(block, token_count);
    struct ds_arena measure = {.size = SIZE_MAX};

    take_saved(&measure, &d);
    return measure.used;
}

static size_t decoder_workspace_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct decoder d = decoder_of(block, token_count);
    struct ds_arena forward = {.size = SIZE_MAX}, backward = {.size = SIZE_MAX};

    take_forward(&forward, &d);
    take_backward(&backward, &d);
    return forward.used > backward.used ? forward.used : backward.used;
}

/* ---- forward */

static struct ds_tensor heads_of(const float *at, uint64_t tokens, uint64_t heads, uint64_t width)
{
    return ds_tensor3((void *)(uintptr_t)at, DS_F32, tokens, heads, width);
}

static struct ds_tensor gain_of(const struct ds_pass *pass, const struct ds_param *param)
{
    return param ? pass_weight(pass, 0, param) : ds_tensor1(NULL, DS_F32, 0);
}

static struct ds_tensor rotary_of(const struct ds_pass *pass, const struct decoder *d)
{
    return matrix_of(pass->rotary, pass->batch->seq_length, d->D);
}

static ds_status split_heads(const struct decoder *d, const struct ds_pass *pass,
                             const struct decoder_saved *s, const float *qkv)
{
    struct ds_qkv_split_args args = {
        .qkv_TN = matrix_of(qkv, d->T, d->N),
        .position_T = pass->batch->position_T,
        .rotary_PD = rotary_of(pass, d),
        .q_gain_D = gain_of(pass, d->q_norm),
        .k_gain_D = gain_of(pass, d->k_norm),
        .q_THD = heads_of(s->q_THD, d->T, d->H, d->D),
        .k_TGD = heads_of(s->k_TGD, d->T, d->G, d->D),
        .v_TGD = heads_of(s->v_TGD, d->T, d->G, d->D),
        .q_rstd_TH = matrix_of(s->q_rstd_TH, d->T, d->H),
        .k_rstd_TG = matrix_of(s->k_rstd_TG, d->T, d->G),
        .epsilon = d->epsilon,
    };

    return pass->kernels->qkv_split(pass->stream, &args);
}

static struct ds_attention_args attention_of(const struct decoder *d, const struct ds_pass *pass,
                                             const struct decoder_saved *s)
{
    return (struct ds_attention_args){
        .q_THD = heads_of(s->q_THD, d->T, d->H, d->D),
        .k_TGD = heads_of(s->k_TGD, d->T, d->G, d->D),
        .v_TGD = heads_of(s->v_TGD, d->T, d->G, d->D),
        .document_T = pass->batch->document_T,
        .o_THD = heads_of(s->o_THD, d->T, d->H, d->D),
        .lse_TH = matrix_of(s->lse_TH, d->T, d->H),
        .seq_length = pass->batch->seq_length,
        .scale = (float)(1 / sqrt((double)d->D)),
    };
}

/* h = x + o Wo^T stays without its x here: norm2 adds it while it reads. */
static ds_status attention_half(const struct decoder *d, struct ds_pass *pass,
                                const struct decoder_saved *s, const struct forward_space *w,
                                const float *x)
{
    const struct ds_attention_args attention = attention_of(d, pass, s);
    float *qkv = s->qkv_TN ? s->qkv_TN : w->qkv_TN;
    float *n1 = d->keeps_norms ? s->n1_TC : w->norm_TC;

    DS_TRY(norm_forward(pass, &d->norm1, d->T, x, NULL, NULL, n1, s->rstd1_T));
    DS_TRY(linear_forward(pass, &d->qkv, d->T, n1, qkv));
    DS_TRY(split_heads(d, pass, s, qkv));
    DS_TRY(pass->kernels->attention_forward(pass->stream, &attention));
    return linear_forward(pass, &d->o, d->T, s->o_THD, s->h_TC);
}

static ds_status mlp_half(const struct decoder *d, struct ds_pass *pass,
                          const struct decoder_saved *s, const struct forward_space *w,
                          const float *x, float *y)
{
    struct ds_swiglu_args swiglu = {
        .gate_up_TN = matrix_of(s->gate_up_TN, d->T, 2 * d->I),
        .y_TI = matrix_of(w->product_TI, d->T, d->I),
    };
    struct ds_add_args residual = {matrix_of(y, d->T, d->C), matrix_of(s->h_TC, d->T, d->C)};
    float *n2 = d->keeps_norms ? s->n2_TC : w->norm_TC;

    DS_TRY(norm_forward(pass, &d->norm2, d->T, s->h_TC, x, s->h_TC, n2, s->rstd2_T));
    DS_TRY(linear_forward(pass, &d->gate_up, d->T, n2, s->gate_up_TN));
    if (!y)
        return DS_OK;
    DS_TRY(pass->kernels->swiglu_forward(pass->stream, &swiglu));
    DS_TRY(linear_forward(pass, &d->down, d->T, w->product_TI, y));
    return pass->kernels->add(pass->stream, &residual);
}

static ds_status decoder_forward(const struct ds_block *block, struct ds_pass *pass, const void *x,
                                 void *y)
{
    const struct decoder d = decoder_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena saved = {.base = pass->saved, .size = SIZE_MAX};
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    const struct decoder_saved s = take_saved(&saved, &d);
    const struct forward_space w = take_forward(&workspace, &d);

    DS_TRY(attention_half(&d, pass, &s, &w, x));
    return mlp_half(&d, pass, &s, &w, x, y);
}

/* ---- backward. `dh` is where the gradient of the residual stream lies: dx, or scratch without it. */

/* The gradient that passes a norm joins the one that went around it. In place that is one pass. */
static ds_status join_residual(const struct decoder *d, struct ds_pass *pass, const float *dy,
                               float *dh)
{
    struct ds_add_args args = {matrix_of(dh, d->T, d->C), matrix_of(dy, d->T, d->C)};

    return dy == dh ? DS_OK : pass->kernels->add(pass->stream, &args);
}

/* n1 or n2 for backward: kept, or made again from the norm's input, with the same bits. */
static ds_status norm_again(const struct decoder *d, struct ds_pass *pass, const struct norm *norm,
                            const float *x, float *kept, const struct backward_space *w, float **n)
{
    *n = d->keeps_norms ? kept : w->norm_TC;
    return d->keeps_norms ? DS_OK
                          : norm_forward(pass, norm, d->T, x, NULL, NULL, w->norm_TC, w->rstd_T);
}

static ds_status mlp_backward(const struct decoder *d, struct ds_pass *pass, uint32_t parts,
                              const struct decoder_saved *s, const struct backward_space *w,
                              const float *dy, float *dh)
{
    const int has_weight = (parts & DS_BACKWARD_WEIGHT) != 0, add = pass->grads_add[0];
    struct ds_swiglu_backward_args swiglu = {
        .gate_up_TN = matrix_of(s->gate_up_TN, d->T, 2 * d->I),
        .dy_TI = matrix_of(w->dproduct_TI, d->T, d->I),
        .dgate_up_TN = matrix_of(w->dgate_up_TN, d->T, 2 * d->I),
        .y_TI = matrix_of(has_weight ? w->product_TI : NULL, d->T, d->I),
    };
    float *n2;

    DS_TRY(linear_backward_input(pass, &d->down, d->T, dy, w->dproduct_TI));
    DS_TRY(pass->kernels->swiglu_backward(pass->stream, &swiglu));
    if (has_weight) {
        DS_TRY(linear_backward_weight(pass, &d->down, d->T, w->product_TI, dy, add));
        DS_TRY(norm_again(d, pass, &d->norm2, s->h_TC, s->n2_TC, w, &n2));
        DS_TRY(linear_backward_weight(pass, &d->gate_up, d->T, n2, w->dgate_up_TN, add));
    }
    DS_TRY(linear_backward_input(pass, &d->gate_up, d->T, w->dgate_up_TN, w->dnorm_TC));
    DS_TRY(norm_backward(pass, &d->norm2, d->T, parts, s->h_TC, s->rstd2_T, w->dnorm_TC, dh,
                         dy == dh));
    return join_residual(d, pass, dy, dh);
}

static ds_status join_heads(const struct decoder *d, const struct ds_pass *pass, uint32_t parts,
                            const struct decoder_saved *s, const struct backward_space *w)
{
    struct ds_qkv_join_args args = {
        .dq_THD = heads_of(w->dq_THD, d->T, d->H, d->D),
        .dk_TGD = heads_of(w->dk_TGD, d->T, d->G, d->D),
        .dv_TGD = heads_of(w->dv_TGD, d->T, d->G, d->D),
        .position_T = pass->batch->position_T,
        .rotary_PD = rotary_of(pass, d),
        .qkv_TN = matrix_of(s->qkv_TN, d->T, d->N),
        .q_gain_D = gain_of(pass, d->q_norm),
        .k_gain_D = gain_of(pass, d->k_norm),
        .q_rstd_TH = matrix_of(s->q_rstd_TH, d->T, d->H),
        .k_rstd_TG = matrix_of(s->k_rstd_TG, d->T, d->G),
        .dqkv_TN = matrix_of(w->dqkv_TN, d->T, d->N),
        .gain_add = pass->grads_add[0],
    };

    if (d->q_norm && (parts & DS_BACKWARD_WEIGHT)) {
        args.dq_gain_D = pass_grad(pass, 0, d->q_norm);
        args.dk_gain_D = pass_grad(pass, 0, d->k_norm);
    }
    return pass->kernels->qkv_join(pass->stream, &args);
}

/* dh holds the gradient of h and becomes, where it is dx, that of x. */
static ds_status attention_backward(const struct decoder *d, struct ds_pass *pass, uint32_t parts,
                                    const struct decoder_saved *s, const struct backward_space *w,
                                    const float *x, float *dh)
{
    const int has_weight = (parts & DS_BACKWARD_WEIGHT) != 0, add = pass->grads_add[0];
    struct ds_attention_backward_args attention = {
        .forward = attention_of(d, pass, s),
        .do_THD = heads_of(w->do_THD, d->T, d->H, d->D),
        .dq_THD = heads_of(w->dq_THD, d->T, d->H, d->D),
        .dk_TGD = heads_of(w->dk_TGD, d->T, d->G, d->D),
        .dv_TGD = heads_of(w->dv_TGD, d->T, d->G, d->D),
        .delta_TH = matrix_of(w->delta_TH, d->T, d->H),
    };
    float *n1;

    DS_TRY(linear_backward_input(pass, &d->o, d->T, dh, w->do_THD));
    if (has_weight)
        DS_TRY(linear_backward_weight(pass, &d->o, d->T, s->o_THD, dh, add));
    DS_TRY(pass->kernels->attention_backward(pass->stream, &attention));
    DS_TRY(join_heads(d, pass, parts, s, w));
    if (has_weight) {
        DS_TRY(norm_again(d, pass, &d->norm1, x, s->n1_TC, w, &n1));
        DS_TRY(linear_backward_weight(pass, &d->qkv, d->T, n1, w->dqkv_TN, add));
    }
    DS_TRY(linear_backward_input(pass, &d->qkv, d->T, w->dqkv_TN, w->dnorm_TC));
    return norm_backward(pass, &d->norm1, d->T, parts, x, s->rstd1_T, w->dnorm_TC,
                         parts & DS_BACKWARD_INPUT ? dh : NULL, 1);
}

static ds_status decoder_backward(const struct ds_block *block, struct ds_pass *pass,
                                  uint32_t parts, const void *x, const void *dy, void *dx)
{
    const struct decoder d = decoder_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena saved = {.base = pass->saved, .size = SIZE_MAX};
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    const struct decoder_saved s = take_saved(&saved, &d);
    const struct backward_space w = take_backward(&workspace, &d);
    float *dh = parts & DS_BACKWARD_INPUT ? dx : w.dh_TC;

    DS_ASSERT(parts != 0 && dh);
    DS_TRY(mlp_backward(&d, pass, parts, &s, &w, dy, dh));
    return attention_backward(&d, pass, parts, &s, &w, x, dh);
}

const struct ds_block_ops model_decoder_ops = {
    .name = "decoder",
    .saved_bytes = decoder_saved_bytes,
    .workspace_bytes = decoder_workspace_bytes,
    .forward = decoder_forward,
    .backward = decoder_backward,
};
