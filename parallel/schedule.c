/* schedule.c - makes the list of one step, in two passes over numbers.
 *
 * The first pass writes down the arithmetic: which block, which micro-batch, forward or backward. The
 * second goes along it and puts the traffic of units around each piece: acquire before, prefetch of
 * what comes next, release and reduce after, each with its slot. Which slots there are is found by
 * going along: a unit that must be had and finds no free slot makes one; a prefetch takes only what is
 * free. Of a few ways to share slots the one with the fewest bytes is taken, the first of equals. */
#include "dstrain/schedule.h"

#include <stdlib.h>
#include <string.h>

const char *const ds_action_names[DS_ACTION_KIND_COUNT] = {
#define ACTION_NAME(name, text) [DS_ACTION_##name] = text,
    DS_ACTION_LIST(ACTION_NAME)};

enum { NO_SLOT = UINT32_MAX, SLOTS_MAX = 16 };

/* One piece of arithmetic. */
struct work {
    enum ds_action_kind kind;
    uint32_t micro, block;
    uint8_t needs_weights, makes_grads;
};

/* Places of one class that units use in turn. */
struct pool {
    uint32_t count;
    uint32_t holder[SLOTS_MAX]; /* unit, or NO_SLOT */
    uint64_t
        freed_at[SLOTS_MAX]; /* the longest free is taken first: its last user is done soonest */
};

struct maker {
    const struct ds_schedule_shape *shape;
    struct ds_schedule *list;
    const struct work *works;
    uint32_t work_count;
    int keeps; /* a unit that the next but one piece needs is not released */
    struct pool weights[DS_ZERO_SLOT_CLASSES], grads[DS_ZERO_SLOT_CLASSES];
    uint32_t *weight_slot, *grad_slot; /* [unit] where it is now */
    uint8_t *is_acquired;              /* [unit] */
    uint64_t now;
};

/* ---- first pass */

static uint32_t plan_works(const struct ds_schedule_shape *shape, struct work *works)
{
    const uint32_t head = shape->block_count - 1;
    uint32_t n = 0;

    for (uint32_t m = 0; m < shape->micro_count; m++) {
        for (uint32_t b = 0; b < head; b++)
            works[n++] = (struct work){DS_ACTION_FORWARD, m, b, 1, 0};
        works[n++] = (struct work){DS_ACTION_LOSS, m, head, 1, (uint8_t)shape->is_training};
        for (uint32_t b = head; shape->is_training && b-- > 0;) {
            if (shape->recomputes && b > 0 && b + 1 < head) /* the last layer's are still there */
                works[n++] = (struct work){DS_ACTION_RECOMPUTE, m, b, 1, 0};
            works[n++] = (struct work){DS_ACTION_BACKWARD, m, b, b > 0, 1}; /* 0: the embedding */
        }
    }
    return n;
}

static int block_has_unit(const struct ds_schedule_block *block, uint32_t unit)
{
    for (uint32_t i = 0; i < block->unit_count; i++)
        if (block->units[i] == unit)
            return 1;
    return 0;
}

/* Does piece `index` need the gathered weights of `unit`? */
static int work_needs(const struct maker *maker, uint32_t index, uint32_t unit)
{
    return index < maker->work_count && maker->works[index].needs_weights &&
           block_has_unit(&maker->shape->blocks[maker->works[index].block], unit);
}

/* ---- second pass */

static ds_status emit(struct maker *maker, struct ds_action action)
{
    struct ds_schedule *list = maker->list;

    if (list->action_count == list->action_capacity) {
        uint32_t capacity = list->action_capacity ? 2 * list->action_capacity : 256;
        struct ds_action *more = realloc(list->actions, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "a list of %u actions", capacity);
        list->actions = more;
        list->action_capacity = capacity;
    }
    list->actions[list->action_count++] = action;
    return DS_OK;
}

/* A free slot, or NO_SLOT; one more is made if it must be. */
static uint32_t pool_take(struct pool *pool, uint32_t unit, int must)
{
    uint32_t best = NO_SLOT;

    for (uint32_t i = 0; i < pool->count; i++)
        if (pool->holder[i] == NO_SLOT &&
            (best == NO_SLOT || pool->freed_at[i] < pool->freed_at[best]))
            best = i;
    if (best == NO_SLOT && must) {
        DS_ASSERT(pool->count < SLOTS_MAX);
        best = pool->count++;
    }
    if (best != NO_SLOT)
        pool->holder[best] = unit;
    return best;
}

static void pool_give(struct pool *pool, uint32_t slot, uint64_t now)
{
    pool->holder[slot] = NO_SLOT;
    pool->freed_at[slot] = now;
}

static ds_status emit_acquire(struct maker *maker, const struct work *work, uint32_t unit)
{
    if (maker->is_acquired[unit])
        return DS_OK;
    if (maker->weight_slot[unit] == NO_SLOT)
        maker->weight_slot[unit] =
            pool_take(&maker->weights[maker->list->slot_class[unit]], unit, 1);
    maker->is_acquired[unit] = 1;
    return emit(maker, (struct ds_action){DS_ACTION_ACQUIRE, work->micro, work->block, unit,
                                          maker->weight_slot[unit]});
}

static ds_status emit_prefetch(struct maker *maker, const struct work *work, uint32_t unit)
{
    if (maker->weight_slot[unit] != NO_SLOT)
        return DS_OK;
    uint32_t slot = pool_take(&maker->weights[maker->list->slot_class[unit]], unit, 0);
    if (slot == NO_SLOT)
        return DS_OK;
    maker->weight_slot[unit] = slot;
    return emit(maker,
                (struct ds_action){DS_ACTION_PREFETCH, work->micro, work->block, unit, slot});
}

static ds_status emit_release(struct maker *maker, uint32_t index, uint32_t unit)
{
    const struct work *work = &maker->works[index];
    uint32_t slot = maker->weight_slot[unit];

    if (work->kind == DS_ACTION_RECOMPUTE)
        return DS_OK;
    if (maker->keeps && (work_needs(maker, index + 1, unit) || work_needs(maker, index + 2, unit)))
        return DS_OK;
    pool_give(&maker->weights[maker->list->slot_class[unit]], slot, ++maker->now);
    maker->weight_slot[unit] = NO_SLOT;
    maker->is_acquired[unit] = 0;
    return emit(maker, (struct ds_action){DS_ACTION_RELEASE, work->micro, work->block, unit, slot});
}

static ds_status emit_grad_acquire(struct maker *maker, const struct work *work, uint32_t unit)
{
    if (maker->grad_slot[unit] == NO_SLOT)
        maker->grad_slot[unit] = pool_take(&maker->grads[maker->list->slot_class[unit]], unit, 1);
    return emit(maker, (struct ds_action){DS_ACTION_GRAD_ACQUIRE, work->micro, work->block, unit,
                                          maker->grad_slot[unit]});
}

/* After the last block of this micro-batch that adds to the unit. */
static ds_status emit_reduce(struct maker *maker, uint32_t index, uint32_t unit)
{
    const struct work *work = &maker->works[index];
    uint32_t slot = maker->grad_slot[unit];

    for (uint32_t i = index + 1; i < maker->work_count && maker->works[i].micro == work->micro; i++)
        if (maker->works[i].makes_grads &&
            block_has_unit(&maker->shape->blocks[maker->works[i].block], unit))
            return DS_OK;
    pool_give(&maker->grads[maker->list->slot_class[unit]], slot, ++maker->now);
    maker->grad_slot[unit] = NO_SLOT;
    return emit(maker, (struct ds_action){DS_ACTION_REDUCE, work->micro, work->block, unit, slot});
}

/* `step` for each unit of the block of piece `index` */
#define FOR_UNITS(maker, block, unit)                                                \
    for (uint32_t i_ = 0, unit; i_ < (maker)->shape->blocks[block].unit_count &&     \
                                (unit = (maker)->shape->blocks[block].units[i_], 1); \
         i_++)

/* The next piece with a unit that is not here yet and not on its way. */
static uint32_t next_gather(const struct maker *maker, uint32_t index)
{
    for (uint32_t next = index + 1; next < maker->work_count; next++)
        if (maker->works[next].needs_weights)
            FOR_UNITS(maker, maker->works[next].block, unit)
    if (maker->weight_slot[unit] == NO_SLOT)
        return next;
    return maker->work_count;
}

/* Where a block's activations lie: a place each; one for all layers where they are made again; one for
 * everything where nothing is kept. */
static uint32_t saved_slot(const struct ds_schedule_shape *shape, uint32_t block)
{
    if (!shape->is_training && !shape->like)
        return 0;
    if (!shape->recomputes || block == 0)
        return block;
    return block + 1 < shape->block_count ? 1 : 2;
}

static ds_status emit_before(struct maker *maker, uint32_t index)
{
    const struct work *work = &maker->works[index];
    const uint32_t next = next_gather(maker, index);

    if (work->needs_weights)
        FOR_UNITS(maker, work->block, unit)
    DS_TRY(emit_acquire(maker, work, unit));
    if (next < maker->work_count)
        FOR_UNITS(maker, maker->works[next].block, unit)
    DS_TRY(emit_prefetch(maker, &maker->works[next], unit));
    if (work->makes_grads)
        FOR_UNITS(maker, work->block, unit)
    DS_TRY(emit_grad_acquire(maker, work, unit));
    return DS_OK;
}

static ds_status emit_after(struct maker *maker, uint32_t index)
{
    const struct work *work = &maker->works[index];

    if (work->needs_weights)
        FOR_UNITS(maker, work->block, unit)
    DS_TRY(emit_release(maker, index, unit));
    if (work->makes_grads)
        FOR_UNITS(maker, work->block, unit)
    DS_TRY(emit_reduce(maker, index, unit));
    return DS_OK;
}

static ds_status emit_step(struct maker *maker)
{
    const int is_training = maker->shape->is_training;

    if (is_training)
        DS_TRY(emit(maker, (struct ds_action){.kind = DS_ACTION_BEGIN}));
    for (uint32_t i = 0; i < maker->work_count; i++) {
        const struct work *work = &maker->works[i];
        DS_TRY(emit_before(maker, i));
        DS_TRY(emit(maker, (struct ds_action){work->kind, work->micro, work->block,
                                              maker->shape->blocks[work->block].units[0],
                                              saved_slot(maker->shape, work->block)}));
        DS_TRY(emit_after(maker, i));
    }
    if (!is_training)
        return DS_OK;
    DS_TRY(emit(maker, (struct ds_action){.kind = DS_ACTION_NORM}));
    for (uint32_t unit = 0; unit < maker->shape->unit_count; unit++)
        DS_TRY(emit(maker, (struct ds_action){.kind = DS_ACTION_UPDATE, .unit = unit}));
    return DS_OK;
}

/* ---- the choice of slots */

static void pool_init(struct pool *pool, uint32_t count)
{
    memset(pool, 0, sizeof *pool);
    pool->count = count;
    for (uint32_t i = 0; i < SLOTS_MAX; i++)
        pool->holder[i] = NO_SLOT;
}

static int class_is_used(const struct ds_schedule *list, uint32_t unit_count, uint32_t slot_class)
{
    for (uint32_t i = 0; i < unit_count; i++)
        if (list->slot_class[i] == slot_class)
            return 1;
    return 0;
}

static void choose_classes(const struct ds_schedule_shape *shape, uint32_t variant,
                           struct ds_schedule *out)
{
    if (shape->like) {
        memcpy(out->slot_class, shape->like->slot_class,
               shape->unit_count * sizeof *out->slot_class);
        return;
    }
    out->slot_class[shape->blocks[shape->block_count - 1].units[0]] = variant & 2 ? 0 : 1;
    out->slot_class[shape->blocks[0].units[0]] = variant & 1 ? 0 : 1;
}

/* A way to share slots: bit 0: embedding in class 0 with the layers, bit 1: head, bit 2: units are
 * released at once even where the next piece but one needs them. */
static ds_status make_variant(const struct ds_schedule_shape *shape, uint32_t variant,
                              const struct work *works, uint32_t work_count,
                              struct ds_schedule *out)
{
    const uint32_t n = shape->unit_count;
    struct maker maker = {.shape = shape,
                          .list = out,
                          .works = works,
                          .work_count = work_count,
                          .keeps = !(variant & 4)};
    uint32_t *unit_slots = malloc(sizeof *unit_slots * 2 * n);
    ds_status st;

    maker.is_acquired = calloc(n, 1);
    out->slot_class = calloc(n, sizeof *out->slot_class);
    if (!unit_slots || !maker.is_acquired || !out->slot_class) {
        st = ds_fail(DS_ERR_NO_MEMORY, "a schedule of %u units", n);
        goto done;
    }
    for (uint32_t i = 0; i < 2 * n; i++)
        unit_slots[i] = NO_SLOT;
    maker.weight_slot = unit_slots;
    maker.grad_slot = unit_slots + n;
    choose_classes(shape, variant, out);
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        uint32_t count = class_is_used(out, n, c) ? (c == 0 ? 2 : 1) : 0;
        pool_init(&maker.weights[c], shape->like ? shape->like->slots.weight_count[c] : count);
        pool_init(&maker.grads[c], shape->is_training ? count : 0);
    }
    st = emit_step(&maker);
    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        out->slots.weight_count[c] = maker.weights[c].count;
        out->slots.grad_count[c] = maker.grads[c].count;
    }
    out->saved_slot_count = saved_slot(shape, shape->block_count - 1) + 1;
    out->is_training = shape->is_training;

done:
    free(unit_slots);
    free(maker.is_acquired);
    return st;
}

static uint64_t slot_elems(const struct ds_schedule_shape *shape, const struct ds_schedule *list)
{
    uint64_t total = 0;

    for (uint32_t c = 0; c < DS_ZERO_SLOT_CLASSES; c++) {
        uint64_t most = 0;
        for (uint32_t i = 0; i < shape->unit_count; i++)
            if (list->slot_class[i] == c && shape->unit_elems[i] > most)
                most = shape->unit_elems[i];
        total += most * (list->slots.grad_count[c] +
                         (shape->zero_stage == 3 ? list->slots.weight_count[c] : 0));
    }
    return total;
}

ds_status ds_schedule_make(const struct ds_schedule_shape *shape, struct ds_schedule *out)
{
    const size_t works_max = (size_t)shape->micro_count * 3 * shape->block_count;
    struct work *works = malloc(works_max * sizeof *works);
    struct ds_schedule best = {0};
    ds_status st = DS_OK;

    DS_ASSERT(shape->block_count >= 2 && shape->micro_count >= 1);
    if (!works)
        return ds_fail(DS_ERR_NO_MEMORY, "a schedule of %zu pieces", works_max);
    uint32_t work_count = plan_works(shape, works);
    for (uint32_t variant = 0; variant < 8 && st == DS_OK; variant++) {
        struct ds_schedule next = {0};
        st = make_variant(shape, variant, works, work_count, &next);
        if (st == DS_OK && (variant == 0 || slot_elems(shape, &next) < slot_elems(shape, &best))) {
            struct ds_schedule other = best;
            best = next;
            next = other;
        }
        ds_schedule_fini(&next);
    }
    free(works);
    if (st != DS_OK) {
        ds_schedule_fini(&best);
        return st;
    }
    *out = best;
    return DS_OK;
}

void ds_schedule_fini(struct ds_schedule *schedule)
{
    free(schedule->actions);
    free(schedule->slot_class);
    *schedule = (struct ds_schedule){0};
}
