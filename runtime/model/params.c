/* params.c - which parameters a model has, their HF names and shapes, and where each lies in its unit.
 *
 * Pure but for memory. Unit 0 is the embedding, units 1..L are the decoder layers, the last one is the
 * final norm with the head's matrix if that is not the embedding's. A tied head block names two units:
 * its own and the embedding's. Units of an adapter come behind (adapter.c), and have those parameters of their block
 * that it trains, if it does not train them all.
 *
 *   decoder unit:  | norm | q k v, no gap | q k v bias | o | norm | gate up, no gap | down |
 *
 * q, k, v and gate, up lie without a gap in the order their products are wanted, so that one matrix
 * product computes the three, or the two. */
#include "params.h"

#include "dstrain/zero.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum unit_kind { UNIT_EMBEDDING, UNIT_DECODER, UNIT_HEAD };
enum param_kind { KIND_MATRIX, KIND_BIAS, KIND_GAIN };
enum param_when { ALWAYS, IF_QKV_BIAS, IF_O_BIAS, IF_MLP_BIAS, IF_QK_NORM, IF_UNTIED };

struct param_row {
    const char *name; /* in a decoder layer behind model.layers.N. */
    enum unit_kind unit;
    enum param_kind kind;
    enum param_when when;
    enum param_dim dims[2];
    enum ds_tp_split split;
    int joins; /* the fuse group of the row above */
};

/* clang-format off */
static const struct param_row param_rows[ROLE_COUNT] = {
    [ROLE_EMBED]     = {"model.embed_tokens.weight",       UNIT_EMBEDDING, KIND_MATRIX, ALWAYS, {DIM_V, DIM_C}, DS_TP_VOCABULARY, 0},
    [ROLE_NORM1]     = {"input_layernorm.weight",          UNIT_DECODER, KIND_GAIN,   ALWAYS,      {DIM_C},         DS_TP_WHOLE, 0},
    [ROLE_Q]         = {"self_attn.q_proj.weight",         UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_HD, DIM_C}, DS_TP_ROWS, 0},
    [ROLE_K]         = {"self_attn.k_proj.weight",         UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_GD, DIM_C}, DS_TP_ROWS, 1},
    [ROLE_V]         = {"self_attn.v_proj.weight",         UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_GD, DIM_C}, DS_TP_ROWS, 1},
    [ROLE_Q_BIAS]    = {"self_attn.q_proj.bias",           UNIT_DECODER, KIND_BIAS,   IF_QKV_BIAS, {DIM_HD},        DS_TP_ROWS, 0},
    [ROLE_K_BIAS]    = {"self_attn.k_proj.bias",           UNIT_DECODER, KIND_BIAS,   IF_QKV_BIAS, {DIM_GD},        DS_TP_ROWS, 1},
    [ROLE_V_BIAS]    = {"self_attn.v_proj.bias",           UNIT_DECODER, KIND_BIAS,   IF_QKV_BIAS, {DIM_GD},        DS_TP_ROWS, 1},
    [ROLE_Q_NORM]    = {"self_attn.q_norm.weight",         UNIT_DECODER, KIND_GAIN,   IF_QK_NORM,  {DIM_D},         DS_TP_WHOLE, 0},
    [ROLE_K_NORM]    = {"self_attn.k_norm.weight",         UNIT_DECODER, KIND_GAIN,   IF_QK_NORM,  {DIM_D},         DS_TP_WHOLE, 0},
    [ROLE_O]         = {"self_attn.o_proj.weight",         UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_C, DIM_HD}, DS_TP_COLUMNS, 0},
    [ROLE_O_BIAS]    = {"self_attn.o_proj.bias",           UNIT_DECODER, KIND_BIAS,   IF_O_BIAS,   {DIM_C},         DS_TP_WHOLE, 0},
    [ROLE_NORM2]     = {"post_attention_layernorm.weight", UNIT_DECODER, KIND_GAIN,   ALWAYS,      {DIM_C},         DS_TP_WHOLE, 0},
    [ROLE_GATE]      = {"mlp.gate_proj.weight",            UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_I, DIM_C},  DS_TP_ROWS, 0},
    [ROLE_UP]        = {"mlp.up_proj.weight",              UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_I, DIM_C},  DS_TP_ROWS, 1},
    [ROLE_GATE_BIAS] = {"mlp.gate_proj.bias",              UNIT_DECODER, KIND_BIAS,   IF_MLP_BIAS, {DIM_I},         DS_TP_ROWS, 0},
    [ROLE_UP_BIAS]   = {"mlp.up_proj.bias",                UNIT_DECODER, KIND_BIAS,   IF_MLP_BIAS, {DIM_I},         DS_TP_ROWS, 1},
    [ROLE_DOWN]      = {"mlp.down_proj.weight",            UNIT_DECODER, KIND_MATRIX, ALWAYS,      {DIM_C, DIM_I},  DS_TP_COLUMNS, 0},
    [ROLE_DOWN_BIAS] = {"mlp.down_proj.bias",              UNIT_DECODER, KIND_BIAS,   IF_MLP_BIAS, {DIM_C},         DS_TP_WHOLE, 0},
    [ROLE_FINAL_NORM] = {"model.norm.weight",              UNIT_HEAD,    KIND_GAIN,   ALWAYS,      {DIM_C},         DS_TP_WHOLE, 0},
    [ROLE_LM_HEAD]   = {"lm_head.weight",                  UNIT_HEAD,    KIND_MATRIX, IF_UNTIED,   {DIM_V, DIM_C},  DS_TP_VOCABULARY, 0},
};
/* clang-format on */

static int is_there(const struct ds_model_config *config, enum param_when when)
{
    switch (when) {
    case IF_QKV_BIAS:
        return config->has_qkv_bias;
    case IF_O_BIAS:
        return config->has_o_bias;
    case IF_MLP_BIAS:
        return config->has_mlp_bias;
    case IF_QK_NORM:
        return config->has_qk_norm;
    case IF_UNTIED:
        return !config->tie_word_embeddings;
    default:
        return 1;
    }
}

uint64_t model_dim_size(const struct ds_model_config *config, enum param_dim dim)
{
    switch (dim) {
    case DIM_C:
        return config->hidden_size;
    case DIM_D:
        return config->head_dim;
    case DIM_HD:
        return config->num_attention_heads * config->head_dim;
    case DIM_GD:
        return config->num_key_value_heads * config->head_dim;
    case DIM_I:
        return config->intermediate_size;
    case DIM_V:
        return config->vocab_size;
    default:
        return 1;
    }
}

static enum unit_kind unit_kind_of(const struct ds_model *model, uint32_t unit)
{
    if (unit == 0)
        return UNIT_EMBEDDING;
    return unit + 1 == model->block_count ? UNIT_HEAD : UNIT_DECODER;
}

static const struct ds_param *find_in(const struct ds_model *model, uint32_t unit, uint8_t role)
{
    const struct ds_unit *in = &model->units[unit];

    for (uint32_t i = 0; i < in->param_count; i++)
        if (model->params[in->param_start + i].role == role)
            return &model->params[in->param_start + i];
    return NULL;
}

const struct ds_param *model_param(const struct ds_model *model, uint32_t unit,
                                   enum param_role role)
{
    const struct ds_block *block = &model->blocks[unit];
    const struct ds_param *found = NULL;

    DS_ASSERT(unit < model->block_count && param_rows[role].unit == unit_kind_of(model, unit));
    for (uint32_t i = 0; i < block->unit_count && !found; i++)
        found = find_in(model, block->units[i], (uint8_t)role);
    return found;
}

/* clang-format off */
const struct linear_row *model_linear_row(enum ds_linear linear)
{
    static const struct linear_row rows[DS_LINEAR_COUNT] = {
        [DS_LINEAR_Q]    = {"self_attn.q_proj", {DIM_HD, DIM_C}, DS_TP_ROWS},
        [DS_LINEAR_K]    = {"self_attn.k_proj", {DIM_GD, DIM_C}, DS_TP_ROWS},
        [DS_LINEAR_V]    = {"self_attn.v_proj", {DIM_GD, DIM_C}, DS_TP_ROWS},
        [DS_LINEAR_O]    = {"self_attn.o_proj", {DIM_C, DIM_HD}, DS_TP_COLUMNS},
        [DS_LINEAR_GATE] = {"mlp.gate_proj",    {DIM_I, DIM_C},  DS_TP_ROWS},
        [DS_LINEAR_UP]   = {"mlp.up_proj",      {DIM_I, DIM_C},  DS_TP_ROWS},
        [DS_LINEAR_DOWN] = {"mlp.down_proj",    {DIM_C, DIM_I},  DS_TP_COLUMNS},
    };
    return &rows[linear];
}
/* clang-format on */

/* What of the dim that is cut lies with this rank. Heads stay whole, kv heads may be copies. */
static struct ds_span cut_of(const struct ds_model *model, enum param_dim dim, uint64_t size)
{
    const struct ds_model_config *config = &model->config;
    const uint64_t ranks = model->share.tp_size, rank = model->share.tp_rank, d = config->head_dim;
    const uint64_t groups = config->num_key_value_heads;

    if (dim == DIM_HD)
        return (struct ds_span){rank * (size / ranks), size / ranks};
    if (dim == DIM_GD && groups < ranks)
        return (struct ds_span){rank / (ranks / groups) * d, d};
    if (dim == DIM_GD)
        return (struct ds_span){rank * (size / ranks), size / ranks};
    return ds_tp_cut(size, (uint32_t)rank, (uint32_t)ranks);
}

void model_share_out(const struct ds_model *model, const enum param_dim dims[2],
                     enum ds_tp_split split, int is_partial, struct ds_param *param)
{
    const uint32_t ranks = model->share.tp_size;
    const uint64_t groups = model->config.num_key_value_heads;
    const int dim = split == DS_TP_COLUMNS;

    memcpy(param->local, param->shape, sizeof param->local);
    param->tp_split = split;
    param->copies = ranks;
    if (split != DS_TP_WHOLE) {
        struct ds_span cut = cut_of(model, dims[dim], param->shape[dim]);
        param->start[dim] = cut.start;
        param->local[dim] = cut.count;
        param->copies = dims[dim] == DIM_GD && groups < ranks ? ranks / (uint32_t)groups : 1;
        param->sum = param->copies > 1 ? DS_PARAM_SUM_COPIES : DS_PARAM_SUM_NONE;
    } else if (ranks > 1 && is_partial) {
        param->sum = DS_PARAM_SUM_TP;
    }
    param->is_owner = model->share.tp_rank % param->copies == 0;
    param->elems = param->local[0] * param->local[1];
}

static void name_param(uint32_t unit, const struct param_row *row, char *to, size_t bytes)
{
    if (row->unit == UNIT_DECODER)
        snprintf(to, bytes, "model.layers.%u.%s", unit - 1, row->name);
    else
        snprintf(to, bytes, "%s", row->name);
}

static uint32_t count_of(const struct ds_model *model, enum unit_kind kind, int role_end)
{
    uint32_t count = 0;

    for (int role = 0; role < role_end; role++)
        count += param_rows[role].unit == kind && is_there(&model->config, param_rows[role].when);
    return count;
}

static uint32_t number_of(const struct ds_model *model, uint32_t unit, int role)
{
    const uint32_t layers = unit > 0 ? unit - 1 : 0; /* in front of it */

    return (unit > 0 ? count_of(model, UNIT_EMBEDDING, ROLE_COUNT) : 0) +
           layers * count_of(model, UNIT_DECODER, ROLE_COUNT) +
           count_of(model, unit_kind_of(model, unit), role);
}

uint32_t model_own_count(const struct ds_model *model)
{
    return number_of(model, model->block_count - 1, ROLE_COUNT);
}

static void describe(const struct ds_model *model, uint32_t unit, const struct param_row *row,
                     struct ds_param *param)
{
    const struct ds_model_config *config = &model->config;

    *param = (struct ds_param){
        .dim_count = row->dims[1] == DIM_NONE ? 1 : 2,
        .shape = {model_dim_size(config, row->dims[0]), model_dim_size(config, row->dims[1]), 1, 1},
        .is_matrix = row->kind == KIND_MATRIX,
        .role = (uint8_t)(row - param_rows),
        .number = number_of(model, unit, (int)(row - param_rows)),
        .init_std = row->kind == KIND_MATRIX ? (float)config->initializer_range : 0,
        .init_value = row->kind == KIND_GAIN ? 1 : 0,
    };
    model_share_out(model, row->dims, row->split,
                    model->share.sequence_parallel || row->when == IF_QK_NORM, param);
    name_param(unit, row, param->name, sizeof param->name);
    param->is_trainable = (uint8_t)(!ds_model_is_adapted(model) ||
                                    whole_is_trained(model, param->name, row->kind == KIND_BIAS));
}

void model_place(struct ds_model *model, uint32_t index, struct ds_param *param, int joins)
{
    struct ds_unit *unit = &model->units[index];
    const uint64_t elems = ds_param_whole_elems(param);

    DS_ASSERT(param == &model->params[unit->param_start + unit->param_count]);
    param->unit = index;
    if (unit->param_count > 0)
        param->fuse_group = param[-1].fuse_group + !joins;
    param->offset = ds_zero_layout_place(unit->elems, !joins);
    unit->elems = param->offset + param->elems;
    unit->param_count++;
    model->param_count++;
    model->elems_total += elems;
    model->elems_trained += param->is_trainable ? elems : 0;
}

/* The block's own parameters, or those of them that are trained, or frozen, behind the model's last one, into `unit`. */
static void add_params(struct ds_model *model, uint32_t block, uint32_t wanted, uint32_t unit)
{
    const enum unit_kind kind = unit_kind_of(model, block);
    int follows = 0; /* the row above lies here, too */

    for (int role = 0; role < ROLE_COUNT; role++) {
        const struct param_row *row = &param_rows[role];
        struct ds_param *param = &model->params[model->param_count];

        if (row->unit != kind || !is_there(&model->config, row->when))
            continue;
        describe(model, block, row, param);
        const int is_wanted = wanted & (param->is_trainable ? PARAMS_TRAINED : PARAMS_FROZEN);
        if (is_wanted)
            model_place(model, unit, param, row->joins && follows);
        follows = is_wanted;
    }
}

uint32_t model_params_of(const struct ds_model *model, uint32_t block)
{
    const enum unit_kind kind = unit_kind_of(model, block);
    struct ds_param param;
    uint32_t found = 0;

    for (int role = 0; role < ROLE_COUNT; role++) {
        if (param_rows[role].unit != kind || !is_there(&model->config, param_rows[role].when))
            continue;
        describe(model, block, &param_rows[role], &param);
        found |= param.is_trainable ? PARAMS_TRAINED : PARAMS_FROZEN;
    }
    return found;
}

void model_add_trained(struct ds_model *model, uint32_t block, uint32_t unit)
{
    add_params(model, block, PARAMS_TRAINED, unit);
}

/* All of a block's own parameters, or those of them that are frozen. */
static void make_unit(struct ds_model *model, uint32_t index)
{
    const uint32_t all = model_params_of(model, index);
    const uint32_t here = all & PARAMS_FROZEN ? PARAMS_FROZEN : PARAMS_TRAINED;

    model->units[index] =
        (struct ds_unit){.param_start = model->param_count, .is_frozen = here == PARAMS_FROZEN};
    add_params(model, index, here, index);
}

static void make_block(struct ds_model *model, uint32_t index)
{
    struct ds_block *block = &model->blocks[index];

    *block = (struct ds_block){.model = model, .unit_count = 1, .units = {index}};
    switch (unit_kind_of(model, index)) {
    case UNIT_EMBEDDING:
        block->kind = DS_BLOCK_EMBEDDING;
        block->ops = &model_embedding_ops;
        break;
    case UNIT_DECODER:
        block->kind = DS_BLOCK_DECODER;
        block->ops = &model_decoder_ops;
        break;
    case UNIT_HEAD:
        block->kind = DS_BLOCK_HEAD;
        block->ops = &model_head_ops;
        if (model->config.tie_word_embeddings)
            block->units[block->unit_count++] = 0;
        break;
    }
}

/* The numbers of the model and of this rank's share, checked and complete. */
static ds_status settle(struct ds_model *model, const struct ds_model_config *config,
                        const struct ds_model_share *share)
{
    char why[256];

    model->config = *config;
    ds_model_config_complete(&model->config);
    DS_TRY(ds_model_config_check("model", &model->config));
    if (share)
        model->share = *share;
    if (model->share.tp_size == 0)
        model->share.tp_size = 1;
    if (model->share.compute == 0)
        model->share.compute = DS_F32;
    if (model->share.grad == 0)
        model->share.grad = DS_F32;
    DS_ASSERT(model->share.tp_rank < model->share.tp_size);
    if (!ds_model_may_share(&model->config, model->share.tp_size, why, sizeof why))
        return ds_fail(DS_ERR_CONFIG, "tensor %s", why);
    return DS_OK;
}

#define CPU_LOGITS_BYTES ((uint64_t)8 << 20)
#define PIECE_TOKENS     1024

static ds_status take_lists(struct ds_model *model, const struct ds_lora *lora)
{
    const struct ds_model_config *config = &model->config;
    const uint32_t units = lora ? 2 * model->block_count : model->block_count;
    const size_t params =
        (size_t)model->block_count * ROLE_COUNT + adapter_param_count(config, lora) + 1u;

    model->params = calloc(params, sizeof *model->params);
    model->units = calloc(units, sizeof *model->units);
    model->blocks = calloc(model->block_count, sizeof *model->blocks);
    if (lora)
        model->factors =
            calloc(config->num_hidden_layers * DS_LINEAR_COUNT, sizeof *model->factors);
    return model->params && model->units && model->blocks && (model->factors || !lora)
               ? DS_OK
               : ds_fail(DS_ERR_NO_MEMORY, "the list of parameters");
}

static ds_status make_model(struct ds_model *model, const struct ds_lora *lora)
{
    model->block_count = (uint32_t)model->config.num_hidden_layers + 2;
    model->logits_bytes = CPU_LOGITS_BYTES;
    model->piece_tokens = PIECE_TOKENS;
    DS_TRY(take_lists(model, lora));
    if (lora)
        adapter_take(model, lora);
    for (; model->unit_count < model->block_count; model->unit_count++)
        make_unit(model, model->unit_count);
    for (uint32_t i = 0; i < model->block_count; i++)
        make_block(model, i);
    if (lora)
        adapter_make(model);
    return DS_OK;
}

ds_status ds_model_open_adapted(const struct ds_model_config *config,
                                const struct ds_model_share *share, const struct ds_lora *lora,
                                struct ds_model **out)
{
    struct ds_model *model = calloc(1, sizeof *model);

    if (!model)
        return ds_fail(DS_ERR_NO_MEMORY, "a model");
    ds_status st = settle(model, config, share);
    if (st == DS_OK)
        st = make_model(model, lora);
    if (st != DS_OK) {
        ds_model_close(model);
        return st;
    }
    *out = model;
    return DS_OK;
}

ds_status ds_model_open(const struct ds_model_config *config, const struct ds_model_share *share,
                        struct ds_model **out)
{
    return ds_model_open_adapted(config, share, NULL, out);
}

void ds_model_close(struct ds_model *model)
{
    if (!model)
        return;
    free(model->params);
    free(model->units);
    free(model->blocks);
    free(model->factors);
    free(model);
}

const struct ds_param *ds_model_find(const struct ds_model *model, const char *name)
{
    for (uint32_t i = 0; i < model->param_count; i++)
        if (strcmp(model->params[i].name, name) == 0)
            return &model->params[i];
    return NULL;
}
