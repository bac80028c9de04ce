/* params.c - which parameters a model has, their HF names and shapes, and where each lies in its unit.
 *
 * Pure but for memory. Unit 0 is the embedding, units 1..L are the decoder layers, the last one is the
 * final norm with the head's matrix if that is not the embedding's. A tied head block names two units:
 * its own and the embedding's.
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
enum param_dim { DIM_NONE, DIM_C, DIM_D, DIM_HD, DIM_GD, DIM_I, DIM_V };
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

static uint64_t dim_size(const struct ds_model_config *config, enum param_dim dim)
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
    return unit + 1 == model->unit_count ? UNIT_HEAD : UNIT_DECODER;
}

const struct ds_param *model_param(const struct ds_model *model, uint32_t unit,
                                   enum param_role role)
{
    const struct ds_param *param = &model->params[model->units[unit].param_start];
    const enum unit_kind kind = unit_kind_of(model, unit);

    DS_ASSERT(param_rows[role].unit == kind);
    if (!is_there(&model->config, param_rows[role].when))
        return NULL;
    for (int i = 0; i < (int)role; i++)
        param += param_rows[i].unit == kind && is_there(&model->config, param_rows[i].when);
    return param;
}

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

/* The box that lies here, who else has it, and whose gradient it is a part of. */
static void share_out(const struct ds_model *model, const struct param_row *row,
                      struct ds_param *param)
{
    const uint32_t ranks = model->share.tp_size;
    const uint64_t groups = model->config.num_key_value_heads;
    const int dim = row->split == DS_TP_COLUMNS;

    memcpy(param->local, param->shape, sizeof param->local);
    param->copies = ranks;
    if (row->split != DS_TP_WHOLE) {
        struct ds_span cut = cut_of(model, row->dims[dim], param->shape[dim]);
        param->start[dim] = cut.start;
        param->local[dim] = cut.count;
        param->copies = row->dims[dim] == DIM_GD && groups < ranks ? ranks / (uint32_t)groups : 1;
        param->sum = param->copies > 1 ? DS_PARAM_SUM_COPIES : DS_PARAM_SUM_NONE;
    } else if (ranks > 1 && (model->share.sequence_parallel || row->when == IF_QK_NORM)) {
        param->sum = DS_PARAM_SUM_TP;
    }
    param->is_owner = model->share.tp_rank % param->copies == 0;
    param->elems = param->local[0] * param->local[1];
}

static void describe(const struct ds_model *model, uint32_t unit, const struct param_row *row,
                     struct ds_param *param)
{
    const struct ds_model_config *config = &model->config;

    *param = (struct ds_param){
        .dim_count = row->dims[1] == DIM_NONE ? 1 : 2,
        .shape = {dim_size(config, row->dims[0]), dim_size(config, row->dims[1]), 1, 1},
        .tp_split = row->split,
        .is_trainable = 1,
        .is_matrix = row->kind == KIND_MATRIX,
        .init_std = row->kind == KIND_MATRIX ? (float)config->initializer_range : 0,
        .init_value = row->kind == KIND_GAIN ? 1 : 0,
        .unit = unit,
    };
    share_out(model, row, param);
    if (row->unit == UNIT_DECODER)
        snprintf(param->name, sizeof param->name, "model.layers.%u.%s", unit - 1, row->name);
    else
        snprintf(param->name, sizeof param->name, "%s", row->name);
}

/* Appends the unit's parameters behind the model's last one and places them. */
static void make_unit(struct ds_model *model, uint32_t index)
{
    struct ds_unit *unit = &model->units[index];
    const enum unit_kind kind = unit_kind_of(model, index);
    uint32_t group = 0;

    *unit = (struct ds_unit){.param_start = model->param_count};
    for (int role = 0; role < ROLE_COUNT; role++) {
        const struct param_row *row = &param_rows[role];
        struct ds_param *param = &model->params[model->param_count];

        if (row->unit != kind || !is_there(&model->config, row->when))
            continue;
        describe(model, index, row, param);
        param->fuse_group = unit->param_count == 0 || row->joins ? group : ++group;
        param->offset = ds_zero_layout_place(unit->elems, !row->joins);
        unit->elems = param->offset + param->elems;
        unit->param_count++;
        model->param_count++;
        model->elems_total += ds_param_whole_elems(param);
    }
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

ds_status ds_model_open(const struct ds_model_config *config, const struct ds_model_share *share,
                        struct ds_model **out)
{
    struct ds_model *model = calloc(1, sizeof *model);

    if (!model)
        return ds_fail(DS_ERR_NO_MEMORY, "a model");
    ds_status st = settle(model, config, share);
    if (st != DS_OK)
        goto fail;
    model->unit_count = model->block_count = (uint32_t)model->config.num_hidden_layers + 2;
    model->logits_bytes = CPU_LOGITS_BYTES;
    model->params = calloc((size_t)model->unit_count * ROLE_COUNT, sizeof *model->params);
    model->units = calloc(model->unit_count, sizeof *model->units);
    model->blocks = calloc(model->block_count, sizeof *model->blocks);
    if (!model->params || !model->units || !model->blocks) {
        st = ds_fail(DS_ERR_NO_MEMORY, "the list of parameters");
        goto fail;
    }
    for (uint32_t i = 0; i < model->unit_count; i++)
        make_unit(model, i);
    for (uint32_t i = 0; i < model->block_count; i++)
        make_block(model, i);
    *out = model;
    return DS_OK;

fail:
    ds_model_close(model);
    return st;
}

void ds_model_close(struct ds_model *model)
{
    if (!model)
        return;
    free(model->params);
    free(model->units);
    free(model->blocks);
    free(model);
}

const struct ds_param *ds_model_find(const struct ds_model *model, const char *name)
{
    for (uint32_t i = 0; i < model->param_count; i++)
        if (strcmp(model->params[i].name, name) == 0)
            return &model->params[i];
    return NULL;
}
