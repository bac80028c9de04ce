/* bench_kernels_check.c - what a kernel must have given, in fp64 and the plainest loops, at a few dozen
 * places spread over the result. The tests look at every element; this is so that no wrong kernel is
 * timed on the machine at hand. */
#include "bench_kernels.h"

#include "dstrain/philox.h"
#include "dstrain/quant.h"

#include <math.h>

void check_matmul(struct rig *r)
{
    const struct ds_matmul_args *a = &r->args.matmul;
    const size_t m = a->c.shape[0], n = a->c.shape[1], k = a->a.shape[a->trans_a ? 0 : 1];
    const struct rig_view x = rig_before(r, a->a), y = rig_before(r, a->b);

    FOR_SAMPLES(i)
    {
        const size_t row = rig_place(i, m), column = rig_place(i * 7 + 1, n);
        double sum = a->add ? rig_at(rig_before(r, a->c), row * n + column) : 0;

        for (size_t l = 0; l < k; l++)
            sum += rig_at(x, a->trans_a ? l * m + row : row * k + l) *
                   rig_at(y, a->trans_b ? column * k + l : l * n + column);
        rig_see(r, rig_at(rig_after(r, a->c), row * n + column), sum);
    }
}

void check_bias_forward(struct rig *r)
{
    const struct ds_bias_args *a = &r->args.bias;
    const size_t count = a->y_TN.shape[0] * a->y_TN.shape[1], n = a->y_TN.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, count);
        rig_see(r, rig_at(rig_after(r, a->y_TN), at),
                rig_at(rig_before(r, a->y_TN), at) + rig_at(rig_before(r, a->bias_N), at % n));
    }
}

void check_bias_backward(struct rig *r)
{
    const struct ds_bias_args *a = &r->args.bias;
    const size_t t = a->y_TN.shape[0], n = a->y_TN.shape[1];
    const struct rig_view y = rig_before(r, a->y_TN);

    FOR_SAMPLES(i)
    {
        const size_t column = rig_place(i, n);
        double sum = 0;

        for (size_t row = 0; row < t; row++)
            sum += rig_at(y, row * n + column);
        rig_see(r, rig_at(rig_after(r, a->bias_N), column), sum);
    }
}

void check_rmsnorm_forward(struct rig *r)
{
    const struct ds_rmsnorm_args *a = &r->args.rmsnorm;
    const size_t t = a->x_TC.shape[0], c = a->x_TC.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t row = rig_place(i, t);
        const struct rig_view x = rig_from(rig_before(r, a->x_TC), row * c),
                              residual = rig_from(rig_before(r, a->residual_TC), row * c),
                              y = rig_from(rig_after(r, a->y_TC), row * c);
        double squares = 0, rstd;

        for (size_t j = 0; j < c; j++)
            squares += pow(rig_at(x, j) + rig_at(residual, j), 2);
        rstd = 1 / sqrt(squares / (double)c + a->epsilon);
        rig_see(r, rig_at(rig_after(r, a->rstd_T), row), rstd);
        for (size_t j = 0; j < c; j++)
            rig_see(r, rig_at(y, j),
                    rig_at(rig_before(r, a->gain_C), j) * (rig_at(x, j) + rig_at(residual, j)) *
                        rstd);
    }
}

static void see_gain(struct rig *r, const struct ds_rmsnorm_backward_args *a, size_t column)
{
    const size_t t = a->x_TC.shape[0], c = a->x_TC.shape[1];
    const struct rig_view dy = rig_before(r, a->dy_TC), x = rig_before(r, a->x_TC);
    const struct rig_view rstd = rig_before(r, a->rstd_T);
    double sum = 0;

    for (size_t row = 0; row < t; row++)
        sum += rig_at(dy, row * c + column) * rig_at(x, row * c + column) * rig_at(rstd, row);
    rig_see(r, rig_at(rig_after(r, a->dgain_C), column), sum);
}

void check_rmsnorm_backward(struct rig *r)
{
    const struct ds_rmsnorm_backward_args *a = &r->args.rmsnorm_backward;
    const size_t t = a->x_TC.shape[0], c = a->x_TC.shape[1];
    const struct rig_view gain = rig_before(r, a->gain_C);

    FOR_SAMPLES(i)
    {
        const size_t row = rig_place(i, t);
        const struct rig_view x = rig_from(rig_before(r, a->x_TC), row * c),
                              dy = rig_from(rig_before(r, a->dy_TC), row * c),
                              residual = rig_from(rig_before(r, a->residual_TC), row * c),
                              dx = rig_from(rig_after(r, a->dx_TC), row * c);
        const double rstd = rig_at(rig_before(r, a->rstd_T), row);
        double slope = 0;

        for (size_t j = 0; j < c; j++)
            slope += rig_at(dy, j) * rig_at(gain, j) * rig_at(x, j) * rstd;
        for (size_t j = 0; j < c; j++)
            rig_see(r, rig_at(dx, j),
                    rig_at(residual, j) + rstd * (rig_at(dy, j) * rig_at(gain, j) -
                                                  rig_at(x, j) * rstd * slope / (double)c));
        see_gain(r, a, rig_place(i, c));
    }
}

/* One head of one token: rotate is +1 forward, -1 on the way back. */
static void see_head(struct rig *r, struct rig_view got, struct rig_view x, struct rig_view rotary,
                     size_t dim, int rotate)
{
    const size_t half = dim / 2;

    for (size_t i = 0; i < half; i++) {
        const double cosine = rotate ? rig_at(rotary, i) : 1,
                     sine = rotate ? rotate * rig_at(rotary, half + i) : 0;
        const double low = rig_at(x, i), high = rig_at(x, half + i);

        rig_see(r, rig_at(got, i), low * cosine - high * sine);
        rig_see(r, rig_at(got, half + i), high * cosine + low * sine);
    }
}

/* The angles of token t, where `position_T` says it stands. */
static struct rig_view angles(struct rig *r, struct ds_tensor position_T,
                              struct ds_tensor rotary_PD, size_t t)
{
    const size_t position = (size_t)rig_at(rig_before(r, position_T), t);

    return rig_from(rig_before(r, rotary_PD), position * rotary_PD.shape[1]);
}

void check_split(struct rig *r)
{
    const struct ds_qkv_split_args *a = &r->args.split;
    const size_t h = a->q_THD.shape[1], g = a->k_TGD.shape[1], d = a->q_THD.shape[2];
    const struct rig_view q = rig_after(r, a->q_THD), k = rig_after(r, a->k_TGD);
    const struct rig_view v = rig_after(r, a->v_TGD);

    FOR_SAMPLES(i)
    {
        const size_t t = rig_place(i, a->qkv_TN.shape[0]);
        const struct rig_view x = rig_from(rig_before(r, a->qkv_TN), t * (h + 2 * g) * d);
        const struct rig_view rotary = angles(r, a->position_T, a->rotary_PD, t);

        for (size_t j = 0; j < h; j++)
            see_head(r, rig_from(q, (t * h + j) * d), rig_from(x, j * d), rotary, d, 1);
        for (size_t j = 0; j < g; j++) {
            see_head(r, rig_from(k, (t * g + j) * d), rig_from(x, (h + j) * d), rotary, d, 1);
            see_head(r, rig_from(v, (t * g + j) * d), rig_from(x, (h + g + j) * d), rotary, d, 0);
        }
    }
}

void check_join(struct rig *r)
{
    const struct ds_qkv_join_args *a = &r->args.join;
    const size_t h = a->dq_THD.shape[1], g = a->dk_TGD.shape[1], d = a->dq_THD.shape[2];
    const struct rig_view dq = rig_before(r, a->dq_THD), dk = rig_before(r, a->dk_TGD);
    const struct rig_view dv = rig_before(r, a->dv_TGD);

    FOR_SAMPLES(i)
    {
        const size_t t = rig_place(i, a->dqkv_TN.shape[0]);
        const struct rig_view got = rig_from(rig_after(r, a->dqkv_TN), t * (h + 2 * g) * d);
        const struct rig_view rotary = angles(r, a->position_T, a->rotary_PD, t);

        for (size_t j = 0; j < h; j++)
            see_head(r, rig_from(got, j * d), rig_from(dq, (t * h + j) * d), rotary, d, -1);
        for (size_t j = 0; j < g; j++) {
            see_head(r, rig_from(got, (h + j) * d), rig_from(dk, (t * g + j) * d), rotary, d, -1);
            see_head(r, rig_from(got, (h + g + j) * d), rig_from(dv, (t * g + j) * d), rotary, d,
                     0);
        }
    }
}

/* ---- elementwise */

void check_swiglu_forward(struct rig *r)
{
    const struct ds_swiglu_args *a = &r->args.swiglu;
    const size_t n = a->y_TI.shape[1], count = a->y_TI.shape[0] * n;
    const struct rig_view x = rig_before(r, a->gate_up_TN);

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, count), row = at / n;
        const double gate = rig_at(x, row * 2 * n + at % n);

        rig_see(r, rig_at(rig_after(r, a->y_TI), at),
                gate / (1 + exp(-gate)) * rig_at(x, row * 2 * n + n + at % n));
    }
}

void check_swiglu_backward(struct rig *r)
{
    const struct ds_swiglu_backward_args *a = &r->args.swiglu_backward;
    const size_t n = a->dy_TI.shape[1], count = a->dy_TI.shape[0] * n;
    const struct rig_view x = rig_before(r, a->gate_up_TN), dx = rig_after(r, a->dgate_up_TN);

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, count), gate_at = at / n * 2 * n + at % n;
        const double gate = rig_at(x, gate_at), dy = rig_at(rig_before(r, a->dy_TI), at);
        const double sigmoid = 1 / (1 + exp(-gate));

        rig_see(r, rig_at(dx, gate_at),
                dy * rig_at(x, gate_at + n) * sigmoid * (1 + gate * (1 - sigmoid)));
        rig_see(r, rig_at(dx, gate_at + n), dy * gate * sigmoid);
    }
}

/* ---- behind their products */

/* Row `row` of x times row `column` of w, or its column where w is as it is multiplied. */
static double dot(struct rig_view x, size_t row, struct rig_view w, size_t column, size_t k,
                  size_t n)
{
    double sum = 0;

    for (size_t l = 0; l < k; l++)
        sum += rig_at(x, row * k + l) * rig_at(w, n ? l * n + column : column * k + l);
    return sum;
}

void check_product_split(struct rig *r)
{
    const struct ds_qkv_split_args *a = &r->args.split;
    const size_t h = a->q_THD.shape[1], d = a->q_THD.shape[2], c = a->x_TC.shape[1];
    const struct rig_view q = rig_after(r, a->q_THD);
    const struct rig_view x = rig_before(r, a->x_TC), w = rig_before(r, a->weight_NC);

    FOR_SAMPLES(i)
    {
        const size_t t = rig_place(i, a->x_TC.shape[0]), head = rig_place(i * 7 + 1, h);
        const size_t at = rig_place(i * 5 + 2, d / 2);
        const struct rig_view rotary = angles(r, a->position_T, a->rotary_PD, t);
        const double low = dot(x, t, w, head * d + at, c, 0);
        const double high = dot(x, t, w, head * d + d / 2 + at, c, 0);

        rig_see(r, rig_at(q, (t * h + head) * d + at),
                low * rig_at(rotary, at) - high * rig_at(rotary, d / 2 + at));
    }
}

void check_product_swiglu(struct rig *r)
{
    const struct ds_swiglu_args *a = &r->args.swiglu;
    const size_t n = a->y_TI.shape[1], c = a->x_TC.shape[1];
    const struct rig_view x = rig_before(r, a->x_TC), w = rig_before(r, a->weight_NC);

    FOR_SAMPLES(i)
    {
        const size_t t = rig_place(i, a->y_TI.shape[0]), at = rig_place(i * 7 + 1, n);
        const double gate = dot(x, t, w, at, c, 0), up = dot(x, t, w, n + at, c, 0);

        rig_see(r, rig_at(rig_after(r, a->y_TI), t * n + at), gate / (1 + exp(-gate)) * up);
    }
}

void check_product_swiglu_back(struct rig *r)
{
    const struct ds_swiglu_backward_args *a = &r->args.swiglu_backward;
    const size_t n = a->dy_TI.shape[1], c = a->dz_TC.shape[1];
    const struct rig_view z = rig_before(r, a->dz_TC), w = rig_before(r, a->weight_CI);
    const struct rig_view gate_up = rig_before(r, a->gate_up_TN);

    FOR_SAMPLES(i)
    {
        const size_t t = rig_place(i, a->dy_TI.shape[0]), at = rig_place(i * 7 + 1, n);
        const double gate = rig_at(gate_up, t * 2 * n + at), sigmoid = 1 / (1 + exp(-gate));
        const double dy = dot(z, t, w, at, c, n);

        rig_see(r, rig_at(rig_after(r, a->dgate_up_TN), t * 2 * n + n + at), dy * gate * sigmoid);
    }
}

/* A row is a long sum: of one the loss, and elements of its gradient. */
void check_product_loss(struct rig *r)
{
    const struct ds_cross_entropy_args *a = &r->args.cross_entropy;
    const size_t n = a->logits_NV.shape[0], v = a->logits_NV.shape[1], c = a->x_NC.shape[1];
    const struct rig_view x = rig_before(r, a->x_NC), w = rig_before(r, a->weight_VC);
    const struct ds_step_record *record = rig_host(r, a->record);
    const size_t row = n / 2, target = (size_t)rig_at(rig_before(r, a->target_N), row);
    const double factor = rig_at(rig_after(r, a->factor_N), row);
    double *logits = malloc(v * sizeof *logits), sum = 0;

    if (!logits)
        return (void)(r->status = ds_fail(DS_ERR_NO_MEMORY, "no memory for a row of logits"));
    for (size_t j = 0; j < v; j++) {
        logits[j] = dot(x, row, w, j, c, 0);
        sum += exp(logits[j]);
    }
    rig_see(r, rig_at(rig_after(r, a->loss_N), row), log(sum) - logits[target]);
    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, v);

        rig_see(r, factor * rig_at(rig_after(r, a->logits_NV), row * v + at),
                (exp(logits[at]) / sum - (at == target)) * record->inverse_tokens);
    }
    free(logits);
}

void check_embedding_forward(struct rig *r)
{
    const struct ds_embedding_args *a = &r->args.embedding;
    const size_t c = a->y_TC.shape[1], count = a->y_TC.shape[0] * c;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, count);
        const size_t id = (size_t)rig_at(rig_before(r, a->id_T), at / c);

        rig_see(r, rig_at(rig_after(r, a->y_TC), at),
                rig_at(rig_before(r, a->table_VC), id * c + at % c));
    }
}

void check_embedding_backward(struct rig *r)
{
    const struct ds_embedding_args *a = &r->args.embedding;
    const size_t t = a->y_TC.shape[0], c = a->y_TC.shape[1];
    const struct rig_view ids = rig_before(r, a->id_T), dy = rig_before(r, a->y_TC);

    FOR_SAMPLES(i)
    {
        const double id = rig_at(ids, rig_place(i, t));
        const size_t column = rig_place(i, c);
        double sum = 0;

        for (size_t row = 0; row < t; row++)
            if (rig_at(ids, row) == id)
                sum += rig_at(dy, row * c + column);
        rig_see(r, rig_at(rig_after(r, a->table_VC), (size_t)id * c + column), sum);
    }
}

/* ---- cross-entropy, whole and in three calls */

/* of row `row`: its logits, the largest, the sum of exp(x - largest) */
struct softmax {
    struct rig_view x;
    double largest, sum;
};

static struct softmax softmax_of(struct rig *r, const struct ds_cross_entropy_args *a, size_t row)
{
    const size_t v = a->logits_NV.shape[1];
    struct softmax s = {rig_from(rig_before(r, a->logits_NV), row * v), -INFINITY, 0};

    for (size_t j = 0; j < v; j++)
        s.largest = fmax(s.largest, rig_at(s.x, j));
    for (size_t j = 0; j < v; j++)
        s.sum += exp(rig_at(s.x, j) - s.largest);
    return s;
}

static size_t target_of(struct rig *r, const struct ds_cross_entropy_args *a, size_t row)
{
    return (size_t)rig_at(rig_before(r, a->target_N), row);
}

void check_cross_entropy(struct rig *r)
{
    const struct ds_cross_entropy_args *a = &r->args.cross_entropy;
    const size_t n = a->logits_NV.shape[0], v = a->logits_NV.shape[1];
    const struct ds_step_record *record = rig_host(r, a->record);

    FOR_SAMPLES(i)
    {
        const size_t row = rig_place(i, n), target = target_of(r, a, row);
        const struct softmax s = softmax_of(r, a, row);
        const struct rig_view got = rig_from(rig_after(r, a->logits_NV), row * v);

        rig_see(r, rig_at(rig_after(r, a->loss_N), row),
                log(s.sum) + s.largest - rig_at(s.x, target));
        for (size_t j = 0; j < v; j++)
            rig_see(r, rig_at(got, j),
                    (exp(rig_at(s.x, j) - s.largest) / s.sum - (j == target)) *
                        record->inverse_tokens);
    }
}

void check_cross_entropy_max(struct rig *r)
{
    const struct ds_cross_entropy_args *a = &r->args.cross_entropy;

    FOR_SAMPLES(i)
    {
        const size_t row = rig_place(i, a->logits_NV.shape[0]);
        rig_see(r, rig_at(rig_after(r, a->max_N), row), softmax_of(r, a, row).largest);
    }
}

void check_cross_entropy_sum(struct rig *r)
{
    const struct ds_cross_entropy_args *a = &r->args.cross_entropy;
    const struct rig_view got = rig_after(r, a->sums_N2);

    FOR_SAMPLES(i)
    {
        const size_t row = rig_place(i, a->logits_NV.shape[0]);
        const struct softmax s = softmax_of(r, a, row);

        rig_see(r, rig_at(got, 2 * row), s.sum);
        rig_see(r, rig_at(got, 2 * row + 1), rig_at(s.x, target_of(r, a, row)));
    }
}

/* ---- flat arrays */

void check_add(struct rig *r)
{
    const struct ds_add_args *a = &r->args.add;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->x.shape[0] * a->x.shape[1]);
        rig_see(r, rig_at(rig_after(r, a->y), at),
                rig_at(rig_before(r, a->y), at) + rig_at(rig_before(r, a->x), at));
    }
}

void check_scale_rows(struct rig *r)
{
    const struct ds_scale_rows_args *a = &r->args.scale_rows;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->y_NC.shape[0] * a->y_NC.shape[1]);

        rig_see(r, rig_at(rig_after(r, a->y_NC), at),
                rig_at(rig_before(r, a->y_NC), at) *
                    rig_at(rig_before(r, a->factor_N), at / a->y_NC.shape[1]));
    }
}

void check_cast(struct rig *r)
{
    const struct ds_cast_args *a = &r->args.cast;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->x.shape[0] * a->x.shape[1]);
        const float from = (float)rig_at(rig_before(r, a->x), at);
        uint16_t stored;
        float want;

        (void)ds_dtype_from_f32(&stored, a->y.dtype, &from, 1);
        (void)ds_dtype_to_f32(&want, &stored, a->y.dtype, 1);
        rig_see(r, rig_at(rig_after(r, a->y), at), want);
    }
}

static double dequantised(struct rig *r, const struct ds_dequantise_args *a, size_t at)
{
    static const float levels[] = DS_NF4_LEVELS;
    const uint8_t *bytes = rig_host(r, a->codes.data);
    const size_t block = at / DS_NF4_BLOCK;
    double absmax;

    if (a->codes.dtype == DS_I8)
        return (int8_t)bytes[at] * rig_at(rig_before(r, a->absmax), at / a->columns) / 127;
    absmax = rig_at(rig_before(r, a->map), ((const uint8_t *)rig_host(r, a->absmax.data))[block]) *
                 rig_at(rig_before(r, a->nest_absmax), block / DS_NF4_NEST) +
             rig_at(rig_before(r, a->offset), 0);
    return absmax * levels[at % 2 ? bytes[at / 2] & 15 : bytes[at / 2] >> 4];
}

void check_dequantise(struct rig *r)
{
    const struct ds_dequantise_args *a = &r->args.dequantise;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->y.shape[0] * a->y.shape[1]);

        rig_see(r, rig_at(rig_after(r, a->y), at), dequantised(r, a, at));
    }
}

void check_row_squares(struct rig *r)
{
    const struct ds_row_squares_args *a = &r->args.row_squares;
    const size_t columns = a->w_OI.shape[1], ranks = a->b_OR.shape[1];
    const struct rig_view w = rig_before(r, a->w_OI), of_a = rig_before(r, a->a_RI),
                          b = rig_before(r, a->b_OR);

    for (size_t i = 0; i < 8; i++) {
        const size_t row = rig_place(i, a->w_OI.shape[0]);
        double squares = 0;

        for (size_t c = 0; c < columns; c++) {
            double sum = rig_at(w, row * columns + c);
            for (size_t k = 0; k < ranks; k++)
                sum +=
                    (double)a->scale * rig_at(b, row * ranks + k) * rig_at(of_a, k * columns + c);
            squares += sum * sum;
        }
        rig_see(r, rig_at(rig_after(r, a->squares_O), row), squares);
    }
}

/* Of what has a length. */
void check_magnitude(struct rig *r)
{
    const struct ds_magnitude_args *a = &r->args.magnitude;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->inverse_O.shape[0]);
        const double squares = rig_at(rig_before(r, a->squares_O), at);
        const double inverse = squares > 0 ? 1 / sqrt(squares) : 0;

        rig_see(r, rig_at(rig_after(r, a->inverse_O), at), inverse);
        rig_see(r, rig_at(rig_after(r, a->factor_O), at),
                inverse * rig_at(rig_before(r, a->magnitude_O), at));
    }
}

void check_scale_columns(struct rig *r)
{
    const struct ds_scale_columns_args *a = &r->args.scale_columns;
    const size_t n = a->x_TN.shape[1];

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->x_TN.shape[0] * n);

        rig_see(r, rig_at(rig_after(r, a->y_TN), at),
                rig_at(rig_before(r, a->addend_TN), at) +
                    (rig_at(rig_before(r, a->scale_N), at % n) + (double)a->plus) *
                        rig_at(rig_before(r, a->x_TN), at));
    }
}

void check_dropout(struct rig *r)
{
    const struct ds_dropout_args *a = &r->args.dropout;
    const double scale = (double)DS_DROPOUT_NUMBERS / (DS_DROPOUT_NUMBERS - a->threshold);

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, a->x.shape[0] * a->x.shape[1]);
        const uint32_t counter[4] = {(uint32_t)(at / 8), (uint32_t)((uint64_t)at >> 35), 1, 0};
        uint32_t words[4];

        ds_philox(counter, a->key, words);
        const int is_kept = (words[at % 8 / 2] >> 16 * (at & 1) & 0xffffu) >= a->threshold;
        rig_see(r, rig_at(rig_after(r, a->y), at),
                is_kept ? rig_at(rig_before(r, a->x), at) * scale : 0);
    }
}

/* A zero that is not there has no size to be compared with, so each counts as one. */
void check_fill(struct rig *r)
{
    const struct ds_fill_args *a = &r->args.fill;
    const size_t count = a->bytes / sizeof(float);
    const struct rig_view got = rig_after(r, ds_tensor1(a->at, DS_F32, count));

    FOR_SAMPLES(i)
    {
        const size_t start = rig_place(i, count), left = count - start;

        for (size_t j = 0; j < left && j < 1000; j++)
            rig_see(r, rig_at(got, start + j) == 0, 1);
    }
}

/* ---- sums and the step record */

static struct ds_step_record record_after(struct rig *r, const void *device)
{
    struct ds_step_record record;

    (void)rig_fetch(r, device, 0, &record, sizeof record);
    return record;
}

void check_loss_sum(struct rig *r)
{
    const struct ds_loss_sum_args *a = &r->args.loss_sum;
    double sum = 0;

    for (size_t i = 0; i < a->loss_T.shape[0]; i++)
        sum += rig_at(rig_before(r, a->loss_T), i);
    rig_see(r, record_after(r, a->record).loss_sum, sum);
}

void check_norm_pieces(struct rig *r)
{
    const struct ds_norm_pieces_args *a = &r->args.norm_pieces;

    FOR_SAMPLES(i)
    {
        const size_t piece = rig_place(i, a->sums.shape[0]), start = piece * DS_NORM_PIECE;
        const size_t left = a->x.shape[0] - start;
        const struct rig_view x = rig_from(rig_before(r, a->x), start);
        double sum = 0;

        for (size_t j = 0; j < left && j < DS_NORM_PIECE; j++)
            sum += rig_at(x, j) * rig_at(x, j);
        rig_see(r, rig_at(rig_after(r, a->sums), piece), sum);
    }
}

void check_norm_sum(struct rig *r)
{
    const struct ds_norm_sum_args *a = &r->args.norm_sum;
    double want = 0;

    for (size_t i = 0; i < a->sums.shape[0]; i++)
        want += rig_at(rig_before(r, a->sums), i);
    rig_see(r, record_after(r, a->record).norm_squared, want);
}

void check_step_begin(struct rig *r)
{
    const struct ds_step_record got = record_after(r, r->args.step_begin.record);

    rig_see(r, got.inverse_tokens, 1.0 / 512);
    rig_see(r, got.norm_squared + got.loss_sum, 0);
}

void check_verdict(struct rig *r)
{
    const struct ds_step_record got = record_after(r, r->args.verdict.record);

    rig_see(r, got.norm, 2);
    rig_see(r, got.clip_factor, 1 / (2 + 1e-6));
    rig_see(r, got.correction2, 1 / (1 - (double)r->args.verdict.beta2));
    rig_see(r, got.skip, 0);
}

/* What follows the master stands for it where there is none in one piece. */
void check_adamw(struct rig *r)
{
    const struct ds_adamw_args *a = &r->args.adamw;
    const struct ds_tensor weight =
        a->master.data && a->master.dtype == DS_F32 ? a->master : a->param;
    const struct ds_step_record *record = rig_host(r, a->record);
    const double b1 = a->beta1, b2 = a->beta2, rate = record->learning_rate;

    FOR_SAMPLES(i)
    {
        const size_t at = rig_place(i, weight.shape[0]);
        const double g = rig_at(rig_before(r, a->grad), at) * record->clip_factor;
        const double m = b1 * rig_at(rig_before(r, a->exp_avg), at) + (1 - b1) * g;
        const double v = b2 * rig_at(rig_before(r, a->exp_avg_sq), at) + (1 - b2) * g * g;
        const double update =
            m * record->correction1 / (sqrt(v * record->correction2) + a->epsilon);

        rig_see(r, rig_at(rig_after(r, weight), at),
                rig_at(rig_before(r, weight), at) * (1 - rate * (double)0.1f) - rate * update);
        rig_see(r, rig_at(rig_after(r, a->exp_avg), at), m);
        rig_see(r, rig_at(rig_after(r, a->exp_avg_sq), at), v);
    }
}
