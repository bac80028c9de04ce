/* directories.c - see directories.h. */
#include "directories.h"

#include "config/config.h"
#include "run_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- which run it is */

static int is_preset(const struct ds_field *field, const struct ds_config *config)
{
    struct ds_config preset;

    ds_config_preset(&preset);
    /* as it was when the first directories were made */
    if (strcmp(config->data.tokenizer, "bytes") == 0)
        strcpy(preset.data.tokenizer, "bytes");
    return ds_field_equal(field, config, &preset);
}

/* Of what makes checkpoints this run's. A key that is as it is where nobody sets it does not count: one that a later
 * version adds changes nothing. */
static ds_status digest_keys(const struct ds_config *config, struct ds_digest *out)
{
    char *text = calloc(ds_config_field_count, DS_TEXT_MAX + 64), value[DS_TEXT_MAX];
    size_t bytes = 0;

    if (!text)
        return ds_fail(DS_ERR_NO_MEMORY, "the keys of a run");
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (!(field->flags & DS_FIELD_FIXED) || is_preset(field, config))
            continue;
        ds_field_print(field, config, value, sizeof value);
        bytes += (size_t)sprintf(text + bytes, "%s.%s=%s\n", field->section, field->key, value);
    }
    *out = ds_digest_of(text, bytes);
    free(text);
    return DS_OK;
}

/* A run's directory is locked by its launch, so nobody else lives in there. */
static int is_in_run_dir(const struct ds_config *config)
{
    const size_t bytes = strlen(config->run.dir);

    return bytes > 0 && strncmp(config->checkpoint.dir, config->run.dir, bytes) == 0 &&
           config->checkpoint.dir[bytes] == '/';
}

static int is_a_directory_of_ours(const struct ds_trainer *t, const char *root)
{
    char path[DS_TEXT_MAX + 16];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/RUN.json", root);
    return root[0] != '\0' && ds_fs_stat(t->options.fs, path, &stat) == 0;
}

static int has_folders(const struct ds_trainer *t, const char *root)
{
    char path[DS_TEXT_MAX + 16];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/epochs", root);
    if (ds_fs_stat(t->options.fs, path, &stat) != 0)
        return 0;
    snprintf(path, sizeof path, "%s/manifests", root);
    return ds_fs_stat(t->options.fs, path, &stat) == 0;
}

/* *is_used: there is one, or there should be. One in the run's own directory without a single checkpoint belongs to
 * nobody yet: a launch that failed at once claims nothing. Elsewhere it may be that of a run that goes on right now. */
static ds_status look_at_directory(struct ds_trainer *t, int32_t *is_used)
{
    const char *root = t->config->checkpoint.dir;
    char path[DS_TEXT_MAX + 16];
    struct ds_checkpoint_list list;
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/RUN.json", root);
    int code = ds_fs_stat(t->options.fs, path, &stat);
    *is_used = code == 0 || t->config->checkpoint.interval > 0 ||
               is_a_directory_of_ours(t, t->config->checkpoint.mirror);
    if (code != 0 || !is_in_run_dir(t->config) || !has_folders(t, root))
        return DS_OK; /* what is wrong with it is said when it is opened */
    DS_TRY(ds_checkpoint_list_make(t->options.fs, root, &list));
    if (list.count == 0)
        code = ds_fs_unlink(t->options.fs, path);
    ds_checkpoint_list_fini(&list);
    return code < 0 ? ds_fail(DS_ERR_IO, "remove %s: %s", path, strerror(-code)) : DS_OK;
}

static ds_status draw(uint8_t to[16])
{
    return getrandom(to, 16, 0) == 16
               ? DS_OK
               : ds_fail(DS_ERR_IO, "no random numbers: %s", strerror(errno));
}

/* The outermost directory that this launch has made for one of the two; "": none. */
static char *made_of(struct ds_trainer *t, const char *root)
{
    return root == t->config->checkpoint.mirror ? t->made_mirror : t->made_dir;
}

static void remove_made(struct ds_trainer *t, const char *root)
{
    char *made = made_of(t, root);

    if (made[0] != '\0')
        ds_fs_remove_empty(t->options.fs, root, made);
    made[0] = '\0';
}

static ds_status open_directory(struct ds_trainer *t, const char *root, const uint8_t fresh_run[16],
                                const struct ds_digest *keys, struct ds_checkpoint_dir **out)
{
    struct ds_fs *fs = t->options.fs;
    char key[DS_KEY_BYTES];
    int code = ds_fs_first_missing(fs, root, made_of(t, root), DS_TEXT_MAX);

    if (code == 0)
        code = ds_fs_mkdirs(fs, root, 0750);
    if (code < 0)
        return ds_fail(DS_ERR_CONFIG, "%s = %s: %s",
                       ds_config_key(t->config, "checkpoint",
                                     root == t->config->checkpoint.mirror ? "mirror" : "dir", key),
                       root, strerror(-code));
    return ds_checkpoint_dir_open(fs, root, fresh_run, t->launch.nonce, keys, out);
}

/* One that cannot be had costs copies, and a warning; another run's is refused. */
static ds_status open_mirror(struct ds_trainer *t, const uint8_t fresh_run[16],
                             const struct ds_digest *keys, struct ds_checkpoint_dir **out)
{
    const char *root = t->config->checkpoint.mirror;
    const int was_there = is_a_directory_of_ours(t, root);

    *out = NULL;
    if (root[0] == '\0')
        return DS_OK;
    const ds_status st = open_directory(t, root, fresh_run, keys, out);
    if (st == DS_OK || was_there)
        return st;
    remove_made(t, root);
    ds_warn("%s: no checkpoints are copied there", root);
    return DS_OK;
}

/* Another launch may have made one of them just now. */
static ds_status check_same_run(const struct ds_trainer *t, const struct ds_checkpoint_dir *mirror)
{
    const uint8_t *run = ds_checkpoint_dir_run(t->checkpoint_dir);

    if (memcmp(run, ds_checkpoint_dir_run(mirror), 16) == 0)
        return DS_OK;
    return ds_config_refuse(t->config, "checkpoint", "mirror", "= %s: holds another run than %s",
                            t->config->checkpoint.mirror, t->config->checkpoint.dir);
}

/* Both belong to one run. A directory that is new takes the name of the run from the mirror: it may be that of a host
 * that has never seen it. */
static ds_status open_directories(struct ds_trainer *t, const struct ds_digest *keys)
{
    const char *root = t->config->checkpoint.dir;
    const int has_mirror = is_a_directory_of_ours(t, t->config->checkpoint.mirror);
    struct ds_checkpoint_dir *mirror = NULL;
    uint8_t run[16];

    DS_TRY(draw(run));
    if (is_a_directory_of_ours(t, root)) {
        DS_TRY(open_directory(t, root, run, keys, &t->checkpoint_dir));
        memcpy(run, ds_checkpoint_dir_run(t->checkpoint_dir), sizeof run);
    }
    DS_TRY(open_mirror(t, run, keys, &mirror));
    if (mirror && !t->checkpoint_dir)
        memcpy(run, ds_checkpoint_dir_run(mirror), sizeof run);
    ds_status st = DS_OK;
    if (!t->checkpoint_dir) {
        t->launch.is_adopted = mirror && has_mirror;
        st = open_directory(t, root, run, keys, &t->checkpoint_dir);
    }
    if (st == DS_OK && mirror)
        st = check_same_run(t, mirror);
    if (st == DS_OK && mirror) {
        ds_checkpoint_join(t->checkpoint_dir, mirror);
    } else if (mirror) {
        ds_checkpoint_withdraw(mirror);
        ds_checkpoint_dir_close(mirror);
    }
    return st;
}

/* One that is there is as safe as the run's own has to be. */
static ds_status check_owner(const struct ds_trainer *t, const char *key, const char *root)
{
    struct ds_fs_stat stat;

    if (root[0] == '\0' || ds_fs_stat(t->options.fs, root, &stat) != 0 || !stat.is_directory)
        return DS_OK; /* what is wrong with it is said when it is opened */
    return ds_run_check_directory(t->config, "checkpoint", key, root, &stat);
}

/* Names alone were compared with the configuration; what is found here is beside links, too. */
static ds_status check_apart(const struct ds_trainer *t)
{
    const char *dir = t->config->checkpoint.dir, *mirror = t->config->checkpoint.mirror;
    struct ds_fs *fs = t->options.fs;

    if (dir[0] == '\0' || mirror[0] == '\0')
        return DS_OK;
    const char *words =
        ds_config_lies(ds_fs_is_within(fs, mirror, dir), ds_fs_is_within(fs, dir, mirror));
    return words ? ds_config_refuse(t->config, "checkpoint", "mirror", DS_CONFIG_LIES, mirror,
                                    words, dir)
                 : DS_OK;
}

ds_status directories_open(struct ds_trainer *t)
{
    struct trainer_launch *launch = &t->launch;
    struct ds_digest keys;

    DS_TRY(check_owner(t, "dir", t->config->checkpoint.dir));
    DS_TRY(check_owner(t, "mirror", t->config->checkpoint.mirror));
    DS_TRY(check_apart(t));
    DS_TRY(look_at_directory(t, &launch->is_used));
    if (!launch->is_used)
        return DS_OK;
    DS_TRY(digest_keys(t->options.named ? t->options.named : t->config, &keys));
    DS_TRY(draw(launch->nonce));
    DS_TRY(open_directories(t, &keys));
    launch->has_mirror = ds_checkpoint_has_mirror(t->checkpoint_dir);
    memcpy(launch->run, ds_checkpoint_dir_run(t->checkpoint_dir), sizeof launch->run);
    return DS_OK;
}

ds_status directories_claim(struct ds_trainer *t)
{
    DS_TRY(ds_checkpoint_claim(t->checkpoint_dir));
    t->launch.has_mirror = ds_checkpoint_has_mirror(t->checkpoint_dir);
    t->launch.epoch = ds_checkpoint_dir_epoch(t->checkpoint_dir);
    return DS_OK;
}

void directories_withdraw(struct ds_trainer *t)
{
    if (t->checkpoint_dir)
        ds_checkpoint_withdraw(t->checkpoint_dir);
    remove_made(t, t->config->checkpoint.dir);
    remove_made(t, t->config->checkpoint.mirror);
}
