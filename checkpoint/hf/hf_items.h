/* hf_items.h (private) - the tensors of one file of an export */
#ifndef DSTRAIN_HF_ITEMS_H
#define DSTRAIN_HF_ITEMS_H

#include "hf_quantise.h"
#include "hf_read.h"

struct hf_items {
    /* owns */
    struct ds_safetensors_item *items;
    size_t count;
    size_t *first; /* [param_count]: of each parameter its first item */
    uint32_t param_count;
    struct ds_quant_items *matrices; /* those of each that is quantised */
    char (*names)[HF_NAME_BYTES];
};

DS_CHECKED ds_status hf_items_init(struct hf_items *items, uint32_t params_max, int is_quantised);
/* local: those of one more parameter, which is called `name` in the file */
DS_CHECKED ds_status hf_items_add(struct hf_items *items, const struct ds_hf_write_options *options,
                                  const struct ds_param *param, const char *name,
                                  enum ds_dtype dtype);
void hf_items_fini(struct hf_items *items);

#endif
