/* hf_read.h (private) - a tensor of an open folder, for what fills shards from it */
#ifndef DSTRAIN_HF_READ_H
#define DSTRAIN_HF_READ_H

#include "dstrain/hf.h"

/* local: the entry and its file; NULL: no weight file has it */
const struct ds_safetensors_entry *hf_find(const struct ds_hf *hf, const char *name,
                                           const struct ds_safetensors **file);

#endif
