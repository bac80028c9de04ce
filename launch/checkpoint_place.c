/* checkpoint_place.c - see checkpoint_place.h. */
#include "checkpoint_place.h"

#include "config/ini.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_status too_long(const char *path)
{
    return ds_fail(DS_ERR_DATA, "%.100s...: the path is too long", path);
}

/* ROOT/manifests/M-....json; as far as it is written out */
static ds_status root_of_manifest(const char *path, char *to, size_t bytes)
{
    static const char folder[] = "manifests";
    const char *slash = strrchr(path, '/');
    const size_t tail = sizeof folder - 1;
    size_t used = slash ? (size_t)(slash - path) : 0;
    int length;

    if (!slash)
        length = snprintf(to, bytes, "..");
    else if (used >= tail && memcmp(path + used - tail, folder, tail) == 0 &&
             (used == tail || path[used - tail - 1] == '/'))
        length = used == tail ? snprintf(to, bytes, ".")
                              : snprintf(to, bytes, "%.*s", (int)(used - tail - 1), path);
    else
        length = snprintf(to, bytes, "%.*s/..", (int)used, path);
    if (length == 0)
        length = snprintf(to, bytes, "/");
    return length < (int)bytes ? DS_OK : too_long(path);
}

/* 0: it is one; -ENOENT: it is none; -errno: who can say? */
static int look_for_root(struct ds_fs *fs, const char *root)
{
    char file[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    snprintf(file, sizeof file, "%s/RUN.json", root);
    const int code = ds_fs_stat(fs, file, &stat);
    return code == -ENOTDIR ? -ENOENT : code;
}

static int is_root(struct ds_fs *fs, const char *root)
{
    return look_for_root(fs, root) == 0;
}

static ds_status find_root(struct ds_fs *fs, const char *path, struct ds_checkpoint_place *place,
                           int *found)
{
    static const char *const inner[] = {"", "/checkpoints"};

    for (size_t i = 0; i < 2 && !*found; i++) {
        if (snprintf(place->root, sizeof place->root, "%s%s", path, inner[i]) >=
            (int)sizeof place->root)
            return too_long(path);
        const int code = look_for_root(fs, place->root);
        if (code != 0 && code != -ENOENT)
            return ds_fail(DS_ERR_CONFIG, "%s: its RUN.json cannot be looked at: %s", place->root,
                           strerror(-code));
        *found = code == 0;
    }
    return DS_OK;
}

/* ---- what config.ini of a run directory says */

struct told {
    char dir[DS_CHECKPOINT_PATH_BYTES - 256], mirror[DS_CHECKPOINT_PATH_BYTES - 256];
};

static ds_status take_key(void *user, const struct ds_ini_item *item)
{
    struct told *told = user;

    if (item->key && strcmp(item->section, "checkpoint") == 0) {
        if (strcmp(item->key, "dir") == 0)
            snprintf(told->dir, sizeof told->dir, "%s", item->value);
        if (strcmp(item->key, "mirror") == 0)
            snprintf(told->mirror, sizeof told->mirror, "%s", item->value);
    }
    return DS_OK;
}

/* One that is not there, or cannot be read, says nothing. */
static void read_told(struct ds_fs *fs, const char *path, struct told *told)
{
    char file[DS_CHECKPOINT_PATH_BYTES], *text = NULL;
    struct ds_fs_stat stat;
    size_t bytes = 0;

    *told = (struct told){.dir = ""};
    snprintf(file, sizeof file, "%s/config.ini", path);
    if (ds_fs_stat(fs, file, &stat) != 0 ||
        ds_fs_read_file(fs, file, DS_INI_BYTES_MAX, &text, &bytes) != DS_OK)
        return;
    if (ds_ini_parse(file, text, bytes, take_key, told) != DS_OK)
        *told = (struct told){.dir = ""};
    free(text);
}

/* Where the directory does not have its checkpoints in it. */
static void find_told(struct ds_fs *fs, const char *path, struct ds_checkpoint_place *place,
                      int *found)
{
    struct told told;

    read_told(fs, path, &told);
    if (!*found && told.dir[0] != '\0' && is_root(fs, told.dir)) {
        memcpy(place->root, told.dir, sizeof told.dir);
        *found = 1;
    }
    if (*found) {
        memcpy(place->mirror, told.mirror, sizeof told.mirror);
    } else if (told.mirror[0] != '\0' && is_root(fs, told.mirror)) {
        ds_warn("%s: its checkpoints are not there; these are those of its mirror", path);
        memcpy(place->root, told.mirror, sizeof told.mirror);
        *found = 1;
    }
}

/* ---- what a path is */

static ds_status find_directory(struct ds_fs *fs, const char *path,
                                struct ds_checkpoint_place *place, int *found)
{
    DS_TRY(find_root(fs, path, place, found));
    find_told(fs, path, place, found);
    return DS_OK;
}

static ds_status find_manifest(const char *path, struct ds_checkpoint_place *place, int *found)
{
    const char *name = strrchr(path, '/');

    *found = place->has_id = ds_checkpoint_manifest_name_parse(name ? name + 1 : path, &place->id);
    return *found ? root_of_manifest(path, place->root, sizeof place->root) : DS_OK;
}

static ds_status find(struct ds_fs *fs, const char *path, struct ds_checkpoint_place *out,
                      int *found, int *is_directory)
{
    struct ds_checkpoint_place place = {.has_id = 0};
    struct ds_fs_stat stat;
    const int code = ds_fs_stat(fs, path, &stat);

    *found = 0;
    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: %s", path, strerror(-code));
    *is_directory = stat.is_directory;
    DS_TRY(stat.is_directory ? find_directory(fs, path, &place, found)
                             : find_manifest(path, &place, found));
    if (*found)
        DS_TRY(ds_checkpoint_read_run(fs, place.root, place.run));
    *out = place;
    return DS_OK;
}

ds_status ds_checkpoint_place_find(struct ds_fs *fs, const char *path,
                                   struct ds_checkpoint_place *out, int *found)
{
    int is_directory = 0;

    return find(fs, path, out, found, &is_directory);
}

ds_status ds_checkpoint_place_need(struct ds_fs *fs, const char *path,
                                   struct ds_checkpoint_place *out)
{
    int found = 0, is_directory = 0;

    DS_TRY(find(fs, path, out, &found, &is_directory));
    if (found)
        return DS_OK;
    if (is_directory)
        return ds_fail(DS_ERR_CONFIG,
                       "%s: no checkpoints here (no RUN.json); name a run directory, or what its "
                       "checkpoint.dir was",
                       path);
    return ds_fail(DS_ERR_DATA, "%s: neither a directory nor a manifest (M-....json)", path);
}

ds_status ds_checkpoint_place_read(struct ds_fs *fs, const struct ds_checkpoint_place *place,
                                   const struct ds_manifest_id *id, struct ds_manifest *out)
{
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_read_manifest(fs, place->root, id, &manifest));
    if (memcmp(manifest.run, place->run, sizeof place->run) != 0) {
        ds_manifest_fini(&manifest);
        return ds_fail(DS_ERR_CORRUPT,
                       "%s: the checkpoint of step %llu is another run's: it was copied here",
                       place->root, (unsigned long long)id->step);
    }
    *out = manifest;
    return DS_OK;
}

ds_status ds_checkpoint_place_end(const struct ds_checkpoint_place *place, ds_status st)
{
    const int has_nothing = st == DS_ERR_NO_CHECKPOINT || st == DS_ERR_CORRUPT;

    if (has_nothing && place->mirror[0] != '\0')
        ds_warn("%s is its mirror: name that to look there", place->mirror);
    return st;
}
