/* plan.c - `dstrain plan config.ini --ranks N`, and the check before a run reads a weight. A separate formula
 * would drift from the code; this is the code. */
#include "plan.h"
#include "command.h"
#include "console.h"

#include "dstrain/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS_LOOKED_AT = 64 };

ds_status ds_plan_measure(const struct ds_config *config, struct ds_fs *fs,
                          const struct ds_clock *clock, uint32_t rank, uint32_t size,
                          struct ds_plan *out)
{
    struct ds_trainer_options options = {.config = config,
                                         .mode = DS_TRAINER_PLAN,
                                         .fs = fs,
                                         .clock = clock,
                                         .device = &ds_device_null_ops,
                                         .thread_count = 1};
    struct ds_trainer *trainer = NULL;
    ds_status st;

    DS_TRY(ds_comm_null_open(rank, size, clock, &options.world));
    st = ds_trainer_open(&options, &trainer);
    if (st == DS_OK)
        memcpy(out->bytes, ds_trainer_memory(trainer)->bytes, sizeof out->bytes);
    ds_trainer_close(trainer);
    ds_comm_close(options.world);
    return st;
}

uint64_t ds_plan_total(const struct ds_plan *plan, enum ds_memory_kind kind)
{
    uint64_t total = 0;

    for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
        total += plan->bytes[kind][label];
    return total;
}

static uint64_t host_total(const struct ds_plan *plan)
{
    return ds_plan_total(plan, DS_MEMORY_PINNED) + ds_plan_total(plan, DS_MEMORY_HOST);
}

/* ---- what would make it fit: one key changed at a time */

struct lever {
    const char *key;
    int (*pull)(struct ds_config *config); /* 0: cannot be pulled further */
};

static int halve_micro_batch(struct ds_config *config)
{
    uint64_t *size = &config->train.micro_batch_size;

    *size /= *size % 2 == 0 ? 2 : *size;
    return 1;
}

static int halve_sequence(struct ds_config *config)
{
    config->train.seq_length /= 2;
    return config->train.seq_length > 0;
}

static int recompute_more(struct ds_config *config)
{
    config->train.activation_checkpointing++;
    return config->train.activation_checkpointing <= DS_RECOMPUTE_FULL;
}

static int shard_more(struct ds_config *config)
{
    config->zero.stage++;
    return config->zero.stage <= 3 && config->parallel.shard > 1;
}

static const struct lever levers[] = {
    {"train.micro_batch_size", halve_micro_batch},
    {"train.activation_checkpointing", recompute_more},
    {"zero.stage", shard_more},
    {"train.seq_length", halve_sequence},
};

static void lever_value(const struct ds_config *config, const char *key, char *to, size_t bytes)
{
    char name[64];
    const char *dot = strchr(key, '.');

    snprintf(name, sizeof name, "%.*s", (int)(dot - key), key);
    ds_field_print(ds_field_find(name, dot + 1), config, to, bytes);
}

static int fits(const struct ds_config *config, const struct ds_plan *plan)
{
    const uint64_t device = config->memory.device_limit, host = config->memory.host_limit;

    return (device == DS_AUTO || ds_plan_total(plan, DS_MEMORY_DEVICE) <= device) &&
           (host == DS_AUTO || host_total(plan) <= host);
}

static ds_status show_lever(const struct lever *lever, const struct ds_config *config,
                            struct ds_fs *fs, const struct ds_clock *clock, uint32_t rank,
                            uint32_t size)
{
    struct ds_config *other = malloc(sizeof *other);
    char value[64], total[32], previous[64];
    struct ds_plan plan;
    ds_status st = DS_OK;

    if (!other)
        return ds_fail(DS_ERR_NO_MEMORY, "a configuration");
    *other = *config;
    lever_value(other, lever->key, previous, sizeof previous);
    while (st == DS_OK && lever->pull(other)) {
        lever_value(other, lever->key, value, sizeof value);
        if (strcmp(value, previous) == 0)
            break;
        snprintf(previous, sizeof previous, "%s", value);
        st = ds_plan_measure(other, fs, clock, rank, size, &plan);
        if (st != DS_OK)
            break;
        ds_console_bytes(ds_plan_total(&plan, DS_MEMORY_DEVICE), total, sizeof total);
        ds_info("  %s = %s: %s%s", lever->key, value, total,
                fits(config, &plan) ? "" : ", still too much");
        if (fits(config, &plan))
            break;
    }
    free(other);
    return st;
}

static ds_status show_levers(const struct ds_config *config, struct ds_fs *fs,
                             const struct ds_clock *clock, uint32_t rank, uint32_t size)
{
    ds_info("what one key changes of a rank's device memory:");
    for (size_t i = 0; i < sizeof levers / sizeof *levers; i++)
        DS_TRY(show_lever(&levers[i], config, fs, clock, rank, size));
    return DS_OK;
}

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
    show_row("device", ds_plan_total(plan, DS_MEMORY_DEVICE));
    show_row("pinned host", host_total(plan));
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

ds_status ds_plan_check(const struct ds_config *config, struct ds_fs *fs,
                        const struct ds_clock *clock, uint32_t rank, uint32_t size)
{
    struct ds_plan plan;

    if (config->memory.device_limit == DS_AUTO && config->memory.host_limit == DS_AUTO)
        return DS_OK;
    DS_TRY(ds_plan_measure(config, fs, clock, rank, size, &plan));
    if (fits(config, &plan))
        return DS_OK;
    ds_info("a rank of this run takes:");
    show_table(&plan);
    show_limit("memory.device_limit", config->memory.device_limit,
               ds_plan_total(&plan, DS_MEMORY_DEVICE));
    show_limit("memory.host_limit", config->memory.host_limit, host_total(&plan));
    DS_TRY(show_levers(config, fs, clock, rank, size));
    return ds_fail(DS_ERR_CONFIG,
                   "[memory] the run does not fit its limit: %llu bytes on the device, "
                   "%llu in the host's memory",
                   (unsigned long long)ds_plan_total(&plan, DS_MEMORY_DEVICE),
                   (unsigned long long)host_total(&plan));
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

/* Neighbours with equal plans are one role. */
static ds_status show_roles(struct ds_command *command, const struct ds_config *config,
                            uint32_t ranks)
{
    const uint32_t looked_at = ranks < RANKS_LOOKED_AT ? ranks : RANKS_LOOKED_AT;
    struct ds_plan first = {0}, next = {0};
    uint32_t start = 0;

    DS_TRY(ds_plan_measure(config, command->fs, command->clock, 0, ranks, &first));
    for (uint32_t i = 1; i <= looked_at; i++) {
        const uint32_t rank = i < looked_at ? (uint32_t)((uint64_t)i * ranks / looked_at) : ranks;
        if (rank < ranks)
            DS_TRY(ds_plan_measure(config, command->fs, command->clock, rank, ranks, &next));
        if (rank < ranks && memcmp(&first, &next, sizeof first) == 0)
            continue;
        ds_info("ranks %u..%u, each:", start, rank - 1);
        show_table(&first);
        start = rank;
        first = next;
    }
    return DS_OK;
}

ds_status ds_plan_main(struct ds_command *command)
{
    struct ds_config *config = malloc(sizeof *config);
    uint32_t ranks = 1;
    ds_status st =
        config ? read_ranks(command, &ranks) : ds_fail(DS_ERR_NO_MEMORY, "a configuration");

    if (st == DS_OK)
        st = load(command, ranks, config);
    if (st == DS_OK)
        st = show_roles(command, config, ranks);
    if (st == DS_OK)
        st = ds_plan_check(config, command->fs, command->clock, 0, ranks);
    if (st == DS_OK)
        st = show_levers(config, command->fs, command->clock, 0, ranks);
    free(config);
    return st;
}
