/* schedule_places.c - where one stage's works find and leave things: the residual stream and its
 * gradient between blocks, what layers save for their backward, what an input part leaves for its
 * weight part, what is on the host in between. Going along the works, a place is taken when it is first
 * written and free after its last reader; after a copy some works later, that run beside it. */
#include "schedule_maker.h"

#include <stdlib.h>

/* ---- pools */

ds_status pool_init(struct pool *pool, uint32_t count)
{
    *pool = (struct pool){.capacity = count, .free_count = count, .count = count};
    if (count == 0)
        return DS_OK;
    pool->free = malloc(count * sizeof *pool->free);
    if (!pool->free)
        return ds_fail(DS_ERR_NO_MEMORY, "%u places of a schedule", count);
    for (uint32_t i = 0; i < count; i++)
        pool->free[i] = i;
    return DS_OK;
}

void pool_fini(struct pool *pool)
{
    free(pool->free);
    *pool = (struct pool){0};
}

/* Only called where none is free, so that nothing is in the ring. */
static ds_status pool_grow(struct pool *pool)
{
    if (pool->count == pool->capacity) {
        const uint32_t capacity = pool->capacity ? 2 * pool->capacity : 16;
        uint32_t *more = realloc(pool->free, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "%u places of a schedule", capacity);
        pool->free = more;
        pool->capacity = capacity;
        pool->first = 0;
    }
    pool_give(pool, pool->count++);
    return DS_OK;
}

ds_status pool_take(struct pool *pool, uint32_t *place)
{
    if (pool->free_count == 0)
        DS_TRY(pool_grow(pool));
    *place = pool->free[pool->first];
    pool->first = (pool->first + 1) % pool->capacity;
    pool->free_count--;
    return DS_OK;
}

void pool_give(struct pool *pool, uint32_t place)
{
    pool->free[(pool->first + pool->free_count++) % pool->capacity] = place;
}

/* ---- going along */

struct walker {
    const struct ds_schedule_shape *shape;
    struct works *works;
    struct pool streams, saved, held, homes;
    uint32_t leaving; /* what went to the host before this work has its places free */
    /* owns: [block][micro] places. gradients: of a block's input */
    uint32_t *tables;
    /* borrows: of tables */
    uint32_t *outputs, *gradients, *saved_at, *held_at, *home_at;
};

static uint32_t *at(const struct walker *w, uint32_t *table, uint32_t micro, uint32_t block)
{
    return &table[(size_t)block * w->shape->micro_count + micro];
}

static ds_status walk_forward(struct walker *w, struct work *work)
{
    if (work->block > 0)
        work->x = *at(w, w->outputs, work->micro, work->block - 1);
    DS_TRY(pool_take(&w->streams, &work->out));
    *at(w, w->outputs, work->micro, work->block) = work->out;
    if (block_is_layer(w->shape, work->block)) {
        DS_TRY(pool_take(&w->saved, &work->slot));
        *at(w, w->saved_at, work->micro, work->block) = work->slot;
        if (!work->keeps_saved)
            pool_give(&w->saved, work->slot);
    }
    if (work->block > 0 && !w->shape->is_training)
        pool_give(&w->streams, work->x);
    return DS_OK;
}

static ds_status walk_loss(struct walker *w, struct work *work)
{
    work->x = *at(w, w->outputs, work->micro, work->block - 1);
    if (w->shape->is_training) {
        DS_TRY(pool_take(&w->streams, &work->out));
        *at(w, w->gradients, work->micro, work->block) = work->out;
    }
    pool_give(&w->streams, work->x);
    return DS_OK;
}

static ds_status walk_recompute(struct walker *w, struct work *work)
{
    work->x = *at(w, w->outputs, work->micro, work->block - 1);
    DS_TRY(pool_take(&w->saved, &work->slot));
    *at(w, w->saved_at, work->micro, work->block) = work->slot;
    return DS_OK;
}

/* what every part of a backward reads */
static void read_backward(struct walker *w, struct work *work)
{
    work->dy = *at(w, w->gradients, work->micro, work->block + 1);
    if (work->block == 0)
        return;
    work->x = *at(w, w->outputs, work->micro, work->block - 1);
    work->slot = *at(w, w->saved_at, work->micro, work->block);
}

static ds_status walk_backward(struct walker *w, struct work *work)
{
    read_backward(w, work);
    if (work->block == 0) {
        pool_give(&w->streams, work->dy);
        return DS_OK;
    }
    work->out = work->dy;
    *at(w, w->gradients, work->micro, work->block) = work->out;
    pool_give(&w->streams, work->x);
    pool_give(&w->saved, work->slot);
    return DS_OK;
}

static ds_status walk_backward_input(struct walker *w, struct work *work)
{
    read_backward(w, work);
    DS_TRY(pool_take(&w->streams, &work->out));
    DS_TRY(pool_take(&w->held, &work->held));
    *at(w, w->gradients, work->micro, work->block) = work->out;
    *at(w, w->held_at, work->micro, work->block) = work->held;
    return DS_OK;
}

static ds_status walk_backward_weight(struct walker *w, struct work *work)
{
    read_backward(w, work);
    pool_give(&w->streams, work->dy);
    if (work->block == 0)
        return DS_OK;
    work->held = *at(w, w->held_at, work->micro, work->block);
    pool_give(&w->streams, work->x);
    pool_give(&w->saved, work->slot);
    pool_give(&w->held, work->held);
    return DS_OK;
}

/* What is received has a place before what is sent leaves its own. */
static ds_status walk_exchange(struct walker *w, const struct work *work)
{
    struct ds_transfer *transfers = &w->works->transfers[work->transfer_start];

    for (uint32_t i = 0; i < work->transfer_count; i++) {
        struct ds_transfer *t = &transfers[i];
        uint32_t *place = at(w, t->is_gradient ? w->gradients : w->outputs, t->micro, t->block);
        if (!t->is_send)
            DS_TRY(pool_take(&w->streams, place));
        t->slot = *place;
    }
    for (uint32_t i = 0; i < work->transfer_count; i++)
        if (transfers[i].is_send)
            pool_give(&w->streams, transfers[i].slot);
    return DS_OK;
}

/* ---- to the host and back */

static ds_status walk_evict(struct walker *w, struct work *work)
{
    work->x = *at(w, w->outputs, work->micro, work->block - 1);
    if (work->keeps_saved)
        work->slot = *at(w, w->saved_at, work->micro, work->block);
    DS_TRY(pool_take(&w->homes, &work->home));
    *at(w, w->home_at, work->micro, work->block) = work->home;
    return DS_OK;
}

static ds_status walk_fetch(struct walker *w, struct work *work)
{
    work->home = *at(w, w->home_at, work->micro, work->block);
    pool_give(&w->homes, work->home);
    DS_TRY(pool_take(&w->streams, &work->x));
    *at(w, w->outputs, work->micro, work->block - 1) = work->x;
    if (!work->keeps_saved)
        return DS_OK;
    DS_TRY(pool_take(&w->saved, &work->slot));
    *at(w, w->saved_at, work->micro, work->block) = work->slot;
    return DS_OK;
}

/* Before a work of this turn. */
static void free_what_left(struct walker *w, const struct work *now)
{
    const struct work *work = &w->works->works[w->leaving];

    for (; work < now && (work->kind != DS_ACTION_EVICT_KEPT ||
                          work->turn + w->shape->kept_distance <= now->turn);
         work++) {
        if (work->kind != DS_ACTION_EVICT_KEPT)
            continue;
        pool_give(&w->streams, work->x);
        if (work->keeps_saved)
            pool_give(&w->saved, work->slot);
    }
    w->leaving = (uint32_t)(work - w->works->works);
}

static ds_status walk(struct walker *w, struct work *work)
{
    switch ((int)work->kind) {
    case DS_ACTION_FORWARD:
        return walk_forward(w, work);
    case DS_ACTION_LOSS:
        return walk_loss(w, work);
    case DS_ACTION_RECOMPUTE:
        return walk_recompute(w, work);
    case DS_ACTION_BACKWARD:
        return walk_backward(w, work);
    case DS_ACTION_BACKWARD_INPUT:
        return walk_backward_input(w, work);
    case DS_ACTION_BACKWARD_WEIGHT:
        return walk_backward_weight(w, work);
    case DS_ACTION_EVICT_KEPT:
        return walk_evict(w, work);
    case DS_ACTION_FETCH_KEPT:
        return walk_fetch(w, work);
    default:
        return walk_exchange(w, work);
    }
}

static ds_status walk_all(struct walker *w)
{
    for (uint32_t i = 0; i < w->works->count; i++) {
        free_what_left(w, &w->works->works[i]);
        DS_TRY(walk(w, &w->works->works[i]));
    }
    return DS_OK;
}

ds_status places_assign(const struct ds_schedule_shape *shape, struct works *works,
                        struct ds_schedule *list)
{
    const size_t cells = (size_t)shape->block_count * shape->micro_count;
    struct walker w = {.shape = shape, .works = works};
    ds_status st;

    w.tables = malloc(5 * cells * sizeof *w.tables);
    if (!w.tables) {
        st = ds_fail(DS_ERR_NO_MEMORY, "places of %zu pieces", cells);
    } else {
        w.outputs = w.tables;
        w.gradients = w.tables + cells;
        w.saved_at = w.tables + 2 * cells;
        w.held_at = w.tables + 3 * cells;
        w.home_at = w.tables + 4 * cells;
        st = walk_all(&w);
    }
    list->stream_slot_count = w.streams.count;
    list->saved_slot_count = w.saved.count;
    list->held_slot_count = w.held.count;
    list->home_count = w.homes.count;
    pool_fini(&w.streams);
    pool_fini(&w.saved);
    pool_fini(&w.held);
    pool_fini(&w.homes);
    free(w.tables);
    return st;
}
