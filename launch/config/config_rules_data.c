/* config_rules_data.c - the keys of jsonl: what they say of other formats would be passed over quietly. */
#include "config_rules.h"

#include <string.h>

static int is_preset(const struct ds_config *config, const char *key)
{
    const struct ds_field *field = ds_field_find("data", key);
    char value[DS_TEXT_MAX];

    DS_ASSERT(field);
    ds_field_print(field, config, value, sizeof value);
    return strcmp(value, field->preset) == 0;
}

static ds_status other_formats_have_no_rows(const struct ds_config *config)
{
    static const char *const keys[] = {"rows",       "chat_template",  "chat_start", "chat_system",
                                       "chat_user",  "chat_assistant", "chat_tool",  "chat_end",
                                       "train_on",   "packing",        "overlong",   "malformed",
                                       "line_limit", "eval_share"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!is_preset(config, keys[i]))
            return ds_config_refuse(config, "data", keys[i], "%s",
                                    "is about rows of JSONL: it needs [data] format = jsonl");
    return DS_OK;
}

static int is_jsonl(const char *path)
{
    const size_t length = strlen(path);

    return length > 6 && strcmp(path + length - 6, ".jsonl") == 0;
}

/* Whoever has not said that it is text does not want to learn brackets and names of fields. */
static ds_status text_is_no_jsonl(const struct ds_rule_check *check, const char *key,
                                  const char *list)
{
    const struct ds_config *config = check->config;
    char where[DS_KEY_BYTES];
    struct ds_data_parts parts;
    ds_status st = DS_OK;

    if (config->data.format != DS_DATA_TEXT || list[0] == '\0' ||
        ds_rule_is_written(check, "data", "format"))
        return DS_OK;
    DS_TRY(ds_data_parts_parse(ds_config_key(config, "data", key, where), list, &parts));
    for (size_t i = 0; i < parts.count && st == DS_OK; i++)
        if (is_jsonl(parts.parts[i].path))
            st = ds_config_refuse(config, "data", key,
                                  "names %s: is it rows, [data] format = jsonl, or plain text all "
                                  "the same, format = text?",
                                  parts.parts[i].path);
    ds_data_parts_fini(&parts);
    return st;
}

static ds_status templates_are_whole(const struct ds_config *config)
{
    static const char *const keys[] = {"chat_start",     "chat_system", "chat_user",
                                       "chat_assistant", "chat_tool",   "chat_end"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (config->data.chat_template != DS_CHAT_CUSTOM && !is_preset(config, keys[i]))
            return ds_config_refuse(config, "data", keys[i], "%s",
                                    "is part of a template of one's own: it needs [data] "
                                    "chat_template = custom");
    return DS_OK;
}

ds_status ds_rule_rows(const struct ds_rule_check *check)
{
    const struct ds_config *config = check->config;

    DS_TRY(text_is_no_jsonl(check, "train", config->data.train));
    DS_TRY(text_is_no_jsonl(check, "eval", config->data.eval));
    if (config->data.format != DS_DATA_JSONL)
        return other_formats_have_no_rows(config);
    DS_TRY(templates_are_whole(config));
    if (config->data.invalid_utf8)
        return ds_config_refuse(config, "data", "invalid_utf8", "%s",
                                "= replace has no meaning with format = jsonl: a line that is not "
                                "UTF-8 is malformed ([data] malformed)");
    if (config->data.eval_share > 0 && config->data.eval[0] != '\0')
        return ds_config_refuse(config, "data", "eval_share", "= %g: %s", config->data.eval_share,
                                "[data] eval says already what is evaluated on");
    if (config->data.eval_share > 0 && config->data.train[0] == '\0')
        return ds_config_refuse(config, "data", "eval_share", "= %g: %s", config->data.eval_share,
                                "[data] train is missing, of which it is a share");
    return DS_OK;
}
