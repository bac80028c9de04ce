/* listing.c - which manifests there are, and which of them may be loaded by what bases say. */
#include "base.h"
#include "directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What is in the directories; `root` is the one that is being read. */
struct listing {
    struct ds_fs *fs;
    const char *roots[2];
    uint32_t root_count;
    const char *root;
    struct ds_checkpoint_list list;
    struct base *bases;
    size_t base_count;
    struct ds_manifest_id *buried;
    size_t buried_count;
};

/* One that cannot be read constrains nothing: the manifests of its epoch, which come first, say more. */
static ds_status take_base(struct listing *l, uint64_t epoch)
{
    char past[DS_CHECKPOINT_PAST_BYTES];
    const ds_status st =
        base_read(l->fs, l->root, epoch, &l->bases[l->base_count], NULL, NULL, past);

    l->base_count += st == DS_OK;
    return st == DS_ERR_NO_MEMORY ? st : DS_OK;
}

/* Of an epoch that all manifests are newer than, nothing rests on the base. */
static uint64_t oldest_epoch(const struct ds_checkpoint_list *list)
{
    uint64_t oldest = UINT64_MAX;

    for (size_t i = 0; i < list->count; i++)
        oldest = list->entries[i].id.epoch < oldest ? list->entries[i].id.epoch : oldest;
    return oldest;
}

static ds_status take_bases(struct listing *l, uint64_t oldest)
{
    ds_status st = DS_OK;
    char **names;
    uint64_t epoch;
    size_t count;

    DS_TRY(directory_list(l->fs, l->root, "epochs", &names, &count));
    struct base *larger = realloc(l->bases, (l->base_count + count + 1) * sizeof *larger);
    if (larger)
        l->bases = larger;
    else
        st = ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its epochs", l->root);
    for (size_t i = 0; i < count && st == DS_OK; i++)
        if (directory_epoch_parse(names[i], ".base.json", &epoch) && epoch > oldest)
            st = take_base(l, epoch);
    free(names);
    return st;
}

static enum ds_checkpoint_standing standing_of(const struct listing *l,
                                               const struct ds_manifest_id *id)
{
    for (size_t i = 0; i < l->buried_count; i++)
        if (ds_manifest_id_compare(&l->buried[i], id) == 0)
            return DS_CHECKPOINT_BURIED;
    for (size_t i = 0; i < l->base_count; i++)
        if (l->bases[i].epoch > id->epoch && base_is_behind(&l->bases[i], id))
            return DS_CHECKPOINT_OVERRULED;
    return DS_CHECKPOINT_GOOD;
}

static int by_age(const void *a, const void *b)
{
    const struct ds_checkpoint_entry *x = a, *y = b;
    const int age = ds_manifest_id_compare(&y->id, &x->id);

    return age != 0 ? age : (x->root > y->root) - (x->root < y->root);
}

/* The manifests of one directory, and which are marked as bad. */
static ds_status take_manifests(struct listing *l, uint32_t root)
{
    struct ds_checkpoint_list *list = &l->list;
    char **names;
    size_t count;

    DS_TRY(directory_list(l->fs, l->root, "manifests", &names, &count));
    struct ds_checkpoint_entry *entries =
        realloc(list->entries, (list->count + count + 1) * sizeof *entries);
    list->entries = entries ? entries : list->entries;
    struct ds_manifest_id *buried =
        realloc(l->buried, (l->buried_count + count + 1) * sizeof *buried);
    l->buried = buried ? buried : l->buried;
    for (size_t i = 0; i < count && entries && buried; i++) {
        struct ds_manifest_id id;

        if (directory_manifest_parse(names[i], ".json", &id))
            list->entries[list->count++] = (struct ds_checkpoint_entry){.id = id, .root = root};
        else if (directory_manifest_parse(names[i], ".bad", &id))
            l->buried[l->buried_count++] = id;
    }
    free(names);
    return entries && buried ? DS_OK
                             : ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its list", l->root);
}

/* The first directory has to be readable. */
static ds_status take_all_manifests(struct listing *l)
{
    for (uint32_t i = 0; i < l->root_count; i++) {
        l->root = l->roots[i];
        const ds_status st = take_manifests(l, i);

        if (!directory_is_unlisted(st) || i == 0) {
            DS_TRY(st);
            continue;
        }
        ds_warn("%s: its checkpoints are not looked at", l->root);
        l->root_count = i;
    }
    return DS_OK;
}

/* Nobody can say which of the second directory's still hold. */
static void leave_mirror(struct listing *l)
{
    struct ds_checkpoint_list *list = &l->list;
    size_t kept = 0;

    ds_warn("%s: its checkpoints are not looked at", l->roots[1]);
    for (size_t i = 0; i < list->count; i++)
        if (list->entries[i].root == 0)
            list->entries[kept++] = list->entries[i];
    list->count = kept;
    l->root_count = 1;
}

static ds_status take_all_bases(struct listing *l)
{
    const uint64_t oldest = oldest_epoch(&l->list);

    for (uint32_t i = 0; i < l->root_count; i++) {
        l->root = l->roots[i];
        const ds_status st = take_bases(l, oldest);

        if (!directory_is_unlisted(st) || i == 0)
            DS_TRY(st);
        else
            leave_mirror(l);
    }
    return DS_OK;
}

static ds_status take_all(struct listing *l)
{
    DS_TRY(take_all_manifests(l));
    DS_TRY(take_all_bases(l));
    for (size_t i = 0; i < l->list.count; i++)
        l->list.entries[i].standing = standing_of(l, &l->list.entries[i].id);
    qsort(l->list.entries, l->list.count, sizeof *l->list.entries, by_age);
    return DS_OK;
}

ds_status ds_checkpoint_list_both(struct ds_fs *fs, const char *root, const char *mirror,
                                  struct ds_checkpoint_list *out)
{
    struct listing l = {.fs = fs, .roots = {root, mirror}, .root_count = mirror ? 2 : 1};
    ds_status st = take_all(&l);

    free(l.bases);
    free(l.buried);
    if (st != DS_OK) {
        ds_checkpoint_list_fini(&l.list);
        return st;
    }
    *out = l.list;
    return DS_OK;
}

ds_status ds_checkpoint_list_make(struct ds_fs *fs, const char *root,
                                  struct ds_checkpoint_list *out)
{
    return ds_checkpoint_list_both(fs, root, NULL, out);
}

void ds_checkpoint_list_fini(struct ds_checkpoint_list *list)
{
    free(list->entries);
    *list = (struct ds_checkpoint_list){0};
}

/* ---- one manifest */

ds_status ds_checkpoint_read_manifest(struct ds_fs *fs, const char *root,
                                      const struct ds_manifest_id *id, struct ds_manifest *out)
{
    char path[DS_CHECKPOINT_PATH_BYTES], *text = NULL;
    struct ds_manifest manifest;
    size_t bytes = 0;

    ds_checkpoint_manifest_path(root, id, path);
    ds_status st = ds_fs_read_own_file(fs, path, DS_MANIFEST_BYTES_MAX, &text, &bytes);
    if (st != DS_OK)
        return st == DS_ERR_CORRUPT ? st : ds_fail(DS_ERR_IO, "%s: cannot be read", path);
    st = ds_manifest_parse(path, text, bytes, &manifest);
    free(text);
    DS_TRY(st);
    if (ds_manifest_id_compare(&manifest.id, id) != 0) {
        ds_manifest_fini(&manifest);
        return ds_fail(DS_ERR_CORRUPT, "%s: another checkpoint's manifest", path);
    }
    *out = manifest;
    return DS_OK;
}

static ds_status bury(const struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id,
                      const char *why)
{
    char name[DIRECTORY_NAME_BYTES], path[DS_CHECKPOINT_PATH_BYTES];
    int is_made;

    directory_manifest_name(id, ".bad", name);
    directory_path(dir->root, "manifests", name, path);
    int code = directory_create(dir->fs, path, why, strlen(why), &is_made);
    if (code == 0 || code == -EEXIST)
        code = ds_fs_fsync_parent(dir->fs, path);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "make %s: %s", path, strerror(-code));
    return DS_OK;
}

ds_status ds_checkpoint_bury(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id,
                             const char *why)
{
    DS_TRY(bury(dir, id, why));
    if (dir->mirror && bury(dir->mirror, id, why) != DS_OK)
        ds_warn("%s: that a checkpoint is bad is not said there", dir->mirror->root);
    return DS_OK;
}
