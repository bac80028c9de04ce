/* decoder.c - one decoder layer: attention and a gated MLP, each behind a norm and with a residual.
 *
 *   n1 = norm1(x)        qkv = n1 Wqkv^T       q, k, v = split and turned by position
 *   o = attention        h = x + o Wo^T        n2 = norm2(h)
 *   gu = n2 Wgu^T        y = h + (silu(g) * u) Wd^T
 *
 * Tensor ranks have some heads and some columns of the MLP; they meet after Wo and Wd, and, where they share
 * the stream's tokens out, before Wqkv and Wgu.
 *
 * Forward keeps what backward reads in `saved`, or, where the model keeps less, all but the product silu(g) * u, which
 * is then made again, or but that and n1 and n2. The sum h is made by norm2 on its way. Backward writes nothing
 * into `saved`. */
#include "decoder.h"

#include "dora.h"
#include "tensor_parallel.h"

#include <math.h>
#include <string.h>

static void describe_layers(struct decoder *d, const struct ds_block *block, uint32_t unit)
{
    const struct ds_model *model = block->model;

    d->qkv = (struct linear){.block = block,
                             .weight = model_param(model, unit, ROLE_Q),
                             .out = d->N,
                             .in = d->C,
                             .lora = lora_of(block, DS_LINEAR_Q, DS_LINEAR_O)};
    d->o = (struct linear){.block = block,
                           .weight = model_param(model, unit, ROLE_O),
                           .out = d->C,
                           .in = d->H * d->D,
                           .lora = lora_of(block, DS_LINEAR_O, DS_LINEAR_GATE)};
    d->gate_up = (struct linear){.block = block,
                                 .weight = model_param(model, unit, ROLE_GATE),
                                 .out = 2 * d->I,
                                 .in = d->C,
                                 .lora = lora_of(block, DS_LINEAR_GATE, DS_LINEAR_DOWN)};
    d->down = (struct linear){.block = block,
                              .weight = model_param(model, unit, ROLE_DOWN),
                              .out = d->C,
                              .in = d->I,
                              .lora = lora_of(block, DS_LINEAR_DOWN, DS_LINEAR_COUNT)};
    for (enum param_role role = ROLE_Q_BIAS; role <= ROLE_V_BIAS; role++)
        linear_add_bias(&d->qkv, model_param(model, unit, role));
    linear_add_bias(&d->o, model_param(model, unit, ROLE_O_BIAS));
    linear_add_bias(&d->gate_up, model_param(model, unit, ROLE_GATE_BIAS));
    linear_add_bias(&d->gate_up, model_param(model, unit, ROLE_UP_BIAS));
    linear_add_bias(&d->down, model_param(model, unit, ROLE_DOWN_BIAS));
}

struct decoder decoder_of(const struct ds_block *block, uint64_t token_count)
{
    const struct ds_model *model = block->model;
    const struct ds_model_config *config = &model->config;
    const uint32_t unit = block->units[0];
    const float epsilon = (float)config->rms_norm_eps;
    struct decoder d = {
        .block = block,
        .model = model,
        .T = token_count,
        .R = ds_model_stream_tokens(model, token_count),
        .C = config->hidden_size,
        .H = model_param(model, unit, ROLE_Q)->local[0] / config->head_dim,
        .G = model_param(model, unit, ROLE_K)->local[0] / config->head_dim,
        .D = config->head_dim,
        .I = model_param(model, unit, ROLE_GATE)->local[0],
        .dtype = model->share.compute,
        .norm1 = {block, model_param(model, unit, ROLE_NORM1), epsilon},
        .norm2 = {block, model_param(model, unit, ROLE_NORM2), epsilon},
        .q_norm = model_param(model, unit, ROLE_Q_NORM),
        .k_norm = model_param(model, unit, ROLE_K_NORM),
        .epsilon = epsilon,
        .keeps_norms = model->keeps != DS_KEEPS_PRODUCTS,
    };

    d.needs_dx = block > &model->blocks[1] || !model->units[model->blocks[0].units[0]].is_frozen ||
                 d.norm1.gain->is_trainable;
    d.N = (d.H + 2 * d.G) * d.D;
    d.has_room = d.R < d.T;
    describe_layers(&d, block, unit);
    d.keeps_product = model->keeps == DS_KEEPS_ALL && linear_needs_x(&d.down);
    return d;
}

/* ---- memory: the same code measures and places */

struct forward_space {
    struct ds_tensor qkv_TN, product_TI;
    struct ds_tensor norm_RC; /* n1, then n2, where they are not kept */
    struct ds_tensor room_TC;
};

/* [T, ranks] of each layer's factors; nothing where it has none */
void decoder_take_low(struct ds_arena *arena, struct decoder *d, int is_gradient)
{
    struct lora *const all[] = {&d->qkv.lora, &d->o.lora, &d->gate_up.lora, &d->down.lora};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->ranks > 0)
            *(is_gradient ? &all[i]->du_TR : &all[i]->u_TR) =
                take_matrix(arena, d->dtype, d->T, all[i]->ranks);
}

void decoder_take_room(struct ds_arena *arena, struct decoder *d)
{
    struct lora *const all[] = {&d->qkv.lora, &d->o.lora, &d->gate_up.lora, &d->down.lora};
    struct ds_tensor room = {0};
    uint64_t most = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->ranks > 0 && all[i]->threshold > 0 && all[i]->in > most)
            most = all[i]->in;
    if (most > 0)
        room = take_matrix(arena, d->dtype, d->T, most);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        all[i]->room = room;
}

/* v / n */
static void take_products(struct ds_arena *arena, struct decoder *d)
{
    struct lora *const all[] = {&d->qkv.lora, &d->o.lora, &d->gate_up.lora, &d->down.lora};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (lora_has_lengths(all[i]))
            all[i]->v_TN = take_matrix(arena, d->dtype, d->T, all[i]->out);
}

/* 1 / n and c */
void decoder_take_derived(struct ds_arena *arena, struct decoder *d)
{
    struct lora *const all[] = {&d->qkv.lora, &d->o.lora, &d->gate_up.lora, &d->down.lora};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!lora_has_lengths(all[i]))
            continue;
        all[i]->inverse_N = take_vector(arena, DS_F32, all[i]->out);
        all[i]->factor_N = take_vector(arena, DS_F32, all[i]->out);
    }
}

/* Those that are sums over tensor ranks lie side by side. */
static void take_lengths(struct ds_arena *arena, struct decoder *d)
{
    struct lora *const all[] = {&d->qkv.lora, &d->gate_up.lora, &d->o.lora, &d->down.lora};
    uint64_t count = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        count += lora_has_lengths(all[i]) ? all[i]->out : 0;
    if (count == 0)
        return;
    const struct ds_tensor squares = take_vector(arena, DS_F32, count);
    for (size_t i = 0, at = 0; i < sizeof all / sizeof *all; i++) {
        if (!lora_has_lengths(all[i]))
            continue;
        all[i]->squares_N = ds_tensor1((float *)squares.data + at, DS_F32, all[i]->out);
        at += all[i]->out;
    }
}

void decoder_take_turned(struct ds_arena *arena, struct decoder *d)
{
    struct lora *const all[] = {&d->qkv.lora, &d->o.lora, &d->gate_up.lora, &d->down.lora};
    struct ds_tensor room = {0};
    uint64_t most = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (lora_has_lengths(all[i]) && all[i]->out > most)
            most = all[i]->out;
    if (most > 0)
        room = take_matrix(arena, d->dtype, d->T, most);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        all[i]->turned_TN = room;
}

struct decoder_saved decoder_take_saved(struct ds_arena *arena, struct decoder *d)
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
    if (d->keeps_product)
        s.product_TI = take_matrix(arena, d->dtype, d->T, d->I);
    if (d->q_norm) {
        s.qkv_TN = take_matrix(arena, d->dtype, d->T, d->N);
        s.q_rstd_TH = take_matrix(arena, DS_F32, d->T, d->H);
        s.k_rstd_TG = take_matrix(arena, DS_F32, d->T, d->G);
    }
    decoder_take_low(arena, d, 0);
    take_products(arena, d);
    return s;
}

static struct forward_space take_forward(struct ds_arena *arena, struct decoder *d)
{
    struct forward_space w = {0};

    take_lengths(arena, d);
    if (!d->q_norm)
        w.qkv_TN = take_matrix(arena, d->dtype, d->T, d->N);
    if (!d->keeps_product)
        w.product_TI = take_matrix(arena, d->dtype, d->T, d->I);
    if (!d->keeps_norms)
        w.norm_RC = take_matrix(arena, d->dtype, d->R, d->C);
    if (d->has_room)
        w.room_TC = take_matrix(arena, d->dtype, d->T, d->C);
    decoder_take_room(arena, d);
    return w;
}

static size_t decoder_saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct decoder d = decoder_of(block, token_count);
    struct ds_arena measure = {.size = SIZE_MAX};

    decoder_take_saved(&measure, &d);
    return measure.used;
}

static size_t decoder_derived_bytes(const struct ds_block *block)
{
    struct decoder d = decoder_of(block, block->model->share.tp_size);
    struct ds_arena measure = {.size = SIZE_MAX};

    decoder_take_derived(&measure, &d);
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
    return param ? pass_weight(pass, d->block, param) : (struct ds_tensor){0};
}

struct ds_tensor decoder_rotary(const struct decoder *d, const struct ds_pass *pass)
{
    return matrix_at(pass->rotary, DS_F32, pass->batch->seq_length, d->D);
}

static struct ds_qkv_split_args split_of(const struct decoder *d, const struct ds_pass *pass,
                                         const struct decoder_saved *s, struct ds_tensor qkv_TN)
{
    return (struct ds_qkv_split_args){
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
}

/* All tokens at once, or piece by piece as they come. */
static ds_status make_heads(const struct decoder *d, struct ds_pass *pass,
                            const struct decoder_saved *s, struct tp_pieces *pieces,
                            struct ds_tensor n1_TC, struct ds_tensor qkv_TN)
{
    const struct ds_qkv_split_args split = split_of(d, pass, s, qkv_TN);

    if (pieces->count == 1) {
        DS_TRY(tp_wait(pass, &pieces->calls[0]));
        return linear_forward_split(pass, &d->qkv, n1_TC, split);
    }
    DS_TRY(column_forward(pass, &d->qkv, pieces, n1_TC, qkv_TN));
    return pass->kernels->qkv_split(pass->stream, &split);
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

/* Piece by piece what the norm makes goes to the other ranks; `sum` is the row-parallel layer whose output it reads. */
static ds_status norm_and_gather(struct ds_pass *pass, const struct norm *norm,
                                 const struct ds_rmsnorm_args *whole, const struct linear *sum,
                                 struct tp_pieces *pieces, struct ds_tensor room,
                                 struct ds_tensor *gathered)
{
    for (uint32_t i = 0; i < pieces->count; i++) {
        const struct ds_rmsnorm_args piece = {.x_TC = tp_piece(pieces, i, whole->x_TC),
                                              .residual_TC =
                                                  tp_piece(pieces, i, whole->residual_TC),
                                              .sum_TC = tp_piece(pieces, i, whole->sum_TC),
                                              .y_TC = tp_piece(pieces, i, whole->y_TC),
                                              .rstd_T = tp_piece(pieces, i, whole->rstd_T)};

        if (sum)
            DS_TRY(row_forward_end(pass, sum, pieces, i, whole->x_TC));
        DS_TRY(norm_forward(pass, norm, &piece));
        DS_TRY(tp_gather_piece(norm->block->model, pass, pieces, i, whole->y_TC, room, gathered));
    }
    return DS_OK;
}

/* h = x + o Wo^T stays without its x here, and is still being summed over the ranks: norm2 adds it while it reads. */
static ds_status attention_half(const struct decoder *d, struct ds_pass *pass,
                                const struct decoder_saved *s, const struct forward_space *w,
                                struct ds_tensor x_RC, struct tp_pieces *pieces)
{
    const struct ds_attention_args attention = decoder_attention(d, pass, s);
    const struct ds_tensor qkv_TN = d->q_norm ? s->qkv_TN : w->qkv_TN;
    const struct ds_rmsnorm_args norm = {
        .x_TC = x_RC, .y_TC = d->keeps_norms ? s->n1_RC : w->norm_RC, .rstd_T = s->rstd1_R};
    struct ds_tensor n1_TC;

    DS_TRY(norm_and_gather(pass, &d->norm1, &norm, NULL, pieces, w->room_TC, &n1_TC));
    DS_TRY(make_heads(d, pass, s, pieces, n1_TC, qkv_TN));
    DS_TRY(pass->kernels->attention_forward(pass->stream, &attention));
    return row_forward_begin(pass, &d->o, pieces, flat(d, s->o_THD), w->room_TC, s->h_RC);
}

static ds_status mlp_half(const struct decoder *d, struct ds_pass *pass,
                          const struct decoder_saved *s, const struct forward_space *w,
                          struct ds_tensor x_RC, struct ds_tensor y_RC, struct tp_pieces *pieces)
{
    const struct ds_rmsnorm_args norm = {.x_TC = s->h_RC,
                                         .residual_TC = x_RC,
                                         .sum_TC = s->h_RC,
                                         .y_TC = d->keeps_norms ? s->n2_RC : w->norm_RC,
                                         .rstd_T = s->rstd2_R};
    const int is_product_read = y_RC.data || d->down.lora.ranks > 0 || d->keeps_product;
    const struct ds_tensor product_TI = d->keeps_product ? s->product_TI : w->product_TI;
    struct ds_tensor n2_TC;

    DS_TRY(norm_and_gather(pass, &d->norm2, &norm, &d->o, pieces, w->room_TC, &n2_TC));
    DS_TRY(column_forward_swiglu(pass, &d->gate_up, pieces, n2_TC, s->gate_up_TN,
                                 is_product_read ? product_TI : (struct ds_tensor){0}));
    if (!is_product_read)
        return DS_OK;
    if (!y_RC.data && lora_has_lengths(&d->down.lora))
        return dora_product(pass, &d->down, product_TI, y_RC, y_RC);
    if (!y_RC.data)
        return lora_project(pass, &d->down.lora, product_TI);
    return row_forward_onto(pass, &d->down, pieces, product_TI, w->room_TC, s->h_RC, y_RC);
}

/* Squares of lengths of rows, whole on every tensor rank. */
static ds_status measure(const struct decoder *d, const struct ds_pass *pass, int is_bare)
{
    const struct linear *const all[] = {&d->qkv, &d->gate_up, &d->o, &d->down};
    void *first = NULL;
    size_t count = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct lora *lora = &all[i]->lora;

        DS_TRY(dora_measure(pass, all[i], is_bare));
        if (i < 2 || !lora_has_lengths(lora))
            continue;
        first = first ? first : lora->squares_N.data;
        count += lora->out;
    }
    return first && d->model->share.tp_size > 1
               ? tp_all_reduce(pass, first, count, DS_F32, DS_REDUCE_SUM)
               : DS_OK;
}

static ds_status begin_lengths(const struct decoder *d, const struct ds_pass *pass)
{
    const struct linear *const all[] = {&d->qkv, &d->gate_up, &d->o, &d->down};

    if (!pass->derives)
        return DS_OK;
    DS_TRY(measure(d, pass, 0));
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        DS_TRY(dora_begin(pass, all[i]));
    return DS_OK;
}

ds_status ds_lora_lengths(const struct ds_block *layer, struct ds_pass *pass,
                          const float *squares[DS_LINEAR_COUNT])
{
    struct decoder d = decoder_of(layer, layer->model->share.tp_size);
    const struct linear *const all[] = {&d.qkv, &d.gate_up, &d.o, &d.down};
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};

    take_lengths(&workspace, &d);
    memset(squares, 0, DS_LINEAR_COUNT * sizeof *squares);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct lora *lora = &all[i]->lora;

        for (uint32_t k = 0; lora_has_lengths(lora) && k < lora->part_count; k++)
            squares[lora->parts[k].linear] =
                (const float *)lora->squares_N.data + lora->parts[k].out_start;
    }
    return measure(&d, pass, 1);
}

static ds_status decoder_forward(const struct ds_block *block, struct ds_pass *pass, const void *x,
                                 void *y)
{
    struct decoder d = decoder_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena saved = {.base = pass->saved, .size = SIZE_MAX};
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    struct ds_arena derived = {.base = pass->derived, .size = SIZE_MAX};
    const struct decoder_saved s = decoder_take_saved(&saved, &d);
    const struct forward_space w = take_forward(&workspace, &d);
    const struct ds_tensor x_RC = matrix_at(x, d.dtype, d.R, d.C);
    struct tp_pieces pieces = tp_pieces_of(d.model, d.R);

    decoder_take_derived(&derived, &d);
    DS_TRY(begin_lengths(&d, pass));
    DS_TRY(attention_half(&d, pass, &s, &w, x_RC, &pieces));
    return mlp_half(&d, pass, &s, &w, x_RC, matrix_at(y, d.dtype, d.R, d.C), &pieces);
}

/* The most of a way forward, which gathers twice and sums twice, in pieces, and of a backward in one call: both
 * gradients and both norms' outputs gathered, both products' inputs summed. */
static uint32_t decoder_collectives(const struct ds_block *block, uint64_t token_count)
{
    (void)block, (void)token_count;
    return 4 * TP_PIECES_MAX;
}

const struct ds_block_ops model_decoder_ops = {
    .name = "decoder",
    .saved_bytes = decoder_saved_bytes,
    .workspace_bytes = decoder_workspace_bytes,
    .held_bytes = decoder_held_bytes,
    .derived_bytes = decoder_derived_bytes,
    .collective_count = decoder_collectives,
    .forward = decoder_forward,
    .backward = decoder_backward,
};
