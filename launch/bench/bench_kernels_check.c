/* bench_kernels_check.c - what a kernel must have given, in fp64 and the plainest loops, at a few dozen
 * places spread over the result. The tests look at every element; this is so that no wrong kernel is
 * timed on the machine at hand. */
#include "bench_kernels.h"

#include <math.h>

#define SAMPLES 24

static const float *before(const struct rig *r, struct ds_tensor t)
{
    return rig_before(r, t.data);
}

static const float *after(const struct rig *r, struct ds_tensor t)
{
    return rig_after(r, t.data);
}

static const int32_t *ints(const struct rig *r, struct ds_tensor t)
{
    return rig_before(r, t.data);
}

static const struct ds_step_record *record_before(const struct rig *r, const void *record)
{
    return rig_before(r, record);
}

static const struct ds_step_record *record_after(const struct rig *r, const void *record)
{
    return rig_after(r, record);
}

/* Sample `i` of `count`: the first, the last, and some between. */
static size_t place(size_t i, size_t count)
{
    DS_ASSERT(count > 0);
    return i == 0 ? 0 : i == 1 ? count - 1 : (i * 2654435761u) % count;
}

#define FOR_SAMPLES(i) for (size_t i = 0; i < SAMPLES; i++)

void check_matmul(struct rig *r)
{
    const struct ds_matmul_args *a = &r->args.matmul;
    const size_t m = a->c.shape[0], n = a->c.shape[1], k = a->a.shape[a->trans_a ? 0 : 1];
    const float *x = before(r, a->a), *y = before(r, a->b);

    FOR_SAMPLES(i)
    {
        const size_t row = place(i, m), column = place(i * 7 + 1, n);
        double sum = 0;

        for (size_t l = 0; l < k; l++)
            sum += (double)x[a->trans_a ? l * m + row : row * k + l] *
                   y[a->trans_b ? column * k + l : l * n + column];
        rig_see(r, after(r, a->c)[row * n + column], sum);
    }
}

void check_bias_forward(struct rig *r)
{
    const struct ds_bias_args *a = &r->args.bias;
    const size_t count = a->y_TN.shape[0] * a->y_TN.shape[1], n = a->y_TN.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, count);
        rig_see(r, after(r, a->y_TN)[at],
                (double)before(r, a->y_TN)[at] + before(r, a->bias_N)[at % n]);
    }
}

void check_bias_backward(struct rig *r)
{
    const struct ds_bias_args *a = &r->args.bias;
    const size_t t = a->y_TN.shape[0], n = a->y_TN.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t column = place(i, n);
        double sum = 0;

        for (size_t row = 0; row < t; row++)
            sum += before(r, a->y_TN)[row * n + column];
        rig_see(r, after(r, a->bias_N)[column], sum);
    }
}

void check_rmsnorm_forward(struct rig *r)
{
    const struct ds_rmsnorm_args *a = &r->args.rmsnorm;
    const size_t t = a->x_TC.shape[0], c = a->x_TC.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t row = place(i, t);
        const float *x = before(r, a->x_TC) + row * c,
                    *residual = before(r, a->residual_TC) + row * c;
        double squares = 0, rstd;

        for (size_t j = 0; j < c; j++)
            squares += ((double)x[j] + residual[j]) * ((double)x[j] + residual[j]);
        rstd = 1 / sqrt(squares / (double)c + a->epsilon);
        rig_see(r, after(r, a->rstd_T)[row], rstd);
        for (size_t j = 0; j < c; j++)
            rig_see(r, after(r, a->y_TC)[row * c + j],
                    before(r, a->gain_C)[j] * ((double)x[j] + residual[j]) * rstd);
    }
}

static void see_gain(struct rig *r, const struct ds_rmsnorm_backward_args *a, size_t column)
{
    const size_t t = a->x_TC.shape[0], c = a->x_TC.shape[1];
    double sum = 0;

    for (size_t row = 0; row < t; row++)
        sum += (double)before(r, a->dy_TC)[row * c + column] *
               before(r, a->x_TC)[row * c + column] * before(r, a->rstd_T)[row];
    rig_see(r, after(r, a->dgain_C)[column], sum);
}

void check_rmsnorm_backward(struct rig *r)
{
    const struct ds_rmsnorm_backward_args *a = &r->args.rmsnorm_backward;
    const size_t t = a->x_TC.shape[0], c = a->x_TC.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t row = place(i, t);
        const float *x = before(r, a->x_TC) + row * c, *dy = before(r, a->dy_TC) + row * c;
        const float *gain = before(r, a->gain_C);
        const double rstd = before(r, a->rstd_T)[row];
        double slope = 0;

        for (size_t j = 0; j < c; j++)
            slope += (double)dy[j] * gain[j] * x[j] * rstd;
        for (size_t j = 0; j < c; j++)
            rig_see(r, after(r, a->dx_TC)[row * c + j],
                    rstd * ((double)dy[j] * gain[j] - x[j] * rstd * slope / (double)c));
        see_gain(r, a, place(i, c));
    }
}

/* One head of one token: rotate is +1 forward, -1 on the way back. */
static void see_head(struct rig *r, const float *got, const float *x, const float *rotary,
                     size_t dim, int rotate)
{
    const size_t half = dim / 2;

    for (size_t i = 0; i < half; i++) {
        const double cosine = rotate ? rotary[i] : 1, sine = rotate ? rotate * rotary[half + i] : 0;

        rig_see(r, got[i], x[i] * cosine - x[half + i] * sine);
        rig_see(r, got[half + i], x[half + i] * cosine + x[i] * sine);
    }
}

void check_split(struct rig *r)
{
    const struct ds_qkv_split_args *a = &r->args.split;
    const size_t h = a->q_THD.shape[1], g = a->k_TGD.shape[1], d = a->q_THD.shape[2];

    FOR_SAMPLES(i)
    {
        const size_t t = place(i, a->qkv_TN.shape[0]);
        const float *x = before(r, a->qkv_TN) + t * (h + 2 * g) * d;
        const float *rotary = before(r, a->rotary_PD) + (size_t)ints(r, a->position_T)[t] * d;

        for (size_t j = 0; j < h; j++)
            see_head(r, after(r, a->q_THD) + (t * h + j) * d, x + j * d, rotary, d, 1);
        for (size_t j = 0; j < g; j++) {
            see_head(r, after(r, a->k_TGD) + (t * g + j) * d, x + (h + j) * d, rotary, d, 1);
            see_head(r, after(r, a->v_TGD) + (t * g + j) * d, x + (h + g + j) * d, rotary, d, 0);
        }
    }
}

void check_join(struct rig *r)
{
    const struct ds_qkv_join_args *a = &r->args.join;
    const size_t h = a->dq_THD.shape[1], g = a->dk_TGD.shape[1], d = a->dq_THD.shape[2];

    FOR_SAMPLES(i)
    {
        const size_t t = place(i, a->dqkv_TN.shape[0]);
        const float *got = after(r, a->dqkv_TN) + t * (h + 2 * g) * d;
        const float *rotary = before(r, a->rotary_PD) + (size_t)ints(r, a->position_T)[t] * d;

        for (size_t j = 0; j < h; j++)
            see_head(r, got + j * d, before(r, a->dq_THD) + (t * h + j) * d, rotary, d, -1);
        for (size_t j = 0; j < g; j++) {
            see_head(r, got + (h + j) * d, before(r, a->dk_TGD) + (t * g + j) * d, rotary, d, -1);
            see_head(r, got + (h + g + j) * d, before(r, a->dv_TGD) + (t * g + j) * d, rotary, d,
                     0);
        }
    }
}

/* ---- attention */

static double dot(const float *x, const float *y, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += (double)x[i] * y[i];
    return sum;
}

/* A query head of a token, and the first token of its sequence; documents start where it does. */
struct query {
    const struct ds_attention_args *a;
    size_t t, h, first, heads, groups, dim;
};

static struct query query_of(const struct ds_attention_args *a, size_t t, size_t h)
{
    const size_t s = a->seq_length;

    return (struct query){
        a, t, h, t / s * s, a->q_THD.shape[1], a->k_TGD.shape[1], a->q_THD.shape[2]};
}

static size_t key_at(const struct query *q, size_t t)
{
    return (t * q->groups + q->h / (q->heads / q->groups)) * q->dim;
}

static double score(const struct rig *r, const struct query *q, size_t key)
{
    const float *query = before(r, q->a->q_THD) + (q->t * q->heads + q->h) * q->dim;

    return q->a->scale * dot(query, before(r, q->a->k_TGD) + key_at(q, key), q->dim);
}

void check_attention_forward(struct rig *r)
{
    const struct ds_attention_args *a = &r->args.attention.forward;

    FOR_SAMPLES(i)
    {
        const struct query q = query_of(a, place(i, a->q_THD.shape[0]), i % a->q_THD.shape[1]);
        double sum = 0;

        for (size_t j = q.first; j <= q.t; j++)
            sum += exp(score(r, &q, j));
        rig_see(r, after(r, a->lse_TH)[q.t * q.heads + q.h], log(sum));
        for (size_t d = 0; d < q.dim; d++) {
            double want = 0;

            for (size_t j = q.first; j <= q.t; j++)
                want += exp(score(r, &q, j)) / sum * before(r, a->v_TGD)[key_at(&q, j) + d];
            rig_see(r, after(r, a->o_THD)[(q.t * q.heads + q.h) * q.dim + d], want);
        }
    }
}

/* p and dS of one pair, from lse and o of the forward kernel */
static double slope(const struct rig *r, const struct query *q, size_t key, double *p)
{
    const struct ds_attention_backward_args *b = &r->args.attention;
    const size_t at = q->t * q->heads + q->h;
    const float *dout = before(r, b->do_THD) + at * q->dim;
    const double delta = dot(dout, before(r, q->a->o_THD) + at * q->dim, q->dim);

    *p = exp(score(r, q, key) - before(r, q->a->lse_TH)[at]);
    return *p * (dot(dout, before(r, q->a->v_TGD) + key_at(q, key), q->dim) - delta);
}

/* All queries that see key `t` of kv head `g`. */
static void see_key(struct rig *r, size_t t, size_t g, size_t d)
{
    const struct ds_attention_backward_args *b = &r->args.attention;
    const struct ds_attention_args *a = &b->forward;
    const struct query any = query_of(a, t, 0);
    const size_t share = any.heads / any.groups;
    double dk = 0, dv = 0, p;

    for (size_t i = t; i < any.first + a->seq_length; i++)
        for (size_t h = g * share; h < (g + 1) * share; h++) {
            const struct query q = query_of(a, i, h);
            const size_t at = (i * q.heads + h) * q.dim + d;

            dk += a->scale * slope(r, &q, t, &p) * before(r, a->q_THD)[at];
            dv += p * before(r, b->do_THD)[at];
        }
    rig_see(r, after(r, b->dk_TGD)[(t * any.groups + g) * any.dim + d], dk);
    rig_see(r, after(r, b->dv_TGD)[(t * any.groups + g) * any.dim + d], dv);
}

void check_attention_backward(struct rig *r)
{
    const struct ds_attention_backward_args *b = &r->args.attention;
    const struct ds_attention_args *a = &b->forward;

    FOR_SAMPLES(i)
    {
        const struct query q = query_of(a, place(i, a->q_THD.shape[0]), i % a->q_THD.shape[1]);
        const size_t d = (i * 5) % q.dim;
        double dq = 0, p;

        for (size_t j = q.first; j <= q.t; j++)
            dq += a->scale * slope(r, &q, j, &p) * before(r, a->k_TGD)[key_at(&q, j) + d];
        rig_see(r, after(r, b->dq_THD)[(q.t * q.heads + q.h) * q.dim + d], dq);
        see_key(r, q.t, i % q.groups, d);
    }
}

/* ---- elementwise */

void check_swiglu_forward(struct rig *r)
{
    const struct ds_swiglu_args *a = &r->args.swiglu;
    const size_t n = a->y_TI.shape[1], count = a->y_TI.shape[0] * n;

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, count), row = at / n;
        const double gate = before(r, a->gate_up_TN)[row * 2 * n + at % n];

        rig_see(r, after(r, a->y_TI)[at],
                gate / (1 + exp(-gate)) * before(r, a->gate_up_TN)[row * 2 * n + n + at % n]);
    }
}

void check_swiglu_backward(struct rig *r)
{
    const struct ds_swiglu_backward_args *a = &r->args.swiglu_backward;
    const size_t n = a->dy_TI.shape[1], count = a->dy_TI.shape[0] * n;

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, count), gate_at = at / n * 2 * n + at % n;
        const double gate = before(r, a->gate_up_TN)[gate_at], dy = before(r, a->dy_TI)[at];
        const double sigmoid = 1 / (1 + exp(-gate));

        rig_see(r, after(r, a->dgate_up_TN)[gate_at],
                dy * before(r, a->gate_up_TN)[gate_at + n] * sigmoid * (1 + gate * (1 - sigmoid)));
        rig_see(r, after(r, a->dgate_up_TN)[gate_at + n], dy * gate * sigmoid);
    }
}

void check_embedding_forward(struct rig *r)
{
    const struct ds_embedding_args *a = &r->args.embedding;
    const size_t c = a->y_TC.shape[1], count = a->y_TC.shape[0] * c;

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, count);
        rig_see(r, after(r, a->y_TC)[at],
                before(r, a->table_VC)[(size_t)ints(r, a->id_T)[at / c] * c + at % c]);
    }
}

void check_embedding_backward(struct rig *r)
{
    const struct ds_embedding_args *a = &r->args.embedding;
    const size_t t = a->y_TC.shape[0], c = a->y_TC.shape[1];

    FOR_SAMPLES(i)
    {
        const int32_t id = ints(r, a->id_T)[place(i, t)];
        const size_t column = place(i, c);
        double sum = 0;

        for (size_t row = 0; row < t; row++)
            if (ints(r, a->id_T)[row] == id)
                sum += before(r, a->y_TC)[row * c + column];
        rig_see(r, after(r, a->table_VC)[(size_t)id * c + column], sum);
    }
}

void check_cross_entropy(struct rig *r)
{
    const struct ds_cross_entropy_args *a = &r->args.cross_entropy;
    const size_t n = a->logits_NV.shape[0], v = a->logits_NV.shape[1];
    const double factor = record_before(r, a->record)->inverse_tokens;

    FOR_SAMPLES(i)
    {
        const size_t row = place(i, n), target = (size_t)ints(r, a->target_N)[row];
        const float *x = before(r, a->logits_NV) + row * v, *got = after(r, a->logits_NV) + row * v;
        double sum = 0;

        for (size_t j = 0; j < v; j++)
            sum += exp(x[j]);
        rig_see(r, after(r, a->loss_N)[row], log(sum) - x[target]);
        for (size_t j = 0; j < v; j++)
            rig_see(r, got[j], (exp(x[j]) / sum - (j == target)) * factor);
    }
}

void check_add(struct rig *r)
{
    const struct ds_add_args *a = &r->args.add;
    const size_t count = a->x.shape[0] * a->x.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, count);
        rig_see(r, after(r, a->y)[at], (double)before(r, a->y)[at] + before(r, a->x)[at]);
    }
}

void check_cast(struct rig *r)
{
    const struct ds_cast_args *a = &r->args.cast;
    const uint16_t *got = rig_after(r, a->y.data);

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, a->x.shape[0] * a->x.shape[1]);
        uint16_t stored;
        float value, want;

        (void)ds_dtype_to_f32(&value, &got[at], DS_BF16, 1);
        (void)ds_dtype_from_f32(&stored, DS_BF16, &before(r, a->x)[at], 1);
        (void)ds_dtype_to_f32(&want, &stored, DS_BF16, 1);
        rig_see(r, value, want);
    }
}

/* All of it: a zero that is not there has no size to be compared with, so each counts as one. */
void check_fill(struct rig *r)
{
    const struct ds_fill_args *a = &r->args.fill;
    const float *got = rig_after(r, a->at);

    for (size_t i = 0; i < a->bytes / sizeof(float); i++)
        rig_see(r, got[i] == 0, 1);
}

/* ---- sums and the step record */

void check_loss_sum(struct rig *r)
{
    const struct ds_loss_sum_args *a = &r->args.loss_sum;
    double sum = 0;

    for (size_t i = 0; i < a->loss_T.shape[0]; i++)
        sum += before(r, a->loss_T)[i];
    rig_see(r, record_after(r, a->record)->loss_sum, sum);
}

void check_norm_pieces(struct rig *r)
{
    const struct ds_norm_pieces_args *a = &r->args.norm_pieces;
    const double *got = rig_after(r, a->sums.data);

    FOR_SAMPLES(i)
    {
        const size_t piece = place(i, a->sums.shape[0]), start = piece * DS_NORM_PIECE;
        const size_t left = a->x.shape[0] - start;
        const float *x = before(r, a->x) + start;

        rig_see(r, got[piece], dot(x, x, left < DS_NORM_PIECE ? left : DS_NORM_PIECE));
    }
}

void check_norm_sum(struct rig *r)
{
    const struct ds_norm_sum_args *a = &r->args.norm_sum;
    const double *sums = rig_before(r, a->sums.data);
    double want = 0;

    for (size_t i = 0; i < a->sums.shape[0]; i++)
        want += sums[i];
    rig_see(r, record_after(r, a->record)->norm_squared, want);
}

void check_step_begin(struct rig *r)
{
    const struct ds_step_record *got = record_after(r, r->args.step_begin.record);

    rig_see(r, got->inverse_tokens, 1.0 / 512);
    rig_see(r, got->norm_squared + got->loss_sum, 0);
}

void check_verdict(struct rig *r)
{
    const struct ds_step_record *got = record_after(r, r->args.verdict.record);

    rig_see(r, got->norm, 2);
    rig_see(r, got->clip_factor, 1 / (2 + 1e-6));
    rig_see(r, got->correction2, 1 / (1 - (double)r->args.verdict.beta2));
    rig_see(r, got->skip, 0);
}

void check_adamw(struct rig *r)
{
    const struct ds_adamw_args *a = &r->args.adamw;
    const struct ds_step_record *record = record_before(r, a->record);
    const double b1 = a->beta1, b2 = a->beta2, rate = record->learning_rate;

    FOR_SAMPLES(i)
    {
        const size_t at = place(i, a->master.shape[0]);
        const double g = (double)before(r, a->grad)[at] * record->clip_factor;
        const double m = b1 * before(r, a->exp_avg)[at] + (1 - b1) * g;
        const double v = b2 * before(r, a->exp_avg_sq)[at] + (1 - b2) * g * g;
        const double update =
            m * record->correction1 / (sqrt(v * record->correction2) + a->epsilon);

        rig_see(r, after(r, a->master)[at],
                before(r, a->master)[at] * (1 - rate * (double)0.1f) - rate * update);
        rig_see(r, after(r, a->exp_avg)[at], m);
    }
}
