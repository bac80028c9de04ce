/* hf_quantise.h (private) - which parameters of an export are quantised, and how their numbers become codes. */
#ifndef DSTRAIN_HF_QUANTISE_H
#define DSTRAIN_HF_QUANTISE_H

#include "dstrain/hf.h"
#include "dstrain/quant_file.h"

/* pure: is this parameter? And the form that it then has, in a file whose other numbers are of `dtype` */
int hf_quantises(const struct ds_hf_write_options *options, const struct ds_param *param);
struct ds_quant_form hf_quantised_form(const struct ds_hf_write_options *options,
                                       const struct ds_param *param, enum ds_dtype dtype);
/* local: the text of a config.json says so, too; it is another one then */
DS_CHECKED ds_status hf_quantise_config(enum ds_quant_kind kind, char **text);

/* The matrix that is coming. Begins as zeros. */
struct hf_quantiser {
    /* owns */
    struct ds_quant_writer *writer;
    float *rest; /* of a block, or of a row */
    uint64_t unit, rest_count;
    uint64_t done, elems;
};
void hf_quantiser_fini(struct hf_quantiser *q);
/* local: numbers start.. of a matrix, which come in their order, into a file whose items first.. are its own */
DS_CHECKED ds_status hf_quantise(struct hf_quantiser *q, const struct ds_quant_items *matrix,
                                 struct ds_safetensors_writer *file, size_t first, uint64_t start,
                                 uint64_t count, const float *from);

#endif
