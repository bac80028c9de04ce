/* assemble.c - a run put together, from the configuration down: devices, mesh, model, the list of a step,
 * units, optimizer, executor, data, weights. Each part is rank-local work that ends in an agreement, or
 * a collective of its own; a failure anywhere leaves all ranks with one status. */
#include "config/config.h"
#include "trainer.h"

#include "dstrain/accounts.h"
#include "tuning.h"

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

/* ---- mesh */

struct ds_mesh_shape ds_trainer_mesh_shape(const struct ds_config *config)
{
    struct ds_mesh_shape shape = {.size = {1, 1, 1, 1, 1, 1}};

    shape.size[DS_AXIS_SHARD] = (uint32_t)config->parallel.shard;
    shape.size[DS_AXIS_REPLICA] = (uint32_t)(config->parallel.data / config->parallel.shard);
    shape.size[DS_AXIS_PP] = (uint32_t)config->parallel.pipeline;
    shape.size[DS_AXIS_TP] = (uint32_t)config->parallel.tensor;
    return shape;
}

/* Where this rank stands is arithmetic; the model needs it before there are groups. */
static void find_place(struct ds_trainer *t)
{
    t->mesh_shape = ds_trainer_mesh_shape(t->config);
    t->place = ds_mesh_place_of(&t->mesh_shape, t->options.world->rank);
    ds_mesh_data_share(&t->mesh_shape, t->options.world->rank, &t->share, &t->share_count);
}

#define GROUPS                                                                                    \
    (1u << DS_GROUP_SHARD | 1u << DS_GROUP_REPLICA | 1u << DS_GROUP_TP | 1u << DS_GROUP_TP_GRAD | \
     1u << DS_GROUP_COPIES | 1u << DS_GROUP_PP | 1u << DS_GROUP_EMBED)

static ds_status open_mesh(struct ds_trainer *t)
{
    char key[DS_KEY_BYTES];

    DS_TRY(ds_mesh_open(t->options.world, &t->mesh_shape, GROUPS,
                        ds_config_key(t->config, "parallel", "transport", key),
                        (enum ds_transport)t->config->parallel.transport, t->device->ops->comm,
                        &t->mesh));
    t->shard_rank = ds_mesh_index(&t->mesh_shape, DS_GROUP_SHARD, t->options.world->rank);
    return DS_OK;
}

/* Groups of one rank have nothing to open. */
uint64_t ds_trainer_overhead(const struct ds_trainer *t, const struct ds_device_overhead *overhead)
{
    uint64_t group_count = 0;

    if (!overhead)
        return 0;
    for (int group = 0; group < DS_GROUP_COUNT; group++)
        if (GROUPS & 1u << group)
            group_count += ds_mesh_group(t->mesh, (enum ds_group)group)->size > 1;
    return overhead->library_bytes + overhead->scratch_bytes + overhead->group_bytes * group_count +
           (group_count > 0 ? overhead->first_group_bytes : 0) +
           ds_memory_page_rest(&t->memory, overhead->page_bytes) +
           (overhead->pinned_per_byte > 0
                ? ds_memory_total(&t->memory, DS_MEMORY_PINNED) / overhead->pinned_per_byte
                : 0);
}

/* Collectives run beside arithmetic on a worker where every group that is not inside arithmetic allows
 * it. */
static ds_status open_comm_stream(struct ds_trainer *t)
{
    const enum ds_group used[] = {DS_GROUP_SHARD,  DS_GROUP_REPLICA, DS_GROUP_TP_GRAD,
                                  DS_GROUP_COPIES, DS_GROUP_PP,      DS_GROUP_EMBED};
    uint32_t caps = DS_COMM_CAP_WORKER;

    for (size_t i = 0; i < sizeof used / sizeof *used; i++) {
        const struct ds_comm *group = ds_mesh_group(t->mesh, used[i]);
        if (group->size > 1)
            caps &= group->ops->caps;
    }
    return t->device->ops->stream_open(t->device, caps & DS_COMM_CAP_WORKER ? DS_STREAM_WORKER : 0,
                                       &t->comm);
}

/* In stage 0 of several ranks gradients come together where they are updated. */
static ds_status open_updates_stream(struct ds_trainer *t)
{
    const int is_whole =
        t->config->zero.stage == 0 && ds_mesh_group(t->mesh, DS_GROUP_SHARD)->size > 1;

    if (t->train_list.updates != DS_UPDATES_LATE || is_whole)
        return DS_OK;
    return t->device->ops->stream_open(t->device, 0, &t->updates);
}

/* Of tensor ranks, inside the blocks of a step. */
static uint32_t count_collectives(const struct ds_trainer *t)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < t->train_list.action_count && t->model->share.tp_size > 1; i++) {
        const struct ds_action *action = &t->train_list.actions[i];
        const struct ds_block *block = &t->model->blocks[action->block];
        if (ds_action_is_arithmetic(action->kind) && block->ops->collective_count)
            count += block->ops->collective_count(block, t->tokens_per_micro);
    }
    return count;
}

static ds_status open_timeline(struct ds_trainer *t)
{
    const struct ds_timeline_options options = {
        .streams = {[DS_TIMELINE_COMPUTE] = t->compute,
                    [DS_TIMELINE_COMM] = t->comm,
                    [DS_TIMELINE_UPDATES] = t->updates,
                    [DS_TIMELINE_LOAD] = t->load,
                    [DS_TIMELINE_KEPT_OUT] = t->kept_out,
                    [DS_TIMELINE_KEPT_IN] = t->kept_in},
        .memory = &t->memory,
        .action_count = t->train_list.action_count,
        .collective_count = count_collectives(t),
    };

    return is_training(t) ? ds_timeline_open(&options, &t->timeline) : DS_OK;
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
        .comm = t->comm,
        .updates = t->updates,
        .kept_out = t->kept_out,
        .kept_in = t->kept_in,
        .kept_drives =
            t->config->offload.activations.home == DS_HOME_NVME ? t->homes.drive_count : 0,
        .kept_block_bytes = t->homes.strip_elems * sizeof(float),
        .tensor = ds_mesh_group(t->mesh, DS_GROUP_TP),
        .pipeline = ds_mesh_group(t->mesh, DS_GROUP_PP),
        .memory = &t->memory,
        .recorder = t->options.recorder,
        .timeline = t->timeline,
        .tokens_per_micro = t->tokens_per_micro,
        .seq_length = t->config->train.seq_length,
        .plan = trainer_plan(t),
        .is_training = is_training(t),
        .registers = t->config->parallel.gather != DS_GATHER_KERNEL,
    };

    return ds_executor_open(&options, &t->executor);
}

static void beat(void *user)
{
    struct ds_trainer *t = user;

    if (t->options.recorder)
        ds_recorder_beat(t->options.recorder);
}

/* One rank compares and speaks, before all read. */
static ds_status check_tied(struct ds_trainer *t)
{
    return t->weights && t->options.world->rank == 0 ? ds_hf_check_tied(t->weights, t->model)
                                                     : DS_OK;
}

/* Of what several ranks have, one counts. */
static void count_units(const struct ds_trainer *t, uint8_t *counts)
{
    for (uint32_t u = 0; u < t->model->unit_count; u++)
        counts[u] = t->has_unit[u] && t->model->units[u].is_frozen &&
                    t->place.at[DS_AXIS_REPLICA] == 0 &&
                    t->stage_of_unit[u] == t->place.at[DS_AXIS_PP];
}

static ds_status fill_base(struct ds_trainer *t, const struct ds_hf_target *target)
{
    return t->weights ? ds_hf_load(t->weights, target) : ds_hf_init(target, t->config->run.seed);
}

static ds_status fill_weights(struct ds_trainer *t)
{
    struct ds_hf_target target = {.model = t->model,
                                  .zero = t->zero,
                                  .shard_rank = t->shard_rank,
                                  .beat = beat,
                                  .user = t,
                                  .packs = t->packs};
    uint8_t *counts;
    ds_status st;

    if (!ds_model_is_adapted(t->model))
        return fill_base(t, &target);
    counts = calloc(t->model->unit_count, 1);
    if (!counts)
        return ds_fail(DS_ERR_NO_MEMORY, "to fill %u units", t->model->unit_count);
    count_units(t, counts);
    t->beside = (struct ds_hf_base){.dtype = ds_hf_dtype(t->weights)};
    target.sum = &t->beside.sum;
    target.counts_unit = counts;
    st = fill_base(t, &target);
    target.sum = NULL;
    free(counts);
    return st == DS_OK ? trainer_fill_factors(t, &target) : st;
}

/* Stages meet once, all at the same place: NCCL connects two ranks at their first messages, and must find the
 * same ones on both sides, which the messages of a step are not. */
static ds_status meet_neighbours(struct ds_trainer *t)
{
    struct ds_comm *pipeline = ds_mesh_group(t->mesh, DS_GROUP_PP);
    const uint32_t size = pipeline->size, rank = pipeline->rank;
    const uint32_t peers[2] = {(rank + 1) % size, (rank + size - 1) % size};
    const uint32_t peer_count = size > 2 ? 2 : size - 1;
    struct ds_message messages[4];
    uint32_t count = 0;

    for (uint32_t i = 0; i < peer_count; i++) {
        messages[count++] = (struct ds_message){.peer = peers[i], .is_send = 1};
        messages[count++] = (struct ds_message){.peer = peers[i]};
    }
    DS_TRY(ds_comm_exchange(pipeline, messages, count, t->comm));
    return t->device->ops->stream_sync(t->comm);
}

/* ---- the picture, as a list of calls */

static ds_status take_all(struct ds_trainer *t)
{
    DS_TRY(open_comm_stream(t));
    DS_TRY(trainer_describe_packs(t));
    DS_TRY(trainer_place_states(t));
    DS_TRY(trainer_make_lists(t));
    DS_TRY(trainer_open_travel(t));
    DS_TRY(open_updates_stream(t));
    DS_TRY(open_timeline(t));
    DS_TRY(trainer_open_zero(t));
    DS_TRY(trainer_open_optim(t));
    DS_TRY(trainer_take_batches(t));
    DS_TRY(open_executor(t));
    return trainer_open_saver(t);
}

/* An evaluation keeps a pipeline busy with several micro-batches at once, in the memory of a step. */
static void count_batches(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;
    const uint64_t stages = config->parallel.pipeline;
    const uint64_t busy = stages > 1 ? 4 * stages : 1;

    t->micro_count = is_training(t) ? config->train.global_batch_size /
                                          (config->train.micro_batch_size * config->parallel.data)
                                    : busy;
    t->eval_micro_count = t->micro_count < busy ? t->micro_count : busy;
    t->tokens_per_micro = config->train.micro_batch_size * config->train.seq_length;
    t->batch_ints = t->micro_count * t->tokens_per_micro;
}

/* Where the time to the first step goes. A plan is no start. */
void trainer_tell_start(struct ds_trainer *t, const char *part)
{
    if (!is_plan(t))
        ds_clock_tell_start(t->options.clock, part, &t->started_ns);
}

/* A folder's adapter says itself what it was trained beside, if we have written it. */
static ds_status check_base(struct ds_trainer *t)
{
    return t->factors && t->options.world->rank == 0
               ? ds_hf_check_base(t->factors, t->config->model.path, &t->beside)
               : DS_OK;
}

static ds_status begin_with_weights(struct ds_trainer *t)
{
    DS_TRY(trainer_together(t, check_tied));
    DS_TRY(trainer_together(t, fill_weights));
    DS_TRY(ds_comm_all_reduce(t->options.world, &t->beside.sum, 1, DS_U64, DS_REDUCE_SUM, NULL));
    DS_TRY(trainer_together(t, check_base));
    return ds_zero_publish(t->zero);
}

/* What a run begins with: a checkpoint or weights. Its directory hears of it behind all that may be refused. */
static ds_status load_state(struct ds_trainer *t)
{
    int is_resumed = 0;

    if (ds_model_is_adapted(t->model)) /* a checkpoint does not hold what is frozen */
        DS_TRY(begin_with_weights(t));
    DS_TRY(trainer_resume(t, &is_resumed));
    if (!is_resumed && !ds_model_is_adapted(t->model))
        DS_TRY(begin_with_weights(t));
    if (!is_resumed && !t->factors) /* a folder's adapter has its own */
        DS_TRY(trainer_begin_lengths(t));
    ds_hf_close(t->weights);
    ds_hf_close(t->factors);
    t->weights = t->factors = NULL;
    trainer_tell_start(t, is_resumed ? "checkpoint" : "weights");
    return trainer_start_saver(t, 1);
}

/* A launch that is refused before its epoch has begun leaves the run's directories as they were. */
static ds_status begin(struct ds_trainer *t)
{
    const ds_status st = load_state(t);

    if (st != DS_OK)
        trainer_withdraw(t);
    DS_TRY(st);
    return tuning_recall(&(struct tuning){t->device, t->options.world, t->options.fs});
}

ds_status trainer_assemble(struct ds_trainer *t)
{
    t->started_ns = ds_clock_mono_ns(t->options.clock);
    find_place(t);
    count_batches(t);
    DS_TRY(trainer_open_device(t));
    ds_memory_init(&t->memory, t->device);
    trainer_tell_start(t, "device");
    DS_TRY(trainer_leader_first(t, trainer_open_model));
    DS_TRY(open_mesh(t));
    trainer_tell_start(t, "model and groups");
    DS_TRY(trainer_open_data(t));
    trainer_tell_start(t, "data");
    DS_TRY(trainer_leader_first(t, take_all)); /* what does not fit one will not fit the others */
    if (is_plan(t))
        return DS_OK;
    DS_TRY(trainer_open_files(t));
    if (t->optim)
        DS_TRY(ds_optim_start(t->optim));
    DS_TRY(meet_neighbours(t));
    DS_TRY(ds_zero_register(t->zero));
    DS_TRY(ds_executor_register(t->executor));
    trainer_tell_start(t, "memory");
    return begin(t);
}

void trainer_dismantle(struct ds_trainer *t)
{
    ds_saver_close(t->saver); /* its thread reads what the rest takes away */
    ds_exporter_close(t->exporter);
    ds_checkpoint_dir_close(t->checkpoint_dir);
    ds_manifest_fini(&t->loaded);
    ds_loader_close(t->train_loader);
    ds_loader_close(t->eval_loader);
    ds_dataset_close(t->train_data);
    ds_dataset_close(t->eval_data);
    ds_hf_close(t->weights);
    ds_hf_close(t->factors);
    ds_zero_abandon_files(t->zero);
    ds_executor_abandon_files(t->executor);
    ds_optim_abandon(t->optim);
    if (t->comm)
        t->device->ops->stream_close(t->comm);
    if (t->updates)
        t->device->ops->stream_close(t->updates);
    if (t->load)
        t->device->ops->stream_close(t->load);
    if (t->store)
        t->device->ops->stream_close(t->store);
    if (t->grads)
        t->device->ops->stream_close(t->grads);
    if (t->kept_out)
        t->device->ops->stream_close(t->kept_out);
    if (t->kept_in)
        t->device->ops->stream_close(t->kept_in);
    if (t->compute)
        t->device->ops->stream_close(t->compute);
    ds_executor_close(t->executor);
    ds_optim_close(t->optim);
    ds_zero_close(t->zero);
    trainer_close_files(t);
    ds_timeline_close(t->timeline);
    ds_mesh_close(t->mesh);
    trainer_free_packs(t);
    ds_model_close(t->model);
    ds_lora_fini(&t->adapter);
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
    free(t->sums);
    free(t->foreign);
    free(t->strips);
    free(t->chunk_first);
    free(t->has_unit);
    free(t->stage_of_unit);
    free(t->catalogue.tensors);
    free(t->state_pieces);
    free(t->unit_param_counts);
    free(t->saves_unit);
}
