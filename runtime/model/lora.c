/* lora.c - the products of an adapter. Skinny ones, so what is read twice is joined: x by the A of all matrices that
 * are one layer, y by adding where it lies. */
#include "lora.h"

#include "linear.h"

#include "dstrain/random.h"

#include <math.h>

/* ---- which factors a layer has */

static uint64_t rows_here(const struct ds_model *model, uint64_t layer, enum ds_linear linear)
{
    static const enum param_role roles[] = {ROLE_Q,    ROLE_K,  ROLE_V,   ROLE_O,
                                            ROLE_GATE, ROLE_UP, ROLE_DOWN};

    return model_param(model, (uint32_t)layer + 1, roles[linear])->local[0];
}

struct lora lora_of(const struct ds_block *block, enum ds_linear first, enum ds_linear end)
{
    const struct ds_model *model = block->model;
    const uint64_t layer = (uint64_t)(block - model->blocks) - 1;
    struct lora lora = {.block = block};

    if (!ds_model_is_adapted(model))
        return lora;
    for (enum ds_linear i = first; i < end; i++) {
        const struct ds_lora_factors *factors = &model->factors[layer * DS_LINEAR_COUNT + i];
        const uint64_t rows = rows_here(model, layer, i);
        struct lora_part *part = &lora.parts[lora.part_count];
        if (factors->module.rank > 0) {
            *part = (struct lora_part){.linear = i,
                                       .b = &model->params[factors->b],
                                       .m = model->lora.is_dora ? &model->params[factors->m] : NULL,
                                       .rank = factors->module.rank,
                                       .column = lora.ranks,
                                       .out = rows,
                                       .out_start = lora.out,
                                       .scale = factors->module.scale};
            if (lora.part_count++ == 0)
                lora.a = &model->params[factors->a];
            lora.ranks += factors->module.rank;
        }
        lora.out += rows;
    }
    lora.in = lora.a ? lora.a->local[1] : 0;
    lora.threshold = (uint32_t)lround(model->lora.dropout * DS_DROPOUT_NUMBERS);
    lora.random_key =
        ds_random_of(model->seed, DS_RANDOM_DROPOUT, layer * DS_LINEAR_COUNT + first).key;
    return lora;
}

/* ---- views */

/* Some columns of a matrix. */
static struct ds_tensor columns_of(struct ds_tensor matrix, uint64_t start, uint64_t count)
{
    matrix.data = (char *)matrix.data + start * ds_dtype_bytes(matrix.dtype);
    matrix.shape[1] = count;
    return matrix;
}

static struct ds_tensor as_matrix(struct ds_tensor at, uint64_t rows, uint64_t columns)
{
    return ds_tensor2(at.data, at.dtype, rows, columns);
}

/* All A, one below the other; or their gradients. */
static struct ds_tensor all_a(const struct lora *lora, struct ds_tensor first)
{
    return as_matrix(first, lora->ranks, lora->in);
}

static struct ds_tensor one_b(const struct lora_part *part, struct ds_tensor at)
{
    return as_matrix(at, part->out, part->rank);
}

struct ds_tensor lora_a(const struct ds_pass *pass, const struct lora *lora,
                        const struct lora_part *part)
{
    struct ds_tensor a = all_a(lora, pass_weight(pass, lora->block, lora->a));

    a.data = (char *)a.data + part->column * lora->in * ds_dtype_bytes(a.dtype);
    a.shape[0] = part->rank;
    return a;
}

struct ds_tensor lora_b(const struct ds_pass *pass, const struct lora *lora,
                        const struct lora_part *part)
{
    return one_b(part, pass_weight(pass, lora->block, part->b));
}

/* ---- dropout */

int lora_drops(const struct ds_pass *pass, const struct lora *lora)
{
    return lora->threshold > 0 && pass->is_training;
}

struct ds_tensor lora_room(const struct lora *lora, struct ds_tensor x)
{
    return ds_tensor2(lora->room.data, x.dtype, x.shape[0], lora->in);
}

/* to = (add) + what of `from`, which is like x, was not dropped */
static ds_status drop(const struct ds_pass *pass, const struct lora *lora, struct ds_tensor from,
                      struct ds_tensor to, int add)
{
    const struct ds_dropout_args args = {.y = to,
                                         .x = from,
                                         .record = pass->record,
                                         .key = lora->random_key,
                                         .first_row = pass->batch->first_token,
                                         .first_column = lora->a->start[1],
                                         .whole_columns = lora->a->shape[1],
                                         .threshold = lora->threshold,
                                         .add = add};

    return pass->kernels->dropout(pass->stream, &args);
}

/* What the factors see of x. */
static ds_status seen_of(const struct ds_pass *pass, const struct lora *lora, struct ds_tensor *x)
{
    const struct ds_tensor room = lora_room(lora, *x);

    if (!lora_drops(pass, lora))
        return DS_OK;
    DS_TRY(drop(pass, lora, *x, room, 0));
    *x = room;
    return DS_OK;
}

/* ---- products */

ds_status lora_project(const struct ds_pass *pass, const struct lora *lora, struct ds_tensor x)
{
    if (lora->ranks == 0)
        return DS_OK;
    DS_TRY(seen_of(pass, lora, &x));
    const struct ds_matmul_args product = {.a = x,
                                           .b =
                                               all_a(lora, pass_weight(pass, lora->block, lora->a)),
                                           .c = lora->u_TR,
                                           .trans_b = 1};

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status lora_forward(const struct ds_pass *pass, const struct lora *lora, struct ds_tensor y)
{
    for (uint32_t i = 0; i < lora->part_count; i++) {
        const struct lora_part *part = &lora->parts[i];
        const struct ds_matmul_args product = {
            .a = columns_of(lora->u_TR, part->column, part->rank),
            .b = one_b(part, pass_weight(pass, lora->block, part->b)),
            .c = columns_of(y, part->out_start, part->out),
            .trans_b = 1,
            .add = 1,
            .scale = part->scale,
            .a_stride = lora->ranks,
            .c_stride = lora->out};

        DS_TRY(pass->kernels->matmul(pass->stream, &product));
    }
    return DS_OK;
}

ds_status lora_backward(const struct ds_pass *pass, const struct lora *lora, struct ds_tensor dy)
{
    for (uint32_t i = 0; i < lora->part_count; i++) {
        const struct lora_part *part = &lora->parts[i];
        const struct ds_matmul_args product = {
            .a = columns_of(dy, part->out_start, part->out),
            .b = one_b(part, pass_weight(pass, lora->block, part->b)),
            .c = columns_of(lora->du_TR, part->column, part->rank),
            .scale = part->scale,
            .a_stride = lora->out,
            .c_stride = lora->ranks};

        DS_TRY(pass->kernels->matmul(pass->stream, &product));
    }
    return DS_OK;
}

ds_status lora_backward_input(const struct ds_pass *pass, const struct lora *lora,
                              struct ds_tensor dx, int has_begun)
{
    if (lora->ranks == 0)
        return DS_OK;
    const int is_apart = lora_drops(pass, lora);
    const struct ds_tensor seen = is_apart ? lora_room(lora, dx) : dx;
    const struct ds_matmul_args product = {.a = lora->du_TR,
                                           .b =
                                               all_a(lora, pass_weight(pass, lora->block, lora->a)),
                                           .c = seen,
                                           .add = !is_apart || has_begun};

    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    return is_apart ? drop(pass, lora, seen, dx, 1) : DS_OK;
}

/* dB of one matrix */
static ds_status backward_b(const struct ds_pass *pass, const struct lora *lora,
                            const struct lora_part *part, struct ds_tensor dy)
{
    const struct ds_matmul_args product = {.a = columns_of(dy, part->out_start, part->out),
                                           .b = columns_of(lora->u_TR, part->column, part->rank),
                                           .c = one_b(part, pass_grad(pass, lora->block, part->b)),
                                           .trans_a = 1,
                                           .add = pass_adds(pass, lora->block, part->b),
                                           .scale = part->scale,
                                           .a_stride = lora->out,
                                           .b_stride = lora->ranks};

    return pass->kernels->matmul(pass->stream, &product);
}

ds_status lora_backward_factors(const struct ds_pass *pass, const struct lora *lora,
                                struct ds_tensor x, struct ds_tensor dy)
{
    if (lora->ranks == 0)
        return DS_OK;
    DS_TRY(seen_of(pass, lora, &x));
    const struct ds_matmul_args product = {.a = lora->du_TR,
                                           .b = x,
                                           .c = all_a(lora, pass_grad(pass, lora->block, lora->a)),
                                           .trans_a = 1,
                                           .add = pass_adds(pass, lora->block, lora->a)};

    DS_TRY(pass->kernels->matmul(pass->stream, &product));
    for (uint32_t i = 0; i < lora->part_count; i++)
        DS_TRY(backward_b(pass, lora, &lora->parts[i], dy));
    return DS_OK;
}
