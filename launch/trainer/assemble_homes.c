/* assemble_homes.c - where the states of this rank live: which share of each kind is away, in which strips the
 * optimizer goes through a unit, and the streams on which they travel. */
#include "trainer.h"

#include <stdlib.h>

static struct ds_zero_homes homes_of(const struct ds_config *config)
{
    const struct ds_home_key *const keys[DS_ZERO_KIND_COUNT] = {
        [DS_ZERO_PARAM] = &config->offload.params,
        [DS_ZERO_MASTER] = &config->offload.master,
        [DS_ZERO_EXP_AVG] = &config->offload.exp_avg,
        [DS_ZERO_EXP_AVG_SQ] = &config->offload.exp_avg_sq,
        [DS_ZERO_GRAD] = &config->offload.grads};
    const uint64_t elems = config->offload.block_size / sizeof(float);
    struct ds_zero_homes homes = {.strip_elems = elems / DS_ZERO_CUT_ELEMS * DS_ZERO_CUT_ELEMS};

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        homes.home[kind] = (enum ds_home)keys[kind]->home;
        homes.share[kind] = keys[kind]->share;
    }
    return homes;
}

/* What this rank updates of a unit: see ds_zero_update_part. */
static uint64_t updated_elems(const struct ds_trainer *t, uint32_t unit)
{
    const struct ds_comm *shard = ds_mesh_group(t->mesh, DS_GROUP_SHARD);
    const struct ds_zero_layout layout =
        ds_zero_layout_of(t->model->units[unit].elems, shard->size);

    if (!t->has_unit[unit])
        return 0;
    return t->config->zero.stage == 0 ? layout.full_elems : layout.shard_elems;
}

static int is_tied_across(const struct ds_trainer *t, uint32_t unit)
{
    return t->model->config.tie_word_embeddings && t->config->parallel.pipeline > 1 &&
           unit == t->model->blocks[0].units[0];
}

ds_status trainer_place_states(struct ds_trainer *t)
{
    t->homes = homes_of(t->config);
    t->strips = calloc(t->model->unit_count, sizeof *t->strips);
    if (!t->strips)
        return ds_fail(DS_ERR_NO_MEMORY, "strips of %u units", t->model->unit_count);
    for (uint32_t unit = 0; unit < t->model->unit_count; unit++)
        t->strips[unit] = (struct ds_zero_strips){.elems = updated_elems(t, unit),
                                                  .strip_elems = t->homes.strip_elems,
                                                  .keeps_gradient = is_tied_across(t, unit)};
    ds_zero_strips_share(&t->homes, t->strips, t->model->unit_count);
    return DS_OK;
}

/* Both directions beside arithmetic; none where nothing travels. */
ds_status trainer_open_travel(struct ds_trainer *t)
{
    if (t->train_list.slots.strip_count == 0 && t->homes.home[DS_ZERO_PARAM] == DS_HOME_DEVICE)
        return DS_OK;
    DS_TRY(t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->load));
    return t->device_ops->stream_open(t->device, DS_STREAM_WORKER, &t->store);
}
