/* embedding.c - the first block: a row of the table for every token id. Saves nothing: the ids stay in
 * the batch. The table's gradient starts with the embedding, or, where the head uses the same table and
 * has gone first, is added to. A tensor rank has some of the rows: it gives zeros for the ids of others, and
 * the sum over the ranks is the embedding. */
#include "tensor_parallel.h"

/* The table that lies here, and what one action needs. */
struct embedding {
    const struct ds_model *model;
    const struct ds_param *param;
    uint64_t T, R, C; /* tokens, those of the residual stream here, hidden */
};

static struct embedding embedding_of(const struct ds_block *block, uint64_t token_count)
{
    const struct ds_param *param = model_param(block->model, block->units[0], ROLE_EMBED);

    return (struct embedding){.model = block->model,
                              .param = param,
                              .T = token_count,
                              .R = ds_model_stream_tokens(block->model, token_count),
                              .C = param->shape[1]};
}

/* A room for all tokens where this rank's stream has some of them. */
static struct ds_tensor take_room(struct ds_arena *arena, const struct embedding *e)
{
    return e->R < e->T ? take_matrix(arena, e->model->share.compute, e->T, e->C)
                       : (struct ds_tensor){0};
}

static size_t embedding_saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    (void)block, (void)token_count;
    return 0;
}

static size_t embedding_workspace_bytes(const struct ds_block *block, uint64_t token_count)
{
    const struct embedding e = embedding_of(block, token_count);
    struct ds_arena measure = {.size = SIZE_MAX};

    take_room(&measure, &e);
    return measure.used;
}

static struct ds_tensor as_table(const struct ds_param *param, struct ds_tensor at)
{
    return ds_tensor2(at.data, at.dtype, param->local[0], param->local[1]);
}

static ds_status embedding_forward(const struct ds_block *block, struct ds_pass *pass,
                                   const void *x, void *y)
{
    const struct embedding e = embedding_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    const struct ds_tensor room = take_room(&workspace, &e);
    const struct ds_tensor y_RC = matrix_at(y, e.model->share.compute, e.R, e.C);
    struct ds_embedding_args args = {
        .id_T = pass->batch->id_T,
        .table_VC = as_table(e.param, pass_weight(pass, block, e.param)),
        .y_TC = tp_partial(y_RC, room),
        .first = e.param->start[0],
    };

    (void)x;
    DS_TRY(pass->kernels->embedding_forward(pass->stream, &args));
    return tp_sum(e.model, pass, y_RC, room);
}

static ds_status embedding_backward(const struct ds_block *block, struct ds_pass *pass,
                                    uint32_t parts, const void *x, const void *dy, void *dx)
{
    (void)x, (void)dx;
    const struct embedding e = embedding_of(block, pass->batch->id_T.shape[0]);
    if (!(parts & DS_BACKWARD_WEIGHT) || !e.param->is_trainable)
        return DS_OK;
    struct ds_arena workspace = {.base = pass->workspace, .size = SIZE_MAX};
    const struct ds_tensor room = take_room(&workspace, &e);
    struct ds_embedding_args args = {
        .id_T = pass->batch->id_T,
        .table_VC = as_table(e.param, pass_grad(pass, block, e.param)),
        .add = pass_adds(pass, block, e.param),
        .first = e.param->start[0],
        .padding = e.model->config.pad_token_id, /* as transformers' padding_idx */
    };

    DS_TRY(tp_gather(e.model, pass, matrix_at(dy, e.model->share.compute, e.R, e.C), room,
                     &args.y_TC));
    return pass->kernels->embedding_backward(pass->stream, &args);
}

static uint32_t embedding_collectives(const struct ds_block *block, uint64_t token_count)
{
    (void)block, (void)token_count;
    return 1;
}

const struct ds_block_ops model_embedding_ops = {
    .name = "embedding",
    .saved_bytes = embedding_saved_bytes,
    .workspace_bytes = embedding_workspace_bytes,
    .collective_count = embedding_collectives,
    .forward = embedding_forward,
    .backward = embedding_backward,
};
