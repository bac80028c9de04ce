/* export_arguments.c - the command line of `dstrain export`. */
#include "export_arguments.h"

#include "config/number.h"

#include <stdio.h>
#include <string.h>

static ds_status take_option(struct export *e, const char *name, const char *value)
{
    const char **at = strcmp(name, "--step") == 0        ? &e->step_text
                      : strcmp(name, "--dtype") == 0     ? &e->dtype_text
                      : strcmp(name, "--tokenizer") == 0 ? &e->tokenizer
                      : strcmp(name, "--base") == 0      ? &e->base
                      : strcmp(name, "--quant") == 0     ? &e->quant_text
                                                         : NULL;

    if (!at)
        return ds_command_usage("export");
    if (*at)
        return ds_fail(DS_ERR_CONFIG, "%s is given twice", name);
    if (!value)
        return ds_fail(DS_ERR_CONFIG, "%s: a value is missing", name);
    *at = value;
    return DS_OK;
}

static ds_status take_quant(struct export *e)
{
    e->quant = DS_QUANT_NF4;
    if (!e->quant_text || strcmp(e->quant_text, ds_quant_name(DS_QUANT_NF4)) == 0)
        return DS_OK;
    e->quant = DS_QUANT_INT8;
    if (strcmp(e->quant_text, ds_quant_name(DS_QUANT_INT8)) == 0)
        return DS_OK;
    return ds_fail(DS_ERR_CONFIG, "--quant = '%s' must be nf4 or int8", e->quant_text);
}

static ds_status take_values(struct export *e)
{
    static const struct {
        const char *name;
        enum ds_dtype dtype;
    } dtypes[] = {{"fp32", DS_F32}, {"bf16", DS_BF16}, {"fp16", DS_F16}};

    if (e->step_text && (!ds_number_count(e->step_text, &e->step) || e->step == 0))
        return ds_fail(DS_ERR_CONFIG, "--step = '%s' must be a whole number from 1 on",
                       e->step_text);
    e->dtype = e->dtype_text ? DS_BOOL : DS_F32;
    for (size_t i = 0; e->dtype_text && i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(e->dtype_text, dtypes[i].name) == 0)
            e->dtype = dtypes[i].dtype;
    if (e->dtype == DS_BOOL)
        return ds_fail(DS_ERR_CONFIG,
                       "--dtype = '%s' must be fp32, bf16 or fp16; --quant stores matrices in nf4 "
                       "or int8",
                       e->dtype_text);
    return take_quant(e);
}

/* What is written beside it has its name with an ending. */
static ds_status take_out(struct export *e, const char *path)
{
    size_t bytes = strlen(path);

    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    if (snprintf(e->out, sizeof e->out, "%.*s", (int)bytes, path) >= (int)sizeof e->out)
        return ds_fail(DS_ERR_CONFIG, "%.100s...: the path is too long", path);
    const char *name = strrchr(e->out, '/') ? strrchr(e->out, '/') + 1 : e->out;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return ds_fail(DS_ERR_CONFIG, "'%s': a folder is needed that has a name of its own", path);
    return DS_OK;
}

ds_status ds_export_arguments(const struct ds_command *command, struct export *e)
{
    const char *out = NULL;

    for (int i = 0; i < command->argc; i++) {
        const char *word = command->argv[i];

        if (strcmp(word, "--merge") == 0) {
            e->merges = 1;
        } else if (word[0] == '-') {
            DS_TRY(take_option(e, word, i + 1 < command->argc ? command->argv[i + 1] : NULL));
            i++;
        } else if (!e->checkpoint) {
            e->checkpoint = word;
        } else if (!out) {
            out = word;
        } else {
            return ds_command_usage("export");
        }
    }
    if (!out)
        return ds_command_usage("export");
    if (e->base && !e->merges)
        return ds_fail(DS_ERR_CONFIG, "--base is the model that --merge adds an adapter to");
    DS_TRY(take_values(e));
    return take_out(e, out);
}
