/* layout.c - where each parameter lives inside a flat unit, and who owns which part.
 *
 * Pure: no memory, no communicator, no device. ZeRO uses it to place shards, the optimizer to find its
 * range, the checkpoint to reshard from one shard count to another. The picture is in
 * dstrain/zero.h. */
#include "dstrain/zero.h"

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

uint64_t ds_zero_layout_place(uint64_t end, int is_new_group)
{
    return is_new_group ? round_up(end, DS_ZERO_GROUP_ELEMS) : end;
}

struct ds_zero_layout ds_zero_layout_of(uint64_t unit_elems, uint32_t shard_count)
{
    struct ds_zero_layout layout = {.elems = unit_elems, .shard_count = shard_count};

    DS_ASSERT(shard_count > 0);
    layout.shard_elems = round_up((unit_elems + shard_count - 1) / shard_count, DS_ZERO_CUT_ELEMS);
    layout.full_elems = layout.shard_elems * shard_count;
    return layout;
}

struct ds_zero_layout ds_zero_layout_packed(uint64_t bytes, uint32_t shard_count)
{
    struct ds_zero_layout layout = ds_zero_layout_of(bytes / 2 + bytes % 2, shard_count);

    layout.elems = bytes;
    layout.shard_elems *= 2;
    layout.full_elems *= 2;
    return layout;
}

struct ds_span ds_zero_layout_shard(const struct ds_zero_layout *layout, uint32_t shard_rank)
{
    DS_ASSERT(shard_rank < layout->shard_count);
    return (struct ds_span){layout->shard_elems * shard_rank, layout->shard_elems};
}

struct ds_span ds_zero_layout_owned(const struct ds_zero_layout *layout, uint32_t shard_rank,
                                    struct ds_span param)
{
    struct ds_span shard = ds_zero_layout_shard(layout, shard_rank);
    uint64_t lo = param.start > shard.start ? param.start : shard.start;
    uint64_t param_end = param.start + param.count, shard_end = shard.start + shard.count;
    uint64_t hi = param_end < shard_end ? param_end : shard_end;

    return (struct ds_span){lo, hi > lo ? hi - lo : 0};
}
