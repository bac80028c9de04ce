/* schedule_units.c - the traffic of units around each work: acquire before, prefetch of what comes
 * next, release and reduce after, each with its slot. Which slots there are is found by going along: a
 * unit that must be had and finds no free slot makes one. A prefetch takes only what is free; but of
 * units that stay for a window the very next has its slot, so that a chunk does not begin by waiting. */
#include "schedule_maker.h"

#include <stdlib.h>
#include <string.h>

struct emitter {
    const struct ds_schedule_shape *shape;
    const struct works *works;
    struct ds_schedule *list;
    int keeps;     /* a unit that the next but one work needs is not released */
    uint32_t next; /* no work after the present one and before this misses a unit */
    struct pool weights[DS_ZERO_SLOT_CLASSES], grads[DS_ZERO_SLOT_CLASSES];
    /* owns: [unit] */
    uint32_t *tables;
    /* borrows: of tables */
    uint32_t *weight_slot, *grad_slot; /* where it is now, or DS_NO_SLOT */
    uint32_t *is_acquired;
    uint32_t *user_count; /* blocks of this stage that use it; 0: it is elsewhere */
    uint32_t *missing;    /* blocks that have not added to its local gradient yet */
    uint32_t *is_settled; /* no update of it is to come before it is gathered */
};

static ds_status emit(struct emitter *e, struct ds_action action)
{
    return list_append(e->list, action);
}

static struct ds_action action_of(enum ds_action_kind kind, const struct work *work, uint32_t unit,
                                  uint32_t slot)
{
    return (struct ds_action){.kind = kind,
                              .micro = work->micro,
                              .block = work->block,
                              .unit = unit,
                              .slot = slot,
                              .x = DS_NO_SLOT,
                              .dy = DS_NO_SLOT,
                              .out = DS_NO_SLOT,
                              .held = DS_NO_SLOT,
                              .home = DS_NO_SLOT};
}

static struct pool *pool_of(struct emitter *e, struct pool *pools, uint32_t unit)
{
    return &pools[e->list->slot_class[unit]];
}

/* Late updates of a unit come just before it is gathered for the first time. */
static ds_status settle(struct emitter *e, uint32_t unit)
{
    if (e->is_settled[unit])
        return DS_OK;
    e->is_settled[unit] = 1;
    return updates_of_unit(e->shape, unit, e->list);
}

static ds_status emit_acquire(struct emitter *e, const struct work *work, uint32_t unit)
{
    if (e->is_acquired[unit])
        return DS_OK;
    DS_TRY(settle(e, unit));
    if (e->weight_slot[unit] == DS_NO_SLOT)
        DS_TRY(pool_take(pool_of(e, e->weights, unit), &e->weight_slot[unit]));
    e->is_acquired[unit] = 1;
    return emit(e, action_of(DS_ACTION_ACQUIRE, work, unit, e->weight_slot[unit]));
}

/* For the work `next`; a new slot only if `must`. */
static ds_status emit_prefetch(struct emitter *e, const struct work *next, uint32_t unit, int must)
{
    if (e->weight_slot[unit] != DS_NO_SLOT ||
        (!must && pool_of(e, e->weights, unit)->free_count == 0))
        return DS_OK;
    DS_TRY(settle(e, unit));
    DS_TRY(pool_take(pool_of(e, e->weights, unit), &e->weight_slot[unit]));
    return emit(e, action_of(DS_ACTION_PREFETCH, next, unit, e->weight_slot[unit]));
}

/* `next`: the work that needs the unit's weights next */
static int stays(const struct emitter *e, uint32_t index, uint32_t next)
{
    const struct work *works = e->works->works;

    if (next == NO_WORK)
        return 0;
    const uint32_t turns = works[next].turn - works[index].turn;
    return turns == 1 || (e->keeps && turns == 2) || works[next].piece < works[index].stays_until;
}

static ds_status emit_release(struct emitter *e, uint32_t index, uint32_t unit, uint32_t next)
{
    const uint32_t slot = e->weight_slot[unit];

    if (stays(e, index, next))
        return DS_OK;
    pool_give(pool_of(e, e->weights, unit), slot);
    e->weight_slot[unit] = DS_NO_SLOT;
    e->is_acquired[unit] = 0;
    if (next < e->next)
        e->next = next;
    return emit(e, action_of(DS_ACTION_RELEASE, &e->works->works[index], unit, slot));
}

static ds_status emit_grad_acquire(struct emitter *e, const struct work *work, uint32_t unit)
{
    if (e->grad_slot[unit] == DS_NO_SLOT) {
        DS_TRY(pool_take(pool_of(e, e->grads, unit), &e->grad_slot[unit]));
        e->missing[unit] = e->user_count[unit];
    }
    return emit(e, action_of(DS_ACTION_GRAD_ACQUIRE, work, unit, e->grad_slot[unit]));
}

/* After the last block of this micro-batch that adds to the unit. */
static ds_status emit_reduce(struct emitter *e, const struct work *work, uint32_t unit)
{
    const uint32_t slot = e->grad_slot[unit];

    if (--e->missing[unit] > 0)
        return DS_OK;
    pool_give(pool_of(e, e->grads, unit), slot);
    e->grad_slot[unit] = DS_NO_SLOT;
    return emit(e, action_of(DS_ACTION_REDUCE, work, unit, slot));
}

static int misses_a_unit(const struct emitter *e, const struct work *work)
{
    const struct ds_schedule_block *block = &e->shape->blocks[work->block];

    for (uint32_t i = 0; i < block->unit_count && work->needs_weights; i++)
        if (e->weight_slot[block->units[i]] == DS_NO_SLOT)
            return 1;
    return 0;
}

/* The next work with a unit that is not here and not on its way, or NULL. */
static const struct work *next_gather(struct emitter *e, uint32_t index)
{
    if (e->next <= index)
        e->next = index + 1;
    while (e->next < e->works->count && !misses_a_unit(e, &e->works->works[e->next]))
        e->next++;
    return e->next < e->works->count ? &e->works->works[e->next] : NULL;
}

static ds_status emit_before(struct emitter *e, uint32_t index)
{
    const struct work *work = &e->works->works[index], *next = next_gather(e, index);
    const struct ds_schedule_block *block = &e->shape->blocks[work->block];

    for (uint32_t i = 0; i < block->unit_count && work->needs_weights; i++)
        DS_TRY(emit_acquire(e, work, block->units[i]));
    for (uint32_t i = 0; next && i < e->shape->blocks[next->block].unit_count; i++)
        DS_TRY(emit_prefetch(e, next, e->shape->blocks[next->block].units[i],
                             next->stays_until > 0 && next->turn == work->turn + 1));
    for (uint32_t i = 0; i < block->unit_count && work->makes_grads; i++)
        if (unit_is_trained(e->shape, block->units[i]))
            DS_TRY(emit_grad_acquire(e, work, block->units[i]));
    return DS_OK;
}

static ds_status emit_after(struct emitter *e, uint32_t index)
{
    const struct work *work = &e->works->works[index];
    const struct ds_schedule_block *block = &e->shape->blocks[work->block];

    for (uint32_t i = 0; i < block->unit_count && work->needs_weights; i++)
        DS_TRY(emit_release(e, index, block->units[i], work->next_use[i]));
    for (uint32_t i = 0; i < block->unit_count && work->makes_grads; i++)
        if (unit_is_trained(e->shape, block->units[i]))
            DS_TRY(emit_reduce(e, work, block->units[i]));
    return DS_OK;
}

static ds_status emit_work(struct emitter *e, uint32_t index)
{
    const struct work *work = &e->works->works[index];
    struct ds_action action =
        action_of(work->kind, work, e->shape->blocks[work->block].units[0], work->slot);

    action.x = work->x;
    action.dy = work->dy;
    action.out = work->out;
    action.held = work->held;
    action.home = work->home;
    action.transfer_start = work->transfer_start;
    action.transfer_count = work->transfer_count;
    if (!work_is_arithmetic(work))
        return emit(e, action);
    DS_TRY(emit_before(e, index));
    DS_TRY(emit(e, action));
    return emit_after(e, index);
}

static ds_status emit_step(struct emitter *e)
{
    const struct work none = {.kind = DS_ACTION_BEGIN};

    if (e->shape->is_training)
        DS_TRY(emit(e, action_of(DS_ACTION_BEGIN, &none, 0, DS_NO_SLOT)));
    for (uint32_t i = 0; i < e->works->count; i++)
        DS_TRY(emit_work(e, i));
    if (!e->shape->is_training)
        return DS_OK;
    DS_TRY(updates_at_end(e->shape, e->user_count, e->list));
    return updates_travel(e->shape, e->list);
}

/* ---- the choice of slots. A variant: bit 0: embedding in class 0 with the layers, bit 1: head, bit
 * 2: units are released at once even where the next work but one needs them. */

/* Of a head's own units the largest: the others are small, as an adapter's are. */
static uint32_t largest_of_head(const struct ds_schedule_shape *shape, uint32_t embedding,
                                uint32_t *slot_class)
{
    const struct ds_schedule_block *head = &shape->blocks[shape->block_count - 1];
    uint32_t largest = head->units[0];

    for (uint32_t i = 1; i < head->unit_count; i++) {
        const uint32_t unit = head->units[i];
        const int is_larger =
            shape->unit_cost && shape->unit_cost[unit] > shape->unit_cost[largest];

        if (unit == embedding)
            continue;
        slot_class[is_larger ? largest : unit] = 2;
        largest = is_larger ? unit : largest;
    }
    return largest;
}

static void choose_classes(const struct emitter *e, uint32_t variant)
{
    const struct ds_schedule_shape *shape = e->shape;
    const uint32_t embedding = shape->blocks[0].units[0];
    uint32_t *slot_class = e->list->slot_class;

    if (shape->like) {
        memcpy(slot_class, shape->like->slot_class, shape->unit_count * sizeof *slot_class);
        return;
    }
    for (uint32_t b = 1; b + 1 < shape->block_count; b++)
        for (uint32_t i = 1; i < shape->blocks[b].unit_count; i++)
            slot_class[shape->blocks[b].units[i]] = 2;
    const uint32_t head = largest_of_head(shape, embedding, slot_class);
    if (e->user_count[head] > 0)
        slot_class[head] = variant & 2 ? 0 : 1;
    if (e->user_count[embedding] > 0)
        slot_class[embedding] = variant & 1 ? 0 : 1;
}

static uint32_t units_in_class(const struct emitter *e, uint32_t slot_class, int is_gradient)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < e->shape->unit_count; i++)
        count += e->user_count[i] > 0 && e->list->slot_class[i] == slot_class &&
                 (!is_gradient || unit_is_trained(e->shape, i));
    return count;
}

/* Two slots for what rotates, so that one unit is gathered or reduced while another is used. */
static uint32_t slots_of(uint32_t units, uint32_t slot_class)
{
    return units == 0 ? 0 : slot_class == 1 ? 1 : 2;
}

static ds_status start_pools(struct emitter *e)
{
    const struct ds_schedule *like = e->shape->like;

    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        const uint32_t units = units_in_class(e, c, 0), trained = units_in_class(e, c, 1);
        const uint32_t weights = e->shape->reshard == DS_RESHARD_NEVER ? units : slots_of(units, c);
        DS_TRY(pool_init(&e->weights[c], like ? like->slots.weight_count[c] : weights));
        DS_TRY(pool_init(&e->grads[c], e->shape->is_training ? slots_of(trained, c) : 0));
    }
    return DS_OK;
}

static void count_users(struct emitter *e)
{
    const struct ds_schedule_shape *shape = e->shape;

    for (uint32_t b = 0; b < shape->block_count; b++)
        for (uint32_t i = 0; block_is_here(shape, b) && i < shape->blocks[b].unit_count; i++)
            e->user_count[shape->blocks[b].units[i]]++;
}

static ds_status emitter_init(struct emitter *e)
{
    const size_t n = e->shape->unit_count;
    const int has_late = e->shape->is_training && e->shape->updates == DS_UPDATES_LATE;

    e->tables = calloc(6 * n, sizeof *e->tables);
    e->list->slot_class = calloc(n, sizeof *e->list->slot_class);
    if (!e->tables || !e->list->slot_class)
        return ds_fail(DS_ERR_NO_MEMORY, "a schedule of %zu units", n);
    e->weight_slot = e->tables;
    e->grad_slot = e->tables + n;
    e->is_acquired = e->tables + 2 * n;
    e->user_count = e->tables + 3 * n;
    e->missing = e->tables + 4 * n;
    e->is_settled = e->tables + 5 * n;
    for (size_t i = 0; i < n; i++)
        e->is_settled[i] = !has_late || !unit_is_trained(e->shape, (uint32_t)i);
    memset(e->tables, 0xff, 2 * n * sizeof *e->tables); /* DS_NO_SLOT */
    return DS_OK;
}

ds_status units_emit(const struct ds_schedule_shape *shape, uint32_t variant,
                     const struct works *works, struct ds_schedule *out)
{
    struct emitter e = {.shape = shape, .works = works, .list = out, .keeps = !(variant & 4)};
    ds_status st = emitter_init(&e);

    if (st == DS_OK) {
        count_users(&e);
        choose_classes(&e, variant);
        st = start_pools(&e);
    }
    if (st == DS_OK)
        st = emit_step(&e);
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        out->slots.weight_count[c] = e.weights[c].count;
        out->slots.grad_count[c] = e.grads[c].count;
        pool_fini(&e.weights[c]);
        pool_fini(&e.grads[c]);
    }
    free(e.tables);
    return st;
}
