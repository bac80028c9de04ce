/* config_value.c - one value of the table: from text, to text, compared, described. */
#include "config.h"
#include "ini.h"
#include "number.h"

#include <stdio.h>
#include <string.h>

static void *value_at(const struct ds_field *field, struct ds_config *config)
{
    return (char *)config + field->offset;
}

static const void *value_of(const struct ds_field *field, const struct ds_config *config)
{
    return (const char *)config + field->offset;
}

static const struct ds_choice *choice_named(const struct ds_field *field, const char *name)
{
    for (const struct ds_choice *choice = field->choices; choice->name; choice++)
        if (strcmp(choice->name, name) == 0)
            return choice;
    return NULL;
}

/* Of a home: neither the first nor "auto" has one. */
static int has_share(const struct ds_field *field, const struct ds_choice *choice)
{
    return choice != field->choices && choice->value != DS_HOME_AUTO;
}

static void describe_choices(const struct ds_choice *choices, char *to, size_t bytes)
{
    size_t used = 0;

    for (const struct ds_choice *choice = choices; choice->name && used < bytes; choice++) {
        const char *glue = choice == choices ? "" : choice[1].name ? ", " : " or ";
        int length = snprintf(to + used, bytes - used, "%s%s", glue, choice->name);

        used += length > 0 ? (size_t)length : 0;
    }
}

void ds_field_describe(const struct ds_field *field, char *to, size_t bytes)
{
    char min[DS_NUMBER_BYTES], max[DS_NUMBER_BYTES];

    ds_number_print(field->min, min);
    ds_number_print(field->max, max);
    switch (field->kind) {
    case DS_FIELD_COUNT:
        snprintf(to, bytes, "a whole number in %s..%s", min, max);
        break;
    case DS_FIELD_AUTO:
        snprintf(to, bytes, "auto or a whole number in %s..%s", min, max);
        break;
    case DS_FIELD_REAL:
        snprintf(to, bytes, "a number in %s..%s", min, max);
        break;
    case DS_FIELD_BOOL:
        snprintf(to, bytes, "true or false");
        break;
    case DS_FIELD_CHOICE:
    case DS_FIELD_NAME:
        describe_choices(field->choices, to, bytes);
        break;
    case DS_FIELD_TEXT:
        snprintf(to, bytes, "text of at most %zu bytes", field->bytes - 1);
        break;
    case DS_FIELD_HOME:
        describe_choices(field->choices, to, bytes);
        snprintf(to + strlen(to), bytes - strlen(to), ", or %s:SHARE with a share in %s..%s",
                 field->choices[1].name, min, max);
        for (const struct ds_choice *choice = field->choices + 2; choice->name; choice++)
            if (has_share(field, choice))
                snprintf(to + strlen(to), bytes - strlen(to), ", or %s:SHARE", choice->name);
        break;
    }
}

static int parse_count(const struct ds_field *field, const char *text, void *at)
{
    uint64_t count;

    if (field->kind == DS_FIELD_AUTO && strcmp(text, "auto") == 0)
        count = DS_AUTO;
    else if (!ds_number_count(text, &count) || count < (uint64_t)field->min ||
             count > (uint64_t)field->max)
        return 0;
    memcpy(at, &count, sizeof count);
    return 1;
}

static int parse_real(const struct ds_field *field, const char *text, void *at)
{
    double value;

    if (!ds_number_real(text, &value) || value < field->min || value > field->max)
        return 0;
    value = value == 0.0 ? 0.0 : value; /* no negative zero */
    memcpy(at, &value, sizeof value);
    return 1;
}

static int parse_int(const struct ds_field *field, const char *text, void *at)
{
    int value;

    if (field->kind == DS_FIELD_BOOL) {
        value = strcmp(text, "true") == 0;
        if (!value && strcmp(text, "false") != 0)
            return 0;
    } else {
        const struct ds_choice *choice = choice_named(field, text);
        if (!choice)
            return 0;
        value = choice->value;
    }
    memcpy(at, &value, sizeof value);
    return 1;
}

/* The rest of the field is zeroed, so that equal texts are equal bytes. */
static int parse_text(const struct ds_field *field, const char *text, void *at)
{
    const size_t length = strlen(text);

    if (length >= field->bytes || (field->kind == DS_FIELD_NAME && !choice_named(field, text)))
        return 0;
    memset(at, 0, field->bytes);
    memcpy(at, text, length);
    return 1;
}

/* No share of it is the first choice, by whatever name. */
static int parse_home(const struct ds_field *field, const char *text, void *at)
{
    const char *colon = strchr(text, ':');
    struct ds_home_key key = {.share = 1};
    char name[16];

    snprintf(name, sizeof name, "%.*s", colon ? (int)(colon - text) : (int)sizeof name, text);
    const struct ds_choice *choice = choice_named(field, name);
    if (!choice ||
        (colon && (!has_share(field, choice) || !ds_number_real(colon + 1, &key.share))) ||
        !(key.share >= field->min && key.share <= field->max))
        return 0;
    key.home = choice->value;
    if (key.share == 0)
        choice = field->choices;
    if (!has_share(field, choice))
        key = (struct ds_home_key){.home = choice->value};
    memcpy(at, &key, sizeof key);
    return 1;
}

static int parse_value(const struct ds_field *field, const char *text, void *at)
{
    switch (field->kind) {
    case DS_FIELD_COUNT:
    case DS_FIELD_AUTO:
        return parse_count(field, text, at);
    case DS_FIELD_REAL:
        return parse_real(field, text, at);
    case DS_FIELD_BOOL:
    case DS_FIELD_CHOICE:
        return parse_int(field, text, at);
    case DS_FIELD_NAME:
    case DS_FIELD_TEXT:
        return parse_text(field, text, at);
    case DS_FIELD_HOME:
        return parse_home(field, text, at);
    }
    return 0;
}

ds_status ds_field_parse(const struct ds_field *field, const char *place, const char *text,
                         struct ds_config *config)
{
    char allowed[256] = "";
    const char *problem = ds_ini_value_problem(text);

    if (problem)
        return ds_fail(DS_ERR_CONFIG, "%s: the value of [%s] %s holds %s", place, field->section,
                       field->key, problem);
    if (parse_value(field, text, value_at(field, config)))
        return DS_OK;
    ds_field_describe(field, allowed, sizeof allowed);
    return ds_fail(DS_ERR_CONFIG, "%s: [%s] %s = '%.*s%s' must be %s (%s)", place, field->section,
                   field->key, ds_ini_shown(text), text, text[ds_ini_shown(text)] ? "..." : "",
                   allowed, field->help);
}

static void print_int(const struct ds_field *field, int value, char *to, size_t bytes)
{
    const char *name = value ? "true" : "false";

    if (field->kind == DS_FIELD_CHOICE)
        for (const struct ds_choice *choice = field->choices; choice->name; choice++)
            if (choice->value == value)
                name = choice->name;
    snprintf(to, bytes, "%s", name);
}

static void print_home(const struct ds_field *field, const struct ds_home_key *key, char *to,
                       size_t bytes)
{
    const struct ds_choice *choice = field->choices;
    char share[DS_NUMBER_BYTES];

    while (choice->value != key->home)
        choice++;
    ds_number_print(key->share, share);
    if (!has_share(field, choice) || key->share == 1)
        snprintf(to, bytes, "%s", choice->name);
    else
        snprintf(to, bytes, "%s:%s", choice->name, share);
}

void ds_field_print(const struct ds_field *field, const struct ds_config *config, char *to,
                    size_t bytes)
{
    const void *at = value_of(field, config);
    char number[DS_NUMBER_BYTES];

    switch (field->kind) {
    case DS_FIELD_COUNT:
        snprintf(to, bytes, "%llu", (unsigned long long)*(const uint64_t *)at);
        break;
    case DS_FIELD_AUTO:
        if (*(const uint64_t *)at == DS_AUTO)
            snprintf(to, bytes, "auto");
        else
            snprintf(to, bytes, "%llu", (unsigned long long)*(const uint64_t *)at);
        break;
    case DS_FIELD_REAL:
        ds_number_print(*(const double *)at, number);
        snprintf(to, bytes, "%s", number);
        break;
    case DS_FIELD_BOOL:
    case DS_FIELD_CHOICE:
        print_int(field, *(const int *)at, to, bytes);
        break;
    case DS_FIELD_NAME:
    case DS_FIELD_TEXT:
        snprintf(to, bytes, "%s", (const char *)at);
        break;
    case DS_FIELD_HOME:
        print_home(field, at, to, bytes);
        break;
    }
}

int ds_field_equal(const struct ds_field *field, const struct ds_config *a,
                   const struct ds_config *b)
{
    if (field->kind == DS_FIELD_NAME || field->kind == DS_FIELD_TEXT)
        return strcmp(value_of(field, a), value_of(field, b)) == 0;
    return memcmp(value_of(field, a), value_of(field, b), field->bytes) == 0;
}
