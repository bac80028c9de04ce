/* bench_kernels_products.c - arguments of what arithmetic bounds, and its FLOPs: matrix products as a training
 * step has them, and attention. The gradient of a weight has a dtype of its own, F32 here, and is added up. */
#include "bench_kernels.h"

#include <stdio.h>

#define TEXT(rig, ...) snprintf((rig)->text, sizeof(rig)->text, __VA_ARGS__)

/* ---- products: C[M,N], K summed */

struct product {
    size_t m, n, k;
    int trans_a, trans_b, add;
};

static void set_up(struct rig *r, struct product p)
{
    const enum ds_dtype to = p.add ? DS_F32 : r->dtype;

    r->args.matmul = (struct ds_matmul_args){
        .a = p.trans_a ? rig_in2(r, r->dtype, p.k, p.m) : rig_in2(r, r->dtype, p.m, p.k),
        .b = p.trans_b ? rig_in2(r, r->dtype, p.n, p.k) : rig_in2(r, r->dtype, p.k, p.n),
        .c = p.add ? rig_in2(r, to, p.m, p.n) : rig_out2(r, to, p.m, p.n),
        .trans_a = p.trans_a,
        .trans_b = p.trans_b,
        .add = p.add,
    };
    r->result = to;
    r->flops = 2.0 * (double)p.m * (double)p.n * (double)p.k;
    TEXT(r, "%zux%zux%zu%s", p.m, p.n, p.k, p.add ? " fp32 +=" : "");
}

/* What a matrix [out, in] costs: y = x W^T, dx = dy W, dW += dy^T x */
static void forward(struct rig *r, size_t tokens, size_t out, size_t in)
{
    set_up(r, (struct product){tokens, out, in, 0, 1, 0});
}

static void input(struct rig *r, size_t tokens, size_t out, size_t in)
{
    set_up(r, (struct product){tokens, in, out, 0, 0, 0});
}

static void weight(struct rig *r, size_t tokens, size_t out, size_t in)
{
    set_up(r, (struct product){out, in, tokens, 1, 0, 1});
}

static size_t qkv_columns(const struct rig *r)
{
    return (r->shape->H + 2 * r->shape->G) * r->shape->D;
}

void setup_matmul_square(struct rig *r)
{
    set_up(r, (struct product){r->shape->N, r->shape->N, r->shape->N, 0, 0, 0});
}

/* gate and up */
void setup_matmul_forward(struct rig *r)
{
    forward(r, r->shape->T, 2 * r->shape->I, r->shape->C);
}

void setup_matmul_input(struct rig *r)
{
    input(r, r->shape->T, 2 * r->shape->I, r->shape->C);
}

void setup_matmul_weight(struct rig *r)
{
    set_up(r, (struct product){2 * r->shape->I, r->shape->C, r->shape->T, 1, 0, 0});
}

void setup_matmul_weight_add(struct rig *r)
{
    weight(r, r->shape->T, 2 * r->shape->I, r->shape->C);
}

void setup_matmul_head(struct rig *r)
{
    forward(r, r->shape->R, r->shape->V, r->shape->C);
}

void setup_matmul_head_input(struct rig *r)
{
    input(r, r->shape->R, r->shape->V, r->shape->C);
}

void setup_matmul_head_weight(struct rig *r)
{
    weight(r, r->shape->R, r->shape->V, r->shape->C);
}

void setup_matmul_qkv(struct rig *r)
{
    forward(r, r->shape->T, qkv_columns(r), r->shape->C);
}

void setup_matmul_qkv_weight(struct rig *r)
{
    weight(r, r->shape->T, qkv_columns(r), r->shape->C);
}

void setup_matmul_o(struct rig *r)
{
    forward(r, r->shape->T, r->shape->C, r->shape->H * r->shape->D);
}

void setup_matmul_o_weight(struct rig *r)
{
    weight(r, r->shape->T, r->shape->C, r->shape->H * r->shape->D);
}

void setup_matmul_down(struct rig *r)
{
    forward(r, r->shape->T, r->shape->C, r->shape->I);
}

void setup_matmul_down_weight(struct rig *r)
{
    weight(r, r->shape->T, r->shape->C, r->shape->I);
}

/* T x V x C of a shape that is there for it */
void setup_matmul_linear(struct rig *r)
{
    forward(r, r->shape->T, r->shape->V, r->shape->C);
}

/* ---- attention: a query sees half of its document; 2 products forward, 5 backward */

static void attention(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const enum ds_dtype dtype = r->dtype;

    r->args.attention.forward =
        (struct ds_attention_args){.q_THD = rig_in3(r, dtype, s->T, s->H, s->D),
                                   .k_TGD = rig_in3(r, dtype, s->T, s->G, s->D),
                                   .v_TGD = rig_in3(r, dtype, s->T, s->G, s->D),
                                   .document_T = rig_ids(r, s->T, 1),
                                   .one_document = 1,
                                   .o_THD = rig_out3(r, dtype, s->T, s->H, s->D),
                                   .lse_TH = rig_out2(r, DS_F32, s->T, s->H),
                                   .seq_length = s->S,
                                   .scale = 0.3f};
    r->flops = (double)s->T * (double)(s->S + 1) * (double)(s->H * s->D);
    TEXT(r, "T%zu S%zu H%zu G%zu D%zu", s->T, s->S, s->H, s->G, s->D);
}

void setup_attention_forward(struct rig *r)
{
    attention(r);
    r->flops *= 2;
}

static void backward_too(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    struct ds_attention_backward_args *a = &r->args.attention;

    r->flops *= 5;
    /* P and dS before they are multiplied, each head of a group, their sum */
    r->roundings = 3;
    a->do_THD = rig_in3(r, r->dtype, s->T, s->H, s->D);
    a->dq_THD = rig_out3(r, r->dtype, s->T, s->H, s->D);
    a->dk_TGD = rig_out3(r, r->dtype, s->T, s->G, s->D);
    a->dv_TGD = rig_out3(r, r->dtype, s->T, s->G, s->D);
    a->delta_TH = rig_out2(r, DS_F32, s->T, s->H);
}

void setup_attention_backward(struct rig *r)
{
    attention(r);
    backward_too(r);
}

/* Documents of L / 2 to 3 L / 2 tokens, where a sequence does not end before. */
static void packed(struct rig *r)
{
    const struct rig_shape *s = r->shape;
    const struct ds_random random = ds_random_of(1, DS_RANDOM_TEST, s->L);
    struct ds_attention_args *a = &r->args.attention.forward;
    void *document;
    double pairs = 0;

    attention(r);
    a->one_document = 0;
    a->document_T = ds_tensor1(rig_zeros(r, s->T * sizeof(int32_t), &document), DS_I32, s->T);
    for (size_t t = 0, start = 0, end = 0; document && t < s->T; t++) {
        if (t % s->S == 0 || t == end) {
            start = t % s->S;
            end = t + s->L / 2 + ds_random_below(random, a->document_count++, s->L);
        }
        ((int32_t *)document)[t] = (int32_t)start;
        pairs += (double)(t % s->S - start + 1);
    }
    r->flops = 2 * pairs * (double)(s->H * s->D);
    TEXT(r, "T%zu S%zu H%zu G%zu D%zu, documents of %zu", s->T, s->S, s->H, s->G, s->D, s->L);
}

void setup_packed_forward(struct rig *r)
{
    packed(r);
    r->flops *= 2;
}

void setup_packed_backward(struct rig *r)
{
    packed(r);
    backward_too(r);
}
