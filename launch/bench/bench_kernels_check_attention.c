/* bench_kernels_check_attention.c - attention at a few queries and keys, in fp64; see bench_kernels_check.c. */
#include "bench_kernels.h"

#include <math.h>
#include <stdlib.h>

static double dot(struct rig_view x, struct rig_view y, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += rig_at(x, i) * rig_at(y, i);
    return sum;
}

/* A query head of a token, and the first token of its document. */
struct query {
    const struct ds_attention_args *a;
    size_t t, h, first, heads, groups, dim;
};

static struct query query_of(struct rig *r, const struct ds_attention_args *a, size_t t, size_t h)
{
    const int32_t *document = rig_host(r, a->document_T.data);
    const size_t s = a->seq_length, first = t / s * s + (size_t)document[t];

    return (struct query){a, t, h, first, a->q_THD.shape[1], a->k_TGD.shape[1], a->q_THD.shape[2]};
}

static size_t query_at(const struct query *q)
{
    return (q->t * q->heads + q->h) * q->dim;
}

static size_t key_at(const struct query *q, size_t t)
{
    return (t * q->groups + q->h / (q->heads / q->groups)) * q->dim;
}

static double score(struct rig *r, const struct query *q, size_t key)
{
    return q->a->scale * dot(rig_from(rig_before(r, q->a->q_THD), query_at(q)),
                             rig_from(rig_before(r, q->a->k_TGD), key_at(q, key)), q->dim);
}

/* `p` [S]: what the query gives to each token before it, and to itself */
static void see_query(struct rig *r, const struct query *q, double *p)
{
    const size_t count = q->t - q->first + 1;
    const struct rig_view v = rig_before(r, q->a->v_TGD);
    double sum = 0;

    for (size_t j = 0; j < count; j++)
        sum += p[j] = exp(score(r, q, q->first + j));
    rig_see(r, rig_at(rig_after(r, q->a->lse_TH), q->t * q->heads + q->h), log(sum));
    for (size_t d = 0; d < q->dim; d++) {
        double want = 0;

        for (size_t j = 0; j < count; j++)
            want += p[j] / sum * rig_at(v, key_at(q, q->first + j) + d);
        rig_see(r, rig_at(rig_after(r, q->a->o_THD), query_at(q) + d), want);
    }
}

void check_attention_forward(struct rig *r)
{
    const struct ds_attention_args *a = &r->args.attention.forward;
    double *p = calloc(a->seq_length, sizeof *p);

    if (!p)
        r->status = ds_fail(DS_ERR_NO_MEMORY, "a row of attention");
    for (size_t i = 0; p && i < RIG_SAMPLES; i++) {
        const struct query q =
            query_of(r, a, rig_place(i, a->q_THD.shape[0]), i % a->q_THD.shape[1]);
        see_query(r, &q, p);
    }
    free(p);
}

/* p and dS of one pair, from lse and o of the forward kernel; delta: dO . o of the query */
static double slope(struct rig *r, const struct query *q, size_t key, double delta, double *p)
{
    const struct ds_attention_backward_args *b = &r->args.attention;
    const struct rig_view dout = rig_from(rig_before(r, b->do_THD), query_at(q));
    const struct rig_view v = rig_from(rig_before(r, q->a->v_TGD), key_at(q, key));

    *p = exp(score(r, q, key) - rig_at(rig_before(r, q->a->lse_TH), q->t * q->heads + q->h));
    return *p * (dot(dout, v, q->dim) - delta);
}

static double delta_of(struct rig *r, const struct query *q)
{
    return dot(rig_from(rig_before(r, r->args.attention.do_THD), query_at(q)),
               rig_from(rig_before(r, q->a->o_THD), query_at(q)), q->dim);
}

/* All queries that see key `t` of kv head `g`. */
static void see_key(struct rig *r, size_t t, size_t g, size_t d)
{
    const struct ds_attention_backward_args *b = &r->args.attention;
    const struct ds_attention_args *a = &b->forward;
    const struct query any = query_of(r, a, t, 0);
    const size_t share = any.heads / any.groups, s = a->seq_length;
    double dk = 0, dv = 0, p;

    for (size_t i = t; i < t / s * s + s; i++)
        for (size_t h = g * share; h < (g + 1) * share; h++) {
            const struct query q = query_of(r, a, i, h);

            if (q.first > t)
                continue; /* of another document */

            dk += a->scale * slope(r, &q, t, delta_of(r, &q), &p) *
                  rig_at(rig_before(r, a->q_THD), query_at(&q) + d);
            dv += p * rig_at(rig_before(r, b->do_THD), query_at(&q) + d);
        }
    rig_see(r, rig_at(rig_after(r, b->dk_TGD), (t * any.groups + g) * any.dim + d), dk);
    rig_see(r, rig_at(rig_after(r, b->dv_TGD), (t * any.groups + g) * any.dim + d), dv);
}

void check_attention_backward(struct rig *r)
{
    const struct ds_attention_backward_args *b = &r->args.attention;
    const struct ds_attention_args *a = &b->forward;
    const struct rig_view k = rig_before(r, a->k_TGD);

    FOR_SAMPLES(i)
    {
        const struct query q =
            query_of(r, a, rig_place(i, a->q_THD.shape[0]), i % a->q_THD.shape[1]);
        const double delta = delta_of(r, &q);
        const size_t d = (i * 5) % q.dim;
        double dq = 0, p;

        for (size_t j = q.first; j <= q.t; j++)
            dq += a->scale * slope(r, &q, j, delta, &p) * rig_at(k, key_at(&q, j) + d);
        rig_see(r, rig_at(rig_after(r, b->dq_THD), query_at(&q) + d), dq);
        if (i % 3 == 0) /* a key is seen by thousands of queries */
            see_key(r, q.t, i % q.groups, d);
    }
}
