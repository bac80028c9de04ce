/* update.c - the end of a step: a tied unit's two halves, the norm over all groups, and what the optimizer
 * updates. Everything here queues; nothing waits on the host. */
#include "zero.h"

#include <stddef.h>

ds_status ds_zero_tied_reduce(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(zero->options.tie && u->is_reduced && !u->is_grad_gathered && !leaves(&u->grad));
    if (zero->grads_stay) /* else the reduction before has seen to it */
        DS_TRY(zero_comm_after_compute(zero));
    return ds_comm_all_reduce(zero->options.tie, u->grad.shard, u->layout.shard_elems,
                              u->grad.dtype, DS_REDUCE_SUM, zero->options.comm);
}

/* ---- norm and counts */

ds_status zero_window_pieces(struct ds_zero *zero, const struct zero_unit *u,
                             const struct zero_window *window, uint8_t *at,
                             struct ds_stream *stream)
{
    const uint64_t first = u->first_piece + window->span.start / DS_NORM_PIECE;
    const struct ds_norm_pieces_args args = {
        .x = ds_tensor1(at, u->grad.dtype, window->span.count),
        .sums = ds_tensor1(zero->piece_sums + first, DS_F64, window->span.count / DS_NORM_PIECE),
        .skips = window->skips,
        .skip_count = window->skip_count,
    };

    return zero->kernels->norm_pieces(stream, &args);
}

/* Of what is away they were made with the last sum. */
static ds_status unit_pieces(struct ds_zero *zero, struct zero_unit *u)
{
    u->is_reduced = 0;
    for (uint32_t i = 0; i < u->near_windows; i++)
        DS_TRY(zero_window_pieces(zero, u, &u->windows[i], u->grad.shard, zero->options.compute));
    return DS_OK;
}

static ds_status sum_doubles(struct ds_zero *zero, struct ds_comm *over, double *at, size_t count)
{
    if (!over)
        return DS_OK;
    return ds_comm_all_reduce(over, at, count, DS_F64, DS_REDUCE_SUM, zero->options.comm);
}

ds_status ds_zero_norm(struct ds_zero *zero, struct ds_step_record *record)
{
    const struct ds_zero_options *o = &zero->options;
    const struct ds_norm_sum_args total = {ds_tensor1(zero->piece_sums, DS_F64, zero->piece_count),
                                           record};

    DS_TRY(zero_compute_after_comm(zero));
    for (uint32_t i = 0; i < o->unit_count; i++)
        if (is_here(&zero->units[i]))
            DS_TRY(unit_pieces(zero, &zero->units[i]));
    DS_TRY(zero->kernels->norm_sum(o->compute, &total));
    if (zero->travel.graded)
        DS_TRY(zero->device_ops->event_record(zero->travel.graded, o->compute));

    _Static_assert(offsetof(struct ds_step_record, asked) ==
                           offsetof(struct ds_step_record, loss_sum) + sizeof(double) &&
                       offsetof(struct ds_step_record, norm_squared) ==
                           offsetof(struct ds_step_record, asked) + sizeof(double),
                   "one message sums all three");
    if (zero->is_alone)
        return DS_OK;
    DS_TRY(zero_comm_after_compute(zero));
    DS_TRY(sum_doubles(zero, o->shard, &record->loss_sum, 3));
    DS_TRY(sum_doubles(zero, o->replica, &record->loss_sum, 2)); /* replicas have one norm */
    DS_TRY(sum_doubles(zero, o->norm[0], &record->asked, 2));    /* tensor ranks have one loss */
    DS_TRY(sum_doubles(zero, o->norm[1], &record->loss_sum, 3));
    return zero_compute_after_comm(zero);
}

ds_status ds_zero_sum_tokens(struct ds_zero *zero, struct ds_step_record *record)
{
    if (zero->options.shard->size == 1 && zero->options.replica->size == 1)
        return DS_OK;
    DS_TRY(zero_comm_after_compute(zero));
    DS_TRY(ds_comm_all_reduce(zero->options.shard, &record->trained_tokens, 1, DS_U64,
                              DS_REDUCE_SUM, zero->options.comm));
    DS_TRY(ds_comm_all_reduce(zero->options.replica, &record->trained_tokens, 1, DS_U64,
                              DS_REDUCE_SUM, zero->options.comm));
    return zero_compute_after_comm(zero);
}

/* ---- the update */

/* Stage 0 updates everything everywhere: its whole gradient comes together here. */
static ds_status gather_gradient(struct ds_zero *zero, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);

    if (zero->options.stage != 0 || zero->shard_count == 1 || u->is_grad_gathered)
        return DS_OK;
    u->is_grad_gathered = 1;
    return zero_gather_ready(zero, u, &u->grad);
}

void ds_zero_update_part(const struct ds_zero *zero, uint32_t unit, uint64_t *start,
                         uint64_t *count)
{
    DS_ASSERT(unit < zero->options.unit_count);
    const struct ds_zero_layout *layout = &zero->units[unit].layout;
    const int is_whole = zero->options.stage == 0;

    *start = is_whole ? 0 : layout->shard_elems * zero->shard_rank;
    *count = is_whole ? layout->full_elems : layout->shard_elems;
    if (zero->units[unit].is_frozen)
        *count = 0;
}

struct ds_zero_strips ds_zero_update_strips(const struct ds_zero *zero, uint32_t unit)
{
    DS_ASSERT(unit < zero->options.unit_count);
    return zero->units[unit].strips;
}

uint8_t *zero_near_strip(const struct ds_zero *zero, const struct zero_state *state, uint64_t start)
{
    return element(zero->options.stage == 0 && state->whole ? state->whole : state->shard,
                   state->dtype, start);
}

/* The strip of a kind, in its slot where it is away. */
static struct ds_tensor strip_of(const struct ds_zero *zero, const struct zero_state *state,
                                 uint8_t *fetched, struct ds_span strip)
{
    if (!state->shard && !leaves(state))
        return ds_tensor1(NULL, state->dtype, strip.count);
    if (strip.start >= state->near_elems && leaves(state))
        return ds_tensor1(fetched, state->dtype, strip.count);
    return ds_tensor1(zero_near_strip(zero, state, strip.start), state->dtype, strip.count);
}

static struct ds_zero_state state_of(const struct ds_zero *zero, uint32_t unit, uint32_t index,
                                     uint32_t slot)
{
    static const struct zero_strip_slot nowhere;
    const struct zero_unit *u = unit_at(zero, unit);
    const struct ds_span strip = ds_zero_strip_at(&u->strips, index);
    uint8_t *const *at = slot == DS_ZERO_NO_SLOT ? nowhere.at : zero->travel.slots[slot].at;
    uint64_t start, count;

    ds_zero_update_part(zero, unit, &start, &count);
    return (struct ds_zero_state){
        .master = u->param.dtype == DS_F32 ? strip_of(zero, &u->param, at[DS_ZERO_PARAM], strip)
                                           : strip_of(zero, &u->master, at[DS_ZERO_MASTER], strip),
        .param = strip_of(zero, &u->param, at[DS_ZERO_PARAM], strip),
        .grad = strip_of(zero, &u->grad, at[DS_ZERO_GRAD], strip),
        .exp_avg = strip_of(zero, &u->exp_avg, at[DS_ZERO_EXP_AVG], strip),
        .exp_avg_sq = strip_of(zero, &u->exp_avg_sq, at[DS_ZERO_EXP_AVG_SQ], strip),
        .start = start + strip.start,
        .count = strip.count,
    };
}

/* The first unit behind `unit` that is trained here, or the number of units. */
static uint32_t next_here(const struct ds_zero *zero, uint32_t unit)
{
    do
        unit++;
    while (unit < zero->options.unit_count &&
           (!is_here(&zero->units[unit]) || zero->units[unit].is_frozen));
    return unit;
}

/* ---- who reads a shard while training goes on */

void ds_zero_hold(struct ds_zero *zero, uint32_t unit, struct ds_event *until)
{
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(until && (!u->held || u->held == until));
    DS_ASSERT(!u->held_away || u->held_away == until);
    if (u->strips.host_elems < u->strips.elems) {
        zero->held_count += !u->held;
        u->held = until;
    }
    if (has_host_strips(u)) {
        zero->held_count += !u->held_away;
        u->held_away = until;
    }
}

int ds_zero_is_held(const struct ds_zero *zero)
{
    return zero->held_count > 0;
}

ds_status zero_wait_reader(struct ds_zero *zero, struct ds_event **held, struct ds_stream *stream)
{
    const int is_update = stream != zero->options.store;
    struct ds_timeline *timeline = is_update ? zero->options.timeline : NULL;
    struct ds_event *until = *held;
    uint32_t span;

    if (!until)
        return DS_OK;
    *held = NULL;
    zero->held_count--;
    DS_TRY(ds_timeline_wait(timeline, zero_row_of(zero, stream), DS_TIMELINE_WAIT_COPY, &span));
    DS_TRY(zero->device_ops->stream_wait(stream, until));
    return ds_timeline_end(timeline, span);
}

int ds_zero_updates_beside(const struct ds_zero *zero)
{
    return zero->options.stage != 0 || zero->shard_count == 1;
}

ds_status ds_zero_update_begin(struct ds_zero *zero, struct ds_stream *stream, uint32_t unit,
                               uint32_t strip, uint32_t slot, struct ds_zero_state *out)
{
    const uint32_t next = next_here(zero, unit);
    struct zero_unit *u = unit_at(zero, unit);

    DS_ASSERT(stream == zero->options.compute || ds_zero_updates_beside(zero));
    DS_TRY(gather_gradient(zero, unit));
    if (next < zero->options.unit_count) /* it travels while this one is updated */
        DS_TRY(gather_gradient(zero, next));
    if (zero->options.stage == 0)
        DS_TRY(zero_wait_ready(zero, u));
    if (u->held)
        u->waits = DS_TIMELINE_WAIT_COPY;
    else if (slot != DS_ZERO_NO_SLOT && !u->waits)
        u->waits = DS_TIMELINE_WAIT_OFFLOAD;
    DS_TRY(zero_wait_reader(zero, &u->held, stream));
    if (slot != DS_ZERO_NO_SLOT)
        DS_TRY(zero_wait_fetched(zero, stream, unit, strip, slot));
    *out = state_of(zero, unit, strip, slot);
    return DS_OK;
}

ds_status ds_zero_update_end(struct ds_zero *zero, struct ds_stream *stream, uint32_t unit,
                             uint32_t strip)
{
    const struct zero_unit *u = unit_at(zero, unit);

    return strip + 1 < ds_zero_strip_count(&u->strips) ? DS_OK
                                                       : zero_unit_updated(zero, stream, unit);
}

/* What an update beside the compute stream had to wait for is what that stream waits for now. */
ds_status zero_wait_updated(struct ds_zero *zero, struct zero_unit *u)
{
    struct ds_timeline *timeline = u->waits ? zero->options.timeline : NULL;
    uint32_t span;

    if (!u->is_updating)
        return DS_OK;
    DS_TRY(ds_timeline_wait(timeline, DS_TIMELINE_COMPUTE, (enum ds_timeline_what)u->waits, &span));
    DS_TRY(zero->device_ops->stream_wait(zero->options.compute, u->updated));
    u->is_updating = u->waits = 0;
    return ds_timeline_end(timeline, span);
}

ds_status zero_unit_updated(struct ds_zero *zero, struct ds_stream *stream, uint32_t unit)
{
    struct zero_unit *u = unit_at(zero, unit);
    const int goes_nowhere =
        zero->options.stage == 0 || (zero->shard_count == 1 && !leaves(&u->param));

    u->is_updating = stream != zero->options.compute;
    if (!u->is_updating)
        u->waits = 0;
    if (goes_nowhere && !u->is_updating)
        return DS_OK;
    DS_TRY(zero->device_ops->event_record(u->updated, stream));
    if (goes_nowhere)
        return DS_OK;
    if (zero->options.stage == 3)
        return DS_OK;
    DS_TRY(zero->device_ops->stream_wait(zero->options.comm, u->updated));
    return zero_gather_ready(zero, u, &u->param);
}
