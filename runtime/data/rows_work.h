/* rows_work.h (private) - all chunks of a source as parts, by several threads; and the parts as a shard. */
#ifndef DSTRAIN_DATA_ROWS_WORK_H
#define DSTRAIN_DATA_ROWS_WORK_H

#include "rows_part.h"

struct rows_work {
    /* borrows */
    const struct ds_prepare_options *options;
    const struct ds_rows_options *rows;
    const struct ds_tokenizer *tokenizer;
    const struct chat *chat;
    const struct corpus *corpus;
    /* plain values */
    int is_wide;
    char fingerprint[SHARD_SUM_BYTES]; /* of the shard */
    char folder[CORPUS_PATH_BYTES];    /* of the parts */
    /* owns */
    struct rows_chunk *chunks;
    struct rows_counts *counts; /* [chunk_count] */
    size_t chunk_count;
    uint32_t reused_count; /* parts that were there */
};
/* pure: which chunks there are */
DS_CHECKED ds_status rows_work_init(struct rows_work *work);
void rows_work_fini(struct rows_work *work);
/* local: every chunk's part is there, and its counts are known. DS_ERR_DATA: a row is wrong; its line was named. */
DS_CHECKED ds_status rows_work_run(struct rows_work *work);
/* pure: of all chunks; what was left out first, with its line in its file */
struct rows_counts rows_work_total(const struct rows_work *work, const char **skipped_file);
/* local: the parts, one behind the other, as the shard at `path`; they stay */
DS_CHECKED ds_status rows_work_assemble(const struct rows_work *work, const char *source,
                                        const char *path);
/* local: the path of a chunk's part */
void rows_work_path(const struct rows_work *work, size_t chunk, char to[CORPUS_PATH_BYTES + 32]);

#endif
