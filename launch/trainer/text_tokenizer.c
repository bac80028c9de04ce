/* text_tokenizer.c - from the values of data.tokenizer and model.path to the tokenizer of texts. */
#include "text_tokenizer.h"
#include "config/config.h"

#include "dstrain/hf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char file_name[] = "tokenizer.json";

static int has_file(struct ds_fs *fs, const char *folder)
{
    char path[DS_TEXT_MAX + 32];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/%s", folder, file_name);
    return ds_fs_stat(fs, path, &stat) == 0;
}

/* A folder without a tokenizer may be anyone's. */
static ds_status of_model(const struct ds_config *config, struct ds_fs *fs,
                          struct ds_text_tokenizer *out)
{
    const int wants_bytes = config->data.tokenizer[0] != '\0';
    const char *folder = config->model.path;
    enum ds_hf_tokenizer there = DS_HF_TOKENIZER_NONE;
    char key[DS_KEY_BYTES];

    if (folder[0])
        DS_TRY(ds_hf_which_tokenizer(fs, folder, &there));
    out->is_bytes = there != DS_HF_TOKENIZER_OTHER;
    out->is_nobodys = folder[0] && there == DS_HF_TOKENIZER_NONE && !wants_bytes;
    if (out->is_bytes)
        return DS_OK;
    if (wants_bytes)
        return ds_fail(
            DS_ERR_UNSUPPORTED,
            "%s = %s: its tokenizer is another one than the byte tokenizer, which [data] "
            "tokenizer = bytes asks for; leave that key out to take the model's own",
            ds_config_key(config, "model", "path", key), folder);
    if (!has_file(fs, folder))
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s = %s: its tokenizer has no tokenizer.json, the one form that is read "
                       "here; let transformers save one, or name another in [data] tokenizer",
                       ds_config_key(config, "model", "path", key), folder);
    snprintf(out->folder, sizeof out->folder, "%s", folder);
    return DS_OK;
}

/* The folder of a file: what an export copies has its name there. */
static ds_status of_path(const struct ds_config *config, struct ds_fs *fs,
                         struct ds_text_tokenizer *out)
{
    const char *path = config->data.tokenizer, *slash = strrchr(path, '/');
    enum ds_hf_tokenizer there;
    struct ds_fs_stat stat;
    const int code = ds_fs_stat(fs, path, &stat);

    if (code < 0)
        return ds_config_refuse(config, "data", "tokenizer", "= %s: %s", path, strerror(-code));
    if (stat.is_directory) {
        snprintf(out->folder, sizeof out->folder, "%s", path);
    } else if (strcmp(slash ? slash + 1 : path, file_name) == 0) {
        snprintf(out->folder, sizeof out->folder, "%.*s", slash ? (int)(slash - path) : 1,
                 slash ? path : ".");
        if (out->folder[0] == '\0')
            snprintf(out->folder, sizeof out->folder, "/");
    }
    if (!out->folder[0] || !has_file(fs, out->folder))
        return ds_config_refuse(config, "data", "tokenizer",
                                "= %s: neither bytes, nor a tokenizer.json, nor a folder that has "
                                "one",
                                path);
    DS_TRY(ds_hf_which_tokenizer(fs, out->folder, &there));
    out->is_bytes = there == DS_HF_TOKENIZER_BYTES;
    if (out->is_bytes)
        out->folder[0] = '\0';
    return DS_OK;
}

ds_status ds_text_tokenizer_find(const struct ds_config *config, struct ds_fs *fs,
                                 struct ds_text_tokenizer *out)
{
    const char *named = config->data.tokenizer;
    struct ds_text_tokenizer found = {0};

    if (ds_config_has_text(config))
        DS_TRY(named[0] == '\0' || strcmp(named, "bytes") == 0 ? of_model(config, fs, &found)
                                                               : of_path(config, fs, &found));
    *out = found;
    return DS_OK;
}

void ds_text_tokenizer_warn(const struct ds_config *config, const struct ds_text_tokenizer *found)
{
    char key[DS_KEY_BYTES];

    if (found->is_nobodys)
        ds_warn("%s = %s: no tokenizer's files are there: texts become bytes, which a model that "
                "had others does not know; copy its tokenizer.json there, or name one, or bytes, "
                "in [data] tokenizer",
                ds_config_key(config, "model", "path", key), config->model.path);
}

ds_status ds_text_tokenizer_open(const struct ds_config *config, struct ds_fs *fs,
                                 struct ds_tokenizer **out)
{
    struct ds_text_tokenizer found;

    DS_TRY(ds_text_tokenizer_find(config, fs, &found));
    *out = NULL;
    return found.folder[0] ? ds_tokenizer_open(fs, found.folder, out) : DS_OK;
}
