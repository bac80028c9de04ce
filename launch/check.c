/* check.c - `dstrain check config.ini`: whoever gets here has a good configuration, but for what the
 * config.json of its model says and the adapter that it asks for; it is printed as it will be used. Data may lie where
 * the run will be, and not here: what is missing is said. Under mpirun for that number of ranks, alone for any. */
#include "command.h"
#include "trainer/trainer.h"

#include "dstrain/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Do its names and numbers belong to the model? */
static ds_status check_adapter(const struct ds_command *command,
                               const struct ds_model_config *model)
{
    struct ds_lora lora = {0};
    int is_there = 0;

    DS_TRY(trainer_choose_adapter(command->config, command->fs, model, &lora, &is_there));
    ds_lora_fini(&lora);
    return DS_OK;
}

/* Of the files that a configuration names these decide what can be trained, and on which ranks: the folder of
 * the model, or, of a new model, the tokenizer of its texts; and that of an adapter. */
static ds_status check_model(const struct ds_command *command)
{
    const struct ds_config *config = command->config;
    const uint32_t size = command->world->size;
    struct ds_model_config model;

    DS_TRY(ds_trainer_model_config(config, command->fs, &model));
    DS_TRY(check_adapter(command, &model));
    if (!config->model.path[0])
        return DS_OK;
    return ds_config_validate_model(config, DS_CONFIG_TRAIN, size > 1 ? size : 0, &model);
}

static ds_status look_for_data(const struct ds_command *command, const char *key, const char *text)
{
    struct ds_data_parts parts;
    struct ds_fs_stat stat;
    char place[DS_KEY_BYTES];

    if (text[0] == '\0')
        return DS_OK;
    ds_config_key(command->config, "data", key, place);
    DS_TRY(ds_data_parts_parse(place, text, &parts));
    for (size_t i = 0; i < parts.count; i++) {
        const int code = ds_fs_stat(command->fs, parts.parts[i].path, &stat);

        if (code < 0)
            ds_warn("%s: %s: %s; a run here is refused", place, parts.parts[i].path,
                    strerror(-code));
    }
    ds_data_parts_fini(&parts);
    return DS_OK;
}

ds_status ds_check_main(struct ds_command *command)
{
    char *text = NULL;

    if (command->world->rank != 0)
        return DS_OK;
    DS_TRY(check_model(command));
    DS_TRY(look_for_data(command, "train", command->config->data.train));
    DS_TRY(look_for_data(command, "eval", command->config->data.eval));
    DS_TRY(ds_config_print(command->config, &text));
    fputs(text, stdout);
    free(text);
    return DS_OK;
}
