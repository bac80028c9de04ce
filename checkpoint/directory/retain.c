/* retain.c - which checkpoints go, and with them which packs. Manifests go first, and durably: a checkpoint that is
 * listed has its files. What is gone from the list may leave packs behind; the next time finds them. */
#include "copy_pack.h"
#include "directory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct retain {
    struct ds_checkpoint_dir *dir;
    const struct ds_checkpoint_retention *keep;
    uint64_t committed_step;
    struct ds_checkpoint_list list;
    uint64_t newest_step;            /* of the list */
    uint8_t *is_kept;                /* of list.entries */
    uint32_t trusted_count;          /* of what stays; no more than two are counted */
    struct ds_manifest_pack *needed; /* of what is kept, sorted */
    size_t needed_count, needed_capacity;
};

/* ---- which stay */

#define OLD_MAX 2 /* old enough for the margin, but not known to be good */

static int is_trusted(const struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id)
{
    for (uint32_t i = 0; i < dir->trusted_count; i++)
        if (ds_manifest_id_compare(&dir->trusted[i], id) == 0)
            return 1;
    return 0;
}

static int is_wanted(const struct ds_checkpoint_retention *keep, const struct ds_manifest_id *id,
                     uint32_t newer_count)
{
    if (newer_count < keep->keep_last || (keep->keep_every > 0 && id->step % keep->keep_every == 0))
        return 1;
    for (uint32_t i = 0; i < keep->pinned_count; i++)
        if (ds_manifest_id_compare(&keep->pinned[i], id) == 0)
            return 1;
    return 0;
}

/* As much older than the newest as the margin wants. */
static int is_old_enough(const struct retain *r, const struct ds_manifest_id *id)
{
    return r->keep->margin > 0 && id->step + r->keep->margin <= r->newest_step;
}

static int is_good(const struct retain *r, size_t index)
{
    return r->list.entries[index].standing == DS_CHECKPOINT_GOOD;
}

static uint64_t newest_step(const struct retain *r)
{
    for (size_t i = 0; i < r->list.count; i++)
        if (is_good(r, i))
            return r->list.entries[i].id.step;
    return 0;
}

/* Of those that are not old enough yet the one that will be first; list.count: there is none. */
static size_t next_old(const struct retain *r, int must_be_trusted)
{
    for (size_t i = r->list.count; i-- > 0 && r->keep->margin > 0;) {
        const struct ds_manifest_id *id = &r->list.entries[i].id;

        if (is_good(r, i) && !is_old_enough(r, id) && (!must_be_trusted || is_trusted(r->dir, id)))
            return i;
    }
    return r->list.count;
}

/* The packs of a checkpoint that stays. */
static ds_status need(struct retain *r, const struct ds_manifest *manifest)
{
    const size_t count = r->needed_count + manifest->pack_count;

    if (count > r->needed_capacity) {
        struct ds_manifest_pack *larger = realloc(r->needed, 2 * count * sizeof *larger);

        if (!larger)
            return ds_fail(DS_ERR_NO_MEMORY, "no memory to find packs that are needed");
        r->needed = larger;
        r->needed_capacity = 2 * count;
    }
    if (manifest->pack_count > 0)
        memcpy(r->needed + r->needed_count, manifest->packs,
               manifest->pack_count * sizeof *manifest->packs);
    r->needed_count = count;
    return DS_OK;
}

/* Reads one that should stay. One that fails its checksum cannot be loaded by anybody: `*is_there` is 0. */
static ds_status keep_one(struct retain *r, size_t index, int *is_there)
{
    struct ds_manifest manifest;
    ds_status st = ds_checkpoint_read_manifest(r->dir->fs, r->dir->root, &r->list.entries[index].id,
                                               &manifest);

    *is_there = st == DS_OK;
    if (st == DS_ERR_CORRUPT)
        return DS_OK;
    DS_TRY(st);
    r->is_kept[index] = 1;
    st = need(r, &manifest);
    ds_manifest_fini(&manifest);
    return st;
}

/* Every launch begins with trust in no more than what it has loaded, and may end before what it saves is old. So one
 * that will be old stays though nobody trusts it, or none would ever be; and of such old ones no more than OLD_MAX do,
 * or every launch would leave some. */
static ds_status choose(struct retain *r)
{
    const size_t next = next_old(r, 0), next_trusted = next_old(r, 1);
    uint32_t good_count = 0, old_count = 0;
    int has_trusted_old = 0;

    for (size_t i = 0; i < r->list.count; i++) {
        const struct ds_manifest_id *id = &r->list.entries[i].id;
        const int is_known = is_trusted(r->dir, id), is_old = is_old_enough(r, id);
        const int may_be_old =
            is_old ? !has_trusted_old && (is_known || old_count < OLD_MAX) : i == next;
        int is_there = 0;

        if (!is_good(r, i) || !((is_known && r->trusted_count < 2) || i == next_trusted ||
                                may_be_old || is_wanted(r->keep, id, good_count)))
            continue;
        DS_TRY(keep_one(r, i, &is_there));
        good_count += (uint32_t)is_there;
        r->trusted_count += (uint32_t)(is_there && is_known && r->trusted_count < 2);
        old_count += (uint32_t)(is_there && is_old);
        has_trusted_old |= is_there && is_known && is_old;
    }
    return DS_OK;
}

/* In the stead of a second one that is trusted. */
static ds_status keep_two_others(struct retain *r)
{
    for (size_t i = 0, count = 0; i < r->list.count && count < 2; i++) {
        int is_there = r->is_kept[i];

        if (!is_good(r, i) || is_trusted(r->dir, &r->list.entries[i].id))
            continue;
        if (!is_there)
            DS_TRY(keep_one(r, i, &is_there));
        count += (size_t)is_there;
    }
    return DS_OK;
}

/* `*is_complete` 0: one does not read, so it is not known which packs it needs. */
static ds_status keep_the_rest(struct retain *r, int *is_complete)
{
    *is_complete = 1;
    for (size_t i = 0; i < r->list.count; i++) {
        int is_there = 0;

        if (r->is_kept[i])
            continue;
        DS_TRY(keep_one(r, i, &is_there));
        *is_complete &= is_there;
        r->is_kept[i] = 1;
    }
    return DS_OK;
}

/* ---- manifests go */

static int remove_manifest(const struct retain *r, const struct ds_manifest_id *id,
                           const char *ending)
{
    char name[DIRECTORY_NAME_BYTES], path[DS_CHECKPOINT_PATH_BYTES];

    directory_manifest_name(id, ending, name);
    directory_path(r->dir->root, "manifests", name, path);
    const int code = ds_fs_unlink(r->dir->fs, path);
    return code == -ENOENT ? 0 : code;
}

/* What is gone makes room for what is known of others. */
static void forget_trusted(const struct retain *r, const struct ds_manifest_id *id)
{
    for (uint32_t i = r->dir->trusted_count; i-- > 0;)
        if (ds_manifest_id_compare(&r->dir->trusted[i], id) == 0)
            directory_distrust(r->dir, i);
}

/* What marks a manifest as bad goes only after it is durably gone. */
static ds_status remove_manifests(struct retain *r)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    size_t removed = 0;
    int code = 0;

    DS_TRY(ds_checkpoint_check_fence(r->dir));
    for (size_t i = 0; i < r->list.count && code == 0; i++)
        if (!r->is_kept[i]) {
            code = remove_manifest(r, &r->list.entries[i].id, ".json");
            forget_trusted(r, &r->list.entries[i].id);
            removed++;
        }
    directory_path(r->dir->root, "", "manifests", path);
    if (code == 0 && removed > 0)
        code = ds_fs_fsync_dir(r->dir->fs, path);
    for (size_t i = 0; i < r->list.count && code == 0; i++)
        if (!r->is_kept[i])
            code = remove_manifest(r, &r->list.entries[i].id, ".bad");
    if (code != 0)
        return ds_fail(DS_ERR_IO, "remove a manifest in %s: %s", path, strerror(-code));
    return DS_OK;
}

/* ---- packs go */

/* Another's, or one that is being written. */
static int is_coming(const struct retain *r, const struct ds_pack_id *id)
{
    return id->epoch > r->dir->epoch ||
           (id->epoch == r->dir->epoch && id->step > r->committed_step);
}

static int may_go(const struct retain *r, const struct ds_pack_id *id)
{
    const struct ds_manifest_pack wanted = {.pack.id = *id};

    if (is_coming(r, id))
        return 0;
    return !r->needed_count || !bsearch(&wanted, r->needed, r->needed_count, sizeof *r->needed,
                                        ds_manifest_pack_compare);
}

/* A pack that is not needed, or what is left of a copy that was not finished. */
static int is_rest(const struct retain *r, const char *name)
{
    const size_t bytes = strlen(name), ending = strlen(COPY_PACK_ENDING);
    char stem[DS_PACK_NAME_BYTES];
    struct ds_pack_id id;

    if (ds_pack_name_parse(name, &id))
        return may_go(r, &id);
    if (bytes <= ending || bytes - ending >= sizeof stem ||
        strcmp(name + bytes - ending, COPY_PACK_ENDING) != 0)
        return 0;
    snprintf(stem, sizeof stem, "%.*s", (int)(bytes - ending), name);
    return ds_pack_name_parse(stem, &id) && !is_coming(r, &id);
}

static ds_status sweep_folder(const struct retain *r, const char *folder)
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names;
    size_t count;

    directory_path(r->dir->root, "data", folder, path);
    int code = ds_fs_readdir(r->dir->fs, path, &names, &count);
    if (code != 0)
        return code == -ENOTDIR ? DS_OK : ds_fail(DS_ERR_IO, "list %s: %s", path, strerror(-code));
    for (size_t i = 0; i < count && code == 0; i++)
        if (is_rest(r, names[i])) {
            char inner[DS_CHECKPOINT_PATH_BYTES];

            snprintf(inner, sizeof inner, "%.*s/%s", (int)sizeof inner - DS_PACK_NAME_BYTES - 2,
                     path, names[i]);
            code = ds_fs_unlink(r->dir->fs, inner);
        }
    free(names);
    if (code != 0 && code != -ENOENT)
        return ds_fail(DS_ERR_IO, "remove a pack in %s: %s", path, strerror(-code));
    return DS_OK;
}

static ds_status sweep(const struct retain *r)
{
    ds_status st = DS_OK;
    size_t count;
    char **names;

    DS_TRY(ds_checkpoint_check_fence(r->dir));
    DS_TRY(directory_list(r->dir->fs, r->dir->root, "data", &names, &count));
    for (size_t i = 0; i < count && st == DS_OK; i++)
        st = sweep_folder(r, names[i]);
    free(names);
    return st;
}

/* A launch that has added none does not make them more, and all may be needed. */
static int may_remove(const struct retain *r)
{
    return r->trusted_count >= 2 || (r->trusted_count == 1 && r->dir->has_committed);
}

static ds_status retain(struct retain *r)
{
    int is_complete = 1;

    r->is_kept = calloc(r->list.count + 1, 1);
    if (!r->is_kept)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to choose checkpoints to keep");
    r->newest_step = newest_step(r);
    DS_TRY(choose(r));
    if (!may_remove(r))
        DS_TRY(keep_the_rest(r, &is_complete));
    else if (r->trusted_count < 2)
        DS_TRY(keep_two_others(r));
    if (r->needed_count > 0)
        qsort(r->needed, r->needed_count, sizeof *r->needed, ds_manifest_pack_compare);
    DS_TRY(remove_manifests(r));
    return is_complete ? sweep(r) : DS_OK;
}

ds_status ds_checkpoint_retain(struct ds_checkpoint_dir *dir,
                               const struct ds_checkpoint_retention *keep, uint64_t committed_step)
{
    struct retain r = {.dir = dir, .keep = keep, .committed_step = committed_step};

    DS_ASSERT(keep->keep_last > 0 && dir->epoch > 0);
    DS_TRY(ds_checkpoint_check_fence(dir)); /* what a newer epoch needs is not ours to know */
    DS_TRY(ds_checkpoint_list_make(dir->fs, dir->root, &r.list));
    ds_status st = retain(&r);
    ds_checkpoint_list_fini(&r.list);
    free(r.is_kept);
    free(r.needed);
    return st;
}
