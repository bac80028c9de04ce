/* offload_files.c - states that live in files: their blocks, one for every strip and kind, the pinned memory through
 * which they pass, and the host's own reading and writing of them outside of a step. What a run queues of them is in
 * offload.c. */
#include "zero.h"

#include <string.h>

enum { COPY_SLOTS = 2, STRIPS_LEAST = 2 };

/* ---- sizes */

static int is_filed(const struct ds_zero_options *o, enum ds_zero_kind kind)
{
    return o->homes.drive_count > 0 && o->homes.home[kind] == DS_HOME_NVME &&
           (kind == DS_ZERO_PARAM || o->is_training) &&
           (kind != DS_ZERO_MASTER || has_master(&o->dtypes));
}

static uint32_t blocks_of(uint64_t elems, uint64_t strip_elems)
{
    return (uint32_t)((elems + strip_elems - 1) / strip_elems);
}

static uint32_t count_blocks(const struct ds_zero_options *o, enum ds_zero_kind kind)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < o->unit_count; i++) {
        const struct ds_zero_strips *strips = &o->units[i].strips;
        if (o->units[i].elems > 0 && strips->elems > strips->near_elems[kind])
            count += blocks_of(strips->elems - strips->near_elems[kind], strips->strip_elems);
    }
    return count;
}

/* As many strips each way as are updated at once. */
static struct ds_swap_shape shape_of(const struct ds_zero_options *o)
{
    const uint32_t strips =
        o->slots.strip_count > STRIPS_LEAST ? o->slots.strip_count : STRIPS_LEAST;
    struct ds_swap_shape shape = {.drive_count = o->homes.drive_count};

    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++) {
        const size_t bytes = dtype_bytes(zero_kind_dtype(&o->dtypes, kind), o->homes.strip_elems);
        if (!is_filed(o, kind))
            continue;
        shape.block_count += count_blocks(o, kind);
        shape.slot_bytes = bytes > shape.slot_bytes ? bytes : shape.slot_bytes;
        shape.slot_count[DS_SWAP_LOAD] += strips;
        shape.slot_count[DS_SWAP_STORE] += strips;
    }
    shape.slot_count[DS_SWAP_COPY] = COPY_SLOTS;
    return shape;
}

/* ---- open */

static ds_status take_edits(struct ds_zero *zero, size_t bytes)
{
    for (int kind = 0; kind < DS_ZERO_GRAD; kind++) { /* which nobody reads from outside */
        void *at = NULL;

        if (!is_filed(&zero->options, kind))
            continue;
        DS_TRY(ds_memory_take(zero->options.memory, DS_MEMORY_HOST, DS_MEMORY_LABEL_STAGING, bytes,
                              &at));
        zero->travel.edits[kind].at = at;
    }
    return DS_OK;
}

ds_status zero_files_open(struct ds_zero *zero)
{
    const struct ds_swap_shape shape = shape_of(&zero->options);
    void *slots = NULL;

    if (shape.block_count == 0)
        return DS_OK;
    DS_TRY(ds_memory_take(zero->options.memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_STAGING,
                          ds_swap_slots_bytes(&shape), &slots));
    DS_TRY(take_edits(zero, shape.slot_bytes));
    return ds_swap_open(&shape, slots, &zero->travel.swap);
}

void zero_files_close(struct ds_zero *zero)
{
    ds_swap_close(zero->travel.swap);
}

/* Elements of a block: as many of 16 bits, where it is bytes, which a file has in fours of 1024. */
static uint64_t block_elems(const struct ds_zero *zero, const struct zero_state *state)
{
    return zero->options.homes.strip_elems * (state->dtype == DS_U8 ? 2 : 1);
}

void zero_files_reserve(struct ds_zero *zero, struct zero_state *state, uint64_t elems,
                        int is_saved)
{
    const uint64_t strip = block_elems(zero, state);
    struct ds_swap *swap = zero->travel.swap;

    state->is_filed = 1;
    state->first_block =
        ds_swap_reserve(swap, dtype_bytes(state->dtype, strip), (uint32_t)(elems / strip));
    if (elems % strip > 0)
        (void)ds_swap_reserve(swap, dtype_bytes(state->dtype, elems % strip), 1);
    if (is_saved && zero_is_still(&zero->options, state->kind))
        ds_swap_keep(swap, state->first_block, blocks_of(elems, strip));
    zero->travel.filed_bytes[state->kind] += dtype_bytes(state->dtype, elems);
}

uint32_t zero_block_at(const struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                       uint64_t *count, uint64_t *offset)
{
    const uint64_t strip = block_elems(zero, state), at = start - state->near_elems;

    if (*count > strip - at % strip)
        *count = strip - at % strip;
    *offset = dtype_bytes(state->dtype, at % strip);
    return state->first_block + (uint32_t)(at / strip);
}

uint64_t ds_zero_filed_bytes(const struct ds_zero *zero, enum ds_zero_kind kind)
{
    return zero->travel.filed_bytes[kind];
}

uint64_t ds_zero_file_bytes(const struct ds_zero *zero, uint32_t drive)
{
    return zero->travel.swap ? ds_swap_file_bytes(zero->travel.swap, drive) : 0;
}

uint64_t ds_zero_filed_of(const struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                          struct ds_span span)
{
    const struct zero_state *state = zero_state_at(unit_at(zero, unit), kind);
    const uint64_t start = span.start > state->near_elems ? span.start : state->near_elems;
    const uint64_t end = span.start + span.count;

    return state->is_filed && start < end ? dtype_bytes(state->dtype, end - start) : 0;
}

ds_status ds_zero_start_files(struct ds_zero *zero, const struct ds_swap_files *files)
{
    return zero->travel.swap ? ds_swap_start(zero->travel.swap, files) : DS_OK;
}

ds_status ds_zero_files_status(const struct ds_zero *zero)
{
    const struct ds_swap *own = zero->travel.swap, *others = zero->travel.others;
    const ds_status st = own ? ds_swap_status(own) : DS_OK;

    return st == DS_OK && others ? ds_swap_status(others) : st;
}

void ds_zero_heed_files(struct ds_zero *zero, const struct ds_swap *others)
{
    zero->travel.others = others;
}

void ds_zero_abandon_files(struct ds_zero *zero)
{
    if (zero)
        ds_swap_abandon(zero->travel.swap);
}

/* ---- graphs */

void ds_zero_record_begin(struct ds_zero *zero, uint32_t turn)
{
    if (zero->travel.swap)
        ds_swap_record_begin(zero->travel.swap, turn);
}

void ds_zero_record_end(struct ds_zero *zero)
{
    if (zero->travel.swap)
        ds_swap_record_end(zero->travel.swap);
}

ds_status ds_zero_record_launch(struct ds_zero *zero, uint32_t turn)
{
    return zero->travel.swap ? ds_swap_launch(zero->travel.swap, turn) : DS_OK;
}

/* ---- the host */

/* Nobody else is at the lanes then. */
static ds_status wait_for_streams(struct ds_zero *zero)
{
    DS_TRY(zero->device_ops->stream_sync(zero->options.load));
    return zero->device_ops->stream_sync(zero->options.store);
}

static ds_status flush(struct ds_zero *zero, struct zero_edit *edit)
{
    if (!edit->is_changed)
        return DS_OK;
    edit->is_changed = 0;
    DS_TRY(wait_for_streams(zero));
    DS_TRY(ds_swap_write(zero->travel.swap, edit->block, edit->at));
    edit->version = ds_swap_version(zero->travel.swap, edit->block);
    return DS_OK;
}

ds_status zero_files_flush(struct ds_zero *zero)
{
    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        DS_TRY(flush(zero, &zero->travel.edits[kind]));
    return DS_OK;
}

/* The block, as it is now. */
static ds_status have_block(struct ds_zero *zero, struct zero_edit *edit, uint32_t block)
{
    struct ds_swap *swap = zero->travel.swap;

    if (edit->is_valid && edit->block == block && edit->version == ds_swap_version(swap, block))
        return DS_OK;
    DS_TRY(flush(zero, edit));
    DS_TRY(wait_for_streams(zero));
    edit->is_valid = 0;
    DS_TRY(ds_swap_read(swap, block, edit->at));
    *edit = (struct zero_edit){
        .at = edit->at, .block = block, .version = ds_swap_version(swap, block), .is_valid = 1};
    return DS_OK;
}

ds_status zero_files_edit(struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                          uint64_t count, uint8_t *host, int is_write)
{
    struct zero_edit *edit = &zero->travel.edits[state->kind];

    for (uint64_t done = 0, run; done < count; done += run) {
        uint8_t *part = element(host, state->dtype, done);
        uint64_t offset;
        run = count - done;
        DS_TRY(have_block(zero, edit, zero_block_at(zero, state, start + done, &run, &offset)));
        memcpy(is_write ? edit->at + offset : part, is_write ? part : edit->at + offset,
               dtype_bytes(state->dtype, run));
        edit->is_changed |= (uint8_t)is_write;
    }
    return DS_OK;
}
