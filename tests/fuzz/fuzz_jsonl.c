// link: data storage base
// private: runtime/data
/* fuzz_jsonl.c - any bytes as JSONL: refused with a reason, or samples that are whole, the same whether they are read in
 * one chunk or in several. The first byte says which rows, template and tokens are meant, the second how long a chunk is. */
#include "rows_part.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char small_tokenizer[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<|im_start|>\",\"special\":true,\"normalized\":"
    "false},"
    "{\"id\":1,\"content\":\"<|im_end|>\",\"special\":true,\"normalized\":false},"
    "{\"id\":2,\"content\":\"<think>\",\"special\":false,\"normalized\":false}],"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":3,\"a\":4,\"s\":5,\"\\n\":6,"
    "\"as\":7},\"merges\":[\"a s\"]}}";

static void no_progress(void *user, uint64_t bytes)
{
    (void)user, (void)bytes;
}

static void check_samples(const struct rows_worker *w, const struct rows_counts *counts)
{
    for (uint64_t i = 0; i < counts->rows; i++) {
        const uint64_t begin = w->documents[i];
        const uint64_t end = i + 1 < counts->rows ? w->documents[i + 1] : counts->tokens;

        DS_ASSERT(begin + 1 < end && end <= w->writer.ids.count);
        DS_ASSERT(w->writer.learned[end - 1] == 1);
        for (uint64_t t = begin; t < end; t++)
            DS_ASSERT(w->writer.learned[t] <= 1);
    }
}

/* A hash of the tokens of all chunks, until one is refused. */
static uint64_t read_all(struct rows_worker *w, const struct corpus_file *file,
                         uint64_t chunk_bytes, uint64_t *lines)
{
    char why[ROW_WHY_BYTES] = "";
    uint64_t hash = 0;

    *lines = 0;
    for (uint64_t at = 0; at < file->bytes && !why[0]; at += chunk_bytes) {
        const uint64_t left = file->bytes - at;
        const struct rows_chunk chunk = {file, at, at + (left < chunk_bytes ? left : chunk_bytes)};
        struct rows_counts counts;
        const ds_status st = rows_worker_read(w, &chunk, &counts, why);

        DS_ASSERT(st == DS_OK || st == DS_ERR_DATA);
        if (st != DS_OK)
            return 1;
        check_samples(w, &counts);
        for (uint64_t i = 0; i < counts.tokens; i++)
            hash =
                (hash ^ (w->writer.ids.ids[i] * 2u + w->writer.learned[i])) * 0x9e3779b97f4a7c15u;
        *lines += counts.lines;
    }
    return hash;
}

static void check_text(struct ds_fs *fs, const struct ds_rows_options *options,
                       const struct ds_tokenizer *tokenizer, uint64_t chunk_bytes)
{
    struct rows_worker w = {.fs = fs, .options = options, .progress = no_progress};
    struct corpus corpus;
    struct chat chat;
    uint64_t lines[2];

    DS_ASSERT(chat_init(&chat, options, tokenizer) == DS_OK);
    w.chat = &chat;
    DS_ASSERT(rows_worker_init(&w, tokenizer) == DS_OK);
    if (corpus_list(fs, "in", &corpus) == DS_OK) {
        const uint64_t whole = read_all(&w, corpus.files, UINT32_MAX, &lines[0]);
        const uint64_t parts = read_all(&w, corpus.files, chunk_bytes, &lines[1]);
        DS_ASSERT(whole == parts && lines[0] == lines[1]);
        corpus_fini(&corpus);
    }
    rows_worker_fini(&w);
    chat_fini(&chat);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum ds_chat_kind kinds[] = {DS_CHAT_PLAIN, DS_CHAT_CHATML, DS_CHAT_QWEN3,
                                              DS_CHAT_CUSTOM};
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_fs *fs = NULL;

    ds_log.terminal = -1;
    if (size < 3)
        return 0;
    const struct ds_rows_options options = {
        .kind = (enum ds_row_kind)(data[0] & 3),
        .chat = kinds[data[0] >> 2 & 3],
        .texts = {"{bos}", "{content}", "u:{content}", "<|im_start|>{content}", "", "<|im_end|>"},
        .train_on = (enum ds_train_on)(data[0] >> 4 & 1 ? DS_TRAIN_ON_ALL : DS_TRAIN_ON_LAST),
        .skips_malformed = data[0] >> 5 & 1,
        .line_bytes_max = 4096,
    };
    DS_ASSERT(ds_tokenizer_parse("fuzz", small_tokenizer, strlen(small_tokenizer), &tokenizer) ==
              DS_OK);
    DS_ASSERT(ds_fs_sim_open(&fs) == DS_OK);
    DS_ASSERT(ds_fs_write_file(fs, "in", data + 2, size - 2) == DS_OK);
    check_text(fs, &options, tokenizer, 1 + data[1]);
    ds_fs_sim_close(fs);
    ds_tokenizer_close(tokenizer);
    return 0;
}
