/* tidy.c - what earlier launches have left and nothing rests on any more. Claims below the highest fence nobody off: the
 * highest does, and it is never removed, so who claims a number again whose claim has gone finds a higher one. A base
 * goes if all that it overrules is overruled by our own, too: what is listed stands as it did. */
#include "base.h"
#include "directory.h"

#include <stdlib.h>
#include <string.h>

struct tidy {
    struct ds_fs *fs;
    uint64_t epoch;   /* ours */
    struct base base; /* ours */
    struct ds_manifest_id *ids;
    size_t count; /* manifests in all directories */
};

static ds_status take_ids(struct tidy *t, const char *root)
{
    size_t count;
    char **names;

    DS_TRY(directory_list(t->fs, root, "manifests", &names, &count));
    struct ds_manifest_id *larger = realloc(t->ids, (t->count + count + 1) * sizeof *larger);
    if (larger)
        t->ids = larger;
    for (size_t i = 0; i < count && larger; i++)
        t->count += (size_t)directory_manifest_parse(names[i], ".json", &t->ids[t->count]);
    free(names);
    return larger ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to tidy it", root);
}

static int is_needed(const struct tidy *t, const struct base *base)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->ids[i].epoch < base->epoch && base_is_behind(base, &t->ids[i]) &&
            !base_is_behind(&t->base, &t->ids[i]))
            return 1;
    return 0;
}

/* One that does not read stays: it may read another time. */
static int may_base_go(const struct tidy *t, const char *root, uint64_t epoch)
{
    char past[DS_CHECKPOINT_PAST_BYTES];
    struct base base;

    return base_read(t->fs, root, epoch, &base, NULL, NULL, past) == DS_OK && !is_needed(t, &base);
}

static int is_rest_of_epoch(const struct tidy *t, const char *root, const char *name)
{
    uint64_t epoch;

    if (directory_epoch_parse(name, "", &epoch) ||
        directory_epoch_parse(name, BASE_ENDING ".tmp", &epoch))
        return epoch < t->epoch;
    return directory_epoch_parse(name, BASE_ENDING, &epoch) && epoch < t->epoch &&
           may_base_go(t, root, epoch);
}

/* Whoever wrote it is fenced off. */
static int is_rest_of_manifest(const struct tidy *t, const char *root, const char *name)
{
    struct ds_manifest_id id;

    (void)root;
    return directory_manifest_parse(name, ".json.tmp", &id) && id.epoch < t->epoch;
}

/* RUN.json is there. */
static int is_rest_of_run(const struct tidy *t, const char *root, const char *name)
{
    (void)t, (void)root;
    return directory_is_new_run(name);
}

static ds_status sweep(const struct tidy *t, const char *root, const char *folder,
                       int (*is_rest)(const struct tidy *t, const char *root, const char *name))
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names;
    size_t count;

    DS_TRY(directory_list(t->fs, root, folder, &names, &count));
    for (size_t i = 0; i < count; i++)
        if (is_rest(t, root, names[i])) {
            directory_path(root, folder, names[i], path);
            (void)ds_fs_unlink(t->fs, path); /* or the next launch does */
        }
    free(names);
    return DS_OK;
}

/* Only where our own base reads is said what those that go have said. */
static ds_status tidy_root(struct tidy *t, const char *root)
{
    char past[DS_CHECKPOINT_PAST_BYTES];

    DS_TRY(base_read(t->fs, root, t->epoch, &t->base, NULL, NULL, past));
    DS_TRY(sweep(t, root, "", is_rest_of_run));
    DS_TRY(sweep(t, root, "epochs", is_rest_of_epoch));
    return sweep(t, root, "manifests", is_rest_of_manifest);
}

static ds_status tidy(struct tidy *t, const struct ds_checkpoint_dir *dir)
{
    DS_TRY(take_ids(t, dir->root));
    if (dir->mirror)
        DS_TRY(take_ids(t, dir->mirror->root));
    DS_TRY(tidy_root(t, dir->root));
    return dir->mirror ? tidy_root(t, dir->mirror->root) : DS_OK;
}

ds_status ds_checkpoint_tidy(const struct ds_checkpoint_dir *dir)
{
    struct tidy t = {.fs = dir->fs, .epoch = dir->epoch};

    DS_ASSERT(dir->epoch > 0);
    DS_TRY(ds_checkpoint_check_fence(dir));
    if (tidy(&t, dir) != DS_OK)
        ds_warn("%s: what earlier launches have left there stays", dir->root);
    free(t.ids);
    return DS_OK;
}
