/* states.c - tensors of a run, pieces of a rank. */
#include "dstrain/states.h"

#include <stdlib.h>
#include <string.h>

#define KINDS_MAX 3

struct kind {
    enum ds_state_kind kind;
    enum ds_dtype dtype;
};

/* What is kept of a parameter; returns how many: nothing of one that is frozen, which a run begins with again. */
static uint32_t kinds_of(const struct ds_param *param, const struct ds_zero_dtypes *dtypes,
                         struct kind kinds[KINDS_MAX])
{
    const int has_master = dtypes->param == DS_F32 || dtypes->master != DS_MASTER_NONE;

    kinds[0] = has_master ? (struct kind){DS_STATE_KIND_MASTER, DS_F32}
                          : (struct kind){DS_STATE_KIND_PARAM, dtypes->param};
    kinds[1] = (struct kind){DS_STATE_KIND_EXP_AVG, dtypes->exp_avg};
    kinds[2] = (struct kind){DS_STATE_KIND_EXP_AVG_SQ, dtypes->exp_avg_sq};
    return param->is_trainable ? KINDS_MAX : 0;
}

static struct ds_logical_tensor tensor_of(const struct ds_param *param, const struct kind *kind)
{
    struct ds_logical_tensor tensor = {
        .kind = kind->kind, .dtype = kind->dtype, .dim_count = param->dim_count};

    memcpy(tensor.name, param->name, sizeof param->name);
    memcpy(tensor.shape, param->shape, sizeof param->shape);
    return tensor;
}

ds_status ds_states_catalogue(const struct ds_model *model, const struct ds_zero_dtypes *dtypes,
                              struct ds_catalogue *out)
{
    struct ds_catalogue catalogue = {
        .tensors = calloc((size_t)model->param_count * KINDS_MAX + 1, sizeof *catalogue.tensors)};
    struct kind kinds[KINDS_MAX];

    if (!catalogue.tensors)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the states of %u parameters",
                       model->param_count);
    for (uint32_t i = 0; i < model->param_count; i++) {
        const uint32_t count = kinds_of(&model->params[i], dtypes, kinds);

        for (uint32_t k = 0; k < count; k++)
            catalogue.tensors[catalogue.count++] = tensor_of(&model->params[i], &kinds[k]);
    }
    ds_status st = ds_catalogue_check("the states of this model", &catalogue);
    if (st != DS_OK) {
        free(catalogue.tensors);
        return st;
    }
    *out = catalogue;
    return DS_OK;
}

/* ---- a rank */

struct rank_states {
    const struct ds_states_place *place;
    uint32_t shard_rank, shard_count;
    uint32_t *first_tensor; /* of each parameter, in the catalogue */
    struct ds_state_piece *pieces;
    uint32_t count;
};

static int writes(const struct rank_states *r, const struct ds_param *param)
{
    const struct ds_states_place *place = r->place;
    const struct ds_mesh_place here = ds_mesh_place_of(place->mesh, place->rank);
    const uint32_t stage = place->stage_of_unit ? place->stage_of_unit[param->unit] : 0;

    return param->is_owner && here.at[DS_AXIS_REPLICA] == 0 && here.at[DS_AXIS_PP] == stage;
}

static struct ds_box box_of(const struct ds_param *param)
{
    struct ds_box box = {.dim_count = param->dim_count};

    for (uint32_t dim = 0; dim < param->dim_count; dim++) {
        box.begin[dim] = param->start[dim];
        box.end[dim] = param->start[dim] + param->local[dim];
    }
    return box;
}

static void add_param(struct rank_states *r, const struct ds_zero_layout *layout,
                      const struct ds_param *param, uint32_t kind_index)
{
    const struct ds_span owned =
        ds_zero_layout_owned(layout, r->shard_rank, (struct ds_span){param->offset, param->elems});
    struct kind kinds[KINDS_MAX];

    if (kind_index >= kinds_of(param, r->place->dtypes, kinds) || owned.count == 0)
        return;
    const uint64_t begin = owned.start - param->offset;
    const uint32_t index = (uint32_t)(param - r->place->model->params);
    r->pieces[r->count++] = (struct ds_state_piece){
        .piece = {r->first_tensor[index] + kind_index, box_of(param), begin, begin + owned.count},
        .unit = param->unit,
        .kind = kinds[kind_index].kind,
        .start = owned.start - ds_zero_layout_shard(layout, r->shard_rank).start,
        .is_written = (uint8_t)writes(r, param),
    };
}

static void add_unit(struct rank_states *r, uint32_t unit_index)
{
    const struct ds_model *model = r->place->model;
    const struct ds_unit *unit = &model->units[unit_index];
    const struct ds_zero_layout layout = ds_zero_layout_of(unit->elems, r->shard_count);

    for (uint32_t kind = 0; kind < KINDS_MAX; kind++)
        for (uint32_t i = 0; i < unit->param_count; i++)
            add_param(r, &layout, &model->params[unit->param_start + i], kind);
}

static void number_tensors(struct rank_states *r)
{
    const struct ds_model *model = r->place->model;
    struct kind kinds[KINDS_MAX];
    uint32_t next = 0;

    for (uint32_t i = 0; i < model->param_count; i++) {
        r->first_tensor[i] = next;
        next += kinds_of(&model->params[i], r->place->dtypes, kinds);
    }
}

ds_status ds_states_pieces(const struct ds_states_place *place, struct ds_state_piece **out,
                           uint32_t *count)
{
    const struct ds_model *model = place->model;
    struct rank_states r = {
        .place = place,
        .shard_rank = ds_mesh_index(place->mesh, DS_GROUP_SHARD, place->rank),
        .shard_count = ds_mesh_group_size(place->mesh, DS_GROUP_SHARD, place->rank),
        .first_tensor = calloc(model->param_count + 1u, sizeof *r.first_tensor),
        .pieces = calloc((size_t)model->param_count * KINDS_MAX + 1, sizeof *r.pieces),
    };

    if (!r.first_tensor || !r.pieces) {
        free(r.first_tensor);
        free(r.pieces);
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the pieces of %u parameters",
                       model->param_count);
    }
    number_tensors(&r);
    for (uint32_t unit = 0; unit < model->unit_count; unit++)
        if (!place->has_unit || place->has_unit[unit])
            add_unit(&r, unit);
    free(r.first_tensor);
    *out = r.pieces;
    *count = r.count;
    return DS_OK;
}
