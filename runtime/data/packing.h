/* packing.h (private) - which documents of a shard of rows lie in which sample. Pure: the same on every rank.
 *
 * A document of n tokens takes n - 1 places of a sample: its last token is only a target. It lies in one sample as a whole;
 * what is longer than one is an error, is cut, goes on in pieces of its own, or is left out. */
#ifndef DSTRAIN_DATA_PACKING_H
#define DSTRAIN_DATA_PACKING_H

#include "dstrain/data.h"
#include "shard_file.h"

struct packing_options {
    uint64_t seq_length;
    int packs; /* several documents a sample */
    enum ds_overlong overlong;
    enum ds_data_side side;
    double eval_share;
    uint64_t seed;
};
struct packing {
    /* owns */
    uint64_t *pieces;  /* the first token of each, sample after sample; [piece_count] */
    uint64_t *samples; /* where each begins in them; [sample_count + 1] */
    uint64_t piece_count, sample_count;
    /* what became of documents that are longer than a sample */
    uint64_t document_count; /* of this side */
    uint64_t long_count, longest, first_long, dropped_count, unlearned_count;
    uint64_t places; /* that tokens take */
    int is_refused;  /* first_long has no place, and there is no permission to make it shorter */
};
/* local: memory alone can fail it */
DS_CHECKED ds_status packing_make(const struct shard_file *shard,
                                  const struct packing_options *options, struct packing *out);
void packing_fini(struct packing *packing);

/* pure: the document that token `at` is in */
uint64_t packing_document(const struct shard_file *shard, uint64_t at);

#endif
