/* data.h - from files to micro-batches. The sample at any position is a pure function of (seed,
 * position); a loader is given a share of the samples, never a mesh. */
#ifndef DSTRAIN_DATA_H
#define DSTRAIN_DATA_H

#include "dstrain/clock.h"
#include "dstrain/digest.h"
#include "dstrain/fs.h"
#include "dstrain/status.h"
#include "dstrain/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

/* ---- the byte tokenizer: 256 bytes, then bos 256, eos 257, pad 258. */
enum { DS_BYTE_BOS = 256, DS_BYTE_EOS = 257, DS_BYTE_PAD = 258, DS_BYTE_VOCAB = 259 };

/* ---- sources: what `[data] train = a.txt, b.txt:0.5` names */
enum ds_data_format { DS_DATA_TEXT, DS_DATA_SAFETENSORS, DS_DATA_SHARDS, DS_DATA_JSONL };

struct ds_data_part {
    char *path;
    double
        weight; /* > 0; 1 where none is written. Times its samples: what it brings to an epoch; 0.5 is
                      half of them, 2 each of them twice */
};
struct ds_data_parts {
    struct ds_data_part *parts;
    size_t count;
};
/* local: `where` begins the messages ("config.ini:12: [data] train"). A path ends at ',' or at ':' that
 * is followed by a number. */
DS_CHECKED ds_status ds_data_parts_parse(const char *where, const char *text,
                                         struct ds_data_parts *out);
/* local */
void ds_data_parts_fini(struct ds_data_parts *parts);
/* local: of what a file holds, or the regular files of a folder that are not hidden, in the order of their names, which do
 * not count, nor does where they lie: equal content, equal digests. Up to 64 MiB all of it is read; of more, sizes and
 * pieces all over it. 0, or -errno, and nothing is said. */
int ds_data_content(struct ds_fs *fs, const char *source, struct ds_digest *out);

/* ---- preparing text: token shards, safetensors files with `tokens` and `documents` [n+1] (offsets in
 * tokens), a checksum and the fingerprint of what they were made of in the metadata. */
struct ds_prepare_options {
    struct ds_fs *fs;
    const struct ds_clock *clock;
    const struct ds_tokenizer *tokenizer; /* of texts; NULL: bytes */
    int replaces_invalid; /* what is not UTF-8 becomes U+FFFD instead of DS_ERR_DATA; bytes are bytes */
    const char *cache;     /* directory of the shards, made if need be */
    const char *cache_key; /* who asks for it, which begins messages; NULL: "data.cache" */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* or NULL */
    void *user;
    int is_checked;        /* another rank has just read all of it: sums are not made again */
    uint32_t thread_count; /* of rows; 0: as many as cores */
};
struct ds_prepare_report { /* added to, so that one can serve several sources */
    uint64_t bytes, tokens, documents;
    uint64_t learned, skipped; /* of rows: tokens that are learned; rows that were left out */
    uint32_t files_made, files_reused;
};
/* local: a text file, or a directory (its regular files, sorted, not hidden), becomes one shard; returns
 * its path (malloc'ed). Each file is a document, between bos and eos where the tokenizer has them. A tokenizer
 * other than bytes reads a file as a whole: there is memory for the largest of them. One whose fingerprint (paths, sizes, times, tokenizer) is there is reused if it
 * verifies, else made again. An empty or unreadable source, or one that changes meanwhile, is
 * DS_ERR_DATA. Nothing half-made stays. */
DS_CHECKED ds_status ds_prepare_text(const struct ds_prepare_options *options, const char *source,
                                     char **shard, struct ds_prepare_report *report);

/* ---- a data set: samples by number */
struct ds_dataset;

/* Of rows: what becomes of one that is longer than a sample. AUTO: one that is learned from end to end goes on in the
 * next sample, others are an error. */
enum ds_overlong {
    DS_OVERLONG_AUTO,
    DS_OVERLONG_ERROR,
    DS_OVERLONG_CUT,
    DS_OVERLONG_SPLIT,
    DS_OVERLONG_DROP
};
/* Of rows: which of them, where a share is set aside to evaluate on. Equal rows are on one side. */
enum ds_data_side { DS_SIDE_ALL, DS_SIDE_TRAIN, DS_SIDE_EVAL };

struct ds_dataset_options {
    struct ds_fs *fs;
    enum ds_data_format
        format; /* SHARDS (text, once prepared), SAFETENSORS, or JSONL (rows, once prepared) */
    const char *const *paths;
    const double *weights;
    size_t path_count;
    uint64_t seq_length;
    const char *seq_place; /* where a person has written that, for messages; NULL: nowhere */
    uint64_t vocab_size;   /* ids at or above it are DS_ERR_DATA, with file and place */
    uint64_t seed;
    int shuffle;
    int packs; /* rows: several a sample; else each has one of its own */
    enum ds_overlong overlong;
    enum ds_data_side side;
    double eval_share;
    /* of reading all of it once, which takes a while: the sums of token shards; of pre-tokenised files
     * every id and label, of which at least one must be trained */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes); /* or NULL */
    void *user;
    int is_checked; /* as above */
};
/* local: maps shards or opens files, and checks what they say of themselves; the options' lists may go */
DS_CHECKED ds_status ds_dataset_open(const struct ds_dataset_options *options,
                                     struct ds_dataset **out);
/* local: no loader may read it any more; NULL is allowed */
void ds_dataset_close(struct ds_dataset *dataset);
/* local */
uint64_t ds_dataset_sample_count(const struct ds_dataset *dataset); /* of one epoch */
/* of all sources, each once, as they lie in the files: with bos and eos, and with those behind the last whole
 * sample, which no epoch has */
uint64_t ds_dataset_token_count(const struct ds_dataset *dataset);
/* no document begins inside a sample: `document` is 0 in all of them */
int ds_dataset_one_document(const struct ds_dataset *dataset);
/* about how many documents have a part in a sample, on average over an epoch */
double ds_dataset_documents(const struct ds_dataset *dataset);
/* pure in (dataset, position): which sample lies at `position` of the endless order of epochs. Every
 * sample comes once an epoch. With weights, sources are drawn so that any prefix is within
 * log2(sources), rounded up, samples of the shares (one, for two sources); an epoch then ends when the
 * total count has been drawn. */
uint64_t ds_dataset_order(const struct ds_dataset *dataset, uint64_t position);

/* One sample, seq_length long each. target: what token t should predict, -100: nothing. position: in its
 * document; document: where in the sample its document starts (dstrain/kernels.h, attention). */
struct ds_sample {
    int32_t *id, *target, *position, *document;
};
/* local, any thread: the sample at `position` of the order */
DS_CHECKED ds_status ds_dataset_read(const struct ds_dataset *dataset, uint64_t position,
                                     const struct ds_sample *to);

/* ---- batches that are left out, for good. Counted from 1, as steps are where nothing is left out: batch b is then the
 * samples from (b - 1) * global batch on. */
struct ds_batch_range { /* [begin, end) */
    uint64_t begin, end;
};
#define DS_SKIPS_MAX 100
struct ds_skips { /* in order, with batches between them */
    struct ds_batch_range ranges[DS_SKIPS_MAX];
    uint32_t count;
};
/* pure: the batch that 1-based step `step` trains: the step-th of those that are not left out */
uint64_t ds_skips_batch(const struct ds_skips *skips, uint64_t step);
/* pure: how many of the batches before `batch` are not left out, so the last step that knows nothing of it */
uint64_t ds_skips_step_before(const struct ds_skips *skips, uint64_t batch);
/* pure: 0: there is no room, and nothing has changed */
int ds_skips_add(struct ds_skips *skips, struct ds_batch_range range);
/* pure: "41-61,90-95", and back. 0: it is not such a text */
#define DS_SKIPS_TEXT_BYTES (DS_SKIPS_MAX * 34)
void ds_skips_print(const struct ds_skips *skips, char to[DS_SKIPS_TEXT_BYTES]);
int ds_skips_parse(const char *text, struct ds_skips *out);

/* ---- loader: the micro-batches of one rank, one step ahead on a worker thread */
struct ds_loader_options {
    const struct ds_clock *clock; /* of waited_ns */
    const struct ds_dataset *dataset;
    uint64_t seq_length, micro_batch_size, micro_count;
    uint32_t share, share_count; /* of the samples of a step: global batch = micro_batch_size *
                                    micro_count * share_count; sample position of (batch, micro, share,
                                    row) = ((batch * micro_count + micro) * share_count + share) *
                                    micro_batch_size + row, batch = step where none is left out */
    uint64_t step_limit;         /* nothing is read ahead from this 0-based step on; 0: no end */
    uint64_t sample_limit; /* evaluation: positions from here on give targets of -100; 0: no end */
};
/* Arrays [micro_count][micro_batch_size][seq_length], one behind the other. */
struct ds_loader_batch {
    int32_t *id, *target, *position, *document;
    uint64_t trained_tokens; /* of this rank's share */
};
struct ds_loader;
/* local: takes the buffers and starts the thread; closing ends it, NULL is allowed */
DS_CHECKED ds_status ds_loader_open(const struct ds_loader_options *options,
                                    struct ds_loader **out);
void ds_loader_close(struct ds_loader *loader);
/* local: from the next call on these are left out; what was read ahead is forgotten */
void ds_loader_skip(struct ds_loader *loader, const struct ds_skips *skips);
/* local: the batch of 0-based step `step`, valid until the next call; starts reading step + 1.
 * waited_ns: how long the caller stood still. */
DS_CHECKED ds_status ds_loader_next(struct ds_loader *loader, uint64_t step,
                                    struct ds_loader_batch *out, uint64_t *waited_ns);

#endif
