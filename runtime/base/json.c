/* json.c - the habits around jansson. Texts come from files that others made: every message names
 * the text, bytes that could steer a terminal become '?', and nesting is limited before jansson,
 * which recurses, sees it. */
#include "dstrain/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 64

static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

/* The deepest nesting of brackets outside of strings. What is not JSON at all is jansson's to say. */
static size_t depth_of(const char *text, size_t bytes)
{
    size_t depth = 0, deepest = 0;
    int in_string = 0;

    for (size_t i = 0; i < bytes; i++) {
        const char c = text[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '{' || c == '[') {
            depth++;
            deepest = depth > deepest ? depth : deepest;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

/* The value in words, for "..., is ...". */
static const char *describe(const json_t *value, char *to, size_t bytes)
{
    switch (json_typeof(value)) {
    case JSON_INTEGER:
        snprintf(to, bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(to, bytes, "%.17g", json_real_value(value));
        if (!strpbrk(to, ".e")) /* what makes 42.0 another thing than 42 */
            strcat(to, ".0");
        break;
    case JSON_STRING:
        snprintf(to, bytes, "the text \"%.60s\"", json_string_value(value));
        make_printable(to);
        break;
    case JSON_ARRAY:
        snprintf(to, bytes, "an array");
        break;
    case JSON_OBJECT:
        snprintf(to, bytes, "an object");
        break;
    case JSON_TRUE:
        snprintf(to, bytes, "true");
        break;
    case JSON_FALSE:
        snprintf(to, bytes, "false");
        break;
    default:
        snprintf(to, bytes, "null");
    }
    return to;
}

ds_status ds_json_parse(const char *name, const char *text, size_t bytes, json_t **out)
{
    json_error_t error;
    json_t *root;
    char words[96];

    if (depth_of(text, bytes) > DEPTH_MAX)
        return ds_fail(DS_ERR_DATA, "%s: JSON is nested deeper than %d levels", name, DEPTH_MAX);
    root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for %zu bytes of JSON", name, bytes);
    if (!root) {
        make_printable(error.text);
        return ds_fail(DS_ERR_DATA, "%s:%d:%d: not valid JSON: %s", name, error.line, error.column,
                       error.text);
    }
    if (!json_is_object(root)) {
        describe(root, words, sizeof words);
        json_decref(root);
        return ds_fail(DS_ERR_DATA, "%s: must be a JSON object, is %s", name, words);
    }
    *out = root;
    return DS_OK;
}

ds_status ds_json_try(const char *text, size_t bytes, json_t **out, char why[DS_JSON_WHY_BYTES])
{
    json_error_t error = {0};

    *out = NULL;
    if (depth_of(text, bytes) > DEPTH_MAX) {
        snprintf(why, DS_JSON_WHY_BYTES, "it is nested deeper than %d levels", DEPTH_MAX);
        return DS_OK;
    }
    *out =
        json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (*out)
        return DS_OK;
    if (json_error_code(&error) == json_error_out_of_memory)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for %zu bytes of JSON", bytes);
    make_printable(error.text);
    snprintf(why, DS_JSON_WHY_BYTES, "%.120s, at character %d", error.text, error.column);
    return DS_OK;
}

/* NULL: absent or null, the default stays. */
static const json_t *field_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

static ds_status fail_field(const char *name, const char *key, const char *wanted,
                            const json_t *value)
{
    char words[96];

    return ds_fail(DS_ERR_DATA, "%s: key '%s' must be %s, is %s", name, key, wanted,
                   describe(value, words, sizeof words));
}

ds_status ds_json_u64(const char *name, const json_t *object, const char *key, uint64_t min,
                      uint64_t max, uint64_t *out)
{
    const json_t *value = field_of(object, key);
    const json_int_t number = value ? json_integer_value(value) : 0;
    char wanted[96];

    if (!value)
        return DS_OK;
    if (json_is_integer(value) && number >= 0 && (uint64_t)number >= min &&
        (uint64_t)number <= max) {
        *out = (uint64_t)number;
        return DS_OK;
    }
    snprintf(wanted, sizeof wanted, "an integer in %" PRIu64 "..%" PRIu64, min, max);
    return fail_field(name, key, wanted, value);
}

ds_status ds_json_real(const char *name, const json_t *object, const char *key, double min,
                       double max, double *out)
{
    const json_t *value = field_of(object, key);
    const double number = value ? json_number_value(value) : 0;
    char wanted[96];

    if (!value)
        return DS_OK;
    if (json_is_number(value) && number >= min && number <= max) {
        *out = number;
        return DS_OK;
    }
    snprintf(wanted, sizeof wanted, "a number in %g..%g", min, max);
    return fail_field(name, key, wanted, value);
}

ds_status ds_json_bool(const char *name, const json_t *object, const char *key, int *out)
{
    const json_t *value = field_of(object, key);

    if (!value)
        return DS_OK;
    if (!json_is_boolean(value))
        return fail_field(name, key, "true or false", value);
    *out = json_is_true(value);
    return DS_OK;
}

ds_status ds_json_text(const char *name, const json_t *object, const char *key, const char **out)
{
    const json_t *value = field_of(object, key);

    if (!value)
        return DS_OK;
    if (!json_is_string(value))
        return fail_field(name, key, "a text", value);
    *out = json_string_value(value);
    return DS_OK;
}
