/* eval.c - `dstrain eval config.ini`: loss and perplexity on the evaluation data, of the run's export where
 * there is one, else of model.path; an export that is an adapter stands beside model.path. */
#include "command.h"
#include "console.h"
#include "plan.h"
#include "run_dir.h"

#include "dstrain/hf.h"
#include "dstrain/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int has_export(struct ds_fs *fs, const char *dir, char path[DS_RUN_PATH_BYTES])
{
    char config[DS_RUN_PATH_BYTES + 16];
    struct ds_fs_stat stat;

    snprintf(path, DS_RUN_PATH_BYTES, "%s/export", dir);
    snprintf(config, sizeof config, "%s/config.json", path);
    return dir[0] && ds_fs_stat(fs, config, &stat) == 0;
}

static uint32_t *line_of(struct ds_config *config, const char *section, const char *key)
{
    return &config->places.line[ds_field_index(ds_field_find(section, key))];
}

/* Its settings hold, and those that made it are not said twice. */
static void take_adapter(struct ds_config *config, const char *path)
{
    snprintf(config->lora.adapter, sizeof config->lora.adapter, "%.*s", DS_TEXT_MAX - 1, path);
    config->lora.r = 0;
    for (size_t i = 0; i < ds_config_field_count; i++)
        if (ds_config_fields[i].flags & DS_FIELD_SHAPES_ADAPTER)
            config->places.line[i] = 0;
    *line_of(config, "lora", "adapter") = *line_of(config, "run", "dir");
}

/* collective: rank 0 looks */
static ds_status choose_adapter(struct ds_command *command, struct ds_config *config)
{
    char path[DS_RUN_PATH_BYTES] = "";

    if (command->world->rank == 0 && config->run.dir[0]) {
        snprintf(path, sizeof path, "%s/export", config->run.dir);
        if (!ds_hf_is_adapter(command->fs, path))
            path[0] = '\0';
    }
    DS_TRY(ds_comm_broadcast(command->world, path, sizeof path, 0, NULL));
    if (path[0])
        take_adapter(config, path);
    return DS_OK;
}

/* The export's path comes from run.dir: messages about it name that line. */
static ds_status find_model(struct ds_command *command, struct ds_config *config,
                            char path[DS_RUN_PATH_BYTES])
{
    char key[DS_KEY_BYTES];

    if (has_export(command->fs, config->run.dir, path)) {
        *line_of(config, "model", "path") = *line_of(config, "run", "dir");
        return DS_OK;
    }
    snprintf(path, DS_RUN_PATH_BYTES, "%s", config->model.path);
    return path[0] ? DS_OK
                   : ds_fail(DS_ERR_CONFIG,
                             "%s = %s: nothing to evaluate: it has no export, and model.path is "
                             "not set",
                             ds_config_key(config, "run", "dir", key), config->run.dir);
}

/* collective: rank 0 looks; all take the same model */
static ds_status choose_model(struct ds_command *command, struct ds_config *config)
{
    char path[DS_RUN_PATH_BYTES] = "";
    ds_status st = DS_OK;

    DS_TRY(choose_adapter(command, config));
    if (command->world->rank == 0)
        st = find_model(command, config, path);
    DS_TRY(ds_comm_agreed(command->world, st));
    DS_TRY(ds_comm_broadcast(command->world, path, sizeof path, 0, NULL));
    snprintf(config->model.path, sizeof config->model.path, "%.*s", DS_TEXT_MAX - 1, path);
    return DS_OK;
}

static ds_status evaluate(struct ds_command *command, const struct ds_config *config)
{
    const struct ds_trainer_options options = {.config = config,
                                               .mode = DS_TRAINER_EVALUATE,
                                               .world = command->world,
                                               .fs = command->fs,
                                               .clock = command->clock,
                                               .local_rank = command->local_rank,
                                               .thread_count = command->thread_count};
    struct ds_trainer *trainer = NULL;
    uint64_t tokens = 0;
    double loss = NAN;
    ds_status st;

    DS_TRY(ds_trainer_open(&options, &trainer));
    st = ds_trainer_evaluate(trainer, &loss, &tokens);
    if (st == DS_OK && command->world->rank == 0)
        printf("%s: loss %.6f, perplexity %.4f, %llu tokens\n",
               config->lora.adapter[0] ? config->lora.adapter : config->model.path,
               ds_console_real(loss), ds_console_real(exp(loss)), (unsigned long long)tokens);
    ds_trainer_close(trainer);
    return st;
}

ds_status ds_eval_main(struct ds_command *command)
{
    struct ds_config *config = malloc(sizeof *config);
    ds_status st;

    if (!config)
        return ds_fail(DS_ERR_NO_MEMORY, "a configuration");
    *config = *command->config;
    st = choose_model(command, config);
    if (st == DS_OK)
        st = ds_plan_together(&(struct ds_plan_ranks){command->world, command->fs, command->clock,
                                                      command->local_rank, command->local_count,
                                                      command->thread_count},
                              DS_CONFIG_EVAL, config);
    if (st == DS_OK)
        st = evaluate(command, config);
    free(config);
    return st;
}
