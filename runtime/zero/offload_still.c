/* offload_still.c - states in files as they were at one moment, for who saves them: where of the frozen files what lies. */
#include "zero.h"

#define NAP_NS 20000u

/* Masters in two halves are put together before they are saved, and gradients are not saved. */
int zero_is_still(const struct ds_zero_options *o, enum ds_zero_kind kind)
{
    switch (kind) {
    case DS_ZERO_PARAM:
        return o->is_training && !has_master(&o->dtypes);
    case DS_ZERO_MASTER:
        return o->dtypes.master == DS_MASTER_FP32;
    default:
        return kind == DS_ZERO_EXP_AVG || kind == DS_ZERO_EXP_AVG_SQ;
    }
}

/* What is on its way to files goes on by streams, some of which run only where somebody waits for them. */
static ds_status await_last(struct ds_zero *zero)
{
    const struct ds_clock *clock = ds_clock_system();
    ds_status st;

    if (!zero->travel.has_frozen || ds_swap_frozen(zero->travel.swap, &st))
        return DS_OK;
    DS_TRY(zero->device_ops->stream_sync(zero->options.store));
    while (!ds_swap_frozen(zero->travel.swap, &st))
        ds_clock_sleep_ns(clock, NAP_NS);
    return DS_OK;
}

ds_status ds_zero_freeze(struct ds_zero *zero, const int *files)
{
    DS_ASSERT(zero->travel.swap);
    DS_TRY(await_last(zero));
    DS_TRY(zero_files_flush(zero));
    zero->travel.has_frozen = 1;
    return ds_swap_freeze(zero->travel.swap, files);
}

int ds_zero_frozen(const struct ds_zero *zero, ds_status *st)
{
    return ds_swap_frozen(zero->travel.swap, st);
}

uint64_t ds_zero_still_bytes(const struct ds_zero *zero, uint32_t drive)
{
    return zero->travel.swap ? ds_swap_kept_bytes(zero->travel.swap, drive) : 0;
}

uint32_t ds_zero_block_count(const struct ds_zero *zero)
{
    return zero->travel.swap ? ds_swap_block_count(zero->travel.swap) : 0;
}

void ds_zero_stills(const struct ds_zero *zero, struct ds_swap_still *to)
{
    ds_swap_stills(zero->travel.swap, to);
}

int ds_zero_still_at(const struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                     struct ds_span span, uint32_t *block, uint64_t *offset)
{
    const struct zero_state *state = zero_state_at(unit_at(zero, unit), kind);
    uint64_t count = span.count;

    if (!state->is_filed || span.start < state->near_elems ||
        !zero_is_still(&zero->options, kind) || unit_at(zero, unit)->is_frozen)
        return 0;
    *block = zero_block_at(zero, state, span.start, &count, offset);
    return *offset % DS_FS_DIRECT_ALIGN == 0 &&
           dtype_bytes(state->dtype, span.count) % DS_FS_DIRECT_ALIGN == 0;
}
