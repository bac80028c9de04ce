/* command_line.c - the arguments of a subcommand that takes a configuration: its options, the file and the
 * overrides, in any order. */
#include "command.h"
#include "config/ini.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAKES_BYTES 256

int ds_command_asks_help(const struct ds_command_row *row, int argc, char **argv)
{
    const int count = row->flags & DS_COMMAND_FILE ? argc : argc > 0;

    for (int i = 0; i < count; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return 1;
    return 0;
}

uint32_t ds_command_number(const struct ds_command *command, const char *option)
{
    for (int i = 0; i < DS_COMMAND_OPTIONS_MAX && command->row->options[i].name; i++)
        if (strcmp(command->row->options[i].name, option) == 0)
            return command->numbers[i];
    DS_ASSERT(!"an option of the row");
    return 0;
}

/* ---- options */

/* "dstrain plan takes --ranks N, section.key=value and --help" */
static const char *say_takes(const struct ds_command_row *row, char to[TAKES_BYTES])
{
    int at = snprintf(to, TAKES_BYTES, "dstrain%s%s takes ", row->name[0] ? " " : "", row->name);

    for (int i = 0; i < DS_COMMAND_OPTIONS_MAX && row->options[i].name; i++)
        at += snprintf(to + at, TAKES_BYTES - (size_t)at, "%s N, ", row->options[i].name);
    snprintf(to + at, TAKES_BYTES - (size_t)at, "section.key=value and --help");
    return to;
}

static ds_status refuse_option(const struct ds_command_row *row, const char *name, const char *word)
{
    const char *names[DS_COMMAND_OPTIONS_MAX], *near;
    char takes[TAKES_BYTES];
    size_t count = 0;

    while (count < DS_COMMAND_OPTIONS_MAX && row->options[count].name) {
        names[count] = row->options[count].name;
        count++;
    }
    near = ds_config_hint_word(name, names, count);
    return ds_fail(DS_ERR_CONFIG, "unknown option '%.*s'%s%s%s; %s", ds_ini_shown(word), word,
                   near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "",
                   say_takes(row, takes));
}

static ds_status read_number(const struct ds_command_option *option, const char *text,
                             uint32_t *out)
{
    char *end;
    const unsigned long value = strtoul(text, &end, 10);

    if (*out)
        return ds_fail(DS_ERR_CONFIG, "%s is given twice", option->name);
    if (text[0] < '0' || text[0] > '9' || *end || value < option->least || value > option->most)
        return ds_fail(DS_ERR_CONFIG, "%s = '%.*s' must be a whole number in %u..%u", option->name,
                       ds_ini_shown(text), text, option->least, option->most);
    *out = (uint32_t)value;
    return DS_OK;
}

/* `next`: the word behind it, or NULL; `*used`: of the two, 1 where the number is behind '=' */
static ds_status read_option(struct ds_command *command, const char *word, const char *next,
                             int *used)
{
    const struct ds_command_option *options = command->row->options;
    const size_t bytes = strcspn(word, "=");
    char name[32];

    snprintf(name, sizeof name, "%.*s", (int)(bytes < sizeof name ? bytes : sizeof name - 1), word);
    *used = word[bytes] ? 1 : 2;
    for (int i = 0; i < DS_COMMAND_OPTIONS_MAX && options[i].name; i++) {
        if (strcmp(options[i].name, name) != 0)
            continue;
        if (!word[bytes] && !next)
            return ds_fail(DS_ERR_CONFIG, "%s: a whole number in %u..%u is missing behind it", name,
                           options[i].least, options[i].most);
        return read_number(&options[i], word[bytes] ? word + bytes + 1 : next,
                           &command->numbers[i]);
    }
    return refuse_option(command->row, name, word);
}

/* What is left over are the file and the overrides. */
static ds_status take_options(struct ds_command *command)
{
    int left = 0, used;

    for (int i = 0; i < command->argc; i += used) {
        char *word = command->argv[i];

        used = 1;
        if (word[0] == '-' && word[1])
            DS_TRY(read_option(command, word, i + 1 < command->argc ? command->argv[i + 1] : NULL,
                               &used));
        else
            command->argv[left++] = word;
    }
    command->argc = left;
    return DS_OK;
}

/* ---- the file */

/* A file may be called `a=1/c.ini`, too. */
static int is_override(const char *word)
{
    const char *equals = strchr(word, '=');

    return equals && !memchr(word, '/', (size_t)(equals - word));
}

static int begins_with_section(const char *word)
{
    const char *dot = strchr(word, '.');
    char section[64];

    if (!dot || (size_t)(dot - word) >= sizeof section)
        return 0;
    snprintf(section, sizeof section, "%.*s", (int)(dot - word), word);
    return ds_section_find(section) != NULL;
}

/* Or -1. A file `a=1.ini` is one where no other word can be. */
static int find_file(const struct ds_command *command)
{
    for (int i = 0; i < command->argc; i++)
        if (!is_override(command->argv[i]))
            return i;
    for (int i = 0; i < command->argc; i++)
        if (!begins_with_section(command->argv[i]))
            return i;
    return -1;
}

/* A key without its value: the configuration's own words say what is missing. */
static int is_key(const char *word)
{
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        const size_t section = strlen(field->section);

        if (strcmp(word, field->key) == 0 ||
            (strncmp(word, field->section, section) == 0 && word[section] == '.' &&
             strcmp(word + section + 1, field->key) == 0))
            return 1;
    }
    return 0;
}

static ds_status refuse_second_file(const struct ds_command *command, const char *word)
{
    char takes[TAKES_BYTES];

    return ds_fail(DS_ERR_CONFIG, "'%.*s' beside '%.*s': one configuration file is read; %s",
                   ds_ini_shown(word), word, ds_ini_shown(command->argv[0]), command->argv[0],
                   say_takes(command->row, takes));
}

ds_status ds_command_arrange(struct ds_command *command)
{
    int at;

    DS_TRY(take_options(command));
    at = find_file(command);
    if (at < 0)
        return ds_command_usage(command->row->name);
    char *file = command->argv[at];
    memmove(command->argv + 1, command->argv, (size_t)at * sizeof *command->argv);
    command->argv[0] = file;
    for (int i = 1; i < command->argc; i++)
        if (!is_override(command->argv[i]) && !is_key(command->argv[i]))
            return refuse_second_file(command, command->argv[i]);
    return DS_OK;
}
