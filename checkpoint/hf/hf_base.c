/* hf_base.c - which weights an adapter is for: what they come to, in the metadata of its file, which other readers pass
 * over. The settings beside it are peft's, and have no place for that. */
#include "hf_base.h"
#include "hf_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUM_KEY   "dstrain.base_sum"
#define DTYPE_KEY "dstrain.base_dtype"

enum ds_dtype ds_hf_dtype(const struct ds_hf *hf)
{
    const struct ds_safetensors *file = NULL;
    const struct ds_safetensors_entry *entry =
        hf ? hf_find(hf, "model.layers.0.self_attn.q_proj.weight", &file) : NULL;

    return entry ? entry->dtype : DS_F32;
}

void hf_base_print(const struct ds_hf_base *base, struct hf_base_text *out)
{
    snprintf(out->sum, sizeof out->sum, "%016" PRIx64, base->sum);
    const char *const metadata[] = {SUM_KEY, out->sum, DTYPE_KEY, ds_dtype_name(base->dtype), NULL};

    memcpy(out->metadata, metadata, sizeof metadata);
}

/* Of what is no such number nothing is known. */
static int read_base(const struct ds_hf *adapter, struct ds_hf_base *out)
{
    const char *sum = hf_metadata(adapter, SUM_KEY), *dtype = hf_metadata(adapter, DTYPE_KEY);
    char *end;

    if (!sum || !dtype || strlen(sum) != 16 || !ds_dtype_parse(dtype, &out->dtype))
        return 0;
    out->sum = strtoull(sum, &end, 16);
    return *end == '\0';
}

int ds_hf_knows_base(const struct ds_hf *adapter)
{
    struct ds_hf_base base;

    return read_base(adapter, &base);
}

ds_status ds_hf_check_base(const struct ds_hf *adapter, const char *model,
                           const struct ds_hf_base *found)
{
    struct ds_hf_base base;

    if (!read_base(adapter, &base) || base.sum == found->sum)
        return DS_OK;
    if (base.dtype != found->dtype) {
        ds_warn("%s: stored as %s, and its adapter was trained beside %s: nobody can tell whether "
                "that was this model",
                model[0] ? model : "the model", ds_dtype_name(found->dtype),
                ds_dtype_name(base.dtype));
        return DS_OK;
    }
    return ds_fail(DS_ERR_DATA,
                   "%s: its weights are not those beside which its adapter was trained (%s); name "
                   "the folder of that model",
                   model[0] ? model : "the model", hf_first_path(adapter));
}
