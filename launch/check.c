/* check.c - `dstrain check config.ini`: whoever gets here has a good configuration, but for what the
 * config.json of its model says; it is printed as it will be used. Under mpirun for that number of ranks,
 * alone for any. */
#include "command.h"

#include "dstrain/trainer.h"

#include <stdio.h>
#include <stdlib.h>

/* Of the files that a configuration names these decide what can be trained, and on which ranks: the folder of
 * the model, or, of a new model, the tokenizer of its texts. */
static ds_status check_model(const struct ds_command *command)
{
    const struct ds_config *config = command->config;
    const uint32_t size = command->world->size;
    const int has_folder = config->model.path[0] != '\0';
    struct ds_model_config model;

    if (!has_folder && (!ds_config_has_text(config) || ds_config_has_byte_text(config)))
        return DS_OK;
    DS_TRY(ds_trainer_model_config(config, command->fs, &model));
    if (!has_folder)
        return DS_OK;
    return ds_config_validate_model(config, DS_CONFIG_TRAIN, size > 1 ? size : 0, &model);
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
