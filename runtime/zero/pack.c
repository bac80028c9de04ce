/* pack.c - units that are stored in a smaller form than they are used in: from that form, which was gathered, has come
 * from its home or is always here, into a slot, part by part. */
#include "zero.h"

uint64_t zero_packed_bytes_max(const struct ds_zero_options *options, uint32_t slot_class)
{
    uint64_t most = 0;

    const int is_away = options->homes.home[DS_ZERO_PARAM] != DS_HOME_DEVICE;

    if (options->stage < 3 || (options->shard->size == 1 && !is_away)) /* it is here */
        return 0;
    for (uint32_t i = 0; i < options->unit_count; i++) {
        const struct ds_zero_unit_spec *unit = &options->units[i];

        if (unit->pack && unit->elems > 0 && unit->slot_class == slot_class) {
            const uint64_t bytes =
                ds_zero_layout_packed(unit->pack->bytes, options->shard->size).full_elems;
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}

static void place(struct ds_tensor *tensor, uint8_t *packed, uint64_t at)
{
    tensor->data = tensor->dim_count > 0 ? packed + at : NULL;
}

static ds_status unpack_part(struct ds_zero *zero, const struct ds_zero_packed *part,
                             uint8_t *packed, uint8_t *whole)
{
    const enum ds_dtype dtype = zero->options.dtypes.param;
    struct ds_dequantise_args args = part->form;

    args.y = ds_tensor1(element(whole, dtype, part->span.start), dtype, part->span.count);
    if (part->is_plain)
        return zero->device_ops->copy(zero->options.compute, args.y.data, packed + part->codes_at,
                                      dtype_bytes(dtype, part->span.count));
    place(&args.codes, packed, part->codes_at);
    place(&args.absmax, packed, part->absmax_at);
    place(&args.nest_absmax, packed, part->nest_absmax_at);
    place(&args.map, packed, part->map_at);
    place(&args.offset, packed, part->offset_at);
    return zero->kernels->dequantise(zero->options.compute, &args);
}

ds_status zero_unpack(struct ds_zero *zero, struct zero_unit *unit)
{
    struct zero_slot *slot = &zero->weight_slots[unit->slot_class].slots[unit->weight_slot];
    uint8_t *packed = unit->param.whole ? unit->param.whole : slot->packed;

    if (unit->is_unpacked)
        return DS_OK;
    unit->is_unpacked = 1;
    for (uint32_t i = 0; i < unit->pack->part_count; i++)
        DS_TRY(unpack_part(zero, &unit->pack->parts[i], packed, slot->at));
    return DS_OK;
}
