/* hf_pack.h (private) - parameters of units that are packed (struct ds_zero_pack): quantised from the whole matrix,
 * whoever has which part of it, so that every layout has the same numbers; or taken as they are from a folder that has
 * them in that form. */
#ifndef DSTRAIN_HF_PACK_H
#define DSTRAIN_HF_PACK_H

#include "dstrain/hf.h"
#include "dstrain/quant_file.h"

/* elements start.. of a parameter's box, in fp32 */
typedef ds_status hf_values_fn(const void *source, const struct ds_param *param, uint64_t start,
                               uint64_t count, float *to);

struct hf_packing {
    const struct ds_hf_target *target;
    const struct ds_param *param;
    const struct ds_zero_packed *part;
    enum ds_dtype dtype; /* of what is not quantised */
    hf_values_fn *values;
    const void *source;
    const struct ds_quant_matrix *stored; /* quantised so already; NULL: it is not */
    float *piece;                         /* room for piece_elems, whole blocks */
    uint64_t piece_elems;
};

/* pure: what values of parameter `index` come to, elements start.. of `box`, which is it, cut or not */
uint64_t hf_sum(uint32_t index, const struct ds_param *box, uint64_t start, uint64_t count,
                const float *values);
/* local: hf_fill.c: values of `param`, elements start.. of `box`, which is it, cut or not, to target->sum, where that is
 * wanted of this rank */
void hf_add_sum(const struct ds_hf_target *target, const struct ds_param *param,
                const struct ds_param *box, uint64_t start, uint64_t count, const float *values);

/* local: brings it into the unit's form, as far as this rank owns that */
DS_CHECKED ds_status hf_pack(const struct hf_packing *packing);

#endif
