/* dora.c - see dora.h. */
#include "dora.h"

static struct ds_tensor part_of(struct ds_tensor vector, const struct lora_part *part)
{
    vector.data = (char *)vector.data + part->out_start * ds_dtype_bytes(vector.dtype);
    vector.shape[0] = part->out;
    return vector;
}

static struct ds_tensor matrix_of(const struct ds_pass *pass, const struct linear *layer)
{
    const struct ds_tensor at = pass_weight(pass, layer->block, layer->weight);

    return ds_tensor2(at.data, at.dtype, layer->out, layer->in);
}

/* ---- lengths */

ds_status dora_measure(const struct ds_pass *pass, const struct linear *layer, int is_bare)
{
    const struct lora *lora = &layer->lora;

    for (uint32_t i = 0; lora_has_lengths(lora) && i < lora->part_count; i++) {
        const struct lora_part *part = &lora->parts[i];
        struct ds_row_squares_args args = {
            .w_OI = rows_of(matrix_of(pass, layer), part->out_start, part->out),
            .squares_O = part_of(lora->squares_N, part),
            .scale = part->scale};

        if (!is_bare) {
            args.a_RI = lora_a(pass, lora, part);
            args.b_OR = lora_b(pass, lora, part);
        }
        DS_TRY(pass->kernels->row_squares(pass->stream, &args));
    }
    return DS_OK;
}

static ds_status set_ones(const struct ds_pass *pass, const struct lora *lora)
{
    const struct ds_magnitude_args args = {.inverse_O = lora->inverse_N,
                                           .factor_O = lora->factor_N};
    uint64_t rows = 0;

    for (uint32_t i = 0; i < lora->part_count; i++)
        rows += lora->parts[i].out;
    return rows < lora->out ? pass->kernels->magnitude(pass->stream, &args) : DS_OK;
}

ds_status dora_begin(const struct ds_pass *pass, const struct linear *layer)
{
    const struct lora *lora = &layer->lora;

    if (!lora_has_lengths(lora))
        return DS_OK;
    DS_TRY(set_ones(pass, lora));
    for (uint32_t i = 0; i < lora->part_count; i++) {
        const struct lora_part *part = &lora->parts[i];
        const struct ds_magnitude_args args = {.squares_O = part_of(lora->squares_N, part),
                                               .magnitude_O =
                                                   pass_weight(pass, lora->block, part->m),
                                               .inverse_O = part_of(lora->inverse_N, part),
                                               .factor_O = part_of(lora->factor_N, part)};

        DS_TRY(pass->kernels->magnitude(pass->stream, &args));
    }
    return DS_OK;
}

/* ---- products */

/* y = (addend) + (scale + plus) x */
static ds_status scale(const struct ds_pass *pass, struct ds_tensor y, struct ds_tensor addend,
                       struct ds_tensor scales, float plus, struct ds_tensor x)
{
    const struct ds_scale_columns_args args = {
        .y_TN = y, .x_TN = x, .addend_TN = addend, .scale_N = scales, .plus = plus};

    return pass->kernels->scale_columns(pass->stream, &args);
}

/* y = (addend) + x W^T */
static ds_status plain_product(const struct ds_pass *pass, const struct linear *layer,
                               struct ds_tensor x, struct ds_tensor addend, struct ds_tensor y)
{
    const struct ds_matmul_args product = {
        .a = x, .b = matrix_of(pass, layer), .c = y, .trans_b = 1, .addend = addend};

    return pass->kernels->matmul(pass->stream, &product);
}

static const struct ds_tensor absent;

static ds_status product_of_all(const struct ds_pass *pass, const struct linear *layer,
                                struct ds_tensor x, struct ds_tensor addend, struct ds_tensor y)
{
    const struct lora *lora = &layer->lora;

    DS_TRY(plain_product(pass, layer, x, absent, lora->v_TN));
    DS_TRY(lora_project(pass, lora, x));
    DS_TRY(lora_forward(pass, lora, lora->v_TN));
    return y.data ? scale(pass, y, addend, lora->factor_N, 0, lora->v_TN) : DS_OK;
}

static ds_status product_of_some(const struct ds_pass *pass, const struct linear *layer,
                                 struct ds_tensor x, struct ds_tensor addend, struct ds_tensor y)
{
    const struct lora *lora = &layer->lora;

    if (y.data)
        DS_TRY(plain_product(pass, layer, x, addend, y));
    DS_TRY(lora_project(pass, lora, x));
    DS_TRY(plain_product(pass, layer, lora_room(lora, x), absent, lora->v_TN));
    if (y.data)
        DS_TRY(scale(pass, y, y, absent, -1, lora->v_TN));
    DS_TRY(lora_forward(pass, lora, lora->v_TN));
    return y.data ? scale(pass, y, y, lora->factor_N, 0, lora->v_TN) : DS_OK;
}

ds_status dora_product(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor x,
                       struct ds_tensor addend, struct ds_tensor y)
{
    const struct lora *lora = &layer->lora;

    DS_TRY(lora_drops(pass, lora) ? product_of_some(pass, layer, x, addend, y)
                                  : product_of_all(pass, layer, x, addend, y));
    return scale(pass, lora->v_TN, absent, lora->inverse_N, 0, lora->v_TN);
}

/* ---- the way back */

static ds_status turn(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor dy,
                      float plus, struct ds_tensor *turned)
{
    const struct lora *lora = &layer->lora;

    *turned = ds_tensor2(lora->turned_TN.data, dy.dtype, dy.shape[0], lora->out);
    return scale(pass, *turned, absent, lora->factor_N, plus, dy);
}

ds_status dora_turn(const struct ds_pass *pass, const struct linear *layer, struct ds_tensor dy,
                    struct ds_tensor *turned)
{
    return turn(pass, layer, dy, 0, turned);
}

static ds_status product_back(const struct ds_pass *pass, const struct linear *layer,
                              struct ds_tensor dy, struct ds_tensor dx)
{
    const struct ds_matmul_args product = {.a = dy, .b = matrix_of(pass, layer), .c = dx};

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status dora_backward_input(const struct ds_pass *pass, const struct linear *layer,
                              struct ds_tensor dy, struct ds_tensor dx)
{
    const struct lora *lora = &layer->lora;
    const int drops = lora_drops(pass, lora);
    struct ds_tensor turned;

    DS_TRY(dora_turn(pass, layer, dy, &turned));
    DS_TRY(lora_backward(pass, lora, turned));
    DS_TRY(product_back(pass, layer, drops ? dy : turned, dx));
    if (drops) {
        DS_TRY(turn(pass, layer, dy, -1, &turned));
        DS_TRY(product_back(pass, layer, turned, lora_room(lora, dx)));
    }
    return lora_backward_input(pass, lora, dx, drops);
}

static struct ds_tensor columns_of(struct ds_tensor matrix, const struct lora_part *part)
{
    char *at = (char *)matrix.data + part->out_start * ds_dtype_bytes(matrix.dtype);

    return ds_tensor2(at, matrix.dtype, matrix.shape[0], part->out);
}

ds_status dora_backward_lengths(const struct ds_pass *pass, const struct linear *layer,
                                struct ds_tensor dy)
{
    const struct lora *lora = &layer->lora;

    for (uint32_t i = 0; lora_has_lengths(lora) && i < lora->part_count; i++) {
        const struct lora_part *part = &lora->parts[i];
        const struct ds_bias_args args = {.y_TN = columns_of(dy, part),
                                          .x_TN = columns_of(lora->v_TN, part),
                                          .bias_N = pass_grad(pass, lora->block, part->m),
                                          .add = pass_adds(pass, lora->block, part->m),
                                          .y_stride = lora->out};

        DS_TRY(pass->kernels->bias_backward(pass->stream, &args));
    }
    return DS_OK;
}
