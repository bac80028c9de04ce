/* trainer_eval.c - what a run does with weights as they are: loss over the evaluation data, one prediction,
 * the whole of a parameter, an export. All of it on the list without gradients. */
#include "trainer.h"

#include "inject.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ds_status clear_sums(struct ds_trainer *t)
{
    const struct ds_step_begin_args args = {t->record, 1};

    return t->device->ops->kernels->step_begin(t->compute, &args);
}

static ds_status run_batch(struct ds_trainer *t, const struct ds_loader_batch *batch)
{
    struct trainer_exchange *exchange = &t->exchanges[0];

    DS_TRY(trainer_send_batch(t, exchange, batch, t->eval_micro_count));
    DS_TRY(ds_executor_run(t->executor, &t->eval_list));
    DS_TRY(t->device->ops->stream_sync(t->comm));   /* the next stage has what it was sent */
    return t->device->ops->stream_sync(t->compute); /* the staging is free for the next batch */
}

/* The same samples on every layout: what fills the last batch is not trained on. */
uint64_t trainer_eval_samples(const struct ds_trainer *t)
{
    const uint64_t samples = ds_dataset_sample_count(t->eval_data);
    const uint64_t most = t->config->train.eval_samples;

    return most && most < samples ? most : samples;
}

uint64_t trainer_eval_batches(const struct ds_trainer *t)
{
    const uint64_t at_once =
        t->config->train.micro_batch_size * t->share_count * t->eval_micro_count;

    return (trainer_eval_samples(t) + at_once - 1) / at_once;
}

static ds_status read_loss(struct ds_trainer *t, double *loss_sum)
{
    struct ds_step_record *result = t->exchanges[0].result;

    DS_TRY(t->device->ops->copy(t->compute, result, t->record, sizeof *result));
    DS_TRY(t->device->ops->stream_sync(t->compute));
    DS_TRY(ds_zero_files_status(t->zero));
    *loss_sum = result->loss_sum;
    return DS_OK;
}

/* Tensor ranks have the same loss, and stages without the head none: one of those that share samples
 * speaks. */
static int counts_loss(const struct ds_trainer *t)
{
    return t->place.at[DS_AXIS_TP] == 0 &&
           t->place.at[DS_AXIS_PP] + 1 == t->mesh_shape.size[DS_AXIS_PP];
}

static ds_status evaluate(struct ds_trainer *t, double *loss, uint64_t *tokens)
{
    const uint64_t batches = trainer_eval_batches(t);
    double sums[2] = {0.0, 0.0}; /* loss, tokens */

    DS_TRY(ds_executor_finish(t->executor));
    DS_TRY(clear_sums(t));
    for (uint64_t i = 0; i < batches; i++) {
        struct ds_loader_batch batch;
        uint64_t waited_ns;
        if (t->options.recorder)
            ds_recorder_beat(t->options.recorder);
        DS_TRY(ds_loader_next(t->eval_loader, i, &batch, &waited_ns));
        DS_TRY(run_batch(t, &batch));
        sums[1] += (double)batch.trained_tokens;
    }
    DS_TRY(read_loss(t, &sums[0]));
    if (!counts_loss(t))
        sums[0] = sums[1] = 0.0;
    DS_TRY(ds_comm_all_reduce(t->options.world, sums, 2, DS_F64, DS_REDUCE_SUM, NULL));
    *loss = sums[1] > 0 ? sums[0] / sums[1] : NAN;
    *tokens = (uint64_t)sums[1];
    return DS_OK;
}

/* Where a rank has not come its peers' work never ends, and closing would wait for it; who cannot read its files does not
 * come to where they meet. */
ds_status ds_trainer_evaluate(struct ds_trainer *t, double *loss, uint64_t *tokens)
{
    const ds_status st = evaluate(t, loss, tokens);

    if (st == DS_ERR_COMM || st == DS_ERR_DEADLINE || ds_zero_files_status(t->zero) != DS_OK)
        ds_mesh_poison(t->mesh);
    return st;
}

static struct ds_hf_parts parts_of(const struct ds_trainer *t)
{
    return (struct ds_hf_parts){
        .model = t->model,
        .zero = t->zero,
        .mesh = ds_mesh_shape_of(t->mesh),
        .stage_of_unit = t->stage_of_unit,
        .world = t->options.world,
    };
}

ds_status ds_trainer_export(struct ds_trainer *t, const char *folder)
{
    const struct ds_hf_write_options options = {
        .fs = t->options.fs,
        .folder = folder,
        .companions = trainer_companions(t),
        .has_byte_tokens = t->text.is_bytes,
        .base = t->base,
        .beside = t->beside,
        .parts = parts_of(t),
    };

    DS_TRY(ds_comm_agreed(t->options.world, inject_into_step(t, t->config->train.steps + 1)));
    return ds_hf_write(&options);
}

ds_status ds_trainer_read_param(struct ds_trainer *t, const char *name, float *to)
{
    const struct ds_param *param = ds_model_find(t->model, name);
    const struct ds_hf_parts parts = parts_of(t);
    struct ds_hf_gather *gather = NULL;
    ds_status st;

    if (!param)
        return ds_fail(DS_ERR_DATA, "the model has no parameter '%s'", name);
    DS_TRY(ds_hf_gather_open(&parts, &gather));
    st = ds_hf_gather_param(gather, (uint32_t)(param - t->model->params), to);
    ds_hf_gather_close(gather);
    return ds_comm_agreed(parts.world, st);
}

/* The sequence padded to its capacity: what comes after a token does not change what it predicts. */
static void fill_prompt(struct ds_trainer *t, const int32_t *tokens, uint64_t count)
{
    struct trainer_exchange *exchange = &t->exchanges[0];
    int32_t *id = exchange->batch, *target = id + t->batch_ints, *position = id + 2 * t->batch_ints;

    memset(exchange->batch, 0, (size_t)t->batch_ints * 4 * sizeof(int32_t));
    memcpy(id, tokens, (size_t)count * sizeof *id);
    for (uint64_t i = 0; i < t->tokens_per_micro; i++) {
        target[i] = DS_IGNORE_INDEX;
        position[i] = (int32_t)i;
    }
}

ds_status ds_trainer_predict(struct ds_trainer *t, const int32_t *tokens, uint64_t count,
                             float *logits)
{
    const size_t bytes = (size_t)t->batch_ints * 4 * sizeof(int32_t);
    const size_t row_bytes = (size_t)t->model->config.vocab_size * sizeof(float);
    void *row;

    DS_ASSERT(count >= 1 && count <= t->config->train.seq_length);
    fill_prompt(t, tokens, count);
    DS_TRY(t->device->ops->copy(t->compute, t->batch_memory, t->exchanges[0].batch, bytes));
    DS_TRY(ds_executor_predict(t->executor, &t->eval_list, count - 1, &row));
    DS_TRY(t->device->ops->copy(t->compute, logits, row, row_bytes));
    return t->device->ops->stream_sync(t->compute);
}
