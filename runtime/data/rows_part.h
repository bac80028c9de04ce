/* rows_part.h (private) - a chunk of a file of rows, and the part of a shard that it becomes. */
#ifndef DSTRAIN_DATA_ROWS_PART_H
#define DSTRAIN_DATA_ROWS_PART_H

#include "chat.h"
#include "corpus.h"
#include "shard_file.h"

/* What a part has, or several. */
struct rows_counts {
    uint64_t lines, rows, tokens, learned, ends;
    uint64_t skipped, skipped_line; /* left out; the first of them, from 1 in its chunk or file */
    char skipped_why[ROW_WHY_BYTES];
};
enum { ROWS_COUNTS_BYTES = 160 };
/* pure: as a text, and back; 0: it is not such a text. Without the reason. */
void rows_counts_print(const struct rows_counts *counts, char to[ROWS_COUNTS_BYTES]);
int rows_counts_parse(const char *text, struct rows_counts *out);

struct rows_chunk {
    const struct corpus_file *file;
    uint64_t begin, end; /* lines that begin there */
};

/* One thread's tools: a chunk at a time. */
struct rows_worker {
    /* borrows */
    struct ds_fs *fs;
    const struct ds_rows_options *options;
    const struct chat *chat;
    void (*progress)(void *user, uint64_t bytes); /* so many more are done */
    void *user;
    int is_wide; /* tokens are U32 */
    /* owns */
    struct ds_encoder *encoder;
    struct sample_writer writer;
    struct row_reader reader;
    uint64_t *documents; /* [counts.rows] */
    size_t documents_capacity;
};
DS_CHECKED ds_status rows_worker_init(struct rows_worker *worker,
                                      const struct ds_tokenizer *tokenizer);
void rows_worker_fini(struct rows_worker *worker);
/* Reads a chunk; the samples are the worker's until the next one. `why`: the chunk's line counts->lines is what a person
 * has to mend, "" where nothing is wrong. */
DS_CHECKED ds_status rows_worker_read(struct rows_worker *worker, const struct rows_chunk *chunk,
                                      struct rows_counts *counts, char why[ROW_WHY_BYTES]);
/* Keeps what was read as a file, whole or not at all; where there is no row there is no file. */
DS_CHECKED ds_status rows_worker_write(struct rows_worker *worker, const char *path,
                                       const char *fingerprint, const struct rows_counts *counts);

/* Is a part there that was made of the same, and sound? Then `counts` is its. */
int rows_part_is_there(struct ds_fs *fs, const char *path, const char *fingerprint,
                       struct rows_counts *counts);

#endif
