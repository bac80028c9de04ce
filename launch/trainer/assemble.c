/* assemble.c - a run put together, from the configuration down: devices, mesh, model, the list of a step,
 * units, optimizer, executor, data, weights. Each part is rank-local work that ends in an agreement, or
 * a collective of its own; a failure anywhere leaves all ranks with one status. */
#include "trainer.h"

#include <stdlib.h>
#include <string.h>

ds_status trainer_leader_first(struct ds_trainer *t, trainer_step_fn *work)
{
    struct ds_comm *world = t->options.world;

    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? work(t) : DS_OK));
    return ds_comm_agreed(world, world->rank == 0 ? DS_OK : work(t));
}

ds_status trainer_together(struct ds_trainer *t, trainer_step_fn *work)
{
    return ds_comm_agreed(t->options.world, work(t));
}

/* ---- device and mesh */

static ds_status open_device(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;
    const struct ds_device_options options = {
        .mode = (enum ds_device_mode)config->run.cpu_streams,
        .seed = config->run.seed + t->options.world->rank,
        .thread_count =
            t->options.thread_count ? t->options.thread_count : (int)config->run.threads,
        .clock = t->options.clock,
    };
    const struct ds_device_ops *ops = t->options.device;

    if (!ops)
        DS_TRY(ds_device_find(config->run.device, &ops));
    DS_TRY(ops->open(0, &options, &t->device));
    DS_TRY(ops->event_open(t->device, &t->event));
    return ops->stream_open(t->device, 0, &t->compute);
}

static struct ds_mesh_shape mesh_shape(const struct ds_config *config)
{
    struct ds_mesh_shape shape = {.size = {1, 1, 1, 1, 1, 1}};

    shape.size[DS_AXIS_SHARD] = (uint32_t)config->parallel.shard;
    shape.size[DS_AXIS_REPLICA] = (uint32_t)(config->parallel.data / config->parallel.shard);
    return shape;
}

static ds_status open_mesh(struct ds_trainer *t)
{
    const uint32_t groups = 1u << DS_GROUP_SHARD | 1u << DS_GROUP_REPLICA;
    const struct ds_mesh_shape shape = mesh_shape(t->config);
    const uint32_t rank = t->options.world->rank;

    DS_TRY(ds_mesh_open(t->options.world, &shape, groups,
                        (enum ds_transport)t->config->parallel.transport, &t->mesh));
    ds_mesh_data_share(&shape, rank, &t->share, &t->share_count);
    t->shard_rank = ds_mesh_index(&shape, DS_GROUP_SHARD, rank);
    return DS_OK;
}

/* Collectives run beside arithmetic on a worker where every group allows it. */
static ds_status open_comm_stream(struct ds_trainer *t)
{
    uint32_t caps = DS_COMM_CAP_WORKER;
    const enum ds_group used[] = {DS_GROUP_SHARD, DS_GROUP_REPLICA};

    for (size_t i = 0; i < sizeof used / sizeof *used; i++) {
        const struct ds_comm *group = ds_mesh_group(t->mesh, used[i]);
        if (group->size > 1)
            caps &= group->ops->caps;
    }
    return t->device->ops->stream_open(t->device, caps & DS_COMM_CAP_WORKER ? DS_STREAM_WORKER : 0,
                                       &t->comm);
}

/* ---- model */

static void config_from_keys(const struct ds_config *config, struct ds_model_config *out)
{
    const uint64_t heads = config->model.num_attention_heads;

    ds_model_config_default((enum ds_family)config->model.family, out);
    out->vocab_size = config->model.vocab_size;
    out->hidden_size = config->model.hidden_size;
    out->intermediate_size = config->model.intermediate_size;
    out->num_hidden_layers = config->model.num_hidden_layers;
    out->num_attention_heads = heads;
    out->num_key_value_heads =
        config->model.num_key_value_heads ? config->model.num_key_value_heads : heads;
    out->head_dim =
        config->model.head_dim ? config->model.head_dim : config->model.hidden_size / heads;
    out->max_position_embeddings = config->model.max_position_embeddings
                                       ? config->model.max_position_embeddings
                                       : config->train.seq_length;
    out->rms_norm_eps = config->model.rms_norm_eps;
    out->initializer_range = config->model.initializer_range;
    out->rope.theta = config->model.rope_theta;
    out->tie_word_embeddings = config->model.tie_word_embeddings;
    if (!out->vocab_size) {
        out->vocab_size = DS_BYTE_VOCAB;
        out->bos_token_id = DS_BYTE_BOS;
        out->eos_token_id = DS_BYTE_EOS;
        out->pad_token_id = DS_BYTE_PAD;
    }
}

static ds_status open_model(struct ds_trainer *t)
{
    const char *path = t->config->model.path;
    struct ds_model_config model;

    if (path[0]) {
        DS_TRY(ds_hf_read_config(t->options.fs, path, &model));
    } else {
        config_from_keys(t->config, &model);
        if (ds_model_config_check("[model]", &model) != DS_OK)
            return DS_ERR_CONFIG; /* of the keys, not of a folder's config.json */
    }
    DS_TRY(ds_model_open(&model, NULL, &t->model));
    t->model->keeps = t->config->train.activation_checkpointing == DS_RECOMPUTE_SELECTIVE
                          ? DS_KEEPS_PRODUCTS
                          : DS_KEEPS_ALL;
    if (!path[0])
        return DS_OK;
    if (t->config->train.seq_length > model.max_position_embeddings)
        return ds_fail(
            DS_ERR_CONFIG,
            "train.seq_length = %llu is more than the model's max_position_embeddings = %llu "
            "(%s/config.json)",
            (unsigned long long)t->config->train.seq_length,
            (unsigned long long)model.max_position_embeddings, path);
    if (t->options.mode == DS_TRAINER_PLAN)
        return DS_OK;
    DS_TRY(ds_hf_open(t->options.fs, path, &t->weights));
    return ds_hf_check(t->weights, t->model);
}

/* ---- the lists of a step, and the units they move */

static ds_status make_lists(struct ds_trainer *t)
{
    struct ds_schedule_block *blocks = calloc(t->model->block_count, sizeof *blocks);
    uint64_t *elems = calloc(t->model->unit_count, sizeof *elems);
    struct ds_schedule_shape shape = {.blocks = blocks,
                                      .block_count = t->model->block_count,
                                      .unit_cost = elems,
                                      .unit_count = t->model->unit_count,
                                      .micro_count = (uint32_t)t->micro_count,
                                      .zero_stage = (uint32_t)t->config->zero.stage,
                                      .is_training = is_training(t),
                                      .stage_count = 1,
                                      .chunk_count = 1,
                                      .chunk_first = (uint32_t[]){0, t->model->block_count},
                                      .tied_unit = DS_NO_UNIT,
                                      .window = 1,
                                      .recomputes = t->config->train.activation_checkpointing ==
                                                    DS_RECOMPUTE_FULL};
    ds_status st = DS_OK;

    if (!blocks || !elems)
        st = ds_fail(DS_ERR_NO_MEMORY, "the lists of a step");
    for (uint32_t b = 0; st == DS_OK && b < shape.block_count; b++) {
        blocks[b].unit_count = t->model->blocks[b].unit_count;
        memcpy(blocks[b].units, t->model->blocks[b].units, sizeof blocks[b].units);
    }
    for (uint32_t u = 0; st == DS_OK && u < shape.unit_count; u++)
        elems[u] = t->model->units[u].elems;
    if (st == DS_OK && is_training(t))
        st = ds_schedule_make(&shape, &t->train_list);
    if (st == DS_OK) {
        shape.like = is_training(t) ? &t->train_list : NULL;
        shape.is_training = 0;
        shape.micro_count = 1;
        st = ds_schedule_make(&shape, &t->eval_list);
    }
    free(blocks);
    free(elems);
    return st;
}

static const struct ds_schedule *plan_of(const struct ds_trainer *t)
{
    return is_training(t) ? &t->train_list : &t->eval_list;
}

static ds_status describe_units(struct ds_trainer *t)
{
    const struct ds_model *model = t->model;

    t->unit_specs = calloc(model->unit_count, sizeof *t->unit_specs);
    t->param_spans = calloc(model->param_count, sizeof *t->param_spans);
    t->ranges = calloc(model->param_count, sizeof *t->ranges);
    if (!t->unit_specs || !t->param_spans || !t->ranges)
        return ds_fail(DS_ERR_NO_MEMORY, "%u parameters", model->param_count);
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        const int decays = t->config->optimizer.weight_decay_on == DS_DECAY_ALL || param->is_matrix;
        t->param_spans[i] = (struct ds_span){param->offset, param->elems};
        t->ranges[i] = (struct ds_optim_range){
            t->param_spans[i], decays ? (float)t->config->optimizer.weight_decay : 0.0f, i};
    }
    for (uint32_t u = 0; u < model->unit_count; u++)
        t->unit_specs[u] = (struct ds_zero_unit_spec){
            .elems = model->units[u].elems,
            .slot_class = plan_of(t)->slot_class[u],
            .params = &t->param_spans[model->units[u].param_start],
            .param_count = model->units[u].param_count,
        };
    return DS_OK;
}

static ds_status open_timeline(struct ds_trainer *t)
{
    const struct ds_timeline_options options = {
        .streams = {[DS_TIMELINE_COMPUTE] = t->compute, [DS_TIMELINE_COMM] = t->comm},
        .memory = &t->memory,
        .action_count = t->train_list.action_count,
    };

    return is_training(t) ? ds_timeline_open(&options, &t->timeline) : DS_OK;
}

static ds_status open_zero(struct ds_trainer *t)
{
    DS_TRY(describe_units(t));
    const struct ds_zero_options options = {
        .stage = (uint32_t)t->config->zero.stage,
        .dtypes = ds_zero_dtypes_fp32(),
        .units = t->unit_specs,
        .unit_count = t->model->unit_count,
        .slots = plan_of(t)->slots,
        .is_training = is_training(t),
        .shard = ds_mesh_group(t->mesh, DS_GROUP_SHARD),
        .replica = ds_mesh_group(t->mesh, DS_GROUP_REPLICA),
        .device = t->device,
        .compute = t->compute,
        .comm = t->comm,
        .memory = &t->memory,
        .timeline = t->timeline,
    };

    return ds_zero_open(&options, &t->zero);
}

static ds_status open_optim(struct ds_trainer *t)
{
    const uint32_t units = t->model->unit_count;
    const struct ds_optim_range **ranges = calloc(units, sizeof *ranges);
    uint32_t *counts = calloc(units, sizeof *counts);
    const struct ds_config *config = t->config;
    ds_status st;

    if (!is_training(t) || !ranges || !counts) {
        st = is_training(t) ? ds_fail(DS_ERR_NO_MEMORY, "the optimizer's ranges") : DS_OK;
        goto done;
    }
    for (uint32_t u = 0; u < units; u++) {
        ranges[u] = &t->ranges[t->model->units[u].param_start];
        counts[u] = t->model->units[u].param_count;
    }
    st = ds_optim_open(&(struct ds_optim_options){.beta1 = (float)config->optimizer.beta1,
                                                  .beta2 = (float)config->optimizer.beta2,
                                                  .epsilon = (float)config->optimizer.eps,
                                                  .grad_clip = (float)config->train.grad_clip,
                                                  .ranges = ranges,
                                                  .range_counts = counts,
                                                  .unit_count = units,
                                                  .seed = config->run.seed,
                                                  .zero = t->zero,
                                                  .compute = t->compute,
                                                  .kernels = t->device->ops->kernels,
                                                  .memory = &t->memory},
                       &t->optim);
    t->lr = (struct ds_lr_schedule){
        (enum ds_lr_kind)config->schedule.kind, config->optimizer.learning_rate,
        config->schedule.min_learning_rate,     config->schedule.warmup_steps,
        config->schedule.decay_steps,           config->train.steps};
done:
    free(ranges);
    free(counts);
    return st;
}

/* ---- what crosses between host and device */

static ds_status take_exchange(struct ds_trainer *t, struct trainer_exchange *exchange)
{
    struct ds_memory *m = &t->memory;
    const size_t record = sizeof *exchange->record;
    void *at[3];

    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, record, &at[0]));
    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING, record, &at[1]));
    DS_TRY(ds_memory_take(m, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                          (size_t)t->batch_ints * 4 * sizeof(int32_t), &at[2]));
    exchange->record = at[0];
    exchange->result = at[1];
    exchange->batch = at[2];
    return t->device->ops->event_open(t->device, &exchange->done);
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

static ds_status take_batches(struct ds_trainer *t)
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

static ds_status open_executor(struct ds_trainer *t)
{
    const struct ds_executor_options options = {
        .model = t->model,
        .zero = t->zero,
        .optim = t->optim,
        .batches = t->batches,
        .record = t->record,
        .rotary = t->rotary,
        .device = t->device,
        .compute = t->compute,
        .memory = &t->memory,
        .recorder = t->options.recorder,
        .timeline = t->timeline,
        .tokens_per_micro = t->tokens_per_micro,
        .seq_length = t->config->train.seq_length,
        .plan = plan_of(t),
        .is_training = is_training(t),
    };

    return ds_executor_open(&options, &t->executor);
}

static void beat(void *user)
{
    struct ds_trainer *t = user;

    if (t->options.recorder)
        ds_recorder_beat(t->options.recorder);
}

static ds_status fill_weights(struct ds_trainer *t)
{
    const struct ds_hf_target target = {t->model, t->zero, t->shard_rank, beat, t};

    return t->weights ? ds_hf_load(t->weights, &target) : ds_hf_init(&target, t->config->run.seed);
}

/* ---- the picture, as a list of calls */

static ds_status take_all(struct ds_trainer *t)
{
    DS_TRY(open_comm_stream(t));
    DS_TRY(make_lists(t));
    DS_TRY(open_timeline(t));
    DS_TRY(open_zero(t));
    DS_TRY(open_optim(t));
    DS_TRY(take_batches(t));
    return open_executor(t);
}

/* Keys whose parts are not joined up yet must not be taken for obeyed. */
static ds_status is_joined(struct ds_trainer *t)
{
    const struct ds_config *c = t->config;

    if (c->parallel.tensor > 1 || c->parallel.pipeline > 1 || c->precision.compute ||
        c->precision.exp_avg || c->precision.exp_avg_sq || c->precision.gradients ||
        c->precision.reduce || c->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER ||
        c->zero.window > 1)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "[parallel] tensor, pipeline, [precision], [zero] reshard_after_forward and "
                       "window are not available yet");
    return DS_OK;
}

ds_status trainer_assemble(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;

    t->data_size = (uint32_t)config->parallel.data;
    t->micro_count = is_training(t) ? config->train.global_batch_size /
                                          (config->train.micro_batch_size * config->parallel.data)
                                    : 1;
    t->tokens_per_micro = config->train.micro_batch_size * config->train.seq_length;
    t->batch_ints = t->micro_count * t->tokens_per_micro;

    DS_TRY(trainer_leader_first(t, is_joined));
    DS_TRY(trainer_leader_first(t, open_device));
    ds_memory_init(&t->memory, t->device);
    DS_TRY(open_mesh(t));
    DS_TRY(trainer_leader_first(t, open_model));
    DS_TRY(trainer_open_data(t));
    DS_TRY(trainer_leader_first(t, take_all)); /* what does not fit one will not fit the others */
    if (t->options.mode == DS_TRAINER_PLAN)
        return DS_OK;
    DS_TRY(trainer_together(t, fill_weights));
    ds_hf_close(t->weights);
    t->weights = NULL;
    return ds_zero_publish(t->zero);
}

void trainer_dismantle(struct ds_trainer *t)
{
    ds_loader_close(t->train_loader);
    ds_loader_close(t->eval_loader);
    ds_dataset_close(t->train_data);
    ds_dataset_close(t->eval_data);
    ds_hf_close(t->weights);
    if (t->comm)
        t->device->ops->stream_close(t->comm);
    if (t->compute)
        t->device->ops->stream_close(t->compute);
    ds_executor_close(t->executor);
    ds_optim_close(t->optim);
    ds_zero_close(t->zero);
    ds_timeline_close(t->timeline);
    ds_mesh_close(t->mesh);
    ds_model_close(t->model);
    ds_schedule_fini(&t->train_list);
    ds_schedule_fini(&t->eval_list);
    for (int i = 0; i < 2; i++)
        if (t->exchanges[i].done)
            t->device->ops->event_close(t->exchanges[i].done);
    if (t->event)
        t->device->ops->event_close(t->event);
    if (t->memory.device)
        ds_memory_fini(&t->memory);
    if (t->device)
        t->device->ops->close(t->device);
    free(t->batches);
    free(t->unit_specs);
    free(t->param_spans);
    free(t->ranges);
}
