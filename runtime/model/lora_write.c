/* lora_write.c - the adapter_config.json of a model's adapter, with the keys that peft's own has. What all matrices of
 * a name have in all layers is said once; else whole names are listed, and what is not as r and alpha say stands in
 * the patterns, which are regular expressions: a name's dots match themselves, too. */
#include "dstrain/model.h"
#include "lora_file.h"
#include "targets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t module_count(const struct ds_model *model)
{
    return model->config.num_hidden_layers * DS_LINEAR_COUNT;
}

/* 1, 0, or -1: in some layers */
static int is_everywhere(const struct ds_model *model, int linear)
{
    uint64_t count = 0;

    for (uint64_t layer = 0; layer < model->config.num_hidden_layers; layer++)
        count += model->factors[layer * DS_LINEAR_COUNT + (uint64_t)linear].module.rank > 0;
    return count == 0 ? 0 : count == model->config.num_hidden_layers ? 1 : -1;
}

static const char *last_part(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot ? dot + 1 : name;
}

static json_t *write_targets(const struct ds_model *model)
{
    json_t *list = json_array();
    char name[TARGET_NAME_BYTES];

    for (int i = 0; i < DS_LINEAR_COUNT; i++)
        if (is_everywhere(model, i) > 0)
            json_array_append_new(list, json_string(last_part(ds_linear_name((enum ds_linear)i))));
    for (uint64_t i = 0; i < module_count(model); i++) {
        if (model->factors[i].module.rank == 0 ||
            is_everywhere(model, (int)(i % DS_LINEAR_COUNT)) > 0)
            continue;
        target_name(i, name);
        json_array_append_new(list, json_string(name));
    }
    return list;
}

/* As peft has it: a whole number where it is one. */
static json_t *number(double value)
{
    return value == floor(value) ? json_integer((json_int_t)value) : json_real(value);
}

/* An alpha that gives this scale; the settings' own where it does. */
static double alpha_of(const struct ds_lora_settings *settings, const struct ds_lora_module *module)
{
    const double rank = (double)module->rank;

    if (module->scale == lora_scale(settings, rank, settings->alpha))
        return settings->alpha;
    return (double)module->scale * (settings->is_rslora ? sqrt(rank) : rank);
}

static void write_patterns(const struct ds_model *model, json_t *ranks, json_t *alphas)
{
    char name[TARGET_NAME_BYTES];

    for (uint64_t i = 0; i < module_count(model); i++) {
        const struct ds_lora_module *module = &model->factors[i].module;
        const double alpha = alpha_of(&model->lora, module);

        target_name(i, name);
        if (module->rank > 0 && module->rank != model->lora.r)
            json_object_set_new(ranks, name, json_integer(module->rank));
        if (module->rank > 0 && alpha != model->lora.alpha)
            json_object_set_new(alphas, name, number(alpha));
    }
}

/* One table where a head is tied: peft would train two without being told. */
static void write_whole(const struct ds_model *model, json_t *root)
{
    const char *at = model->lora.whole;
    const int is_tied = model->config.tie_word_embeddings && whole_has_table(at);
    json_t *list = at[0] ? json_array() : json_null();

    for (size_t bytes; *at; at += bytes + (at[bytes] == ',')) {
        bytes = strcspn(at, ",");
        json_array_append_new(list, json_stringn(at, bytes));
    }
    json_object_set_new(root, "modules_to_save", list);
    if (is_tied)
        json_object_set_new(root, "ensure_weight_tying", json_true());
}

static void write_nulls(json_t *root)
{
    static const char *const keys[] = {"auto_mapping",      "eva_config",     "exclude_modules",
                                       "layer_replication", "layers_pattern", "layers_to_transform",
                                       "megatron_config",   "revision"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set_new(root, keys[i], json_null());
}

static json_t *write_root(const struct ds_model *model, const char *base)
{
    json_t *ranks = json_object(), *alphas = json_object();
    json_t *root = json_pack(
        "{s:s, s:s, s:b, s:b, s:b, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:o}",
        "peft_type", "LORA", "task_type", "CAUSAL_LM", "inference_mode", 1, "fan_in_fan_out", 0,
        "init_lora_weights", 1, "r", json_integer((json_int_t)model->lora.r), "lora_alpha",
        number(model->lora.alpha), "bias", ds_lora_bias_name((enum ds_lora_bias)model->lora.bias),
        "base_model_name_or_path", base[0] ? json_string(base) : json_null(), "lora_dropout",
        number(model->lora.dropout), "rank_pattern", ranks, "alpha_pattern", alphas, "use_rslora",
        model->lora.is_rslora, "use_dora", model->lora.is_dora, "lora_bias", 0, "target_modules",
        write_targets(model));

    if (!root)
        return NULL;
    write_patterns(model, ranks, alphas);
    json_object_set_new(root, "loftq_config", json_object());
    json_object_set_new(root, "megatron_core", json_string("megatron.core"));
    write_whole(model, root);
    write_nulls(root);
    return root;
}

ds_status ds_lora_write(const struct ds_model *model, const char *base, char **text)
{
    json_t *root = write_root(model, base);
    char *made = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;

    json_decref(root);
    if (!made)
        return ds_fail(DS_ERR_NO_MEMORY, "an adapter's config");
    *text = made;
    return DS_OK;
}
