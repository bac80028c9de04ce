/* hf_base.h (private) - which weights an adapter is for, as the metadata of its file */
#ifndef DSTRAIN_HF_BASE_H
#define DSTRAIN_HF_BASE_H

#include "dstrain/hf.h"

struct hf_base_text {
    char sum[24];
    const char *metadata[5]; /* as ds_safetensors_create takes it; points into `sum` */
};
/* pure */
void hf_base_print(const struct ds_hf_base *base, struct hf_base_text *out);

#endif
