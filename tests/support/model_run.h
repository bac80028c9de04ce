/* model_run.h - one rank, alone or of several tensor ranks, one micro-batch, no sharding: a model's blocks
 * driven by hand on the cpu device, every buffer of exactly the size a block asked for, so that a sanitizer
 * sees each overrun. */
#ifndef DSTRAIN_MODEL_RUN_H
#define DSTRAIN_MODEL_RUN_H

#include "dstrain/model.h"
#include "test.h"

struct model_run {
    /* owns */
    struct ds_device *device;
    struct ds_stream *stream;
    struct ds_model *model;
    float **weights, **grads; /* a unit each */
    float **outputs; /* a block each but the head: the stream, [T, C] or this rank's part */
    void **saved, **held, **derived; /* a block each */
    float *dy, *dx, *rotary;
    void *workspace;
    size_t workspace_bytes;
    struct ds_tensor_stream tensor_stream; /* with tp */
    int32_t *ids, *targets, *positions, *documents;
    /* borrows */
    struct ds_comm *tp; /* NULL: alone */
    /* set by the test */
    uint64_t token_count, seq_length;
    struct ds_step_record record;
    struct ds_batch batch;
};

static inline void *run_alloc(size_t bytes)
{
    size_t whole = (bytes + 255) / 256 * 256;
    void *at = whole ? aligned_alloc(256, whole) : NULL;

    assert_true(at || !whole);
    if (at)
        memset(at, 0xa5, whole); /* nothing may rely on zeros */
    return at;
}

static inline size_t run_activation_bytes(const struct model_run *run)
{
    return ds_model_stream_tokens(run->model, run->token_count) * run->model->config.hidden_size *
           ds_dtype_bytes(run->model->share.compute);
}

static inline void run_alloc_blocks(struct model_run *run)
{
    const struct ds_model *model = run->model;
    for (uint32_t i = 0; i < model->unit_count; i++) {
        run->weights[i] = run_alloc(model->units[i].elems * ds_dtype_bytes(model->share.compute));
        run->grads[i] = run_alloc(model->units[i].elems * ds_dtype_bytes(model->share.grad));
    }
    for (uint32_t i = 0; i < model->block_count; i++) {
        const struct ds_block *block = &model->blocks[i];
        size_t bytes = block->ops->workspace_bytes(block, run->token_count);

        run->workspace_bytes = bytes > run->workspace_bytes ? bytes : run->workspace_bytes;
        run->saved[i] = run_alloc(block->ops->saved_bytes(block, run->token_count));
        if (block->ops->held_bytes)
            run->held[i] = run_alloc(block->ops->held_bytes(block, run->token_count));
        if (block->ops->derived_bytes)
            run->derived[i] = run_alloc(block->ops->derived_bytes(block));
        run->outputs[i] = run_alloc(run_activation_bytes(run));
    }
    run->workspace = run_alloc(run->workspace_bytes);
}

static inline void run_fill_batch(struct model_run *run)
{
    const uint64_t tokens = run->token_count;

    run->ids = run_alloc(tokens * sizeof(int32_t));
    run->targets = run_alloc(tokens * sizeof(int32_t));
    run->positions = run_alloc(tokens * sizeof(int32_t));
    run->documents = run_alloc(tokens * sizeof(int32_t));
    for (uint64_t t = 0; t < tokens; t++) {
        run->ids[t] = run->targets[t] = run->documents[t] = 0;
        run->positions[t] = (int32_t)(t % run->seq_length);
    }
    run->batch = (struct ds_batch){
        .id_T = ds_tensor1(run->ids, DS_I32, tokens),
        .target_T = ds_tensor1(run->targets, DS_I32, tokens),
        .position_T = ds_tensor1(run->positions, DS_I32, tokens),
        .document_T = ds_tensor1(run->documents, DS_I32, tokens),
        .seq_length = run->seq_length,
    };
}

/* What differs from a whole model on an inline device; zeroed: nothing. */
struct run_options {
    struct ds_model_share share;
    enum ds_keeps keeps;
    enum ds_device_mode mode;
    uint64_t seed;              /* of deferred's order */
    struct ds_comm *tp;         /* with a share */
    const struct ds_lora *lora; /* NULL: no adapter */
    uint64_t piece_tokens;      /* 0: as the model is opened */
};

static inline void run_open_with(struct model_run *run, const struct run_options *with,
                                 const struct ds_model_config *config, uint64_t token_count,
                                 uint64_t seq_length)
{
    const struct ds_device_options options = {
        .mode = with->mode, .seed = with->seed, .thread_count = 1, .clock = ds_clock_system()};

    *run = (struct model_run){.tp = with->tp, .token_count = token_count, .seq_length = seq_length};
    assert_ok(ds_device_cpu_ops.open(0, &options, &run->device));
    assert_ok(ds_device_cpu_ops.stream_open(run->device, 0, &run->stream));
    if (run->tp)
        assert_ok(ds_tensor_stream_open(run->device, &run->tensor_stream));
    assert_ok(ds_model_open_adapted(config, &with->share, with->lora, &run->model));
    run->model->keeps = with->keeps;
    if (with->piece_tokens > 0)
        run->model->piece_tokens = with->piece_tokens;
    run->weights = calloc(run->model->unit_count, sizeof *run->weights);
    run->grads = calloc(run->model->unit_count, sizeof *run->grads);
    run->outputs = calloc(run->model->block_count, sizeof *run->outputs);
    run->saved = calloc(run->model->block_count, sizeof *run->saved);
    run->held = calloc(run->model->block_count, sizeof *run->held);
    run->derived = calloc(run->model->block_count, sizeof *run->derived);
    assert_true(run->weights && run->grads && run->outputs && run->saved && run->held &&
                run->derived);
    run->rotary = run_alloc(seq_length * run->model->config.head_dim * sizeof(float));
    ds_rope_table(&run->model->config, seq_length, run->rotary);
    run->dy = run_alloc(run_activation_bytes(run));
    run->dx = run_alloc(run_activation_bytes(run));
    run_alloc_blocks(run);
    run_fill_batch(run);
    run->record.loss_scale = 1;
}

static inline void run_open(struct model_run *run, const struct ds_model_config *config,
                            uint64_t token_count, uint64_t seq_length)
{
    const struct run_options whole = {.mode = DS_DEVICE_INLINE};

    run_open_with(run, &whole, config, token_count, seq_length);
}

static inline void run_close(struct model_run *run)
{
    for (uint32_t i = 0; i < run->model->unit_count; i++) {
        free(run->weights[i]);
        free(run->grads[i]);
    }
    for (uint32_t i = 0; i < run->model->block_count; i++) {
        free(run->outputs[i]);
        free(run->saved[i]);
        free(run->held[i]);
        free(run->derived[i]);
    }
    free(run->weights);
    free(run->grads);
    free(run->outputs);
    free(run->saved);
    free(run->held);
    free(run->derived);
    free(run->dy);
    free(run->dx);
    free(run->rotary);
    free(run->workspace);
    free(run->ids);
    free(run->targets);
    free(run->positions);
    free(run->documents);
    ds_model_close(run->model);
    ds_tensor_stream_close(&run->tensor_stream);
    ds_device_cpu_ops.stream_close(run->stream);
    ds_device_cpu_ops.close(run->device);
}

static inline float *run_weight(const struct model_run *run, const struct ds_param *param)
{
    char *unit = (char *)run->weights[param->unit];

    return (void *)(unit + param->offset * ds_dtype_bytes(run->model->share.compute));
}

static inline float *run_grad(const struct model_run *run, const struct ds_param *param)
{
    char *unit = (char *)run->grads[param->unit];

    return (void *)(unit + param->offset * ds_dtype_bytes(run->model->share.grad));
}

/* Trained tokens are the targets that are not ignored. */
static inline void run_count_tokens(struct model_run *run)
{
    uint64_t count = 0;

    for (uint64_t t = 0; t < run->token_count; t++)
        count += run->targets[t] != DS_IGNORE_INDEX;
    run->record.trained_tokens = count;
    run->record.inverse_tokens = count ? 1.0f / (float)count : 0;
}

static inline struct ds_pass run_pass(struct model_run *run, const struct ds_block *block)
{
    struct ds_pass pass = {
        .stream = run->stream,
        .kernels = run->device->ops->kernels,
        .batch = &run->batch,
        .record = &run->record,
        .rotary = run->rotary,
        .tp = run->tp,
        .tensor_stream = run->tp ? &run->tensor_stream : NULL,
        .saved = run->saved[block - run->model->blocks],
        .workspace = run->workspace,
        .derived = run->derived[block - run->model->blocks],
        .derives = 1,
        .is_training = 1,
    };

    for (uint32_t i = 0; i < block->unit_count; i++) {
        pass.weights[i] = run->weights[block->units[i]];
        pass.grads[i] = run->grads[block->units[i]];
    }
    return pass;
}

/* All blocks but the head; the input of the head is the result. */
static inline const float *run_forward(struct model_run *run)
{
    const float *x = NULL;

    for (uint32_t i = 0; i + 1 < run->model->block_count; i++) {
        const struct ds_block *block = &run->model->blocks[i];
        struct ds_pass pass = run_pass(run, block);

        assert_ok(block->ops->forward(block, &pass, x, run->outputs[i]));
        x = run->outputs[i];
    }
    return x;
}

/* The mean loss; training leaves the gradient of the head's input in dy and the head's own. */
static inline double run_loss(struct model_run *run, int is_training, int add)
{
    const struct ds_block *head = &run->model->blocks[run->model->block_count - 1];
    struct ds_pass pass = run_pass(run, head);
    const float *x = run_forward(run);

    run->record.loss_sum = 0;
    pass.is_training = is_training;
    pass.grads_add[0] = pass.grads_add[1] = (uint8_t)add;
    assert_ok(head->ops->loss(head, &pass, x, is_training ? run->dy : NULL));
    assert_ok(run->device->ops->stream_sync(run->stream));
    return run->record.loss_sum / (double)run->record.trained_tokens;
}

/* How a test wants its backward: both parts at once and in place, or one after the other. */
enum run_parts { RUN_TOGETHER, RUN_APART };

static inline void run_block_backward(struct model_run *run, uint32_t index, enum run_parts parts,
                                      struct ds_pass *pass)
{
    const struct ds_block *block = &run->model->blocks[index];
    const float *x = index > 0 ? run->outputs[index - 1] : NULL;

    if (parts == RUN_TOGETHER) {
        assert_ok(block->ops->backward(block, pass, DS_BACKWARD_INPUT | DS_BACKWARD_WEIGHT, x,
                                       run->dy, run->dy));
        return;
    }
    pass->held = run->held[index];
    if (block->kind == DS_BLOCK_DECODER)
        assert_ok(block->ops->backward(block, pass, DS_BACKWARD_INPUT, x, run->dy, run->dx));
    assert_ok(run->device->ops->stream_sync(run->stream));
    /* scratch holds nothing from one call to the next */
    memset(run->workspace, 0x5a, run->workspace_bytes);
    assert_ok(block->ops->backward(block, pass, DS_BACKWARD_WEIGHT, x, run->dy, NULL));
    if (block->kind != DS_BLOCK_DECODER)
        return;
    float *spare = run->dy;
    run->dy = run->dx;
    run->dx = spare;
}

static inline void run_backward(struct model_run *run, enum run_parts parts, int add)
{
    for (uint32_t i = run->model->block_count - 1; i-- > 0;) {
        struct ds_pass pass = run_pass(run, &run->model->blocks[i]);

        pass.grads_add[0] = (uint8_t)(add || (i == 0 && run->model->config.tie_word_embeddings));
        pass.grads_add[1] = (uint8_t)add;
        run_block_backward(run, i, parts, &pass);
    }
    assert_ok(run->device->ops->stream_sync(run->stream));
}

#endif
