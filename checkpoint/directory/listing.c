/* listing.c - what each epoch goes on from, and which manifests may be loaded by that. */
#include "directory.h"

#include "format/document.h"

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
                     uint32_t skip_count, const char *past)
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
    text_put(text, "]");
    if (past[0]) {
        text_put(text, ",\n\"past\":");
        document_put_string(text, past);
    }
    text_put(text, "}\n");
    document_seal(text);
}

static ds_status write_base(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *base,
                            const struct ds_checkpoint_skip *skips, uint32_t skip_count,
                            const char *past)
{
    char name[DIRECTORY_NAME_BYTES], path[DS_CHECKPOINT_PATH_BYTES];
    struct text text = {.at = malloc(BASE_BYTES_MAX), .capacity = BASE_BYTES_MAX};

    DS_ASSERT(dir->epoch > 0 && skip_count <= DS_CHECKPOINT_SKIPS_MAX &&
              strlen(past) < DS_CHECKPOINT_PAST_BYTES);
    if (!text.at)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the base of an epoch");
    put_base(&text, dir, base, skips, skip_count, past);
    DS_ASSERT(!text.is_full);
    snprintf(name, sizeof name, "E-%016" PRIu64 ".base.json", dir->epoch);
    directory_path(dir->root, "epochs", name, path);
    ds_status st = ds_fs_write_file(dir->fs, path, text.at, text.bytes);
    free(text.at);
    return st;
}

ds_status ds_checkpoint_write_base(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *base,
                                   const struct ds_checkpoint_skip *skips, uint32_t skip_count,
                                   const char *past)
{
    DS_TRY(write_base(dir, base, skips, skip_count, past));
    if (dir->mirror && write_base(dir->mirror, base, skips, skip_count, past) != DS_OK)
        ds_warn("%s: where this launch goes on from is not said there", dir->mirror->root);
    return DS_OK;
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

/* `to` may be NULL: nobody wants them. */
static ds_status parse_skips(struct document *doc, struct ds_checkpoint_skip *to,
                             uint32_t *to_count)
{
    struct ds_checkpoint_skip skip;
    uint64_t count = 0;

    DS_TRY(document_keyed(doc, ",\n\"skip_count\":", DS_CHECKPOINT_SKIPS_MAX, &count));
    DS_TRY(document_expect(doc, ",\"skips\":["));
    for (uint64_t i = 0; i < count; i++) {
        DS_TRY(document_keyed(doc, i ? ",[" : "[", UINT64_MAX, &skip.begin));
        DS_TRY(document_keyed(doc, ",", UINT64_MAX, &skip.end));
        DS_TRY(document_expect(doc, "]"));
        if (to)
            to[i] = skip;
    }
    if (to)
        *to_count = (uint32_t)count;
    return document_expect(doc, "]");
}

/* Where nobody has gone back there is none, nor where an older version wrote. */
static ds_status parse_past(struct document *doc, char to[DS_CHECKPOINT_PAST_BYTES])
{
    to[0] = '\0';
    if (document_take(doc, ",\n\"past\":"))
        DS_TRY(document_string(doc, to, DS_CHECKPOINT_PAST_BYTES));
    return document_expect(doc, "}\n");
}

static ds_status parse_base(const char *path, const char *text, size_t bytes, uint64_t epoch,
                            struct base *out, struct ds_checkpoint_skip *skips,
                            uint32_t *skip_count, char past[DS_CHECKPOINT_PAST_BYTES])
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
    DS_TRY(parse_skips(&doc, skips, skip_count));
    DS_TRY(parse_past(&doc, past));
    DS_TRY(document_end(&doc));
    if (base.epoch != epoch)
        return document_refuse(&doc, "the base of another epoch");
    *out = base;
    return DS_OK;
}

/* ---- the list */

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
static ds_status read_base(struct listing *l, const char *name, uint64_t epoch)
{
    char path[DS_CHECKPOINT_PATH_BYTES], past[DS_CHECKPOINT_PAST_BYTES], *text = NULL;
    size_t bytes = 0;

    directory_path(l->root, "epochs", name, path);
    ds_status st = ds_fs_read_file(l->fs, path, BASE_BYTES_MAX, &text, &bytes);
    if (st == DS_OK)
        st = parse_base(path, text, bytes, epoch, &l->bases[l->base_count], NULL, NULL, past);
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

    DS_TRY(read_names(l, "epochs", &names, &count));
    struct base *larger = realloc(l->bases, (l->base_count + count + 1) * sizeof *larger);
    if (larger)
        l->bases = larger;
    else
        st = ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its epochs", l->root);
    for (size_t i = 0; i < count && st == DS_OK; i++)
        if (directory_epoch_parse(names[i], ".base.json", &epoch) && epoch > oldest)
            st = read_base(l, names[i], epoch);
    free(names);
    return st;
}

/* The newest base in one directory that reads, if its epoch is above *newest. One that cannot be read was never
 * finished, or is damaged: the one before it says what held until then. */
static ds_status read_rollbacks(struct listing *l, struct ds_checkpoint_skip *skips,
                                uint32_t *count, char past[DS_CHECKPOINT_PAST_BYTES],
                                uint64_t *newest)
{
    const uint64_t least = *newest;
    uint64_t below = UINT64_MAX;
    ds_status st = DS_ERR_DATA;
    size_t name_count;
    char **names;

    DS_TRY(read_names(l, "epochs", &names, &name_count));
    while (st != DS_OK && st != DS_ERR_NO_MEMORY) {
        char path[DS_CHECKPOINT_PATH_BYTES], *text = NULL;
        const char *name = NULL;
        uint64_t best = least, epoch;
        struct base base;
        size_t bytes = 0;

        for (size_t i = 0; i < name_count; i++)
            if (directory_epoch_parse(names[i], ".base.json", &epoch) && epoch < below &&
                epoch > best) {
                best = epoch;
                name = names[i];
            }
        if (!name)
            break;
        directory_path(l->root, "epochs", name, path);
        st = ds_fs_read_file(l->fs, path, BASE_BYTES_MAX, &text, &bytes);
        if (st == DS_OK)
            st = parse_base(path, text, bytes, best, &base, skips, count, past);
        free(text);
        *newest = st == DS_OK ? best : *newest;
        below = best;
    }
    free(names);
    return st == DS_ERR_NO_MEMORY ? st : DS_OK;
}

ds_status ds_checkpoint_read_rollbacks(struct ds_fs *fs, const char *root, const char *mirror,
                                       struct ds_checkpoint_skip *skips, uint32_t *count,
                                       char past[DS_CHECKPOINT_PAST_BYTES])
{
    struct listing l = {.fs = fs, .root = root};
    uint64_t newest = 0;

    *count = 0;
    past[0] = '\0';
    DS_TRY(read_rollbacks(&l, skips, count, past, &newest));
    if (!mirror)
        return DS_OK;
    l.root = mirror;
    const ds_status st = read_rollbacks(&l, skips, count, past, &newest);
    if (st == DS_ERR_IO)
        ds_warn("%s: what is left out is not looked for there", mirror);
    return st == DS_ERR_IO ? DS_OK : st;
}

/* Newer than `base`: where training went on from there, it has never been. */
static int is_behind(const struct base *base, const struct ds_manifest_id *id)
{
    if (!base->has_id || id->step != base->id.step)
        return !base->has_id || id->step > base->id.step;
    return id->epoch > base->id.epoch;
}

static enum ds_checkpoint_standing standing_of(const struct listing *l,
                                               const struct ds_manifest_id *id)
{
    for (size_t i = 0; i < l->buried_count; i++)
        if (ds_manifest_id_compare(&l->buried[i], id) == 0)
            return DS_CHECKPOINT_BURIED;
    for (size_t i = 0; i < l->base_count; i++)
        if (l->bases[i].epoch > id->epoch && is_behind(&l->bases[i], id))
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

    DS_TRY(read_names(l, "manifests", &names, &count));
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

        if (st != DS_ERR_IO || i == 0) {
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

        if (st != DS_ERR_IO || i == 0)
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

static ds_status bury(const struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id,
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

ds_status ds_checkpoint_bury(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id,
                             const char *why)
{
    DS_TRY(bury(dir, id, why));
    if (dir->mirror && bury(dir->mirror, id, why) != DS_OK)
        ds_warn("%s: that a checkpoint is bad is not said there", dir->mirror->root);
    return DS_OK;
}
