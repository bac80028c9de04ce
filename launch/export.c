/* export.c - `dstrain export CHECKPOINT OUT`: a checkpoint as a Hugging Face folder, by one process and without a GPU.
 * CHECKPOINT is a run directory or its checkpoints/, of which the newest is taken whose weights verify, or a manifest
 * in it; of a run that trains an adapter that is a PEFT folder, and with --merge the model with the adapter in it, as it
 * is of a PEFT folder in CHECKPOINT's place. With --quant the matrices of a model are quantised, which is done of a
 * model's folder, too. Changes nothing but OUT, which comes whole or not at all. */
#include "export_arguments.h"

#include "dstrain/export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static ds_status export_as(const struct export *e, const struct ds_manifest *manifest,
                           const struct ds_export_model *model, const struct ds_lora *lora,
                           const char *folder)
{
    const struct ds_export_from from = {.fs = e->fs,
                                        .root = e->place.root,
                                        .manifest = manifest,
                                        .config = &model->config,
                                        .lora = lora,
                                        .buffer = e->buffer};
    const struct ds_hf_write_options to = {.fs = e->fs,
                                           .folder = e->out,
                                           .companions = folder,
                                           .has_byte_tokens = model->has_byte_tokens,
                                           .base = model->base,
                                           .beside = model->beside,
                                           .dtype = e->dtype};

    return ds_export_checkpoint(&from, &to);
}

/* ---- the model with its adapter, or quantised */

static const char *const dtype_names[] = {[DS_F32] = "fp32", [DS_BF16] = "bf16", [DS_F16] = "fp16"};

/* `adapter` NULL: without one; `values`: of the checkpoint that it is of, or NULL */
static ds_status merge(const struct export *e, const char *base, const char *adapter,
                       const struct ds_values *values, const struct ds_hf_write_options *how)
{
    enum ds_dtype written = DS_F32;

    DS_TRY(ds_hf_merge(base, adapter, values, how, &written));
    printf("%s: %s%s%s, %s%s%s\n", e->out, adapter ? base : e->checkpoint,
           adapter ? " with the adapter of " : "", adapter ? e->checkpoint : "",
           how->is_quantised ? ds_quant_name(how->quant) : "", how->is_quantised ? " and " : "",
           dtype_names[written]);
    return DS_OK;
}

static struct ds_hf_write_options merge_options(const struct export *e, const char *companions,
                                                int has_byte_tokens)
{
    return (struct ds_hf_write_options){.fs = e->fs,
                                        .folder = e->out,
                                        .companions = companions,
                                        .has_byte_tokens = has_byte_tokens,
                                        .is_quantised = e->quant_text != NULL,
                                        .quant = e->quant,
                                        .dtype = e->dtype_text ? e->dtype : DS_BOOL};
}

static ds_status check_merge(const struct export *e, const struct ds_export_model *model,
                             const char *base)
{
    if (e->merges && !model->is_adapted)
        return ds_fail(DS_ERR_CONFIG,
                       "--merge: %s is of a run that trains the model itself: there is no adapter",
                       e->checkpoint);
    if (!e->merges && model->is_adapted)
        return ds_fail(DS_ERR_CONFIG,
                       "--quant: %s is of a run that trains an adapter, which stays as it is; "
                       "--merge makes a model of it",
                       e->checkpoint);
    if (e->merges && !base[0])
        return ds_fail(DS_ERR_DATA, "%s: does not say what its adapter is for: --base FOLDER does",
                       e->checkpoint);
    return DS_OK;
}

/* What a checkpoint has goes through a folder beside OUT: factors may take as long as they like to become a part of each
 * matrix, and matrices come in their order. */
static ds_status merge_checkpoint(const struct export *e, const struct ds_manifest *manifest,
                                  const struct ds_export_model *model, const struct ds_lora *lora,
                                  const char *tokenizer)
{
    const char *base = e->base ? e->base : model->base;
    struct export between = *e;
    ds_status st;

    DS_TRY(check_merge(e, model, base));
    between.dtype = DS_F32;
    snprintf(between.out, sizeof between.out, "%.*s.%s", (int)sizeof between.out - 16, e->out,
             e->merges ? "factors" : "whole");
    struct ds_hf_write_options how =
        merge_options(e, tokenizer ? tokenizer : base, model->has_byte_tokens);
    if (!e->merges) {
        how.companions = tokenizer;
        how.dtype = e->dtype_text ? e->dtype : DS_BF16;
    }
    DS_TRY(export_as(&between, manifest, model, lora, NULL));
    st = e->merges ? merge(e, base, between.out, &manifest->state, &how)
                   : merge(e, between.out, NULL, NULL, &how);
    const int code = ds_fs_remove_tree(e->fs, between.out);
    if (st == DS_OK && code != 0)
        st = ds_fail(DS_ERR_IO, "remove %s: %s", between.out, strerror(-code));
    return st;
}

static ds_status merge_folder(const struct export *e)
{
    char named[DS_CHECKPOINT_PATH_BYTES];
    const char *base = e->base;

    if (!base) {
        DS_TRY(ds_hf_adapter_base(e->fs, e->checkpoint, named, sizeof named));
        base = named;
    }
    const struct ds_hf_write_options how = merge_options(e, e->tokenizer ? e->tokenizer : base, 0);
    return merge(e, base, e->checkpoint, NULL, &how);
}

static ds_status quantise_folder(const struct export *e)
{
    const struct ds_hf_write_options how =
        merge_options(e, e->tokenizer ? e->tokenizer : e->checkpoint, 0);

    return merge(e, e->checkpoint, NULL, NULL, &how);
}

/* A model's folder, and no run's. */
static int is_model(const struct export *e)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    return snprintf(path, sizeof path, "%s/config.json", e->checkpoint) < (int)sizeof path &&
           ds_fs_stat(e->fs, path, &stat) == 0;
}

static ds_status export_manifest(const struct export *e, const struct ds_manifest *manifest)
{
    struct ds_lora lora = {0};
    struct ds_export_model *model = malloc(sizeof *model);
    const char *folder = NULL;
    char what[64];

    snprintf(what, sizeof what, "the checkpoint of step %llu",
             (unsigned long long)manifest->id.step);
    ds_status st = model ? ds_export_model_read(what, &manifest->state, model)
                         : ds_fail(DS_ERR_NO_MEMORY, "no memory to export a checkpoint");
    if (st == DS_OK)
        st = find_tokenizer(e, model, &folder);
    if (st == DS_OK)
        st = ds_export_lora(what, model, &manifest->catalogue, &lora);
    if (st == DS_OK)
        st = e->merges || e->quant_text ? merge_checkpoint(e, manifest, model, &lora, folder)
                                        : export_as(e, manifest, model, &lora, folder);
    ds_lora_fini(&lora);
    free(model);
    return st;
}

static ds_status export_one(const struct export *e, const struct ds_manifest_id *id)
{
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_place_read(e->fs, &e->place, id, &manifest));
    ds_status st = export_manifest(e, &manifest);
    ds_manifest_fini(&manifest);
    if (st == DS_OK && !e->merges && !e->quant_text)
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

/* Of a run without checkpoints there is the adapter that it has exported. */
static ds_status look_for_adapter(struct export *e)
{
    int has_checkpoints;

    if (ds_hf_is_adapter(e->fs, e->checkpoint))
        return DS_OK;
    snprintf(e->adapter, sizeof e->adapter, "%.*s/export", (int)sizeof e->adapter - 16,
             e->checkpoint);
    if (e->step || !ds_hf_is_adapter(e->fs, e->adapter))
        return DS_OK;
    DS_TRY(ds_checkpoint_place_find(e->fs, e->checkpoint, &e->place, &has_checkpoints));
    if (!has_checkpoints)
        e->checkpoint = e->adapter;
    return DS_OK;
}

ds_status ds_export_main(struct ds_command *command)
{
    struct export e = {.fs = command->fs};

    DS_TRY(ds_export_arguments(command, &e));
    if (e.merges)
        DS_TRY(look_for_adapter(&e));
    if (e.merges && ds_hf_is_adapter(e.fs, e.checkpoint)) {
        DS_TRY(check_out(&e));
        return merge_folder(&e);
    }
    if (e.quant_text && !e.merges && is_model(&e)) {
        DS_TRY(check_out(&e));
        return quantise_folder(&e);
    }
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
