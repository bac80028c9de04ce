/* config_write.c - a config.json that transformers 4 and 5 both load.
 *
 * What one version renamed stands there under both names: torch_dtype and dtype; rope_theta with
 * rope_scaling, and rope_parameters. */
#include "family.h"

#include <stdlib.h>
#include <string.h>

/* jansson keeps quiet about a NULL value and fails the call: one flag for all of them. */
struct writer {
    json_t *object;
    int has_failed;
};

static void put(struct writer *writer, const char *key, json_t *value)
{
    if (json_object_set_new(writer->object, key, value) != 0)
        writer->has_failed = 1;
}

static void put_token(struct writer *writer, const char *key, int64_t id)
{
    put(writer, key, id < 0 ? json_null() : json_integer(id));
}

static void put_rope_numbers(struct writer *writer, const struct ds_rope *rope)
{
    put(writer, "rope_type", json_string(rope_kind_name(rope->kind)));
    if (rope->kind == DS_ROPE_PLAIN)
        return;
    put(writer, "factor", json_real(rope->factor));
    if (rope->kind == DS_ROPE_LINEAR)
        return;
    if (rope->original_max_position_embeddings != 0)
        put(writer, "original_max_position_embeddings",
            json_integer((json_int_t)rope->original_max_position_embeddings));
    if (rope->kind == DS_ROPE_LLAMA3) {
        put(writer, "low_freq_factor", json_real(rope->low_freq_factor));
        put(writer, "high_freq_factor", json_real(rope->high_freq_factor));
        return;
    }
    put(writer, "beta_fast", json_real(rope->beta_fast));
    put(writer, "beta_slow", json_real(rope->beta_slow));
    if (rope->attention_factor != 0)
        put(writer, "attention_factor", json_real(rope->attention_factor));
    if (rope->mscale != 0)
        put(writer, "mscale", json_real(rope->mscale));
    if (rope->mscale_all_dim != 0)
        put(writer, "mscale_all_dim", json_real(rope->mscale_all_dim));
    if (!rope->truncate)
        put(writer, "truncate", json_false());
}

/* rope_theta is a number at the top for transformers 4, and inside rope_parameters for 5. */
static void put_rope(struct writer *writer, const struct ds_rope *rope)
{
    struct writer scaling = {.object = json_object()}, parameters = {.object = json_object()};

    put_rope_numbers(&scaling, rope);
    put_rope_numbers(&parameters, rope);
    put(&parameters, "rope_theta", json_real(rope->theta));
    put(writer, "rope_theta", json_real(rope->theta));
    if (rope->kind == DS_ROPE_PLAIN)
        json_decref(scaling.object);
    put(writer, "rope_scaling", rope->kind == DS_ROPE_PLAIN ? json_null() : scaling.object);
    put(writer, "rope_parameters", parameters.object);
    writer->has_failed |= scaling.has_failed | parameters.has_failed;
}

static const char *torch_name(enum ds_dtype dtype)
{
    return dtype == DS_BF16 ? "bfloat16" : dtype == DS_F16 ? "float16" : "float32";
}

static void put_config(struct writer *writer, struct ds_model_config *config, enum ds_dtype dtype)
{
    const struct family_row *row = &family_rows[config->family];

    put(writer, "architectures", json_pack("[s]", row->architecture));
    put(writer, "model_type", json_string(row->model_type));
    for (size_t i = 0; i < MODEL_SIZE_COUNT; i++)
        put(writer, size_rows[i].key, json_integer((json_int_t)*size_at(config, &size_rows[i])));
    put(writer, "hidden_act", json_string("silu"));
    put(writer, "rms_norm_eps", json_real(config->rms_norm_eps));
    put(writer, "initializer_range", json_real(config->initializer_range));
    put(writer, "tie_word_embeddings", json_boolean(config->tie_word_embeddings));
    if (row->attention_bias_key)
        put(writer, "attention_bias", json_boolean(config->has_o_bias));
    if (row->mlp_bias_key)
        put(writer, "mlp_bias", json_boolean(config->has_mlp_bias));
    if (row->sliding_window_key)
        put(writer, "use_sliding_window", json_false());
    put(writer, "attention_dropout", json_real(0));
    put_rope(writer, &config->rope);
    put_token(writer, "bos_token_id", config->bos_token_id);
    put_token(writer, "eos_token_id", config->eos_token_id);
    put_token(writer, "pad_token_id", config->pad_token_id);
    put(writer, "torch_dtype", json_string(torch_name(dtype)));
    put(writer, "dtype", json_string(torch_name(dtype)));
    put(writer, "use_cache", json_true());
}

/* The fewest digits that read back exactly: 1e-06 and not 9.9999999999999995e-07. */
static char *shortest_text(const json_t *object)
{
    for (size_t digits = 15; digits <= 17; digits++) {
        char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        json_t *back = text ? json_loads(text, 0, NULL) : NULL;
        int is_same = back && json_equal(object, back);

        json_decref(back);
        if (!text || is_same || digits == 17)
            return text;
        free(text);
    }
    return NULL;
}

ds_status ds_model_config_write(const struct ds_model_config *config, enum ds_dtype dtype,
                                char **text)
{
    struct ds_model_config full = *config;
    struct writer writer = {.object = json_object()};
    char *made = NULL;

    ds_model_config_complete(&full);
    put_config(&writer, &full, dtype);
    if (!writer.has_failed)
        made = shortest_text(writer.object);
    json_decref(writer.object);
    if (!made)
        return ds_fail(DS_ERR_NO_MEMORY, "to write config.json");
    *text = made;
    return DS_OK;
}
