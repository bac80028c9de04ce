/* hf.h - models as Hugging Face folders: config.json, safetensors (one file, or shards with an index),
 * tokenizer files. A model lies spread over tensor ranks (boxes of its parameters), pipeline stages (units)
 * and shard ranks (runs of a unit); a folder has it whole. Streamed both ways: reading takes what a rank
 * owns, piece by piece, writing holds one tensor at a time. */
#ifndef DSTRAIN_HF_H
#define DSTRAIN_HF_H

#include "dstrain/comm.h"
#include "dstrain/fs.h"
#include "dstrain/mesh.h"
#include "dstrain/model.h"
#include "dstrain/safetensors.h"
#include "dstrain/zero.h"

struct ds_hf;

/* local: config.json of a folder */
DS_CHECKED ds_status ds_hf_read_config(struct ds_fs *fs, const char *folder,
                                       struct ds_model_config *out);
enum ds_hf_tokenizer { DS_HF_TOKENIZER_NONE, DS_HF_TOKENIZER_BYTES, DS_HF_TOKENIZER_OTHER };
/* local: which tokenizer a folder comes with: none, the byte tokenizer as an export writes it, another one */
DS_CHECKED ds_status ds_hf_which_tokenizer(struct ds_fs *fs, const char *folder,
                                           enum ds_hf_tokenizer *out);
/* local: open the weights of a folder: model.safetensors, or what model.safetensors.index.json names.
 * DS_ERR_DATA: what is there is missing, cannot be read or is no model; DS_ERR_IO: the disk fails;
 * DS_ERR_NO_MEMORY. `out` is set on success alone. */
DS_CHECKED ds_status ds_hf_open(struct ds_fs *fs, const char *folder, struct ds_hf **out);
/* local */
void ds_hf_close(struct ds_hf *hf); /* NULL is allowed */
/* local: every parameter of the model is there, is a float and has the shape that config.json says.
 * DS_ERR_DATA names the first tensor that is not so, or one of a layer that the model has not; others that the
 * model has not are ignored with one warning. */
DS_CHECKED ds_status ds_hf_check(const struct ds_hf *hf, const struct ds_model *model);
/* local, reads the two tensors whole: of a folder that was checked, a head that is tied to the embedding and has
 * weights all the same has the embedding's. DS_ERR_DATA: it has others. */
DS_CHECKED ds_status ds_hf_check_tied(const struct ds_hf *hf, const struct ds_model *model);
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

/* ---- a model collected on one rank */

/* Who holds what: the same on every rank, but for the rank's own model and ZeRO. */
struct ds_hf_parts {
    const struct ds_model *model; /* as this rank computes it */
    struct ds_zero *zero;
    const struct ds_mesh_shape *mesh;
    const uint32_t *stage_of_unit; /* [unit_count]: of two stages with a copy, one; NULL: stage 0 */
    struct ds_comm *world;         /* control; rank 0 collects */
};
struct ds_hf_gather;

/* collective: takes the memory: of one piece, on rank 0 also every tensor rank's list of parameters */
DS_CHECKED ds_status ds_hf_gather_open(const struct ds_hf_parts *parts, struct ds_hf_gather **out);
/* local: NULL is allowed */
void ds_hf_gather_close(struct ds_hf_gather *gather);
/* collective: parameter number `param` of the model, whole, in fp32, to `to` of rank 0; others may give
 * NULL. The status is this rank's own, and nobody stops for it: agree on it before the values are used. */
DS_CHECKED ds_status ds_hf_gather_param(struct ds_hf_gather *gather, uint32_t param, float *to);

/* ---- writing */

struct ds_hf_write_options {
    struct ds_fs *fs;
    const char *folder;     /* becomes the export, whole or not at all; an older one is replaced,
                               kept as `folder`.kept-N if it holds what no export writes */
    const char *companions; /* folder to copy tokenizer files from; NULL: none */
    int has_byte_tokens; /* where that has no tokenizer, the byte tokenizer's files are written */
    enum ds_dtype dtype; /* F32, BF16 or F16, to nearest; BOOL (0): F32 */
    uint64_t file_bytes_max; /* of one safetensors file; 0: 5 GB */
    struct ds_hf_parts parts;
};
/* collective over parts.world: write the model as it is now. DS_ERR_DIVERGED: a weight is not finite,
 * which no reader takes. */
DS_CHECKED ds_status ds_hf_write(const struct ds_hf_write_options *options);

#endif
