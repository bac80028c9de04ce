/* sources.h (private) - one source of samples, whatever file it comes from, and the order they are read in. */
#ifndef DSTRAIN_DATA_SOURCES_H
#define DSTRAIN_DATA_SOURCES_H

#include "dstrain/data.h"
#include "dstrain/random.h"
#include "dstrain/safetensors.h"
#include "packing.h"
#include "shard_file.h"

struct source;

struct source_ops {
    /* sample `index` into `to`; seq_length and vocabulary are the source's */
    ds_status (*read)(const struct source *source, uint64_t index, const struct ds_sample *to);
};

struct source {
    const struct source_ops *ops;
    /* owns */
    struct ds_safetensors *file;
    uint64_t sample_count, token_count;
    uint64_t seq_length, vocab_size;
    int one_document;        /* none begins inside a sample */
    double sample_documents; /* that have a part in a sample: the mean, or little more */
    char seq_place[128];     /* " (config.ini:9)", behind a message about seq_length; or "" */
    uint64_t trained_count;  /* of all samples; pre-tokenised, where it was checked */
    struct shard_file shard; /* token shard, of text or of rows */
    struct packing packing;  /* of rows; owned */
    /* pre-tokenised */
    const struct ds_safetensors_entry *ids, *labels; /* labels may be NULL */
};

DS_CHECKED ds_status source_open_shard(struct ds_fs *fs, const char *path,
                                       const struct shard_check *check, struct source *out);
DS_CHECKED ds_status source_open_rows(struct ds_fs *fs, const char *path,
                                      const struct shard_check *check,
                                      const struct packing_options *options, struct source *out);
DS_CHECKED ds_status source_open_tokenised(struct ds_fs *fs, const char *path, struct source *out);
/* reads all of it: every id and label that a sample has is in the vocabulary */
DS_CHECKED ds_status source_check_tokenised(struct source *source, const struct shard_check *check);
void source_close(struct source *source);
/* `what`: "token id" or "label" */
DS_CHECKED ds_status source_bad_id(const struct source *source, const char *what, uint64_t index,
                                   uint64_t at, int64_t id, int is_signed);

/* ---- order.c, pure. A source of n samples with weight w brings round(w * n) samples an epoch, at least
 * one; positions are dealt to sources so that any prefix is close to these shares, and each source goes
 * through its own samples again and again, so that with weight 1 each comes once an epoch. */
struct order_source {
    uint64_t sample_count, share; /* share: samples an epoch */
};
struct order {
    struct order_source *sources; /* owned by whoever made it */
    size_t source_count;
    uint64_t epoch_samples;
    uint64_t seed;
    int shuffle, is_plain; /* plain: no weights, no shuffle: one file after the other */
};
struct order_place {
    size_t source;
    uint64_t sample;
};
struct order_place order_at(const struct order *order, uint64_t position);

#endif
