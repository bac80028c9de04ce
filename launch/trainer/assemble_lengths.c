/* assemble_lengths.c - the lengths with which DoRA begins: those of the rows of the matrices, measured where they lie and
 * as they are computed with, quantised or not. Behind the weights, in a run that goes on from nothing. */
#include "trainer.h"

#include <math.h>
#include <stdlib.h>

/* The model's own unit, and the one with the factors: of different classes, so that each has its first slot. */
static ds_status acquire(struct ds_trainer *t, const struct ds_block *layer, struct ds_pass *pass)
{
    for (uint32_t i = 0; i < layer->unit_count; i++) {
        DS_TRY(ds_zero_acquire(t->zero, layer->units[i], 0));
        pass->weights[i] = ds_zero_weights(t->zero, layer->units[i]);
    }
    return DS_OK;
}

static ds_status release(struct ds_trainer *t, const struct ds_block *layer)
{
    for (uint32_t i = 0; i < layer->unit_count; i++)
        DS_TRY(ds_zero_release(t->zero, layer->units[i]));
    return DS_OK;
}

/* What this rank owns of them. */
static ds_status write_lengths(struct ds_trainer *t, const struct ds_param *param, float *values)
{
    const struct ds_zero_layout *layout = ds_zero_unit_layout(t->zero, param->unit);
    const struct ds_span owned =
        ds_zero_layout_owned(layout, t->shard_rank, (struct ds_span){param->offset, param->elems});

    for (uint64_t i = 0; i < param->elems; i++)
        values[i] = (float)sqrt((double)values[i]);
    if (owned.count == 0)
        return DS_OK;
    return ds_zero_write_shard(t->zero, param->unit,
                               owned.start - ds_zero_layout_shard(layout, t->shard_rank).start,
                               owned.count, values + (owned.start - param->offset));
}

static ds_status bring(struct ds_trainer *t, const float *squares, uint64_t count, float *to)
{
    DS_TRY(t->device->ops->copy(t->compute, to, squares, (size_t)count * sizeof *to));
    return t->device->ops->stream_sync(t->compute);
}

/* `host`: room for the rows of a matrix */
static ds_status begin_layer(struct ds_trainer *t, const struct ds_block *layer, float *host)
{
    const uint64_t index = (uint64_t)(layer - t->model->blocks) - 1;
    const float *squares[DS_LINEAR_COUNT];
    struct ds_pass pass;

    ds_executor_outside(t->executor, &pass);
    DS_TRY(acquire(t, layer, &pass));
    DS_TRY(ds_lora_lengths(layer, &pass, squares));
    for (int i = 0; i < DS_LINEAR_COUNT; i++) {
        const uint32_t m = t->model->factors[index * DS_LINEAR_COUNT + (uint64_t)i].m;
        if (!squares[i])
            continue;
        DS_TRY(bring(t, squares[i], t->model->params[m].elems, host));
        DS_TRY(write_lengths(t, &t->model->params[m], host));
    }
    return release(t, layer);
}

static int has_factors(const struct ds_trainer *t, uint32_t block)
{
    const struct ds_lora_factors *factors =
        &t->model->factors[(uint64_t)(block - 1) * DS_LINEAR_COUNT];
    uint32_t ranks = 0;

    for (int i = 0; i < DS_LINEAR_COUNT; i++)
        ranks |= factors[i].module.rank;
    return ranks > 0;
}

static uint64_t rows_max(const struct ds_model *model)
{
    uint64_t most = 1;

    for (uint32_t i = 0; i < model->param_count; i++)
        if (model->params[i].is_factor && model->params[i].local[0] > most)
            most = model->params[i].local[0];
    return most;
}

ds_status trainer_begin_lengths(struct ds_trainer *t)
{
    const struct ds_model *model = t->model;
    float *host;
    ds_status st;

    if (!model->lora.is_dora)
        return DS_OK;
    host = malloc((size_t)rows_max(model) * sizeof *host);
    st = host ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "the lengths of rows");
    DS_TRY_GOTO(st, ds_comm_agreed(t->options.world, st), done);
    for (uint32_t b = 1; b + 1 < model->block_count && st == DS_OK; b++)
        if (t->has_unit[model->blocks[b].units[0]] && has_factors(t, b))
            st = begin_layer(t, &model->blocks[b], host);
    st = ds_comm_agreed(t->options.world, st);
    if (st == DS_OK)
        st = ds_zero_publish(t->zero);
done:
    free(host);
    return st;
}
