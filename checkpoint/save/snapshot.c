/* snapshot.c - see snapshot.h. */
#include "snapshot.h"

#include <inttypes.h>
#include <stdlib.h>

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + DS_PACK_ALIGN - 1) / DS_PACK_ALIGN * DS_PACK_ALIGN;
}

/* ---- how a state of the catalogue is stored on the device */

static int is_in_two(const struct ds_zero_dtypes *dtypes, enum ds_state_kind kind)
{
    return kind == DS_STATE_KIND_MASTER && dtypes->param != DS_F32 &&
           dtypes->master == DS_MASTER_REMAINDER16;
}

static enum ds_zero_kind stored_as(const struct ds_zero_dtypes *dtypes, enum ds_state_kind kind)
{
    if (kind == DS_STATE_KIND_EXP_AVG)
        return DS_ZERO_EXP_AVG;
    if (kind == DS_STATE_KIND_EXP_AVG_SQ)
        return DS_ZERO_EXP_AVG_SQ;
    return kind == DS_STATE_KIND_MASTER && dtypes->param != DS_F32 && !is_in_two(dtypes, kind)
               ? DS_ZERO_MASTER
               : DS_ZERO_PARAM;
}

/* ---- places */

/* Of a unit on any rank that has a shard of it: ranks of one role take the same. Each piece may waste a little, one
 * in two halves twice that; a parameter has three at most. */
static uint64_t unit_bytes(const struct ds_saver_options *o, uint32_t unit)
{
    const uint64_t param_count = o->unit_param_counts[unit];
    static const enum ds_zero_kind kinds[] = {DS_ZERO_PARAM, DS_ZERO_MASTER, DS_ZERO_EXP_AVG,
                                              DS_ZERO_EXP_AVG_SQ};
    const int in_two = is_in_two(o->dtypes, DS_STATE_KIND_MASTER);
    const enum ds_zero_kind weight =
        stored_as(o->dtypes,
                  o->dtypes->master == DS_MASTER_NONE ? DS_STATE_KIND_PARAM : DS_STATE_KIND_MASTER);
    uint64_t bytes = 0;

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        enum ds_dtype dtype;
        const uint64_t elems = ds_zero_shard_elems(o->zero, unit, kinds[i], &dtype);
        const int is_copied = kinds[i] >= DS_ZERO_EXP_AVG || kinds[i] == weight || in_two;

        if (is_copied)
            bytes += elems * ds_dtype_bytes(dtype) + param_count * DS_PACK_ALIGN;
    }
    return bytes;
}

static uint64_t piece_bytes(const struct ds_saver_options *o, const struct ds_state_piece *piece,
                            uint64_t *first_half)
{
    const uint64_t elems = piece->piece.end - piece->piece.begin;
    const size_t elem_bytes = ds_dtype_bytes(o->catalogue->tensors[piece->piece.tensor].dtype);

    *first_half = 0;
    if (!is_in_two(o->dtypes, piece->kind))
        return aligned(elems * elem_bytes);
    *first_half = aligned(elems * sizeof(uint16_t));
    return 2 * *first_half;
}

/* No rank of the role has more of them: a chunk ends where 4 MiB or the piece do. */
static uint64_t unit_chunks(const struct ds_saver_options *o, uint32_t unit)
{
    static const enum ds_zero_kind kinds[] = {DS_ZERO_PARAM, DS_ZERO_EXP_AVG, DS_ZERO_EXP_AVG_SQ};
    uint64_t count = 0;

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        enum ds_dtype dtype;
        const uint64_t elems = ds_zero_shard_elems(o->zero, unit, kinds[i], &dtype);

        count += elems * sizeof(float) / DS_PACK_CHUNK_BYTES + o->unit_param_counts[unit];
    }
    return count;
}

/* What it takes where some pieces are still. */
static uint64_t copied_bytes(const struct snapshot *s, const struct snapshot_unit *unit)
{
    uint64_t bytes = 0, first_half;

    for (uint32_t i = unit->first; i < unit->first + unit->count; i++)
        if (!s->pieces[i].is_still)
            bytes += piece_bytes(s->options, &s->pieces[i].from, &first_half);
    return bytes;
}

/* Units in their order. Returns the bytes of the largest turn. */
static uint64_t make_turns(struct snapshot *s, uint64_t bytes_max)
{
    uint64_t used = 0, most = 0;

    s->turn_count = 0;
    s->saved_bytes = 0;
    for (uint32_t i = 0; i < s->unit_count; i++) {
        const uint64_t bytes = s->first_still < s->piece_count
                                   ? copied_bytes(s, &s->units[i])
                                   : unit_bytes(s->options, s->units[i].unit);

        if (used > 0 && bytes_max > 0 && used + bytes > bytes_max) {
            s->turn_count++;
            used = 0;
        }
        s->units[i].turn = s->turn_count;
        s->saved_bytes += bytes;
        used += bytes;
        most = used > most ? used : most;
    }
    s->turn_count++;
    return most;
}

static void place_pieces(struct snapshot *s, uint8_t *memory)
{
    uint64_t at = 0, first_half;

    for (uint32_t i = 0; i < s->unit_count; i++) {
        const struct snapshot_unit *unit = &s->units[i];

        if (i > 0 && unit->turn != s->units[i - 1].turn)
            at = 0;
        for (uint32_t k = unit->first; k < unit->first + unit->count; k++) {
            struct snapshot_piece *piece = &s->pieces[k];

            if (piece->is_still)
                continue;
            const uint64_t bytes = piece_bytes(s->options, &piece->from, &first_half);

            piece->at = memory + at;
            piece->remainder = first_half ? memory + at + first_half : NULL;
            at += bytes;
            DS_ASSERT(at <= s->bytes);
        }
    }
}

/* ---- opening */

/* Units of which this rank has nothing, but others of its role have something, are there, too. */
static void list_pieces(struct snapshot *s)
{
    const struct ds_saver_options *o = s->options;
    uint32_t next = 0;

    for (uint32_t unit = 0; unit < o->unit_count; unit++) {
        const uint32_t first = s->piece_count;

        for (; next < o->piece_count && o->pieces[next].unit == unit; next++)
            if (o->pieces[next].is_written)
                s->pieces[s->piece_count++].from = o->pieces[next];
        DS_ASSERT(o->saves_unit[unit] || s->piece_count == first);
        if (o->saves_unit[unit])
            s->units[s->unit_count++] = (struct snapshot_unit){
                .unit = unit, .first = first, .count = s->piece_count - first};
    }
}

static ds_status take_host(const struct snapshot *s, void **at)
{
    return ds_memory_take(s->options->memory, DS_MEMORY_HOST, DS_MEMORY_LABEL_SNAPSHOT,
                          DS_PACK_CHUNK_BYTES, at);
}

static ds_status take_chunks(struct snapshot *s)
{
    DS_TRY(take_host(s, &s->read_back));
    if (s->options->has_mirror)
        DS_TRY(take_host(s, &s->mirror_buffer));
    for (uint32_t i = 0; i < SNAPSHOT_JOINS && is_in_two(s->options->dtypes, DS_STATE_KIND_MASTER);
         i++) {
        void *at = NULL;

        DS_TRY(take_host(s, &at));
        s->joins[i] = at;
    }
    return DS_OK;
}

static size_t table_bytes(const struct snapshot *s)
{
    uint64_t chunk_count = 0;

    for (uint32_t i = 0; i < s->unit_count; i++)
        chunk_count += unit_chunks(s->options, s->units[i].unit);
    return ds_delta_bytes(chunk_count);
}

/* Which pieces lie in files alone, and where. */
static ds_status find_still(struct snapshot *s)
{
    const struct ds_saver_options *o = s->options;
    const uint32_t block_count = ds_zero_block_count(o->zero);

    s->first_still = s->piece_count;
    if (block_count == 0)
        return DS_OK;
    s->stills = calloc(block_count, sizeof *s->stills);
    if (!s->stills)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the list of a snapshot");
    for (uint32_t i = 0; i < s->piece_count; i++) {
        struct snapshot_piece *piece = &s->pieces[i];
        const struct ds_state_piece *from = &piece->from;
        const struct ds_span span = {from->start, from->piece.end - from->piece.begin};

        piece->may_be_still =
            !is_in_two(o->dtypes, from->kind) &&
            ds_zero_still_at(o->zero, from->unit, stored_as(o->dtypes, from->kind), span,
                             &piece->block, &piece->offset);
    }
    return DS_OK;
}

void snapshot_set_still(struct snapshot *s, int is_still)
{
    const uint64_t saved_bytes = s->saved_bytes; /* of all, however they are saved */

    s->first_still = s->piece_count;
    for (uint32_t i = s->piece_count; i > 0; i--) {
        struct snapshot_piece *piece = &s->pieces[i - 1];

        piece->is_still = piece->may_be_still && is_still;
        if (piece->is_still)
            s->first_still = i - 1;
    }
    if (s->unit_count == 0)
        return;
    (void)make_turns(s, s->options->buffer_bytes);
    s->saved_bytes = saved_bytes;
    place_pieces(s, s->memory);
}

static ds_status take_memory(struct snapshot *s)
{
    const struct ds_saver_options *o = s->options;
    void *memory = NULL;

    if (s->unit_count == 0)
        return DS_OK;
    s->bytes = make_turns(s, o->buffer_bytes);
    if (o->buffer_bytes > 0 && s->bytes > o->buffer_bytes)
        return ds_fail(DS_ERR_CONFIG,
                       "%s = %" PRIu64 " is too little: the largest unit needs %" PRIu64
                       " bytes; nearest: %" PRIu64,
                       o->buffer_place, o->buffer_bytes, s->bytes, s->bytes);
    DS_TRY(
        ds_memory_take(o->memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_SNAPSHOT, s->bytes, &memory));
    s->memory = memory;
    if (ds_zero_has_away(o->zero))
        DS_TRY(ds_memory_take(o->memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_SNAPSHOT,
                              DS_PACK_CHUNK_BYTES, &s->bounce));
    place_pieces(s, s->memory);
    DS_TRY(ds_memory_take(o->memory, DS_MEMORY_HOST, DS_MEMORY_LABEL_SNAPSHOT, table_bytes(s),
                          &s->tables));
    return take_chunks(s);
}

static ds_status make_plan(struct snapshot *s)
{
    struct ds_piece *pieces = calloc(s->piece_count + 1u, sizeof *pieces);
    uint32_t piece = 0;

    if (!pieces)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the plan of checkpoints");
    for (uint32_t i = 0; i < s->piece_count; i++)
        pieces[i] = s->pieces[i].from.piece;
    ds_status st = ds_pack_plan_make(s->options->catalogue, pieces, s->piece_count,
                                     DS_PACK_CHUNKS_MAX, &s->plan);
    free(pieces);
    DS_TRY(st);
    s->piece_of = calloc(s->plan.chunk_count + 1u, sizeof *s->piece_of);
    if (!s->piece_of)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the plan of checkpoints");
    DS_ASSERT(ds_delta_bytes(s->plan.chunk_count) <= table_bytes(s));
    for (uint32_t i = 0; i < s->plan.chunk_count; i++) {
        s->piece_of[i] = piece;
        piece += s->plan.chunks[i].end == s->pieces[piece].from.piece.end;
    }
    return DS_OK;
}

static ds_status open_events(struct snapshot *s)
{
    const struct ds_saver_options *o = s->options;
    const struct ds_device_ops *ops = o->device->ops;

    DS_TRY(ops->stream_open(o->device, DS_STREAM_WORKER, &s->stream));
    DS_TRY(ops->event_open(o->device, &s->before));
    for (uint32_t i = 0; i < s->unit_count; i++)
        DS_TRY(ops->event_open(o->device, &s->units[i].copied));
    return DS_OK;
}

static ds_status open_all(struct snapshot *s)
{
    s->pieces = calloc(s->options->piece_count + 1u, sizeof *s->pieces);
    s->units = calloc(s->options->unit_count + 1u, sizeof *s->units);
    if (!s->pieces || !s->units)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the list of a snapshot");
    list_pieces(s);
    DS_TRY(find_still(s));
    DS_TRY(take_memory(s));
    DS_TRY(make_plan(s));
    return open_events(s);
}

ds_status snapshot_open(const struct ds_saver_options *options, struct snapshot *out)
{
    *out = (struct snapshot){.options = options};
    ds_status st = open_all(out);
    if (st != DS_OK)
        snapshot_close(out);
    return st;
}

static void close_events(const struct snapshot *s)
{
    const struct ds_device_ops *ops = s->options ? s->options->device->ops : NULL;

    if (s->stream)
        ops->stream_close(s->stream);
    if (s->before)
        ops->event_close(s->before);
    for (uint32_t i = 0; s->units && i < s->unit_count; i++)
        if (s->units[i].copied)
            ops->event_close(s->units[i].copied);
}

void snapshot_leave(struct snapshot *s)
{
    struct ds_memory *memory = s->options->memory;

    close_events(s);
    ds_memory_leave(memory, s->memory);
    ds_memory_leave(memory, s->tables);
    ds_memory_leave(memory, s->read_back);
    ds_memory_leave(memory, s->mirror_buffer);
    for (uint32_t i = 0; i < SNAPSHOT_JOINS; i++)
        ds_memory_leave(memory, s->joins[i]);
}

void snapshot_close(struct snapshot *s)
{
    close_events(s);
    ds_pack_plan_fini(&s->plan);
    free(s->pieces);
    free(s->units);
    free(s->piece_of);
    free(s->stills);
    *s = (struct snapshot){0};
}

/* ---- copies */

ds_status snapshot_begin(struct snapshot *s, const struct ds_saver_still *still)
{
    const struct ds_saver_options *o = s->options;

    s->queued_units = s->copied_units = 0;
    s->is_frozen = 0;
    if (s->first_still < s->piece_count)
        DS_TRY(ds_zero_freeze(o->zero, still->files));
    DS_TRY(ds_stream_after(s->stream, o->compute, s->before));
    DS_TRY(ds_zero_evicted(o->zero, s->stream));
    return ds_stream_after(s->stream, o->comm,
                           s->before); /* gathers write a shard's own place, too */
}

/* By way of the device: copies between two places of the host are made by the calling thread, and at once. */
static ds_status copy_away(struct snapshot *s, uint8_t *to, const uint8_t *from, size_t bytes)
{
    const struct ds_device_ops *ops = s->options->device->ops;

    for (size_t at = 0; at < bytes; at += DS_PACK_CHUNK_BYTES) {
        const size_t left = bytes - at,
                     here = left < DS_PACK_CHUNK_BYTES ? left : DS_PACK_CHUNK_BYTES;

        DS_TRY(ops->copy(s->stream, s->bounce, from + at, here));
        DS_TRY(ops->copy(s->stream, to + at, s->bounce, here));
    }
    return DS_OK;
}

/* What lies at two places comes in two copies. */
static ds_status copy(struct snapshot *s, const struct snapshot_piece *piece,
                      enum ds_zero_kind kind, uint8_t *to)
{
    const struct ds_state_piece *from = &piece->from;
    const uint64_t elems = from->piece.end - from->piece.begin;

    for (uint64_t done = 0, run; done < elems; done += run) {
        struct ds_zero_view view;

        DS_TRY(ds_zero_shard(s->options->zero, from->unit, kind, from->start + done, elems - done,
                             s->stream, &view));
        const struct ds_tensor *shard = &view.tensor;
        const size_t elem_bytes = ds_dtype_bytes(shard->dtype);
        uint8_t *at = to + done * elem_bytes;

        run = shard->shape[0];
        if (view.is_away)
            DS_TRY(copy_away(s, at, shard->data, run * elem_bytes));
        else
            DS_TRY(s->options->device->ops->copy(s->stream, at, shard->data, run * elem_bytes));
        if (view.is_read)
            DS_TRY(ds_stream_signal(s->stream, view.is_read));
    }
    return DS_OK;
}

static ds_status copy_unit(struct snapshot *s, const struct snapshot_unit *unit)
{
    const struct ds_zero_dtypes *dtypes = s->options->dtypes;

    for (uint32_t i = unit->first; i < unit->first + unit->count; i++) {
        const struct snapshot_piece *piece = &s->pieces[i];

        if (piece->is_still)
            continue;
        DS_TRY(copy(s, piece, stored_as(dtypes, piece->from.kind), piece->at));
        if (piece->remainder)
            DS_TRY(copy(s, piece, DS_ZERO_MASTER, piece->remainder));
    }
    return s->options->device->ops->event_record(unit->copied, s->stream);
}

ds_status snapshot_queue_turn(struct snapshot *s, uint32_t turn)
{
    while (s->queued_units < s->unit_count && s->units[s->queued_units].turn == turn) {
        const struct snapshot_unit *unit = &s->units[s->queued_units++];

        DS_TRY(copy_unit(s, unit));
        if (turn + 1 == s->turn_count)
            ds_zero_hold(s->options->zero, unit->unit, unit->copied);
    }
    return DS_OK;
}

/* A failure is one of the save, which the writer comes to know with the first piece. */
static int has_frozen(struct snapshot *s)
{
    if (s->is_frozen || s->first_still == s->piece_count)
        return 1;
    s->is_frozen = ds_zero_frozen(s->options->zero, &s->still_status);
    if (s->is_frozen && s->still_status == DS_OK)
        ds_zero_stills(s->options->zero, s->stills);
    return s->is_frozen;
}

ds_status snapshot_poll(struct snapshot *s, int waits, uint32_t *piece_count)
{
    const struct ds_device_ops *ops = s->options->device->ops;
    int is_done = 1;

    while (s->copied_units < s->queued_units && is_done) {
        struct ds_event *copied = s->units[s->copied_units].copied;

        if (waits)
            DS_TRY(ops->event_sync(copied));
        else
            DS_TRY(ops->event_query(copied, &is_done));
        s->copied_units += (uint32_t)is_done;
    }
    DS_TRY(ds_zero_files_status(s->options->zero)); /* what was copied may be nothing */
    *piece_count =
        s->copied_units == s->unit_count ? s->piece_count : s->units[s->copied_units].first;
    if (!has_frozen(s) && *piece_count > s->first_still)
        *piece_count = s->first_still;
    return DS_OK;
}
