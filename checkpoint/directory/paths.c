/* paths.c - what in a directory of checkpoints is called how, what its folders list, and small files in them. */
#include "directory.h"

#include "format/names.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FILE_MODE 0640

void directory_path(const char *root, const char *folder, const char *name, char *to)
{
    snprintf(to, DS_CHECKPOINT_PATH_BYTES, "%s/%s%s%s", root, folder, *folder ? "/" : "", name);
}

void directory_manifest_name(const struct ds_manifest_id *id, const char *ending, char *to)
{
    snprintf(to, DIRECTORY_NAME_BYTES, "M-%06" PRIu64 "-%012" PRIu64 "%s", id->epoch, id->step,
             ending);
}

int directory_manifest_parse(const char *name, const char *ending, struct ds_manifest_id *out)
{
    char pattern[DIRECTORY_NAME_BYTES], again[DIRECTORY_NAME_BYTES];
    uint64_t numbers[2];

    snprintf(pattern, sizeof pattern, "M-#-#%s", ending);
    if (!names_parse(name, pattern, numbers, 2))
        return 0;
    const struct ds_manifest_id id = {numbers[0], numbers[1]};
    directory_manifest_name(&id, ending, again);
    if (strcmp(again, name) != 0)
        return 0;
    *out = id;
    return 1;
}

int ds_checkpoint_manifest_name_parse(const char *name, struct ds_manifest_id *out)
{
    return directory_manifest_parse(name, ".json", out);
}

void directory_epoch_name(uint64_t epoch, const char *ending, char *to)
{
    snprintf(to, DIRECTORY_NAME_BYTES, "E-%016" PRIu64 "%s", epoch, ending);
}

int directory_epoch_parse(const char *name, const char *ending, uint64_t *out)
{
    char pattern[DIRECTORY_NAME_BYTES], again[DIRECTORY_NAME_BYTES];
    uint64_t epoch;

    snprintf(pattern, sizeof pattern, "E-#%s", ending);
    if (!names_parse(name, pattern, &epoch, 1))
        return 0;
    directory_epoch_name(epoch, ending, again);
    if (strcmp(again, name) != 0)
        return 0;
    *out = epoch;
    return 1;
}

void ds_checkpoint_manifest_path(const char *root, const struct ds_manifest_id *id, char *to)
{
    char name[DIRECTORY_NAME_BYTES];

    directory_manifest_name(id, ".json", name);
    directory_path(root, "manifests", name, to);
}

void ds_checkpoint_pack_path(const char *root, uint32_t dir, const struct ds_pack_id *id, char *to)
{
    char folder[32], name[DS_PACK_NAME_BYTES];

    snprintf(folder, sizeof folder, "data/%u", dir);
    ds_pack_name(id, name);
    directory_path(root, folder, name, to);
}

ds_status directory_list(struct ds_fs *fs, const char *root, const char *folder, char ***names,
                         size_t *count)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    directory_path(root, "", folder, path);
    const int code = ds_fs_readdir(fs, path, names, count);
    if (code == -ENOENT || code == -ENOTDIR)
        return ds_fail(DS_ERR_CONFIG, "%s: its folder %s is missing; put it back", root, folder);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "list %s: %s", path, strerror(-code));
    return DS_OK;
}

int directory_is_unlisted(ds_status st)
{
    return st == DS_ERR_IO || st == DS_ERR_CONFIG;
}

ds_status directory_refuse(const char *root, const char *what, int code)
{
    const char *why = strerror(-code);

    if (code == -ENOSPC || code == -EDQUOT)
        return ds_fail(DS_ERR_CONFIG, "%s: cannot be written to: %s: %s; make room on its disk",
                       root, why, what);
    if (code == -EACCES || code == -EPERM || code == -EROFS)
        return ds_fail(DS_ERR_CONFIG, "%s: cannot be written to: %s: %s; let it be written to",
                       root, why, what);
    return ds_fail(DS_ERR_IO, "%s: cannot be written to: %s: %s", root, why, what);
}

int directory_create(struct ds_fs *fs, const char *path, const char *text, size_t bytes,
                     int *is_made)
{
    const int file = ds_fs_open(fs, path, DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE, FILE_MODE);

    *is_made = file >= 0;
    if (file < 0)
        return file;
    int code = ds_fs_write_all(fs, file, text, bytes, 0);
    if (code == 0)
        code = ds_fs_fsync(fs, file);
    const int closed = ds_fs_close(fs, file);
    return code != 0 ? code : closed;
}

int directory_replace(struct ds_fs *fs, const char *path, const char *text, size_t bytes)
{
    char tmp[DS_CHECKPOINT_PATH_BYTES + 8];
    int is_made = 0;

    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    int code = ds_fs_unlink(fs, tmp); /* of a launch that was killed */
    if (code == 0 || code == -ENOENT)
        code = directory_create(fs, tmp, text, bytes, &is_made);
    if (code == 0)
        code = ds_fs_rename(fs, tmp, path);
    if (code == 0)
        return ds_fs_fsync_parent(fs, path);
    if (is_made)
        (void)ds_fs_unlink(fs, tmp);
    return code;
}
