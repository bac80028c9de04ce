/* shard_file.h (private) - a token shard as a file: a safetensors file with `tokens` U16 or U32 [N] and
 * `documents` U64 [n + 1], where each document begins and the last one ends; one of rows also with `learned` U8 [N], 1 where
 * a token is one. Its metadata says what it was made of
 * (fingerprint; source, the path as it was given) and what its contents sum to (checksum). Written by prepare.c, read by
 * shard.c; of rows written by rows_prepare.c, read by rows_source.c. */
#ifndef DSTRAIN_DATA_SHARD_FILE_H
#define DSTRAIN_DATA_SHARD_FILE_H

#include "dstrain/safetensors.h"

enum { SHARD_WHY_BYTES = 160, SHARD_SUM_BYTES = 17 };

struct shard_file {
    /* borrows: mapped memory of the open file */
    const uint16_t *tokens; /* one of these two */
    const uint32_t *wide_tokens;
    const uint8_t *learned; /* NULL: no such tensor, all are */
    const uint64_t *documents;
    uint64_t token_count, document_count;
};

static inline uint32_t shard_file_token(const struct shard_file *shard, uint64_t at)
{
    return shard->tokens ? shard->tokens[at] : shard->wide_tokens[at];
}

struct shard_check {
    int skips_sum;
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* or NULL */
    void *user;
};

/* local: map `file` and check all of it. `why` says what is wrong, "" where nothing is; that is for the
 * caller to log, since prepare only makes such a shard again. `*out` is set where nothing is wrong. */
DS_CHECKED ds_status shard_file_check(struct ds_safetensors *file, const struct shard_check *check,
                                      struct shard_file *out, char why[SHARD_WHY_BYTES]);

/* pure: the checksum goes over the documents, then, seeded with that, over the tokens, and over what is learned */
uint64_t shard_file_seed(const uint64_t *documents, uint64_t document_count);
void shard_file_sum_text(uint64_t sum, char to[SHARD_SUM_BYTES]);

#endif
