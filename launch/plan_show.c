/* plan_show.c - `dstrain plan config.ini --ranks N`, and the check before a run reads a weight. */
#include "command.h"
#include "console.h"
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables */

static void show_row(const struct ds_plan_question *question, const char *what, uint64_t bytes)
{
    char text[32];

    ds_console_bytes(bytes, text, sizeof text);
    ds_plan_say(question, "  %-16s %12s  %llu bytes", what, text, (unsigned long long)bytes);
}

/* Kinds before `end`. */
static void show_tier(const struct ds_plan_question *question, const struct ds_plan *plan,
                      enum ds_memory_kind tier, int end)
{
    for (int label = 0; label < end; label++)
        if (plan->bytes[tier][label] > 0)
            show_row(question, ds_memory_label_name((enum ds_memory_label)label),
                     plan->bytes[tier][label]);
}

/* Of the third tier, and what a step asks of it. */
static void show_files(const struct ds_plan_question *question, const struct ds_plan *plan)
{
    static const char *const names[DS_ZERO_KIND_COUNT] = {[DS_ZERO_PARAM] = "parameters",
                                                          [DS_ZERO_MASTER] = "master",
                                                          [DS_ZERO_EXP_AVG] = "exp_avg",
                                                          [DS_ZERO_EXP_AVG_SQ] = "exp_avg_sq",
                                                          [DS_ZERO_GRAD] = "gradients"};
    uint64_t bytes = plan->filed_kept_bytes, read = 0, written = 0;

    if (bytes > 0)
        show_row(question, "activations", bytes);
    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        if (plan->filed_bytes[kind] > 0)
            show_row(question, names[kind], plan->filed_bytes[kind]);
        bytes += plan->filed_bytes[kind];
    }
    if (bytes == 0)
        return;
    show_row(question, "nvme", bytes);
    for (int part = 0; part < DS_STEP_PARTS; part++) {
        read += plan->work[part].file_read;
        written += plan->work[part].file_write;
    }
    show_row(question, "a step reads", read);
    show_row(question, "a step writes", written);
}

/* The last copy is made when all but what fits is written. */
static void show_stall(const struct ds_plan_question *question, const struct ds_plan *plan)
{
    const uint64_t buffer = question->config->checkpoint.buffer;
    const uint64_t waited = plan->saved_bytes > buffer ? plan->saved_bytes - buffer : 0;
    char bytes[32];

    ds_console_bytes(waited, bytes, sizeof bytes);
    ds_plan_say(question,
                "  a checkpoint does not fit checkpoint.buffer at once: training stops %llu time%s "
                "in every save until %s are written: %.3g s for each rank that writes 1 GB/s",
                (unsigned long long)plan->save_stops, plan->save_stops == 1 ? "" : "s", bytes,
                (double)waited / 1e9);
}

/* The lines of a tier stand above its sum: of host memory what lives there, not what passes through. */
static void show_table(const struct ds_plan_question *question, const struct ds_plan *plan)
{
    show_tier(question, plan, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_COUNT);
    show_row(question, "device", ds_plan_device_bytes(plan));
    if (plan->library_bytes > 0) {
        show_row(question, "libraries", plan->library_bytes);
        show_row(question, "whole process", ds_plan_process_bytes(plan));
    }
    show_tier(question, plan, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING);
    show_row(question, "pinned host", ds_plan_host_bytes(plan));
    show_files(question, plan);
    if (plan->saved_bytes > 0)
        show_row(question, "a checkpoint", plan->saved_bytes);
    if (plan->save_stops > 0)
        show_stall(question, plan);
}

/* One line a role where there are several, all in bytes; the names stand above. */
static void show_names(const struct ds_plan_question *question)
{
    char line[256];
    size_t used = (size_t)snprintf(line, sizeof line, "%-30s", "bytes of each rank");

    for (int label = 0; label < DS_MEMORY_LABEL_STAGING; label++)
        used += (size_t)snprintf(line + used, sizeof line - used, " %13s",
                                 ds_memory_label_name((enum ds_memory_label)label));
    ds_plan_say(question, "%s %13s %13s %11s", line, "device", "libraries", "pinned host");
}

static void show_line(const struct ds_plan_question *question, const char *who,
                      const struct ds_plan *plan)
{
    char line[256];
    size_t used = (size_t)snprintf(line, sizeof line, "%-30s", who);

    for (int label = 0; label < DS_MEMORY_LABEL_STAGING; label++)
        used += (size_t)snprintf(line + used, sizeof line - used, " %13llu",
                                 (unsigned long long)plan->bytes[DS_MEMORY_DEVICE][label]);
    ds_plan_say(
        question, "%s %13llu %13llu %11llu", line, (unsigned long long)ds_plan_device_bytes(plan),
        (unsigned long long)plan->library_bytes, (unsigned long long)ds_plan_host_bytes(plan));
}

/* "stage 2, tensor rank 0..1": whose plan it is, of the roles from `first` to before `end` */
static void role_text(const struct ds_config *config, uint32_t first, uint32_t end, char *to,
                      size_t bytes)
{
    const uint32_t tensor = (uint32_t)config->parallel.tensor;
    const uint32_t rank = first % tensor, stage = first / tensor, last = end - 1;
    char until[16] = "", ranks[32] = "";

    if (config->parallel.pipeline * tensor == 1) {
        snprintf(to, bytes, "every rank");
        return;
    }
    if (last / tensor > stage)
        snprintf(until, sizeof until, "..%u", last / tensor);
    else if (last % tensor > rank)
        snprintf(ranks, sizeof ranks, ", tensor rank %u..%u", rank, last % tensor);
    else if (tensor > 1)
        snprintf(ranks, sizeof ranks, ", tensor rank %u", rank);
    snprintf(to, bytes, "stage %u%s%s", stage, until, ranks);
}

static int is_over(uint64_t limit, uint64_t wanted)
{
    return limit != DS_AUTO && wanted > limit;
}

/* "c.ini:9: [memory] device_limit = 1000 (1000 B) is too little by 24 B (24 bytes); nearest: 1024 (1.0 KiB)" */
static size_t limit_text(const struct ds_config *config, const char *key, uint64_t limit,
                         uint64_t wanted, char *to, size_t bytes)
{
    char over[32], has[32], needs[32], place[DS_KEY_BYTES];

    ds_console_bytes(limit, has, sizeof has);
    ds_console_bytes(wanted, needs, sizeof needs);
    ds_console_bytes(wanted - limit, over, sizeof over);
    return (size_t)snprintf(
        to, bytes, "%s = %llu (%s) is too little by %s (%llu bytes); nearest: %llu (%s)",
        ds_config_key(config, "memory", key, place), (unsigned long long)limit, has, over,
        (unsigned long long)(wanted - limit), (unsigned long long)wanted, needs);
}

static ds_status refuse(const struct ds_plan_question *question, const struct ds_plan *worst,
                        uint32_t role)
{
    const struct ds_config *config = question->config;
    const uint64_t device = ds_plan_process_bytes(worst), host = ds_plan_host_bytes(worst);
    const int is_device = is_over(config->memory.device_limit, device);
    char who[128], limits[2 * DS_KEY_BYTES + 256];
    size_t used = 0;

    role_text(config, role, role + 1, who, sizeof who);
    ds_plan_say(question, "%s takes:", who);
    show_table(question, worst);
    DS_TRY(ds_plan_show_levers(question, !is_device));
    if (is_device)
        used = limit_text(config, "device_limit", config->memory.device_limit, device, limits,
                          sizeof limits);
    if (is_over(config->memory.host_limit, host)) {
        used += (size_t)snprintf(limits + used, sizeof limits - used, "%s", used ? "; and " : "");
        (void)limit_text(config, "host_limit", config->memory.host_limit, host, limits + used,
                         sizeof limits - used);
    }
    return ds_fail(DS_ERR_CONFIG, "%s: the run does not fit (%s)", limits, who);
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

/* The plan of a role; that of an earlier one where tensor ranks are alike. `plans`: of this stage. */
static ds_status plan_of_role(const struct ds_plan_question *question, const uint32_t *twins,
                              uint32_t role, struct ds_plan *plans)
{
    const uint32_t rank = role % (uint32_t)question->config->parallel.tensor;

    if (twins[rank] == rank)
        return ds_plan_measure(question, ds_plan_role_rank(question->config, role), &plans[rank]);
    plans[rank] = plans[twins[rank]];
    return DS_OK;
}

/* Neighbours with equal plans share a line: stages, or, with several tensor ranks, those of a stage. */
static ds_status show_tables(const struct ds_plan_question *question, const uint32_t *twins,
                             struct ds_plan *plans)
{
    const uint32_t count = ds_plan_role_count(question->config);
    const uint32_t tensor = (uint32_t)question->config->parallel.tensor;
    struct ds_plan shown = {0};
    uint32_t first = 0;
    char who[128];

    for (uint32_t role = 0; role <= count; role++) {
        const int begins = role % tensor == 0 && tensor > 1; /* a stage of several lines */
        if (role < count)
            DS_TRY(plan_of_role(question, twins, role, plans));
        if (role > 0 &&
            (role == count || begins || memcmp(&shown, &plans[role % tensor], sizeof shown) != 0)) {
            role_text(question->config, first, role, who, sizeof who);
            if (count > 1)
                show_line(question, who, &shown);
            first = role;
        }
        shown = plans[role % tensor];
    }
    return DS_OK;
}

/* Of a rank that waits for no other. */
static void show_time(const struct ds_plan_question *question, const struct ds_plan *plan)
{
    const double step_s = ds_plan_step_s(plan->work, question->speeds);

    if (!(question->speeds->flops_per_s > 0))
        return;
    ds_plan_say(question, "a step is expected to take %.3f s, waits for other ranks left out",
                step_s);
    ds_plan_show_speeds(question, question->speeds);
}

/* Every role, and the one that takes most in words that people read. */
static ds_status show_roles(const struct ds_plan_question *question)
{
    struct ds_plan *plans = calloc(question->config->parallel.tensor, sizeof *plans), worst;
    uint32_t *twins = NULL, role = 0;
    ds_status st = plans ? ds_plan_twins(question, &twins) : ds_fail(DS_ERR_NO_MEMORY, "the plans");
    char who[128];

    if (st == DS_OK && ds_plan_role_count(question->config) > 1)
        show_names(question);
    if (st == DS_OK)
        st = show_tables(question, twins, plans);
    if (st == DS_OK)
        st = ds_plan_worst(question, &worst, &role);
    if (st == DS_OK) {
        role_text(question->config, role, role + 1, who, sizeof who);
        ds_plan_say(question, "%s%s, of %u:", who,
                    ds_plan_role_count(question->config) > 1 ? " takes most" : "", question->size);
        show_table(question, &worst);
        show_time(question, &worst);
    }
    free(twins);
    free(plans);
    return st;
}

/* As if the ranks were on this host, if the device is here: one for each of its devices, or, on the cpu, all of them. */
static ds_status look_around(const struct ds_command *command, struct ds_plan_question *question,
                             struct ds_speeds *speeds)
{
    const struct ds_device_ops *device = ds_device_look(question->config->run.device);
    struct ds_plan_ranks ranks = {.fs = command->fs, .clock = command->clock, .local_count = 1};

    if (device)
        ranks.local_count =
            device->caps & DS_DEVICE_CAP_HOST_MEMORY || question->size < (uint32_t)device->count()
                ? (int)question->size
                : device->count();
    DS_TRY(ds_plan_find_speeds(&ranks, question->config, speeds));
    question->speeds = speeds;
    return device && ds_plan_leaves_homes(question->config)
               ? ds_plan_look_for_room(&ranks, question->config, &question->room)
               : DS_OK;
}

static void show_choices(const struct ds_plan_question *question)
{
    const struct ds_config *config = question->config;

    if (ds_plan_gathers(config))
        ds_plan_say(question, "zero.reshard_after_forward = %s, zero.window = %llu",
                    config->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER ? "never" : "always",
                    (unsigned long long)config->zero.window);
}

ds_status ds_plan_main(struct ds_command *command)
{
    const uint32_t ranks = ds_command_number(command, "--ranks");
    struct ds_config *config = malloc(sizeof *config);
    struct ds_speeds speeds;
    struct ds_plan_question question = {.config = config,
                                        .fs = command->fs,
                                        .clock = command->clock,
                                        .size = ranks ? ranks : 1,
                                        .is_answer = 1};
    ds_status st = config ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "a configuration");

    if (st == DS_OK)
        st = load(command, question.size, config);
    if (st == DS_OK)
        st = look_around(command, &question, &speeds);
    if (st == DS_OK)
        st = ds_plan_settle(&question, config);
    if (st == DS_OK)
        st = show_roles(&question);
    if (st == DS_OK)
        show_choices(&question);
    if (st == DS_OK)
        st = ds_plan_check(&question);
    if (st == DS_OK)
        st = ds_plan_show_levers(&question, 0);
    free(config);
    return st;
}
