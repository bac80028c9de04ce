/* run_dir.c - see run_dir.h. Made in an order in which every prefix is either nothing or taken away
 * again: directories first, config.ini last and in one rename. */
#include "run_dir.h"
#include "ini.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARK "# The configuration of this run as dstrain resolved it; dstrain rewrites this file.\n"

static const char *const parts[] = {"log", "incidents"};
#define PART_COUNT (sizeof parts / sizeof parts[0])

/* What a person chose wrongly is theirs to mend; what the disk does is not. */
static ds_status refuse(const char *path, int code)
{
    const int is_disk = code == -EIO || code == -ENOSPC || code == -EDQUOT || code == -ENOMEM ||
                        code == -EMFILE || code == -ENFILE;

    return ds_fail(is_disk ? DS_ERR_IO : DS_ERR_CONFIG, "run.dir: %s: %s", path, strerror(-code));
}

static void join(char to[DS_RUN_PATH_BYTES], const char *dir, const char *name)
{
    snprintf(to, DS_RUN_PATH_BYTES, "%s/%s", dir, name);
}

/* ---- a directory that is there */

static ds_status check_directory(const char *dir, const struct ds_fs_stat *stat)
{
    if (!stat->is_directory)
        return ds_fail(DS_ERR_CONFIG, "run.dir: %s: not a directory", dir);
    if (stat->owner != (uint32_t)geteuid())
        return ds_fail(DS_ERR_CONFIG, "run.dir: %s: belongs to user %u, this is user %u", dir,
                       stat->owner, (unsigned)geteuid());
    if (stat->mode & 0002u)
        return ds_fail(DS_ERR_CONFIG,
                       "run.dir: %s: everybody may write there (mode %04o); chmod o-w", dir,
                       stat->mode);
    return DS_OK;
}

static void show_value(const struct ds_field *field, const struct ds_config *config, char *to,
                       size_t bytes)
{
    char value[DS_TEXT_MAX];

    ds_field_print(field, config, value, sizeof value);
    if (!field->preset && field->kind == DS_FIELD_COUNT && strcmp(value, "0") == 0)
        strcpy(value, "none");
    snprintf(to, bytes, field->kind == DS_FIELD_TEXT ? "'%.*s'" : "%.*s", ds_ini_shown(value),
             value);
}

/* One line with every fixed key that differs, with both values. */
static ds_status compare(const char *dir, const struct ds_config *there,
                         const struct ds_config *here)
{
    char list[4096] = "";
    size_t used = 0, count = 0;

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        char old[160], new[160];

        if (!(field->flags & DS_FIELD_FIXED) || ds_field_equal(field, there, here))
            continue;
        show_value(field, there, old, sizeof old);
        show_value(field, here, new, sizeof new);
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s [%s] %s = %s (there %s)",
                                     count ? "," : "", field->section, field->key, new, old);
        count++;
    }
    if (count == 0)
        return DS_OK;
    return ds_fail(DS_ERR_CONFIG, "run.dir: %s: holds another run; it differs in%s", dir, list);
}

static ds_status read_stored(struct ds_fs *fs, const char *path, char **text, size_t *bytes)
{
    ds_status st = ds_fs_read_file(fs, path, DS_INI_BYTES_MAX, text, bytes);

    return st == DS_ERR_DATA ? DS_ERR_CONFIG : st;
}

/* The stored text is ours to rewrite if we wrote it; a person's own config.ini stays as it is. */
static ds_status continue_run(struct ds_fs *fs, const char *dir, const char *path,
                              const struct ds_config *config, const char *text)
{
    struct ds_config there;
    struct ds_places places;
    char *stored = NULL;
    size_t bytes = 0;
    ds_status st;

    DS_TRY_GOTO(st, read_stored(fs, path, &stored, &bytes), done);
    DS_TRY_GOTO(st, ds_config_parse(path, stored, bytes, NULL, 0, &there, &places), done);
    ds_config_resolve(&there, 0);
    DS_TRY_GOTO(st, compare(dir, &there, config), done);
    if (strncmp(stored, MARK, sizeof MARK - 1) == 0 && strcmp(stored, text) != 0)
        st = ds_fs_write_file(fs, path, text, strlen(text));
done:
    free(stored);
    return st;
}

/* ---- a directory that is not */

/* The outermost directory that is missing: what has to go again if the rest fails. "": none is. */
static int first_missing(struct ds_fs *fs, const char *dir, char to[DS_RUN_PATH_BYTES])
{
    struct ds_fs_stat stat;

    for (const char *at = dir;; at++) {
        if (*at != '\0' && (*at != '/' || at == dir))
            continue;
        snprintf(to, DS_RUN_PATH_BYTES, "%.*s", (int)(at - dir), dir);
        int code = ds_fs_stat(fs, to, &stat);
        if (code < 0)
            return code == -ENOENT ? 0 : code;
        if (*at == '\0')
            break;
    }
    to[0] = '\0';
    return 0;
}

/* its name must last as long as it does */
static int sync_parent(struct ds_fs *fs, const char *path)
{
    char parent[DS_RUN_PATH_BYTES];
    char *slash;

    snprintf(parent, sizeof parent, "%s", path);
    slash = strrchr(parent, '/');
    if (!slash)
        return ds_fs_fsync_dir(fs, ".");
    slash[slash == parent] = '\0';
    return ds_fs_fsync_dir(fs, parent);
}

static ds_status fill(struct ds_fs *fs, const char *dir, const char *missing, const char *text,
                      int made[PART_COUNT])
{
    char path[DS_RUN_PATH_BYTES];
    int code = ds_fs_mkdirs(fs, dir, 0750);

    if (code < 0)
        return refuse(dir, code);
    for (size_t i = 0; i < PART_COUNT; i++) {
        join(path, dir, parts[i]);
        code = ds_fs_mkdir(fs, path, 0750);
        made[i] = code == 0;
        if (code < 0 && code != -EEXIST)
            return refuse(path, code);
    }
    if (missing[0] != '\0' && (code = sync_parent(fs, missing)) < 0)
        return refuse(dir, code);
    join(path, dir, "config.ini");
    return ds_fs_write_file(fs, path, text, strlen(text));
}

/* config.ini was not there before; it is now, if what failed came after its rename. */
static void unmake(struct ds_fs *fs, const char *dir, const char *missing,
                   const int made[PART_COUNT])
{
    char path[DS_RUN_PATH_BYTES];

    if (missing[0] != '\0') {
        (void)ds_fs_remove_tree(fs, missing);
        return;
    }
    join(path, dir, "config.ini");
    (void)ds_fs_unlink(fs, path);
    for (size_t i = 0; i < PART_COUNT; i++) {
        join(path, dir, parts[i]);
        if (made[i])
            (void)ds_fs_remove_tree(fs, path);
    }
}

static ds_status make_run(struct ds_fs *fs, const char *dir, const char *text)
{
    char missing[DS_RUN_PATH_BYTES];
    int made[PART_COUNT] = {0};
    int code = first_missing(fs, dir, missing);
    ds_status st;

    if (code < 0)
        return refuse(dir, code);
    st = fill(fs, dir, missing, text, made);
    if (st == DS_OK)
        return DS_OK;
    unmake(fs, dir, missing, made);
    return st;
}

/* ---- both */

static ds_status text_of(const struct ds_config *config, char **text)
{
    char *printed = NULL;
    size_t bytes;

    DS_TRY(ds_config_print(config, &printed));
    bytes = sizeof MARK + strlen(printed) + 1;
    *text = malloc(bytes);
    if (*text)
        snprintf(*text, bytes, MARK "\n%s", printed);
    free(printed);
    return *text ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory for %zu bytes", bytes);
}

static ds_status make_or_continue(struct ds_fs *fs, const struct ds_config *config,
                                  const char *text)
{
    const char *dir = config->run.dir;
    char path[DS_RUN_PATH_BYTES];
    struct ds_fs_stat stat;
    int code = ds_fs_stat(fs, dir, &stat);

    if (code == -ENOENT)
        return make_run(fs, dir, text);
    if (code < 0)
        return refuse(dir, code);
    DS_TRY(check_directory(dir, &stat));
    join(path, dir, "config.ini");
    code = ds_fs_stat(fs, path, &stat);
    if (code == -ENOENT)
        return make_run(fs, dir, text);
    if (code < 0)
        return refuse(path, code);
    return continue_run(fs, dir, path, config, text);
}

ds_status ds_run_dir_prepare(struct ds_fs *fs, const struct ds_config *config)
{
    char *text = NULL;
    ds_status st;

    DS_TRY(text_of(config, &text));
    st = make_or_continue(fs, config, text);
    free(text);
    return st;
}

ds_status ds_run_dir_open_log(struct ds_fs *fs, const char *dir, uint32_t rank, int *file)
{
    char path[DS_RUN_PATH_BYTES];
    int code;

    snprintf(path, sizeof path, "%s/log/rank-%04u.log", dir, rank);
    code = ds_fs_open(fs, path, DS_FS_WRITE | DS_FS_CREATE | DS_FS_APPEND, 0640);
    if (code < 0)
        return refuse(path, code);
    *file = code;
    return DS_OK;
}

ds_status ds_run_dir_open(struct ds_comm *world, struct ds_fs *fs, const struct ds_config *config,
                          int *log_file)
{
    ds_status local = DS_OK;

    *log_file = -1;
    if (world->rank == 0)
        local = ds_run_dir_prepare(fs, config);
    DS_TRY(ds_comm_agreed(world, local));
    local = ds_run_dir_open_log(fs, config->run.dir, world->rank, log_file);
    if (local == DS_OK) {
        int native = ds_fs_native(fs, *log_file);
        ds_log.file = native >= 0 ? native : -1;
    }
    return ds_comm_agreed(world, local);
}

void ds_run_dir_close(struct ds_fs *fs, int *log_file)
{
    ds_log.file = -1;
    if (*log_file >= 0)
        (void)ds_fs_close(fs, *log_file);
    *log_file = -1;
}
