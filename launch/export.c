/* export.c - `dstrain export CHECKPOINT OUT`: a checkpoint as a Hugging Face folder, by one process and without a GPU.
 * CHECKPOINT is a run directory or its checkpoints/, of which the newest is taken whose weights verify, or a manifest
 * in it. Changes nothing but OUT, which comes whole or not at all. */
#include "checkpoint_place.h"
#include "command.h"

#include "config/number.h"

#include "dstrain/export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct export
{
    struct ds_fs *fs;
    /* what was asked for */
    const char *checkpoint, *tokenizer;
    char out[DS_CHECKPOINT_PATH_BYTES - 256];
    const char *step_text, *dtype_text;
    enum ds_dtype dtype;
    uint64_t step;
    /* what is there */
    struct ds_checkpoint_place place;
    void *buffer; /* DS_PACK_CHUNK_BYTES */
};

/* ---- the command line */

static ds_status take_option(struct export *e, const char *name, const char *value)
{
    const char **at = strcmp(name, "--step") == 0        ? &e->step_text
                      : strcmp(name, "--dtype") == 0     ? &e->dtype_text
                      : strcmp(name, "--tokenizer") == 0 ? &e->tokenizer
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
        return ds_fail(DS_ERR_CONFIG, "--dtype = '%s' must be fp32, bf16 or fp16", e->dtype_text);
    return DS_OK;
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

static ds_status read_arguments(const struct ds_command *command, struct export *e)
{
    const char *out = NULL;

    for (int i = 0; i < command->argc; i++) {
        const char *word = command->argv[i];

        if (word[0] == '-') {
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
    DS_TRY(take_values(e));
    return take_out(e, out);
}

/* Nobody's files are replaced. */
static ds_status check_out(const struct export *e)
{
    char **names = NULL;
    size_t count = 0;
    const int code = ds_fs_readdir(e->fs, e->out, &names, &count);

    free(code == 0 ? names : NULL);
    if (code == -ENOENT || (code == 0 && count == 0))
        return DS_OK;
    return ds_fail(DS_ERR_CONFIG, "%s: %s; name a folder that is not there yet", e->out,
                   code == 0          ? "there already, and not empty"
                   : code == -ENOTDIR ? "there already, and no directory"
                                      : strerror(-code));
}

/* ---- the tokenizer: `*folder` is where its files are copied from, or NULL */

static ds_status explain_none(const struct export *e, const struct ds_export_model *model)
{
    if (model->companions[0])
        ds_warn(
            "%s: the model's folder is not there any more: %s; --tokenizer FOLDER names another",
            model->companions,
            model->has_byte_tokens ? "the byte tokenizer is written, but no other file of it"
                                   : "no tokenizer is written");
    else if (!model->has_byte_tokens)
        ds_warn("%s: no tokenizer is known for this model, none is written; --tokenizer FOLDER "
                "names one",
                e->out);
    return DS_OK;
}

static ds_status find_tokenizer(const struct export *e, const struct ds_export_model *model,
                                const char **folder)
{
    const char *there = e->tokenizer ? e->tokenizer : model->companions;
    enum ds_export_tokenizer what = DS_EXPORT_TOKENIZER_GONE;

    *folder = NULL;
    if (there[0])
        DS_TRY(ds_export_check_tokenizer(e->fs, model, there, &what));
    if (what == DS_EXPORT_TOKENIZER_GONE)
        return e->tokenizer ? ds_fail(DS_ERR_DATA, "--tokenizer = %s: no such folder", e->tokenizer)
                            : explain_none(e, model);
    if (what == DS_EXPORT_TOKENIZER_OTHER && !e->tokenizer)
        return ds_fail(DS_ERR_DATA,
                       "%s: its tokenizer.json is not the one that this model was trained with; "
                       "--tokenizer FOLDER takes one as it is",
                       there);
    if (what == DS_EXPORT_TOKENIZER_OTHER)
        ds_warn(
            "%s: not the tokenizer.json that this model was trained with; taken as it was asked "
            "for",
            there);
    *folder = there;
    return DS_OK;
}

/* ---- one checkpoint */

static ds_status export_manifest(const struct export *e, const struct ds_manifest *manifest)
{
    struct ds_export_model *model = malloc(sizeof *model);
    const char *folder = NULL;
    char what[64];

    snprintf(what, sizeof what, "the checkpoint of step %llu",
             (unsigned long long)manifest->id.step);
    ds_status st = model ? ds_export_model_read(what, &manifest->state, model)
                         : ds_fail(DS_ERR_NO_MEMORY, "no memory to export a checkpoint");
    if (st == DS_OK)
        st = find_tokenizer(e, model, &folder);
    if (st == DS_OK) {
        const struct ds_export_from from = {.fs = e->fs,
                                            .root = e->place.root,
                                            .manifest = manifest,
                                            .config = &model->config,
                                            .buffer = e->buffer};
        const struct ds_hf_write_options to = {.fs = e->fs,
                                               .folder = e->out,
                                               .companions = folder,
                                               .has_byte_tokens = model->has_byte_tokens,
                                               .dtype = e->dtype};
        st = ds_export_checkpoint(&from, &to);
    }
    free(model);
    return st;
}

static ds_status export_one(const struct export *e, const struct ds_manifest_id *id)
{
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_place_read(e->fs, &e->place, id, &manifest));
    ds_status st = export_manifest(e, &manifest);
    ds_manifest_fini(&manifest);
    if (st == DS_OK)
        printf("%s: the model of step %llu (epoch %llu), %s\n", e->out,
               (unsigned long long)id->step, (unsigned long long)id->epoch,
               e->dtype_text ? e->dtype_text : "fp32");
    return st;
}

/* ---- which one */

static ds_status refuse_step(const struct export *e, const struct ds_checkpoint_entry *there)
{
    if (!there)
        return ds_fail(DS_ERR_NO_CHECKPOINT,
                       "%s: no checkpoint of step %llu; 'dstrain inspect' lists them",
                       e->place.root, (unsigned long long)e->step);
    return ds_fail(DS_ERR_NO_CHECKPOINT,
                   "%s: the checkpoint of step %llu %s; to take it all the same, name its manifest",
                   e->place.root, (unsigned long long)e->step,
                   there->standing == DS_CHECKPOINT_BURIED
                       ? "is marked as bad"
                       : "was left behind: a later launch went on from an older one");
}

static ds_status export_step(const struct export *e, const struct ds_checkpoint_list *list)
{
    const struct ds_checkpoint_entry *there = NULL;

    for (size_t i = 0; i < list->count; i++) {
        const struct ds_checkpoint_entry *entry = &list->entries[i];

        if (entry->id.step != e->step)
            continue;
        if (entry->standing == DS_CHECKPOINT_GOOD)
            return export_one(e, &entry->id);
        there = there ? there : entry;
    }
    return refuse_step(e, there);
}

static ds_status export_newest(const struct export *e, const struct ds_checkpoint_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        const struct ds_checkpoint_entry *entry = &list->entries[i];

        if (entry->standing != DS_CHECKPOINT_GOOD)
            continue;
        const ds_status st = export_one(e, &entry->id);
        if (st != DS_ERR_CORRUPT)
            return st;
        ds_warn("the checkpoint of step %llu is damaged; an older one is looked for",
                (unsigned long long)entry->id.step);
    }
    return ds_fail(DS_ERR_NO_CHECKPOINT, "%s: %s", e->place.root,
                   list->count > 0 ? "no checkpoint verifies; 'dstrain verify' says what is wrong"
                                   : "there is no checkpoint yet");
}

static ds_status export_listed(const struct export *e)
{
    struct ds_checkpoint_list list;

    DS_TRY(ds_checkpoint_list_make(e->fs, e->place.root, &list));
    ds_status st = e->step ? export_step(e, &list) : export_newest(e, &list);
    ds_checkpoint_list_fini(&list);
    return st;
}

ds_status ds_export_main(struct ds_command *command)
{
    struct export e = {.fs = command->fs};

    DS_TRY(read_arguments(command, &e));
    DS_TRY(ds_checkpoint_place_need(e.fs, e.checkpoint, &e.place));
    if (e.place.has_id && e.step)
        return ds_fail(DS_ERR_CONFIG, "--step beside a manifest: %s is one of a step already",
                       e.checkpoint);
    DS_TRY(check_out(&e));
    e.buffer = malloc(DS_PACK_CHUNK_BYTES);
    if (!e.buffer)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a chunk of %u bytes", DS_PACK_CHUNK_BYTES);
    ds_status st = e.place.has_id ? export_one(&e, &e.place.id) : export_listed(&e);
    free(e.buffer);
    return ds_checkpoint_place_end(&e.place, st);
}
