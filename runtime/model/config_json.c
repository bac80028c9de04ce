/* config_json.c - an HF config.json becomes a struct ds_model_config.
 *
 * Both spellings are read: that of transformers 4 (rope_theta, rope_scaling) and of 5
 * (rope_parameters). Trusts nothing. What would change the arithmetic and is not implemented is
 * refused; keys nobody here knows are ignored, as transformers ignores them. */
#include "family.h"

#include <inttypes.h>
#include <string.h>

static int is_given(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return value && !json_is_null(value);
}

static ds_status read_family(const char *name, const json_t *root, enum ds_family *out)
{
    const char *type = NULL;

    DS_TRY(ds_json_text(name, root, "model_type", &type));
    if (!type)
        return ds_fail(DS_ERR_DATA, "%s: no 'model_type'; is this the config.json of a model?",
                       name);
    if (!ds_family_parse(type, out))
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s: 'model_type' is '%.64s'; supported: llama, qwen2, qwen3", name, type);
    return DS_OK;
}

static ds_status read_sizes(const char *name, const json_t *root, struct ds_model_config *config)
{
    for (size_t i = 0; i < MODEL_SIZE_COUNT; i++) {
        const struct size_row *row = &size_rows[i];
        uint64_t *value = size_at(config, row);

        DS_TRY(ds_json_u64(name, root, row->key, row->min, row->max, value));
        if (!is_given(root, row->key) && row->is_essential) {
            *value = row->absent[config->family];
            if (ds_log.is_leader)
                ds_warn("%s: no '%s'; %" PRIu64 " is what transformers takes for a %s", name,
                        row->key, *value, ds_family_name(config->family));
        }
    }
    return DS_OK;
}

static ds_status read_biases(const char *name, const json_t *root, struct ds_model_config *config)
{
    const struct family_row *row = &family_rows[config->family];

    if (row->attention_bias_key) {
        DS_TRY(ds_json_bool(name, root, "attention_bias", &config->has_qkv_bias));
        config->has_o_bias = config->has_qkv_bias;
    }
    if (row->mlp_bias_key)
        DS_TRY(ds_json_bool(name, root, "mlp_bias", &config->has_mlp_bias));
    return DS_OK;
}

/* An id, null or -1 for none, or a list of ids of which the first counts. */
static ds_status read_token(const char *name, const json_t *root, const char *key, uint64_t rows,
                            int64_t *out)
{
    const json_t *value = json_object_get(root, key);

    if (!value)
        return DS_OK;
    if (json_is_array(value) && json_array_size(value) > 0)
        value = json_array_get(value, 0);
    if (json_is_null(value) || json_is_array(value)) {
        *out = -1;
        return DS_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < -1 ||
        json_integer_value(value) > INT32_MAX)
        return ds_fail(DS_ERR_DATA, "%s: key '%s' must be a token id, a list of them or null", name,
                       key);
    *out = json_integer_value(value);
    if (*out >= 0 && (uint64_t)*out >= rows && ds_log.is_leader)
        ds_warn("%s: '%s' is %" PRId64 ", but the vocabulary has %" PRIu64 " rows", name, key, *out,
                rows);
    return DS_OK;
}

static ds_status refuse_activation(const char *name, const json_t *root)
{
    const char *act = "silu";
    double dropout = 0;

    DS_TRY(ds_json_text(name, root, "hidden_act", &act));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: 'hidden_act' is '%.64s'; supported: silu", name,
                       act);
    DS_TRY(ds_json_real(name, root, "attention_dropout", 0, 1, &dropout));
    if (dropout > 0)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s: 'attention_dropout' is %g; supported: 0 (there is no dropout)", name,
                       dropout);
    return DS_OK;
}

static ds_status refuse_layer_types(const char *name, const json_t *root)
{
    const json_t *types = json_object_get(root, "layer_types");

    if (!types || json_is_null(types))
        return DS_OK;
    if (!json_is_array(types))
        return ds_fail(DS_ERR_DATA, "%s: key 'layer_types' must be a list", name);
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (!type)
            return ds_fail(DS_ERR_DATA, "%s: 'layer_types' must hold texts only", name);
        if (strcmp(type, "full_attention") != 0)
            return ds_fail(DS_ERR_UNSUPPORTED,
                           "%s: 'layer_types' has '%.64s'; supported: full_attention", name, type);
    }
    return DS_OK;
}

/* Used only if use_sliding_window is true, and only in layers from max_window_layers on. */
static ds_status refuse_sliding_window(const char *name, const json_t *root,
                                       const struct ds_model_config *config)
{
    int is_used = 0;
    uint64_t first = 28;

    if (!family_rows[config->family].sliding_window_key)
        return DS_OK;
    DS_TRY(ds_json_bool(name, root, "use_sliding_window", &is_used));
    DS_TRY(ds_json_u64(name, root, "max_window_layers", 0, INT32_MAX, &first));
    if (is_used && !json_is_null(json_object_get(root, "sliding_window")) &&
        first < config->num_hidden_layers)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s: sliding-window attention in layers %" PRIu64
                       " and up; supported: use_sliding_window = false",
                       name, first);
    return DS_OK;
}

/* What bitsandbytes makes says itself, tensor by tensor, how it is quantised. */
static ds_status refuse_quantised(const char *name, const json_t *root)
{
    const json_t *config = json_object_get(root, "quantization_config");
    const char *method = json_string_value(json_object_get(config, "quant_method"));

    if (!is_given(root, "quantization_config") || (method && strcmp(method, "bitsandbytes") == 0))
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED,
                   "%s: 'quantization_config': quantised weights; supported: float weights, and "
                   "quant_method = bitsandbytes",
                   name);
}

static ds_status refuse_what_is_missing(const char *name, const json_t *root,
                                        const struct ds_model_config *config)
{
    DS_TRY(refuse_activation(name, root));
    DS_TRY(refuse_layer_types(name, root));
    DS_TRY(refuse_sliding_window(name, root, config));
    return refuse_quantised(name, root);
}

static ds_status read_config(const char *name, const json_t *root, struct ds_model_config *config)
{
    DS_TRY(read_family(name, root, &config->family));
    ds_model_config_default(config->family, config);
    DS_TRY(read_sizes(name, root, config));
    DS_TRY(ds_json_real(name, root, "rms_norm_eps", 0, 1, &config->rms_norm_eps));
    DS_TRY(ds_json_real(name, root, "initializer_range", 0, DS_MODEL_INIT_RANGE_MAX,
                        &config->initializer_range));
    DS_TRY(ds_json_bool(name, root, "tie_word_embeddings", &config->tie_word_embeddings));
    DS_TRY(read_biases(name, root, config));
    DS_TRY(refuse_what_is_missing(name, root, config));
    DS_TRY(rope_read(name, root, &config->rope));
    DS_TRY(read_token(name, root, "bos_token_id", config->vocab_size, &config->bos_token_id));
    DS_TRY(read_token(name, root, "eos_token_id", config->vocab_size, &config->eos_token_id));
    DS_TRY(read_token(name, root, "pad_token_id", config->vocab_size, &config->pad_token_id));
    DS_TRY(ds_model_config_check(name, config));
    ds_model_config_complete(config);
    return DS_OK;
}

ds_status ds_model_config_parse(const char *name, const char *text, size_t bytes,
                                struct ds_model_config *out)
{
    struct ds_model_config config;
    json_t *root = NULL;

    DS_TRY(ds_json_parse(name, text, bytes, &root));
    ds_status st = read_config(name, root, &config);
    json_decref(root);
    if (st == DS_OK)
        *out = config;
    return st;
}
