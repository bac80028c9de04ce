/* run_before.c - see run_before.h. */
#include "run_before.h"
#include "console.h"
#include "run_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_status failed(const char *path, const char *what, int code)
{
    return ds_fail(DS_ERR_IO, "run.dir: %s: %s: %s", path, what, strerror(-code));
}

/* ---- an older model, which `dstrain eval` would take for this run's */

static int keep_export(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    struct ds_fs_stat stat;
    int code = 0;

    for (unsigned n = 1; code == 0; n++) {
        snprintf(to, bytes, "%s.kept-%u", path, n);
        code = ds_fs_stat(fs, to, &stat);
    }
    if (code == -ENOENT)
        code = ds_fs_rename(fs, path, to);
    return code < 0 ? code : ds_fs_fsync_parent(fs, path);
}

ds_status ds_run_set_export_aside(struct ds_fs *fs, const char *dir, char *to, size_t bytes)
{
    char path[DS_RUN_PATH_BYTES], config[DS_RUN_PATH_BYTES + 16];
    struct ds_fs_stat stat;
    int code;

    to[0] = '\0';
    snprintf(path, sizeof path, "%s/export", dir);
    snprintf(config, sizeof config, "%s/config.json", path);
    code = ds_fs_stat(fs, config, &stat);
    if (code == -ENOENT || code == -ENOTDIR)
        return DS_OK; /* no model: nothing is taken for one */
    if (code == 0)
        code = keep_export(fs, path, to, bytes);
    return code < 0 ? failed(path, "cannot be set aside", code) : DS_OK;
}

/* ---- logs of ranks that are no more */

static int is_surplus(const char *name, uint32_t rank_count)
{
    char same[32];
    unsigned rank;

    if (sscanf(name, "rank-%u", &rank) != 1 || rank < rank_count) // NOLINT(cert-err34-c): compared
        return 0;
    snprintf(same, sizeof same, "rank-%04u.log", rank);
    return strcmp(name, same) == 0;
}

ds_status ds_run_remove_logs(struct ds_fs *fs, const char *dir, uint32_t rank_count)
{
    char folder[DS_RUN_PATH_BYTES], path[DS_RUN_PATH_BYTES + 32];
    char **names = NULL;
    size_t count = 0;
    int code;

    snprintf(folder, sizeof folder, "%s/log", dir);
    code = ds_fs_readdir(fs, folder, &names, &count);
    if (code < 0)
        return failed(folder, "cannot be read", code);
    for (size_t i = 0; i < count && code == 0; i++) {
        if (!is_surplus(names[i], rank_count))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        code = ds_fs_unlink(fs, path);
    }
    free(names);
    return code < 0 ? failed(path, "cannot be removed", code) : DS_OK;
}

/* ---- room */

void ds_run_check_space(struct ds_fs *fs, const char *dir, uint64_t export_bytes,
                        uint64_t metrics_bytes)
{
    char model[32], numbers[32], room[32];
    struct ds_fs_space space;

    if (ds_fs_statvfs(fs, dir, &space) < 0 || space.free_bytes >= export_bytes + metrics_bytes)
        return; /* a disk that cannot tell is no reason to speak */
    ds_console_bytes(export_bytes, model, sizeof model);
    ds_console_bytes(metrics_bytes, numbers, sizeof numbers);
    ds_console_bytes(space.free_bytes, room, sizeof room);
    ds_warn(
        "run.dir: %s: %s free, but this run will write %s of model and up to %s of metrics: the "
        "disk may be full before it ends",
        dir, room, model, numbers);
}
