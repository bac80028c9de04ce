/* whole.c - what of the model itself an adapter trains beside its factors: biases by kind, and modules by the ends of
 * their names, as PEFT's modules_to_save means them: embeddings, the head, norms. A matrix of the layers has factors
 * instead. A head that is tied to the embedding is the same table: the name of either means both. */
#include "lora_file.h"
#include "params.h"

#include <stdio.h>
#include <string.h>

const char *ds_lora_bias_name(enum ds_lora_bias bias)
{
    static const char *const names[DS_LORA_BIAS_COUNT] = {[DS_LORA_BIAS_NONE] = "none",
                                                          [DS_LORA_BIAS_ALL] = "all",
                                                          [DS_LORA_BIAS_ONLY] = "lora_only"};

    return names[bias];
}

static const char separators[] = ", \t";

/* The next of a list's names, and its length; 0: there is none. */
static size_t next_name(const char **at)
{
    *at += strspn(*at, separators);
    return strcspn(*at, separators);
}

static int is_end(const char *name, size_t length, const char *end, size_t bytes)
{
    return bytes <= length && memcmp(name + length - bytes, end, bytes) == 0;
}

/* Does the list name this module? Its name has `length` characters. */
static int is_named(const char *list, const char *module, size_t length)
{
    for (size_t bytes; (bytes = next_name(&list)) > 0; list += bytes)
        if (is_end(module, length, list, bytes))
            return 1;
    return 0;
}

#define EMBEDDING "model.embed_tokens"
#define HEAD      "lm_head"

int whole_has_table(const char *list)
{
    return is_named(list, EMBEDDING, strlen(EMBEDDING)) || is_named(list, HEAD, strlen(HEAD));
}

/* Of a matrix that has factors? */
static int is_beside_factors(const struct ds_model *model, const char *bias)
{
    char name[sizeof model->params->name];

    for (uint64_t i = 0; i < model->config.num_hidden_layers * DS_LINEAR_COUNT; i++) {
        if (model->factors[i].module.rank == 0)
            continue;
        snprintf(name, sizeof name, "model.layers.%llu.%s.bias",
                 (unsigned long long)(i / DS_LINEAR_COUNT),
                 ds_linear_name((enum ds_linear)(i % DS_LINEAR_COUNT)));
        if (strcmp(name, bias) == 0)
            return 1;
    }
    return 0;
}

int ds_lora_wraps(const struct ds_model *model, const struct ds_param *param)
{
    return ds_model_is_adapted(model) && !param->is_factor && is_beside_factors(model, param->name);
}

int whole_is_trained(const struct ds_model *model, const char *name, int is_bias)
{
    const struct ds_lora_settings *settings = &model->lora;
    const char *end = strrchr(name, '.'); /* ".weight" */

    if (is_bias)
        return settings->bias == DS_LORA_BIAS_ALL ||
               (settings->bias == DS_LORA_BIAS_ONLY && is_beside_factors(model, name));
    if (model->config.tie_word_embeddings && strncmp(name, EMBEDDING ".", sizeof EMBEDDING) == 0)
        return whole_has_table(settings->whole);
    return is_named(settings->whole, name, (size_t)(end - name));
}

/* ---- names that somebody has given */

static const char *const layer_norms[] = {"input_layernorm", "post_attention_layernorm",
                                          "self_attn.q_norm", "self_attn.k_norm"};

static int is_end_of(const char *module, const char *name, size_t bytes)
{
    return is_end(module, strlen(module), name, bytes);
}

static int means_norm(const struct ds_model_config *config, const char *name, size_t bytes)
{
    char module[96];

    if (is_end_of("model.norm", name, bytes))
        return 1;
    for (uint64_t layer = 0; layer < config->num_hidden_layers; layer++)
        for (size_t i = 0; i < (config->has_qk_norm ? 4u : 2u); i++) {
            snprintf(module, sizeof module, "model.layers.%llu.%s", (unsigned long long)layer,
                     layer_norms[i]);
            if (is_end_of(module, name, bytes))
                return 1;
        }
    return 0;
}

static int means_matrix(const struct ds_model_config *config, const char *name, size_t bytes)
{
    char module[96];

    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++) {
        snprintf(module, sizeof module, "model.layers.%llu.%s",
                 (unsigned long long)(i / DS_LINEAR_COUNT),
                 ds_linear_name((enum ds_linear)(i % DS_LINEAR_COUNT)));
        if (is_end_of(module, name, bytes))
            return 1;
    }
    return 0;
}

static ds_status check_name(const char *what, const struct ds_model_config *config,
                            const char *name, size_t bytes)
{
    const int shown = bytes < 200 ? (int)bytes : 200;

    if (means_matrix(config, name, bytes))
        return ds_fail(DS_ERR_DATA,
                       "%s: '%.*s' is a matrix of the layers, which gets factors; trained as they "
                       "are: embed_tokens, lm_head, norms",
                       what, shown, name);
    if (is_end_of(EMBEDDING, name, bytes) || is_end_of(HEAD, name, bytes) ||
        means_norm(config, name, bytes))
        return DS_OK;
    return ds_fail(DS_ERR_DATA,
                   "%s: '%.*s' matches nothing; there are embed_tokens, lm_head, norm and, in each "
                   "layer, input_layernorm, post_attention_layernorm%s",
                   what, shown, name, config->has_qk_norm ? ", q_norm, k_norm" : "");
}

ds_status whole_take(const char *what, const struct ds_model_config *config, const char *list,
                     char to[DS_LORA_WHOLE_BYTES])
{
    size_t used = 0;

    to[0] = '\0';
    for (size_t bytes; (bytes = next_name(&list)) > 0; list += bytes) {
        DS_TRY(check_name(what, config, list, bytes));
        if (used + bytes + 2 > DS_LORA_WHOLE_BYTES)
            return ds_fail(DS_ERR_DATA, "%s: more than %d characters", what,
                           DS_LORA_WHOLE_BYTES - 1);
        used += (size_t)snprintf(to + used, DS_LORA_WHOLE_BYTES - used, "%s%.*s", used ? "," : "",
                                 (int)bytes, list);
    }
    return DS_OK;
}
