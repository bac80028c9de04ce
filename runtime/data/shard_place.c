/* shard_place.c - the cache of shards: names, and whether anything can be kept there. */
#include "shard_place.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

ds_status shard_place_path(const struct ds_prepare_options *options, const char *source,
                           const char *fingerprint, char to[CORPUS_PATH_BYTES])
{
    size_t end = strlen(source), start;
    int length;

    while (end > 1 && source[end - 1] == '/')
        end--;
    for (start = end; start > 0 && source[start - 1] != '/'; start--) {
    }
    length = snprintf(to, CORPUS_PATH_BYTES, "%s/%.*s-%s.safetensors", options->cache,
                      (int)(end - start < 128 ? end - start : 128), source + start, fingerprint);
    if (length >= CORPUS_PATH_BYTES)
        return ds_fail(DS_ERR_CONFIG, "%s: the path of the folder for prepared data is too long",
                       options->cache);
    return DS_OK;
}

/* A folder that a person chose wrongly is theirs to mend; what the disk does is not. */
ds_status shard_place_refuse(const struct ds_prepare_options *options, int code)
{
    const int is_choice = code == -ENOENT || code == -ENOTDIR || code == -EEXIST ||
                          code == -EACCES || code == -EPERM || code == -EROFS ||
                          code == -ENAMETOOLONG || code == -ELOOP;

    return ds_fail(
        is_choice ? DS_ERR_CONFIG : DS_ERR_IO, "%s = %s: no prepared data can be kept there: %s",
        options->cache_key ? options->cache_key : "data.cache", options->cache, strerror(-code));
}

ds_status shard_place_make(const struct ds_prepare_options *options, const char *path)
{
    struct ds_fs *fs = options->fs;
    char temporary[CORPUS_PATH_BYTES + 8];
    int code = ds_fs_mkdirs(fs, options->cache, 0750);

    if (code < 0)
        return shard_place_refuse(options, code);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    code = ds_fs_open(fs, temporary, DS_FS_WRITE | DS_FS_CREATE, 0640);
    if (code < 0)
        return shard_place_refuse(options, code);
    (void)ds_fs_close(fs, code);
    if (ds_fs_unlink(fs, temporary) < 0)
        (void)ds_fs_unlink(fs, temporary); /* if that fails, too, the shard takes its place */
    return DS_OK;
}

int shard_place_is_text(const char *name)
{
    json_t *string = json_string(name);

    json_decref(string);
    return string != NULL;
}
