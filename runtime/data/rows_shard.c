/* rows_shard.c - parts become a shard. The header comes first and holds the sum, so all parts are gone through twice: once
 * to sum, once to write. */
#include "rows_work.h"
#include "shard_place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state without malloc */
#include <xxhash.h>

enum { ITEM_TOKENS, ITEM_LEARNED, ITEM_DOCUMENTS, PLACES = 1 << 16, PIECE_ELEMS = 1 << 22 };

struct assembling {
    const struct rows_work *work;
    struct rows_counts total;
    struct ds_safetensors_writer *writer; /* NULL: sums alone */
    uint64_t *places;                     /* [PLACES], of documents in the shard */
    XXH3_state_t sum;
    uint64_t token_count, document_count; /* of the parts before */
};

static ds_status give(struct assembling *a, size_t item, uint64_t at, uint64_t count,
                      size_t elem_bytes, const void *from)
{
    XXH3_64bits_update(&a->sum, from, count * elem_bytes);
    if (a->work->options->progress)
        a->work->options->progress(a->work->options->user, a->work->corpus->bytes,
                                   a->work->corpus->bytes);
    return a->writer ? ds_safetensors_write(a->writer, item, at, count, from) : DS_OK;
}

static ds_status give_long(struct assembling *a, size_t item, uint64_t count, size_t elem_bytes,
                           const void *from)
{
    for (uint64_t at = 0; at < count; at += PIECE_ELEMS) {
        const uint64_t left = count - at;
        DS_TRY(give(a, item, a->token_count + at, left < PIECE_ELEMS ? left : PIECE_ELEMS,
                    elem_bytes, (const uint8_t *)from + at * elem_bytes));
    }
    return DS_OK;
}

static ds_status give_documents(struct assembling *a, const struct shard_file *part)
{
    for (uint64_t at = 0; at < part->document_count; at += PLACES) {
        const uint64_t left = part->document_count - at, count = left < PLACES ? left : PLACES;

        for (uint64_t i = 0; i < count; i++)
            a->places[i] = a->token_count + part->documents[at + i];
        DS_TRY(
            give(a, ITEM_DOCUMENTS, a->document_count + at, count, sizeof *a->places, a->places));
    }
    return DS_OK;
}

static ds_status give_part(struct assembling *a, const struct shard_file *part, size_t item)
{
    const size_t id_bytes = a->work->is_wide ? sizeof(uint32_t) : sizeof(uint16_t);
    const void *ids = a->work->is_wide ? (const void *)part->wide_tokens : part->tokens;

    if (item == ITEM_DOCUMENTS)
        return give_documents(a, part);
    return item == ITEM_TOKENS
               ? give_long(a, item, part->token_count, id_bytes, ids)
               : give_long(a, item, part->token_count, sizeof *part->learned, part->learned);
}

/* A part that was there a moment ago. Its sum is checked once more: a disk without locks may have let another launch
 * write into it. */
static ds_status with_part(struct assembling *a, size_t chunk, size_t item)
{
    const struct shard_check check = {.skips_sum = a->writer || item != ITEM_TOKENS};
    char path[CORPUS_PATH_BYTES + 32], why[SHARD_WHY_BYTES] = "";
    struct ds_safetensors *file;
    struct shard_file part = {0};
    ds_status st;

    rows_work_path(a->work, chunk, path);
    DS_TRY(ds_safetensors_open(a->work->options->fs, path, &file));
    st = shard_file_check(file, &check, &part, why);
    if (st == DS_OK && (why[0] || !part.learned || (part.tokens == NULL) != a->work->is_wide))
        st = ds_fail(DS_ERR_CORRUPT, "%s: not a sound part: %s", path, why);
    if (st == DS_OK)
        st = give_part(a, &part, item);
    ds_safetensors_close(file);
    a->token_count += part.token_count;
    a->document_count += part.document_count;
    return st;
}

static ds_status walk_item(struct assembling *a, size_t item)
{
    a->token_count = a->document_count = 0;
    for (size_t i = 0; i < a->work->chunk_count; i++)
        if (a->work->counts[i].rows > 0)
            DS_TRY(with_part(a, i, item));
    return item == ITEM_DOCUMENTS
               ? give(a, item, a->document_count, 1, sizeof a->token_count, &a->token_count)
               : DS_OK;
}

/* The sum is that of shard_file.c. */
static ds_status walk(struct assembling *a, char sum[SHARD_SUM_BYTES])
{
    XXH3_64bits_reset(&a->sum);
    DS_TRY(walk_item(a, ITEM_DOCUMENTS));
    XXH3_64bits_reset_withSeed(&a->sum, XXH3_64bits_digest(&a->sum));
    DS_TRY(walk_item(a, ITEM_TOKENS));
    DS_TRY(walk_item(a, ITEM_LEARNED));
    shard_file_sum_text(XXH3_64bits_digest(&a->sum), sum);
    return DS_OK;
}

static ds_status create(struct assembling *a, const char *source, const char *path,
                        const char *checksum)
{
    const struct rows_work *work = a->work;
    const struct ds_safetensors_item items[] = {
        [ITEM_TOKENS] = {"tokens", work->is_wide ? DS_U32 : DS_U16, 1, {a->total.tokens}},
        [ITEM_LEARNED] = {"learned", DS_U8, 1, {a->total.tokens}},
        [ITEM_DOCUMENTS] = {"documents", DS_U64, 1, {a->total.rows + 1}},
    };
    char numbers[ROWS_COUNTS_BYTES], tokenizer[SHARD_SUM_BYTES];
    const char *const metadata[] = {"checksum",
                                    checksum,
                                    "counts",
                                    numbers,
                                    "fingerprint",
                                    work->fingerprint,
                                    "skipped",
                                    a->total.skipped_why,
                                    "tokenizer",
                                    tokenizer,
                                    shard_place_is_text(source) ? "source" : NULL,
                                    source,
                                    NULL};

    rows_counts_print(&a->total, numbers);
    shard_file_sum_text(ds_tokenizer_fingerprint(work->tokenizer), tokenizer);
    return ds_safetensors_create(work->options->fs, path, items, 3, metadata, &a->writer);
}

static ds_status write_shard(struct assembling *a, const char *source, const char *path)
{
    char checksum[SHARD_SUM_BYTES], again[SHARD_SUM_BYTES];
    ds_status st;

    DS_TRY(walk(a, checksum));
    DS_TRY(create(a, source, path, checksum));
    st = walk(a, again);
    if (st == DS_OK && strcmp(checksum, again) != 0)
        st = ds_fail(DS_ERR_CORRUPT, "%s: its parts changed while they were read", path);
    if (st == DS_OK)
        return ds_safetensors_commit(a->writer);
    ds_safetensors_abandon(a->writer);
    return st;
}

ds_status rows_work_assemble(const struct rows_work *work, const char *source, const char *path)
{
    struct assembling a = {.work = work};
    const char *skipped_file;
    ds_status st;

    a.total = rows_work_total(work, &skipped_file);
    a.places = malloc(PLACES * sizeof *a.places);
    XXH3_INITSTATE(&a.sum);
    st = a.places ? write_shard(&a, source, path) : ds_fail(DS_ERR_NO_MEMORY, "a shard of rows");
    free(a.places);
    return st;
}
