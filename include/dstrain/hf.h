/* hf.h - models as Hugging Face folders: config.json, safetensors (one file, or shards with an index),
 * tokenizer files. Streamed both ways: reading takes only the slices a rank owns, writing holds one
 * unit at a time. */
#ifndef DSTRAIN_HF_H
#define DSTRAIN_HF_H

#include "dstrain/comm.h"
#include "dstrain/fs.h"
#include "dstrain/model.h"
#include "dstrain/safetensors.h"
#include "dstrain/zero.h"

struct ds_hf;

/* local: config.json of a folder */
DS_CHECKED ds_status ds_hf_read_config(struct ds_fs *fs, const char *folder,
                                       struct ds_model_config *out);
/* local: is the folder's tokenizer.json the byte tokenizer's, as an export writes it? 0 where there is none */
DS_CHECKED ds_status ds_hf_has_byte_tokenizer(struct ds_fs *fs, const char *folder, int *out);
/* local: open the weights of a folder: model.safetensors, or what model.safetensors.index.json names */
DS_CHECKED ds_status ds_hf_open(struct ds_fs *fs, const char *folder, struct ds_hf **out);
/* local */
void ds_hf_close(struct ds_hf *hf); /* NULL is allowed */
/* local: every parameter of the model is there, is a float and has the shape that config.json says */
DS_CHECKED ds_status ds_hf_check(const struct ds_hf *hf, const struct ds_model *model);
/* Where weights go: what this rank owns, nothing of a unit that is elsewhere. */
struct ds_hf_target {
    const struct ds_model *model; /* as this rank computes it */
    struct ds_zero *zero;
    uint32_t shard_rank;
    void (*beat)(void *user); /* or NULL: called after every piece, as a sign of life */
    void *user;
};
/* local: fill them from a folder that was checked; ds_zero_publish() comes after */
DS_CHECKED ds_status ds_hf_load(const struct ds_hf *hf, const struct ds_hf_target *target);
/* local: the same from the model's initial distribution */
DS_CHECKED ds_status ds_hf_init(const struct ds_hf_target *target, uint64_t seed);

struct ds_hf_write_options {
    struct ds_fs *fs;
    const char *folder;     /* becomes the export, whole or not at all; an older one is replaced,
                               kept as `folder`.kept-N if it holds what no export writes */
    const char *companions; /* folder to copy tokenizer files from; NULL: the byte tokenizer's */
    const struct ds_model *model;
    struct ds_zero *zero;
    struct ds_comm *world; /* control; rank 0 writes */
    struct ds_stream *compute;
    uint64_t file_bytes_max; /* of one safetensors file; 0: 5 GB */
};
/* collective over world: write the model as it is now, in fp32 */
DS_CHECKED ds_status ds_hf_write(const struct ds_hf_write_options *options);

#endif
