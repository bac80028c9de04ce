/* export.h - a checkpoint as a Hugging Face folder, by one process and from the checkpoint's own files: what manifests
 * say of the model, and weights that stream from packs to safetensors. Memory is that of a chunk and of tables,
 * whatever the model's size. local: everything here; changes nothing but the folder. */
#ifndef DSTRAIN_EXPORT_H
#define DSTRAIN_EXPORT_H

#include "dstrain/checkpoint.h"
#include "dstrain/hf.h"

/* What a run knows of its model beside the weights. */
struct ds_export_model {
    struct ds_model_config config;
    char companions[DS_VALUE_BYTES_MAX + 1]; /* folder of the tokenizer's files; "": none */
    int has_byte_tokens;                     /* what it learns from is text in bytes */
    int has_tokenizer;                       /* there is a tokenizer.json in that folder: */
    struct ds_digest tokenizer;
    char base[DS_VALUE_BYTES_MAX + 1]; /* folder of the weights that an adapter is for; "": none */
    int is_adapted;
    struct ds_lora_settings adapter;
    struct ds_hf_base beside;            /* what an adapter is for */
    char scales[DS_VALUE_BYTES_MAX + 1]; /* of an adapter's matrices */
};

/* local: are the weights that sum up to `base_sum` those that a checkpoint's factors were trained beside? Without an adapter,
 * yes. DS_ERR_DATA, in words about the folder `base`: no */
DS_CHECKED ds_status ds_export_check_base(const struct ds_values *values, const char *base,
                                          uint64_t base_sum);
/* local: what of an adapter the catalogue of a checkpoint does not say; DS_ERR_UNSUPPORTED: too many different scales */
DS_CHECKED ds_status ds_export_describe_adapter(const struct ds_model *model,
                                                struct ds_export_model *out);
/* local: the adapter of a model that was read, with the ranks that its factors in a checkpoint have; without modules
 * where it has none. The caller's to fini. DS_ERR_DATA begins with `what`. */
DS_CHECKED ds_status ds_export_lora(const char *what, const struct ds_export_model *model,
                                    const struct ds_catalogue *catalogue, struct ds_lora *out);

/* Into the values of manifests; of the tokenizer the digest of the file that is there now. */
DS_CHECKED ds_status ds_export_describe(struct ds_fs *fs, const struct ds_export_model *model,
                                        struct ds_values *values);
/* The same back. DS_ERR_DATA, one line that begins with `what`: an older program wrote it, or it is no model. */
DS_CHECKED ds_status ds_export_model_read(const char *what, const struct ds_values *values,
                                          struct ds_export_model *out);

enum ds_export_tokenizer {
    DS_EXPORT_TOKENIZER_IS, /* the files of that folder belong to the model, as far as can be told */
    DS_EXPORT_TOKENIZER_GONE,
    DS_EXPORT_TOKENIZER_OTHER, /* its tokenizer.json is not the one that the model was trained with */
};
/* Are the files of `folder` those that the model came with? */
DS_CHECKED ds_status ds_export_check_tokenizer(struct ds_fs *fs,
                                               const struct ds_export_model *model,
                                               const char *folder, enum ds_export_tokenizer *out);

struct ds_export_from {
    struct ds_fs *fs;
    const char *root;
    const struct ds_manifest *manifest;
    const struct ds_model_config *config;
    const struct ds_lora
        *lora;    /* its factors alone are exported; NULL, or without modules: there is none */
    void *buffer; /* DS_PACK_CHUNK_BYTES */
    int (*must_end)(void *user); /* or NULL; asked often: then it ends quietly with DS_ERR_IO */
    void *user;
};
/* Every chunk that is needed is read once and checked; weights are masters where there are some. What to->parts says is
 * not looked at. DS_ERR_CORRUPT: damaged, or not readable; DS_ERR_IO: the folder cannot be written; DS_ERR_DATA: another model's tensors. */
DS_CHECKED ds_status ds_export_checkpoint(const struct ds_export_from *from,
                                          const struct ds_hf_write_options *to);

#endif
