/* rows_part.c - a chunk of a file of rows as samples. */
#include "rows_part.h"
#include "lines.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state without malloc */
#include <xxhash.h>

static const uint64_t progress_bytes = 1 << 20;

/* ---- counts */

void rows_counts_print(const struct rows_counts *c, char to[ROWS_COUNTS_BYTES])
{
    snprintf(to, ROWS_COUNTS_BYTES,
             "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
             c->lines, c->rows, c->tokens, c->learned, c->ends, c->skipped, c->skipped_line);
}

int rows_counts_parse(const char *text, struct rows_counts *out)
{
    struct rows_counts c = {0};

    if (!text ||
        sscanf(text,
               "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
               &c.lines, &c.rows, &c.tokens, &c.learned, &c.ends, &c.skipped, &c.skipped_line) != 7)
        return 0;
    *out = c;
    return 1;
}

/* ---- rows */

static ds_status write_row(struct rows_worker *w, const struct row *row, char why[ROW_WHY_BYTES])
{
    struct sample_writer *writer = &w->writer;
    const int has_bos = row->kind != DS_ROW_MESSAGES || w->chat->kind == DS_CHAT_PLAIN;

    DS_TRY(sample_begin(writer, has_bos));
    if (row->kind == DS_ROW_MESSAGES)
        return chat_write(w->chat, writer, row, why);
    if (row->kind == DS_ROW_COMPLETION)
        DS_TRY(sample_text(writer, row->text));
    DS_TRY(sample_answer(writer, row->kind == DS_ROW_COMPLETION ? row->completion : row->text, 1));
    return sample_end(writer, "{eos}", 1);
}

static ds_status add_document(struct rows_worker *w, uint64_t count, uint64_t at)
{
    if (count == w->documents_capacity) {
        const size_t capacity = 2 * count + 1024;
        uint64_t *more = realloc(w->documents, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "%zu rows", capacity);
        w->documents = more;
        w->documents_capacity = capacity;
    }
    w->documents[count] = at;
    return DS_OK;
}

/* What was written of a row that turns out to be wrong goes again. */
static ds_status keep_row(struct rows_worker *w, struct rows_counts *counts,
                          char why[ROW_WHY_BYTES])
{
    const size_t begin = w->writer.begin;
    uint64_t learned = 0;

    if (!why[0])
        DS_TRY(sample_finish(&w->writer, &learned));
    if (!why[0] && learned == 0)
        snprintf(why, ROW_WHY_BYTES, "nothing of it is learned");
    if (why[0]) {
        sample_drop(&w->writer);
        return DS_OK;
    }
    DS_TRY(add_document(w, counts->rows, begin));
    counts->rows++;
    counts->learned += learned;
    counts->ends += w->writer.end_count;
    counts->tokens = w->writer.ids.count;
    return DS_OK;
}

static ds_status read_row(struct rows_worker *w, const struct line *line,
                          struct rows_counts *counts, char why[ROW_WHY_BYTES])
{
    struct row row = {0};

    why[0] = '\0';
    if (line->is_too_long)
        snprintf(why, ROW_WHY_BYTES, "it is longer than data.line_limit = %llu bytes",
                 (unsigned long long)w->options->line_bytes_max);
    else
        DS_TRY(row_read(&w->reader, w->options->kind, line->at, line->bytes, &row, why));
    if (why[0])
        return DS_OK;
    DS_TRY(write_row(w, &row, why));
    return keep_row(w, counts, why);
}

/* `why` stays empty where the row was left out and counted. */
static ds_status read_line(struct rows_worker *w, struct line *line, struct rows_counts *counts,
                           char why[ROW_WHY_BYTES])
{
    counts->lines++;
    if (line_is_blank(line))
        return DS_OK;
    DS_TRY(read_row(w, line, counts, why));
    if (!why[0] || !w->options->skips_malformed)
        return DS_OK;
    if (counts->skipped++ == 0) {
        counts->skipped_line = counts->lines;
        memcpy(counts->skipped_why, why, ROW_WHY_BYTES);
    }
    why[0] = '\0';
    return DS_OK;
}

static ds_status read_lines(struct rows_worker *w, struct line_reader *reader,
                            const struct rows_chunk *chunk, struct rows_counts *counts,
                            char why[ROW_WHY_BYTES])
{
    uint64_t told = chunk->begin;
    struct line line;
    int is_there = 1;

    DS_TRY(line_reader_begin(reader, chunk->begin));
    while (!why[0]) {
        DS_TRY(line_next(reader, &line, &is_there));
        if (!is_there)
            break;
        DS_TRY(read_line(w, &line, counts, why));
        if (reader->offset - told >= progress_bytes && reader->offset < chunk->end) {
            w->progress(w->user, reader->offset - told);
            told = reader->offset;
        }
    }
    w->progress(w->user, told < chunk->end ? chunk->end - told : 0);
    return DS_OK;
}

ds_status rows_worker_read(struct rows_worker *w, const struct rows_chunk *chunk,
                           struct rows_counts *counts, char why[ROW_WHY_BYTES])
{
    const struct corpus_file *file = chunk->file;
    struct line_reader reader = {.fs = w->fs,
                                 .path = file->path,
                                 .file = ds_fs_open(w->fs, file->path, DS_FS_READ, 0),
                                 .end = chunk->end,
                                 .file_end = file->bytes,
                                 .bytes_max = w->options->line_bytes_max};
    ds_status st;

    if (reader.file < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this file: %s", file->path,
                       strerror(-reader.file));
    *counts = (struct rows_counts){0};
    why[0] = '\0';
    w->writer.ids.count = 0;
    w->writer.name = file->path;
    st = read_lines(w, &reader, chunk, counts, why);
    if (st == DS_OK)
        st = corpus_check_unchanged(w->fs, file, reader.file);
    (void)ds_fs_close(w->fs, reader.file);
    line_reader_fini(&reader);
    return st;
}

/* ---- the part as a file */

enum { ITEM_TOKENS, ITEM_LEARNED, ITEM_DOCUMENTS };

/* To 16 bits in the same place. */
static void narrow(struct ds_token_list *list)
{
    uint16_t *to = (uint16_t *)(void *)list->ids;

    for (size_t i = 0; i < list->count; i++) {
        const uint16_t id = (uint16_t)list->ids[i];
        memcpy(to + i, &id, sizeof id);
    }
}

static void sum_part(const struct rows_worker *w, const struct rows_counts *counts,
                     char to[SHARD_SUM_BYTES])
{
    const size_t id_bytes = w->is_wide ? sizeof(uint32_t) : sizeof(uint16_t);
    XXH3_state_t sum;

    XXH3_INITSTATE(&sum);
    XXH3_64bits_reset_withSeed(&sum, shard_file_seed(w->documents, counts->rows));
    XXH3_64bits_update(&sum, w->writer.ids.ids, counts->tokens * id_bytes);
    XXH3_64bits_update(&sum, w->writer.learned, counts->tokens);
    shard_file_sum_text(XXH3_64bits_digest(&sum), to);
}

static ds_status fill_part(const struct rows_worker *w, struct ds_safetensors_writer *writer,
                           const struct rows_counts *counts)
{
    DS_TRY(ds_safetensors_write(writer, ITEM_TOKENS, 0, counts->tokens, w->writer.ids.ids));
    DS_TRY(ds_safetensors_write(writer, ITEM_LEARNED, 0, counts->tokens, w->writer.learned));
    return ds_safetensors_write(writer, ITEM_DOCUMENTS, 0, counts->rows + 1, w->documents);
}

ds_status rows_worker_write(struct rows_worker *w, const char *path, const char *fingerprint,
                            const struct rows_counts *counts)
{
    const struct ds_safetensors_item items[] = {
        [ITEM_TOKENS] = {"tokens", w->is_wide ? DS_U32 : DS_U16, 1, {counts->tokens}},
        [ITEM_LEARNED] = {"learned", DS_U8, 1, {counts->tokens}},
        [ITEM_DOCUMENTS] = {"documents", DS_U64, 1, {counts->rows + 1}},
    };
    char numbers[ROWS_COUNTS_BYTES], checksum[SHARD_SUM_BYTES];
    const char *const metadata[] = {"checksum",    checksum,    "counts",  numbers,
                                    "fingerprint", fingerprint, "skipped", counts->skipped_why,
                                    NULL};
    struct ds_safetensors_writer *writer;
    ds_status st;

    if (counts->rows == 0)
        return DS_OK;
    DS_TRY(add_document(w, counts->rows, counts->tokens));
    if (!w->is_wide)
        narrow(&w->writer.ids);
    sum_part(w, counts, checksum);
    rows_counts_print(counts, numbers);
    DS_TRY(ds_safetensors_create(w->fs, path, items, 3, metadata, &writer));
    st = fill_part(w, writer, counts);
    if (st == DS_OK)
        return ds_safetensors_commit(writer);
    ds_safetensors_abandon(writer);
    return st;
}

int rows_part_is_there(struct ds_fs *fs, const char *path, const char *fingerprint,
                       struct rows_counts *counts)
{
    struct ds_safetensors *file = NULL;
    struct ds_fs_stat stat;
    struct shard_file shard = {0};
    char why[SHARD_WHY_BYTES] = "";
    int is_there = 0;

    if (ds_fs_stat(fs, path, &stat) != 0 || ds_safetensors_open(fs, path, &file) != DS_OK)
        return 0;
    const char *made_of = ds_safetensors_metadata(file, "fingerprint");
    const char *skipped = ds_safetensors_metadata(file, "skipped");
    if (made_of && strcmp(made_of, fingerprint) == 0 &&
        shard_file_check(file, &(struct shard_check){0}, &shard, why) == DS_OK && !why[0] &&
        rows_counts_parse(ds_safetensors_metadata(file, "counts"), counts)) {
        snprintf(counts->skipped_why, sizeof counts->skipped_why, "%s", skipped ? skipped : "");
        is_there = shard.token_count == counts->tokens && shard.document_count == counts->rows;
    }
    ds_safetensors_close(file);
    return is_there;
}

/* ---- the worker */

ds_status rows_worker_init(struct rows_worker *w, const struct ds_tokenizer *tokenizer)
{
    w->writer.tokenizer = tokenizer;
    w->writer.control = w->chat->control;
    w->writer.control_count = w->chat->control_count;
    w->writer.learns_all = w->options->train_on == DS_TRAIN_ON_ALL;
    DS_TRY(ds_encoder_open(tokenizer, &w->encoder));
    w->writer.encoder = w->encoder;
    return DS_OK;
}

void rows_worker_fini(struct rows_worker *w)
{
    ds_encoder_close(w->encoder);
    sample_writer_fini(&w->writer);
    row_reader_fini(&w->reader);
    free(w->documents);
    w->documents = NULL;
    w->encoder = NULL;
}
