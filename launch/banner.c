/* banner.c - the first lines of a run: what it computes on, what it trains, how ranks divide the work. */
#include "banner.h"
#include "config/config.h"
#include "console.h"

#include "dstrain/kernels.h"

#include <stdio.h>
#include <string.h>

static void describe_device(struct ds_device *device, int is_deterministic, char *to, size_t bytes)
{
    char name[256];

    snprintf(name, sizeof name, "%s", device->ops->name);
    if (device->ops->describe)
        device->ops->describe(device, name, sizeof name);
    if (device->ops->kernels == &ds_kernels_cpu)
        snprintf(to, bytes, "%s; GEMM: %s", name, ds_kernels_cpu_gemm_name());
    else
        snprintf(to, bytes, "%s%s", name, is_deterministic ? ", deterministic" : "");
}

static const char *value_of(const struct ds_config *config, const char *section, const char *key,
                            char *to, size_t bytes)
{
    ds_field_print(ds_field_find(section, key), config, to, bytes);
    return to;
}

static void describe_schedule(const struct ds_config *config, char *to, size_t bytes)
{
    char name[32];

    value_of(config, "parallel", "schedule", name, sizeof name);
    if (config->parallel.chunks > 1)
        snprintf(to, bytes, "%s, %llu chunks", name, (unsigned long long)config->parallel.chunks);
    else
        snprintf(to, bytes, "%s", name);
}

/* Every key of [precision] that is not its preset; nothing where all are. */
static void describe_precision(const struct ds_config *config, char *to, size_t bytes)
{
    static const char *const keys[] = {"compute",    "master",    "exp_avg",
                                       "exp_avg_sq", "gradients", "reduce"};
    char value[32];
    size_t used = 0;

    to[0] = '\0';
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        value_of(config, "precision", keys[i], value, sizeof value);
        if (strcmp(value, "fp32") != 0 && used < bytes)
            used += (size_t)snprintf(to + used, bytes - used, "%s%s %s", used ? ", " : "", keys[i],
                                     value);
    }
}

static void describe_gathers(const struct ds_config *config, char *to, size_t bytes)
{
    to[0] = '\0';
    if (config->zero.stage != 3 || config->parallel.shard == 1)
        return;
    if (config->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER)
        snprintf(to, bytes, "parameters gathered once a step");
    else if (config->zero.window > 1)
        snprintf(to, bytes, "parameters gathered for %llu micro-batches at a time",
                 (unsigned long long)config->zero.window);
}

static void show(uint32_t rank_count, const struct ds_config *config,
                 const struct ds_trainer *trainer, const uint64_t bytes[2])
{
    const struct ds_model *model = ds_trainer_model(trainer);
    char device[512], text[160], schedule[64], precision[192], gathers[96];

    describe_schedule(config, schedule, sizeof schedule);
    describe_precision(config, precision, sizeof precision);
    describe_gathers(config, gathers, sizeof gathers);
    describe_device(ds_trainer_device(trainer), config->run.deterministic == 1, device,
                    sizeof device);
    snprintf(text, sizeof text, "%s, %llu layer%s, hidden %llu, vocabulary %llu",
             ds_family_name(model->config.family),
             (unsigned long long)model->config.num_hidden_layers,
             model->config.num_hidden_layers == 1 ? "" : "s",
             (unsigned long long)model->config.hidden_size,
             (unsigned long long)model->config.vocab_size);
    ds_console_first_lines(&(struct ds_console_banner){
        .rank_count = rank_count,
        .device = device,
        .model = text,
        .params = model->elems_total,
        .trainable_params = model->elems_trained,
        .data = config->parallel.data,
        .shard = config->parallel.shard,
        .stage = config->zero.stage,
        .tensor = config->parallel.tensor,
        .pipeline = config->parallel.pipeline,
        .schedule = schedule,
        .precision = precision[0] ? precision : NULL,
        .gathered = gathers[0] ? gathers : NULL,
        .global_batch = config->train.global_batch_size,
        .micro_batch = config->train.micro_batch_size,
        .micro_count = ds_trainer_micro_count(trainer),
        .seq_length = config->train.seq_length,
        .steps = config->train.steps,
        .samples = ds_trainer_sample_count(trainer),
        .memory_bytes = bytes[0],
        .process_bytes = bytes[1],
        .dir = config->run.dir,
    });
    if (config->run.deterministic == 0 && strcmp(ds_trainer_device(trainer)->ops->name, "cpu") == 0)
        ds_info("run.deterministic = false: the cpu, which device = %s has taken, is deterministic "
                "all the same",
                config->run.device);
}

ds_status ds_banner_show(struct ds_comm *world, const struct ds_config *config,
                         const struct ds_trainer *trainer)
{
    const uint64_t taken = ds_memory_total(ds_trainer_memory(trainer), DS_MEMORY_DEVICE);
    uint64_t bytes[2] = {
        taken, taken + ds_trainer_overhead(trainer, ds_trainer_device(trainer)->ops->overhead)};

    DS_TRY(ds_comm_all_reduce(world, bytes, 2, DS_U64, DS_REDUCE_MAX, NULL));
    if (world->rank == 0)
        show(world->size, config, trainer, bytes);
    return DS_OK;
}
