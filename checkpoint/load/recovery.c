/* recovery.c - the newest checkpoint that verifies. Rank 0 has the list and reads manifests; every rank parses what
 * it is told and looks at its share of the packs. Nothing on the disk changes: a checkpoint that fails is passed
 * over, and the base that the launch writes later says so for ever. */
#include "directory/directory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ds_recovery {
    /* owns */
    char *root;
    char mirror[DS_CHECKPOINT_PATH_BYTES]; /* "": none */
    struct ds_checkpoint_list list;        /* rank 0's */
    /* borrows */
    struct ds_comm *control;
    struct ds_fs *fs;
    uint8_t run[16];
    uint64_t step_max;
    size_t next;      /* of the list */
    uint32_t root_at; /* of the last one: 1: in the mirror */
    int has_seen_any;
};

/* What rank 0 tells of the next one. */
struct told {
    int32_t st;
    int32_t is_there;
    uint64_t bytes, root_at;
    struct ds_manifest_id id;
    uint8_t run[16];
};

ds_status ds_recovery_open(struct ds_comm *control, struct ds_fs *fs, const char *root,
                           const struct ds_checkpoint_dir *dir, uint64_t step_max,
                           struct ds_recovery **out)
{
    struct ds_recovery *recovery = calloc(1, sizeof *recovery);
    char *copy = strdup(root);
    ds_status st = recovery && copy ? DS_OK : DS_ERR_NO_MEMORY;

    if (st == DS_OK) {
        *recovery =
            (struct ds_recovery){.root = copy, .control = control, .fs = fs, .step_max = step_max};
        if (control->rank == 0) {
            DS_ASSERT(dir);
            memcpy(recovery->run, dir->run, sizeof recovery->run);
            if (dir->mirror)
                snprintf(recovery->mirror, sizeof recovery->mirror, "%s", dir->mirror->root);
            st = ds_checkpoint_list_both(fs, root, dir->mirror ? recovery->mirror : NULL,
                                         &recovery->list);
        }
    } else {
        st = ds_fail(st, "no memory to look for a checkpoint");
        free(copy);
        free(recovery);
        recovery = NULL;
    }
    st = ds_comm_agreed(control, st);
    if (st == DS_OK)
        st = ds_comm_broadcast(control, recovery->mirror, sizeof recovery->mirror, 0, NULL);
    if (st != DS_OK) {
        ds_recovery_close(recovery);
        return st;
    }
    *out = recovery;
    return DS_OK;
}

const char *ds_recovery_root(const struct ds_recovery *recovery)
{
    return recovery->root_at == 0 ? recovery->root : recovery->mirror;
}

void ds_recovery_close(struct ds_recovery *recovery)
{
    if (!recovery)
        return;
    ds_checkpoint_list_fini(&recovery->list);
    free(recovery->root);
    free(recovery);
}

/* ---- one candidate */

/* Rank 0: the next entry that may be loaded. */
static const struct ds_checkpoint_entry *next_entry(struct ds_recovery *r)
{
    while (r->next < r->list.count) {
        const struct ds_checkpoint_entry *entry = &r->list.entries[r->next++];

        r->has_seen_any |= entry->standing != DS_CHECKPOINT_OVERRULED;
        if (entry->standing == DS_CHECKPOINT_GOOD && entry->id.step <= r->step_max)
            return entry;
    }
    return NULL;
}

/* Rank 0: reads the text; a file that is not readable is one more that does not verify. */
static struct told fetch(struct ds_recovery *r, char **text)
{
    const struct ds_checkpoint_entry *entry = next_entry(r);
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct told told = {.is_there = entry != NULL};
    size_t bytes = 0;

    memcpy(told.run, r->run, sizeof told.run);
    if (!entry) {
        told.st = r->has_seen_any ? DS_ERR_NO_CHECKPOINT : DS_OK;
        return told;
    }
    told.id = entry->id;
    told.root_at = entry->root;
    ds_checkpoint_manifest_path(entry->root == 0 ? r->root : r->mirror, &entry->id, path);
    told.st = (int32_t)ds_fs_read_own_file(r->fs, path, DS_MANIFEST_BYTES_MAX, text, &bytes);
    told.bytes = bytes;
    if (told.st == DS_ERR_DATA) /* not there any more, or larger than one can be */
        told.st = DS_ERR_CORRUPT;
    return told;
}

static ds_status parse(const struct ds_recovery *r, const struct told *told, const char *text,
                       struct ds_manifest *out)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_manifest manifest;

    ds_checkpoint_manifest_path(ds_recovery_root(r), &told->id, path);
    DS_TRY(ds_manifest_parse(path, text, told->bytes, &manifest));
    ds_status st = DS_OK;
    if (ds_manifest_id_compare(&manifest.id, &told->id) != 0)
        st = ds_fail(DS_ERR_CORRUPT, "%s: another checkpoint's manifest", path);
    else if (memcmp(manifest.run, told->run, sizeof told->run) != 0)
        st = ds_fail(DS_ERR_CORRUPT, "%s: a checkpoint of another run", path);
    if (st != DS_OK) {
        ds_manifest_fini(&manifest);
        return st;
    }
    *out = manifest;
    return DS_OK;
}

/* collective: what rank 0 says of a text all would say */
static ds_status parse_together(const struct ds_recovery *r, const struct told *told,
                                const char *text, struct ds_manifest *out)
{
    const int is_leader = r->control->rank == 0;

    DS_TRY(ds_comm_agreed(r->control, is_leader ? parse(r, told, text, out) : DS_OK));
    return is_leader ? DS_OK : parse(r, told, text, out);
}

static int is_passed_over(ds_status st)
{
    return st == DS_ERR_CORRUPT || st == DS_ERR_IO;
}

/* Closes the pack. What no state comes from may be damaged, too: it is loaded, and said. */
static ds_status look_around(struct ds_manifest_pack *at, struct ds_pack *pack)
{
    const char *flaw = NULL;
    const ds_status st = ds_pack_find_flaw(pack, &flaw);

    if (st == DS_OK && flaw)
        ds_warn("%s: %s; no state lies there, and no new checkpoint refers to that file",
                ds_pack_path(pack), flaw);
    at->is_damaged = flaw || st != DS_OK;
    ds_pack_close(pack);
    return st == DS_ERR_IO ? DS_OK : st;
}

/* This rank's share. One that others refer to may be damaged: what they need of it has another place, and the sum of
 * every chunk stands in their own tables. */
static ds_status verify_packs(const struct ds_recovery *r, struct ds_manifest *manifest)
{
    for (uint32_t i = r->control->rank; i < manifest->pack_count; i += r->control->size) {
        struct ds_pack *pack = NULL;
        const ds_status st =
            ds_checkpoint_open_pack(r->fs, ds_recovery_root(r), manifest, i, &pack);

        if (ds_checkpoint_owns(manifest, &manifest->packs[i].pack.id) || !is_passed_over(st))
            DS_TRY(st);
        manifest->packs[i].is_damaged = st != DS_OK;
        if (st == DS_OK)
            DS_TRY(look_around(&manifest->packs[i], pack));
    }
    return DS_OK;
}

/* collective: the text of rank 0 on all. */
static ds_status share_text(const struct ds_recovery *r, uint64_t bytes, char **text)
{
    if (r->control->rank != 0)
        *text = malloc(bytes + 1);
    DS_TRY(ds_comm_agreed(r->control, *text ? DS_OK : DS_ERR_NO_MEMORY));
    return ds_comm_broadcast(r->control, *text, bytes, 0, NULL);
}

/* collective: DS_ERR_CORRUPT and DS_ERR_IO say that this one does not verify; others end the search. */
static ds_status try_one(const struct ds_recovery *r, const struct told *told, char **text,
                         struct ds_manifest *out)
{
    struct ds_manifest manifest = {0};

    DS_TRY(share_text(r, told->bytes, text));
    ds_status st = parse_together(r, told, *text, &manifest);
    if (st == DS_OK)
        st = verify_packs(r, &manifest);
    st = ds_comm_agreed(r->control, st);
    if (st != DS_OK) {
        ds_manifest_fini(&manifest);
        return st;
    }
    *out = manifest;
    return DS_OK;
}

ds_status ds_recovery_next(struct ds_recovery *r, struct ds_manifest *out, int *found)
{
    ds_status st = DS_ERR_CORRUPT;

    *found = 0;
    while (is_passed_over(st)) {
        struct told told = {0};
        char *text = NULL;

        if (r->control->rank == 0)
            told = fetch(r, &text);
        st = ds_comm_broadcast(r->control, &told, sizeof told, 0, NULL);
        r->root_at = (uint32_t)told.root_at;
        if (st == DS_OK)
            st = (ds_status)told.st;
        if (st == DS_OK && told.is_there)
            st = try_one(r, &told, &text, out);
        *found = st == DS_OK && told.is_there;
        free(text);
    }
    if (st == DS_ERR_NO_CHECKPOINT && r->control->rank == 0)
        return ds_fail(st,
                       "%s: none of the checkpoints verifies; 'dstrain verify' says why, and "
                       "checkpoint.resume = none begins again",
                       r->root);
    return st;
}
