/* claim.c - which launch may write: an epoch is claimed by a file that only one can make, and that carries a number of
 * the launch. Whoever finds a newer epoch, or the own one in other hands, has been overtaken. */
#include "directory.h"

#include "format/document.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM_TRIES 1000
#define CLAIM_BYTES 64

/* 0: this name says nothing of an epoch; both */
static uint64_t epoch_of_claim(const char *name)
{
    uint64_t epoch = 0;

    return directory_epoch_parse(name, "", &epoch) ? epoch : 0;
}

static uint64_t epoch_of_manifest(const char *name)
{
    struct ds_manifest_id id;

    return directory_manifest_parse(name, ".json", &id) ||
                   directory_manifest_parse(name, ".bad", &id)
               ? id.epoch
               : 0;
}

static ds_status highest_in(const struct ds_checkpoint_dir *dir, const char *folder,
                            uint64_t (*epoch_of)(const char *name), uint64_t *out)
{
    uint64_t highest = 0;
    size_t count;
    char **names;

    DS_TRY(directory_list(dir->fs, dir->root, folder, &names, &count));
    for (size_t i = 0; i < count; i++) {
        const uint64_t epoch = epoch_of(names[i]);

        highest = epoch > highest ? epoch : highest;
    }
    free(names);
    *out = highest;
    return DS_OK;
}

static ds_status highest_claim(const struct ds_checkpoint_dir *dir, uint64_t *out)
{
    return highest_in(dir, "epochs", epoch_of_claim, out);
}

/* Claims may have been lost while manifests were not. */
static ds_status highest_epoch(const struct ds_checkpoint_dir *dir, uint64_t *out)
{
    uint64_t claimed = 0, committed = 0;

    DS_TRY(highest_claim(dir, &claimed));
    DS_TRY(highest_in(dir, "manifests", epoch_of_manifest, &committed));
    *out = committed > claimed ? committed : claimed;
    return DS_OK;
}

/* The file that claims an epoch for us: where, and what stands in it. */
static void name_claim(const struct ds_checkpoint_dir *dir, uint64_t epoch,
                       char path[DS_CHECKPOINT_PATH_BYTES], char text[CLAIM_BYTES])
{
    char name[DIRECTORY_NAME_BYTES], hex[DS_DIGEST_TEXT_BYTES];
    struct ds_digest nonce;

    memcpy(nonce.bytes, dir->nonce, sizeof nonce.bytes);
    ds_digest_text(&nonce, hex);
    snprintf(text, CLAIM_BYTES, "%s\n", hex);
    directory_epoch_name(epoch, "", name);
    directory_path(dir->root, "epochs", name, path);
}

/* 0: it is ours, durably; or -errno: then we have not taken it from anybody who goes on */
static int claim(const struct ds_checkpoint_dir *dir, uint64_t epoch)
{
    char path[DS_CHECKPOINT_PATH_BYTES], text[CLAIM_BYTES];
    int is_made = 0;

    name_claim(dir, epoch, path, text);
    int code = directory_create(dir->fs, path, text, strlen(text), &is_made);
    if (code == 0)
        code = ds_fs_fsync_parent(dir->fs, path);
    if (code != 0 && is_made)
        (void)ds_fs_unlink(dir->fs, path);
    return code;
}

/* `*is_ours`: this launch has claimed the epoch, and not one that has claimed the same number. */
static ds_status look_at_claim(const struct ds_checkpoint_dir *dir, uint64_t epoch, int *is_ours)
{
    char path[DS_CHECKPOINT_PATH_BYTES], text[CLAIM_BYTES], *there = NULL;
    size_t bytes = 0;

    name_claim(dir, epoch, path, text);
    if (ds_fs_read_own_file(dir->fs, path, CLAIM_BYTES, &there, &bytes) != DS_OK)
        return ds_fail(DS_ERR_IO, "%s: who has claimed epoch %" PRIu64 " cannot be read", dir->root,
                       epoch);
    *is_ours = bytes == strlen(text) && memcmp(there, text, bytes) == 0;
    free(there);
    return DS_OK;
}

static ds_status fenced(const struct ds_checkpoint_dir *dir, uint64_t epoch)
{
    return ds_fail(DS_ERR_FENCED,
                   "%s: epoch %" PRIu64 " was claimed by another launch, ours is %" PRIu64
                   ": another launch owns the run",
                   dir->root, epoch, dir->epoch);
}

/* What is behind it would be in no document. */
static ds_status refuse_last(const struct ds_checkpoint_dir *dir, uint64_t epoch)
{
    return ds_fail(DS_ERR_CONFIG,
                   "%s: epoch %" PRIu64 " is the last there can be, and a file there has its "
                   "number; remove that, which no launch has made",
                   dir->root, epoch);
}

/* A number that is free may have been claimed before, and tidied away by who has a higher one. */
static ds_status end_claim(struct ds_checkpoint_dir *dir, uint64_t epoch, int code)
{
    uint64_t highest = 0;

    if (code != 0)
        return directory_refuse(dir->root, "this launch cannot claim it", code);
    dir->epoch = epoch;
    dir->trusted_count = 0;
    dir->has_committed = 0;
    DS_TRY(highest_claim(dir, &highest));
    return highest > epoch ? fenced(dir, highest) : DS_OK;
}

/* The next epoch, but not below `least`. */
static ds_status claim_from(struct ds_checkpoint_dir *dir, uint64_t least)
{
    uint64_t epoch = 0;
    int code = -EEXIST;

    DS_TRY(highest_epoch(dir, &epoch));
    if (epoch + 1 < least)
        epoch = least - 1;
    for (int i = 0; i < CLAIM_TRIES && code == -EEXIST && epoch < DOCUMENT_NUMBER_MAX; i++)
        code = claim(dir, ++epoch);
    if (code == -EEXIST && epoch == DOCUMENT_NUMBER_MAX)
        return refuse_last(dir, epoch);
    return end_claim(dir, epoch, code);
}

/* The one behind ours and no other: what somebody has claimed since is not taken back. */
static ds_status claim_next(struct ds_checkpoint_dir *dir)
{
    DS_TRY(ds_checkpoint_check_fence(dir));
    if (dir->epoch == DOCUMENT_NUMBER_MAX)
        return refuse_last(dir, dir->epoch);
    const int code = claim(dir, dir->epoch + 1);

    return code == -EEXIST ? fenced(dir, dir->epoch + 1) : end_claim(dir, dir->epoch + 1, code);
}

/* What we have just claimed in one stands in the other: links and mounts may give one directory two names. */
static ds_status refuse_same(const struct ds_checkpoint_dir *dir)
{
    char path[DS_CHECKPOINT_PATH_BYTES], text[CLAIM_BYTES];
    struct ds_fs_stat stat;
    int is_ours = 0;

    name_claim(dir->mirror, dir->epoch, path, text);
    if (ds_fs_stat(dir->fs, path, &stat) != 0 ||
        look_at_claim(dir->mirror, dir->epoch, &is_ours) != DS_OK || !is_ours)
        return DS_OK;
    return ds_fail(DS_ERR_CONFIG,
                   "[checkpoint] mirror = %s is the same directory as dir = %s; name one on "
                   "another disk, or none",
                   dir->mirror->root, dir->root);
}

/* One number in both: who is behind claims again. `*is_lost`: the mirror cannot be claimed. */
static ds_status claim_mirror(struct ds_checkpoint_dir *dir, int *is_lost)
{
    struct ds_checkpoint_dir *mirror = dir->mirror;

    *is_lost = 0;
    DS_TRY(refuse_same(dir));
    for (int i = 0; i < CLAIM_TRIES; i++) {
        const ds_status st = claim_from(mirror, dir->epoch);

        if (st == DS_ERR_FENCED)
            return st;
        *is_lost = st != DS_OK;
        if (*is_lost || mirror->epoch == dir->epoch)
            return DS_OK;
        DS_TRY(claim_from(dir, mirror->epoch));
        if (mirror->epoch == dir->epoch)
            return DS_OK;
    }
    return ds_fail(DS_ERR_FENCED, "%s: others claim it all the time", dir->root);
}

static ds_status claim_next_mirror(struct ds_checkpoint_dir *dir, int *is_lost)
{
    const ds_status st = claim_next(dir->mirror);

    *is_lost = st != DS_OK && st != DS_ERR_FENCED;
    return *is_lost ? DS_OK : st;
}

/* A launch that cannot claim the mirror may go on without, but not where it would fall behind what is there; and what it
 * will have written itself is newer than that. */
static ds_status go_without_mirror(struct ds_checkpoint_dir *dir)
{
    const struct ds_checkpoint_dir *mirror = dir->mirror;
    struct ds_checkpoint_list list;
    uint64_t epoch = 0;
    size_t i = 0;

    const ds_status st = ds_checkpoint_list_both(dir->fs, dir->root, mirror->root, &list);
    if (st != DS_OK)
        return directory_is_unlisted(st) ? DS_OK : st; /* it cannot be read, either */
    while (i < list.count && list.entries[i].standing != DS_CHECKPOINT_GOOD)
        i++;
    const int is_newer_there = i < list.count && list.entries[i].root == 1;
    const uint64_t step = is_newer_there ? list.entries[i].id.step : 0;
    ds_checkpoint_list_fini(&list);
    if (is_newer_there)
        return ds_fail(DS_ERR_CONFIG,
                       "[checkpoint] mirror = %s cannot be written to, but has the newest "
                       "checkpoint, of step %" PRIu64
                       ": let it be written to, or copy it to %s while no launch is at work",
                       mirror->root, step, dir->root);
    if (highest_epoch(mirror, &epoch) == DS_OK && epoch >= dir->epoch)
        DS_TRY(claim_from(dir, epoch + 1));
    return DS_OK;
}

ds_status ds_checkpoint_claim(struct ds_checkpoint_dir *dir)
{
    const int is_again = dir->epoch > 0;
    int is_lost = 0;

    DS_TRY(is_again ? claim_next(dir) : claim_from(dir, 1));
    if (dir->mirror)
        DS_TRY(is_again ? claim_next_mirror(dir, &is_lost) : claim_mirror(dir, &is_lost));
    if (!is_lost)
        return DS_OK;
    if (!is_again)
        DS_TRY(go_without_mirror(dir));
    ds_warn("%s: cannot be claimed: no checkpoints are copied there", dir->mirror->root);
    ds_checkpoint_dir_close(dir->mirror);
    dir->mirror = NULL;
    return DS_OK;
}

/* Says nothing of what it cannot read: that is not ours. */
static int carries_our_number(const struct ds_checkpoint_dir *dir, const char *path,
                              const char *text)
{
    const int file = ds_fs_open(dir->fs, path, DS_FS_READ | DS_FS_REGULAR | DS_FS_NO_LINK, 0);
    char there[CLAIM_BYTES];

    if (file < 0)
        return 0;
    const int64_t bytes = ds_fs_pread(dir->fs, file, there, sizeof there, 0);
    (void)ds_fs_close(dir->fs, file);
    return bytes == (int64_t)strlen(text) && memcmp(there, text, strlen(text)) == 0;
}

/* A number that is free again may be claimed again: nothing was written under it. Who has claimed a higher one meanwhile
 * does not need ours, and a name that is ours is nobody else's before we remove it. */
void ds_checkpoint_withdraw(const struct ds_checkpoint_dir *dir)
{
    char path[DS_CHECKPOINT_PATH_BYTES], text[CLAIM_BYTES], **names = NULL;
    size_t count = 0;

    directory_path(dir->root, "", "epochs", path);
    if (ds_fs_readdir(dir->fs, path, &names, &count) == 0)
        for (size_t i = 0; i < count; i++) {
            const uint64_t epoch = epoch_of_claim(names[i]);

            name_claim(dir, epoch, path, text);
            if (epoch > 0 && carries_our_number(dir, path, text) &&
                ds_fs_unlink(dir->fs, path) == 0)
                (void)ds_fs_fsync_parent(dir->fs, path);
        }
    free(names);
    if (dir->is_new)
        directory_unmake(dir);
    if (dir->mirror)
        ds_checkpoint_withdraw(dir->mirror);
}

ds_status ds_checkpoint_check_fence(const struct ds_checkpoint_dir *dir)
{
    uint64_t epoch = 0;
    int is_ours = 0;

    DS_TRY(highest_claim(dir, &epoch));
    if (epoch > dir->epoch)
        return fenced(dir, epoch);
    DS_TRY(look_at_claim(dir, dir->epoch, &is_ours));
    return is_ours ? DS_OK : fenced(dir, dir->epoch);
}
