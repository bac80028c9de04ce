/* bench_kernels_setups.c - arguments of what memory bounds, and the bytes that one call reads and writes, each
 * array once; and the same behind its product, bound by that. */
#include "bench_kernels.h"

#include "dstrain/quant.h"

#include <stdio.h>

#define TEXT(rig, ...) snprintf((rig)->text, sizeof(rig)->text, __VA_ARGS__)

/* `bytes` of each of t x n elements */
static void rows(struct rig *r, size_t t, size_t n, size_t bytes)
{
    r->bytes = (double)bytes * (double)t * (double)n;
    TEXT(r, "%zux%zu", t, n);
}

static size_t elem_bytes(const struct rig *r)
{
    return ds_dtype_bytes(r->dtype);
}

static struct ds_step_record *record(struct rig *r)
{
    void *host;
    struct ds_step_record *device = rig_zeros(r, sizeof *device, &host);

    if (host)
        *(struct ds_step_record *)host = (struct ds_step_record){.step = 1,
                                                                 .local_tokens = 512,
                                                                 .trained_tokens = 512,
                                                                 .learning_rate = 1e-3f,
                                                                 .inverse_tokens = 1.0f / 512,
                                                                 .loss_scale = 1,
                                                                 .norm_squared = 4,
                                                                 .norm = 2,
                                                                 .clip_factor = 0.5f,
                                                                 .correction1 = 10,
                                                                 .correction2 = 20};
    return device;
}

/* ---- rows of tokens */

static void bias(struct rig *r, size_t arrays)
{
    const size_t n = (r->shape->H + 2 * r->shape->G) * r->shape->D;

    r->args.bias = (struct ds_bias_args){
        rig_in2(r, r->dtype, r->shape->M, n), rig_in1(r, r->dtype, n), 0, 0, {0}};
    rows(r, r->shape->M, n, arrays * elem_bytes(r));
}

void setup_bias_forward(struct rig *r)
{
    bias(r, 2);
}

/* The sums of thousands of rows in 16 bits: their gradient is F32. */
void setup_bias_backward(struct rig *r)
{
    bias(r, 1);
    r->args.bias.bias_N = rig_out1(r, DS_F32, (size_t)r->args.bias.bias_N.shape[0]);
    r->result = DS_F32;
}

void setup_rmsnorm_forward(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C;
    const enum ds_dtype dtype = r->dtype;

    r->args.rmsnorm = (struct ds_rmsnorm_args){.x_TC = rig_in2(r, dtype, t, c),
                                               .residual_TC = rig_in2(r, dtype, t, c),
                                               .gain_C = rig_in1(r, dtype, c),
                                               .sum_TC = rig_out2(r, dtype, t, c),
                                               .y_TC = rig_out2(r, dtype, t, c),
                                               .rstd_T = rig_out1(r, DS_F32, t),
                                               .epsilon = 1e-6f};
    rows(r, t, c, 4 * elem_bytes(r));
}

void setup_rmsnorm_backward(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C;
    const enum ds_dtype dtype = r->dtype;

    r->args.rmsnorm_backward = (struct ds_rmsnorm_backward_args){
        .x_TC = rig_in2(r, dtype, t, c),
        .gain_C = rig_in1(r, dtype, c),
        .rstd_T = rig_in1(r, DS_F32, t),
        .dy_TC = rig_in2(r, dtype, t, c),
        .residual_TC = rig_in2(r, dtype, t, c),
        .dx_TC = rig_out2(r, dtype, t, c),
        .dgain_C = rig_out1(r, DS_F32, c),
    };
    rows(r, t, c, 4 * elem_bytes(r));
}

static struct ds_tensor positions(struct rig *r)
{
    void *host;
    int32_t *device = rig_zeros(r, r->shape->M * sizeof *device, &host);

    for (size_t i = 0; host && i < r->shape->M; i++)
        ((int32_t *)host)[i] = (int32_t)(i % r->shape->S);
    return ds_tensor1(device, DS_I32, r->shape->M);
}

void setup_split(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const size_t n = (s->H + 2 * s->G) * s->D;

    r->args.split = (struct ds_qkv_split_args){.qkv_TN = rig_in2(r, r->dtype, s->M, n),
                                               .position_T = positions(r),
                                               .rotary_PD = rig_in2(r, DS_F32, s->S, s->D),
                                               .q_THD = rig_out3(r, r->dtype, s->M, s->H, s->D),
                                               .k_TGD = rig_out3(r, r->dtype, s->M, s->G, s->D),
                                               .v_TGD = rig_out3(r, r->dtype, s->M, s->G, s->D)};
    rows(r, s->M, n, 2 * elem_bytes(r));
}

void setup_join(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const size_t n = (s->H + 2 * s->G) * s->D;

    r->args.join = (struct ds_qkv_join_args){.dq_THD = rig_in3(r, r->dtype, s->M, s->H, s->D),
                                             .dk_TGD = rig_in3(r, r->dtype, s->M, s->G, s->D),
                                             .dv_TGD = rig_in3(r, r->dtype, s->M, s->G, s->D),
                                             .position_T = positions(r),
                                             .rotary_PD = rig_in2(r, DS_F32, s->S, s->D),
                                             .dqkv_TN = rig_out2(r, r->dtype, s->M, n)};
    rows(r, s->M, n, 2 * elem_bytes(r));
}

void setup_swiglu_forward(struct rig *r)
{
    const size_t t = r->shape->M, i = r->shape->I;

    r->args.swiglu = (struct ds_swiglu_args){.gate_up_TN = rig_in2(r, r->dtype, t, 2 * i),
                                             .y_TI = rig_out2(r, r->dtype, t, i)};
    rows(r, t, i, 3 * elem_bytes(r));
}

void setup_swiglu_backward(struct rig *r)
{
    const size_t t = r->shape->M, i = r->shape->I;

    r->args.swiglu_backward = (struct ds_swiglu_backward_args){
        .gate_up_TN = rig_in2(r, r->dtype, t, 2 * i),
        .dy_TI = rig_in2(r, r->dtype, t, i),
        .dgate_up_TN = rig_out2(r, r->dtype, t, 2 * i),
    };
    rows(r, t, i, 5 * elem_bytes(r));
}

/* ---- behind their products, as one call: bound by these */

static void product(struct rig *r, size_t m, size_t n, size_t k)
{
    r->flops = 2.0 * (double)m * (double)n * (double)k;
    r->roundings = 3;
    TEXT(r, "%zux%zux%zu", m, n, k);
}

void setup_product_split(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const size_t n = (s->H + 2 * s->G) * s->D;

    r->args.split = (struct ds_qkv_split_args){.qkv_TN = rig_out2(r, r->dtype, s->M, n),
                                               .position_T = positions(r),
                                               .rotary_PD = rig_in2(r, DS_F32, s->S, s->D),
                                               .q_THD = rig_out3(r, r->dtype, s->M, s->H, s->D),
                                               .k_TGD = rig_out3(r, r->dtype, s->M, s->G, s->D),
                                               .v_TGD = rig_out3(r, r->dtype, s->M, s->G, s->D),
                                               .x_TC = rig_in2(r, r->dtype, s->M, s->C),
                                               .weight_NC = rig_in2(r, r->dtype, n, s->C)};
    product(r, s->M, n, s->C);
}

void setup_product_swiglu(struct rig *r)
{
    const size_t t = r->shape->M, i = r->shape->I, c = r->shape->C;

    r->args.swiglu = (struct ds_swiglu_args){.gate_up_TN = rig_out2(r, r->dtype, t, 2 * i),
                                             .y_TI = rig_out2(r, r->dtype, t, i),
                                             .x_TC = rig_in2(r, r->dtype, t, c),
                                             .weight_NC = rig_in2(r, r->dtype, 2 * i, c)};
    product(r, t, 2 * i, c);
}

void setup_product_swiglu_back(struct rig *r)
{
    const size_t t = r->shape->M, i = r->shape->I, c = r->shape->C;

    r->args.swiglu_backward = (struct ds_swiglu_backward_args){
        .gate_up_TN = rig_in2(r, r->dtype, t, 2 * i),
        .dy_TI = rig_out2(r, r->dtype, t, i),
        .dgate_up_TN = rig_out2(r, r->dtype, t, 2 * i),
        .dz_TC = rig_in2(r, r->dtype, t, c),
        .weight_CI = rig_in2(r, r->dtype, c, i),
    };
    product(r, t, i, c);
}

/* An input from -1 to 1 becomes one of a sixteenth of that. */
static void make_small(struct rig *r, const struct ds_tensor *x)
{
    const size_t count = x->shape[0] * x->shape[1], bytes = ds_dtype_bytes(x->dtype);
    char *host = (char *)(uintptr_t)rig_host(r, x->data);

#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < (host ? count : 0); i++) {
        float value;

        (void)ds_dtype_to_f32(&value, host + i * bytes, x->dtype, 1);
        value *= 0x1p-4f;
        (void)ds_dtype_from_f32(host + i * bytes, x->dtype, &value, 1);
    }
}

/* Logits of about 1, as at the beginning of a training. */
void setup_product_loss(struct rig *r)
{
    const size_t n = r->shape->R, v = r->shape->V, c = r->shape->C;

    r->args.cross_entropy =
        (struct ds_cross_entropy_args){.logits_NV = rig_out2(r, r->dtype, n, v),
                                       .target_N = rig_ids(r, n, v),
                                       .loss_N = rig_out1(r, DS_F32, n),
                                       .record = record(r),
                                       .gradient = 1,
                                       .x_NC = rig_in2(r, r->dtype, n, c),
                                       .weight_VC = rig_in2(r, r->dtype, v, c),
                                       .factor_N = rig_out1(r, DS_F32, n),
                                       .scaled_NC = rig_out2(r, r->dtype, n, c)};
    make_small(r, &r->args.cross_entropy.weight_VC);
    product(r, n, v, c);
}

/* ---- embedding and loss */

void setup_embedding_forward(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C, v = r->shape->V;

    r->args.embedding = (struct ds_embedding_args){.id_T = rig_ids(r, t, v),
                                                   .table_VC = rig_in2(r, r->dtype, v, c),
                                                   .y_TC = rig_out2(r, r->dtype, t, c)};
    rows(r, t, c, 2 * elem_bytes(r));
}

/* Reads a gradient and what it adds to, writes that; the table, of F32 as gradients are, is cleared first. */
void setup_embedding_backward(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C, v = r->shape->V;

    r->args.embedding = (struct ds_embedding_args){.id_T = rig_ids(r, t, v),
                                                   .table_VC = rig_out2(r, DS_F32, v, c),
                                                   .y_TC = rig_in2(r, r->dtype, t, c),
                                                   .padding = -1};
    rows(r, t, c, elem_bytes(r) + 2 * sizeof(float));
    r->bytes += (double)(v * c) * sizeof(float);
    r->result = DS_F32;
}

static void cross_entropy(struct rig *r, size_t arrays)
{
    const size_t n = r->shape->R, v = r->shape->V;

    r->args.cross_entropy = (struct ds_cross_entropy_args){.logits_NV = rig_in2(r, r->dtype, n, v),
                                                           .target_N = rig_ids(r, n, v),
                                                           .loss_N = rig_out1(r, DS_F32, n),
                                                           .record = record(r),
                                                           .gradient = 1,
                                                           .vocabulary = v,
                                                           .max_N = rig_out1(r, DS_F32, n),
                                                           .sums_N2 = rig_out2(r, DS_F32, n, 2)};
    rows(r, n, v, arrays * elem_bytes(r));
}

void setup_cross_entropy(struct rig *r)
{
    cross_entropy(r, 2);
}

void setup_cross_entropy_max(struct rig *r)
{
    cross_entropy(r, 1);
}

void setup_cross_entropy_sum(struct rig *r)
{
    cross_entropy(r, 1);
    r->result = DS_F32;
}

void setup_cross_entropy_finish(struct rig *r)
{
    cross_entropy(r, 2);
}

void setup_loss_sum(struct rig *r)
{
    r->args.loss_sum = (struct ds_loss_sum_args){rig_in1(r, DS_F32, r->shape->M), record(r)};
    rows(r, 1, r->shape->M, sizeof(float));
    r->result = DS_F32;
}

/* ---- flat arrays */

/* A gradient of 16 bits is added to what F32 has added up. */
void setup_add(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C;

    r->args.add = (struct ds_add_args){rig_in2(r, DS_F32, t, c), rig_in2(r, r->dtype, t, c)};
    rows(r, t, c, 2 * sizeof(float) + elem_bytes(r));
    r->result = DS_F32;
}

/* The factor is 1: the same call is measured again and again. */
void setup_scale_rows(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C;
    void *host, *factor = rig_zeros(r, t * sizeof(float), &host);

    for (size_t i = 0; host && i < t; i++)
        ((float *)host)[i] = 1.0f;
    r->args.scale_rows =
        (struct ds_scale_rows_args){rig_in2(r, r->dtype, t, c), ds_tensor1(factor, DS_F32, t)};
    rows(r, t, c, 2 * elem_bytes(r));
}

/* F32 to 16 bits */
void setup_cast(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C;
    const enum ds_dtype to = r->dtype == DS_F32 ? DS_BF16 : r->dtype;

    r->args.cast = (struct ds_cast_args){rig_out2(r, to, t, c), rig_in2(r, DS_F32, t, c)};
    rows(r, t, c, sizeof(float) + ds_dtype_bytes(to));
    r->result = to;
}

/* All values of a byte, in no order. */
static struct ds_tensor codes(struct rig *r, enum ds_dtype dtype, size_t count)
{
    void *host;
    uint8_t *device = rig_zeros(r, count, &host);

    for (size_t i = 0; host && i < count; i++)
        ((uint8_t *)host)[i] = (uint8_t)(i * 2654435761u >> 13);
    return ds_tensor1(device, dtype, count);
}

/* The matrix of gate or up. */
void setup_dequantise_nf4(struct rig *r)
{
    const size_t i = r->shape->I, c = r->shape->C, blocks = ds_nf4_blocks(i * c);

    r->args.dequantise = (struct ds_dequantise_args){
        .y = rig_out2(r, r->dtype, i, c),
        .codes = codes(r, DS_U8, ds_nf4_bytes(i * c)),
        .absmax = codes(r, DS_U8, blocks),
        .nest_absmax = rig_in1(r, DS_F32, ds_nf4_nests(i * c)),
        .map = rig_in1(r, DS_F32, DS_QUANT_MAP),
        .offset = rig_in1(r, DS_F32, 1),
    };
    rows(r, i, c, elem_bytes(r));
    r->bytes += (double)(ds_nf4_bytes(i * c) + blocks);
}

void setup_dequantise_int8(struct rig *r)
{
    const size_t i = r->shape->I, c = r->shape->C;

    r->args.dequantise = (struct ds_dequantise_args){.y = rig_out2(r, r->dtype, i, c),
                                                     .codes = codes(r, DS_I8, i * c),
                                                     .absmax = rig_in1(r, DS_F32, i),
                                                     .columns = c};
    rows(r, i, c, elem_bytes(r) + 1);
}

/* Of the larger matrices of an MLP, beside factors of a usual rank. */
void setup_row_squares(struct rig *r)
{
    enum { RANK = 16 };
    const size_t o = r->shape->I, i = r->shape->C;

    r->args.row_squares = (struct ds_row_squares_args){.w_OI = rig_in2(r, r->dtype, o, i),
                                                       .a_RI = rig_in2(r, r->dtype, RANK, i),
                                                       .b_OR = rig_in2(r, r->dtype, o, RANK),
                                                       .squares_O = rig_out1(r, DS_F32, o),
                                                       .scale = 2};
    rows(r, o, i, elem_bytes(r));
}

void setup_magnitude(struct rig *r)
{
    const size_t o = r->shape->I;

    r->args.magnitude = (struct ds_magnitude_args){.squares_O = rig_in1(r, DS_F32, o),
                                                   .magnitude_O = rig_in1(r, r->dtype, o),
                                                   .inverse_O = rig_out1(r, DS_F32, o),
                                                   .factor_O = rig_out1(r, DS_F32, o)};
    rows(r, o, 1, elem_bytes(r) + 3 * sizeof(float));
}

void setup_scale_columns(struct rig *r)
{
    const size_t t = r->shape->M, n = r->shape->I;

    r->args.scale_columns = (struct ds_scale_columns_args){.y_TN = rig_out2(r, r->dtype, t, n),
                                                           .x_TN = rig_in2(r, r->dtype, t, n),
                                                           .addend_TN = rig_in2(r, r->dtype, t, n),
                                                           .scale_N = rig_in1(r, DS_F32, n),
                                                           .plus = -1};
    rows(r, t, n, 3 * elem_bytes(r));
}

/* Of a layer's input, in front of factors. */
void setup_dropout(struct rig *r)
{
    const size_t t = r->shape->M, c = r->shape->C;

    r->args.dropout = (struct ds_dropout_args){.y = rig_out2(r, r->dtype, t, c),
                                               .x = rig_in2(r, r->dtype, t, c),
                                               .record = record(r),
                                               .key = 1,
                                               .whole_columns = c,
                                               .threshold = DS_DROPOUT_NUMBERS / 20};
    rows(r, t, c, 2 * elem_bytes(r));
}

void setup_fill(struct rig *r)
{
    const struct ds_tensor x = rig_in1(r, DS_F32, r->shape->F);

    r->args.fill = (struct ds_fill_args){x.data, r->shape->F * sizeof(float)};
    rows(r, 1, r->shape->F, sizeof(float));
    r->result = DS_F32;
}

static void norm_pieces(struct rig *r, enum ds_dtype dtype)
{
    const size_t count = r->shape->F;

    r->args.norm_pieces = (struct ds_norm_pieces_args){
        .x = rig_in1(r, dtype, count),
        .sums = rig_out1(r, DS_F64, (count + DS_NORM_PIECE - 1) / DS_NORM_PIECE)};
    rows(r, 1, count, ds_dtype_bytes(dtype));
    r->result = DS_F32;
}

void setup_norm_pieces(struct rig *r)
{
    norm_pieces(r, DS_F32);
}

void setup_norm_pieces16(struct rig *r)
{
    norm_pieces(r, r->dtype);
}

void setup_norm_sum(struct rig *r)
{
    const size_t count = (r->shape->F + DS_NORM_PIECE - 1) / DS_NORM_PIECE;
    void *host;
    double *device = rig_zeros(r, count * sizeof *device, &host);

    for (size_t i = 0; host && i < count; i++)
        ((double *)host)[i] = 1.0 + (double)(i % 7);
    r->args.norm_sum = (struct ds_norm_sum_args){ds_tensor1(device, DS_F64, count), record(r)};
    rows(r, 1, count, sizeof(double));
    r->result = DS_F32;
}

void setup_step_begin(struct rig *r)
{
    r->args.step_begin = (struct ds_step_begin_args){record(r), 1};
    r->bytes = sizeof(struct ds_step_record);
    r->result = DS_F32;
    TEXT(r, "record");
}

void setup_verdict(struct rig *r)
{
    r->args.verdict = (struct ds_verdict_args){record(r), 1, 0.9f, 0.95f};
    r->bytes = sizeof(struct ds_step_record);
    r->result = DS_F32;
    TEXT(r, "record");
}

/* ---- the optimizer, in the precisions of states. I16, BOOL: the remainder; none */

static struct ds_adamw_span *one_span(struct rig *r, size_t count)
{
    void *host;
    struct ds_adamw_span *device = rig_zeros(r, sizeof *device, &host);

    if (host)
        *(struct ds_adamw_span *)host =
            (struct ds_adamw_span){.count = count, .weight_decay = 0.1f};
    return device;
}

static struct ds_tensor zeros(struct rig *r, enum ds_dtype dtype, size_t count)
{
    void *host;

    return ds_tensor1(rig_zeros(r, count * ds_dtype_bytes(dtype), &host), dtype, count);
}

/* Master weights, gradient, moments; bytes: param is read where the master is not whole. */
static void adamw(struct rig *r, enum ds_dtype master, enum ds_dtype grad, enum ds_dtype moments)
{
    const size_t count = r->shape->F;
    const size_t of_master = master == DS_BOOL ? 0 : ds_dtype_bytes(master);
    struct ds_adamw_args *a = &r->args.adamw;

    *a = (struct ds_adamw_args){.param = rig_in1(r, r->dtype, count),
                                .grad = rig_in1(r, grad, count),
                                .exp_avg = rig_in1(r, moments, count),
                                .exp_avg_sq = zeros(r, moments, count),
                                .spans = one_span(r, count),
                                .span_count = 1,
                                .record = record(r),
                                .beta1 = 0.9f,
                                .beta2 = 0.95f,
                                .epsilon = 1e-8f};
    if (master == DS_F32)
        a->master = r->dtype == DS_F32 ? a->param : rig_in1(r, master, count);
    if (master == DS_I16)
        a->master = zeros(r, master, count);
    rows(r, 1, count,
         2 * of_master + ds_dtype_bytes(grad) + 4 * ds_dtype_bytes(moments) +
             (r->dtype == DS_F32 ? 0 : elem_bytes(r) * (master == DS_F32 ? 1 : 2)));
    r->result = master == DS_F32 && moments == DS_F32 ? DS_F32 : DS_BF16;
}

void setup_adamw(struct rig *r)
{
    adamw(r, DS_F32, DS_F32, DS_F32);
}

void setup_adamw_moments16(struct rig *r)
{
    adamw(r, DS_F32, DS_F32, DS_BF16);
}

void setup_adamw_remainder16(struct rig *r)
{
    adamw(r, DS_I16, DS_F32, DS_F32);
}

void setup_adamw_none(struct rig *r)
{
    adamw(r, DS_BOOL, DS_F32, DS_F32);
}

void setup_adamw_all16(struct rig *r)
{
    adamw(r, DS_BOOL, DS_BF16, DS_BF16);
}
