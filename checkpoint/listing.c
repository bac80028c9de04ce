/* listing.c - what each epoch goes on from, and which manifests may be loaded by that. */
#include "directory.h"

#include "document.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE_FORMAT    "{\"format\":\"dstrain base\",\"version\":1,\n\"run\":"
#define BASE_BYTES_MAX (64u << 10)

/* What an epoch goes on from. */
struct base {
    uint64_t epoch;
    struct ds_manifest_id id;
    int has_id; /* 0: from the beginning */
};

/* ---- bases as text */

static void put_base(struct text *text, const struct ds_checkpoint_dir *dir,
                     const struct ds_manifest_id *base, const struct ds_checkpoint_skip *skips,
                     uint32_t skip_count)
{
    text_put(text, BASE_FORMAT);
    document_put_hex(text, dir->run);
    text_put(text, ",\"nonce\":");
    document_put_hex(text, dir->nonce);
    text_put(text, ",\n\"epoch\":%" PRIu64 ",\"base\":", dir->epoch);
    if (base)
        text_put(text, "{\"epoch\":%" PRIu64 ",\"step\":%" PRIu64 "}", base->epoch, base->step);
    else
        text_put(text, "null");
    text_put(text, ",\n\"skip_count\":%u,\"skips\":[", skip_count);
    for (uint32_t i = 0; i < skip_count; i++)
        text_put(text, "%s[%" PRIu64 ",%" PRIu64 "]", i ? "," : "", skips[i].begin, skips[i].end);
    text_put(text, "]}\n");
    document_seal(text);
}

ds_status ds_checkpoint_write_base(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *base,
                                   const struct ds_checkpoint_skip *skips, uint32_t skip_count)
{
    char name[DIRECTORY_NAME_BYTES], path[DS_CHECKPOINT_PATH_BYTES];
    struct text text = {.at = malloc(BASE_BYTES_MAX), .capacity = BASE_BYTES_MAX};

    DS_ASSERT(dir->epoch > 0 && skip_count <= DS_CHECKPOINT_SKIPS_MAX);
    if (!text.at)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the base of an epoch");
    put_base(&text, dir, base, skips, skip_count);
    DS_ASSERT(!text.is_full);
    snprintf(name, sizeof name, "E-%016" PRIu64 ".base.json", dir->epoch);
    directory_path(dir->root, "epochs", name, path);
    ds_status st = ds_fs_write_file(dir->fs, path, text.at, text.bytes);
    free(text.at);
    return st;
}

static ds_status parse_base_id(struct document *doc, struct base *out)
{
    out->has_id = !document_take(doc, "null");
    if (!out->has_id)
        return DS_OK;
    DS_TRY(document_keyed(doc, "{\"epoch\":", UINT64_MAX, &out->id.epoch));
    DS_TRY(document_keyed(doc, ",\"step\":", UINT64_MAX, &out->id.step));
    return document_expect(doc, "}");
}

static ds_status parse_skips(struct document *doc)
{
    uint64_t count = 0, at = 0;

    DS_TRY(document_keyed(doc, ",\n\"skip_count\":", DS_CHECKPOINT_SKIPS_MAX, &count));
    DS_TRY(document_expect(doc, ",\"skips\":["));
    for (uint64_t i = 0; i < count; i++) {
        DS_TRY(document_keyed(doc, i ? ",[" : "[", UINT64_MAX, &at));
        DS_TRY(document_keyed(doc, ",", UINT64_MAX, &at));
        DS_TRY(document_expect(doc, "]"));
    }
    return document_expect(doc, "]}\n");
}

static ds_status parse_base(const char *path, const char *text, size_t bytes, uint64_t epoch,
                            struct base *out)
{
    struct base base = {0};
    uint8_t run[16];
    size_t body_bytes = 0;

    DS_TRY(document_check(path, text, bytes, &body_bytes));
    struct document doc = {path, text, text, text + body_bytes};
    DS_TRY(document_expect(&doc, BASE_FORMAT));
    DS_TRY(document_hex(&doc, run));
    DS_TRY(document_expect(&doc, ",\"nonce\":"));
    DS_TRY(document_hex(&doc, run));
    DS_TRY(document_keyed(&doc, ",\n\"epoch\":", UINT64_MAX, &base.epoch));
    DS_TRY(document_expect(&doc, ",\"base\":"));
    DS_TRY(parse_base_id(&doc, &base));
    DS_TRY(parse_skips(&doc));
    DS_TRY(document_end(&doc));
    if (base.epoch != epoch)
        return document_refuse(&doc, "the base of another epoch");
    *out = base;
    return DS_OK;
}

/* ---- the list */

struct listing {
    struct ds_fs *fs;
    const char *root;
    struct ds_checkpoint_list list;
    struct base *bases;
    size_t base_count;
};

/* One that cannot be read constrains nothing: the manifests of its epoch, which come first, say more. */
static ds_status read_base(struct listing *l, const char *name, uint64_t epoch)
{
    char path[DS_CHECKPOINT_PATH_BYTES], *text = NULL;
    size_t bytes = 0;

    directory_path(l->root, "epochs", name, path);
    ds_status st = ds_fs_read_file(l->fs, path, BASE_BYTES_MAX, &text, &bytes);
    if (st == DS_OK)
        st = parse_base(path, text, bytes, epoch, &l->bases[l->base_count]);
    free(text);
    l->base_count += st == DS_OK;
    return st == DS_ERR_NO_MEMORY ? st : DS_OK;
}

static ds_status read_names(const struct listing *l, const char *folder, char ***names,
                            size_t *count)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    directory_path(l->root, "", folder, path);
    const int code = ds_fs_readdir(l->fs, path, names, count);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "list %s: %s", path, strerror(-code));
    return DS_OK;
}

/* Of an epoch that all manifests are newer than, nothing rests on the base. */
static uint64_t oldest_epoch(char *const *manifests, size_t count)
{
    uint64_t oldest = UINT64_MAX;
    struct ds_manifest_id id;

    for (size_t i = 0; i < count; i++)
        if (directory_manifest_parse(manifests[i], ".json", &id) && id.epoch < oldest)
            oldest = id.epoch;
    return oldest;
}

static ds_status take_bases(struct listing *l, uint64_t oldest)
{
    ds_status st = DS_OK;
    char **names;
    uint64_t epoch;
    size_t count;

    DS_TRY(read_names(l, "epochs", &names, &count));
    l->bases = calloc(count + 1, sizeof *l->bases);
    if (!l->bases)
        st = ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its epochs", l->root);
    for (size_t i = 0; i < count && st == DS_OK; i++)
        if (directory_epoch_parse(names[i], ".base.json", &epoch) && epoch > oldest)
            st = read_base(l, names[i], epoch);
    free(names);
    return st;
}

static int is_listed(char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return 1;
    return 0;
}

/* Newer than `base`: where training went on from there, it has never been. */
static int is_behind(const struct base *base, const struct ds_manifest_id *id)
{
    if (!base->has_id || id->step != base->id.step)
        return !base->has_id || id->step > base->id.step;
    return id->epoch > base->id.epoch;
}

static enum ds_checkpoint_standing standing_of(const struct listing *l,
                                               const struct ds_manifest_id *id, char *const *names,
                                               size_t count)
{
    char bad[DIRECTORY_NAME_BYTES];

    directory_manifest_name(id, ".bad", bad);
    if (is_listed(names, count, bad))
        return DS_CHECKPOINT_BURIED;
    for (size_t i = 0; i < l->base_count; i++)
        if (l->bases[i].epoch > id->epoch && is_behind(&l->bases[i], id))
            return DS_CHECKPOINT_OVERRULED;
    return DS_CHECKPOINT_GOOD;
}

static int by_age(const void *a, const void *b)
{
    return ds_manifest_id_compare(&((const struct ds_checkpoint_entry *)b)->id,
                                  &((const struct ds_checkpoint_entry *)a)->id);
}

static ds_status take_manifests(struct listing *l, char *const *names, size_t count)
{
    struct ds_checkpoint_list *list = &l->list;
    struct ds_manifest_id id;

    DS_TRY(take_bases(l, oldest_epoch(names, count)));
    list->entries = calloc(count + 1, sizeof *list->entries);
    if (!list->entries)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its list", l->root);
    for (size_t i = 0; i < count; i++)
        if (directory_manifest_parse(names[i], ".json", &id))
            list->entries[list->count++] =
                (struct ds_checkpoint_entry){id, standing_of(l, &id, names, count)};
    qsort(list->entries, list->count, sizeof *list->entries, by_age);
    return DS_OK;
}

ds_status ds_checkpoint_list_make(struct ds_fs *fs, const char *root,
                                  struct ds_checkpoint_list *out)
{
    struct listing l = {.fs = fs, .root = root};
    char **names;
    size_t count;

    DS_TRY(read_names(&l, "manifests", &names, &count));
    ds_status st = take_manifests(&l, names, count);
    free(names);
    free(l.bases);
    if (st != DS_OK) {
        ds_checkpoint_list_fini(&l.list);
        return st;
    }
    *out = l.list;
    return DS_OK;
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
    if (ds_fs_read_file(fs, path, DS_MANIFEST_BYTES_MAX, &text, &bytes) != DS_OK)
        return ds_fail(DS_ERR_IO, "%s: cannot be read", path);
    ds_status st = ds_manifest_parse(path, text, bytes, &manifest);
    free(text);
    DS_TRY(st);
    if (ds_manifest_id_compare(&manifest.id, id) != 0) {
        ds_manifest_fini(&manifest);
        return ds_fail(DS_ERR_CORRUPT, "%s: another checkpoint's manifest", path);
    }
    *out = manifest;
    return DS_OK;
}

ds_status ds_checkpoint_bury(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id,
                             const char *why)
{
    char name[DIRECTORY_NAME_BYTES], path[DS_CHECKPOINT_PATH_BYTES];

    directory_manifest_name(id, ".bad", name);
    directory_path(dir->root, "manifests", name, path);
    int code = directory_create(dir->fs, path, why, strlen(why));
    if (code == 0 || code == -EEXIST)
        code = ds_fs_fsync_parent(dir->fs, path);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "make %s: %s", path, strerror(-code));
    return DS_OK;
}
