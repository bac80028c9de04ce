/* export_model.c - what a manifest says of the model, so that no other file is needed to know it: its config.json as one
 * value, and where the tokenizer's files were. */
#include "hf_folder.h"

#include "dstrain/export.h"

#include <inttypes.h>
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

static ds_status describe_adapter(const struct ds_export_model *model, struct ds_values *values)
{
    char sum[32];

    if (!model->is_adapted)
        return DS_OK;
    snprintf(sum, sizeof sum, "%016" PRIx64, model->beside.sum);
    DS_TRY(ds_values_set(values, "adapter.base", model->base));
    DS_TRY(ds_values_set(values, "adapter.base_sum", sum));
    DS_TRY(ds_values_set(values, "adapter.base_dtype", ds_dtype_name(model->beside.dtype)));
    DS_TRY(ds_values_set_u64(values, "adapter.r", model->adapter.r));
    DS_TRY(ds_values_set_real(values, "adapter.alpha", model->adapter.alpha));
    DS_TRY(ds_values_set_real(values, "adapter.dropout", model->adapter.dropout));
    DS_TRY(ds_values_set_u64(values, "adapter.rslora", model->adapter.is_rslora != 0));
    DS_TRY(ds_values_set_u64(values, "adapter.dora", model->adapter.is_dora != 0));
    DS_TRY(ds_values_set_u64(values, "adapter.bias", (uint64_t)model->adapter.bias));
    DS_TRY(ds_values_set(values, "adapter.modules_to_save", model->adapter.whole));
    return ds_values_set(values, "adapter.scales", model->scales);
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
    DS_TRY(describe_adapter(model, values));
    return describe_tokenizer(fs, model, values);
}

ds_status ds_export_check_base(const struct ds_values *values, const char *base, uint64_t base_sum)
{
    const char *expected = ds_values_get(values, "adapter.base_sum");
    char sum[32];

    snprintf(sum, sizeof sum, "%016" PRIx64, base_sum);
    if (!expected || strcmp(expected, sum) == 0)
        return DS_OK;
    return ds_fail(DS_ERR_DATA,
                   "%s: its weights are not those beside which the factors of the checkpoint were "
                   "trained",
                   base[0] ? base : "the model");
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

/* Of the model itself: nothing where an older program wrote it. */
static ds_status read_trained(const char *what, const struct ds_values *values,
                              struct ds_lora_settings *out)
{
    const char *whole = ds_values_get(values, "adapter.modules_to_save");
    uint64_t bias = 0, is_dora = 0;

    if (!whole)
        return DS_OK;
    snprintf(out->whole, sizeof out->whole, "%s", whole);
    DS_TRY(ds_values_u64(values, what, "adapter.bias", 0, DS_LORA_BIAS_COUNT - 1, &bias));
    out->bias = (int)bias;
    if (ds_values_get(values, "adapter.dora"))
        DS_TRY(ds_values_u64(values, what, "adapter.dora", 0, 1, &is_dora));
    out->is_dora = (int)is_dora;
    return DS_OK;
}

/* Where an older program wrote it nobody knows how it is stored. */
static void read_beside(const struct ds_values *values, struct ds_hf_base *out)
{
    const char *sum = ds_values_get(values, "adapter.base_sum");
    const char *dtype = ds_values_get(values, "adapter.base_dtype");

    if (sum && dtype && ds_dtype_parse(dtype, &out->dtype))
        out->sum = strtoull(sum, NULL, 16);
}

static ds_status read_adapter(const char *what, const struct ds_values *values,
                              struct ds_export_model *out)
{
    const char *scales = ds_values_get(values, "adapter.scales");
    const char *base = ds_values_get(values, "adapter.base");
    uint64_t is_rslora = 0;

    if (!scales)
        return DS_OK;
    out->is_adapted = 1;
    snprintf(out->scales, sizeof out->scales, "%s", scales);
    snprintf(out->base, sizeof out->base, "%s", base ? base : "");
    read_beside(values, &out->beside);
    DS_TRY(ds_values_u64(values, what, "adapter.r", 1, DS_LORA_RANK_MAX, &out->adapter.r));
    DS_TRY(ds_values_real(values, what, "adapter.alpha", &out->adapter.alpha));
    DS_TRY(ds_values_real(values, what, "adapter.dropout", &out->adapter.dropout));
    DS_TRY(ds_values_u64(values, what, "adapter.rslora", 0, 1, &is_rslora));
    out->adapter.is_rslora = (int)is_rslora;
    return read_trained(what, values, &out->adapter);
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
    DS_TRY(read_adapter(what, values, &model));
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
