/* bench_kernels_cases.c - the table of kernels to measure: for each its arguments in a shape, and what
 * one call costs. FLOPs where arithmetic is the limit, else bytes read and written, each array once. */
#include "bench_kernels.h"

#include <stdio.h>

#define TEXT(rig, ...) snprintf((rig)->text, sizeof(rig)->text, __VA_ARGS__)

static struct ds_tensor floats1(struct rig *r, size_t a)
{
    return ds_tensor1(rig_floats(r, a), DS_F32, a);
}

static struct ds_tensor floats2(struct rig *r, size_t a, size_t b)
{
    return ds_tensor2(rig_floats(r, a * b), DS_F32, a, b);
}

static struct ds_tensor floats3(struct rig *r, size_t a, size_t b, size_t c)
{
    return ds_tensor3(rig_floats(r, a * b * c), DS_F32, a, b, c);
}

static struct ds_tensor ids(struct rig *r, size_t count, size_t bound)
{
    return ds_tensor1(rig_ints(r, count, (int32_t)bound), DS_I32, count);
}

static struct ds_tensor doubles(struct rig *r, size_t count)
{
    struct ds_tensor t = ds_tensor1(rig_zeros(r, count * sizeof(double)), DS_F64, count);

    for (size_t i = 0; t.data && i < count; i++)
        ((double *)rig_before(r, t.data))[i] = 1.0 + (double)(i % 7);
    return t;
}

static struct ds_step_record *record(struct rig *r)
{
    struct ds_step_record *device = rig_zeros(r, sizeof *device);
    struct ds_step_record *before = device ? rig_before(r, device) : NULL;

    if (before)
        *before = (struct ds_step_record){.step = 1,
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

/* ---- products: C[M,N], K summed */

static void product(struct rig *r, size_t m, size_t n, size_t k, int trans_a, int trans_b)
{
    r->args.matmul = (struct ds_matmul_args){
        .a = trans_a ? floats2(r, k, m) : floats2(r, m, k),
        .b = trans_b ? floats2(r, n, k) : floats2(r, k, n),
        .c = floats2(r, m, n),
        .trans_a = trans_a,
        .trans_b = trans_b,
    };
    r->flops = 2.0 * (double)m * (double)n * (double)k;
    TEXT(r, "%zux%zux%zu", m, n, k);
}

static void setup_matmul_square(struct rig *r)
{
    product(r, r->shape->N, r->shape->N, r->shape->N, 0, 0);
}

static void setup_matmul_forward(struct rig *r)
{
    product(r, r->shape->T, 2 * r->shape->I, r->shape->C, 0, 1);
}

static void setup_matmul_input(struct rig *r)
{
    product(r, r->shape->T, r->shape->C, 2 * r->shape->I, 0, 0);
}

static void setup_matmul_weight(struct rig *r)
{
    product(r, 2 * r->shape->I, r->shape->C, r->shape->T, 1, 0);
}

static void setup_matmul_head(struct rig *r)
{
    product(r, r->shape->T, r->shape->V, r->shape->C, 0, 1);
}

/* ---- attention: half of the S x S square is seen; 2 products forward, 5 backward */

static void setup_attention(struct rig *r, int product_count)
{
    const struct rig_shape *s = r->shape;

    r->args.attention = (struct ds_attention_backward_args){
        .forward = {.q_THD = floats3(r, s->T, s->H, s->D),
                    .k_TGD = floats3(r, s->T, s->G, s->D),
                    .v_TGD = floats3(r, s->T, s->G, s->D),
                    .document_T = ids(r, s->T, 1),
                    .o_THD = floats3(r, s->T, s->H, s->D),
                    .lse_TH = floats2(r, s->T, s->H),
                    .seq_length = s->S,
                    .scale = 0.3f},
        .do_THD = floats3(r, s->T, s->H, s->D),
        .dq_THD = floats3(r, s->T, s->H, s->D),
        .dk_TGD = floats3(r, s->T, s->G, s->D),
        .dv_TGD = floats3(r, s->T, s->G, s->D),
        .delta_TH = floats2(r, s->T, s->H),
    };
    r->flops = (double)product_count * (double)s->T * (double)(s->S + 1) * (double)(s->H * s->D);
    TEXT(r, "T%zu S%zu H%zu G%zu D%zu", s->T, s->S, s->H, s->G, s->D);
}

static void setup_attention_forward(struct rig *r)
{
    setup_attention(r, 2);
}

static void setup_attention_backward(struct rig *r)
{
    setup_attention(r, 5);
}

/* ---- bound by memory */

static void rows(struct rig *r, size_t t, size_t n, double arrays)
{
    r->bytes = arrays * (double)t * (double)n * sizeof(float);
    TEXT(r, "%zux%zu", t, n);
}

static void setup_bias(struct rig *r, double arrays)
{
    const size_t n = (r->shape->H + 2 * r->shape->G) * r->shape->D;

    r->args.bias = (struct ds_bias_args){floats2(r, r->shape->T, n), floats1(r, n), 0};
    rows(r, r->shape->T, n, arrays);
}

static void setup_bias_forward(struct rig *r)
{
    setup_bias(r, 2);
}

static void setup_bias_backward(struct rig *r)
{
    setup_bias(r, 1);
}

static void setup_rmsnorm_forward(struct rig *r)
{
    const size_t t = r->shape->T, c = r->shape->C;

    r->args.rmsnorm = (struct ds_rmsnorm_args){.x_TC = floats2(r, t, c),
                                               .residual_TC = floats2(r, t, c),
                                               .gain_C = floats1(r, c),
                                               .sum_TC = floats2(r, t, c),
                                               .y_TC = floats2(r, t, c),
                                               .rstd_T = floats1(r, t),
                                               .epsilon = 1e-6f};
    rows(r, t, c, 4);
}

static void setup_rmsnorm_backward(struct rig *r)
{
    const size_t t = r->shape->T, c = r->shape->C;

    r->args.rmsnorm_backward = (struct ds_rmsnorm_backward_args){.x_TC = floats2(r, t, c),
                                                                 .gain_C = floats1(r, c),
                                                                 .rstd_T = floats1(r, t),
                                                                 .dy_TC = floats2(r, t, c),
                                                                 .dx_TC = floats2(r, t, c),
                                                                 .dgain_C = floats1(r, c)};
    rows(r, t, c, 3);
}

static struct ds_tensor positions(struct rig *r)
{
    struct ds_tensor t = ids(r, r->shape->T, 1);
    int32_t *before = t.data ? rig_before(r, t.data) : NULL;

    for (size_t i = 0; before && i < r->shape->T; i++)
        before[i] = (int32_t)(i % r->shape->S);
    return t;
}

static void setup_split(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const size_t n = (s->H + 2 * s->G) * s->D;

    r->args.split = (struct ds_qkv_split_args){.qkv_TN = floats2(r, s->T, n),
                                               .position_T = positions(r),
                                               .rotary_PD = floats2(r, s->S, s->D),
                                               .q_THD = floats3(r, s->T, s->H, s->D),
                                               .k_TGD = floats3(r, s->T, s->G, s->D),
                                               .v_TGD = floats3(r, s->T, s->G, s->D)};
    rows(r, s->T, n, 2);
}

static void setup_join(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const size_t n = (s->H + 2 * s->G) * s->D;

    r->args.join = (struct ds_qkv_join_args){.dq_THD = floats3(r, s->T, s->H, s->D),
                                             .dk_TGD = floats3(r, s->T, s->G, s->D),
                                             .dv_TGD = floats3(r, s->T, s->G, s->D),
                                             .position_T = positions(r),
                                             .rotary_PD = floats2(r, s->S, s->D),
                                             .dqkv_TN = floats2(r, s->T, n)};
    rows(r, s->T, n, 2);
}

static void setup_swiglu_forward(struct rig *r)
{
    const size_t t = r->shape->T, i = r->shape->I;

    r->args.swiglu = (struct ds_swiglu_args){floats2(r, t, 2 * i), floats2(r, t, i)};
    rows(r, t, i, 3);
}

static void setup_swiglu_backward(struct rig *r)
{
    const size_t t = r->shape->T, i = r->shape->I;

    r->args.swiglu_backward = (struct ds_swiglu_backward_args){
        .gate_up_TN = floats2(r, t, 2 * i),
        .dy_TI = floats2(r, t, i),
        .dgate_up_TN = floats2(r, t, 2 * i),
    };
    rows(r, t, i, 5);
}

static void setup_embedding(struct rig *r)
{
    const size_t t = r->shape->T, c = r->shape->C, v = r->shape->V;

    r->args.embedding = (struct ds_embedding_args){
        .id_T = ids(r, t, v), .table_VC = floats2(r, v, c), .y_TC = floats2(r, t, c)};
    rows(r, t, c, 2);
}

/* Reads a gradient and what it adds to, writes that; the table is cleared first. */
static void setup_embedding_backward(struct rig *r)
{
    setup_embedding(r);
    r->bytes *= 1.5;
    r->bytes += (double)(r->shape->V * r->shape->C) * sizeof(float);
}

static void setup_cross_entropy(struct rig *r)
{
    const size_t t = r->shape->T / 4, v = r->shape->V; /* logits come in chunks */

    r->args.cross_entropy = (struct ds_cross_entropy_args){.logits_NV = floats2(r, t, v),
                                                           .target_N = ids(r, t, v),
                                                           .loss_N = floats1(r, t),
                                                           .record = record(r),
                                                           .gradient = 1};
    rows(r, t, v, 2);
}

static void setup_loss_sum(struct rig *r)
{
    r->args.loss_sum = (struct ds_loss_sum_args){floats1(r, r->shape->T), record(r)};
    rows(r, 1, r->shape->T, 1);
}

static void setup_add(struct rig *r)
{
    const size_t t = r->shape->T, c = r->shape->C;

    r->args.add = (struct ds_add_args){floats2(r, t, c), floats2(r, t, c)};
    rows(r, t, c, 3);
}

static void setup_cast(struct rig *r)
{
    const size_t t = r->shape->T, c = r->shape->C;

    r->args.cast = (struct ds_cast_args){
        ds_tensor2(rig_zeros(r, t * c * sizeof(uint16_t)), DS_BF16, t, c), floats2(r, t, c)};
    rows(r, t, c, 1.5);
}

static void setup_fill(struct rig *r)
{
    const size_t count = r->shape->V * r->shape->C;

    r->args.fill = (struct ds_fill_args){rig_floats(r, count), count * sizeof(float)};
    rows(r, r->shape->V, r->shape->C, 1);
}

static void setup_norm_pieces(struct rig *r)
{
    const size_t count = r->shape->V * r->shape->C;

    r->args.norm_pieces = (struct ds_norm_pieces_args){
        .x = floats1(r, count), .sums = doubles(r, (count + DS_NORM_PIECE - 1) / DS_NORM_PIECE)};
    rows(r, 1, count, 1);
}

static void setup_norm_sum(struct rig *r)
{
    const size_t count = (r->shape->V * r->shape->C + DS_NORM_PIECE - 1) / DS_NORM_PIECE;

    r->args.norm_sum = (struct ds_norm_sum_args){doubles(r, count), record(r)};
    rows(r, 2, count, 1);
}

static void setup_step_begin(struct rig *r)
{
    r->args.step_begin = (struct ds_step_begin_args){record(r), 1};
    r->bytes = sizeof(struct ds_step_record);
    TEXT(r, "record");
}

static void setup_verdict(struct rig *r)
{
    r->args.verdict = (struct ds_verdict_args){record(r), 1, 0.9f, 0.95f};
    r->bytes = sizeof(struct ds_step_record);
    TEXT(r, "record");
}

static void setup_adamw(struct rig *r)
{
    const size_t count = r->shape->V * r->shape->C;
    struct ds_adamw_span *spans = rig_zeros(r, sizeof *spans);
    const struct ds_tensor master = floats1(r, count);

    if (spans)
        *(struct ds_adamw_span *)rig_before(r, spans) =
            (struct ds_adamw_span){.count = count, .weight_decay = 0.1f};
    r->args.adamw = (struct ds_adamw_args){
        .master = master,
        .param = master,
        .grad = floats1(r, count),
        .exp_avg = floats1(r, count),
        .exp_avg_sq = ds_tensor1(rig_zeros(r, count * sizeof(float)), DS_F32, count),
        .spans = spans,
        .span_count = 1,
        .record = record(r),
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .epsilon = 1e-8f};
    rows(r, 1, count, 7);
}

/* ---- the calls */

#define RUN(entry, field)                                    \
    static ds_status run_##entry(struct rig *r)              \
    {                                                        \
        return r->kernels->entry(r->stream, &r->args.field); \
    }
RUN(matmul, matmul)
RUN(bias_forward, bias)
RUN(bias_backward, bias)
RUN(rmsnorm_forward, rmsnorm)
RUN(rmsnorm_backward, rmsnorm_backward)
RUN(qkv_split, split)
RUN(qkv_join, join)
RUN(attention_forward, attention.forward)
RUN(attention_backward, attention)
RUN(swiglu_forward, swiglu)
RUN(swiglu_backward, swiglu_backward)
RUN(embedding_forward, embedding)
RUN(embedding_backward, embedding)
RUN(cross_entropy, cross_entropy)
RUN(loss_sum, loss_sum)
RUN(add, add)
RUN(cast, cast)
RUN(fill, fill)
RUN(norm_pieces, norm_pieces)
RUN(norm_sum, norm_sum)
RUN(step_begin, step_begin)
RUN(verdict, verdict)
RUN(adamw, adamw)

/* clang-format off */
const struct rig_kernel rig_kernels[] = {
    {"matmul_square", setup_matmul_square, NULL, run_matmul, check_matmul},
    {"matmul_forward", setup_matmul_forward, NULL, run_matmul, check_matmul},
    {"matmul_input", setup_matmul_input, NULL, run_matmul, check_matmul},
    {"matmul_weight", setup_matmul_weight, NULL, run_matmul, check_matmul},
    {"matmul_head", setup_matmul_head, NULL, run_matmul, check_matmul},
    {"attention_forward", setup_attention_forward, NULL, run_attention_forward, check_attention_forward},
    {"attention_backward", setup_attention_backward, run_attention_forward, run_attention_backward, check_attention_backward},
    {"bias_forward", setup_bias_forward, NULL, run_bias_forward, check_bias_forward},
    {"bias_backward", setup_bias_backward, NULL, run_bias_backward, check_bias_backward},
    {"rmsnorm_forward", setup_rmsnorm_forward, NULL, run_rmsnorm_forward, check_rmsnorm_forward},
    {"rmsnorm_backward", setup_rmsnorm_backward, NULL, run_rmsnorm_backward, check_rmsnorm_backward},
    {"qkv_split", setup_split, NULL, run_qkv_split, check_split},
    {"qkv_join", setup_join, NULL, run_qkv_join, check_join},
    {"swiglu_forward", setup_swiglu_forward, NULL, run_swiglu_forward, check_swiglu_forward},
    {"swiglu_backward", setup_swiglu_backward, NULL, run_swiglu_backward, check_swiglu_backward},
    {"embedding_forward", setup_embedding, NULL, run_embedding_forward, check_embedding_forward},
    {"embedding_backward", setup_embedding_backward, NULL, run_embedding_backward, check_embedding_backward},
    {"cross_entropy", setup_cross_entropy, NULL, run_cross_entropy, check_cross_entropy},
    {"loss_sum", setup_loss_sum, NULL, run_loss_sum, check_loss_sum},
    {"add", setup_add, NULL, run_add, check_add},
    {"cast", setup_cast, NULL, run_cast, check_cast},
    {"fill", setup_fill, NULL, run_fill, check_fill},
    {"norm_pieces", setup_norm_pieces, NULL, run_norm_pieces, check_norm_pieces},
    {"norm_sum", setup_norm_sum, NULL, run_norm_sum, check_norm_sum},
    {"step_begin", setup_step_begin, NULL, run_step_begin, check_step_begin},
    {"verdict", setup_verdict, NULL, run_verdict, check_verdict},
    {"adamw", setup_adamw, NULL, run_adamw, check_adamw},
};
/* clang-format on */
const size_t rig_kernel_count = sizeof rig_kernels / sizeof rig_kernels[0];
