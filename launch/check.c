/* check.c - `dstrain check config.ini`: whoever gets here has a good configuration, but for what the
 * config.json of its model says; it is printed as it will be used. Under mpirun for that number of ranks,
 * alone for any. */
#include "command.h"

#include "dstrain/trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Of the files that a configuration names these decide what can be trained. Where it will be, it may not
 * be yet. */
static ds_status check_model(const struct ds_command *command)
{
    const struct ds_config *config = command->config;
    const char *folder = config->model.path;
    struct ds_model_config model;
    struct ds_fs_stat stat;

    if (!folder[0] && config->data.format == DS_DATA_TEXT && !ds_config_has_byte_text(config))
        folder = config->data.tokenizer;
    if (!folder[0] || ds_fs_stat(command->fs, folder, &stat) == -ENOENT)
        return DS_OK;
    return ds_trainer_model_config(config, command->fs, &model);
}

ds_status ds_check_main(struct ds_command *command)
{
    char *text = NULL;

    if (command->world->rank != 0)
        return DS_OK;
    DS_TRY(check_model(command));
    DS_TRY(ds_config_print(command->config, &text));
    fputs(text, stdout);
    free(text);
    return DS_OK;
}
