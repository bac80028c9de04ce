/* head.c - the last block: final norm, logits, cross-entropy, and in the same call their gradients.
 *
 * Logits exist for a chunk of tokens at a time and are turned into their own gradient in place: [T, V]
 * is never stored. The matrix is the block's own or, tied, the embedding's, which is the block's second
 * unit. Nothing is saved: forward and backward are one action. */
#include "linear.h"

#include "dstrain/memory.h"

/* A chunk of logits has this many bytes, so that it stays near the cache, but never fewer rows than a
 * matrix product needs to be worth its passes over the head's matrix and its gradient. */
#define CHUNK_BYTES    (8u << 20)
#define CHUNK_ROWS_MIN 64

struct head {
    struct norm norm;
    struct linear lm_head;
    uint64_t token_count, chunk_rows;
};

struct head_space {
    float *y_TC, *rstd_T, *loss_T, *logits; /* y: the norm's output */
};

static struct head head_of(const struct ds_block *block, uint64_t token_count)
{
    const struct ds_model_config *config = &block->model->config;
    const int is_tied = config->tie_word_embeddings;
    const uint32_t unit = block->units[0];
    uint64_t rows = CHUNK_BYTES / (config->vocab_size * sizeof(float));

    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows;
    return (struct head){
        .norm = {model_param(block->model, unit, ROLE_FINAL_NORM), 0, (float)config->rms_norm_eps},
        .lm_head = {.weight = is_tied ? model_param(block->model, block->units[1], ROLE_EMBED)
                                      : model_param(block->model, unit, ROLE_LM_HEAD),
                    .out = config->vocab_size,
                    .in = config->hidden_size,
                    .slot = is_tied ? 1 : 0},
        .token_count = token_count,
        .chunk_rows = rows < token_count ? rows : token_count,
    };
}

static struct head_space take_space(struct ds_arena *arena, const struct head *head)
{
    const uint64_t tokens = head->token_count;

    return (struct head_space){
        .y_TC = ds_arena_take(arena, tokens * head->lm_head.in * sizeof(float)),
        .rstd_T = ds_arena_take(arena, tokens * sizeof(float)),
        .loss_T = ds_arena_take(arena, tokens * sizeof(float)),
        .logits = ds_arena_take(arena, head->chunk_rows * head->lm_head.out * sizeof(float)),
    };
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

/* Rows start.. of the micro-batch: loss and, when training, the gradient of the norm's output into
 * `dy`, that of the matrix added up over the chunks. */
static ds_status head_chunk(const struct head *head, struct ds_pass *pass,
                            const struct head_space *space, uint64_t start, uint64_t rows,
                            float *dy)
{
    const struct linear *lm_head = &head->lm_head;
    const float *y = space->y_TC + start * lm_head->in;
    struct ds_cross_entropy_args loss = {
        .logits_NV = matrix_of(space->logits, rows, lm_head->out),
        .target_N = ds_tensor1((int32_t *)pass->batch->target_T.data + start, DS_I32, rows),
        .loss_N = vector_of(space->loss_T + start, rows),
        .record = pass->record,
        .gradient = pass->is_training,
    };

    DS_TRY(linear_forward(pass, lm_head, rows, y, space->logits));
    DS_TRY(pass->kernels->cross_entropy(pass->stream, &loss));
    if (!pass->is_training)
        return DS_OK;
    DS_TRY(linear_backward_input(pass, lm_head, rows, space->logits, dy + start * lm_head->in));
    return linear_backward_weight(pass, lm_head, rows, y, space->logits,
                                  start > 0 || pass->grads_add[lm_head->slot]);
}

/* The gradient of the norm's output is collected in dx, and the norm's backward works in place. */
static ds_status head_loss(const struct ds_block *block, struct ds_pass *pass, const void *x,
                           void *dx)
{
    struct head head = head_of(block, pass->batch->id_T.shape[0]);
    struct ds_arena arena = {.base = pass->workspace, .size = SIZE_MAX};
    struct head_space space = take_space(&arena, &head);
    struct ds_loss_sum_args sum = {vector_of(space.loss_T, head.token_count), pass->record};

    DS_ASSERT(!pass->is_training || (dx && dx != x));
    DS_TRY(
        norm_forward(pass, &head.norm, head.token_count, x, NULL, NULL, space.y_TC, space.rstd_T));
    for (uint64_t start = 0; start < head.token_count; start += head.chunk_rows) {
        uint64_t left = head.token_count - start;

        DS_TRY(head_chunk(&head, pass, &space, start,
                          left < head.chunk_rows ? left : head.chunk_rows, dx));
    }
    DS_TRY(pass->kernels->loss_sum(pass->stream, &sum));
    if (!pass->is_training)
        return DS_OK;
    return norm_backward(pass, &head.norm, head.token_count, DS_BACKWARD_INPUT | DS_BACKWARD_WEIGHT,
                         x, space.rstd_T, dx, dx, 0);
}

static ds_status head_logits(const struct ds_block *block, struct ds_pass *pass, const void *x,
                             uint64_t row, uint64_t row_count, void *logits)
{
    struct head head = head_of(block, row_count);
    struct ds_arena arena = {.base = pass->workspace, .size = SIZE_MAX};
    struct head_space space = take_space(&arena, &head);

    DS_TRY(norm_forward(pass, &head.norm, row_count, (const float *)x + row * head.lm_head.in, NULL,
                        NULL, space.y_TC, space.rstd_T));
    return linear_forward(pass, &head.lm_head, row_count, space.y_TC, logits);
}

const struct ds_block_ops model_head_ops = {
    .name = "head",
    .saved_bytes = head_saved_bytes,
    .workspace_bytes = head_workspace_bytes,
    .loss = head_loss,
    .logits = head_logits,
};
