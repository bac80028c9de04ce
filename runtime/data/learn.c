/* learn.c - learns a tokenizer from the files of sources: from texts, or from what rows say. */
#include "corpus.h"
#include "lines.h"
#include "row.h"

#include "dstrain/learner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char settings[] = "{\n \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
                               " \"eos_token\": \"<|endoftext|>\",\n"
                               " \"pad_token\": \"<|endoftext|>\",\n"
                               " \"clean_up_tokenization_spaces\": false\n}\n";

struct learning {
    const struct ds_learn_options *options;
    struct ds_learner *learner;
    struct corpus *corpora; /* [source_count]; of those listed so far */
    uint64_t total_bytes, done_bytes;
};

/* ---- rows */

static ds_status add_row_text(struct learning *l, const char *path, struct row_text text)
{
    return text.bytes ? ds_learner_add(l->learner, path, text.at, text.bytes, 0) : DS_OK;
}

static ds_status add_row(struct learning *l, const char *path, const struct row *row)
{
    DS_TRY(add_row_text(l, path, row->text));
    DS_TRY(add_row_text(l, path, row->completion));
    for (size_t i = 0; i < row->message_count; i++)
        DS_TRY(add_row_text(l, path, row->messages[i].content));
    return DS_OK;
}

static ds_status add_line(struct learning *l, struct row_reader *rows, const char *path,
                          const struct line *line, uint64_t number)
{
    char why[ROW_WHY_BYTES] = "it is longer than data.line_limit";
    struct row row;

    if (line_is_blank(line))
        return DS_OK;
    if (!line->is_too_long)
        DS_TRY(row_read(rows, l->options->rows->kind, line->at, line->bytes, &row, why));
    if (!why[0])
        return add_row(l, path, &row);
    return l->options->rows->skips_malformed
               ? DS_OK
               : ds_fail(DS_ERR_DATA, "%s:%llu: %s", path, (unsigned long long)number, why);
}

static ds_status add_lines(struct learning *l, struct line_reader *lines, struct row_reader *rows)
{
    const uint64_t begin = l->done_bytes;
    struct line line;
    int is_there = 1;

    DS_TRY(line_reader_begin(lines, 0));
    for (uint64_t number = 1;; number++) {
        DS_TRY(line_next(lines, &line, &is_there));
        if (!is_there)
            return DS_OK;
        DS_TRY(add_line(l, rows, lines->path, &line, number));
        l->done_bytes = begin + lines->offset;
        if (l->options->progress)
            l->options->progress(l->options->user, l->done_bytes, l->total_bytes);
    }
}

static ds_status add_rows(struct learning *l, const struct corpus_file *file)
{
    struct ds_fs *fs = l->options->fs;
    struct line_reader lines = {.fs = fs,
                                .path = file->path,
                                .file = ds_fs_open(fs, file->path, DS_FS_READ, 0),
                                .end = file->bytes,
                                .file_end = file->bytes,
                                .bytes_max = l->options->rows->line_bytes_max};
    struct row_reader rows = {0};
    ds_status st;

    if (lines.file < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this file: %s", file->path,
                       strerror(-lines.file));
    st = add_lines(l, &lines, &rows);
    if (st == DS_OK)
        st = corpus_check_unchanged(fs, file, lines.file);
    (void)ds_fs_close(fs, lines.file);
    line_reader_fini(&lines);
    row_reader_fini(&rows);
    return st;
}

/* ---- files */

static ds_status add_file(struct learning *l, const struct corpus_file *file)
{
    const struct ds_learn_options *options = l->options;
    uint8_t *text = malloc(file->bytes);
    ds_status st = text ? corpus_read(options->fs, file, text)
                        : ds_fail(DS_ERR_NO_MEMORY, "%s: %llu bytes of text", file->path,
                                  (unsigned long long)file->bytes);

    if (st == DS_OK)
        st = ds_learner_add(l->learner, file->path, text, file->bytes, options->replaces_invalid);
    free(text);
    l->done_bytes += file->bytes;
    if (options->progress)
        options->progress(options->user, l->done_bytes, l->total_bytes);
    return st;
}

static ds_status add_all(struct learning *l)
{
    for (size_t i = 0; i < l->options->source_count; i++)
        l->total_bytes += l->corpora[i].bytes;
    for (size_t i = 0; i < l->options->source_count; i++)
        for (size_t k = 0; k < l->corpora[i].count; k++)
            DS_TRY(l->options->rows ? add_rows(l, &l->corpora[i].files[k])
                                    : add_file(l, &l->corpora[i].files[k]));
    return DS_OK;
}

static ds_status list_all(struct learning *l)
{
    l->corpora = calloc(l->options->source_count + 1, sizeof *l->corpora);
    if (!l->corpora)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu sources", l->options->source_count);
    for (size_t i = 0; i < l->options->source_count; i++) {
        DS_TRY(corpus_list(l->options->fs, l->options->sources[i], &l->corpora[i]));
        if (l->options->rows)
            DS_TRY(corpus_keep_ending(l->options->sources[i], ".jsonl", &l->corpora[i]));
    }
    return DS_OK;
}

/* The settings first: what has a tokenizer.json has all of it. */
static ds_status write_files(struct ds_fs *fs, const char *folder, const char *json)
{
    char path[CORPUS_PATH_BYTES + 32];
    const int code = ds_fs_mkdirs(fs, folder, 0750);

    if (code < 0)
        return ds_fail(DS_ERR_CONFIG, "%s: no tokenizer can be kept there: %s", folder,
                       strerror(-code));
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    DS_TRY(ds_fs_write_file(fs, path, settings, sizeof settings - 1));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    return ds_fs_write_file(fs, path, json, strlen(json));
}

static ds_status count_tokens(const char *json, uint32_t *made)
{
    struct ds_tokenizer *tokenizer;

    DS_TRY(ds_tokenizer_parse("the tokenizer that was learned", json, strlen(json), &tokenizer));
    *made = ds_tokenizer_id_end(tokenizer);
    ds_tokenizer_close(tokenizer);
    return DS_OK;
}

ds_status ds_learn_tokenizer(const struct ds_learn_options *options, const char *folder,
                             uint32_t *made)
{
    struct learning l = {.options = options};
    char *json = NULL;
    ds_status st;

    DS_TRY_GOTO(st, list_all(&l), done);
    DS_TRY_GOTO(st, ds_learner_open(&l.learner), done);
    DS_TRY_GOTO(st, add_all(&l), done);
    DS_TRY_GOTO(
        st,
        ds_learner_learn(l.learner, options->vocab_size, options->progress, options->user, &json),
        done);
    DS_TRY_GOTO(st, count_tokens(json, made), done);
    st = write_files(options->fs, folder, json);
done:
    free(json);
    ds_learner_close(l.learner);
    for (size_t i = 0; l.corpora && i < options->source_count; i++)
        corpus_fini(&l.corpora[i]);
    free(l.corpora);
    return st;
}
