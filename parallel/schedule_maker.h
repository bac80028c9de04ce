/* schedule_maker.h - what the files that make a list hand on: the pieces of each stage in their order
 * (schedule_order), all stages on one clock (schedule_timeline), how long units stay
 * (schedule_windows), the works of one stage (schedule_works), which of them have what they keep on the host
 * in between (schedule_kept), where they find things (schedule_places), the traffic of units around them
 * (schedule_units), and the end of the step (schedule_updates).
 *
 * A piece is a part of the model, forward or backward, with a group of micro-batches: one of them, or
 * on a single stage as many as a window has. */
#ifndef DSTRAIN_SCHEDULE_MAKER_H
#define DSTRAIN_SCHEDULE_MAKER_H

#include "dstrain/schedule.h"

/* BACKWARD is the input part only where parts are split. */
enum piece_kind { PIECE_FORWARD, PIECE_BACKWARD, PIECE_WEIGHT, PIECE_KIND_COUNT };

struct piece {
    enum piece_kind kind;
    uint32_t chunk, group;
    uint32_t start, end; /* ticks */
    /* its units stay gathered for the pieces before this one of the stage; 0: for none */
    uint32_t stays_until;
};

/* ---- order */

/* How far a stage is, in positions of each kind. */
struct order {
    uint32_t position[PIECE_KIND_COUNT];
};

int order_splits(const struct ds_schedule_shape *shape); /* backward in two parts? */
/* on one stage: do head and embedding share a unit? */
int order_is_tied_here(const struct ds_schedule_shape *shape);
uint32_t order_group_size(const struct ds_schedule_shape *shape);
uint32_t order_group_count(const struct ds_schedule_shape *shape);
uint32_t order_micros(const struct ds_schedule_shape *shape, uint32_t group); /* of a group */
uint32_t order_piece_count(const struct ds_schedule_shape *shape);            /* of one stage */
/* Pieces that `stage` would start now, best first; if none of them can start yet it waits. 0: it is
 * done. */
uint32_t order_wishes(const struct ds_schedule_shape *shape, uint32_t stage, struct order *order,
                      struct piece wishes[PIECE_KIND_COUNT]);
void order_advance(struct order *order, const struct piece *piece);

/* ---- timeline */

/* A message: the output of a part (forward) or the gradient of its input (backward) goes on. */
struct hop {
    uint32_t moment;
    uint32_t from, to; /* stages */
    uint32_t part, group;
    uint32_t is_gradient;
};

/* What one stage sees of it. */
struct timeline {
    /* owns */
    struct piece *pieces;
    struct hop *hops; /* by moment; the same order on both ends */
    uint32_t piece_count, hop_count;
    uint32_t ticks, busy_ticks;
};

DS_CHECKED ds_status timeline_make(const struct ds_schedule_shape *shape, struct timeline *out);
void timeline_fini(struct timeline *timeline);

/* ---- windows */

DS_CHECKED ds_status windows_find(const struct ds_schedule_shape *shape, struct timeline *timeline);

/* ---- works: arithmetic of one block with one micro-batch; exchanges between, and what comes and goes */

struct work {
    enum ds_action_kind kind;
    uint32_t micro, block;
    uint8_t needs_weights, makes_grads;
    uint8_t
        keeps_saved; /* FORWARD: backward reads what it saves, not what is made again; EVICT_KEPT,
                            FETCH_KEPT: that goes along */
    uint32_t piece, stays_until; /* see struct piece */
    uint32_t turn;               /* how much arithmetic is before it */
    uint32_t
        next_use[4]; /* of the block's units: the next work that needs its weights, or NO_WORK */
    uint32_t transfer_start, transfer_count;
    uint32_t x, dy, out, held, slot, home; /* places */
};
#define NO_WORK UINT32_MAX

struct works {
    /* owns */
    struct work *works;
    struct ds_transfer *transfers;
    uint32_t count, transfer_count;
};

DS_CHECKED ds_status works_make(const struct ds_schedule_shape *shape,
                                const struct timeline *timeline, struct works *out);
void works_fini(struct works *works);

/* puts in what goes to the host and comes back; before next uses are known */
DS_CHECKED ds_status kept_travel(const struct ds_schedule_shape *shape, struct works *works);
static inline int work_is_arithmetic(const struct work *work)
{
    return work->kind != DS_ACTION_EXCHANGE && work->kind != DS_ACTION_EVICT_KEPT &&
           work->kind != DS_ACTION_FETCH_KEPT;
}
static inline int block_is_layer(const struct ds_schedule_shape *shape, uint32_t block)
{
    return block > 0 && block + 1 < shape->block_count;
}

static inline uint32_t part_of(const struct ds_schedule_shape *shape, uint32_t chunk)
{
    return chunk * shape->stage_count + shape->stage;
}

static inline int block_is_here(const struct ds_schedule_shape *shape, uint32_t block)
{
    for (uint32_t c = 0; c < shape->chunk_count; c++)
        if (block >= shape->chunk_first[part_of(shape, c)] &&
            block < shape->chunk_first[part_of(shape, c) + 1])
            return 1;
    return 0;
}

static inline int unit_is_trained(const struct ds_schedule_shape *shape, uint32_t unit)
{
    return !shape->is_frozen || !shape->is_frozen[unit];
}

/* ---- places */

/* Numbered places that are used in turn: the longest free is taken first, its last user is done
 * soonest. */
struct pool {
    /* owns */
    uint32_t *free; /* a ring */
    uint32_t capacity, first, free_count;
    uint32_t count; /* places that exist */
};

DS_CHECKED ds_status pool_init(struct pool *pool, uint32_t count);
void pool_fini(struct pool *pool);
/* a free place, or one more */
DS_CHECKED ds_status pool_take(struct pool *pool, uint32_t *place);
void pool_give(struct pool *pool, uint32_t place);

/* fills in the works' places; counts go to the list */
DS_CHECKED ds_status places_assign(const struct ds_schedule_shape *shape, struct works *works,
                                   struct ds_schedule *list);

/* ---- the list itself */

DS_CHECKED ds_status list_append(struct ds_schedule *list, struct ds_action action);

/* ---- updates */

/* of all strips of a unit */
DS_CHECKED ds_status updates_of_unit(const struct ds_schedule_shape *shape, uint32_t unit,
                                     struct ds_schedule *list);
/* the verdict, and behind it what is not late; `user_count` [unit]: blocks of this stage that use it */
DS_CHECKED ds_status updates_at_end(const struct ds_schedule_shape *shape,
                                    const uint32_t *user_count, struct ds_schedule *list);
/* around the updates of a list that is complete but for that: how strips come and go */
DS_CHECKED ds_status updates_travel(const struct ds_schedule_shape *shape,
                                    struct ds_schedule *list);

/* ---- units */

/* The list's actions, slots and classes for one way to share slots. */
enum { UNITS_VARIANTS = 8 };
DS_CHECKED ds_status units_emit(const struct ds_schedule_shape *shape, uint32_t variant,
                                const struct works *works, struct ds_schedule *out);

#endif
