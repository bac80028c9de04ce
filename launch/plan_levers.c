/* plan_levers.c - what would make a run fit: one key changed at a time, and the plan asked again. Where that key
 * alone is not possible, as ranks are counted out, what else changes is said with it; where no key alone
 * would do, a pair may. */
#include "config/config.h"
#include "console.h"
#include "plan.h"

#include "dstrain/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lever {
    const char *key;
    /* 0: cannot be pulled further */
    int (*pull)(struct ds_config *config, const struct ds_model_config *model, uint32_t ranks);
};

static int halve_micro_batch(struct ds_config *config, const struct ds_model_config *model,
                             uint32_t ranks)
{
    uint64_t *size = &config->train.micro_batch_size;
    const uint64_t before = *size;

    (void)model, (void)ranks;
    *size /= *size % 2 == 0 ? 2 : *size;
    return *size < before;
}

static int give_back(struct ds_config *config, const struct ds_model_config *model, uint32_t ranks)
{
    const int keeps = config->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER;

    (void)model, (void)ranks;
    config->zero.reshard_after_forward = DS_RESHARD_KEY_ALWAYS;
    return keeps && ds_plan_gathers(config);
}

static int halve_window(struct ds_config *config, const struct ds_model_config *model,
                        uint32_t ranks)
{
    (void)model, (void)ranks;
    config->zero.window /= 2;
    return config->zero.window > 0 && ds_plan_gathers(config);
}

/* Tokens in rows are what they are. */
static int halve_sequence(struct ds_config *config, const struct ds_model_config *model,
                          uint32_t ranks)
{
    (void)model, (void)ranks;
    config->train.seq_length /= 2;
    return config->data.format == DS_DATA_TEXT && config->train.seq_length > 0;
}

static int recompute_more(struct ds_config *config, const struct ds_model_config *model,
                          uint32_t ranks)
{
    (void)model, (void)ranks;
    config->train.activation_checkpointing++;
    return config->train.activation_checkpointing <= DS_RECOMPUTE_FULL;
}

static int shard_more(struct ds_config *config, const struct ds_model_config *model, uint32_t ranks)
{
    (void)model, (void)ranks;
    config->zero.stage++;
    return config->zero.stage <= 3 && config->parallel.shard > 1;
}

static int widen_tensor(struct ds_config *config, const struct ds_model_config *model,
                        uint32_t ranks)
{
    (void)model;
    return ++config->parallel.tensor <= ranks;
}

static int lengthen_pipeline(struct ds_config *config, const struct ds_model_config *model,
                             uint32_t ranks)
{
    return ++config->parallel.pipeline <= ranks &&
           config->parallel.pipeline * config->parallel.chunks <= model->num_hidden_layers + 2;
}

static int move_away(struct ds_home_key *home)
{
    const int is_near = home->share < 1;

    *home = (struct ds_home_key){home->home == DS_HOME_NVME ? DS_HOME_NVME : DS_HOME_HOST, 1};
    return is_near;
}

#define MOVES_AWAY(kind)                                                                  \
    static int move_##kind(struct ds_config *config, const struct ds_model_config *model, \
                           uint32_t ranks)                                                \
    {                                                                                     \
        (void)model, (void)ranks;                                                         \
        return move_away(&config->offload.kind);                                          \
    }
MOVES_AWAY(exp_avg_sq)
MOVES_AWAY(exp_avg)
MOVES_AWAY(master)
MOVES_AWAY(params)
MOVES_AWAY(grads)
MOVES_AWAY(activations)

/* From the host into files, where somebody has said on which drives; what is elsewhere stays. */
static int move_to_files(const struct ds_config *config, struct ds_home_key *home)
{
    char path[DS_TEXT_MAX];
    const int can = home->home == DS_HOME_HOST && ds_config_directory(config, 0, path);

    home->home = can ? DS_HOME_NVME : home->home;
    return can;
}

#define MOVES_TO_FILES(kind)                                                              \
    static int file_##kind(struct ds_config *config, const struct ds_model_config *model, \
                           uint32_t ranks)                                                \
    {                                                                                     \
        (void)model, (void)ranks;                                                         \
        return move_to_files(config, &config->offload.kind);                              \
    }
MOVES_TO_FILES(exp_avg_sq)
MOVES_TO_FILES(exp_avg)
MOVES_TO_FILES(master)
MOVES_TO_FILES(params)
MOVES_TO_FILES(grads)
MOVES_TO_FILES(activations)

/* Of host memory alone. */
static const struct lever host_levers[] = {
    {"offload.exp_avg_sq", file_exp_avg_sq}, {"offload.exp_avg", file_exp_avg},
    {"offload.master", file_master},         {"offload.activations", file_activations},
    {"offload.params", file_params},         {"offload.grads", file_grads},
};

static const struct lever levers[] = {
    {"train.micro_batch_size", halve_micro_batch},
    {"train.activation_checkpointing", recompute_more},
    {"offload.activations", move_activations},
    {"zero.stage", shard_more},
    {"zero.reshard_after_forward", give_back},
    {"zero.window", halve_window},
    {"offload.exp_avg_sq", move_exp_avg_sq},
    {"offload.exp_avg", move_exp_avg},
    {"offload.master", move_master},
    {"offload.params", move_params},
    {"offload.grads", move_grads},
    {"parallel.tensor", widen_tensor},
    {"parallel.pipeline", lengthen_pipeline},
    {"train.seq_length", halve_sequence},
};

static void lever_value(const struct ds_config *config, const char *key, char *to, size_t bytes)
{
    char name[64];
    const char *dot = strchr(key, '.');

    snprintf(name, sizeof name, "%.*s", (int)(dot - key), key);
    ds_field_print(ds_field_find(name, dot + 1), config, to, bytes);
}

/* ---- one configuration that is tried */

struct attempt {
    const struct ds_plan_question *question;
    const struct ds_model_config *model;
    struct ds_config *config;
    int of_host, fits;
};

/* What a person left to others is theirs to decide again; what a pull has changed with it is as it was. */
static void leave_to_others(struct attempt *a)
{
    a->config->parallel.data = a->question->config->parallel.data;
    a->config->parallel.shard = a->question->config->parallel.shard;
    ds_config_unresolve(a->config);
    ds_config_resolve(a->config, a->question->size);
}

/* What was pulled must pass what a person's configuration passes; of a folder's model keys know nothing. */
static int passes(const struct attempt *a)
{
    return ds_config_is_possible(a->config, a->question->use, a->question->size,
                                 a->config->model.path[0] ? a->model : NULL);
}

/* Ranks that a person has counted out are counted again: as many as before, fewer of them for data. */
static int is_possible(struct attempt *a)
{
    const uint64_t model_ranks = a->config->parallel.tensor * a->config->parallel.pipeline;
    uint64_t *data = &a->config->parallel.data, *shard = &a->config->parallel.shard;

    leave_to_others(a);
    if (passes(a))
        return 1;
    if (a->question->size % model_ranks != 0)
        return 0;
    *data = a->question->size / model_ranks;
    if (*data % *shard != 0)
        *shard = *data;
    return passes(a);
}

/* " with parallel.data = 2", where a person has written another */
static void show_counted_again(const struct attempt *a, char *to, size_t bytes)
{
    static const char *const keys[] = {"data", "shard"};
    const struct ds_config *was = a->question->config;
    const uint64_t before[] = {was->parallel.data, was->parallel.shard};
    const uint64_t after[] = {a->config->parallel.data, a->config->parallel.shard};
    size_t used = 0;

    to[0] = '\0';
    for (int i = 0; i < 2; i++)
        if (before[i] != after[i] && !ds_config_was_auto(was, "parallel", keys[i]))
            used += (size_t)snprintf(to + used, bytes - used, " %s parallel.%s = %llu",
                                     used ? "and" : "with", keys[i], (unsigned long long)after[i]);
}

/* "  KEY = VALUE with ...: what it takes" */
static ds_status show(struct attempt *a, const char *key, const char *with)
{
    struct ds_plan_question next = *a->question;
    char value[64], counts[96], total[32];
    struct ds_plan plan;
    uint32_t role;

    next.config = a->config;
    lever_value(a->config, key, value, sizeof value);
    show_counted_again(a, counts, sizeof counts);
    DS_TRY(ds_plan_settle(&next, a->config));
    DS_TRY(ds_plan_worst(&next, &plan, &role));
    ds_console_bytes(a->of_host ? ds_plan_host_bytes(&plan) : ds_plan_process_bytes(&plan), total,
                     sizeof total);
    a->fits = ds_plan_fits(a->question->config, &plan);
    ds_plan_say(a->question, "  %s = %s%s%s: %s%s", key, value, with, counts, total,
                a->fits ? "" : ", still too much");
    return DS_OK;
}

/* What the key would do, up to the first value that fits. */
static ds_status show_lever(struct attempt *a, const struct lever *lever, const char *with)
{
    a->fits = 0;
    for (leave_to_others(a); !a->fits && lever->pull(a->config, a->model, a->question->size);
         leave_to_others(a))
        if (is_possible(a))
            DS_TRY(show(a, lever->key, with));
    return DS_OK;
}

/* Where no key alone will do: the smallest activations there are. */
static ds_status show_pair(struct attempt *a)
{
    if (a->question->config->train.activation_checkpointing == DS_RECOMPUTE_FULL)
        return DS_OK;
    *a->config = *a->question->config;
    a->config->train.activation_checkpointing = DS_RECOMPUTE_FULL;
    return show_lever(a, &levers[0], " with train.activation_checkpointing = full");
}

ds_status ds_plan_show_levers(const struct ds_plan_question *question, int of_host)
{
    struct ds_model_config model;
    struct attempt a = {question, &model, malloc(sizeof *a.config), of_host, 0};
    int fits = 0;
    ds_status st = a.config ? ds_trainer_model_config(question->config, question->fs, &model)
                            : ds_fail(DS_ERR_NO_MEMORY, "a configuration");

    if (st == DS_OK)
        ds_plan_say(question, "what one key changes of the %s memory of the rank that takes most:",
                    of_host ? "host" : "device");
    for (size_t i = 0; st == DS_OK && i < sizeof levers / sizeof *levers; i++) {
        *a.config = *question->config;
        st = show_lever(&a, &levers[i], "");
        fits |= a.fits;
    }
    for (size_t i = 0; st == DS_OK && of_host && i < sizeof host_levers / sizeof *host_levers;
         i++) {
        *a.config = *question->config;
        st = show_lever(&a, &host_levers[i], "");
        fits |= a.fits;
    }
    if (st == DS_OK && !fits)
        st = show_pair(&a);
    free(a.config);
    return st;
}
