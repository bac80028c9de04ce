/* hf_folder.c - an export's folder, whole or absent. It is filled as `name`.tmp, which becomes `name` when
 * everything in it is durable. An older export waits as `name`.old meanwhile and comes back if that fails;
 * what a killed process left of either is put in order by the next export. An older folder that holds what
 * no export writes is kept as `name`.kept-N. */
#include "hf_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tokenizer and generation settings travel with the model they belong to. */
static const char *const companions[] = {
    "tokenizer.json",     "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt",         "tokenizer.model",       "generation_config.json",  "added_tokens.json",
    "chat_template.jinja"};
#define COMPANION_COUNT (sizeof companions / sizeof *companions)

const char *hf_companion(size_t index)
{
    return index < COMPANION_COUNT ? companions[index] : NULL;
}

void hf_folder_init(struct hf_folder *f, struct ds_fs *fs, const char *name)
{
    f->fs = fs;
    f->name = name;
    snprintf(f->temporary, sizeof f->temporary, "%s.tmp", name);
    snprintf(f->old, sizeof f->old, "%s.old", name);
}

ds_status hf_folder_failed(const struct hf_folder *f, const char *what, int code)
{
    return ds_fail(DS_ERR_IO, "export to %s: %s: %s", f->name, what, strerror(-code));
}

/* ---- an older export goes, but nothing with it that is not ours */

static int is_weights(const char *name)
{
    static const char pattern[] = "model-#####-of-#####.safetensors"; /* #: a digit */

    for (size_t i = 0; i < sizeof pattern; i++)
        if (pattern[i] == '#' ? name[i] < '0' || name[i] > '9' : name[i] != pattern[i])
            return 0;
    return 1;
}

static int is_ours_whole(const char *name)
{
    static const char *const own[] = {"config.json", "model.safetensors",
                                      "model.safetensors.index.json", "adapter_config.json",
                                      "adapter_model.safetensors"};

    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(name, own[i]) == 0)
            return 1;
    for (size_t i = 0; i < COMPANION_COUNT; i++)
        if (strcmp(name, companions[i]) == 0)
            return 1;
    return is_weights(name);
}

/* A file of an export, or one that is not finished. */
static int is_ours(const char *name)
{
    char whole[64];
    const size_t bytes = strlen(name);

    if (bytes >= sizeof whole)
        return 0;
    memcpy(whole, name, bytes + 1);
    if (bytes > 4 && strcmp(name + bytes - 4, ".tmp") == 0)
        whole[bytes - 4] = '\0';
    return is_ours_whole(whole);
}

/* Is there anything that no export writes? 1, 0 or -errno */
static int holds_more(struct ds_fs *fs, const char *path)
{
    char **names = NULL;
    size_t count = 0;
    int code = ds_fs_readdir(fs, path, &names, &count), more = 0;

    if (code == -ENOTDIR)
        return 1; /* no folder: no export at all */
    if (code < 0)
        return code;
    for (size_t i = 0; i < count; i++)
        more |= !is_ours(names[i]);
    free(names);
    return more;
}

static int keep(const struct hf_folder *f, const char *what)
{
    struct ds_fs *fs = f->fs;
    char path[HF_PATH_BYTES + 32];
    struct ds_fs_stat stat;
    int code = 0;

    for (unsigned n = 1; code == 0; n++) {
        snprintf(path, sizeof path, "%s.kept-%u", f->name, n);
        code = ds_fs_stat(fs, path, &stat);
    }
    if (code == -ENOENT)
        code = ds_fs_rename(fs, what, path);
    if (code == 0)
        ds_warn("export to %s: what was there holds more than an export; it is kept as %s", f->name,
                path);
    return code;
}

static int discard(const struct hf_folder *f, const char *what)
{
    int more = holds_more(f->fs, what);

    if (more < 0)
        return more == -ENOENT ? 0 : more;
    return more ? keep(f, what) : ds_fs_remove_tree(f->fs, what);
}

/* ---- the beginning */

static int exists(struct ds_fs *fs, const char *path, int *code)
{
    struct ds_fs_stat stat;
    int got = ds_fs_stat(fs, path, &stat);

    if (got != 0 && got != -ENOENT)
        *code = got;
    return got == 0;
}

/* A process that ended between two renames left the older export under its other name. */
static int settle(const struct hf_folder *f)
{
    struct ds_fs *fs = f->fs;
    int code = discard(f, f->temporary);

    if (code != 0 || !exists(fs, f->old, &code) || code != 0)
        return code;
    if (exists(fs, f->name, &code))
        return discard(f, f->old);
    return code != 0 ? code : ds_fs_rename(fs, f->old, f->name);
}

ds_status hf_folder_begin(const struct hf_folder *f)
{
    int code = settle(f);

    if (code != 0)
        return hf_folder_failed(f, "cannot remove an unfinished one", code);
    code = ds_fs_mkdirs(f->fs, f->temporary, 0750);
    if (code == -EACCES || code == -EPERM || code == -EROFS)
        return ds_fail(DS_ERR_CONFIG, "export to %s: cannot be written to: %s", f->name,
                       strerror(-code));
    if (code != 0)
        return hf_folder_failed(f, "cannot make its folder", code);
    return DS_OK;
}

/* ---- the end */

/* Names change places; if one of the changes fails, those before it are taken back. */
static ds_status swap(const struct hf_folder *f)
{
    struct ds_fs *fs = f->fs;
    const char *folder = f->name, *what = "cannot move the older one aside";
    int code = 0, has_old = exists(fs, folder, &code);

    if (code == 0 && has_old)
        code = ds_fs_rename(fs, folder, f->old);
    if (code != 0)
        return hf_folder_failed(f, what, code);
    what = "cannot give it its name";
    code = ds_fs_rename(fs, f->temporary, folder);
    if (code == 0) {
        what = "cannot make it durable";
        code = ds_fs_fsync_parent(fs, folder);
        if (code == 0)
            return DS_OK;
        (void)ds_fs_rename(fs, folder, f->temporary);
    }
    if (has_old)
        (void)ds_fs_rename(fs, f->old, folder);
    return hf_folder_failed(f, what, code);
}

/* The new one stands; the older one goes. What fails once may be done the second time. */
ds_status hf_folder_commit(const struct hf_folder *f)
{
    struct ds_fs *fs = f->fs;
    int code = ds_fs_fsync_dir(fs, f->temporary);

    if (code != 0)
        return hf_folder_failed(f, "cannot make it durable", code);
    DS_TRY(swap(f));
    code = discard(f, f->old);
    if (code != 0)
        code = discard(f, f->old);
    if (code != 0)
        ds_warn("export to %s: the older one stays as %s: it cannot be removed", f->name, f->old);
    return DS_OK;
}

void hf_folder_drop(const struct hf_folder *f)
{
    (void)ds_fs_remove_tree(f->fs, f->temporary);
}
