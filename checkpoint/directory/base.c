/* base.c - what each epoch goes on from, what data it leaves out and what was tried: a file an epoch, written once. */
#include "base.h"

#include "directory.h"

#include "format/document.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BASE_FORMAT    "{\"format\":\"dstrain base\",\"version\":1,\n\"run\":"
#define BASE_BYTES_MAX (64u << 10)

/* ---- bases as text */

static void base_path(const char *root, uint64_t epoch, char *to)
{
    char name[DIRECTORY_NAME_BYTES];

    directory_epoch_name(epoch, BASE_ENDING, name);
    directory_path(root, "epochs", name, to);
}

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
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct text text = {.at = malloc(BASE_BYTES_MAX), .capacity = BASE_BYTES_MAX};

    DS_ASSERT(dir->epoch > 0 && skip_count <= DS_CHECKPOINT_SKIPS_MAX &&
              strlen(past) < DS_CHECKPOINT_PAST_BYTES);
    if (!text.at)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the base of an epoch");
    put_base(&text, dir, base, skips, skip_count, past);
    DS_ASSERT(!text.is_full);
    base_path(dir->root, dir->epoch, path);
    const int code = directory_replace(dir->fs, path, text.at, text.bytes);
    free(text.at);
    return code == 0
               ? DS_OK
               : directory_refuse(dir->root, "what this launch goes on from is not said", code);
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

ds_status base_read(struct ds_fs *fs, const char *root, uint64_t epoch, struct base *out,
                    struct ds_checkpoint_skip *skips, uint32_t *skip_count,
                    char past[DS_CHECKPOINT_PAST_BYTES])
{
    char path[DS_CHECKPOINT_PATH_BYTES], ignored[DS_CHECKPOINT_PAST_BYTES], *text = NULL;
    struct base whole;
    size_t bytes = 0;

    base_path(root, epoch, path);
    DS_TRY(ds_fs_read_own_file(fs, path, BASE_BYTES_MAX, &text, &bytes));
    /* all of it first: what reads in part sets nothing */
    ds_status st = parse_base(path, text, bytes, epoch, &whole, NULL, NULL, ignored);
    if (st == DS_OK)
        st = parse_base(path, text, bytes, epoch, out, skips, skip_count, past);
    free(text);
    return st;
}

/* ---- what they say */

int base_is_behind(const struct base *base, const struct ds_manifest_id *id)
{
    if (!base->has_id || id->step != base->id.step)
        return !base->has_id || id->step > base->id.step;
    return id->epoch > base->id.epoch;
}

/* The newest epoch above `least` and below `below` that has a base; 0: there is none. */
static uint64_t newest_base(char *const *names, size_t count, uint64_t least, uint64_t below)
{
    uint64_t best = least, epoch;

    for (size_t i = 0; i < count; i++)
        if (directory_epoch_parse(names[i], BASE_ENDING, &epoch) && epoch < below && epoch > best)
            best = epoch;
    return best > least ? best : 0;
}

/* The newest base in one directory that reads, if its epoch is above *newest. One that cannot be read was never
 * finished, or is damaged: the one before it says what held until then. */
static ds_status read_rollbacks(struct ds_fs *fs, const char *root,
                                struct ds_checkpoint_skip *skips, uint32_t *count,
                                char past[DS_CHECKPOINT_PAST_BYTES], uint64_t *newest)
{
    ds_status st = DS_ERR_DATA;
    uint64_t epoch = UINT64_MAX;
    struct base base;
    size_t name_count;
    char **names;

    DS_TRY(directory_list(fs, root, "epochs", &names, &name_count));
    while (st != DS_OK && st != DS_ERR_NO_MEMORY) {
        epoch = newest_base(names, name_count, *newest, epoch);
        if (epoch == 0)
            break;
        st = base_read(fs, root, epoch, &base, skips, count, past);
        *newest = st == DS_OK ? epoch : *newest;
    }
    free(names);
    return st == DS_ERR_NO_MEMORY ? st : DS_OK;
}

ds_status ds_checkpoint_read_rollbacks(struct ds_fs *fs, const char *root, const char *mirror,
                                       struct ds_checkpoint_skip *skips, uint32_t *count,
                                       char past[DS_CHECKPOINT_PAST_BYTES])
{
    uint64_t newest = 0;

    *count = 0;
    past[0] = '\0';
    DS_TRY(read_rollbacks(fs, root, skips, count, past, &newest));
    if (!mirror)
        return DS_OK;
    const ds_status st = read_rollbacks(fs, mirror, skips, count, past, &newest);
    if (!directory_is_unlisted(st))
        return st;
    ds_warn("%s: what is left out is not looked for there", mirror);
    return DS_OK;
}
