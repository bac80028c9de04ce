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
#include "dstrain/quant.h"
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
/* local: every parameter of the model, without an adapter's factors, is there, is a float or quantised by
 * bitsandbytes (quant_file.h), and has the shape that config.json says.
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
    /* or NULL: what all values filled come to, of the units that count here [unit_count] and of what this rank owns of
     * them, is added to *sum: of all ranks' together the same however they share the model, and mostly another one for
     * other values */
    uint64_t *sum;
    const uint8_t *counts_unit;
    const struct ds_zero_pack
        *packs; /* [unit_count], or NULL: those without parts are stored as they are used */
};
/* local: fill them from a folder that was checked; ds_zero_publish() comes after */
DS_CHECKED ds_status ds_hf_load(const struct ds_hf *hf, const struct ds_hf_target *target);
/* local: the same from the model's initial distribution; and that of an adapter's factors, which no folder of a model
 * has. What an adapter trains of the model itself begins as the model has it. */
DS_CHECKED ds_status ds_hf_init(const struct ds_hf_target *target, uint64_t seed);
DS_CHECKED ds_status ds_hf_init_factors(const struct ds_hf_target *target, uint64_t seed);

/* ---- adapters: folders as peft writes them, adapter_config.json and adapter_model.safetensors */

/* local: the first of them; the caller's to fini */
DS_CHECKED ds_status ds_hf_read_adapter(struct ds_fs *fs, const char *folder,
                                        const struct ds_model_config *config, struct ds_lora *out);
/* local: does the folder have the first? */
int ds_hf_is_adapter(struct ds_fs *fs, const char *folder);
/* local: the folder of the model that it says it is for; DS_ERR_DATA: it names none, or the path is longer */
DS_CHECKED ds_status ds_hf_adapter_base(struct ds_fs *fs, const char *folder, char *to,
                                        size_t bytes);
/* local: warns if it says that it is for another model than that of the folder `model`, as far as names tell */
DS_CHECKED ds_status ds_hf_doubt_base(struct ds_fs *fs, const char *folder, const char *model);
/* local: the second; ds_hf_close closes it */
DS_CHECKED ds_status ds_hf_open_adapter(struct ds_fs *fs, const char *folder, struct ds_hf **out);
/* local: every factor of the model's adapter is there, and all that it trains of the model, floats of the right shape, and
 * no other tensor. DS_ERR_DATA */
DS_CHECKED ds_status ds_hf_check_adapter(const struct ds_hf *hf, const struct ds_model *model);
/* What an adapter is trained beside. */
struct ds_hf_base {
    uint64_t sum; /* of all that is frozen: struct ds_hf_target */
    enum ds_dtype
        dtype; /* in which it is stored; another one has another sum. BOOL: nobody knows */
};
/* local: how the matrices of an open model are stored; F32 where there is none (NULL) */
enum ds_dtype ds_hf_dtype(const struct ds_hf *hf);
/* local: does an open adapter say what it was trained beside? What others have written does not. */
int ds_hf_knows_base(const struct ds_hf *adapter);
/* local: is `found` that, as far as it says? DS_ERR_DATA, in words about the folder `model` ("": none): no. A warning where
 * it is stored otherwise, as whoever makes smaller ones of it does. */
DS_CHECKED ds_status ds_hf_check_base(const struct ds_hf *adapter, const char *model,
                                      const struct ds_hf_base *found);
/* local: fill what is trained from one that was checked */
DS_CHECKED ds_status ds_hf_load_adapter(const struct ds_hf *hf, const struct ds_hf_target *target);

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
    const char *base;    /* of an adapter: the folder of its model; NULL or "": none */
    struct ds_hf_base beside; /* of an adapter, too: what it was trained beside */
    enum ds_dtype dtype;      /* F32, BF16 or F16, to nearest; BOOL (0): F32 */
    int is_quantised; /* of ds_hf_merge alone: matrices of layers are written as bitsandbytes' form of */
    enum ds_quant_kind quant; /* this kind, all else as `dtype` says */
    uint64_t file_bytes_max;  /* of one safetensors file; 0: 5 GB */
    struct ds_hf_parts parts;
};
/* collective over parts.world: write the model as it is now, or its adapter alone, where it has one. DS_ERR_DIVERGED: a weight is not finite,
 * which no reader takes. */
DS_CHECKED ds_status ds_hf_write(const struct ds_hf_write_options *options);

struct ds_values;
/* local: the model of `base` with the adapter of a PEFT folder added to its matrices, or without one (NULL), streamed:
 * memory for some rows of one matrix, and quantised for 4 bytes of each of its blocks or rows. What to->parts says is not
 * looked at; to->dtype BOOL (0): as the model is stored. *written: which that is. `values`: of
 * the checkpoint that the adapter is of, which say what it was trained beside, or NULL: the adapter may say it itself.
 * DS_ERR_DATA: `base` is not that. */
DS_CHECKED ds_status ds_hf_merge(const char *base, const char *adapter,
                                 const struct ds_values *values,
                                 const struct ds_hf_write_options *to, enum ds_dtype *written);

#endif
