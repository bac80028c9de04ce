/* hf_items.c - the tensors of one file of an export: a parameter is one, quantised it is several. */
#include "hf_items.h"
#include "hf_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hf_items_fini(struct hf_items *items)
{
    free(items->items);
    free(items->first);
    free(items->names);
    free(items->matrices);
    *items = (struct hf_items){0};
}

ds_status hf_items_init(struct hf_items *items, uint32_t params_max, int is_quantised)
{
    const size_t most = (size_t)params_max * (is_quantised ? DS_QUANT_ITEMS_MAX : 1);

    *items = (struct hf_items){.items = calloc(most, sizeof *items->items),
                               .first = calloc(params_max, sizeof *items->first),
                               .names = calloc(params_max, sizeof *items->names),
                               .matrices =
                                   calloc(is_quantised ? params_max : 1, sizeof *items->matrices)};
    if (items->items && items->first && items->names && items->matrices)
        return DS_OK;
    hf_items_fini(items);
    return ds_fail(DS_ERR_NO_MEMORY, "the header of an export");
}

static ds_status add_matrix(struct hf_items *items, uint32_t index,
                            const struct ds_quant_form *form)
{
    struct ds_quant_items *matrix = &items->matrices[index];

    DS_TRY(ds_quant_describe(form, items->names[index], matrix));
    memcpy(items->items + items->count, matrix->items, matrix->count * sizeof *matrix->items);
    items->count += matrix->count;
    return DS_OK;
}

static void add_plain(struct hf_items *items, uint32_t index, const struct ds_param *param,
                      enum ds_dtype dtype)
{
    struct ds_safetensors_item *item = &items->items[items->count++];

    *item = (struct ds_safetensors_item){
        .name = items->names[index], .dtype = dtype, .dim_count = param->dim_count};
    memcpy(item->shape, param->shape, sizeof param->shape);
}

ds_status hf_items_add(struct hf_items *items, const struct ds_hf_write_options *options,
                       const struct ds_param *param, const char *name, enum ds_dtype dtype)
{
    const struct ds_quant_form form = hf_quantised_form(options, param, dtype);
    const uint32_t index = items->param_count++;

    items->first[index] = items->count;
    snprintf(items->names[index], sizeof items->names[index], "%s", name);
    if (hf_quantises(options, param))
        return add_matrix(items, index, &form);
    add_plain(items, index, param, dtype);
    return DS_OK;
}
