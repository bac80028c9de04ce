/* config.c - a whole configuration: presets, then the file, then the command line, each value through
 * the same path with its own place in the errors; then what follows from what; then back to text. */
#include "config.h"
#include "ini.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void ds_config_preset(struct ds_config *out)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (field->preset && ds_field_parse(field, "preset", field->preset, out) != DS_OK)
            DS_ASSERT(!"a preset is a legal value");
    }
}

struct reader {
    struct ds_config *config;
    uint32_t section_line[32]; /* by index in the table; 0: not yet */
};

static ds_status unknown_section(const char *place, const char *section)
{
    char hint[128];

    ds_config_hint_section(section, hint, sizeof hint);
    return ds_fail(DS_ERR_CONFIG, "%s: unknown section [%s]%s", place, section, hint);
}

static ds_status read_section(struct reader *reader, const char *place,
                              const struct ds_ini_item *item)
{
    const struct ds_section *section = ds_section_find(item->section);
    uint32_t *line;

    if (!section)
        return unknown_section(place, item->section);
    line = &reader->section_line[section - ds_config_sections];
    if (*line != 0)
        return ds_fail(DS_ERR_CONFIG, "%s: section [%s] again; the first is on line %u", place,
                       item->section, *line);
    *line = item->line;
    return DS_OK;
}

/* One value from wherever it comes; `line` is DS_PLACE_OVERRIDE for the command line. */
static ds_status read_value(struct reader *reader, const char *place, uint32_t line,
                            const char *section, const char *key, const char *value)
{
    const struct ds_field *field = ds_field_find(section, key);
    char hint[160];

    if (!field) {
        ds_config_hint_key(section, key, hint, sizeof hint);
        return ds_fail(DS_ERR_CONFIG, "%s: unknown key '%s' in [%s]%s", place, key, section, hint);
    }
    uint32_t *first = &reader->config->places.line[ds_field_index(field)];
    if (*first == line && line == DS_PLACE_OVERRIDE)
        return ds_fail(DS_ERR_CONFIG, "%s: %s.%s is given twice", place, section, key);
    if (*first != 0 && line != DS_PLACE_OVERRIDE)
        return ds_fail(DS_ERR_CONFIG, "%s: key '%s' in [%s] again; the first is on line %u", place,
                       key, section, *first);
    *first = line;
    return ds_field_parse(field, place, value, reader->config);
}

static ds_status read_item(void *user, const struct ds_ini_item *item)
{
    char place[DS_PLACE_BYTES];

    snprintf(place, sizeof place, "%s:%u", item->name, item->line);
    if (!item->key)
        return read_section(user, place, item);
    return read_value(user, place, item->line, item->section, item->key, item->value);
}

/* A key without its section is the likeliest slip. */
static ds_status malformed_override(const char *text)
{
    const size_t length = strcspn(text, "=");
    char hint[128] = "";

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (strlen(field->key) == length && memcmp(field->key, text, length) == 0)
            snprintf(hint, sizeof hint, "; did you mean '%s.%s=...'?", field->section, field->key);
    }
    return ds_fail(DS_ERR_CONFIG, "command line: '%.*s' must read section.key=value%s",
                   ds_ini_shown(text), text, hint);
}

static ds_status read_override(struct reader *reader, const char *text)
{
    const char *equals = strchr(text, '=');
    const char *dot = strchr(text, '.');
    char section[64], key[64];

    if (ds_ini_text_problem(text, strlen(text)))
        return ds_fail(DS_ERR_CONFIG, "command line: an override holds %s",
                       ds_ini_text_problem(text, strlen(text)));
    if (!equals || !dot || dot > equals || dot == text || equals == dot + 1 || text[0] == '-' ||
        (size_t)(dot - text) >= sizeof section || (size_t)(equals - dot) > sizeof key)
        return malformed_override(text);
    snprintf(section, sizeof section, "%.*s", (int)(dot - text), text);
    snprintf(key, sizeof key, "%.*s", (int)(equals - dot - 1), dot + 1);
    if (!ds_section_find(section))
        return unknown_section("command line", section);
    return read_value(reader, "command line", DS_PLACE_OVERRIDE, section, key, equals + 1);
}

ds_status ds_config_parse(const char *name, const char *text, size_t bytes,
                          const char *const *overrides, size_t override_count,
                          struct ds_config *out)
{
    struct reader reader = {.config = out};

    DS_ASSERT(ds_config_section_count <= sizeof reader.section_line / sizeof(uint32_t));
    ds_config_preset(out);
    snprintf(out->places.name, sizeof out->places.name, "%s", name);
    DS_TRY(ds_ini_parse(name, text, bytes, read_item, &reader));
    for (size_t i = 0; i < override_count; i++)
        DS_TRY(read_override(&reader, overrides[i]));
    return DS_OK;
}

const char *ds_config_place(const struct ds_config *config, const char *section, const char *key,
                            char to[DS_PLACE_BYTES])
{
    const struct ds_places *places = &config->places;
    const char *name = places->name[0] ? places->name : "configuration";
    const struct ds_field *field = ds_field_find(section, key);

    DS_ASSERT(field);
    const uint32_t line = places->line[ds_field_index(field)];
    if (line == DS_PLACE_OVERRIDE)
        snprintf(to, DS_PLACE_BYTES, "command line");
    else if (line == 0)
        snprintf(to, DS_PLACE_BYTES, "%s", name);
    else
        snprintf(to, DS_PLACE_BYTES, "%s:%u", name, line);
    return to;
}

const char *ds_config_key(const struct ds_config *config, const char *section, const char *key,
                          char to[DS_KEY_BYTES])
{
    char place[DS_PLACE_BYTES];

    snprintf(to, DS_KEY_BYTES, "%s: [%s] %s", ds_config_place(config, section, key, place), section,
             key);
    return to;
}

int ds_config_has_text(const struct ds_config *config)
{
    return config->data.format == DS_DATA_TEXT || config->data.format == DS_DATA_JSONL;
}

int ds_config_has_eval(const struct ds_config *config)
{
    return config->data.eval[0] != '\0' || config->data.eval_share > 0;
}

int ds_config_has_byte_text(const struct ds_config *config)
{
    return ds_config_has_text(config) && strcmp(config->data.tokenizer, "bytes") == 0;
}

/* A folder brings its own shape, and perhaps a tokenizer; that of a file is asked where files are read. What stays DS_AUTO here is what ds_config_validate complains about. */
static void resolve_model(struct ds_config *config)
{
    const uint64_t heads = config->model.num_attention_heads;

    if (config->model.path[0] != '\0')
        return;
    if (config->data.tokenizer[0] == '\0')
        snprintf(config->data.tokenizer, sizeof config->data.tokenizer, "bytes");
    if (config->model.num_key_value_heads == DS_AUTO)
        config->model.num_key_value_heads = heads;
    if (config->model.head_dim == DS_AUTO && config->model.family == DS_FAMILY_QWEN3)
        config->model.head_dim = 128;
    if (config->model.head_dim == DS_AUTO && heads > 0 && config->model.hidden_size % heads == 0)
        config->model.head_dim = config->model.hidden_size / heads;
    if (config->model.vocab_size == DS_AUTO && ds_config_has_byte_text(config))
        config->model.vocab_size = DS_BYTE_VOCAB;
    if (config->model.max_position_embeddings == DS_AUTO)
        config->model.max_position_embeddings = config->train.seq_length;
}

/* What lies in the run's directory where nobody names another place. */
static void resolve_place(const struct ds_config *config, const char *name, char to[DS_TEXT_MAX])
{
    const size_t length = strlen(config->run.dir);
    const char *glue = length > 0 && config->run.dir[length - 1] == '/' ? "" : "/";

    if (to[0] == '\0' && length > 0 && length + strlen(name) + 2 < DS_TEXT_MAX)
        snprintf(to, DS_TEXT_MAX, "%.*s%s%s", (int)length, config->run.dir, glue, name);
}

/* For data, behind tensor and pipeline; at least 1, so that rules find something to speak about. */
static uint64_t ranks_left(const struct ds_config *config, uint64_t rank_count)
{
    const uint64_t left = rank_count / (config->parallel.tensor * config->parallel.pipeline);

    return left > 0 ? left : 1;
}

static uint64_t *count_at(const struct ds_field *field, struct ds_config *config)
{
    return (uint64_t *)(void *)((char *)config + field->offset);
}

static void note_what_is_auto(struct ds_config *config)
{
    for (size_t i = 0; i < ds_config_field_count; i++)
        if ((ds_config_fields[i].flags & DS_FIELD_FOLLOWS) &&
            *count_at(&ds_config_fields[i], config) == DS_AUTO)
            config->places.was_auto[i] = 1;
}

int ds_config_was_auto(const struct ds_config *config, const char *section, const char *key)
{
    const struct ds_field *field = ds_field_find(section, key);

    DS_ASSERT(field && (field->flags & DS_FIELD_FOLLOWS));
    return config->places.was_auto[ds_field_index(field)];
}

void ds_config_unresolve(struct ds_config *config)
{
    for (size_t i = 0; i < ds_config_field_count; i++)
        if (config->places.was_auto[i])
            *count_at(&ds_config_fields[i], config) = DS_AUTO;
    if (config->zero.reshard_is_auto)
        config->zero.reshard_after_forward = DS_RESHARD_KEY_AUTO;
}

void ds_config_resolve(struct ds_config *config, uint64_t rank_count)
{
    note_what_is_auto(config);
    resolve_model(config);
    resolve_place(config, "data", config->data.cache);
    resolve_place(config, "checkpoints", config->checkpoint.dir);
    if (config->parallel.data == DS_AUTO && rank_count > 0)
        config->parallel.data = ranks_left(config, rank_count);
    if (config->parallel.shard == DS_AUTO)
        config->parallel.shard = config->parallel.data;
}

/* Keys without a value, and those that model.path, lora.adapter or lora.r = 0 exclude, would not be accepted when read
 * again. */
static int is_printed(const struct ds_field *field, const struct ds_config *config)
{
    if ((field->flags & DS_FIELD_SHAPES_MODEL) && config->model.path[0] != '\0')
        return 0;
    if ((field->flags & DS_FIELD_SHAPES_ADAPTER) &&
        (config->lora.adapter[0] != '\0' || (config->lora.r == 0 && strcmp(field->key, "r") != 0)))
        return 0;
    return field->preset || *(const uint64_t *)((const char *)config + field->offset) != 0;
}

static void print_to(FILE *out, const struct ds_config *config)
{
    char value[DS_TEXT_MAX];
    const char *section = "";

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (!is_printed(field, config))
            continue;
        if (strcmp(section, field->section) != 0)
            fprintf(out, "%s[%s]\n", section[0] ? "\n" : "", field->section);
        section = field->section;
        ds_field_print(field, config, value, sizeof value);
        fprintf(out, "%s =%s%s\n", field->key, value[0] ? " " : "", value);
    }
}

ds_status ds_config_print(const struct ds_config *config, char **text)
{
    size_t bytes = 0;
    char *made = NULL;
    FILE *out = open_memstream(&made, &bytes);

    if (!out)
        return ds_fail(DS_ERR_NO_MEMORY, "configuration as text: %s", strerror(errno));
    print_to(out, config);
    int is_bad = ferror(out);
    if (fclose(out) != 0 || is_bad) {
        free(made);
        return ds_fail(DS_ERR_NO_MEMORY, "the configuration as text");
    }
    *text = made;
    return DS_OK;
}

ds_status ds_config_hash(const struct ds_config *config, uint64_t *hash)
{
    char *text = NULL;

    DS_TRY(ds_config_print(config, &text));
    *hash = XXH3_64bits(text, strlen(text));
    free(text);
    return DS_OK;
}

int ds_config_directory(const struct ds_config *config, uint32_t index, char to[DS_TEXT_MAX])
{
    const char *at = config->offload.directories;

    for (;;) {
        const size_t part = strcspn(at, ","), blanks = strspn(at, " \t");
        size_t length = part > blanks ? part - blanks : 0;

        while (length > 0 && (at[blanks + length - 1] == ' ' || at[blanks + length - 1] == '\t' ||
                              (at[blanks + length - 1] == '/' && length > 1)))
            length--;
        if (length > 0 && index-- == 0) {
            memcpy(to, at + blanks, length);
            to[length] = '\0';
            return 1;
        }
        if (at[part] == '\0')
            return 0;
        at += part + 1;
    }
}
