/* template.c - what stands around a text: the "post_processor" of a tokenizer.json, and the bos, eos and pad of
 * tokenizer_config.json. */
#include "model.h"

#include <string.h>

enum { AROUND_MAX = 64 };

/* {"<s>": {"ids": [1]}} */
static ds_status add_special(const char *name, const json_t *specials, const char *id,
                             struct ds_token_list *out)
{
    const json_t *ids = json_object_get(json_object_get(specials, id), "ids");

    if (json_array_size(ids) == 0)
        return ds_fail(DS_ERR_DATA, "%s: post_processor: special token '%.80s' has no ids", name,
                       id);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *value = json_array_get(ids, i);
        const json_int_t number = json_integer_value(value);

        if (!json_is_integer(value) || number < 0 || number > (json_int_t)TOK_ID_MAX)
            return ds_fail(DS_ERR_DATA, "%s: post_processor: the ids of '%.80s' must be in 0..%u",
                           name, id, TOK_ID_MAX);
        if (out->count == AROUND_MAX)
            return ds_fail(DS_ERR_DATA, "%s: post_processor: more than %d tokens around a text",
                           name, AROUND_MAX);
        DS_TRY(ds_token_list_add(out, (uint32_t)number));
    }
    return DS_OK;
}

/* One entry of "single": a special token, or the text itself. */
static ds_status load_entry(const char *name, const json_t *entry, const json_t *specials,
                            int *has_text, struct ds_tokenizer *tokenizer)
{
    const json_t *special = json_object_get(entry, "SpecialToken");
    const char *id = NULL;

    if (special) {
        DS_TRY(ds_json_text(name, special, "id", &id));
        return add_special(name, specials, id ? id : "",
                           *has_text ? &tokenizer->after : &tokenizer->before);
    }
    if (!json_object_get(entry, "Sequence") || *has_text)
        return ds_fail(DS_ERR_DATA,
                       "%s: post_processor: 'single' must have the text once, and "
                       "special tokens",
                       name);
    *has_text = 1;
    return DS_OK;
}

static ds_status load_template(const char *name, const json_t *json, struct ds_tokenizer *tokenizer)
{
    const json_t *single = json_object_get(json, "single");
    int has_text = 0;

    if (tokenizer->before.count || tokenizer->after.count)
        return ds_fail(DS_ERR_DATA, "%s: post_processor: there are two templates", name);
    if (!json_is_array(single))
        return ds_fail(DS_ERR_DATA, "%s: post_processor: 'single' must be a list", name);
    for (size_t i = 0; i < json_array_size(single); i++)
        DS_TRY(load_entry(name, json_array_get(single, i), json_object_get(json, "special_tokens"),
                          &has_text, tokenizer));
    return has_text ? DS_OK
                    : ds_fail(DS_ERR_DATA, "%s: post_processor: 'single' lacks the text", name);
}

/* ByteLevel here is about places in the text, not about tokens. */
static ds_status load_processor(const char *name, const json_t *json, void *user)
{
    const char *type = "";

    DS_TRY(tok_part_type(name, json, "post_processor", &type));
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(name, json, user);
    return strcmp(type, "ByteLevel") == 0
               ? DS_OK
               : tok_part_unknown(name, "post_processor", type,
                                  "TemplateProcessing, ByteLevel, Sequence");
}

ds_status tok_template_load(const char *name, const json_t *json, struct ds_tokenizer *tokenizer)
{
    struct ds_tokenizer_marks *marks = &tokenizer->marks;

    DS_TRY(tok_part_each(name, json, "post_processor", "processors", load_processor, tokenizer));
    for (size_t i = 0; i < tokenizer->before.count + tokenizer->after.count; i++) {
        const uint32_t id = i < tokenizer->before.count
                                ? tokenizer->before.ids[i]
                                : tokenizer->after.ids[i - tokenizer->before.count];
        if (tok_vocabulary_text(&tokenizer->vocabulary, id).bytes == 0)
            return ds_fail(DS_ERR_DATA, "%s: post_processor: no token has the id %u", name, id);
    }
    if (tokenizer->before.count > 0) {
        marks->has_bos = 1;
        marks->bos = tokenizer->before.ids[0];
    }
    if (tokenizer->after.count > 0) {
        marks->has_eos = 1;
        marks->eos = tokenizer->after.ids[tokenizer->after.count - 1];
    }
    return DS_OK;
}

/* ---- tokenizer_config.json */

/* "bos_token": "<s>" or {"content": "<s>"}; absent or null: `*has` stays */
static ds_status find_mark(const char *name, const json_t *json, const char *key,
                           const struct ds_tokenizer *tokenizer, int *has, uint32_t *id)
{
    const json_t *value = json_object_get(json, key);
    const char *text = NULL;

    if (json_is_object(value))
        DS_TRY(ds_json_text(name, value, "content", &text));
    else
        DS_TRY(ds_json_text(name, json, key, &text));
    if (!text || !text[0])
        return DS_OK;
    if (!ds_tokenizer_find(tokenizer, text, id))
        return ds_fail(DS_ERR_DATA, "%s: %s '%.80s' is not in the tokenizer", name, key, text);
    *has = 1;
    return DS_OK;
}

ds_status tok_settings_load(const char *name, const json_t *json, struct ds_tokenizer *tokenizer)
{
    struct ds_tokenizer_marks *marks = &tokenizer->marks;
    int has_bos = 0, adds_bos = tokenizer->before.count > 0;
    uint32_t bos = 0;

    DS_TRY(find_mark(name, json, "bos_token", tokenizer, &has_bos, &bos));
    DS_TRY(ds_json_bool(name, json, "add_bos_token", &adds_bos));
    if (has_bos && adds_bos) {
        marks->has_bos = 1;
        marks->bos = bos;
    } else if (!adds_bos) {
        marks->has_bos = 0;
    }
    DS_TRY(find_mark(name, json, "eos_token", tokenizer, &marks->has_eos, &marks->eos));
    return find_mark(name, json, "pad_token", tokenizer, &marks->has_pad, &marks->pad);
}
