/* assemble_batch.c - what crosses between host and device each step, and where it lies. */
#include "trainer.h"

#include <math.h>
#include <stdlib.h>

static ds_status take_exchange(struct ds_trainer *t, struct trainer_exchange *exchange)
{
    struct ds_memory *m = &t->memory;
    const size_t record = sizeof *exchange->record;
    void *at[4];

    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, record, &at[0]));
    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, record, &at[1]));
    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                          (size_t)t->batch_ints * 4 * sizeof(int32_t), &at[2]));
    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, sizeof(uint64_t), &at[3]));
    exchange->record = at[0];
    exchange->result = at[1];
    exchange->batch = at[2];
    exchange->ended_ns = at[3];
    return t->device->ops->event_open(t->device, &exchange->done);
}

static int one_document(const struct ds_dataset *data)
{
    return !data || ds_dataset_one_document(data);
}

/* Of a micro-batch; both kinds of data go through the same kernels. */
static uint64_t document_count(const struct ds_trainer *t)
{
    const double sequences = (double)(t->tokens_per_micro / t->config->train.seq_length);
    const double trained = t->train_data ? ds_dataset_documents(t->train_data) : 0;
    const double evaluated = t->eval_data ? ds_dataset_documents(t->eval_data) : 0;

    return (uint64_t)ceil(sequences * fmax(trained, evaluated));
}

/* The four arrays lie one behind the other, each with all its micro-batches. */
static void cut_batches(struct ds_trainer *t)
{
    const uint64_t tokens = t->tokens_per_micro;

    for (uint64_t m = 0; m < t->micro_count; m++) {
        int32_t *at = t->batch_memory + m * tokens;
        t->batches[m] = (struct ds_batch){
            .id_T = ds_tensor1(at, DS_I32, tokens),
            .target_T = ds_tensor1(at + t->batch_ints, DS_I32, tokens),
            .position_T = ds_tensor1(at + 2 * t->batch_ints, DS_I32, tokens),
            .document_T = ds_tensor1(at + 3 * t->batch_ints, DS_I32, tokens),
            .seq_length = t->config->train.seq_length,
            .one_document = one_document(t->train_data) && one_document(t->eval_data),
            .document_count = document_count(t),
            .first_token = (m * t->share_count + t->share) * tokens, /* as the loader has it */
        };
    }
}

static ds_status take_rotary(struct ds_trainer *t)
{
    const struct ds_model_config *model = &t->model->config;
    const uint64_t positions = t->config->train.seq_length;
    const size_t bytes = (size_t)(positions * model->head_dim) * sizeof(float);
    float *table = malloc(bytes);
    void *at = NULL;
    ds_status st;

    if (!table)
        return ds_fail(DS_ERR_NO_MEMORY, "the rotary table");
    ds_rope_table(model, positions, table);
    DS_TRY_GOTO(st, ds_memory_take(&t->memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_BATCH, bytes, &at),
                done);
    t->rotary = at;
    DS_TRY_GOTO(st, t->device->ops->copy(t->compute, at, table, bytes), done);
    st = t->device->ops->stream_sync(t->compute);
done:
    free(table);
    return st;
}

ds_status trainer_take_batches(struct ds_trainer *t)
{
    void *ints = NULL, *record = NULL;

    t->batches = calloc(t->micro_count, sizeof *t->batches);
    if (!t->batches)
        return ds_fail(DS_ERR_NO_MEMORY, "%llu micro-batches", (unsigned long long)t->micro_count);
    DS_TRY(ds_memory_take(&t->memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_BATCH,
                          (size_t)t->batch_ints * 4 * sizeof(int32_t), &ints));
    DS_TRY(ds_memory_take(&t->memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_BATCH, sizeof *t->record,
                          &record));
    t->batch_memory = ints;
    t->record = record;
    cut_batches(t);
    for (int i = 0; i < 2; i++)
        DS_TRY(take_exchange(t, &t->exchanges[i]));
    return take_rotary(t);
}
