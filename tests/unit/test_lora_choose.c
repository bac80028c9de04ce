/* test_lora_choose.c - what an adapter is for, from keys and from PEFT's adapter_config.json: the same matrices either
 * way, what is left out of them, what of the model itself is trained; a config that is written says the same again. */
// link: model base
#include "test.h"

#include "dstrain/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct ds_model_config config_of(enum ds_family family, int is_tied)
{
    struct ds_model_config c;

    ds_model_config_default(family, &c);
    c.vocab_size = 32;
    c.hidden_size = 16;
    c.intermediate_size = 24;
    c.num_hidden_layers = 4;
    c.num_attention_heads = c.num_key_value_heads = 2;
    c.head_dim = 8;
    c.tie_word_embeddings = is_tied;
    return c;
}

/* A digit a layer and a letter a matrix: "0q 0v 2q", of q k v o g u d. */
static const char *said(const struct ds_model_config *config, const struct ds_lora *lora)
{
    static char text[512];
    size_t used = 0;

    text[0] = '\0';
    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++)
        if (lora->modules[i].rank > 0)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s%c%c", used ? " " : "",
                                 (char)('0' + i / DS_LINEAR_COUNT), "qkvogud"[i % DS_LINEAR_COUNT]);
    return text;
}

struct keys {
    const char *targets, *excluded, *layers, *whole;
    int bias, is_dora;
};

static ds_status choose(const struct ds_model_config *config, const struct keys *keys,
                        struct ds_lora *out)
{
    const struct ds_lora_settings settings = {
        .r = 2, .alpha = 4, .bias = keys->bias, .is_dora = keys->is_dora};
    const struct ds_lora_wish wish = {
        .targets = {keys->targets, "targets"},
        .excluded = {keys->excluded ? keys->excluded : "", "excluded"},
        .layers = {keys->layers ? keys->layers : "", "layers"},
        .whole = {keys->whole ? keys->whole : "", "whole"},
        .ranks = {"", "ranks"},
        .alphas = {"", "alphas"}};

    return ds_lora_choose(config, &settings, &wish, out);
}

static ds_status parse(const struct ds_model_config *config, const char *keys, struct ds_lora *out)
{
    char text[2048];

    snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, %s}", keys);
    return ds_lora_parse("adapter_config.json", text, strlen(text), config, out);
}

static void layers_and_exclusions_narrow_the_choice(void **state)
{
    static const struct {
        struct keys keys;
        const char *peft; /* the same */
        const char *want;
    } rows[] = {
        {{.targets = "q_proj v_proj", .layers = "1, 3"},
         "\"target_modules\": [\"q_proj\", \"v_proj\"], \"layers_to_transform\": [1, 3]",
         "1q 1v 3q 3v"},
        {{.targets = "q_proj", .layers = "1-2"},
         "\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [2, 1, 9], "
         "\"layers_pattern\": "
         "\"layers\"",
         "1q 2q"},
        {{.targets = "o_proj", .layers = "0"},
         "\"target_modules\": [\"o_proj\"], \"layers_to_transform\": 0, \"layers_pattern\": "
         "[\"h\", \"layers\"]",
         "0o"},
        {{.targets = "q_proj, up_proj", .excluded = "layers.1.self_attn.q_proj 3.mlp.up_proj"},
         "\"target_modules\": [\"q_proj\", \"up_proj\"], \"exclude_modules\": "
         "[\"layers.1.self_attn.q_proj\", \"3.mlp.up_proj\", \"nothing\"]",
         "0q 0u 1u 2q 2u 3q"},
        {{.targets = "all-linear", .excluded = "/.*(mlp|k_proj|v_proj).*/", .layers = "2"},
         "\"target_modules\": \"all-linear\", \"exclude_modules\": \".*(mlp|k_proj|v_proj).*\", "
         "\"layers_to_transform\": [2]",
         "2q 2o"},
    };
    const struct ds_model_config config = config_of(DS_FAMILY_LLAMA, 0);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ds_lora lora;

        assert_ok(choose(&config, &rows[i].keys, &lora));
        assert_string_equal(said(&config, &lora), rows[i].want);
        ds_lora_fini(&lora);
        assert_ok(parse(&config, rows[i].peft, &lora));
        assert_string_equal(said(&config, &lora), rows[i].want);
        ds_lora_fini(&lora);
    }
}

/* The names of what is trained beside factors, one behind the other. */
static const char *trained(const struct ds_model_config *config, const struct ds_lora *lora)
{
    static char text[4096];
    struct ds_model *model;
    size_t used = 0;

    text[0] = '\0';
    assert_ok(ds_model_open_adapted(config, NULL, lora, &model));
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct ds_param *param = &model->params[i];
        if (param->is_trainable && !param->is_factor)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used ? " " : "",
                                     param->name);
        assert_true(param->is_trainable == !model->units[param->unit].is_frozen);
    }
    ds_model_close(model);
    return text;
}

static void what_is_named_of_the_model_is_trained(void **state)
{
    static const struct {
        enum ds_family family;
        int is_tied;
        struct keys keys;
        const char *want;
    } rows[] = {
        {DS_FAMILY_LLAMA, 0, {.whole = "lm_head"}, "lm_head.weight"},
        {DS_FAMILY_LLAMA,
         0,
         {.whole = "embed_tokens, model.norm"},
         "model.embed_tokens.weight model.norm.weight"},
        {DS_FAMILY_LLAMA,
         0,
         {.whole = "lm_head norm", .layers = "0"},
         "model.norm.weight lm_head.weight model.layers.0.input_layernorm.weight "
         "model.layers.0.post_attention_layernorm.weight model.layers.1.input_layernorm.weight "
         "model.layers.1.post_attention_layernorm.weight model.layers.2.input_layernorm.weight "
         "model.layers.2.post_attention_layernorm.weight model.layers.3.input_layernorm.weight "
         "model.layers.3.post_attention_layernorm.weight"},
        {DS_FAMILY_LLAMA, 1, {.whole = "lm_head"}, "model.embed_tokens.weight"},
        {DS_FAMILY_QWEN3,
         1,
         {.whole = "1.self_attn.q_norm embed_tokens"},
         "model.embed_tokens.weight model.layers.1.self_attn.q_norm.weight"},
        {DS_FAMILY_QWEN2,
         0,
         {.bias = DS_LORA_BIAS_ONLY, .layers = "1-2"},
         "model.layers.1.self_attn.q_proj.bias model.layers.2.self_attn.q_proj.bias"},
        {DS_FAMILY_QWEN2,
         0,
         {.bias = DS_LORA_BIAS_ALL, .whole = "layers.3.input_layernorm"},
         "model.layers.0.self_attn.q_proj.bias model.layers.0.self_attn.k_proj.bias "
         "model.layers.0.self_attn.v_proj.bias model.layers.1.self_attn.q_proj.bias "
         "model.layers.1.self_attn.k_proj.bias model.layers.1.self_attn.v_proj.bias "
         "model.layers.2.self_attn.q_proj.bias model.layers.2.self_attn.k_proj.bias "
         "model.layers.2.self_attn.v_proj.bias model.layers.3.input_layernorm.weight "
         "model.layers.3.self_attn.q_proj.bias model.layers.3.self_attn.k_proj.bias "
         "model.layers.3.self_attn.v_proj.bias"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct ds_model_config config = config_of(rows[i].family, rows[i].is_tied);
        struct keys keys = rows[i].keys;
        struct ds_model *model;
        struct ds_lora lora, again;
        char *text, chosen[512];

        keys.targets = "q_proj";
        keys.is_dora = (int)(i % 2);
        assert_ok(choose(&config, &keys, &lora));
        snprintf(chosen, sizeof chosen, "%s", said(&config, &lora));
        assert_string_equal(trained(&config, &lora), rows[i].want);
        assert_ok(ds_model_open_adapted(&config, NULL, &lora, &model));
        assert_ok(ds_lora_write(model, "base", &text));
        assert_ok(ds_lora_parse("again", text, strlen(text), &config, &again));
        assert_string_equal(trained(&config, &again), rows[i].want);
        assert_string_equal(said(&config, &again), chosen);
        assert_int_equal(again.settings.is_dora, keys.is_dora);
        free(text);
        ds_model_close(model);
        ds_lora_fini(&lora);
        ds_lora_fini(&again);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    static const struct keys keys[] = {
        {.targets = "q_proj", .layers = "4"},
        {.targets = "q_proj", .layers = "2-1"},
        {.targets = "q_proj", .layers = "1x"},
        {.targets = "q_proj", .excluded = "k_prj"},
        {.targets = "q_proj", .excluded = "self_attn.q_proj"},
        {.targets = "layers.1.self_attn.q_proj", .layers = "2"},
        {.targets = "q_proj", .whole = "o_proj"},
        {.targets = "q_proj", .whole = "q_norm"}, /* of another family */
        {.targets = "q_proj", .whole = "embed_tokens nothing"},
    };
    static const struct {
        const char *peft;
        ds_status want;
    } rows[] = {
        {"\"modules_to_save\": [\"embed_tokens\"]",
         DS_ERR_UNSUPPORTED}, /* it would be two tables */
        {"\"modules_to_save\": [\"embed_tokens\"], \"ensure_weight_tying\": true", DS_OK},
        {"\"modules_to_save\": [\"lm_head\"], \"ensure_weight_tying\": false", DS_ERR_UNSUPPORTED},
        {"\"modules_to_save\": [\"norm\"], \"ensure_weight_tying\": false", DS_OK},
        {"\"modules_to_save\": [\"q_proj\"]", DS_ERR_DATA},
        {"\"modules_to_save\": \"norm\"", DS_ERR_DATA},
        {"\"modules_to_save\": []", DS_OK},
        {"\"bias\": \"some\"", DS_ERR_DATA},
        {"\"exclude_modules\": [3]", DS_ERR_DATA},
        {"\"exclude_modules\": [\"q_proj\"]", DS_ERR_DATA},
        {"\"layers_to_transform\": [\"1\"]", DS_ERR_DATA},
        {"\"layers_to_transform\": [7]", DS_ERR_DATA},
        {"\"layers_to_transform\": [1], \"layers_pattern\": \"h\"", DS_ERR_UNSUPPORTED},
    };
    const struct ds_model_config config = config_of(DS_FAMILY_LLAMA, 1);
    struct ds_lora lora;
    char text[512];

    (void)state;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_int_equal(choose(&config, &keys[i], &lora), DS_ERR_DATA);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(text, sizeof text, "\"target_modules\": [\"q_proj\"], %s", rows[i].peft);
        assert_int_equal(parse(&config, text, &lora), rows[i].want);
        if (rows[i].want == DS_OK)
            ds_lora_fini(&lora);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_and_exclusions_narrow_the_choice),
        cmocka_unit_test(what_is_named_of_the_model_is_trained),
        cmocka_unit_test(what_cannot_be_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
