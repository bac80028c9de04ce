/* tensor_run.h - one model on several tensor ranks, ranks being threads, beside the same model whole: every
 * rank gets its boxes of the whole's weights, and gradients are put together as ZeRO puts them. */
#ifndef DSTRAIN_TENSOR_RUN_H
#define DSTRAIN_TENSOR_RUN_H

#include "model_run.h"
#include "ranks.h"

#include "dstrain/random.h"

#include <math.h>

#define TENSOR_RANKS_MAX   8
#define TENSOR_DEADLINE_NS 120000000000u

struct tensor_run {
    const struct ds_model_config *config;
    struct run_options with; /* tp_size of the share; its rank and `tp` are set here */
    uint64_t token_count, seq_length;
    enum run_parts parts;
    const struct model_run *whole; /* weights and batch */
    const float *whole_logits;     /* as the ranks make them; where a test compares them */
    /* what the ranks make */
    struct model_run ranks[TENSOR_RANKS_MAX];
    double loss[TENSOR_RANKS_MAX];
    float *logits[TENSOR_RANKS_MAX]; /* of LOGIT_ROWS tokens */
};

#define LOGIT_ROW  5
#define LOGIT_ROWS 3

static inline double tensor_norm(const float *at, uint64_t count)
{
    double sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += (double)at[i] * (double)at[i];
    return sqrt(sum);
}

/* |a - b| / |b|, of the norms */
static inline double tensor_distance(const float *a, const float *b, uint64_t count)
{
    double sum = 0, norm = tensor_norm(b, count);

    for (uint64_t i = 0; i < count; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum == 0 ? 0 : sqrt(sum) / norm;
}

/* Weights far from their initial values: no bias is 0, no gain is 1. */
static inline void tensor_fill_weights(struct model_run *run, uint64_t seed)
{
    for (uint32_t i = 0; i < run->model->param_count; i++) {
        const struct ds_param *param = &run->model->params[i];
        float *at = run_weight(run, param);

        ds_random_normal(ds_random_of(seed, DS_RANDOM_TEST, i), 0, param->elems, 0.1f, at);
        for (uint64_t j = 0; j < param->elems; j++)
            at[j] += param->init_value;
    }
}

/* Random tokens, some without a target; the second sequence is made of two documents. */
static inline void tensor_fill_batch(struct model_run *run, uint64_t seed)
{
    struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 1000);
    const uint64_t vocab = run->model->config.vocab_size;

    for (uint64_t t = 0; t < run->token_count; t++) {
        run->ids[t] = (int32_t)ds_random_below(random, 2 * t, vocab);
        run->targets[t] = (int32_t)ds_random_below(random, 2 * t + 1, vocab);
        if (t % 5 == 3)
            run->targets[t] = DS_IGNORE_INDEX;
        if (t >= run->seq_length + 4 && t < 2 * run->seq_length) {
            run->documents[t] = 4;
            run->positions[t] -= 4;
        }
    }
    run_count_tokens(run);
}

/* This rank's boxes of the whole's weights, and the same batch. */
static inline void tensor_copy_inputs(struct model_run *run, const struct model_run *whole)
{
    const size_t ints = run->token_count * sizeof(int32_t);
    const enum ds_dtype dtype = run->model->share.compute;

    for (uint32_t i = 0; i < run->model->param_count; i++) {
        const struct ds_param *param = &run->model->params[i];
        const float *from = run_weight(whole, &whole->model->params[i]);

        for (uint64_t done = 0; done < param->elems;) {
            struct ds_span part = ds_param_run(param, done, param->elems - done);
            char *to = (char *)run_weight(run, param) + done * ds_dtype_bytes(dtype);
            assert_true(ds_dtype_from_f32(to, dtype, from + part.start, part.count));
            done += part.count;
        }
    }
    memcpy(run->ids, whole->ids, ints);
    memcpy(run->targets, whole->targets, ints);
    memcpy(run->positions, whole->positions, ints);
    memcpy(run->documents, whole->documents, ints);
    run->record = whole->record;
}

/* LOGIT_ROWS of the whole vocabulary; freed by the caller. */
static inline float *tensor_logits(struct model_run *run)
{
    const struct ds_block *head = &run->model->blocks[run->model->block_count - 1];
    struct ds_pass pass = run_pass(run, head);
    float *logits = run_alloc(LOGIT_ROWS * run->model->config.vocab_size * sizeof(float));
    const float *x = run_forward(run);

    assert_ok(head->ops->logits(head, &pass, x, LOGIT_ROW, LOGIT_ROWS, logits));
    assert_ok(run->device->ops->stream_sync(run->stream));
    return logits;
}

static inline void tensor_rank(struct ds_comm *world, void *user)
{
    struct tensor_run *all = user;
    struct run_options with = all->with;
    struct model_run *run = &all->ranks[world->rank];

    with.tp = world;
    with.share.tp_rank = world->rank;
    with.seed += world->rank;
    run_open_with(run, &with, all->config, all->token_count, all->seq_length);
    tensor_copy_inputs(run, all->whole);
    all->logits[world->rank] = tensor_logits(run);
    all->loss[world->rank] = run_loss(run, 1, 0);
    run_backward(run, all->parts, 0);
}

static inline void tensor_open(struct tensor_run *all)
{
    assert_true(run_ranks(all->with.share.tp_size, TENSOR_DEADLINE_NS, tensor_rank, all));
}

static inline void tensor_close(struct tensor_run *all)
{
    for (uint32_t r = 0; r < all->with.share.tp_size; r++) {
        run_close(&all->ranks[r]);
        free(all->logits[r]);
    }
}

/* A copy as floats; freed by the caller. */
static inline float *tensor_floats(const void *from, enum ds_dtype dtype, uint64_t count)
{
    float *to = malloc(count * sizeof *to);

    assert_non_null(to);
    assert_true(ds_dtype_to_f32(to, from, dtype, count));
    return to;
}

static inline void tensor_add_box(const struct model_run *run, const struct ds_param *param,
                                  float *to)
{
    float *grad = tensor_floats(run_grad(run, param), run->model->share.grad, param->elems);

    for (uint64_t done = 0; done < param->elems;) {
        struct ds_span part = ds_param_run(param, done, param->elems - done);
        for (uint64_t i = 0; i < part.count; i++)
            to[part.start + i] += grad[done + i];
        done += part.count;
    }
    free(grad);
}

/* The gradient of parameter `index` as ZeRO would leave it: parts added, of copies the owner's. */
static inline float *tensor_gradient(const struct tensor_run *all, uint32_t index)
{
    const struct ds_param *whole = &all->whole->model->params[index];
    float *to = calloc(whole->elems, sizeof *to);

    assert_non_null(to);
    for (uint32_t r = 0; r < all->with.share.tp_size; r++) {
        const struct ds_param *param = &all->ranks[r].model->params[index];
        if (param->sum != DS_PARAM_SUM_NONE || param->is_owner)
            tensor_add_box(&all->ranks[r], param, to);
    }
    return to;
}

#endif
