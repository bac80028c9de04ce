/* open.c - taking the memory of all units: states in whole or in shards as the stage says, and the slots
 * in which gathered weights and local gradients take turns. Nothing is taken later. */
#include "zero.h"

#include <stdlib.h>

struct ds_zero_dtypes ds_zero_dtypes_fp32(void)
{
    return (struct ds_zero_dtypes){DS_F32, DS_F32, DS_F32, DS_F32, DS_F32, DS_MASTER_FP32};
}

/* What does not go together is refused where the configuration is read; here it is a bug. */
static void check_dtypes(const struct ds_zero_dtypes *d)
{
    DS_ASSERT(d->param == DS_F32 || d->param == DS_BF16 || d->param == DS_F16);
    DS_ASSERT(d->reduce == DS_F32 || d->reduce == DS_BF16 || d->reduce == DS_F16);
    DS_ASSERT(d->gradient == DS_F32 || d->gradient == DS_BF16);
    DS_ASSERT(d->exp_avg == DS_F32 || d->exp_avg == DS_BF16);
    DS_ASSERT(d->exp_avg_sq == DS_F32 || d->exp_avg_sq == DS_BF16);
    DS_ASSERT(d->param == DS_BF16 || d->master == DS_MASTER_FP32);
}

static int needs_weight_slots(const struct ds_zero_options *options)
{
    return options->stage == 3 &&
           (options->shard->size > 1 || options->homes.home[DS_ZERO_PARAM] != DS_HOME_DEVICE);
}

/* Has it a place in slots: a local gradient, or weights that are not always here? */
static int uses_slots(const struct ds_zero_options *options, const struct ds_zero_unit_spec *unit,
                      int is_gradient)
{
    if (is_gradient)
        return !unit->is_frozen;
    return unit->pack || needs_weight_slots(options);
}

static uint64_t class_elems_max(const struct ds_zero_options *options, uint32_t slot_class,
                                int is_gradient)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < options->unit_count; i++) {
        const struct ds_zero_unit_spec *unit = &options->units[i];
        struct ds_zero_layout layout =
            ds_zero_layout_of(unit->elems, unit->pack ? 1 : options->shard->size);
        if (unit->slot_class == slot_class && uses_slots(options, unit, is_gradient) &&
            layout.full_elems > most)
            most = layout.full_elems;
    }
    return most;
}

int zero_grads_stay(const struct ds_zero_options *options)
{
    for (uint32_t i = 0; i < options->unit_count; i++)
        if (options->units[i].sum_count > 0)
            return 0;
    return options->adds_in_place && options->homes.home[DS_ZERO_GRAD] == DS_HOME_DEVICE &&
           options->shard->size == 1 && options->replica->size == 1 &&
           options->dtypes.reduce == options->dtypes.gradient;
}

static int is_alone_in(const struct ds_comm *group)
{
    return group == NULL || group->size == 1;
}

/* The stages of a pipeline talk on the same stream, and the norm is a sum over them; sums of partial gradients
 * are between tensor ranks, as norm[0] is. */
static int is_alone(const struct ds_zero_options *options)
{
    return is_alone_in(options->shard) && is_alone_in(options->replica) &&
           is_alone_in(options->norm[0]) && is_alone_in(options->norm[1]) &&
           is_alone_in(options->tie);
}

uint64_t ds_zero_slot_bytes(const struct ds_zero_options *options, struct ds_zero_slots slots)
{
    uint64_t bytes = 0;

    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        if (options->is_training && !zero_grads_stay(options))
            bytes += slots.grad_count[c] *
                     dtype_bytes(options->dtypes.reduce, class_elems_max(options, c, 1));
        bytes += slots.weight_count[c] *
                 (dtype_bytes(options->dtypes.param, class_elems_max(options, c, 0)) +
                  zero_packed_bytes_max(options, c));
    }
    if (options->is_training)
        bytes += slots.strip_count * zero_strip_slot_bytes(options) + zero_grad_slot_bytes(options);
    return bytes;
}

typedef ds_status take_fn(struct ds_zero *zero, enum ds_memory_label label, size_t bytes,
                          uint8_t **at);

static ds_status take(struct ds_zero *zero, enum ds_memory_label label, size_t bytes, uint8_t **at)
{
    void *memory = NULL;

    DS_TRY(ds_memory_take(zero->options.memory, DS_MEMORY_DEVICE, label, bytes, &memory));
    *at = memory;
    return DS_OK;
}

/* What weights are gathered from and into. */
static ds_status take_weights(struct ds_zero *zero, enum ds_memory_label label, size_t bytes,
                              uint8_t **at)
{
    void *memory = NULL;

    if (!zero->options.registers)
        return take(zero, label, bytes, at);
    DS_TRY(ds_memory_take_symmetric(zero->options.memory, label, bytes, &memory));
    *at = memory;
    return DS_OK;
}

static ds_status take_state(struct ds_zero *zero, const struct zero_unit *unit, int is_whole,
                            enum ds_memory_label label, enum ds_dtype dtype,
                            struct zero_state *state)
{
    const struct ds_zero_layout *layout = &unit->layout;
    take_fn *take_it = state == &unit->param ? take_weights : take;

    state->dtype = dtype;
    state->near_elems = layout->shard_elems;
    if (!is_whole)
        return take_it(zero, label, dtype_bytes(dtype, layout->shard_elems), &state->shard);
    DS_TRY(take_it(zero, label, dtype_bytes(dtype, layout->full_elems), &state->whole));
    state->shard = element(state->whole, dtype, layout->shard_elems * zero->shard_rank);
    return DS_OK;
}

/* Some of it may be away; whole copies never are. */
static ds_status take_placed(struct ds_zero *zero, struct zero_unit *unit, enum ds_zero_kind kind,
                             enum ds_memory_label label, enum ds_dtype dtype)
{
    const uint64_t elems = unit->layout.shard_elems, near = unit->strips.near_elems[kind];
    struct zero_state *state = zero_state_at(unit, kind);
    state->kind = (uint8_t)kind;
    const int is_whole = zero->options.stage < (kind == DS_ZERO_PARAM ? 3 : 1);
    void *away = NULL;

    if (near >= elems)
        return take_state(zero, unit, is_whole || zero->shard_count == 1, label, dtype, state);
    DS_ASSERT(!is_whole || zero->shard_count == 1);
    state->dtype = dtype;
    state->near_elems = near;
    DS_TRY(take(zero, label, dtype_bytes(dtype, near), &state->shard));
    if (zero->options.homes.home[kind] == DS_HOME_NVME) {
        zero_files_reserve(zero, state, elems - near, !unit->is_frozen);
        return DS_OK;
    }
    DS_TRY(ds_memory_take(zero->options.memory, DS_MEMORY_PINNED, label,
                          dtype_bytes(dtype, elems - near), &away));
    state->away = away;
    return DS_OK;
}

static ds_status take_states(struct ds_zero *zero, struct zero_unit *unit)
{
    const struct ds_zero_dtypes *d = &zero->options.dtypes;

    DS_ASSERT(!unit->pack || unit->is_frozen);
    DS_TRY(take_placed(zero, unit, DS_ZERO_PARAM, DS_MEMORY_LABEL_PARAMS,
                       unit->pack ? DS_U8 : d->param));
    if (!zero->options.is_training || unit->is_frozen)
        return DS_OK;
    if (has_master(d))
        DS_TRY(take_placed(zero, unit, DS_ZERO_MASTER, DS_MEMORY_LABEL_MASTER,
                           d->master == DS_MASTER_FP32 ? DS_F32 : DS_I16));
    DS_TRY(take_placed(zero, unit, DS_ZERO_GRAD, DS_MEMORY_LABEL_GRADS, d->gradient));
    DS_TRY(take_placed(zero, unit, DS_ZERO_EXP_AVG, DS_MEMORY_LABEL_EXP_AVG, d->exp_avg));
    return take_placed(zero, unit, DS_ZERO_EXP_AVG_SQ, DS_MEMORY_LABEL_EXP_AVG_SQ, d->exp_avg_sq);
}

/* What lies between parameters is in every sum and so must be zero in every local gradient. */
static ds_status find_gaps(const struct ds_zero_unit_spec *spec, struct zero_unit *unit)
{
    uint64_t end = 0;

    unit->gaps = calloc(spec->param_count + 1, sizeof *unit->gaps);
    if (!unit->gaps)
        return ds_fail(DS_ERR_NO_MEMORY, "%u gaps of a unit", spec->param_count + 1);
    for (uint32_t i = 0; i < spec->param_count; i++) {
        DS_ASSERT(spec->params[i].start >= end);
        if (spec->params[i].start > end)
            unit->gaps[unit->gap_count++] = (struct ds_span){end, spec->params[i].start - end};
        end = spec->params[i].start + spec->params[i].count;
    }
    DS_ASSERT(end <= unit->layout.elems);
    if (unit->layout.full_elems > end)
        unit->gaps[unit->gap_count++] = (struct ds_span){end, unit->layout.full_elems - end};
    return DS_OK;
}

/* Room for all of a unit's copies, however many this window has: ranks of one role take the same. */
static ds_status place_skips(struct ds_zero *zero, const struct ds_zero_unit_spec *spec,
                             const struct zero_unit *unit, struct zero_window *window,
                             struct ds_span *cut)
{
    const struct ds_zero_options *o = &zero->options;
    const struct ds_span shard = ds_zero_layout_shard(&unit->layout, zero->shard_rank);
    const uint64_t start = shard.start + window->span.start, end = start + window->span.count;
    uint8_t *at;

    DS_TRY(take(zero, DS_MEMORY_LABEL_WORKSPACE, spec->foreign_count * sizeof *cut, &at));
    window->skips = (struct ds_span *)(void *)at;
    for (uint32_t i = 0; i < spec->foreign_count; i++) {
        const struct ds_span *foreign = &spec->foreign[i];
        const uint64_t foreign_end = foreign->start + foreign->count;
        const uint64_t lo = foreign->start > start ? foreign->start : start;
        const uint64_t hi = foreign_end < end ? foreign_end : end;
        if (lo < hi)
            cut[window->skip_count++] = (struct ds_span){lo - start, hi - lo};
    }
    if (window->skip_count == 0)
        return DS_OK;
    DS_TRY(zero->device_ops->copy(o->compute, at, cut, window->skip_count * sizeof *cut));
    return zero->device_ops->stream_sync(o->compute);
}

static ds_status find_skips(struct ds_zero *zero, const struct ds_zero_unit_spec *spec,
                            const struct zero_unit *unit, struct zero_window *window)
{
    struct ds_span *cut;
    ds_status st;

    if (spec->foreign_count == 0)
        return DS_OK;
    cut = calloc(spec->foreign_count, sizeof *cut);
    if (!cut)
        return ds_fail(DS_ERR_NO_MEMORY, "%u copies in a unit", spec->foreign_count);
    st = place_skips(zero, spec, unit, window, cut);
    free(cut);
    return st;
}

/* What is near is one, what is away as many as travel. */
static ds_status open_windows(struct ds_zero *zero, const struct ds_zero_unit_spec *spec,
                              struct zero_unit *unit)
{
    const uint64_t elems = unit->layout.shard_elems, each = unit->strips.strip_elems;
    const uint64_t wanted = unit->strips.near_elems[DS_ZERO_GRAD];
    const uint64_t near = wanted < elems ? wanted : elems;
    const uint32_t count = (uint32_t)((near > 0) + (elems - near + each - 1) / each);

    if (!zero->options.is_training || unit->is_frozen)
        return DS_OK;
    unit->windows = calloc(count, sizeof *unit->windows);
    if (!unit->windows)
        return ds_fail(DS_ERR_NO_MEMORY, "%u parts of a gradient", count);
    unit->near_windows = near > 0;
    for (uint64_t at = 0, end; at < elems; at = end) {
        struct zero_window *window = &unit->windows[unit->window_count++];
        end = at < near ? near : elems - at < each ? elems : at + each;
        window->span = (struct ds_span){at, end - at};
        DS_TRY(find_skips(zero, spec, unit, window));
    }
    return near < elems ? zero->device_ops->event_open(zero->options.device, &unit->stored) : DS_OK;
}

static struct ds_zero_strips strips_of(const struct ds_zero *zero,
                                       const struct ds_zero_unit_spec *spec,
                                       const struct ds_zero_layout *layout)
{
    const uint64_t elems = zero->options.stage == 0 ? layout->full_elems : layout->shard_elems;
    struct ds_zero_strips near = {.elems = elems, .strip_elems = DS_ZERO_CUT_ELEMS};

    if (spec->strips.elems > 0) {
        DS_ASSERT(spec->strips.elems == elems);
        return spec->strips;
    }
    for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
        near.near_elems[kind] = elems;
    return near;
}

static ds_status open_unit(struct ds_zero *zero, uint32_t index)
{
    const struct ds_zero_unit_spec *spec = &zero->options.units[index];
    struct zero_unit *unit = &zero->units[index];

    DS_ASSERT(spec->slot_class < DS_ZERO_SLOT_CLASSES);
    unit->pack = spec->elems > 0 ? spec->pack : NULL;
    unit->layout = unit->pack ? ds_zero_layout_packed(unit->pack->bytes, zero->shard_count)
                              : ds_zero_layout_of(spec->elems, zero->shard_count);
    unit->slot_class = spec->slot_class;
    unit->is_frozen = spec->is_frozen;
    unit->strips = strips_of(zero, spec, &unit->layout);
    unit->weight_slot = unit->grad_slot = NO_SLOT;
    if (!is_here(unit))
        return DS_OK;
    if (!unit->is_frozen)
        DS_TRY(find_gaps(spec, unit));
    DS_TRY(open_windows(zero, spec, unit));
    DS_TRY(take_states(zero, unit));
    DS_TRY(zero->device_ops->event_open(zero->options.device, &unit->ready));
    return zero->device_ops->event_open(zero->options.device, &unit->updated);
}

static ds_status open_slots(struct ds_zero *zero, uint32_t slot_class, enum ds_dtype dtype,
                            uint32_t count, struct zero_slots *slots)
{
    const int is_gradient = slots == &zero->grad_slots[slot_class];
    const uint64_t elems = class_elems_max(&zero->options, slot_class, is_gradient);
    const uint64_t packed = is_gradient ? 0 : zero_packed_bytes_max(&zero->options, slot_class);
    take_fn *take_it = is_gradient ? take : take_weights;

    if (count == 0 || elems == 0)
        return DS_OK;
    slots->slots = calloc(count, sizeof *slots->slots);
    if (!slots->slots)
        return ds_fail(DS_ERR_NO_MEMORY, "%u slots", count);
    slots->count = count;
    for (uint32_t i = 0; i < count; i++) {
        slots->slots[i].holder = NO_SLOT;
        DS_TRY(
            take_it(zero, DS_MEMORY_LABEL_SLOTS, dtype_bytes(dtype, elems), &slots->slots[i].at));
        if (packed > 0)
            DS_TRY(take_it(zero, DS_MEMORY_LABEL_SLOTS, packed, &slots->slots[i].packed));
        DS_TRY(zero->device_ops->event_open(zero->options.device, &slots->slots[i].idle));
    }
    return DS_OK;
}

static ds_status open_all(struct ds_zero *zero)
{
    const struct ds_zero_options *o = &zero->options;
    uint8_t *sums = NULL;

    DS_TRY(zero_files_open(zero));
    for (uint32_t i = 0; i < o->unit_count; i++) {
        DS_TRY(open_unit(zero, i));
        zero->units[i].first_piece = zero->piece_count;
        if (!zero->units[i].is_frozen)
            zero->piece_count += zero->units[i].layout.shard_elems / DS_NORM_PIECE;
    }
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        DS_TRY(
            open_slots(zero, c, o->dtypes.param, o->slots.weight_count[c], &zero->weight_slots[c]));
        if (o->is_training && !zero->grads_stay)
            DS_TRY(open_slots(zero, c, o->dtypes.reduce, o->slots.grad_count[c],
                              &zero->grad_slots[c]));
    }
    if (o->is_training)
        DS_TRY(
            take(zero, DS_MEMORY_LABEL_WORKSPACE, dtype_bytes(DS_F64, zero->piece_count), &sums));
    zero->piece_sums = (double *)(void *)sums;
    DS_TRY(zero_staging_open(zero));
    DS_TRY(zero_travel_open(zero));
    return zero->device_ops->event_open(zero->options.device, &zero->handover);
}

ds_status ds_zero_open(const struct ds_zero_options *options, struct ds_zero **out)
{
    struct ds_zero *zero = calloc(1, sizeof *zero);
    ds_status st;

    check_dtypes(&options->dtypes);
    if (!zero)
        return ds_fail(DS_ERR_NO_MEMORY, "the state of ZeRO");
    zero->options = *options;
    zero->device_ops = options->device->ops;
    zero->kernels = options->device->ops->kernels;
    zero->shard_rank = options->shard->rank;
    zero->shard_count = options->shard->size;
    zero->grads_stay = zero_grads_stay(options);
    zero->is_alone = is_alone(options);
    zero->units = calloc(options->unit_count, sizeof *zero->units);
    if (!zero->units) {
        st = ds_fail(DS_ERR_NO_MEMORY, "%u units", options->unit_count);
        goto fail;
    }
    DS_TRY_GOTO(st, open_all(zero), fail);
    *out = zero;
    return DS_OK;

fail:
    ds_zero_close(zero);
    return st;
}

/* ---- what weights are gathered from and into, for the group that gathers them */

static ds_status register_unit(struct ds_zero *zero, const struct zero_unit *u)
{
    const struct zero_state *param = &u->param;
    const uint64_t elems = param->whole ? u->layout.full_elems : u->layout.shard_elems;

    if (!is_here(u) || leaves(param)) /* sent from where it was brought */
        return DS_OK;
    return ds_comm_register_memory(zero->options.shard, param->whole ? param->whole : param->shard,
                                   dtype_bytes(param->dtype, elems));
}

static ds_status register_slots(struct ds_zero *zero, uint32_t slot_class)
{
    const struct zero_slots *slots = &zero->weight_slots[slot_class];
    const size_t bytes =
        dtype_bytes(zero->options.dtypes.param, class_elems_max(&zero->options, slot_class, 0));

    const size_t packed = zero_packed_bytes_max(&zero->options, slot_class);

    for (uint32_t i = 0; i < slots->count; i++) {
        DS_TRY(ds_comm_register_memory(zero->options.shard, slots->slots[i].at, bytes));
        if (packed > 0)
            DS_TRY(ds_comm_register_memory(zero->options.shard, slots->slots[i].packed, packed));
    }
    return DS_OK;
}

ds_status ds_zero_register(struct ds_zero *zero)
{
    if (!zero->options.registers)
        return DS_OK;
    for (uint32_t i = 0; i < zero->options.unit_count; i++)
        DS_TRY(register_unit(zero, &zero->units[i]));
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++)
        DS_TRY(register_slots(zero, c));
    return DS_OK;
}

static void close_slots(struct ds_zero *zero, struct zero_slots *slots)
{
    for (uint32_t i = 0; i < slots->count; i++)
        zero_close_event(zero, slots->slots[i].idle);
    free(slots->slots);
}

void ds_zero_close(struct ds_zero *zero)
{
    if (!zero)
        return;
    for (uint32_t i = 0; zero->units && i < zero->options.unit_count; i++) {
        zero_close_event(zero, zero->units[i].ready);
        zero_close_event(zero, zero->units[i].updated);
        zero_close_event(zero, zero->units[i].stored);
        free(zero->units[i].windows);
        free(zero->units[i].gaps);
    }
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        close_slots(zero, &zero->weight_slots[c]);
        close_slots(zero, &zero->grad_slots[c]);
    }
    zero_close_event(zero, zero->handover);
    zero_travel_close(zero);
    zero_files_close(zero);
    zero_staging_close(zero);
    free(zero->units);
    free(zero);
}
