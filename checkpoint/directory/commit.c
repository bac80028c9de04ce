/* commit.c - how a checkpoint comes to be: packs that are kept, a vote, a manifest. */
#include "directory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- packs: each rank for itself */

ds_status ds_checkpoint_make_data(struct ds_fs *fs, const char *root, uint32_t dir)
{
    char path[DS_CHECKPOINT_PATH_BYTES], name[16];

    snprintf(name, sizeof name, "%u", dir);
    directory_path(root, "data", name, path);
    int code = ds_fs_mkdir(fs, path, 0750);
    if (code == 0 || code == -EEXIST) /* whoever made it may not have come as far as this */
        code = ds_fs_fsync_parent(fs, path);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "make %s: %s", path, strerror(-code));
    return DS_OK;
}

static ds_status read_back(const struct ds_pack *pack, uint32_t sample, void *buffer)
{
    const struct ds_pack_chunk *chunks = ds_pack_chunks(pack);
    const char *flaw = NULL;

    DS_ASSERT(sample > 0);
    DS_TRY(ds_pack_find_flaw(pack, &flaw));
    if (flaw)
        return ds_fail(DS_ERR_CORRUPT, "%s: %s", ds_pack_path(pack), flaw);
    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count; i += sample)
        if (chunks[i].pack == DS_PACK_HERE)
            DS_TRY(ds_pack_read(pack, i, buffer));
    return DS_OK;
}

ds_status ds_checkpoint_keep_pack(struct ds_fs *fs, const char *root,
                                  const struct ds_manifest_pack *at, uint32_t sample, void *buffer)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_pack *pack = NULL;

    ds_checkpoint_pack_path(root, at->dir, &at->pack.id, path);
    const int code = ds_fs_fsync_parent(fs, path);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "fsync of the directory of %s: %s", path, strerror(-code));
    DS_TRY(ds_pack_open(fs, path, &at->pack, &pack));
    ds_status st = read_back(pack, sample, buffer);
    ds_pack_close(pack);
    return st;
}

/* ---- the vote */

/* Those of all ranks, and behind them those of this one. */
static ds_status make_votes(struct ds_votes *all, size_t room)
{
    if (all->room >= room)
        return DS_OK;
    free(all->packs);
    all->packs = calloc(room, sizeof *all->packs);
    all->room = all->packs ? room : 0;
    return all->packs ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory for the packs of all ranks");
}

static ds_status share_packs(struct ds_comm *control, const struct ds_manifest_pack *packs,
                             uint32_t count, uint32_t count_max, struct ds_manifest_pack *all)
{
    struct ds_manifest_pack *mine = all + (size_t)control->size * count_max;

    memset(mine, 0, count_max * sizeof *mine);
    if (count > 0)
        memcpy(mine, packs, count * sizeof *mine);
    return ds_comm_all_gather(control, mine, all, count_max * sizeof *all, DS_U8, NULL);
}

/* In order, each once; those that ranks had fewer of than others are empty: no pack has no bytes. */
static uint32_t sort_packs(struct ds_manifest_pack *all, size_t count)
{
    uint32_t kept = 0;

    qsort(all, count, sizeof *all, ds_manifest_pack_compare);
    for (size_t i = 0; i < count; i++)
        if (all[i].pack.file_bytes > 0 &&
            (kept == 0 || ds_manifest_pack_compare(&all[kept - 1], &all[i]) != 0))
            all[kept++] = all[i];
    return kept;
}

ds_status ds_checkpoint_vote(struct ds_comm *control, ds_status prepared,
                             const struct ds_manifest_pack *packs, uint32_t count,
                             ds_status *verdict, struct ds_votes *all)
{
    int32_t most[2] = {(int32_t)prepared, (int32_t)count};

    all->count = 0;
    DS_TRY(ds_comm_all_reduce(control, most, 2, DS_I32, DS_REDUCE_MAX, NULL));
    *verdict = (ds_status)most[0];
    if (*verdict != DS_OK || most[1] == 0)
        return DS_OK;
    const uint32_t each = (uint32_t)most[1];
    const size_t total = (size_t)control->size * each;
    DS_TRY(ds_comm_agree(control, make_votes(all, total + each), verdict));
    if (*verdict != DS_OK)
        return DS_OK;
    DS_TRY(share_packs(control, packs, count, each, all->packs));
    if (control->rank == 0)
        all->count = sort_packs(all->packs, total);
    return DS_OK;
}

/* ---- the manifest: rank 0 */

static ds_status put_in_place(struct ds_checkpoint_dir *dir, const char *path, const char *text,
                              size_t bytes)
{
    struct ds_fs_stat stat;

    if (ds_fs_stat(dir->fs, path, &stat) != -ENOENT)
        return ds_fail(DS_ERR_IO, "%s: there already", path);
    ds_status st = ds_fs_write_file(dir->fs, path, text, bytes);
    if (st != DS_OK) /* it may have its name, but perhaps not for long: it does not count */
        (void)ds_fs_unlink(dir->fs, path);
    return st;
}

static ds_status write_manifest(struct ds_checkpoint_dir *dir, const struct ds_manifest *manifest,
                                char *text, size_t capacity)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    size_t bytes = 0;

    ds_checkpoint_manifest_path(dir->root, &manifest->id, path);
    DS_TRY(ds_manifest_write(manifest, text, capacity, &bytes));
    DS_TRY(ds_checkpoint_check_fence(dir));
    DS_TRY(put_in_place(dir, path, text, bytes));
    return ds_checkpoint_check_fence(dir);
}

ds_status ds_checkpoint_commit_manifest(struct ds_checkpoint_dir *dir,
                                        const struct ds_manifest *manifest)
{
    const size_t capacity = ds_manifest_bytes(manifest);
    char *text = malloc(capacity);

    DS_ASSERT(manifest->id.epoch <= dir->epoch); /* an older one where it is copied */
    if (!text)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a manifest of %zu bytes", capacity);
    ds_status st = write_manifest(dir, manifest, text, capacity);
    free(text);
    if (st != DS_OK)
        return st;
    dir->has_committed = 1;
    ds_checkpoint_trust(dir, &manifest->id);
    return DS_OK;
}

ds_status ds_checkpoint_write_latest(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id)
{
    char path[DS_CHECKPOINT_PATH_BYTES], name[DIRECTORY_NAME_BYTES];

    directory_manifest_name(id, ".json\n", name);
    directory_path(dir->root, "", "latest", path);
    return ds_fs_write_file(dir->fs, path, name, strlen(name));
}
