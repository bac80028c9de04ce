/* hf_read.h (private) - a tensor of an open folder, for what fills shards from it */
#ifndef DSTRAIN_HF_READ_H
#define DSTRAIN_HF_READ_H

#include "dstrain/hf.h"
#include "dstrain/quant_file.h"

/* Names in a file of an adapter begin with the wrapper's. */
#define HF_ADAPTER_PREFIX "base_model.model."
#define HF_NAME_BYTES     128

/* pure: a name in a file of an adapter, its prefix apart, as the model has it; and of what a matrix with factors has beside
 * them the other way round */
void hf_plain_name(const char *name, char to[HF_NAME_BYTES]);
void hf_wrapped_name(const char *name, char to[HF_NAME_BYTES]);

/* local: the entry and its file; NULL: no weight file has it. `name` is the parameter's own */
const struct ds_safetensors_entry *hf_find(const struct ds_hf *hf, const char *name,
                                           const struct ds_safetensors **file);

/* local: of its first file; NULL: it says nothing of that */
const char *hf_metadata(const struct ds_hf *hf, const char *key);
const char *hf_first_path(const struct ds_hf *hf);

/* hf_quant.c. local: as ds_quant_open: NULL where the tensor is not quantised */
DS_CHECKED ds_status hf_quant_open(const struct ds_hf *hf, const char *name,
                                   struct ds_quant_matrix **out);
/* local: elements start.. of a parameter's box, if it is quantised; else `to` is left alone */
DS_CHECKED ds_status hf_quant_read(const struct ds_hf *hf, const struct ds_param *param,
                                   uint64_t start, uint64_t count, float *to, int *is_quantised);
/* pure: is a tensor a part of a quantised matrix of the model, its codes apart? */
int hf_quant_is_beside(const struct ds_model *model, const char *name);

#endif
