/* assemble_device.c - which device each rank computes on. The ranks of a host take its devices in turn; then
 * all compare what they have: two on one GPU would be slow and nobody would know, and a host without GPUs
 * would go its own way. */
#include "config/config.h"
#include "devices.h"
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>

static ds_status find_device(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;
    char key[DS_KEY_BYTES];
    int count;

    t->device_ops = t->options.device;
    if (!t->device_ops)
        DS_TRY(ds_device_find(ds_config_key(config, "run", "device", key), config->run.device,
                              &t->device_ops));
    if (config->run.graphs && !t->device_ops->capture_begin && t->options.mode != DS_TRAINER_PLAN)
        return ds_fail(DS_ERR_CONFIG,
                       "%s = true, but the device is %s, which has no graphs; leave it out",
                       ds_config_key(config, "run", "graphs", key), t->device_ops->name);
    count = t->device_ops->count();
    t->device_index = count > 0 ? (int)(t->options.local_rank % (uint32_t)count) : 0;
    return DS_OK;
}

static ds_status describe_choice(struct ds_trainer *t, struct device_choice *choice)
{
    snprintf(choice->device, sizeof choice->device, "%s", t->device_ops->name);
    return t->device_ops->identity ? t->device_ops->identity(t->device_index, &choice->identity)
                                   : DS_OK;
}

/* All see the same table; rank 0 speaks. */
static ds_status judge(struct ds_trainer *t, const struct device_choice *choices)
{
    const struct ds_comm *world = t->options.world;
    const struct ds_config *config = t->config;
    char why[512];

    t->sharer_count = device_sharers(choices, world->size, world->rank);
    if (device_choices_fit(choices, world->size, config->run.device, config->run.share_device, why,
                           sizeof why))
        return DS_OK;
    return world->rank == 0 ? ds_fail(DS_ERR_CONFIG, "%s", why) : DS_ERR_CONFIG;
}

static ds_status compare_choices(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;
    struct device_choice own = {0}, *all = calloc(world->size, sizeof *all);
    ds_status st = all ? describe_choice(t, &own) : ds_fail(DS_ERR_NO_MEMORY, "a table of ranks");

    st = ds_comm_agreed(world, st);
    if (st == DS_OK)
        st = ds_comm_all_gather(world, &own, all, sizeof own, DS_U8, NULL);
    if (st == DS_OK)
        st = judge(t, all);
    free(all);
    return st;
}

int trainer_threads(const struct ds_trainer *t)
{
    return t->options.thread_count ? t->options.thread_count : (int)t->config->run.threads;
}

/* Half of what any rank waits for another: all have the same shapes to time, but not at the same moment. */
static uint64_t tuning_ns(const struct ds_config *config)
{
    return config->run.tuning == DS_TUNING_LOAD ? (uint64_t)(config->run.deadline * 0.5e9) : 0;
}

static ds_status open_device(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;
    const struct ds_device_options options = {
        .mode = (enum ds_device_mode)config->run.cpu_streams,
        .seed = config->run.seed + t->options.world->rank,
        .thread_count = trainer_threads(t),
        .deterministic = config->run.deterministic == 1, /* auto: the cpu is, others are not */
        .rank = t->options.world->rank,
        .sharer_count = t->sharer_count,
        .nvlink_multicast = config->parallel.nvlink_multicast,
        .tuning_ns = tuning_ns(config),
        .copy_engines = config->parallel.gather == DS_GATHER_COPY_ENGINE,
        .clock = t->options.clock,
    };

    DS_TRY(t->device_ops->open(t->device_index, &options, &t->device));
    DS_TRY(t->device_ops->event_open(t->device, &t->event));
    return t->device_ops->stream_open(t->device, 0, &t->compute);
}

ds_status trainer_open_device(struct ds_trainer *t)
{
    DS_TRY(trainer_leader_first(t, find_device));
    if (t->options.mode != DS_TRAINER_PLAN) /* its other ranks are not there */
        DS_TRY(compare_choices(t));
    return trainer_leader_first(t, open_device);
}
