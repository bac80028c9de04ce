/* part.c - the habits of a tokenizer.json: a part is an object with a "type", or a Sequence of parts. */
#include "part.h"

#include <string.h>

enum { DEPTH_MAX = 4 };

ds_status tok_part_type(const char *name, const json_t *json, const char *part, const char **out)
{
    const char *type = NULL;

    if (!json_is_object(json))
        return ds_fail(DS_ERR_DATA, "%s: a %s must be an object", name, part);
    DS_TRY(ds_json_text(name, json, "type", &type));
    if (!type)
        return ds_fail(DS_ERR_DATA, "%s: a %s has no 'type'", name, part);
    *out = type;
    return DS_OK;
}

ds_status tok_part_unknown(const char *name, const char *part, const char *type, const char *known)
{
    return ds_fail(DS_ERR_DATA, "%s: %s '%.40s' is not supported (there are %s)", name, part, type,
                   known);
}

static ds_status each(const char *name, const json_t *json, const char *part, const char *list,
                      tok_part_load *load, void *user, int depth)
{
    const json_t *parts;
    const char *type = "";

    DS_TRY(tok_part_type(name, json, part, &type));
    if (strcmp(type, "Sequence") != 0)
        return load(name, json, user);
    parts = json_object_get(json, list);
    if (!json_is_array(parts))
        return ds_fail(DS_ERR_DATA, "%s: a %s of type Sequence has no list '%s'", name, part, list);
    if (depth == DEPTH_MAX)
        return ds_fail(DS_ERR_DATA, "%s: %s: sequences inside sequences, more than %d deep", name,
                       part, DEPTH_MAX);
    for (size_t i = 0; i < json_array_size(parts); i++)
        DS_TRY(each(name, json_array_get(parts, i), part, list, load, user, depth + 1));
    return DS_OK;
}

ds_status tok_part_each(const char *name, const json_t *json, const char *part, const char *list,
                        tok_part_load *load, void *user)
{
    return !json || json_is_null(json) ? DS_OK : each(name, json, part, list, load, user, 0);
}

ds_status tok_part_text(const char *name, const json_t *json, const char *key, struct tok_text *out)
{
    const json_t *value = json_object_get(json, key);

    if (!json_is_string(value))
        return ds_fail(DS_ERR_DATA, "%s: key '%s' must be a text", name, key);
    *out = (struct tok_text){(const uint8_t *)json_string_value(value), json_string_length(value)};
    return DS_OK;
}

ds_status tok_part_char(const char *name, const json_t *json, const char *key, uint32_t *out)
{
    const json_t *value = json_object_get(json, key);
    struct tok_text text;
    size_t at = 0;
    uint32_t code;

    if (!value || json_is_null(value))
        return DS_OK;
    DS_TRY(tok_part_text(name, json, key, &text));
    code = text.bytes ? tok_utf8_next(text, &at) : 0;
    if (text.bytes == 0 || at != text.bytes)
        return ds_fail(DS_ERR_DATA, "%s: key '%s' must be one character", name, key);
    *out = code;
    return DS_OK;
}

ds_status tok_part_pattern(const char *name, const json_t *json, struct tok_pattern *out)
{
    const json_t *pattern = json_object_get(json, "pattern");
    struct tok_text text;

    if (!json_is_object(pattern))
        return ds_fail(DS_ERR_DATA, "%s: key 'pattern' must be an object", name);
    if (json_object_get(pattern, "Regex")) {
        DS_TRY(tok_part_text(name, pattern, "Regex", &text));
        return tok_pattern_compile(name, text, out);
    }
    DS_TRY(tok_part_text(name, pattern, "String", &text));
    return tok_pattern_literal(name, text, out);
}
