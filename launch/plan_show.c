/* plan_show.c - `dstrain plan config.ini --ranks N`, and the check before a run reads a weight. */
#include "command.h"
#include "console.h"
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables */

static void show_row(const char *what, uint64_t bytes)
{
    char text[32];

    ds_console_bytes(bytes, text, sizeof text);
    ds_info("  %-16s %12s  %llu bytes", what, text, (unsigned long long)bytes);
}

static void show_table(const struct ds_plan *plan)
{
    for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
        if (plan->bytes[DS_MEMORY_DEVICE][label] > 0)
            show_row(ds_memory_label_name((enum ds_memory_label)label),
                     plan->bytes[DS_MEMORY_DEVICE][label]);
    show_row("device", ds_plan_device_bytes(plan));
    show_row("pinned host", ds_plan_host_bytes(plan));
}

static void show_limit(const char *key, uint64_t limit, uint64_t wanted)
{
    char over[32];

    if (limit == DS_AUTO || wanted <= limit)
        return;
    ds_console_bytes(wanted - limit, over, sizeof over);
    ds_info("%s = %llu bytes is too little by %s (%llu bytes)", key, (unsigned long long)limit,
            over, (unsigned long long)(wanted - limit));
}

/* "stage 2 of 4, tensor ranks 0..1": what the roles from `first` to before `end` hold, and who they are */
static void role_text(const struct ds_config *config, uint32_t first, uint32_t end, char *to,
                      size_t bytes)
{
    const uint32_t stages = (uint32_t)config->parallel.pipeline;
    const uint32_t tensor = (uint32_t)config->parallel.tensor;
    char from[32] = "", until[32] = "";

    if (stages * tensor == 1) {
        snprintf(to, bytes, "every rank");
        return;
    }
    if (tensor > 1)
        snprintf(from, sizeof from, " tensor rank %u", first % tensor);
    if (tensor > 1)
        snprintf(until, sizeof until, " tensor rank %u", (end - 1) % tensor);
    if (end - first > 1)
        snprintf(to, bytes, "each from stage %u%s to stage %u%s", first / tensor, from,
                 (end - 1) / tensor, until);
    else
        snprintf(to, bytes, "stage %u%s", first / tensor, from);
}

static ds_status refuse(const struct ds_plan_question *question, const struct ds_plan *worst,
                        uint32_t role)
{
    const struct ds_config *config = question->config;
    char who[128];

    role_text(config, role, role + 1, who, sizeof who);
    ds_info("%s takes:", who);
    show_table(worst);
    show_limit("memory.device_limit", config->memory.device_limit, ds_plan_device_bytes(worst));
    show_limit("memory.host_limit", config->memory.host_limit, ds_plan_host_bytes(worst));
    DS_TRY(ds_plan_show_levers(question));
    return ds_fail(DS_ERR_CONFIG,
                   "[memory] the run does not fit its limit: %llu bytes on the device, "
                   "%llu in the host's memory (%s)",
                   (unsigned long long)ds_plan_device_bytes(worst),
                   (unsigned long long)ds_plan_host_bytes(worst), who);
}

ds_status ds_plan_check(const struct ds_plan_question *question)
{
    const struct ds_config *config = question->config;
    struct ds_plan worst;
    uint32_t role = 0;

    if (config->memory.device_limit == DS_AUTO && config->memory.host_limit == DS_AUTO)
        return DS_OK;
    DS_TRY(ds_plan_worst(question, &worst, &role));
    return ds_plan_fits(config, &worst) ? DS_OK : refuse(question, &worst, role);
}

/* ---- the subcommand */

/* `--ranks N` anywhere behind the configuration is taken out; the rest overrides. */
static ds_status read_ranks(struct ds_command *command, uint32_t *ranks)
{
    char *end;

    for (int i = 1; i + 1 < command->argc; i++) {
        if (strcmp(command->argv[i], "--ranks") != 0)
            continue;
        unsigned long value = strtoul(command->argv[i + 1], &end, 10);
        if (*end || value < 1 || value > 1000000)
            return ds_fail(DS_ERR_CONFIG, "--ranks = '%s' must be a whole number in 1..1000000",
                           command->argv[i + 1]);
        *ranks = (uint32_t)value;
        for (int j = i; j + 2 < command->argc; j++)
            command->argv[j] = command->argv[j + 2];
        command->argc -= 2;
        return DS_OK;
    }
    return command->argc > 0 ? DS_OK : ds_command_usage("plan");
}

static ds_status load(struct ds_command *command, uint32_t ranks, struct ds_config *config)
{
    const struct ds_config_source source = {
        .fs = command->fs,
        .path = command->argv[0],
        .overrides = (const char *const *)command->argv + 1,
        .override_count = (size_t)command->argc - 1,
        .use = DS_CONFIG_TRAIN,
        .ranks_are_known = 1,
    };
    struct ds_comm *world;
    ds_status st;

    DS_TRY(ds_comm_null_open(0, ranks, command->clock, &world));
    st = ds_config_load(world, &source, config);
    ds_comm_close(world);
    return st;
}

/* Roles with equal plans that follow one another share a table. */
static ds_status show_roles(const struct ds_plan_question *question)
{
    const uint32_t count = ds_plan_role_count(question->config);
    struct ds_plan shown = {0}, next = {0};
    uint32_t first = 0;
    char who[128];

    for (uint32_t role = 0; role <= count; role++) {
        if (role < count)
            DS_TRY(ds_plan_measure(question, ds_plan_role_rank(question->config, role), &next));
        if (role > 0 && (role == count || memcmp(&shown, &next, sizeof next) != 0)) {
            role_text(question->config, first, role, who, sizeof who);
            ds_info("%s, of %u:", who, question->size);
            show_table(&shown);
            first = role;
        }
        shown = next;
    }
    return DS_OK;
}

static void show_choices(const struct ds_config *config)
{
    if (config->zero.stage == 3 && config->parallel.shard > 1)
        ds_info("zero.reshard_after_forward = %s, zero.window = %llu",
                config->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER ? "never" : "always",
                (unsigned long long)config->zero.window);
}

ds_status ds_plan_main(struct ds_command *command)
{
    struct ds_config *config = malloc(sizeof *config);
    struct ds_plan_question question = {config, command->fs, command->clock, 1};
    ds_status st =
        config ? read_ranks(command, &question.size) : ds_fail(DS_ERR_NO_MEMORY, "a configuration");

    if (st == DS_OK)
        st = load(command, question.size, config);
    if (st == DS_OK)
        st = ds_plan_settle(&question, config);
    if (st == DS_OK)
        st = show_roles(&question);
    if (st == DS_OK)
        show_choices(config);
    if (st == DS_OK)
        st = ds_plan_check(&question);
    if (st == DS_OK)
        st = ds_plan_show_levers(&question);
    free(config);
    return st;
}
