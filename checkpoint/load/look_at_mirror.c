/* look_at_mirror.c - is the newest checkpoint of the mirror there as it was committed? Nothing is loaded from it while the
 * first directory has what is needed, so nobody would know, until that is lost. */
#include "directory/directory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct look {
    struct ds_comm *control;
    struct ds_fs *fs;
    /* rank 0's, then all ranks' */
    char root[DS_CHECKPOINT_PATH_BYTES];
    uint64_t step;
    uint32_t count;                 /* of packs; 0: there is nothing to look at */
    struct ds_manifest_pack *packs; /* owned */
};

/* Rank 0. A manifest that does not read is told here. */
static ds_status take_newest(struct look *l, const struct ds_checkpoint_entry *entry)
{
    struct ds_manifest manifest;
    const ds_status st = ds_checkpoint_read_manifest(l->fs, l->root, &entry->id, &manifest);

    if (st == DS_ERR_CORRUPT || st == DS_ERR_IO || st == DS_ERR_DATA) {
        ds_warn("%s: the copy of the checkpoint of step %llu is damaged there; 'dstrain verify %s' "
                "looks at all of them",
                l->root, (unsigned long long)entry->id.step, l->root);
        return DS_OK;
    }
    DS_TRY(st);
    l->step = entry->id.step;
    l->packs = manifest.packs;
    l->count = manifest.pack_count;
    manifest.packs = NULL;
    manifest.pack_count = 0;
    ds_manifest_fini(&manifest);
    return DS_OK;
}

/* Rank 0. That it cannot be listed has been told. */
static ds_status find_newest(struct look *l, const struct ds_checkpoint_dir *dir)
{
    struct ds_checkpoint_list list;
    size_t i = 0;

    snprintf(l->root, sizeof l->root, "%s", dir->mirror->root);
    ds_status st = ds_checkpoint_list_both(l->fs, dir->root, l->root, &list);
    if (st != DS_OK)
        return directory_is_unlisted(st) ? DS_OK : st;
    while (i < list.count &&
           (list.entries[i].root != 1 || list.entries[i].standing != DS_CHECKPOINT_GOOD))
        i++;
    if (i < list.count)
        st = take_newest(l, &list.entries[i]);
    ds_checkpoint_list_fini(&list);
    return st;
}

/* collective: what rank 0 has found all know */
static ds_status share(struct look *l)
{
    struct ds_comm *control = l->control;

    DS_TRY(ds_comm_broadcast(control, &l->count, sizeof l->count, 0, NULL));
    if (l->count == 0)
        return DS_OK;
    DS_TRY(ds_comm_broadcast(control, &l->step, sizeof l->step, 0, NULL));
    DS_TRY(ds_comm_broadcast(control, l->root, sizeof l->root, 0, NULL));
    if (control->rank != 0)
        l->packs = calloc(l->count, sizeof *l->packs);
    DS_TRY(ds_comm_agreed(
        control, l->packs ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory to look at a mirror")));
    return ds_comm_broadcast(control, l->packs, l->count * sizeof *l->packs, 0, NULL);
}

/* This rank's share: how many are damaged, and the first of them in words. */
static ds_status probe(const struct look *l, int32_t *damaged, char *words, size_t bytes)
{
    char path[DS_CHECKPOINT_PATH_BYTES], why[DS_PACK_WHY_BYTES];

    for (uint32_t i = l->control->rank; i < l->count; i += l->control->size) {
        const struct ds_manifest_pack *at = &l->packs[i];

        ds_checkpoint_pack_path(l->root, at->dir, &at->pack.id, path);
        DS_TRY(ds_pack_probe(l->fs, path, &at->pack, why));
        if (why[0] == '\0')
            continue;
        if (*damaged == 0)
            snprintf(words, bytes, "%s: %s", path, why);
        ++*damaged;
    }
    return DS_OK;
}

/* collective: one rank speaks for all */
static ds_status look(const struct look *l)
{
    struct ds_comm *control = l->control;
    char words[DS_CHECKPOINT_PATH_BYTES + DS_PACK_WHY_BYTES];
    int32_t damaged = 0;

    DS_TRY(ds_comm_agreed(control, probe(l, &damaged, words, sizeof words)));
    int32_t speaker = damaged > 0 ? (int32_t)control->rank : INT32_MAX;
    DS_TRY(ds_comm_all_reduce(control, &damaged, 1, DS_I32, DS_REDUCE_SUM, NULL));
    DS_TRY(ds_comm_all_reduce(control, &speaker, 1, DS_I32, DS_REDUCE_MIN, NULL));
    if (speaker == (int32_t)control->rank)
        ds_warn("%s: the copy of the checkpoint of step %llu is damaged there, %d of its %u files, "
                "%s; 'dstrain verify %s' looks at all of them",
                l->root, (unsigned long long)l->step, damaged, l->count, words, l->root);
    return DS_OK;
}

ds_status ds_checkpoint_look_at_mirror(struct ds_comm *control, struct ds_fs *fs,
                                       const struct ds_checkpoint_dir *dir)
{
    struct look l = {.control = control, .fs = fs};
    ds_status st = control->rank == 0 ? find_newest(&l, dir) : DS_OK;

    st = ds_comm_agreed(control, st);
    if (st == DS_OK)
        st = share(&l);
    if (st == DS_OK && l.count > 0)
        st = look(&l);
    free(l.packs);
    return st;
}
