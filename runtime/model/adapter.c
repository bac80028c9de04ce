/* adapter.c - the factors of an adapter: which parameters they are, how they are shared out, where they lie. Pure but
 * for what the model has taken for them.
 *
 *   a layer's unit:  | what of the layer itself is trained | A of q k v, no gap | B of q | B of k | B of v | lengths of
 *                       q, k and v | A of o | B of o | ...
 *
 * Matrices of one input have their A without a gap, so that one product makes x A^T of all of them. A matrix that
 * tensor ranks have rows of has B cut alike, and A whole; one that they have columns of the other way round. What is
 * whole sees a part of its gradient on each rank. */
#include "params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Linear layers [first, first of the next) share an input. */
static const enum ds_linear first_of_group[] = {DS_LINEAR_Q, DS_LINEAR_O, DS_LINEAR_GATE,
                                                DS_LINEAR_DOWN, DS_LINEAR_COUNT};

const char *ds_linear_name(enum ds_linear linear)
{
    return model_linear_row(linear)->name;
}

static uint32_t factors_of_layer(const struct ds_lora *lora, uint64_t layer)
{
    uint32_t count = 0;

    for (int i = 0; i < DS_LINEAR_COUNT; i++)
        count += lora->modules[layer * DS_LINEAR_COUNT + i].rank > 0 ? 3 : 0;
    return count;
}

uint32_t adapter_param_count(const struct ds_model_config *config, const struct ds_lora *lora)
{
    uint32_t count = 0;

    for (uint64_t layer = 0; lora && layer < config->num_hidden_layers; layer++)
        count += factors_of_layer(lora, layer);
    return count;
}

static uint32_t add_factor(struct ds_model *model, uint64_t layer, enum ds_linear linear, int is_b,
                           int joins)
{
    const struct linear_row *row = model_linear_row(linear);
    const struct ds_lora_module *module = &model->factors[layer * DS_LINEAR_COUNT + linear].module;
    const uint64_t side = model_dim_size(&model->config, row->dims[!is_b]);
    const enum param_dim dims[2] = {is_b ? row->dims[0] : DIM_NONE, is_b ? DIM_NONE : row->dims[1]};
    const enum ds_tp_split cut = is_b ? DS_TP_ROWS : DS_TP_COLUMNS;
    struct ds_param *param = &model->params[model->param_count];

    *param = (struct ds_param){
        .dim_count = 2,
        .shape = {is_b ? side : module->rank, is_b ? module->rank : side, 1, 1},
        .is_trainable = 1,
        .is_matrix = 1,
        .is_factor = 1,
        .role = ROLE_COUNT,
        .number = model_own_count(model) + model->factor_count++,
        .init_bound = is_b ? 0 : (float)(1 / sqrt((double)side)),
    };
    model_share_out(model, dims, row->split == cut ? cut : DS_TP_WHOLE, 1, param);
    snprintf(param->name, sizeof param->name, "model.layers.%llu.%s.lora_%c.weight",
             (unsigned long long)layer, row->name, is_b ? 'B' : 'A');
    model_place(model, model->unit_count, param, joins);
    return model->param_count - 1;
}

/* A length for each row; of a matrix cut by columns every rank sees a part of its gradient. */
static uint32_t add_lengths(struct ds_model *model, uint64_t layer, enum ds_linear linear)
{
    const struct linear_row *row = model_linear_row(linear);
    const enum param_dim dims[2] = {row->dims[0], DIM_NONE};
    struct ds_param *param = &model->params[model->param_count];

    *param = (struct ds_param){
        .dim_count = 1,
        .shape = {model_dim_size(&model->config, row->dims[0]), 1, 1, 1},
        .is_trainable = 1,
        .is_factor = 1,
        .role = ROLE_COUNT,
        .init_value = 1, /* the matrix has others (ds_lora_lengths) */
    };
    model_share_out(model, dims, row->split == DS_TP_ROWS ? DS_TP_ROWS : DS_TP_WHOLE, 1, param);
    snprintf(param->name, sizeof param->name, "model.layers.%llu.%s.lora_magnitude_vector",
             (unsigned long long)layer, row->name);
    model_place(model, model->unit_count, param, 0);
    return model->param_count - 1;
}

static void add_group(struct ds_model *model, uint64_t layer, enum ds_linear first,
                      enum ds_linear end)
{
    struct ds_lora_factors *factors = &model->factors[layer * DS_LINEAR_COUNT];
    int joins = 0;

    for (enum ds_linear i = first; i < end; i++)
        if (factors[i].module.rank > 0) {
            factors[i].a = add_factor(model, layer, i, 0, joins);
            joins = 1;
        }
    for (enum ds_linear i = first; i < end; i++)
        if (factors[i].module.rank > 0)
            factors[i].b = add_factor(model, layer, i, 1, 0);
    for (enum ds_linear i = first; i < end && model->lora.is_dora; i++)
        if (factors[i].module.rank > 0)
            factors[i].m = add_lengths(model, layer, i);
}

static int has_factors(const struct ds_model *model, uint64_t layer)
{
    uint32_t ranks = 0;

    for (size_t i = 0; i < DS_LINEAR_COUNT; i++)
        ranks |= model->factors[layer * DS_LINEAR_COUNT + i].module.rank;
    return ranks > 0;
}

/* What of a block is trained, if not all of it is, and factors. */
static void make_block_unit(struct ds_model *model, uint32_t index)
{
    struct ds_block *block = &model->blocks[index];
    const int is_split = model_params_of(model, index) == (PARAMS_FROZEN | PARAMS_TRAINED);
    const int is_layer = block->kind == DS_BLOCK_DECODER && has_factors(model, index - 1);

    if (!is_split && !is_layer)
        return;
    model->units[model->unit_count] = (struct ds_unit){.param_start = model->param_count};
    if (is_split)
        model_add_trained(model, index, model->unit_count);
    for (size_t i = 0; is_layer && first_of_group[i] < DS_LINEAR_COUNT; i++)
        add_group(model, index - 1, first_of_group[i], first_of_group[i + 1]);
    block->units[block->unit_count++] = model->unit_count++;
}

void adapter_take(struct ds_model *model, const struct ds_lora *lora)
{
    const uint64_t count = model->config.num_hidden_layers * DS_LINEAR_COUNT;

    model->lora = lora->settings;
    for (uint64_t i = 0; i < count; i++)
        model->factors[i].module = lora->modules[i];
}

void adapter_make(struct ds_model *model)
{
    for (uint32_t i = 0; i < model->block_count; i++)
        make_block_unit(model, i);
}

ds_status ds_lora_of(const struct ds_model *model, struct ds_lora *out)
{
    const size_t count = (size_t)model->config.num_hidden_layers * DS_LINEAR_COUNT;

    *out = (struct ds_lora){.settings = model->lora};
    if (!ds_model_is_adapted(model))
        return DS_OK;
    out->modules = calloc(count, sizeof *out->modules);
    if (!out->modules)
        return ds_fail(DS_ERR_NO_MEMORY, "the list of an adapter's matrices");
    for (size_t i = 0; i < count; i++)
        out->modules[i] = model->factors[i].module;
    return DS_OK;
}

ds_status ds_model_open_like(const struct ds_model *model, const struct ds_model_share *share,
                             struct ds_model **out)
{
    struct ds_lora lora;

    DS_TRY(ds_lora_of(model, &lora));
    ds_status st = ds_model_open_adapted(&model->config, share, lora.modules ? &lora : NULL, out);
    ds_lora_fini(&lora);
    return st;
}
