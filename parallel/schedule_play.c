/* schedule_play.c - plays the lists of all stages together, without processes or a network, as
 * strictly as any backend may be: each stage communicates one action after another, a message travels
 * when both of its ends have come to it, an exchange ends when all its messages have travelled. What
 * ends here cannot hang.
 *
 * A clock runs along: a part's forward takes 1, each part of its backward 1, counted where the piece
 * begins; or every action what the caller has measured. Messages and collectives take no time. Arithmetic and communication are two streams, as on a device: each goes on as soon as what
 * was before it is done, what it reads is there, and what it overwrites is no longer needed. */
#include "schedule_checker.h"

#include <stdlib.h>

struct stage {
    struct checker checker;
    struct ds_schedule_shape shape;
    /* owns */
    uint64_t *times;
    uint8_t *is_moved; /* [transfer] */
    /* borrows */
    const uint64_t *costs; /* see ds_schedule_play */
    /* borrows: of times */
    uint64_t *settled;                     /* [place] when its last use was over */
    uint64_t *alive;                       /* [chunk] micro-batches under way */
    uint64_t *gathered;                    /* [unit] 1 + when its weights were there; 0: not yet */
    uint64_t *freed[DS_ZERO_SLOT_CLASSES]; /* [slot] when its unit was last used */
    uint64_t *reduced[DS_ZERO_SLOT_CLASSES]; /* [slot] when its gradient had come home */
    uint64_t compute, comm;                  /* when the streams are done with what they have */
    uint64_t busy;                           /* of compute: arithmetic */
    uint64_t begun, ended;                   /* of the group that it is in */
    uint64_t alive_max;
    int is_waiting; /* for other stages, at its present action */
};

struct play {
    struct stage *stages;
    uint32_t stage_count;
};

static void raise_to(uint64_t *time, uint64_t least)
{
    *time = *time > least ? *time : least;
}

static const struct ds_action *action_of(const struct stage *s)
{
    return s->checker.at < s->checker.list->action_count ? &s->checker.list->actions[s->checker.at]
                                                         : NULL;
}

/* ---- the clock of one stage */

static uint32_t chunk_of(const struct ds_schedule_shape *shape, uint32_t block)
{
    uint32_t v = 0;

    while (shape->chunk_first[v + 1] <= block)
        v++;
    return v / shape->stage_count;
}

/* A piece's whole time is spent at its first action. */
static uint32_t ticks_of(const struct ds_schedule_shape *shape, const struct ds_action *action)
{
    const uint32_t part = chunk_of(shape, action->block) * shape->stage_count + shape->stage;
    const uint32_t first = shape->chunk_first[part], last = shape->chunk_first[part + 1] - 1;
    const int splits = shape->kind == DS_SCHEDULE_ZERO_BUBBLE;

    switch ((int)action->kind) {
    case DS_ACTION_FORWARD:
        return action->block == first;
    case DS_ACTION_LOSS:
        return !shape->is_training ? action->block == first : splits ? 1 : 2;
    case DS_ACTION_BACKWARD:
        return action->block == last ? 2 : 0;
    case DS_ACTION_BACKWARD_INPUT:
        return action->block == last;
    case DS_ACTION_BACKWARD_WEIGHT: /* the head has done its own */
        return action->block == last ||
               (action->block == last - 1 && last == shape->block_count - 1);
    default:
        return 0;
    }
}

static void count_alive(struct stage *s, const struct ds_action *action)
{
    const struct ds_schedule_shape *shape = &s->shape;
    const uint32_t chunk = chunk_of(shape, action->block);
    const uint32_t first = shape->chunk_first[chunk * shape->stage_count + shape->stage];
    uint64_t alive = 0;

    if (action->block != first)
        return;
    if (action->kind == DS_ACTION_FORWARD)
        s->alive[chunk]++;
    if (action->kind == DS_ACTION_BACKWARD || action->kind == DS_ACTION_BACKWARD_WEIGHT)
        s->alive[chunk]--;
    for (uint32_t c = 0; c < shape->chunk_count; c++)
        alive += s->alive[c];
    raise_to(&s->alive_max, alive);
}

static void clock_arithmetic(struct stage *s, const struct ds_action *action)
{
    const struct ds_schedule_block *block = &s->shape.blocks[action->block];
    const uint32_t places[] = {action->x, action->dy, action->out};
    const uint64_t cost = s->costs ? s->costs[ds_schedule_cost_at(action->block, action->kind)]
                                   : ticks_of(&s->shape, action);

    for (uint32_t i = 0; i < 3; i++)
        if (places[i] != DS_NO_SLOT)
            raise_to(&s->compute, s->settled[places[i]]);
    for (uint32_t i = 0; i < block->unit_count && s->shape.zero_stage == 3; i++)
        if (s->checker.is_held[block->units[i]])
            raise_to(&s->compute, s->gathered[block->units[i]] - 1);
    s->compute += cost;
    s->busy += cost;
    for (uint32_t i = 0; i < 3; i++)
        if (places[i] != DS_NO_SLOT)
            s->settled[places[i]] = s->compute;
    count_alive(s, action);
}

/* Only stage 3 gathers and has places for what it gathered. */
static void clock_gather(struct stage *s, const struct ds_action *action, uint64_t *freed)
{
    if (s->shape.zero_stage < 3)
        return;
    if (action->kind == DS_ACTION_RELEASE) {
        *freed = s->compute;
        s->gathered[action->unit] = 0;
    } else if (s->gathered[action->unit] == 0) {
        raise_to(&s->comm, *freed);
        s->gathered[action->unit] = s->comm + 1;
    }
}

/* After the checker has played it: its numbers are in range. */
static void clock_action(struct stage *s, const struct ds_action *action)
{
    const uint32_t slot_class = s->checker.list->slot_class[action->unit];

    switch ((int)action->kind) {
    case DS_ACTION_PREFETCH:
    case DS_ACTION_ACQUIRE:
    case DS_ACTION_RELEASE:
        clock_gather(s, action, &s->freed[slot_class][action->slot]);
        break;
    case DS_ACTION_GRAD_ACQUIRE:
        raise_to(&s->compute, s->reduced[slot_class][action->slot]);
        break;
    case DS_ACTION_REDUCE:
        raise_to(&s->comm, s->compute);
        s->reduced[slot_class][action->slot] = s->comm;
        break;
    case DS_ACTION_BEGIN:
    case DS_ACTION_EVICT_KEPT:
    case DS_ACTION_FETCH_KEPT:
    case DS_ACTION_FETCH:
    case DS_ACTION_UPDATE:
    case DS_ACTION_EVICT:
        break;
    default:
        clock_arithmetic(s, action);
    }
}

/* ---- between stages */

static ds_status finish(struct stage *s)
{
    s->is_waiting = 0;
    return checker_play(&s->checker);
}

static const struct ds_transfer *transfers_of(const struct stage *s, const struct ds_action *action)
{
    return &s->checker.list->transfers[action->transfer_start];
}

static ds_status begin_group(struct stage *s, const struct ds_action *action)
{
    const struct ds_schedule *list = s->checker.list;

    PROMISE(&s->checker, action->transfer_start + action->transfer_count <= list->transfer_count,
            "messages that are not in the list");
    s->begun = s->comm;
    for (uint32_t i = 0; i < action->transfer_count; i++) {
        const uint32_t place = transfers_of(s, action)[i].slot;
        PROMISE(&s->checker, place < list->stream_slot_count, "a place that is not in the plan");
        raise_to(&s->begun, s->settled[place]);
    }
    s->ended = s->begun;
    s->is_waiting = 1;
    return DS_OK;
}

/* The message of `peer`'s group that `t` of stage `from` meets: the first of that direction left. */
static uint32_t partner_of(const struct stage *peer, const struct ds_action *group, uint32_t from,
                           const struct ds_transfer *t)
{
    for (uint32_t i = 0; i < group->transfer_count; i++) {
        const struct ds_transfer *other = &transfers_of(peer, group)[i];
        if (!peer->is_moved[group->transfer_start + i] && other->peer == from &&
            !other->is_send == !!t->is_send)
            return group->transfer_start + i;
    }
    return UINT32_MAX;
}

/* One message, if its other end has come to it as well. */
static ds_status move_message(struct play *play, struct stage *s, uint32_t index, int *moves)
{
    const struct ds_transfer *t = &s->checker.list->transfers[index];
    struct stage *peer = &play->stages[t->peer % play->stage_count];
    const struct ds_action *group = action_of(peer);
    uint32_t partner = UINT32_MAX;

    if (peer->is_waiting && group->kind == DS_ACTION_EXCHANGE)
        partner = partner_of(peer, group, s->shape.stage, t);
    if (s->is_moved[index] || partner == UINT32_MAX)
        return DS_OK;
    const struct ds_transfer *other = &peer->checker.list->transfers[partner];
    PROMISE(&s->checker,
            other->micro == t->micro && other->block == t->block &&
                !other->is_gradient == !t->is_gradient,
            "its message meets another one");
    s->is_moved[index] = peer->is_moved[partner] = 1;
    raise_to(&s->ended, peer->begun);
    raise_to(&peer->ended, s->begun);
    *moves = 1;
    return DS_OK;
}

static ds_status try_exchange(struct play *play, struct stage *s, const struct ds_action *action,
                              int *moves)
{
    uint32_t left = 0;

    if (!s->is_waiting) {
        DS_TRY(begin_group(s, action));
        *moves = 1;
    }
    for (uint32_t i = 0; i < action->transfer_count; i++) {
        DS_TRY(move_message(play, s, action->transfer_start + i, moves));
        left += !s->is_moved[action->transfer_start + i];
    }
    if (left > 0)
        return DS_OK;
    s->comm = s->ended;
    for (uint32_t i = 0; i < action->transfer_count; i++)
        s->settled[transfers_of(s, action)[i].slot] = s->ended;
    *moves = 1;
    return finish(s);
}

/* NORM meets all stages, TIED_REDUCE the other end: those that are not at it yet must have been. */
static ds_status try_meeting(struct play *play, struct stage *s, const struct ds_action *action,
                             int *moves)
{
    const uint32_t last = play->stage_count - 1, is_norm = action->kind == DS_ACTION_NORM;

    *moves |= !s->is_waiting;
    s->is_waiting = 1;
    for (uint32_t i = 0; i <= last; i++) {
        const struct stage *other = &play->stages[i];
        const struct ds_action *its = action_of(other);
        const int is_here = other->is_waiting && its->kind == action->kind;
        const int was_here =
            is_norm ? other->checker.is_decided : other->checker.tied_count > s->checker.tied_count;
        if ((is_norm || i == 0 || i == last) && !is_here && !was_here)
            return DS_OK;
    }
    *moves = 1;
    return finish(s);
}

/* The stage's next action, if it can be done now. */
static ds_status advance(struct play *play, struct stage *s, int *moves)
{
    const struct ds_action *action = action_of(s);

    if (!action)
        return DS_OK;
    if (action->kind == DS_ACTION_EXCHANGE)
        return try_exchange(play, s, action, moves);
    if (action->kind == DS_ACTION_NORM || action->kind == DS_ACTION_TIED_REDUCE)
        return try_meeting(play, s, action, moves);
    *moves = 1;
    DS_TRY(finish(s));
    clock_action(s, action);
    return DS_OK;
}

static ds_status play_all(struct play *play)
{
    int moves;

    do {
        moves = 0;
        for (uint32_t i = 0; i < play->stage_count; i++) {
            int again;
            do {
                again = 0;
                DS_TRY(advance(play, &play->stages[i], &again));
                moves |= again;
            } while (again);
        }
    } while (moves);
    for (uint32_t i = 0; i < play->stage_count; i++)
        PROMISE(&play->stages[i].checker, !action_of(&play->stages[i]),
                "the stages wait for one another");
    for (uint32_t i = 0; i < play->stage_count; i++)
        DS_TRY(checker_end(&play->stages[i].checker));
    return DS_OK;
}

/* ---- memory */

static ds_status stage_init(struct stage *s, const struct ds_schedule_shape *shape, uint32_t stage,
                            const struct ds_schedule *list, const uint64_t *costs)
{
    size_t times = list->stream_slot_count + shape->chunk_count + shape->unit_count;

    for (uint32_t k = 0; k < DS_ZERO_SLOT_CLASSES; k++)
        times += list->slots.weight_count[k] + list->slots.grad_count[k];
    s->shape = *shape;
    s->shape.stage = stage;
    s->costs = costs;
    s->times = calloc(times, sizeof *s->times);
    s->is_moved = calloc(list->transfer_count + 1u, 1);
    if (!s->times || !s->is_moved)
        return ds_fail(DS_ERR_NO_MEMORY, "to play a schedule of %u stages", shape->stage_count);
    s->settled = s->times;
    s->alive = s->settled + list->stream_slot_count;
    s->gathered = s->alive + shape->chunk_count;
    s->freed[0] = s->gathered + shape->unit_count;
    for (uint32_t k = 0; k < DS_ZERO_SLOT_CLASSES; k++) {
        s->reduced[k] = s->freed[k] + list->slots.weight_count[k];
        if (k + 1 < DS_ZERO_SLOT_CLASSES)
            s->freed[k + 1] = s->reduced[k] + list->slots.grad_count[k];
    }
    return checker_init(&s->checker, &s->shape, list);
}

static void stage_fini(struct stage *s)
{
    checker_fini(&s->checker);
    free(s->times);
    free(s->is_moved);
}

ds_status ds_schedule_play(const struct ds_schedule_shape *shape, const struct ds_schedule *lists,
                           const uint64_t *costs, struct ds_schedule_played *stages)
{
    struct play play = {.stage_count = shape->stage_count};
    ds_status st = DS_OK;

    play.stages = calloc(shape->stage_count, sizeof *play.stages);
    if (!play.stages)
        return ds_fail(DS_ERR_NO_MEMORY, "to play a schedule of %u stages", shape->stage_count);
    for (uint32_t i = 0; i < shape->stage_count && st == DS_OK; i++)
        st = stage_init(&play.stages[i], shape, i, &lists[i], costs);
    if (st == DS_OK)
        st = play_all(&play);
    for (uint32_t i = 0; i < shape->stage_count; i++) {
        const struct stage *s = &play.stages[i];
        if (st == DS_OK)
            stages[i] = (struct ds_schedule_played){s->compute, s->busy, (uint32_t)s->alive_max};
        stage_fini(&play.stages[i]);
    }
    free(play.stages);
    return st;
}
