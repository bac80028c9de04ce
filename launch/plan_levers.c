/* plan_levers.c - what would make a run fit: one key changed at a time, and the plan asked again. */
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

static int gathers(const struct ds_config *config)
{
    return config->zero.stage == 3 && config->parallel.shard > 1;
}

static int give_back(struct ds_config *config, const struct ds_model_config *model, uint32_t ranks)
{
    const int keeps = config->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER;

    (void)model, (void)ranks;
    config->zero.reshard_after_forward = DS_RESHARD_KEY_ALWAYS;
    return keeps && gathers(config);
}

static int halve_window(struct ds_config *config, const struct ds_model_config *model,
                        uint32_t ranks)
{
    (void)model, (void)ranks;
    config->zero.window /= 2;
    return config->zero.window > 0 && gathers(config);
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

/* As many ranks as before, fewer of them for data; 0: they do not divide. */
static int share_out_again(struct ds_config *config, uint32_t ranks)
{
    const uint64_t model_ranks = config->parallel.tensor * config->parallel.pipeline;

    config->parallel.data = ranks / model_ranks;
    return ranks % model_ranks == 0;
}

static int widen_tensor(struct ds_config *config, const struct ds_model_config *model,
                        uint32_t ranks)
{
    char why[256];

    while (config->parallel.tensor < ranks) {
        config->parallel.tensor++;
        if (ds_model_may_share(model, (uint32_t)config->parallel.tensor, why, sizeof why) &&
            share_out_again(config, ranks))
            return 1;
    }
    return 0;
}

static int lengthen_pipeline(struct ds_config *config, const struct ds_model_config *model,
                             uint32_t ranks)
{
    const uint64_t blocks = model->num_hidden_layers + 2;

    while (config->parallel.pipeline < ranks &&
           (config->parallel.pipeline + 1) * config->parallel.chunks <= blocks) {
        config->parallel.pipeline++;
        if (share_out_again(config, ranks))
            return 1;
    }
    return 0;
}

/* What was pulled must pass what a person's configuration passes; of a folder's model the rules know nothing. */
static int is_possible(const struct ds_plan_question *question, const struct ds_config *config,
                       const struct ds_model_config *model)
{
    char why[256];

    return ds_config_is_possible(config, question->use, question->size) &&
           ds_model_may_share(model, (uint32_t)config->parallel.tensor, why, sizeof why) &&
           config->parallel.pipeline * config->parallel.chunks <= model->num_hidden_layers + 2;
}

static const struct lever levers[] = {
    {"train.micro_batch_size", halve_micro_batch},
    {"train.activation_checkpointing", recompute_more},
    {"zero.stage", shard_more},
    {"zero.reshard_after_forward", give_back},
    {"zero.window", halve_window},
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

/* What a person left to the plan, it decides again for every value. */
static void leave_to_the_plan(struct ds_config *config)
{
    if (config->zero.reshard_is_auto)
        config->zero.reshard_after_forward = DS_RESHARD_KEY_AUTO;
    if (config->zero.window_is_auto)
        config->zero.window = DS_AUTO;
}

/* What the key would do, up to the first value that fits. */
static ds_status show_lever(const struct lever *lever, const struct ds_plan_question *question,
                            const struct ds_model_config *model, int of_host,
                            struct ds_config *other)
{
    struct ds_plan_question next = *question;
    char value[64], total[32];
    const int shares_all = question->config->parallel.shard == question->config->parallel.data;
    struct ds_plan plan;
    uint32_t role;

    next.config = other;
    *other = *question->config;
    for (leave_to_the_plan(other); lever->pull(other, model, question->size);
         leave_to_the_plan(other)) {
        if (shares_all)
            other->parallel.shard = other->parallel.data;
        if (!is_possible(question, other, model))
            continue;
        lever_value(other, lever->key, value, sizeof value);
        DS_TRY(ds_plan_settle(&next, other));
        DS_TRY(ds_plan_worst(&next, &plan, &role));
        ds_console_bytes(of_host ? ds_plan_host_bytes(&plan) : ds_plan_process_bytes(&plan), total,
                         sizeof total);
        const int fits = ds_plan_fits(question->config, &plan);
        ds_info("  %s = %s: %s%s", lever->key, value, total, fits ? "" : ", still too much");
        if (fits)
            break;
    }
    return DS_OK;
}

ds_status ds_plan_show_levers(const struct ds_plan_question *question, int of_host)
{
    struct ds_config *other = malloc(sizeof *other);
    struct ds_model_config model;
    ds_status st = other ? ds_trainer_model_config(question->config, question->fs, &model)
                         : ds_fail(DS_ERR_NO_MEMORY, "a configuration");

    if (st == DS_OK)
        ds_info("what one key changes of the %s memory of the rank that takes most:",
                of_host ? "host" : "device");
    for (size_t i = 0; st == DS_OK && i < sizeof levers / sizeof *levers; i++)
        st = show_lever(&levers[i], question, &model, of_host, other);
    free(other);
    return st;
}
