/* head.c - the last block: final norm, logits, cross-entropy, and in the same call their gradients.
 *
 * Logits exist for a chunk of tokens at a time and are turned into their own gradient in place: [T, V]
 * is never stored. The matrix is the block's own or, tied, the embedding's, which is the block's second
 * unit. Nothing is saved: forward and backward are one action.
 *
 * A tensor rank has some columns of the logits: largest logit, sum of exponentials and the target's logit
 * of each row go over the ranks, the loss is the same on all of them. */
#include "tensor_parallel.h"

/* A chunk of logits has model->logits_bytes, but never fewer rows than a matrix product needs to be worth its
 * passes over the head's matrix and its gradient. */
#define CHUNK_ROWS_MIN 64

/* T tokens, R of them in the residual stream here, C hidden, V vocabulary rows here. */
struct head {
    const struct ds_block *block;
    const struct ds_model *model; /* the block's */
    struct norm norm;
    struct linear lm_head;
    uint64_t T, R, C, V;
    uint64_t columns_max; /* of the logits on any rank: chunks are the same on all of them */
    uint64_t chunk_rows;
    enum ds_dtype dtype;
};

struct head_space {
    struct ds_tensor y_RC, rstd_R, loss_T; /* y: the norm's output */
    struct ds_tensor room_TC;              /* y of all tokens, then, chunk by chunk, its gradient */
    void *logits;
    struct ds_tensor factor_N;       /* of a chunk; absent where the gradient lacks none */
    struct ds_tensor max_N, sums_N2; /* of a chunk, on several ranks */
    struct ds_tensor row;            /* of logits, of all ranks */
};

static struct head head_of(const struct ds_block *block, uint64_t token_count)
{
    const struct ds_model *model = block->model;
    const struct ds_model_config *config = &model->config;
    const int is_tied = config->tie_word_embeddings;
    const uint32_t unit = block->units[0];
    const struct ds_param *matrix = is_tied ? model_param(model, block->units[1], ROLE_EMBED)
                                            : model_param(model, unit, ROLE_LM_HEAD);
    const uint64_t columns_max = ds_tp_cut(config->vocab_size, 0, model->share.tp_size).count;
    uint64_t rows = model->logits_bytes / (columns_max * ds_dtype_bytes(model->share.compute));

    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows;
    return (struct head){
        .block = block,
        .model = model,
        .norm = {block, model_param(model, unit, ROLE_FINAL_NORM), (float)config->rms_norm_eps},
        .lm_head = {.block = block,
                    .weight = matrix,
                    .out = matrix->local[0],
                    .in = config->hidden_size},
        .T = token_count,
        .R = ds_model_stream_tokens(model, token_count),
        .C = config->hidden_size,
        .V = matrix->local[0],
        .columns_max = columns_max,
        .chunk_rows = rows < token_count ? rows : token_count,
        .dtype = model->share.compute,
    };
}

/* May the gradient of the logits lack a factor of each row? */
static int has_factors(const struct head *head)
{
    return head->model->share.tp_size == 1 && linear_has_loss(&head->lm_head);
}

static struct head_space take_space(struct ds_arena *arena, const struct head *head)
{
    const uint32_t tp_size = head->model->share.tp_size;
    const uint64_t logit_bytes = ds_dtype_bytes(head->dtype);
    struct head_space space = {
        .y_RC = take_matrix(arena, head->dtype, head->R, head->C),
        .rstd_R = take_vector(arena, DS_F32, head->R),
        .loss_T = take_vector(arena, DS_F32, head->T),
        .logits = ds_arena_take(arena, head->chunk_rows * head->columns_max * logit_bytes),
    };

    if (head->R < head->T)
        space.room_TC = take_matrix(arena, head->dtype, head->T, head->C);
    if (has_factors(head))
        space.factor_N = take_vector(arena, DS_F32, head->chunk_rows);
    if (tp_size > 1) {
        space.max_N = take_vector(arena, DS_F32, head->chunk_rows);
        space.sums_N2 = take_matrix(arena, DS_F32, head->chunk_rows, 2);
        space.row = take_matrix(arena, DS_F32, tp_size + 1, head->columns_max);
    }
    return space;
}

static size_t head_saved_bytes(const struct ds_block *block, uint64_t token_count)
{
    (void)block, (void)token_count;
    return 0;
}

static size_t head_workspace_bytes(const struct ds_block *block, uint64_t token_count)
{
    struct head head = head_of(block, token_count);
    struct ds_arena measure = {.size = SIZE_MAX};

    take_space(&measure, &head);
    return measure.used;
}

/* Tokens gathered, two sums a chunk, the gradient summed. */
static uint32_t head_collectives(const struct ds_block *block, uint64_t token_count)
{
    const struct head head = head_of(block, token_count);

    return 2 + 2 * (uint32_t)((head.T + head.chunk_rows - 1) / head.chunk_rows);
}

/* ---- loss */

/* The three calls, and between them what the ranks have in common. */
static ds_status loss_over_ranks(struct ds_pass *pass, const struct ds_cross_entropy_args *args)
{
    const size_t rows = (size_t)args->logits_NV.shape[0];

    DS_TRY(pass->kernels->cross_entropy_max(pass->stream, args));
    DS_TRY(tp_all_reduce(pass, args->max_N.data, rows, DS_F32, DS_REDUCE_MAX));
    DS_TRY(pass->kernels->cross_entropy_sum(pass->stream, args));
    DS_TRY(tp_all_reduce(pass, args->sums_N2.data, 2 * rows, DS_F32, DS_REDUCE_SUM));
    return pass->kernels->cross_entropy_finish(pass->stream, args);
}

/* Logits, loss and, when training, the logits' gradient in their place; y may get the factors of its rows. */
static ds_status chunk_loss(const struct head *head, struct ds_pass *pass,
                            const struct head_space *space, uint64_t start, struct ds_tensor y,
                            struct ds_tensor logits_NV)
{
    const uint64_t rows = logits_NV.shape[0];
    struct ds_cross_entropy_args args = {
        .logits_NV = logits_NV,
        .target_N = ds_tensor1((int32_t *)pass->batch->target_T.data + start, DS_I32, rows),
        .loss_N = ds_tensor1((float *)space->loss_T.data + start, DS_F32, rows),
        .record = pass->record,
        .gradient = pass->is_training,
        .factor_N = ds_tensor1(space->factor_N.data, DS_F32, rows),
        .first = head->lm_head.weight->start[0],
        .vocabulary = head->model->config.vocab_size,
        .max_N = ds_tensor1(space->max_N.data, DS_F32, rows),
        .sums_N2 = ds_tensor2(space->sums_N2.data, DS_F32, rows, 2),
    };

    if (head->model->share.tp_size == 1)
        return linear_forward_loss(pass, &head->lm_head, y, args);
    DS_TRY(linear_forward(pass, &head->lm_head, y, logits_NV));
    return loss_over_ranks(pass, &args);
}

/* Rows start.. of the micro-batch: loss and, when training, the gradient of the norm's output into `dy_TC`
 * (which may be y_TC), that of the matrix added up over the chunks. */
static ds_status head_chunk(const struct head *head, struct ds_pass *pass,
                            const struct head_space *space, uint64_t start, struct ds_tensor y_TC,
                            struct ds_tensor dy_TC)
{
    const struct linear *lm_head = &head->lm_head;
    const uint64_t left = head->T - start, rows = left < head->chunk_rows ? left : head->chunk_rows;
    const struct ds_tensor y = rows_of(y_TC, start, rows), dy = rows_of(dy_TC, start, rows);
    const struct ds_tensor logits = ds_tensor2(space->logits, head->dtype, rows, head->V);
    const struct ds_scale_rows_args scale = {dy, ds_tensor1(space->factor_N.data, DS_F32, rows)};

    DS_TRY(chunk_loss(head, pass, space, start, y, logits));
    if (!pass->is_training)
        return DS_OK;
    DS_TRY(linear_backward_matrix(pass, lm_head, y, logits,
                                  start > 0 || pass_adds(pass, head->block, lm_head->weight)));
    DS_TRY(linear_backward_input(pass, lm_head, logits, dy));
    return has_factors(head) ? pass->kernels->scale_rows(pass->stream, &scale) : DS_OK;
}

/* dx holds the gradient of the norm's output: its backward works in place. */
static ds_status head_norm_backward(const struct head *head, struct ds_pass *pass,
                                    const struct head_space *space, struct ds_tensor x_RC,
                                    struct ds_tensor dx_RC)
{
    const struct ds_rmsnorm_backward_args norm = {
        .x_TC = x_RC,
        .rstd_T = space->rstd_R,
        .dy_TC = dx_RC,
        .dx_TC = dx_RC,
        .dgain_C = pass_grad(pass, head->block, head->norm.gain),
        .gain_add = pass_adds(pass, head->block, head->norm.gain),
    };

    return norm_backward(pass, &head->norm, &norm);
}

static ds_status head_loss(const struct ds_block *block, struct ds_pass *pass, const void *x,
                           void *dx)
{
    const struct head head = head_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena arena = {.base = pass->workspace, .size = SIZE_MAX};
    const struct head_space space = take_space(&arena, &head);
    const struct ds_tensor x_RC = matrix_at(x, head.dtype, head.R, head.C);
    const struct ds_tensor dx_RC = matrix_at(dx, head.dtype, head.R, head.C);
    const struct ds_rmsnorm_args norm = {.x_TC = x_RC, .y_TC = space.y_RC, .rstd_T = space.rstd_R};
    struct ds_loss_sum_args sum = {space.loss_T, pass->record};
    struct ds_tensor y_TC;

    DS_ASSERT(!pass->is_training || (dx && dx != x));
    DS_TRY(norm_forward(pass, &head.norm, &norm));
    DS_TRY(tp_gather(head.model, pass, space.y_RC, space.room_TC, &y_TC));
    for (uint64_t start = 0; start < head.T; start += head.chunk_rows)
        DS_TRY(head_chunk(&head, pass, &space, start, y_TC, tp_partial(dx_RC, space.room_TC)));
    DS_TRY(pass->kernels->loss_sum(pass->stream, &sum));
    if (!pass->is_training)
        return DS_OK;
    DS_TRY(tp_sum(head.model, pass, dx_RC, space.room_TC));
    return head_norm_backward(&head, pass, &space, x_RC, dx_RC);
}

/* ---- generation */

/* Rows of the norm's output: of rows of the stream or, where tokens are shared out, of all of it. */
static ds_status logits_input(const struct head *head, struct ds_pass *pass,
                              const struct head_space *space, const void *x, uint64_t row,
                              uint64_t row_count, struct ds_tensor *y)
{
    const int is_part = head->R < head->T;
    const struct ds_tensor x_RC = matrix_at(x, head->dtype, head->R, head->C);
    const struct ds_rmsnorm_args norm = {
        .x_TC = is_part ? x_RC : rows_of(x_RC, row, row_count),
        .y_TC = is_part ? space->y_RC : rows_of(space->y_RC, 0, row_count),
        .rstd_T = space->rstd_R,
    };
    struct ds_tensor whole;

    DS_TRY(norm_forward(pass, &head->norm, &norm));
    DS_TRY(tp_gather(head->model, pass, norm.y_TC, space->room_TC, &whole));
    *y = is_part ? rows_of(whole, row, row_count) : whole;
    return DS_OK;
}

/* One row: this rank's columns, padded to those of the rank that has most, then everybody's in place. */
static ds_status row_of_logits(const struct head *head, struct ds_pass *pass,
                               const struct head_space *space, struct ds_tensor y, float *to)
{
    const uint32_t tp_size = head->model->share.tp_size;
    float *all = (float *)space->row.data + head->columns_max;
    const struct ds_tensor own = ds_tensor2(space->row.data, DS_F32, 1, head->V);

    DS_TRY(linear_forward(pass, &head->lm_head, y, own));
    DS_TRY(ds_comm_all_gather(pass->tp, own.data, all, (size_t)head->columns_max, DS_F32,
                              pass->stream));
    for (uint32_t rank = 0; rank < tp_size; rank++) {
        const struct ds_span cut = ds_tp_cut(head->model->config.vocab_size, rank, tp_size);

        DS_TRY(pass->stream->device->ops->copy(pass->stream, to + cut.start,
                                               all + rank * head->columns_max,
                                               (size_t)cut.count * sizeof(float)));
    }
    return DS_OK;
}

static ds_status head_logits(const struct ds_block *block, struct ds_pass *pass, const void *x,
                             uint64_t row, uint64_t row_count, void *logits)
{
    const struct head head = head_of(block, pass->batch->id_T.shape[0]);
    const uint64_t vocabulary = head.model->config.vocab_size;
    struct ds_arena arena = {.base = pass->workspace, .size = SIZE_MAX};
    const struct head_space space = take_space(&arena, &head);
    struct ds_tensor y;

    DS_TRY(logits_input(&head, pass, &space, x, row, row_count, &y));
    if (head.model->share.tp_size == 1)
        return linear_forward(pass, &head.lm_head, y,
                              ds_tensor2(logits, DS_F32, row_count, vocabulary));
    for (uint64_t i = 0; i < row_count; i++)
        DS_TRY(
            row_of_logits(&head, pass, &space, rows_of(y, i, 1), (float *)logits + i * vocabulary));
    return DS_OK;
}

const struct ds_block_ops model_head_ops = {
    .name = "head",
    .saved_bytes = head_saved_bytes,
    .workspace_bytes = head_workspace_bytes,
    .collective_count = head_collectives,
    .loss = head_loss,
    .logits = head_logits,
};
