/* executor_kept_files.c - what layers keep, in files in between (swap.h): each home is the blocks of the layer's input and
 * behind them those of what was saved, and what goes there or comes passes through slots of pinned memory. A home is
 * written, read and written again: its place, without memory of its own, puts the streams in that order, as it does where
 * homes are memory, and the blocks put their files in it. */
#include "executor_kept.h"

#include "dstrain/device.h"

/* Slots each way are those of so many homes: one passes the link, one its drives. */
enum { HOMES_AT_ONCE = 2 };

/* ---- sizes */

static size_t in_pages(size_t bytes)
{
    return (bytes + DS_FS_DIRECT_ALIGN - 1) / DS_FS_DIRECT_ALIGN * DS_FS_DIRECT_ALIGN;
}

static uint32_t blocks_of(const struct kept *kept, size_t bytes)
{
    return (uint32_t)((bytes + kept->block_bytes - 1) / kept->block_bytes);
}

static struct ds_swap_shape shape_of(const struct kept *kept)
{
    const uint32_t each = blocks_of(kept, kept->input_bytes) + blocks_of(kept, kept->saved_bytes);
    const uint32_t homes = kept->homes.count < HOMES_AT_ONCE ? kept->homes.count : HOMES_AT_ONCE;

    return (struct ds_swap_shape){
        .drive_count = kept->drive_count,
        .slot_bytes = kept->block_bytes,
        .slot_count =
            {[DS_SWAP_LOAD] = homes * each, [DS_SWAP_STORE] = homes * each, [DS_SWAP_COPY] = 1},
        .block_count = kept->homes.count * each,
    };
}

/* ---- open */

/* All blocks but the last are whole. */
static void reserve(struct kept *kept, size_t bytes)
{
    if (bytes / kept->block_bytes > 0)
        (void)ds_swap_reserve(kept->swap, kept->block_bytes, (uint32_t)(bytes / kept->block_bytes));
    if (bytes % kept->block_bytes > 0)
        (void)ds_swap_reserve(kept->swap, in_pages(bytes % kept->block_bytes), 1);
}

ds_status kept_files_open(struct kept *kept, struct ds_memory *memory)
{
    const size_t most =
        kept->input_bytes > kept->saved_bytes ? kept->input_bytes : kept->saved_bytes;
    void *slots = NULL;

    if (kept->block_bytes > in_pages(most))
        kept->block_bytes = in_pages(most);
    const struct ds_swap_shape shape = shape_of(kept);
    DS_TRY(ds_memory_take(memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                          ds_swap_slots_bytes(&shape), &slots));
    DS_TRY(ds_swap_open(&shape, slots, &kept->swap));
    for (uint32_t home = 0; home < kept->homes.count; home++) {
        reserve(kept, kept->input_bytes);
        reserve(kept, kept->saved_bytes);
    }
    return DS_OK;
}

static uint64_t part_bytes(const struct kept *kept, size_t bytes, uint32_t first)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < blocks_of(kept, bytes); i++)
        sum += ds_swap_block_bytes(kept->swap, first + i);
    return sum;
}

uint64_t kept_files_bytes(const struct kept *kept, size_t saved_bytes)
{
    return part_bytes(kept, kept->input_bytes, 0) +
           part_bytes(kept, saved_bytes, blocks_of(kept, kept->input_bytes));
}

/* ---- on its way */

static ds_status take_out(const struct kept *kept, uint32_t block, const uint8_t *from,
                          size_t bytes)
{
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(kept->swap, DS_SWAP_STORE, block, &slot));
    DS_TRY(ds_stream_await(kept->out, slot.empty));
    DS_TRY(kept->out->device->ops->copy(kept->out, slot.at, from, bytes));
    return ds_stream_signal(kept->out, slot.full);
}

static ds_status bring_in(const struct kept *kept, uint32_t block, uint8_t *to, size_t bytes)
{
    struct ds_swap_slot slot;

    DS_TRY(ds_swap_queue(kept->swap, DS_SWAP_LOAD, block, &slot));
    DS_TRY(ds_stream_await(kept->in, slot.full));
    DS_TRY(kept->in->device->ops->copy(kept->in, to, slot.at, bytes));
    return ds_stream_signal(kept->in, slot.empty);
}

static ds_status move_part(const struct kept *kept, uint32_t block, const struct place *place,
                           size_t bytes, int is_out)
{
    for (size_t at = 0, run; at < bytes; at += run, block++) {
        run = bytes - at < kept->block_bytes ? bytes - at : kept->block_bytes;
        DS_TRY(is_out ? take_out(kept, block, place->at + at, run)
                      : bring_in(kept, block, place->at + at, run));
    }
    return DS_OK;
}

ds_status kept_files_move(const struct kept *kept, const struct kept_places *places,
                          struct ds_stream *stream)
{
    const uint32_t inputs = blocks_of(kept, kept->input_bytes);
    const uint32_t each = inputs + blocks_of(kept, kept->saved_bytes);
    const uint32_t first = (uint32_t)(places->home - kept->homes.places) * each;
    const int is_out = stream == kept->out;

    DS_TRY(move_part(kept, first, places->input, kept->input_bytes, is_out));
    return places->saved
               ? move_part(kept, first + inputs, places->saved, places->saved_bytes, is_out)
               : DS_OK;
}
