/* lora_read.c - an adapter_config.json as PEFT writes it: settings, the matrices that are meant, and what single ones
 * have otherwise. What is not here would change what an adapter computes, and is refused by its name; all other keys
 * are PEFT's own business. */
#include "lora_file.h"
#include "targets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *name; /* of the file */
    const json_t *root;
    const struct ds_model_config *config;
    struct ds_lora *lora;
    uint8_t *chosen;
};

/* ---- what cannot be */

static int is_nothing(const json_t *value)
{
    return !value || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static ds_status refuse_unknown(const struct reader *r)
{
    static const char *const keys[] = {
        "lora_bias",         "fan_in_fan_out", "layer_replication",      "trainable_token_indices",
        "target_parameters", "use_qalora",     "alora_invocation_tokens"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!is_nothing(json_object_get(r->root, keys[i])))
            return ds_fail(DS_ERR_UNSUPPORTED,
                           "%s: '%s' is set; supported: factors, DoRA, biases, modules_to_save of "
                           "embeddings, heads and norms",
                           r->name, keys[i]);
    return DS_OK;
}

/* Some ways to begin change the model's own matrices, too. */
static ds_status refuse_init(const struct reader *r)
{
    const json_t *init = json_object_get(r->root, "init_lora_weights");
    const char *text = json_string_value(init);

    if (text && strcmp(text, "gaussian") != 0)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s: 'init_lora_weights' is '%.64s', which changes the model itself; "
                       "supported: true, false, gaussian",
                       r->name, text);
    return DS_OK;
}

static ds_status refuse_others(const struct reader *r)
{
    const char *type = "LORA";

    DS_TRY(ds_json_text(r->name, r->root, "peft_type", &type));
    if (strcmp(type, "LORA") != 0)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: 'peft_type' is '%.64s'; supported: LORA", r->name,
                       type);
    DS_TRY(refuse_unknown(r));
    return refuse_init(r);
}

/* ---- which matrices */

/* PEFT passes over names that match nothing, as long as one does. */
static ds_status choose_list(struct reader *r, const json_t *list)
{
    uint64_t found, all = 0;
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        if (!json_is_string(entry))
            return ds_fail(DS_ERR_DATA, "%s: 'target_modules' must hold texts only", r->name);
        const struct target target = {.text = json_string_value(entry),
                                      .bytes = json_string_length(entry)};
        DS_TRY(target_match(r->name, r->config, &target, r->chosen, &found));
        all += found;
    }
    const char *first = json_string_value(json_array_get(list, 0));
    if (all > 0)
        return DS_OK;
    return target_refuse(
        r->name, r->config,
        &(struct target){.text = first ? first : "", .bytes = first ? strlen(first) : 0});
}

static ds_status choose_targets(struct reader *r)
{
    const json_t *targets = json_object_get(r->root, "target_modules");
    const size_t count = (size_t)r->config->num_hidden_layers * DS_LINEAR_COUNT;
    const struct target target = {
        .text = json_string_value(targets), .bytes = json_string_length(targets), .is_pattern = 1};
    uint64_t found;

    if (json_is_array(targets))
        return choose_list(r, targets);
    if (!target.text)
        return ds_fail(DS_ERR_DATA, "%s: 'target_modules' must be a text or a list of texts",
                       r->name);
    if (strcmp(target.text, "all-linear") == 0) {
        memset(r->chosen, 1, count);
        return DS_OK;
    }
    DS_TRY(target_match(r->name, r->config, &target, r->chosen, &found));
    return found > 0 ? DS_OK : target_refuse(r->name, r->config, &target);
}

/* A name or a list of names, one of which is meant; a name alone is a regular expression. */
static ds_status exclude(struct reader *r, uint8_t *excluded)
{
    const json_t *key = json_object_get(r->root, "exclude_modules");
    const size_t count = json_is_array(key) ? json_array_size(key) : 1;
    uint64_t found;

    if (is_nothing(key))
        return DS_OK;
    for (size_t i = 0; i < count; i++) {
        const json_t *entry = json_is_array(key) ? json_array_get(key, i) : key;
        const struct target target = {.text = json_string_value(entry),
                                      .bytes = json_string_length(entry),
                                      .is_pattern = !json_is_array(key)};

        if (!target.text)
            return ds_fail(DS_ERR_DATA, "%s: 'exclude_modules' must hold texts only", r->name);
        DS_TRY(target_match(r->name, r->config, &target, excluded, &found));
    }
    for (size_t i = 0; i < r->config->num_hidden_layers * DS_LINEAR_COUNT; i++)
        r->chosen[i] = (uint8_t)(r->chosen[i] && !excluded[i]);
    return DS_OK;
}

/* The layers lie in a list of that name in every model here. */
static ds_status check_layers_pattern(const struct reader *r)
{
    const json_t *pattern = json_object_get(r->root, "layers_pattern"), *entry;
    size_t i;

    if (is_nothing(pattern) ||
        (json_is_string(pattern) &&
         (json_string_length(pattern) == 0 || strcmp(json_string_value(pattern), "layers") == 0)))
        return DS_OK;
    json_array_foreach(pattern, i,
                       entry) if (json_is_string(entry) &&
                                  strcmp(json_string_value(entry), "layers") == 0) return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "%s: 'layers_pattern' is not 'layers'", r->name);
}

/* Of targets that are names. A layer that is not there changes nothing, as in PEFT. */
static ds_status keep_layers(struct reader *r)
{
    const json_t *key = json_object_get(r->root, "layers_to_transform");
    const size_t count = json_is_array(key) ? json_array_size(key) : 1;
    const uint64_t layers = r->config->num_hidden_layers;

    if (!json_is_integer(key) && is_nothing(key))
        return DS_OK;
    DS_TRY(check_layers_pattern(r));
    for (uint64_t layer = 0; layer < layers; layer++) {
        int is_kept = 0;
        for (size_t i = 0; i < count; i++) {
            const json_t *entry = json_is_array(key) ? json_array_get(key, i) : key;
            if (!json_is_integer(entry))
                return ds_fail(DS_ERR_DATA, "%s: 'layers_to_transform' must be numbers of layers",
                               r->name);
            is_kept |= json_integer_value(entry) == (json_int_t)layer;
        }
        if (!is_kept)
            memset(r->chosen + layer * DS_LINEAR_COUNT, 0, DS_LINEAR_COUNT);
    }
    return DS_OK;
}

static ds_status choose_modules(struct reader *r)
{
    uint8_t *excluded;
    ds_status st;

    DS_TRY(choose_targets(r));
    excluded = calloc((size_t)r->config->num_hidden_layers * DS_LINEAR_COUNT, 1);
    st = excluded ? exclude(r, excluded) : ds_fail(DS_ERR_NO_MEMORY, "an adapter's matrices");
    free(excluded);
    DS_TRY(st);
    DS_TRY(keep_layers(r));
    return layers_check(r->name, r->config, r->chosen);
}

/* ---- what single ones have otherwise */

/* values[i] where a key of the object matches matrix i: of several the first. */
static ds_status read_pattern(struct reader *r, const char *key, double max, double *values)
{
    json_t *object = json_object_get(r->root, key), *value;
    const size_t count = (size_t)r->config->num_hidden_layers * DS_LINEAR_COUNT;
    const char *text;
    uint64_t found;

    if (is_nothing(object))
        return DS_OK;
    if (!json_is_object(object))
        return ds_fail(DS_ERR_DATA, "%s: '%s' must be an object", r->name, key);
    json_object_foreach(object, text, value)
    {
        const double number = json_number_value(value);
        const struct target target = {
            .text = text, .bytes = strlen(text), .is_pattern = 1, .takes_ends = 1};

        if (!json_is_number(value) || !(number > 0 && number <= max))
            return ds_fail(DS_ERR_DATA, "%s: '%s' of '%.100s' must be a number in 0..%g", r->name,
                           key, text, max);
        memset(r->chosen, 0, count);
        DS_TRY(target_match(r->name, r->config, &target, r->chosen, &found));
        lora_note(r->config, r->chosen, number, values);
    }
    return DS_OK;
}

static ds_status apply_patterns(struct reader *r, double *ranks, double *alphas)
{
    DS_TRY(read_pattern(r, "rank_pattern", DS_LORA_RANK_MAX, ranks));
    DS_TRY(read_pattern(r, "alpha_pattern", DS_LORA_ALPHA_MAX, alphas));
    return lora_apply(r->name, r->config, ranks, alphas, r->lora);
}

/* ---- what of the model itself is trained */

static ds_status read_bias(const struct reader *r, int *out)
{
    const char *bias = ds_lora_bias_name(DS_LORA_BIAS_NONE);

    DS_TRY(ds_json_text(r->name, r->root, "bias", &bias));
    for (*out = 0; *out < DS_LORA_BIAS_COUNT; ++*out)
        if (strcmp(bias, ds_lora_bias_name((enum ds_lora_bias) * out)) == 0)
            return DS_OK;
    return ds_fail(DS_ERR_DATA, "%s: 'bias' is '%.64s'; there are none, all, lora_only", r->name,
                   bias);
}

/* Apart from a tied head PEFT trains a copy of the embedding, unless it is told to keep them one. */
static ds_status check_tied(const struct reader *r, const char *names)
{
    int is_kept = 0;

    DS_TRY(ds_json_bool(r->name, r->root, "ensure_weight_tying", &is_kept));
    if (is_kept || !r->config->tie_word_embeddings || !whole_has_table(names))
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED,
                   "%s: 'modules_to_save' has the embedding or the head of a model that ties them, "
                   "without 'ensure_weight_tying': they have become two, which this model cannot "
                   "have",
                   r->name);
}

static ds_status read_whole(const struct reader *r, struct ds_lora_settings *out)
{
    const json_t *names = json_object_get(r->root, "modules_to_save"), *name;
    char list[4 * DS_LORA_WHOLE_BYTES] = "";
    size_t used = 0, i;

    if (is_nothing(names))
        return DS_OK;
    if (!json_is_array(names))
        return ds_fail(DS_ERR_DATA, "%s: 'modules_to_save' must be a list", r->name);
    json_array_foreach(names, i, name)
    {
        if (!json_is_string(name) || used + json_string_length(name) + 2 > sizeof list)
            return ds_fail(DS_ERR_DATA, "%s: 'modules_to_save' must hold few short texts", r->name);
        used += (size_t)snprintf(list + used, sizeof list - used, "%s,", json_string_value(name));
    }
    DS_TRY(check_tied(r, list));
    return whole_take(r->name, r->config, list, out->whole);
}

/* ---- all of it */

static ds_status read_settings(const struct reader *r, struct ds_lora_settings *out)
{
    *out = (struct ds_lora_settings){.r = 8, .alpha = 8};
    DS_TRY(ds_json_u64(r->name, r->root, "r", 1, DS_LORA_RANK_MAX, &out->r));
    DS_TRY(ds_json_real(r->name, r->root, "lora_alpha", 0, DS_LORA_ALPHA_MAX, &out->alpha));
    DS_TRY(ds_json_real(r->name, r->root, "lora_dropout", 0, DS_LORA_DROPOUT_MAX, &out->dropout));
    if (!(out->alpha > 0))
        return ds_fail(DS_ERR_DATA, "%s: 'lora_alpha' must be more than 0", r->name);
    DS_TRY(ds_json_bool(r->name, r->root, "use_rslora", &out->is_rslora));
    DS_TRY(ds_json_bool(r->name, r->root, "use_dora", &out->is_dora));
    DS_TRY(read_bias(r, &out->bias));
    return read_whole(r, out);
}

static ds_status read_modules(struct reader *r)
{
    const size_t count = (size_t)r->config->num_hidden_layers * DS_LINEAR_COUNT;
    double *numbers = calloc(2 * count, sizeof *numbers);
    ds_status st = DS_OK;

    r->chosen = calloc(count, 1);
    if (!r->chosen || !numbers)
        st = ds_fail(DS_ERR_NO_MEMORY, "the list of an adapter's matrices");
    if (st == DS_OK)
        st = choose_modules(r);
    if (st == DS_OK) {
        lora_fill(r->config, r->chosen, r->lora);
        st = apply_patterns(r, numbers, numbers + count);
    }
    free(r->chosen);
    free(numbers);
    return st;
}

static ds_status read_all(struct reader *r)
{
    struct ds_lora_settings settings;

    DS_TRY(refuse_others(r));
    DS_TRY(read_settings(r, &settings));
    DS_TRY(lora_take(r->config, &settings, r->lora));
    return read_modules(r);
}

ds_status ds_lora_parse(const char *name, const char *text, size_t bytes,
                        const struct ds_model_config *config, struct ds_lora *out)
{
    struct ds_lora lora = {0};
    json_t *root = NULL;

    DS_TRY(ds_json_parse(name, text, bytes, &root));
    struct reader r = {.name = name, .root = root, .config = config, .lora = &lora};
    ds_status st = read_all(&r);
    json_decref(root);
    if (st != DS_OK) {
        ds_lora_fini(&lora);
        return st;
    }
    *out = lora;
    return DS_OK;
}
