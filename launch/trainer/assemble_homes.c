/* assemble_homes.c - where the states of this rank live: which share of each kind is away, in which strips the
 * optimizer goes through a unit, and the streams on which they travel, and what layers keep. */
#include "trainer.h"

#include "config/config.h"

#include <stdlib.h>

static uint32_t count_directories(const struct ds_config *config)
{
    char path[DS_TEXT_MAX];
    uint32_t count = 0;

    while (ds_config_directory(config, count, path))
        count++;
    return count;
}

/* What only the optimizer has. */
static uint32_t host_kinds(const struct ds_config *config)
{
    const int has_master = config->precision.compute != DS_PRECISION_FP32 &&
                           config->precision.master != DS_MASTER_KEY_NONE;

    return 1u << DS_ZERO_EXP_AVG | 1u << DS_ZERO_EXP_AVG_SQ |
           (uint32_t)has_master << DS_ZERO_MASTER;
}

static struct ds_zero_homes homes_of(const struct ds_config *config)
{
    const struct ds_home_key *const keys[DS_ZERO_KIND_COUNT] = {
        [DS_ZERO_PARAM] = &config->offload.params,
        [DS_ZERO_MASTER] = &config->offload.master,
        [DS_ZERO_EXP_AVG] = &config->offload.exp_avg,
        [DS_ZERO_EXP_AVG_SQ] = &config->offload.exp_avg_sq,
        [DS_ZERO_GRAD] = &config->offload.grads};
    const uint64_t elems = config->offload.block_size / sizeof(float);
    struct ds_zero_homes homes = {.strip_elems = elems / DS_ZERO_CUT_ELEMS * DS_ZERO_CUT_ELEMS,
                                  .drive_count = count_directories(config)};

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        homes.home[kind] =
            ds_home_is_away(keys[kind]) ? (enum ds_home)keys[kind]->home : DS_HOME_DEVICE;
        homes.share[kind] = keys[kind]->share;
    }
    if (config->offload.optimizer_compute.home == DS_OPTIMIZER_CPU)
        homes.host_kinds = host_kinds(config);
    homes.host_share = config->offload.optimizer_compute.share;
    return homes;
}

static int is_packed(const struct ds_trainer *t, uint32_t unit)
{
    return t->packs[unit].part_count > 0;
}

/* What this rank updates of a unit: see ds_zero_update_part. Of a packed one what it owns, in twos of bytes. */
static uint64_t updated_elems(const struct ds_trainer *t, uint32_t unit)
{
    const struct ds_comm *shard = ds_mesh_group(t->mesh, DS_GROUP_SHARD);
    const uint64_t twos = (t->packs[unit].bytes + 1) / 2;
    const struct ds_zero_layout layout =
        ds_zero_layout_of(is_packed(t, unit) ? twos : t->model->units[unit].elems, shard->size);

    if (!t->has_unit[unit])
        return 0;
    return t->config->zero.stage == 0 ? layout.full_elems : layout.shard_elems;
}

/* From twos of bytes. */
static void count_in_bytes(struct ds_zero_strips *strips)
{
    strips->elems *= 2;
    strips->strip_elems *= 2;
    strips->host_elems *= 2;
    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        strips->near_elems[kind] *= 2;
}

static int is_tied_across(const struct ds_trainer *t, uint32_t unit)
{
    return t->model->config.tie_word_embeddings && t->config->parallel.pipeline > 1 &&
           unit == t->model->blocks[0].units[0];
}

/* A stream and a thread that reads files must be able to wait for each other. */
static ds_status check_device(const struct ds_trainer *t)
{
    int has_files = t->config->offload.activations.home == DS_HOME_NVME;

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        has_files |= t->homes.home[kind] == DS_HOME_NVME;
    return !has_files || t->device_ops->call || t->device_ops->stream_await
               ? DS_OK
               : ds_fail(DS_ERR_UNSUPPORTED,
                         "offload to nvme: streams of the device %s cannot wait for files",
                         t->device_ops->name);
}

/* Frozen units, or all others, one after another: a share of a kind is one of those that have it. */
static void share_among(struct ds_trainer *t, int is_frozen, struct ds_zero_strips *some)
{
    struct ds_zero_homes homes = t->homes;
    uint32_t count = 0;

    for (int kind = 0; is_frozen && kind < DS_ZERO_KIND_COUNT; kind++)
        if (kind != DS_ZERO_PARAM)
            homes.home[kind] = DS_HOME_DEVICE;
    for (uint32_t unit = 0; unit < t->model->unit_count; unit++)
        if (!t->model->units[unit].is_frozen == !is_frozen)
            some[count++] = t->strips[unit];
    ds_zero_strips_share(&homes, some, count);
    count = 0;
    for (uint32_t unit = 0; unit < t->model->unit_count; unit++)
        if (!t->model->units[unit].is_frozen == !is_frozen)
            t->strips[unit] = some[count++];
}

ds_status trainer_place_states(struct ds_trainer *t)
{
    struct ds_zero_strips *some;

    t->homes = homes_of(t->config);
    DS_TRY(check_device(t));
    some = calloc(t->model->unit_count, sizeof *some);
    t->strips = calloc(t->model->unit_count, sizeof *t->strips);
    if (!t->strips || !some) {
        free(some);
        return ds_fail(DS_ERR_NO_MEMORY, "strips of %u units", t->model->unit_count);
    }
    for (uint32_t unit = 0; unit < t->model->unit_count; unit++)
        t->strips[unit] = (struct ds_zero_strips){.elems = updated_elems(t, unit),
                                                  .strip_elems = t->homes.strip_elems,
                                                  .keeps_gradient = is_tied_across(t, unit)};
    share_among(t, 0, some);
    share_among(t, 1, some);
    for (uint32_t unit = 0; unit < t->model->unit_count; unit++)
        if (is_packed(t, unit))
            count_in_bytes(&t->strips[unit]);
    free(some);
    return DS_OK;
}

static ds_status open_kept(struct ds_trainer *t)
{
    if (t->train_list.home_count == 0)
        return DS_OK;
    DS_TRY(t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->kept_out));
    return t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->kept_in);
}

/* Both directions beside arithmetic; none where nothing travels. */
ds_status trainer_open_travel(struct ds_trainer *t)
{
    DS_TRY(open_kept(t));
    if (t->train_list.slots.strip_count == 0 && t->homes.home[DS_ZERO_PARAM] == DS_HOME_DEVICE)
        return DS_OK;
    DS_TRY(t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->load));
    DS_TRY(t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->store));
    return t->homes.home[DS_ZERO_GRAD] == DS_HOME_HOST
               ? t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->grads)
               : DS_OK;
}
