/* learner.h - learns a byte-level BPE from texts: a tokenizer.json that Hugging Face's library loads, for who starts
 * from nothing. The same texts and size give the same file, and the merges that its BpeTrainer would choose. local:
 * everything here. */
#ifndef DSTRAIN_LEARNER_H
#define DSTRAIN_LEARNER_H

#include "dstrain/fs.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

/* A vocabulary begins with <|endoftext|>, which ends documents, <|im_start|> and <|im_end|>, and the 256 bytes. */
enum { DS_LEARNER_VOCAB_MIN = 259, DS_LEARNER_VOCAB_MAX = 1 << 20 };

struct ds_learner;
DS_CHECKED ds_status ds_learner_open(struct ds_learner **out);
void ds_learner_close(struct ds_learner *learner); /* NULL is allowed */
/* Counts the words of a text. Memory is that of all different words. DS_ERR_DATA names `name` and the offset of
 * what is not UTF-8, unless that is replaced. */
DS_CHECKED ds_status ds_learner_add(struct ds_learner *learner, const char *name, const void *text,
                                    size_t bytes, int replaces_invalid);
/* The most frequent pair becomes a token, again and again, until there are vocab_size tokens or no pair is there
 * twice. Once; `*json` is malloc'ed, with a NUL behind it. */
DS_CHECKED ds_status ds_learner_learn(struct ds_learner *learner, uint32_t vocab_size,
                                      void (*progress)(void *user, uint64_t done, uint64_t total),
                                      void *user, char **json);

struct ds_rows_options; /* dstrain/rows.h */

/* Of files: tokenizer.json and tokenizer_config.json into `folder`, which is made if need be. */
struct ds_learn_options {
    struct ds_fs *fs;
    const char *const *sources; /* as of ds_prepare_text */
    size_t source_count;
    uint32_t vocab_size;
    int replaces_invalid;
    const struct ds_rows_options
        *rows; /* sources are JSONL, and texts what rows say; NULL: texts */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* or NULL: bytes, then tokens */
    void *user;
};
/* `*made`: how many tokens it has */
DS_CHECKED ds_status ds_learn_tokenizer(const struct ds_learn_options *options, const char *folder,
                                        uint32_t *made);

#endif
