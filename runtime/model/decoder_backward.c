/* decoder_backward.c - the way back through a decoder layer, in one call or in two.
 *
 * Each half has an inner part (from the gradient of its output to that of its column-parallel product), the
 * weights' products, and an outer part (on to the residual stream). In one call gradients of activations are
 * scratch, and products that nothing waits for go beside the collectives of tensor ranks. In two, the first call leaves in `held` what the second makes its
 * products of: gradients of gate_up, qkv and h, and the norms' own. The kernels and their inputs are the
 * same, so are the bits. */
#include "decoder.h"

#include "tensor_parallel.h"

/* What a backward in two calls keeps between them. */
struct held {
    struct ds_tensor dgate_up_TN, dqkv_TN, dh_RC;
    struct ds_tensor dgain1_C, dgain2_C, dq_gain_D, dk_gain_D; /* F32 */
    struct ds_tensor gain1_C,
        gain2_C; /* where norms are made again: the second call has no weights */
};

/* The MLP's and the attention's scratch lie in the same place: they are used one after the other. */
struct backward_space {
    struct ds_tensor dnorm_RC, norm_RC,
        rstd_R; /* n2, then n1, made again where they are not kept */
    /* whole, where tokens are shared out: a gradient, a norm's output, a part of a sum over the ranks */
    struct ds_tensor room_TC, norm_room_TC, sum_room_TC;
    struct ds_tensor dproduct_TI, product_TI, dgate_up_TN;
    struct ds_tensor do_TN, dq_THD, dk_TGD, dv_TGD, delta_TH, dqkv_TN;
};

/* A backward on its way: the layer, its memory, and where each gradient goes in this call. */
struct way {
    struct decoder d;
    struct ds_pass *pass;
    struct decoder_saved s;
    struct backward_space w;
    struct held held;
    struct ds_tensor x_RC, dy_RC;
    struct ds_tensor dh_RC; /* gradient of h */
    struct ds_tensor dgate_up_TN, dqkv_TN;
    struct ds_tensor dgain1_C, dgain2_C, dq_gain_D, dk_gain_D;
    struct ds_tensor gain1_C, gain2_C; /* of the norms, for making their output again */
    int adds;                          /* at once: as the pass says; into what is held: no */
};

/* Nothing for a gain that is not there, or frozen. */
static struct ds_tensor take_gain(struct ds_arena *arena, const struct ds_param *gain)
{
    return gain && gain->is_trainable ? take_vector(arena, DS_F32, gain->elems)
                                      : (struct ds_tensor){0};
}

static struct held take_held(struct ds_arena *arena, struct decoder *d)
{
    struct held h = {
        .dgate_up_TN = take_matrix(arena, d->dtype, d->T, 2 * d->I),
        .dqkv_TN = take_matrix(arena, d->dtype, d->T, d->N),
        .dh_RC = take_matrix(arena, d->dtype, d->R, d->C),
        .dgain1_C = take_gain(arena, d->norm1.gain),
        .dgain2_C = take_gain(arena, d->norm2.gain),
        .dq_gain_D = take_gain(arena, d->q_norm),
        .dk_gain_D = take_gain(arena, d->k_norm),
    };

    decoder_take_low(arena, d, 1);
    if (!d->keeps_norms) {
        h.gain1_C = take_vector(arena, d->dtype, d->C);
        h.gain2_C = take_vector(arena, d->dtype, d->C);
    }
    return h;
}

static void take_mlp(struct ds_arena *arena, const struct decoder *d, struct backward_space *w)
{
    w->dproduct_TI = take_matrix(arena, d->dtype, d->T, d->I);
    if (!d->keeps_product)
        w->product_TI = take_matrix(arena, d->dtype, d->T, d->I);
    w->dgate_up_TN = take_matrix(arena, d->dtype, d->T, 2 * d->I);
}

static void take_attention(struct ds_arena *arena, const struct decoder *d,
                           struct backward_space *w)
{
    w->do_TN = take_matrix(arena, d->dtype, d->T, d->H * d->D);
    w->dq_THD = take_heads(arena, d, d->H);
    w->dk_TGD = take_heads(arena, d, d->G);
    w->dv_TGD = take_heads(arena, d, d->G);
    w->delta_TH = take_matrix(arena, DS_F32, d->T, d->H);
    w->dqkv_TN = take_matrix(arena, d->dtype, d->T, d->N);
}

static struct backward_space take_backward(struct ds_arena *arena, struct decoder *d)
{
    struct backward_space w = {.dnorm_RC = take_matrix(arena, d->dtype, d->R, d->C)};
    size_t shared, mlp_end;

    if (!d->keeps_norms) {
        w.norm_RC = take_matrix(arena, d->dtype, d->R, d->C);
        w.rstd_R = take_vector(arena, DS_F32, d->R);
    }
    if (d->has_room) {
        w.room_TC = take_matrix(arena, d->dtype, d->T, d->C);
        w.norm_room_TC = take_matrix(arena, d->dtype, d->T, d->C);
        w.sum_room_TC = take_matrix(arena, d->dtype, d->T, d->C);
    }
    decoder_take_low(arena, d, 1);
    decoder_take_room(arena, d);
    decoder_take_turned(arena, d);
    shared = arena->used;
    take_mlp(arena, d, &w);
    mlp_end = arena->used;
    arena->used = shared;
    take_attention(arena, d, &w);
    arena->used = arena->used > mlp_end ? arena->used : mlp_end;
    return w;
}

size_t decoder_backward_bytes(struct decoder *d)
{
    struct ds_arena measure = {.size = SIZE_MAX};

    take_backward(&measure, d);
    return measure.used;
}

size_t decoder_held_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct decoder d = decoder_of(block, token_count);
    struct ds_arena measure = {.size = SIZE_MAX};

    take_held(&measure, &d);
    return measure.used;
}

/* ---- shared by the halves */

/* The norm's output for a product with all tokens: kept, or made again from the norm's input, with the same
 * bits; nothing where `layer`, which read it, learns nothing from it. */
static ds_status norm_again_begin(const struct way *b, const struct linear *layer,
                                  struct ds_tensor gain_C, struct ds_tensor x_RC,
                                  struct ds_tensor kept, struct ds_tensor *whole,
                                  struct tp_call *call)
{
    const struct ds_rmsnorm_args norm = {.x_TC = x_RC,
                                         .gain_C = gain_C,
                                         .y_TC = b->w.norm_RC,
                                         .rstd_T = b->w.rstd_R,
                                         .epsilon = b->d.epsilon};

    *whole = (struct ds_tensor){0};
    *call = (struct tp_call){0};
    if (!linear_needs_x(layer))
        return DS_OK;
    if (!b->d.keeps_norms)
        DS_TRY(b->pass->kernels->rmsnorm_forward(b->pass->stream, &norm));
    return tp_gather_begin(b->d.model, b->pass, b->d.keeps_norms ? kept : b->w.norm_RC,
                           b->w.norm_room_TC, whole, call);
}

static ds_status layer_matrix(const struct way *b, const struct linear *layer, struct ds_tensor x,
                              struct ds_tensor dy)
{
    return linear_backward_matrix(b->pass, layer, x, dy,
                                  pass_adds(b->pass, layer->block, layer->weight));
}

static int adds_to(const struct way *b, const struct ds_param *gain)
{
    return b->adds && pass_adds(b->pass, b->d.block, gain);
}

/* ---- the MLP */

/* Kept, or what is made again. */
static struct ds_tensor product_of(const struct way *b)
{
    return b->d.keeps_product ? b->s.product_TI : b->w.product_TI;
}

static ds_status mlp_inner(const struct way *b, struct ds_tensor dy_TC, struct ds_tensor product_TI)
{
    const struct ds_swiglu_backward_args swiglu = {
        .gate_up_TN = b->s.gate_up_TN,
        .dy_TI = b->w.dproduct_TI,
        .dgate_up_TN = b->dgate_up_TN,
        .y_TI = product_TI,
    };

    return linear_backward_swiglu(b->pass, &b->d.down, dy_TC, swiglu);
}

static ds_status down_weight(const struct way *b, struct ds_tensor dy_TC)
{
    DS_TRY(layer_matrix(b, &b->d.down, product_of(b), dy_TC));
    return linear_backward_bias(b->pass, &b->d.down, b->dy_RC);
}

static ds_status norm2_again_begin(const struct way *b, struct ds_tensor *n2_TC,
                                   struct tp_call *call)
{
    return norm_again_begin(b, &b->d.gate_up, b->gain2_C, b->s.h_RC, b->s.n2_RC, n2_TC, call);
}

static ds_status gate_up_weight(const struct way *b, struct ds_tensor n2_TC)
{
    DS_TRY(layer_matrix(b, &b->d.gate_up, n2_TC, b->dgate_up_TN));
    return linear_backward_bias(b->pass, &b->d.gate_up, b->dgate_up_TN);
}

static ds_status gate_up_input_begin(const struct way *b, struct tp_call *call)
{
    return column_backward_input_begin(b->pass, &b->d.gate_up, b->dgate_up_TN, b->w.sum_room_TC,
                                       b->w.dnorm_RC, call);
}

static ds_status mlp_outer(const struct way *b)
{
    const struct ds_rmsnorm_backward_args norm = {
        .x_TC = b->s.h_RC,
        .rstd_T = b->s.rstd2_R,
        .dy_TC = b->w.dnorm_RC,
        .residual_TC = b->dy_RC,
        .dx_TC = b->dh_RC,
        .dgain_C = b->dgain2_C,
        .gain_add = adds_to(b, b->d.norm2.gain),
    };

    return norm_backward(b->pass, &b->d.norm2, &norm);
}

/* ---- attention */

static ds_status join_heads(const struct way *b)
{
    const struct ds_qkv_join_args args = {
        .dq_THD = b->w.dq_THD,
        .dk_TGD = b->w.dk_TGD,
        .dv_TGD = b->w.dv_TGD,
        .position_T = b->pass->batch->position_T,
        .rotary_PD = decoder_rotary(&b->d, b->pass),
        .qkv_TN = b->s.qkv_TN,
        .q_gain_D = decoder_gain(&b->d, b->pass, b->d.q_norm),
        .k_gain_D = decoder_gain(&b->d, b->pass, b->d.k_norm),
        .q_rstd_TH = b->s.q_rstd_TH,
        .k_rstd_TG = b->s.k_rstd_TG,
        .dqkv_TN = b->dqkv_TN,
        .dq_gain_D = b->dq_gain_D,
        .dk_gain_D = b->dk_gain_D,
        .gain_add = adds_to(b, b->d.q_norm), /* both are trained, or none */
    };

    return b->pass->kernels->qkv_join(b->pass->stream, &args);
}

static ds_status attention_inner(const struct way *b, struct ds_tensor dh_TC)
{
    const struct decoder *d = &b->d;
    const struct ds_attention_backward_args attention = {
        .forward = decoder_attention(d, b->pass, &b->s),
        .do_THD = ds_tensor3(b->w.do_TN.data, d->dtype, d->T, d->H, d->D),
        .dq_THD = b->w.dq_THD,
        .dk_TGD = b->w.dk_TGD,
        .dv_TGD = b->w.dv_TGD,
        .delta_TH = b->w.delta_TH,
    };

    DS_TRY(linear_backward_input(b->pass, &d->o, dh_TC, b->w.do_TN));
    DS_TRY(b->pass->kernels->attention_backward(b->pass->stream, &attention));
    return join_heads(b);
}

static ds_status o_weight(const struct way *b, struct ds_tensor dh_TC)
{
    const struct decoder *d = &b->d;
    const struct ds_tensor o_TN = ds_tensor2(b->s.o_THD.data, d->dtype, d->T, d->H * d->D);

    DS_TRY(layer_matrix(b, &d->o, o_TN, dh_TC));
    return linear_backward_bias(b->pass, &d->o, b->dh_RC);
}

static ds_status norm1_again_begin(const struct way *b, struct ds_tensor *n1_TC,
                                   struct tp_call *call)
{
    return norm_again_begin(b, &b->d.qkv, b->gain1_C, b->x_RC, b->s.n1_RC, n1_TC, call);
}

static ds_status qkv_weight(const struct way *b, struct ds_tensor n1_TC)
{
    DS_TRY(layer_matrix(b, &b->d.qkv, n1_TC, b->dqkv_TN));
    return linear_backward_bias(b->pass, &b->d.qkv, b->dqkv_TN);
}

static ds_status qkv_input_begin(const struct way *b, struct tp_call *call)
{
    *call = (struct tp_call){0};
    if (!b->d.needs_dx)
        return linear_backward_no_input(b->pass, &b->d.qkv, b->dqkv_TN);
    return column_backward_input_begin(b->pass, &b->d.qkv, b->dqkv_TN, b->w.sum_room_TC,
                                       b->w.dnorm_RC, call);
}

static ds_status attention_outer(const struct way *b, struct ds_tensor dx_RC)
{
    const struct ds_rmsnorm_backward_args norm = {
        .x_TC = b->x_RC,
        .rstd_T = b->s.rstd1_R,
        .dy_TC = b->w.dnorm_RC,
        .residual_TC = b->dh_RC,
        .dx_TC = dx_RC,
        .dgain_C = b->dgain1_C,
        .gain_add = adds_to(b, b->d.norm1.gain),
    };

    if (!b->d.needs_dx)
        return DS_OK;
    return norm_backward(b->pass, &b->d.norm1, &norm);
}

/* ---- one call, or two */

/* From the gradient of y to that of h, both whole where a product reads them. Nothing waits for the weights'
 * products: so one goes beside each collective that the way itself has to wait for. Without a room the sum is
 * the last of these, and both go beside it. */
static ds_status mlp_at_once(struct way *b, struct ds_tensor *dh_TC)
{
    const int makes_again = linear_needs_x(&b->d.down) && !b->d.keeps_product;
    const struct ds_tensor product_again = makes_again ? b->w.product_TI : (struct ds_tensor){0};
    struct tp_call norm, sum, dh = {0};
    struct ds_tensor dy_TC, n2_TC;

    DS_TRY(tp_gather(b->d.model, b->pass, b->dy_RC, b->w.room_TC, &dy_TC));
    DS_TRY(norm2_again_begin(b, &n2_TC, &norm));
    DS_TRY(mlp_inner(b, dy_TC, product_again));
    DS_TRY(gate_up_input_begin(b, &sum));
    DS_TRY(down_weight(b, dy_TC));
    DS_TRY(tp_wait(b->pass, &norm));
    if (!b->d.has_room)
        DS_TRY(gate_up_weight(b, n2_TC));
    DS_TRY(tp_wait(b->pass, &sum));
    DS_TRY(mlp_outer(b));
    DS_TRY(tp_gather_begin(b->d.model, b->pass, b->dh_RC, b->w.room_TC, dh_TC, &dh));
    if (b->d.has_room)
        DS_TRY(gate_up_weight(b, n2_TC));
    return tp_wait(b->pass, &dh);
}

static ds_status attention_at_once(struct way *b, struct ds_tensor dh_TC, struct ds_tensor dx_RC)
{
    struct tp_call norm, sum;
    struct ds_tensor n1_TC;

    DS_TRY(norm1_again_begin(b, &n1_TC, &norm));
    DS_TRY(attention_inner(b, dh_TC));
    DS_TRY(qkv_input_begin(b, &sum));
    DS_TRY(o_weight(b, dh_TC));
    DS_TRY(tp_wait(b->pass, &norm));
    DS_TRY(qkv_weight(b, n1_TC));
    DS_TRY(tp_wait(b->pass, &sum));
    return attention_outer(b, dx_RC);
}

/* The gradient of h lies in dx until it becomes that of x. */
static ds_status backward_at_once(struct way *b, struct ds_tensor dx_RC)
{
    struct ds_tensor dh_TC;

    DS_TRY(mlp_at_once(b, &dh_TC));
    return attention_at_once(b, dh_TC, dx_RC);
}

/* A gain that the second call will need. */
static ds_status hold_gain(const struct way *b, const struct ds_param *param, struct ds_tensor to)
{
    const struct ds_tensor from = pass_weight(b->pass, b->d.block, param);

    return b->pass->stream->device->ops->copy(b->pass->stream, to.data, from.data,
                                              (size_t)b->d.C * ds_dtype_bytes(to.dtype));
}

static ds_status backward_input(struct way *b, struct ds_tensor dx_RC)
{
    struct ds_tensor whole;
    struct tp_call sum;

    if (!b->d.keeps_norms) {
        DS_TRY(hold_gain(b, b->d.norm1.gain, b->gain1_C));
        DS_TRY(hold_gain(b, b->d.norm2.gain, b->gain2_C));
    }

    DS_TRY(tp_gather(b->d.model, b->pass, b->dy_RC, b->w.room_TC, &whole));
    DS_TRY(mlp_inner(b, whole, (struct ds_tensor){0}));
    DS_TRY(gate_up_input_begin(b, &sum));
    DS_TRY(tp_wait(b->pass, &sum));
    DS_TRY(mlp_outer(b));
    DS_TRY(tp_gather(b->d.model, b->pass, b->dh_RC, b->w.room_TC, &whole));
    DS_TRY(attention_inner(b, whole));
    DS_TRY(qkv_input_begin(b, &sum));
    DS_TRY(tp_wait(b->pass, &sum));
    return attention_outer(b, dx_RC);
}

/* A gain's gradient from where the first call left it, in fp32. */
static ds_status bring_gain(const struct way *b, const struct ds_param *param,
                            struct ds_tensor from)
{
    if (!param || !param->is_trainable)
        return DS_OK;
    const struct ds_tensor grad = pass_grad(b->pass, b->d.block, param);
    const struct ds_add_args add = {grad, from};
    const struct ds_cast_args cast = {grad, from};

    return pass_adds(b->pass, b->d.block, param) ? b->pass->kernels->add(b->pass->stream, &add)
                                                 : b->pass->kernels->cast(b->pass->stream, &cast);
}

/* Every collective but the first goes beside a product. */
static ds_status weight_products(struct way *b)
{
    const struct decoder *d = &b->d;
    struct ds_tensor dy_TC, dh_TC, n_TC;
    struct tp_call gradient, norm;

    DS_TRY(tp_gather(d->model, b->pass, b->dy_RC, b->w.room_TC, &dy_TC));
    DS_TRY(norm2_again_begin(b, &n_TC, &norm));
    DS_TRY(down_weight(b, dy_TC));
    DS_TRY(tp_gather_begin(d->model, b->pass, b->dh_RC, b->w.room_TC, &dh_TC, &gradient));
    DS_TRY(tp_wait(b->pass, &norm));
    DS_TRY(gate_up_weight(b, n_TC));
    DS_TRY(norm1_again_begin(b, &n_TC, &norm));
    DS_TRY(tp_wait(b->pass, &gradient));
    DS_TRY(o_weight(b, dh_TC));
    DS_TRY(tp_wait(b->pass, &norm));
    return qkv_weight(b, n_TC);
}

static ds_status backward_weight(struct way *b)
{
    const struct decoder *d = &b->d;
    struct ds_swiglu_args swiglu = {.gate_up_TN = b->s.gate_up_TN, .y_TI = b->w.product_TI};

    if (linear_needs_x(&d->down) && !d->keeps_product)
        DS_TRY(b->pass->kernels->swiglu_forward(b->pass->stream, &swiglu));
    DS_TRY(weight_products(b));
    DS_TRY(bring_gain(b, d->norm1.gain, b->held.dgain1_C));
    DS_TRY(bring_gain(b, d->norm2.gain, b->held.dgain2_C));
    DS_TRY(bring_gain(b, d->q_norm, b->held.dq_gain_D));
    return bring_gain(b, d->k_norm, b->held.dk_gain_D);
}

/* Where gradients go when both parts are one call: scratch and the unit's own buffer. */
static void go_at_once(struct way *b, struct ds_tensor dx_RC)
{
    const struct decoder *d = &b->d;

    b->dh_RC = dx_RC;
    b->dgate_up_TN = b->w.dgate_up_TN;
    b->dqkv_TN = b->w.dqkv_TN;
    b->adds = 1;
    b->dgain1_C = pass_grad(b->pass, d->block, d->norm1.gain);
    b->dgain2_C = pass_grad(b->pass, d->block, d->norm2.gain);
    b->gain1_C = pass_weight(b->pass, d->block, d->norm1.gain);
    b->gain2_C = pass_weight(b->pass, d->block, d->norm2.gain);
    b->dq_gain_D = pass_grad(b->pass, d->block, d->q_norm);
    b->dk_gain_D = pass_grad(b->pass, d->block, d->k_norm);
}

static void go_in_two(struct way *b)
{
    struct ds_arena arena = {.base = b->pass->held, .size = SIZE_MAX};

    b->held = take_held(&arena, &b->d);
    b->dh_RC = b->held.dh_RC;
    b->dgate_up_TN = b->held.dgate_up_TN;
    b->dqkv_TN = b->held.dqkv_TN;
    b->dgain1_C = b->held.dgain1_C;
    b->dgain2_C = b->held.dgain2_C;
    b->dq_gain_D = b->held.dq_gain_D;
    b->dk_gain_D = b->held.dk_gain_D;
    b->gain1_C = b->held.gain1_C;
    b->gain2_C = b->held.gain2_C;
}

ds_status decoder_backward(const struct ds_block *block, struct ds_pass *pass, uint32_t parts,
                           const void *x, const void *dy, void *dx)
{
    struct way b = {.d = decoder_of(block, pass->batch->id_T.shape[0]), .pass = pass};
    struct ds_arena saved = {.base = pass->saved, .size = SIZE_MAX};
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    struct ds_arena derived = {.base = pass->derived, .size = SIZE_MAX};
    const struct ds_tensor dx_RC = matrix_at(dx, b.d.dtype, b.d.R, b.d.C);

    b.s = decoder_take_saved(&saved, &b.d);
    decoder_take_derived(&derived, &b.d);
    b.w = take_backward(&workspace, &b.d);
    b.x_RC = matrix_at(x, b.d.dtype, b.d.R, b.d.C);
    b.dy_RC = matrix_at(dy, b.d.dtype, b.d.R, b.d.C);
    if (parts == (DS_BACKWARD_INPUT | DS_BACKWARD_WEIGHT)) {
        go_at_once(&b, dx_RC);
        return backward_at_once(&b, dx_RC);
    }
    DS_ASSERT(pass->held && parts != 0);
    go_in_two(&b);
    return parts == DS_BACKWARD_INPUT ? backward_input(&b, dx_RC) : backward_weight(&b);
}
