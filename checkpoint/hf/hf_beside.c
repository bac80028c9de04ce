/* hf_beside.c - what stands beside the weights of an export: files that are copied from the folder that the model came
 * from, or the byte tokenizer. */
#include "hf_tokenizer.h"
#include "hf_write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_status copy_file(struct ds_fs *fs, const char *from, const char *to)
{
    char *text = NULL;
    size_t bytes = 0;

    DS_TRY(ds_fs_read_file(fs, from, 256u << 20, &text, &bytes));
    ds_status st = ds_fs_write_file(fs, to, text, bytes);
    free(text);
    return st;
}

static ds_status copy_companions(const struct ds_hf_write_options *options,
                                 const struct hf_folder *folder)
{
    for (size_t i = 0; hf_companion(i); i++) {
        char from[HF_PATH_BYTES], to[HF_PATH_BYTES + 64];
        struct ds_fs_stat stat;

        snprintf(from, sizeof from, "%s/%s", options->companions, hf_companion(i));
        snprintf(to, sizeof to, "%s/%s", folder->temporary, hf_companion(i));
        int code = ds_fs_stat(options->fs, from, &stat);
        if (code == -ENOENT)
            continue;
        if (code != 0)
            return hf_folder_failed(folder, from, code);
        DS_TRY(copy_file(options->fs, from, to));
    }
    return DS_OK;
}

static ds_status write_text(const struct ds_hf_write_options *options,
                            const struct hf_folder *folder, const char *name, const char *text)
{
    char path[HF_PATH_BYTES + 64];

    snprintf(path, sizeof path, "%s/%s", folder->temporary, name);
    return ds_fs_write_file(options->fs, path, text, strlen(text));
}

static ds_status write_byte_tokenizer(const struct ds_hf_write_options *options,
                                      const struct hf_folder *folder)
{
    char *tokenizer = NULL, *settings = NULL;
    ds_status st;

    DS_TRY_GOTO(st, hf_byte_tokenizer(&tokenizer, &settings), done);
    DS_TRY_GOTO(st, write_text(options, folder, "tokenizer.json", tokenizer), done);
    st = write_text(options, folder, "tokenizer_config.json", settings);
done:
    free(tokenizer);
    free(settings);
    return st;
}

/* Of the tokenizer that the model's tokens came from: none where nobody here knows it. */
ds_status hf_write_companions(const struct ds_hf_write_options *options,
                              const struct hf_folder *folder)
{
    enum ds_hf_tokenizer there = DS_HF_TOKENIZER_NONE;

    if (options->companions) {
        DS_TRY(copy_companions(options, folder));
        DS_TRY(ds_hf_which_tokenizer(options->fs, folder->temporary, &there));
    }
    if (there != DS_HF_TOKENIZER_NONE)
        return DS_OK;
    if (options->has_byte_tokens)
        return write_byte_tokenizer(options, folder);
    if (options->companions)
        ds_warn("%s: no tokenizer's files are there, so %s has none; who loads it wants those of "
                "the model that it came from",
                options->companions, folder->name);
    return DS_OK;
}
