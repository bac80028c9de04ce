/* still_files.c - can packs of checkpoints share the blocks of states in files (saver.h)? It is tried: a block of every file of
 * states, over the file that they are frozen in, to one in the directory of checkpoints; and room is taken for the second
 * places of blocks. What cannot share is copied, unless the key says that it must. */
#include "config/config.h"
#include "trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES (DS_TEXT_MAX + 64)

/* 0 or -errno. What is tried takes no room when it is over. */
static int try_to_share(const struct ds_trainer *t, uint32_t drive, int still)
{
    struct ds_fs *fs = t->options.fs;
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%s/share-%u.tmp", t->config->checkpoint.dir,
             t->options.world->rank);
    const char *why;
    const int pack = ds_fs_create_nameless(fs, path, 0600, &why);
    int code =
        pack < 0 ? pack : ds_fs_clone(fs, t->files[drive].file, 0, still, 0, DS_FS_DIRECT_ALIGN);

    if (code == 0)
        code = ds_fs_clone(fs, still, 0, pack, 0, DS_FS_DIRECT_ALIGN);
    if (code == 0)
        code = ds_fs_truncate(fs, still, 0);
    if (pack >= 0)
        (void)ds_fs_close(fs, pack);
    return code;
}

/* Blocks have a second place behind the others. What cannot be had is not kept. */
static int take_room(const struct ds_trainer *t, uint32_t drive)
{
    const int file = t->files[drive].file;
    const uint64_t bytes = trainer_states_at(t, drive) + ds_zero_file_bytes(t->zero, drive);
    const int code =
        ds_fs_fallocate(t->options.fs, file, bytes + ds_zero_still_bytes(t->zero, drive));

    if (code != 0)
        (void)ds_fs_truncate(t->options.fs, file, bytes);
    return code;
}

static int open_drive(const struct ds_trainer *t, uint32_t drive, struct ds_saver_still *out)
{
    char directory[DS_TEXT_MAX], path[DS_SWAP_PATH_BYTES + 8];
    const char *why;

    (void)ds_config_directory(t->config, drive, directory);
    out->files[drive] = -1;
    out->directories[drive] = strdup(directory);
    out->count = drive + 1;
    if (!out->directories[drive])
        return -ENOMEM;
    snprintf(path, sizeof path, "%s.still", t->files[drive].path);
    out->files[drive] = ds_fs_create_nameless(t->options.fs, path, 0600, &why);
    if (out->files[drive] < 0)
        return out->files[drive];
    const int code = try_to_share(t, drive, out->files[drive]);
    return code != 0 ? code : take_room(t, drive);
}

static int open_drives(const struct ds_trainer *t, struct ds_saver_still *out, uint32_t *drive)
{
    const uint32_t count = t->homes.drive_count;
    int code = 0;

    out->files = calloc(count, sizeof *out->files);
    out->directories = calloc(count, sizeof *out->directories);
    if (!out->files || !out->directories)
        code = -ENOMEM;
    for (*drive = 0; code == 0 && *drive < count; ++*drive)
        code = open_drive(t, *drive, out);
    return code;
}

static int has_still(const struct ds_trainer *t)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; t->files && i < t->homes.drive_count; i++)
        bytes += ds_zero_still_bytes(t->zero, i);
    return bytes > 0;
}

ds_status trainer_open_still(const struct ds_trainer *t, struct ds_saver_still *out)
{
    const int key = t->config->checkpoint.references;
    char place[DS_KEY_BYTES], directory[DS_TEXT_MAX] = "";
    uint32_t drive = 0;
    int code;

    if (key == DS_REFERENCES_OFF || !has_still(t))
        return DS_OK;
    code = open_drives(t, out, &drive);
    if (code == 0)
        return DS_OK;
    ds_saver_still_fini(t->options.fs, out);
    (void)ds_config_directory(t->config, drive > 0 ? drive - 1 : 0, directory);
    if (key == DS_REFERENCES_ON)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s = on: blocks of files in %s cannot be shared with files in %s: %s",
                       ds_config_key(t->config, "checkpoint", "references", place), directory,
                       t->config->checkpoint.dir, strerror(-code));
    ds_info("checkpoints: states in files are copied: those in %s cannot be shared with files in "
            "%s: %s",
            directory, t->config->checkpoint.dir, strerror(-code));
    return DS_OK;
}
