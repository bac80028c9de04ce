/* export_model.c - what a manifest says of the model, so that no other file is needed to know it: its config.json as one
 * value, and where the tokenizer's files were. */
#include "hf_folder.h"

#include "dstrain/export.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_status digest_tokenizer(struct ds_fs *fs, const char *folder, int *is_there,
                                  struct ds_digest *out)
{
    char path[HF_PATH_BYTES], *text = NULL;
    struct ds_fs_stat stat;
    size_t bytes = 0;

    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    *is_there = ds_fs_stat(fs, path, &stat) == 0;
    if (!*is_there)
        return DS_OK;
    DS_TRY(ds_fs_read_file(fs, path, 256u << 20, &text, &bytes));
    *out = ds_digest_of(text, bytes);
    free(text);
    return DS_OK;
}

/* ---- into values */

static ds_status describe_tokenizer(struct ds_fs *fs, const struct ds_export_model *model,
                                    struct ds_values *values)
{
    char hex[DS_DIGEST_TEXT_BYTES] = "";
    struct ds_digest digest;
    int is_there = 0;

    if (model->companions[0])
        DS_TRY(digest_tokenizer(fs, model->companions, &is_there, &digest));
    if (is_there)
        ds_digest_text(&digest, hex);
    DS_TRY(ds_values_set(values, "model.companions", model->companions));
    return ds_values_set(values, "model.tokenizer", hex);
}

ds_status ds_export_describe(struct ds_fs *fs, const struct ds_export_model *model,
                             struct ds_values *values)
{
    char *text = NULL;

    DS_TRY(ds_model_config_write(&model->config, DS_F32, &text));
    ds_status st = ds_values_set(values, "model.config", text);
    free(text);
    DS_TRY(st);
    DS_TRY(ds_values_set_u64(values, "model.byte_tokens", model->has_byte_tokens != 0));
    return describe_tokenizer(fs, model, values);
}

/* ---- and back */

static ds_status read_config(const char *what, const struct ds_values *values,
                             struct ds_model_config *out)
{
    const char *text = ds_values_get(values, "model.config");
    char name[512];

    if (!text)
        return ds_fail(DS_ERR_DATA,
                       "%s: it does not say which model it is of, as checkpoints of older programs "
                       "do not: let the run go on from it, the next checkpoint can be exported",
                       what);
    snprintf(name, sizeof name, "%.400s: model.config", what);
    return ds_model_config_parse(name, text, strlen(text), out);
}

ds_status ds_export_model_read(const char *what, const struct ds_values *values,
                               struct ds_export_model *out)
{
    const char *companions = ds_values_get(values, "model.companions");
    const char *tokenizer = ds_values_get(values, "model.tokenizer");
    struct ds_export_model model = {0};
    uint64_t has_byte_tokens = 0;

    DS_TRY(read_config(what, values, &model.config));
    DS_TRY(ds_values_u64(values, what, "model.byte_tokens", 0, 1, &has_byte_tokens));
    model.has_byte_tokens = (int)has_byte_tokens;
    if (companions)
        snprintf(model.companions, sizeof model.companions, "%s", companions);
    model.has_tokenizer = tokenizer && tokenizer[0];
    if (model.has_tokenizer && !ds_digest_parse(tokenizer, &model.tokenizer))
        return ds_fail(DS_ERR_DATA, "%s: 'model.tokenizer' must be 32 digits of hex", what);
    *out = model;
    return DS_OK;
}

ds_status ds_export_check_tokenizer(struct ds_fs *fs, const struct ds_export_model *model,
                                    const char *folder, enum ds_export_tokenizer *out)
{
    struct ds_fs_stat stat;
    struct ds_digest digest;
    int is_there = 0;

    *out = DS_EXPORT_TOKENIZER_GONE;
    if (ds_fs_stat(fs, folder, &stat) != 0 || !stat.is_directory)
        return DS_OK;
    DS_TRY(digest_tokenizer(fs, folder, &is_there, &digest));
    const int is_same =
        !model->has_tokenizer || (is_there && ds_digest_equal(&digest, &model->tokenizer));
    *out = is_same ? DS_EXPORT_TOKENIZER_IS : DS_EXPORT_TOKENIZER_OTHER;
    return DS_OK;
}
