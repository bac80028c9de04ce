/* family.c - the families of models: names, defaults, and which numbers fit together.
 *
 * Pure. The one place that knows what a model_type implies (models.md 1.1, 1.2): qwen2's biases and
 * qwen3's head norms are not in their files. */
#include "family.h"

#include <inttypes.h>
#include <string.h>

const struct family_row family_rows[DS_FAMILY_COUNT] = {
    [DS_FAMILY_LLAMA] = {.model_type = "llama",
                         .architecture = "LlamaForCausalLM",
                         .attention_bias_key = 1,
                         .mlp_bias_key = 1,
                         .bos_token_id = 1,
                         .eos_token_id = 2},
    [DS_FAMILY_QWEN2] = {.model_type = "qwen2",
                         .architecture = "Qwen2ForCausalLM",
                         .has_qkv_bias = 1,
                         .sliding_window_key = 1,
                         .bos_token_id = -1,
                         .eos_token_id = -1},
    [DS_FAMILY_QWEN3] = {.model_type = "qwen3",
                         .architecture = "Qwen3ForCausalLM",
                         .has_qk_norm = 1,
                         .attention_bias_key = 1,
                         .sliding_window_key = 1,
                         .bos_token_id = -1,
                         .eos_token_id = -1},
};

/* clang-format off */
#define SIZE(key, min, max, llama, qwen2, qwen3, is_essential)                             \
    {#key, offsetof(struct ds_model_config, key), min, max, {llama, qwen2, qwen3}, is_essential}
const struct size_row size_rows[MODEL_SIZE_COUNT] = {
    SIZE(vocab_size,              1, DS_MODEL_VOCAB_MAX, 32000, 151936, 151936, 1),
    SIZE(hidden_size,             1, DS_MODEL_HIDDEN_MAX,   4096,   4096,   4096, 1),
    SIZE(intermediate_size,       1, DS_MODEL_INTERMEDIATE_MAX,  11008,  22016,  22016, 1),
    SIZE(num_hidden_layers,       1, DS_MODEL_LAYERS_MAX,     32,     32,     32, 1),
    SIZE(num_attention_heads,     1, DS_MODEL_HEADS_MAX,     32,     32,     32, 1),
    SIZE(num_key_value_heads,     1, DS_MODEL_HEADS_MAX,      0,      0,      0, 0),
    SIZE(head_dim,                DS_MODEL_HEAD_DIM_MIN, DS_MODEL_HEAD_DIM_MAX,          0,      0,    128, 0),
    SIZE(max_position_embeddings, 1, DS_MODEL_POSITIONS_MAX,  2048,  32768,  32768, 0),
};
/* clang-format on */

uint64_t *size_at(struct ds_model_config *config, const struct size_row *row)
{
    return (uint64_t *)((char *)config + row->offset);
}

int ds_family_parse(const char *model_type, enum ds_family *out)
{
    for (int i = 0; i < DS_FAMILY_COUNT; i++)
        if (strcmp(model_type, family_rows[i].model_type) == 0) {
            *out = (enum ds_family)i;
            return 1;
        }
    return 0;
}

const char *ds_family_name(enum ds_family family)
{
    return family_rows[family].model_type;
}

void ds_model_config_default(enum ds_family family, struct ds_model_config *out)
{
    const struct family_row *row = &family_rows[family];

    *out = (struct ds_model_config){
        .family = family,
        .rms_norm_eps = 1e-6,
        .initializer_range = 0.02,
        .has_qkv_bias = row->has_qkv_bias,
        .has_qk_norm = row->has_qk_norm,
        .rope = {.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .truncate = 1},
        .bos_token_id = row->bos_token_id,
        .eos_token_id = row->eos_token_id,
        .pad_token_id = -1,
    };
    for (size_t i = 0; i < MODEL_SIZE_COUNT; i++)
        if (!size_rows[i].is_essential)
            *size_at(out, &size_rows[i]) = size_rows[i].absent[family];
}

void ds_model_config_complete(struct ds_model_config *config)
{
    if (config->num_key_value_heads == 0)
        config->num_key_value_heads = config->num_attention_heads;
    if (config->head_dim == 0 && config->num_attention_heads > 0 &&
        config->hidden_size % config->num_attention_heads == 0)
        config->head_dim = config->hidden_size / config->num_attention_heads;
}

static ds_status check_sizes(const char *name, struct ds_model_config *config)
{
    for (size_t i = 0; i < MODEL_SIZE_COUNT; i++) {
        const struct size_row *row = &size_rows[i];
        uint64_t value = *size_at(config, row);

        if (value == 0 && row->is_essential)
            return ds_fail(DS_ERR_DATA, "%s: '%s' must be given", name, row->key);
        if (value < row->min || value > row->max)
            return ds_fail(DS_ERR_DATA, "%s: '%s' must be in %" PRIu64 "..%" PRIu64 ", is %" PRIu64,
                           name, row->key, row->min, row->max, value);
    }
    return DS_OK;
}

static ds_status check_heads(const char *name, const struct ds_model_config *config)
{
    if (config->num_attention_heads % config->num_key_value_heads != 0)
        return ds_fail(DS_ERR_DATA,
                       "%s: 'num_attention_heads' (%" PRIu64
                       ") must be a multiple of 'num_key_value_heads' (%" PRIu64 ")",
                       name, config->num_attention_heads, config->num_key_value_heads);
    if (config->head_dim % 2 != 0)
        return ds_fail(DS_ERR_DATA, "%s: 'head_dim' must be even (rope turns pairs), is %" PRIu64,
                       name, config->head_dim);
    return DS_OK;
}

/* A combination that the family's file cannot express would be lost in an export. */
static ds_status check_flags(const char *name, const struct ds_model_config *config)
{
    const struct family_row *row = &family_rows[config->family];
    int has_bias = row->attention_bias_key && config->has_o_bias;

    if (config->has_qk_norm != row->has_qk_norm ||
        config->has_qkv_bias != (row->has_qkv_bias || has_bias) || config->has_o_bias != has_bias ||
        (config->has_mlp_bias && !row->mlp_bias_key))
        return ds_fail(DS_ERR_DATA, "%s: these biases and head norms do not exist in a %s model",
                       name, row->model_type);
    return DS_OK;
}

ds_status ds_model_config_check(const char *name, const struct ds_model_config *config)
{
    struct ds_model_config full = *config;

    DS_ASSERT(config->family < DS_FAMILY_COUNT);
    ds_model_config_complete(&full);
    if (full.head_dim == 0 && full.num_attention_heads > 0 && full.hidden_size > 0)
        return ds_fail(DS_ERR_DATA,
                       "%s: 'hidden_size' (%" PRIu64
                       ") must be a multiple of 'num_attention_heads' (%" PRIu64
                       "), or 'head_dim' be given",
                       name, full.hidden_size, full.num_attention_heads);
    DS_TRY(check_sizes(name, &full));
    DS_TRY(check_heads(name, &full));
    DS_TRY(check_flags(name, &full));
    if (!(full.rms_norm_eps >= 0 && full.rms_norm_eps <= 1))
        return ds_fail(DS_ERR_DATA, "%s: 'rms_norm_eps' must be in 0..1, is %g", name,
                       full.rms_norm_eps);
    if (!(full.initializer_range >= 0 && full.initializer_range <= DS_MODEL_INIT_RANGE_MAX))
        return ds_fail(DS_ERR_DATA, "%s: 'initializer_range' must be in 0..%g, is %g", name,
                       DS_MODEL_INIT_RANGE_MAX, full.initializer_range);
    return rope_check(name, &full);
}
