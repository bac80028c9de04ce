/* help.c - `dstrain help`: the table of keys as text for people and as the README's reference. */
#include "command.h"

#include <stdio.h>
#include <string.h>

static const char *preset_text(const struct ds_field *field)
{
    if (field->flags & DS_FIELD_TRAIN_NEEDS)
        return "(needed)";
    return field->preset[0] ? field->preset : "(empty)";
}

static void show_call(const struct ds_command_row *row)
{
    const int bytes = printf("  dstrain %s%s%s", row->name, row->name[0] ? " " : "", row->usage);

    if (bytes > 52)
        printf("\n  %-50s", "");
    else
        printf("%*s", 52 - bytes, "");
    printf(" %s\n", row->help);
}

static void show_overview(void)
{
    printf("dstrain " DS_VERSION
           ": trains and fine-tunes language models on the ranks of mpirun\n\n");
    for (size_t i = 0; i < ds_command_count; i++)
        show_call(&ds_commands[i]);
    printf("\nSections of config.ini ('dstrain help SECTION' lists the keys):\n\n");
    for (size_t i = 0; i < ds_config_section_count; i++)
        printf("  %-10s %s\n", ds_config_sections[i].name, ds_config_sections[i].help);
}

static void show_section(const struct ds_section *section)
{
    printf("[%s]  %s\n\n", section->name, section->help);
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (strcmp(field->section, section->name) == 0)
            printf("  %-24s %-10s %s\n", field->key, preset_text(field), field->help);
    }
}

static void show_field(const struct ds_field *field)
{
    char allowed[256];

    ds_field_describe(field, allowed, sizeof allowed);
    printf("[%s] %s\n  %s\n  values:  %s\n  default: %s\n", field->section, field->key, field->help,
           allowed, preset_text(field));
    if (field->flags & DS_FIELD_FIXED)
        printf("  fixed:   a run directory belongs to one value of it\n");
    if (field->peers[0])
        printf("  known elsewhere as: %s\n", field->peers);
}

/* Of `a|b` a table makes two cells; the texts of ours have no bar, and a test keeps it so. */
static void show_markdown(void)
{
    for (size_t s = 0; s < ds_config_section_count; s++) {
        const struct ds_section *section = &ds_config_sections[s];

        printf(
            "%s**`[%s]`** %s\n\n| key | default | values | meaning |\n| --- | --- | --- | --- |\n",
            s ? "\n" : "", section->name, section->help);
        for (size_t i = 0; i < ds_config_field_count; i++) {
            const struct ds_field *field = &ds_config_fields[i];
            char allowed[256];
            const char *tick = preset_text(field)[0] == '(' ? "" : "`";

            if (strcmp(field->section, section->name) != 0)
                continue;
            ds_field_describe(field, allowed, sizeof allowed);
            printf("| `%s` | %s%s%s | %s | %s |\n", field->key, tick, preset_text(field), tick,
                   allowed, field->help);
        }
    }
}

/* "train.steps", or "steps" alone: every section that has it */
static int show_keys(const char *name)
{
    const char *dot = strchr(name, '.');
    int count = 0;

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        const size_t section = strlen(field->section);

        if (strcmp(field->key, dot ? dot + 1 : name) != 0 ||
            (dot &&
             (section != (size_t)(dot - name) || memcmp(field->section, name, section) != 0)))
            continue;
        printf("%s", count++ ? "\n" : "");
        show_field(field);
    }
    return count;
}

static ds_status show_topic(const char *name)
{
    const struct ds_section *section = ds_section_find(name);
    const char *dot = strchr(name, '.');
    char where[64] = "", hint[160];

    if (section) {
        show_section(section);
        return DS_OK;
    }
    if (show_keys(name) > 0)
        return DS_OK;
    if (dot && (size_t)(dot - name) < sizeof where)
        snprintf(where, sizeof where, "%.*s", (int)(dot - name), name);
    if (dot && !ds_section_find(where))
        ds_config_hint_section(where, hint, sizeof hint);
    else
        ds_config_hint_key(where, dot ? dot + 1 : name, hint, sizeof hint);
    return ds_fail(DS_ERR_CONFIG, "no section or key is called '%s'%s", name, hint);
}

ds_status ds_help_main(struct ds_command *command)
{
    if (command->topic) {
        show_call(command->topic);
        return DS_OK;
    }
    if (command->argc > 1)
        return ds_command_usage("help");
    if (command->argc == 0)
        show_overview();
    else if (strcmp(command->argv[0], "--markdown") == 0)
        show_markdown();
    else
        DS_TRY(show_topic(command->argv[0]));
    return DS_OK;
}
