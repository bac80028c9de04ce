/* assemble_model.c - the model of a run: from keys or from a folder, the part of it that this rank computes,
 * and which blocks each pipeline stage holds. */
#include "config/config.h"
#include "text_tokenizer.h"
#include "trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
}

/* A new model has the vocabulary of its texts, with which an export comes. */
static ds_status vocabulary_from_text(const struct ds_config *config,
                                      const struct ds_tokenizer *tokenizer,
                                      struct ds_model_config *out)
{
    static const struct ds_tokenizer_marks bytes = {1, 1, 1, DS_BYTE_BOS, DS_BYTE_EOS, DS_BYTE_PAD};
    const struct ds_tokenizer_marks marks = tokenizer ? ds_tokenizer_marks(tokenizer) : bytes;
    const uint64_t needed = tokenizer ? ds_tokenizer_id_end(tokenizer) : DS_BYTE_VOCAB;

    out->bos_token_id = marks.has_bos ? (int32_t)marks.bos : -1;
    out->eos_token_id = marks.has_eos ? (int32_t)marks.eos : -1;
    out->pad_token_id = marks.has_pad ? (int32_t)marks.pad : -1;
    if (out->vocab_size == DS_AUTO)
        out->vocab_size = needed;
    if (tokenizer && out->vocab_size < needed)
        return ds_config_refuse(config, "model", "vocab_size",
                                "= %llu is smaller than the tokenizer's %llu ([data] tokenizer = "
                                "%s)",
                                (unsigned long long)out->vocab_size, (unsigned long long)needed,
                                config->data.tokenizer);
    return DS_OK;
}

static ds_status vocabulary_of_text(const struct ds_config *config, struct ds_fs *fs,
                                    struct ds_model_config *out)
{
    struct ds_tokenizer *tokenizer;
    ds_status st;

    if (!ds_config_has_text(config))
        return DS_OK;
    DS_TRY(ds_text_tokenizer_open(config, fs, &tokenizer));
    st = vocabulary_from_text(config, tokenizer, out);
    ds_tokenizer_close(tokenizer);
    return st;
}

enum ds_dtype trainer_dtype(int precision)
{
    static const enum ds_dtype dtypes[] = {
        [DS_PRECISION_FP32] = DS_F32, [DS_PRECISION_BF16] = DS_BF16, [DS_PRECISION_FP16] = DS_F16};

    return dtypes[precision];
}

/* Of local gradients: precision.reduce, in which ranks send them. One rank sends none: where its bits need not be those of
 * other layouts it makes them in the dtype of their sum, onto which backward passes then add (adds_in_place, zero.h). */
static enum ds_dtype grad_dtype(const struct ds_trainer *t)
{
    const struct ds_config *config = t->config;
    const int is_alone = t->options.world->size == 1 && config->run.deterministic == 0 &&
                         config->offload.grads.home == DS_HOME_DEVICE;
    const int is_made_so = config->precision.gradients == config->precision.compute;

    return trainer_dtype(is_alone && is_made_so ? config->precision.gradients
                                                : config->precision.reduce);
}

/* Which part of the model this rank computes. */
static struct ds_model_share share_of(const struct ds_trainer *t)
{
    return (struct ds_model_share){
        .tp_rank = t->place.at[DS_AXIS_TP],
        .tp_size = t->mesh_shape.size[DS_AXIS_TP],
        .sequence_parallel = t->config->parallel.sequence_parallel,
        .compute = trainer_dtype(t->config->precision.compute),
        .grad = grad_dtype(t),
    };
}

/* kv heads fewer than tensor ranks: neighbours hold copies. */
static void count_copies(struct ds_trainer *t)
{
    const uint32_t tensor = t->mesh_shape.size[DS_AXIS_TP];
    const uint64_t groups = t->model->config.num_key_value_heads;

    t->mesh_shape.tp_copies = groups < tensor ? tensor / (uint32_t)groups : 1;
}

/* ---- stages: runs of blocks of about equal cost, chunk by chunk */

/* Blocks from the last to the first: of two stages with a tied unit the first one answers for it. */
static void place_units(struct ds_trainer *t, uint32_t parts)
{
    const uint32_t stages = t->mesh_shape.size[DS_AXIS_PP];

    for (uint32_t part = parts; part-- > 0;)
        for (uint32_t b = t->chunk_first[part]; b < t->chunk_first[part + 1]; b++) {
            const struct ds_block *block = &t->model->blocks[b];
            for (uint32_t i = 0; i < block->unit_count; i++) {
                t->stage_of_unit[block->units[i]] = part % stages;
                t->has_unit[block->units[i]] |= part % stages == t->place.at[DS_AXIS_PP];
            }
        }
}

static ds_status cut_stages(struct ds_trainer *t)
{
    const struct ds_model *model = t->model;
    const uint32_t stages = t->mesh_shape.size[DS_AXIS_PP];
    const uint32_t parts = stages * (uint32_t)t->config->parallel.chunks;
    uint64_t *costs = calloc(model->block_count, sizeof *costs);

    t->chunk_first = calloc(parts + 1u, sizeof *t->chunk_first);
    t->has_unit = calloc(model->unit_count, 1);
    t->stage_of_unit = calloc(model->unit_count, sizeof *t->stage_of_unit);
    if (!costs || !t->chunk_first || !t->has_unit || !t->stage_of_unit) {
        free(costs);
        return ds_fail(DS_ERR_NO_MEMORY, "%u stages", parts);
    }
    for (uint32_t b = 0; b < model->block_count; b++)
        costs[b] = (uint64_t)ds_model_block_cost(model, b, t->config->train.seq_length);
    ds_schedule_cut(costs, model->block_count, parts, t->chunk_first);
    free(costs);
    place_units(t, parts);
    return DS_OK;
}

/* What the rules between keys could not know of a folder's model. */
static ds_status layout_fits(const struct ds_trainer *t, const struct ds_model_config *model)
{
    const int trains = t->options.mode == DS_TRAINER_TRAIN || t->options.mode == DS_TRAINER_PLAN;

    return ds_config_validate_model(t->config, trains ? DS_CONFIG_TRAIN : DS_CONFIG_EVAL,
                                    t->options.world->size,
                                    t->config->model.path[0] ? model : NULL);
}

/* ---- from keys or from a folder */

static ds_status open_model(struct ds_trainer *t, const struct ds_model_config *config)
{
    const struct ds_model_share share = share_of(t);
    int is_there;

    trainer_put_absolute(t->config->model.path, t->base, sizeof t->base);
    DS_TRY(trainer_choose_adapter(t->config, t->options.fs, config, &t->adapter, &is_there));
    return ds_model_open_adapted(config, &share, is_there ? &t->adapter : NULL, &t->model);
}

/* Where a layer is made again whole, so is what its backward can make beside its own work. */
static enum ds_keeps kept_of(const struct ds_config *config)
{
    switch (config->train.activation_checkpointing) {
    case DS_RECOMPUTE_NONE:
        return DS_KEEPS_ALL;
    case DS_RECOMPUTE_SELECTIVE:
        return DS_KEEPS_PRODUCTS;
    default:
        return DS_KEEPS_NORMS;
    }
}

static ds_status take_model(struct ds_trainer *t, const struct ds_model_config *config)
{
    DS_TRY(layout_fits(t, config));
    DS_TRY(open_model(t, config));
    t->model->seed = t->config->run.seed;
    t->model->keeps = kept_of(t->config);
    if (t->config->memory.logits != DS_AUTO)
        t->model->logits_bytes = t->config->memory.logits;
    count_copies(t);
    return cut_stages(t);
}

/* Is there a folder where the key says one is? What is wrong inside, its files say. */
static ds_status look_for_folder(const struct ds_config *config, struct ds_fs *fs)
{
    const char *path = config->model.path;
    struct ds_fs_stat stat;
    char key[DS_KEY_BYTES];
    int code = ds_fs_stat(fs, path, &stat);

    if (code == 0 && !stat.is_directory)
        code = -ENOTDIR;
    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_DATA, "%s = %s: %s",
                               ds_config_key(config, "model", "path", key), path, strerror(-code));
}

ds_status ds_trainer_model_config(const struct ds_config *config, struct ds_fs *fs,
                                  struct ds_model_config *out)
{
    char where[DS_PLACE_BYTES];

    if (config->model.path[0]) {
        DS_TRY(look_for_folder(config, fs));
        return ds_hf_read_config(fs, config->model.path, out);
    }
    config_from_keys(config, out);
    DS_TRY(vocabulary_of_text(config, fs, out));
    snprintf(where, sizeof where, "%.480s: [model]", config->places.name);
    return ds_model_config_check(where, out) == DS_OK
               ? DS_OK
               : DS_ERR_CONFIG; /* of the keys, not of a folder's config.json */
}

/* What is written at the end has the factors alone. */
static void warn_of_random_base(const struct ds_trainer *t)
{
    if (t->options.mode == DS_TRAINER_TRAIN && t->options.uses_checkpoints &&
        t->config->lora.r > 0 && t->config->model.path[0] == '\0')
        ds_warn("[lora] r without [model] path: the adapter is made for random weights, which no "
                "file will have; name the folder of the model that it is for in [model] path");
}

ds_status trainer_open_model(struct ds_trainer *t)
{
    const char *path = t->config->model.path;
    struct ds_model_config model;

    DS_TRY(ds_trainer_model_config(t->config, t->options.fs, &model));
    DS_TRY(take_model(t, &model));
    if (t->options.mode != DS_TRAINER_GENERATE && !is_plan(t))
        DS_TRY(ds_text_tokenizer_find(t->config, t->options.fs, &t->text));
    if (t->options.world->rank == 0) {
        ds_text_tokenizer_warn(t->config, &t->text);
        warn_of_random_base(t);
    }
    DS_TRY(trainer_open_adapter(t));
    if (!path[0])
        return DS_OK;
    if (is_plan(t))
        return DS_OK;
    DS_TRY(ds_hf_open(t->options.fs, path, &t->weights));
    return ds_hf_check(t->weights, t->model);
}
