/* embedding.c - the first block: a row of the table for every token id. Saves nothing: the ids stay in
 * the batch. The table's gradient starts with the embedding, or, where the head uses the same table and
 * has gone first, is added to. */
#include "linear.h"

static size_t embedding_bytes(const struct ds_block *block, uint64_t token_count)
{
    (void)block, (void)token_count;
    return 0;
}

static struct ds_tensor as_table(const struct ds_param *param, struct ds_tensor at)
{
    return ds_tensor2(at.data, at.dtype, param->shape[0], param->shape[1]);
}

static ds_status embedding_forward(const struct ds_block *block, struct ds_pass *pass,
                                   const void *x, void *y)
{
    const struct ds_param *param = model_param(block->model, block->units[0], ROLE_EMBED);
    struct ds_embedding_args args = {
        .id_T = pass->batch->id_T,
        .table_VC = as_table(param, pass_weight(pass, 0, param)),
        .y_TC = matrix_of(y, pass->batch->id_T.shape[0], param->shape[1]),
    };

    (void)x;
    return pass->kernels->embedding_forward(pass->stream, &args);
}

static ds_status embedding_backward(const struct ds_block *block, struct ds_pass *pass,
                                    uint32_t parts, const void *x, const void *dy, void *dx)
{
    (void)x, (void)dx;
    if (!(parts & DS_BACKWARD_WEIGHT))
        return DS_OK;
    const struct ds_param *param = model_param(block->model, block->units[0], ROLE_EMBED);
    struct ds_embedding_args args = {
        .id_T = pass->batch->id_T,
        .table_VC = as_table(param, pass_grad(pass, 0, param)),
        .y_TC = matrix_of(dy, pass->batch->id_T.shape[0], param->shape[1]),
        .add = pass->grads_add[0],
    };

    return pass->kernels->embedding_backward(pass->stream, &args);
}

const struct ds_block_ops model_embedding_ops = {
    .name = "embedding",
    .saved_bytes = embedding_bytes,
    .workspace_bytes = embedding_bytes,
    .forward = embedding_forward,
    .backward = embedding_backward,
};
