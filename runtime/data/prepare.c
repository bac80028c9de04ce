/* prepare.c - text into a token shard: each file a document, bos, its bytes, eos.
 *
 * Streamed in two passes, since the header comes first and holds the checksum: one reads and sums, one
 * reads and writes. The shard is named after its source and fingerprint, so what is there and opens
 * is what would be made. */
#include "corpus.h"

#include "dstrain/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PIECE_BYTES = 1 << 20, PATH_BYTES = 4352 };

struct preparing {
    const struct ds_prepare_options *options;
    struct corpus corpus;
    /* owns */
    uint8_t *bytes;   /* a piece of text */
    uint16_t *tokens; /* the same as tokens, with bos and eos around it */
    uint64_t *documents;
    XXH3_state_t *sum;
    struct ds_safetensors_writer *writer; /* second pass */
    uint64_t written, done_bytes;
};

enum { ITEM_TOKENS, ITEM_DOCUMENTS };

/* ---- the walk over all tokens, made twice */

static ds_status give(struct preparing *p, const uint16_t *tokens, size_t count)
{
    if (!p->writer) {
        XXH3_64bits_update(p->sum, tokens, count * sizeof *tokens);
        return DS_OK;
    }
    DS_TRY(ds_safetensors_write(p->writer, ITEM_TOKENS, p->written, count, tokens));
    p->written += count;
    return DS_OK;
}

static ds_status walk_piece(struct preparing *p, size_t bytes, int is_first, int is_last)
{
    size_t count = 0;

    if (is_first)
        p->tokens[count++] = DS_BYTE_BOS;
    for (size_t i = 0; i < bytes; i++)
        p->tokens[count++] = p->bytes[i];
    if (is_last)
        p->tokens[count++] = DS_BYTE_EOS;
    p->done_bytes += bytes;
    if (p->options->progress)
        p->options->progress(p->options->user, p->done_bytes, 2 * p->corpus.bytes);
    return give(p, p->tokens, count);
}

static ds_status walk_open_file(struct preparing *p, const struct corpus_file *file, int handle)
{
    for (uint64_t at = 0; at < file->bytes;) {
        const uint64_t left = file->bytes - at;
        const size_t bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        int code = ds_fs_read_all(p->options->fs, handle, p->bytes, bytes, at);
        if (code < 0)
            return ds_fail(DS_ERR_DATA, "%s: cannot read byte %llu: %s", file->path,
                           (unsigned long long)at, strerror(-code));
        DS_TRY(walk_piece(p, bytes, at == 0, at + bytes == file->bytes));
        at += bytes;
    }
    return DS_OK;
}

static ds_status walk(struct preparing *p)
{
    struct ds_fs *fs = p->options->fs;

    for (size_t i = 0; i < p->corpus.count; i++) {
        const struct corpus_file *file = &p->corpus.files[i];
        if (file->bytes == 0)
            continue;
        int handle = ds_fs_open(fs, file->path, DS_FS_READ, 0);
        if (handle < 0)
            return ds_fail(DS_ERR_DATA, "%s: cannot read this text: %s", file->path,
                           strerror(-handle));
        ds_status st = walk_open_file(p, file, handle);
        (void)ds_fs_close(fs, handle);
        DS_TRY(st);
    }
    return DS_OK;
}

/* ---- */

static uint64_t token_count(const struct preparing *p)
{
    return p->corpus.bytes + 2 * p->corpus.count;
}

static void place_documents(struct preparing *p)
{
    uint64_t at = 0;

    for (size_t i = 0; i < p->corpus.count; i++) {
        p->documents[i] = at;
        at += p->corpus.files[i].bytes + 2;
    }
    p->documents[p->corpus.count] = at;
}

static ds_status make_shard(struct preparing *p, const char *path)
{
    const struct ds_safetensors_item items[] = {
        [ITEM_TOKENS] = {"tokens", DS_U16, 1, {token_count(p)}},
        [ITEM_DOCUMENTS] = {"documents", DS_U64, 1, {p->corpus.count + 1}},
    };
    char checksum[32];
    ds_status st;

    XXH3_64bits_reset(p->sum);
    DS_TRY(walk(p));
    snprintf(checksum, sizeof checksum, "%016llx", (unsigned long long)XXH3_64bits_digest(p->sum));
    const char *const metadata[] = {"checksum", checksum, "tokenizer", "bytes", NULL};
    DS_TRY(ds_safetensors_create(p->options->fs, path, items, 2, metadata, &p->writer));
    place_documents(p);
    DS_TRY_GOTO(
        st, ds_safetensors_write(p->writer, ITEM_DOCUMENTS, 0, p->corpus.count + 1, p->documents),
        fail);
    DS_TRY_GOTO(st, walk(p), fail);
    st = ds_safetensors_commit(p->writer);
    p->writer = NULL;
    return st;

fail:
    ds_safetensors_abandon(p->writer);
    p->writer = NULL;
    return st;
}

/* Only empty files inside a list are left out; those were not listed. */
static ds_status take_buffers(struct preparing *p)
{
    p->bytes = malloc(PIECE_BYTES);
    p->tokens = malloc((PIECE_BYTES + 2) * sizeof *p->tokens);
    p->documents = calloc(p->corpus.count + 1, sizeof *p->documents);
    p->sum = XXH3_createState();
    if (!p->bytes || !p->tokens || !p->documents || !p->sum)
        return ds_fail(DS_ERR_NO_MEMORY, "to prepare text");
    return DS_OK;
}

static void give_buffers(struct preparing *p)
{
    free(p->bytes);
    free(p->tokens);
    free(p->documents);
    XXH3_freeState(p->sum);
    corpus_fini(&p->corpus);
}

static void shard_path(const struct preparing *p, const char *source, char *to, size_t bytes)
{
    size_t end = strlen(source), start;

    while (end > 1 && source[end - 1] == '/')
        end--;
    for (start = end; start > 0 && source[start - 1] != '/'; start--) {
    }
    snprintf(to, bytes, "%s/%.*s-%016llx.safetensors", p->options->cache,
             (int)(end - start < 128 ? end - start : 128), source + start,
             (unsigned long long)corpus_fingerprint(&p->corpus));
}

static int is_there(struct ds_fs *fs, const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(fs, path, &stat) == 0 && stat.is_regular && stat.bytes > 0;
}

static ds_status prepare_listed(struct preparing *p, const char *path,
                                struct ds_prepare_report *report)
{
    int code;

    report->bytes += p->corpus.bytes;
    report->tokens += token_count(p);
    report->documents += p->corpus.count;
    if (is_there(p->options->fs, path)) {
        report->files_reused++;
        return DS_OK;
    }
    code = ds_fs_mkdirs(p->options->fs, p->options->cache, 0750);
    if (code < 0)
        return ds_fail(DS_ERR_IO, "%s: cannot make the folder for prepared data: %s",
                       p->options->cache, strerror(-code));
    DS_TRY(take_buffers(p));
    DS_TRY(make_shard(p, path));
    report->files_made++;
    return DS_OK;
}

ds_status ds_prepare_text(const struct ds_prepare_options *options, const char *source,
                          char **shard, struct ds_prepare_report *report)
{
    struct preparing p = {.options = options};
    char path[PATH_BYTES];
    char *copy;
    ds_status st;

    DS_TRY(corpus_list(options->fs, source, &p.corpus));
    shard_path(&p, source, path, sizeof path);
    st = prepare_listed(&p, path, report);
    give_buffers(&p);
    DS_TRY(st);
    copy = strdup(path);
    if (!copy)
        return ds_fail(DS_ERR_NO_MEMORY, "a path");
    *shard = copy;
    return DS_OK;
}
