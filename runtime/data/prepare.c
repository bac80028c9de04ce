/* prepare.c - text into a token shard: each file a document, bos, its tokens, eos.
 *
 * Streamed in two passes, since the header comes first and holds the checksum: one reads and sums, one
 * reads, sums and writes. The two sums have to agree and every file has to be as it was listed, so a
 * text that changes meanwhile fails instead of becoming a shard of neither version. Bytes are read from
 * the text both times; where there is a tokenizer, its ids go to a file beside the shard first (encoding.c),
 * and that is read. A shard is named
 * after its source and fingerprint; one that is there is checked before it is used again, and made
 * again where it is not sound. */
#include "encoding.h"
#include "shard_place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PIECE_BYTES = 1 << 20 };

struct preparing {
    const struct ds_prepare_options *options;
    /* owns */
    struct corpus corpus;
    uint8_t *bytes;   /* a piece of text, or of ids */
    uint16_t *tokens; /* text as tokens, with bos and eos around it */
    uint64_t *documents;
    XXH3_state_t *sum;
    struct ds_safetensors_writer *writer; /* second pass */
    char ids_path[CORPUS_PATH_BYTES + 8]; /* what a tokenizer made */
    int ids;                              /* that file; -1: none */
    /* plain values */
    int is_wide;                  /* tokens are U32 */
    uint64_t encoded_count;       /* tokens that a tokenizer made */
    uint64_t written, done_bytes; /* done: of both passes */
    char fingerprint[SHARD_SUM_BYTES];
};

enum { ITEM_TOKENS, ITEM_DOCUMENTS };

/* ---- the walk over all tokens, made twice */

static size_t token_bytes(const struct preparing *p)
{
    return p->is_wide ? sizeof(uint32_t) : sizeof(uint16_t);
}

static ds_status give(struct preparing *p, const void *tokens, size_t count)
{
    XXH3_64bits_update(p->sum, tokens, count * token_bytes(p));
    if (!p->writer)
        return DS_OK;
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
    DS_TRY(give(p, p->tokens, count));
    p->done_bytes += bytes;
    if (p->options->progress)
        p->options->progress(p->options->user, p->done_bytes / 2, p->corpus.bytes);
    return DS_OK;
}

static ds_status walk_open_file(struct preparing *p, const struct corpus_file *file, int handle)
{
    for (uint64_t at = 0; at < file->bytes;) {
        const uint64_t left = file->bytes - at;
        const size_t bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        int code = ds_fs_read_all(p->options->fs, handle, p->bytes, bytes, at);
        if (code < 0) {
            DS_TRY(corpus_check_unchanged(p->options->fs, file,
                                          handle)); /* shorter now? then this is the reason */
            return ds_fail(DS_ERR_DATA, "%s: cannot read byte %llu: %s", file->path,
                           (unsigned long long)at, strerror(-code));
        }
        DS_TRY(walk_piece(p, bytes, at == 0, at + bytes == file->bytes));
        at += bytes;
    }
    return corpus_check_unchanged(p->options->fs, file, handle);
}

static ds_status walk_file(struct preparing *p, const struct corpus_file *file)
{
    struct ds_fs *fs = p->options->fs;
    int handle = ds_fs_open(fs, file->path, DS_FS_READ, 0);
    ds_status st;

    if (handle < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this text: %s", file->path, strerror(-handle));
    st = walk_open_file(p, file, handle);
    (void)ds_fs_close(fs, handle);
    return st;
}

static ds_status walk_ids(struct preparing *p)
{
    const uint64_t end = p->encoded_count * token_bytes(p);

    for (uint64_t at = 0; at < end;) {
        const size_t bytes = end - at < PIECE_BYTES ? (size_t)(end - at) : PIECE_BYTES;
        int code = ds_fs_read_all(p->options->fs, p->ids, p->bytes, bytes, at);
        if (code < 0)
            return ds_fail(DS_ERR_IO, "%s: cannot read byte %llu: %s", p->ids_path,
                           (unsigned long long)at, strerror(-code));
        DS_TRY(give(p, p->bytes, bytes / token_bytes(p)));
        if (p->options->progress)
            p->options->progress(p->options->user, p->corpus.bytes, p->corpus.bytes);
        at += bytes;
    }
    return DS_OK;
}

static ds_status walk(struct preparing *p, char sum[SHARD_SUM_BYTES])
{
    XXH3_64bits_reset_withSeed(p->sum, shard_file_seed(p->documents, p->corpus.count));
    if (p->options->tokenizer)
        DS_TRY(walk_ids(p));
    for (size_t i = 0; i < p->corpus.count && !p->options->tokenizer; i++)
        DS_TRY(walk_file(p, &p->corpus.files[i]));
    shard_file_sum_text(XXH3_64bits_digest(p->sum), sum);
    return DS_OK;
}

/* ---- making a shard */

static uint64_t token_count(const struct preparing *p)
{
    return p->options->tokenizer ? p->encoded_count : p->corpus.bytes + 2 * p->corpus.count;
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

static ds_status encode(struct preparing *p, const char *path)
{
    struct encoding encoding = {
        .fs = p->options->fs,
        .tokenizer = p->options->tokenizer,
        .corpus = &p->corpus,
        .replaces_invalid = p->options->replaces_invalid,
        .is_wide = p->is_wide,
        .progress = p->options->progress,
        .user = p->options->user,
    };

    snprintf(p->ids_path, sizeof p->ids_path, "%s.ids", path);
    p->ids = ds_fs_open(p->options->fs, p->ids_path,
                        DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE | DS_FS_TRUNCATE, 0640);
    if (p->ids < 0)
        return ds_fail(DS_ERR_IO, "%s: cannot write there: %s", p->ids_path, strerror(-p->ids));
    encoding.file = p->ids;
    DS_TRY(encoding_run(&encoding, p->documents));
    p->encoded_count = p->documents[p->corpus.count];
    return p->encoded_count ? DS_OK
                            : ds_fail(DS_ERR_DATA, "%s: the tokenizer makes no token of this text",
                                      p->corpus.files[0].path);
}

/* What the second pass writes; the caller commits or abandons. */
static ds_status fill_shard(struct preparing *p, const char *source, const char *checksum)
{
    char again[SHARD_SUM_BYTES];

    DS_TRY(ds_safetensors_write(p->writer, ITEM_DOCUMENTS, 0, p->corpus.count + 1, p->documents));
    DS_TRY(walk(p, again));
    return strcmp(again, checksum) == 0 ? DS_OK : corpus_changed(source);
}

/* Of a tokenizer what it is made of; the byte tokenizer has a name. */
static void tokenizer_text(const struct preparing *p, char to[SHARD_SUM_BYTES])
{
    if (p->options->tokenizer)
        shard_file_sum_text(ds_tokenizer_fingerprint(p->options->tokenizer), to);
    else
        snprintf(to, SHARD_SUM_BYTES, "bytes");
}

static ds_status write_shard(struct preparing *p, const char *source, const char *path)
{
    const struct ds_safetensors_item items[] = {
        [ITEM_TOKENS] = {"tokens", p->is_wide ? DS_U32 : DS_U16, 1, {token_count(p)}},
        [ITEM_DOCUMENTS] = {"documents", DS_U64, 1, {p->corpus.count + 1}},
    };
    char checksum[SHARD_SUM_BYTES], tokenizer[SHARD_SUM_BYTES];
    const char *const metadata[] = {"checksum",
                                    checksum,
                                    "fingerprint",
                                    p->fingerprint,
                                    "tokenizer",
                                    tokenizer,
                                    shard_place_is_text(source) ? "source" : NULL,
                                    source,
                                    NULL};
    ds_status st;

    tokenizer_text(p, tokenizer);
    DS_TRY(walk(p, checksum));
    DS_TRY(ds_safetensors_create(p->options->fs, path, items, 2, metadata, &p->writer));
    st = fill_shard(p, source, checksum);
    if (st == DS_OK)
        st = ds_safetensors_commit(p->writer);
    else
        ds_safetensors_abandon(p->writer);
    p->writer = NULL;
    return st;
}

/* The ids go when they are in the shard, or not wanted any more. */
static ds_status make_shard(struct preparing *p, const char *source, const char *path)
{
    ds_status st = DS_OK;

    if (p->options->tokenizer)
        st = encode(p, path);
    else
        place_documents(p);
    if (st == DS_OK)
        st = write_shard(p, source, path);
    if (p->ids >= 0) {
        (void)ds_fs_close(p->options->fs, p->ids);
        if (ds_fs_unlink(p->options->fs, p->ids_path) < 0)
            (void)ds_fs_unlink(p->options->fs,
                               p->ids_path); /* if that fails, too, the next one truncates it */
    }
    return st;
}

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

static void preparing_fini(struct preparing *p)
{
    free(p->bytes);
    free(p->tokens);
    free(p->documents);
    XXH3_freeState(p->sum);
    corpus_fini(&p->corpus);
}

/* ---- using one again */

/* Why the shard at `path` cannot be used, "" if it can. What the reader itself refuses it has logged. */
static void check_shard(struct preparing *p, const char *path, char why[SHARD_WHY_BYTES])
{
    struct ds_safetensors *file = NULL;
    const struct shard_check check = {p->options->is_checked, p->options->progress,
                                      p->options->user};
    struct shard_file shard = {0};
    const char *fingerprint;

    snprintf(why, SHARD_WHY_BYTES, "it cannot be read");
    if (ds_safetensors_open(p->options->fs, path, &file) != DS_OK)
        return;
    fingerprint = ds_safetensors_metadata(file, "fingerprint");
    if (!fingerprint || strcmp(fingerprint, p->fingerprint) != 0)
        snprintf(why, SHARD_WHY_BYTES, "it was made of something else");
    else if (shard_file_check(file, &check, &shard, why) != DS_OK)
        snprintf(why, SHARD_WHY_BYTES, "it cannot be mapped");
    else if (!why[0] && p->options->tokenizer)
        p->encoded_count = shard.token_count;
    if (!why[0] && (shard.token_count != token_count(p) || shard.document_count != p->corpus.count))
        snprintf(why, SHARD_WHY_BYTES, "it has %llu tokens, the text makes %llu",
                 (unsigned long long)shard.token_count, (unsigned long long)token_count(p));
    ds_safetensors_close(file);
}

/* Asked first, since a reader would log what it thinks of a truncated file: the length of the header, the
 * header, the data, to the byte. How many tokens a tokenizer makes nobody knows before. */
static int has_size(const struct preparing *p, const char *path, uint64_t file_bytes)
{
    const uint64_t data_bytes =
        token_count(p) * token_bytes(p) + (p->corpus.count + 1) * sizeof *p->documents;
    const int file = ds_fs_open(p->options->fs, path, DS_FS_READ, 0);
    uint64_t header_bytes = 0;
    uint8_t length[8];

    if (file < 0)
        return 0;
    const int64_t got = ds_fs_pread(p->options->fs, file, length, sizeof length, 0);
    (void)ds_fs_close(p->options->fs, file);
    for (size_t i = sizeof length; got == (int64_t)sizeof length && i-- > 0;)
        header_bytes = header_bytes << 8 | length[i];
    return got == (int64_t)sizeof length && header_bytes < file_bytes &&
           (p->options->tokenizer || file_bytes - header_bytes == sizeof length + data_bytes);
}

static int can_reuse(struct preparing *p, const char *path)
{
    struct ds_fs_stat stat;
    char why[SHARD_WHY_BYTES];

    if (ds_fs_stat(p->options->fs, path, &stat) != 0)
        return 0;
    if (has_size(p, path, stat.bytes))
        check_shard(p, path, why);
    else
        snprintf(why, sizeof why, "%llu bytes are not its size", (unsigned long long)stat.bytes);
    if (why[0])
        ds_warn("%s: not a sound token shard: %s; it is made again", path, why);
    return !why[0];
}

/* ---- */

static ds_status prepare_listed(struct preparing *p, const char *source, const char *path,
                                struct ds_prepare_report *report)
{
    const int is_reused = can_reuse(p, path);

    if (!is_reused) {
        DS_TRY(shard_place_make(p->options, path));
        DS_TRY(take_buffers(p));
        DS_TRY(make_shard(p, source, path));
    }
    report->bytes += p->corpus.bytes;
    report->tokens += token_count(p);
    report->documents += p->corpus.count;
    report->files_made += !is_reused;
    report->files_reused += is_reused;
    return DS_OK;
}

ds_status ds_prepare_text(const struct ds_prepare_options *options, const char *source,
                          char **shard, struct ds_prepare_report *report)
{
    struct preparing p = {.options = options, .ids = -1};
    char path[CORPUS_PATH_BYTES], *copy = NULL;
    ds_status st;

    DS_TRY(corpus_list(options->fs, source, &p.corpus));
    p.is_wide = options->tokenizer && encoding_is_wide(options->tokenizer);
    shard_file_sum_text(
        corpus_fingerprint(&p.corpus, options->tokenizer, options->replaces_invalid),
        p.fingerprint);
    DS_TRY_GOTO(st, shard_place_path(options, source, p.fingerprint, path), done);
    copy = strdup(path);
    if (!copy) {
        st = ds_fail(DS_ERR_NO_MEMORY, "a path");
        goto done;
    }
    DS_TRY_GOTO(st, prepare_listed(&p, source, path, report), done);
    *shard = copy;
    copy = NULL;
done:
    free(copy);
    preparing_fini(&p);
    return st;
}
