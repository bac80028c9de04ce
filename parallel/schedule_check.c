/* schedule_check.c - plays a list and says the first promise it breaks. Shares nothing with the code that
 * makes lists but the types, so that a mistake there shows here. */
#include "dstrain/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS_MAX = 64 };

struct player {
    const struct ds_schedule_shape *shape;
    const struct ds_schedule *list;
    uint32_t at; /* action being played */
    /* per unit */
    uint8_t *is_gathered, *is_held, *has_grad, *is_announced; /* announced: for the next block */
    uint32_t *weight_slot, *grad_slot, *reduced;
    /* per (micro, block) */
    uint8_t *forward, *backward;
    uint32_t weight_holder[DS_ZERO_SLOT_CLASSES][SLOTS_MAX]; /* unit + 1, 0: free */
    uint32_t grad_holder[DS_ZERO_SLOT_CLASSES][SLOTS_MAX];
    size_t
        *saved_holder; /* [saved_slot_count] the (micro, block) whose activations are there, + 1 */
    int is_decided;
    uint32_t update_count;
};

static ds_status broken(const struct player *player, const char *promise)
{
    const struct ds_action *action = &player->list->actions[player->at];

    return ds_fail(DS_ERR_CONFIG,
                   "schedule: action %u (%s, micro-batch %u, block %u, unit %u, slot %u): %s",
                   player->at, ds_action_names[action->kind], action->micro, action->block,
                   action->unit, action->slot, promise);
}
#define PROMISE(player, holds, text)     \
    do {                                 \
        if (!(holds))                    \
            return broken(player, text); \
    } while (0)

static ds_status take_slot(struct player *player, uint32_t *holders, uint32_t count)
{
    const struct ds_action *action = &player->list->actions[player->at];

    PROMISE(player, action->slot < count, "a slot that is not in the plan");
    PROMISE(player, holders[action->slot] == 0, "the slot is somebody's");
    holders[action->slot] = action->unit + 1;
    return DS_OK;
}

static ds_status play_gather(struct player *player, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = player->list->slot_class[unit];

    if (action->kind == DS_ACTION_ACQUIRE) {
        PROMISE(player, !player->is_held[unit], "acquired twice");
        player->is_held[unit] = 1;
        if (player->is_gathered[unit]) {
            PROMISE(player, player->weight_slot[unit] == action->slot, "gathered in another slot");
            return DS_OK;
        }
    }
    PROMISE(player, !player->is_gathered[unit], "gathered twice");
    player->is_gathered[unit] = 1;
    player->weight_slot[unit] = action->slot;
    return take_slot(player, player->weight_holder[slot_class],
                     player->list->slots.weight_count[slot_class]);
}

static ds_status play_release(struct player *player, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = player->list->slot_class[unit];

    PROMISE(player, player->is_held[unit], "released without being held");
    player->is_held[unit] = player->is_gathered[unit] = 0;
    player->weight_holder[slot_class][player->weight_slot[unit]] = 0;
    return DS_OK;
}

static ds_status play_grad_acquire(struct player *player, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = player->list->slot_class[unit];

    player->is_announced[unit] = 1;
    if (player->has_grad[unit]) {
        PROMISE(player, player->grad_slot[unit] == action->slot, "its gradient is elsewhere");
        return DS_OK;
    }
    player->has_grad[unit] = 1;
    player->grad_slot[unit] = action->slot;
    return take_slot(player, player->grad_holder[slot_class],
                     player->list->slots.grad_count[slot_class]);
}

static ds_status play_reduce(struct player *player, const struct ds_action *action)
{
    const uint32_t unit = action->unit, slot_class = player->list->slot_class[unit];

    PROMISE(player, player->has_grad[unit], "no gradient to reduce");
    PROMISE(player, player->reduced[unit] == action->micro, "micro-batches are not added in order");
    player->has_grad[unit] = 0;
    player->reduced[unit]++;
    player->grad_holder[slot_class][player->grad_slot[unit]] = 0;
    return DS_OK;
}

/* a block's units are all held (weights) or all have a place (gradients) */
static int all_units(const struct player *player, uint32_t block, const uint8_t *flags)
{
    const struct ds_schedule_block *b = &player->shape->blocks[block];

    for (uint32_t i = 0; i < b->unit_count; i++)
        if (!flags[b->units[i]])
            return 0;
    return 1;
}

static ds_status play_arithmetic(struct player *player, const struct ds_action *action)
{
    const uint32_t blocks = player->shape->block_count;
    const int is_backward = action->kind == DS_ACTION_BACKWARD;
    const int is_again = action->kind == DS_ACTION_RECOMPUTE;
    const size_t here = (size_t)action->micro * blocks + action->block;

    PROMISE(player, action->micro < player->shape->micro_count && action->block < blocks,
            "out of range");
    PROMISE(player,
            (action->kind == DS_ACTION_LOSS) ==
                (!is_backward && !is_again && action->block + 1 == blocks),
            "the last block is the loss");
    PROMISE(player,
            (is_backward && action->block == 0) ||
                all_units(player, action->block, player->is_held),
            "weights are not held");
    PROMISE(player, action->slot < player->list->saved_slot_count,
            "no such slot of saved activations");
    if (is_backward || (action->kind == DS_ACTION_LOSS && player->shape->is_training))
        PROMISE(player, all_units(player, action->block, player->is_announced),
                "no place for the gradient");
    memset(player->is_announced, 0, player->shape->unit_count);
    if (!is_backward)
        player->saved_holder[action->slot] = here + 1;
    if (is_again) {
        PROMISE(player, player->forward[here] && !player->backward[here],
                "not between its two turns");
        return DS_OK;
    }
    if (is_backward) {
        PROMISE(player, player->forward[here] && player->backward[here + 1],
                "its turn has not come");
        PROMISE(player, player->saved_holder[action->slot] == here + 1,
                "another block's activations are there");
        PROMISE(player, !player->backward[here]++, "backward twice");
        return DS_OK;
    }
    PROMISE(player, action->block == 0 || player->forward[here - 1], "its turn has not come");
    PROMISE(player, !player->forward[here]++, "forward twice");
    player->backward[here] |= action->kind == DS_ACTION_LOSS;
    return DS_OK;
}

static ds_status play_end(struct player *player, const struct ds_action *action)
{
    if (action->kind == DS_ACTION_NORM) {
        for (uint32_t i = 0; i < player->shape->unit_count; i++)
            PROMISE(player, player->reduced[i] == player->shape->micro_count,
                    "a gradient is missing");
        player->is_decided = 1;
        return DS_OK;
    }
    PROMISE(player, player->is_decided, "state would change before the verdict");
    PROMISE(player, action->unit == player->update_count, "units are updated once, in order");
    player->update_count++;
    return DS_OK;
}

static ds_status play(struct player *player, const struct ds_action *action)
{
    switch (action->kind) {
    case DS_ACTION_BEGIN:
        PROMISE(player, player->at == 0, "the step has begun already");
        return DS_OK;
    case DS_ACTION_PREFETCH:
    case DS_ACTION_ACQUIRE:
        return play_gather(player, action);
    case DS_ACTION_RELEASE:
        return play_release(player, action);
    case DS_ACTION_GRAD_ACQUIRE:
        return play_grad_acquire(player, action);
    case DS_ACTION_REDUCE:
        return play_reduce(player, action);
    case DS_ACTION_FORWARD:
    case DS_ACTION_LOSS:
    case DS_ACTION_RECOMPUTE:
    case DS_ACTION_BACKWARD:
        return play_arithmetic(player, action);
    case DS_ACTION_NORM:
    case DS_ACTION_UPDATE:
        return play_end(player, action);
    case DS_ACTION_KIND_COUNT:
        break;
    }
    return broken(player, "no such action");
}

static ds_status play_all(struct player *player)
{
    const struct ds_schedule_shape *shape = player->shape;
    const size_t cells = (size_t)shape->micro_count * shape->block_count;

    for (player->at = 0; player->at < player->list->action_count; player->at++)
        DS_TRY(play(player, &player->list->actions[player->at]));
    player->at--;
    for (uint32_t i = 0; i < shape->unit_count; i++)
        PROMISE(player, !player->is_gathered[i] && !player->has_grad[i],
                "a unit is held at the end");
    for (size_t i = 0; i < cells; i++)
        PROMISE(player, player->forward[i] && (!shape->is_training || player->backward[i]),
                "a block was left out");
    PROMISE(player, !shape->is_training || player->update_count == shape->unit_count,
            "a unit was not updated");
    return DS_OK;
}

ds_status ds_schedule_check(const struct ds_schedule_shape *shape,
                            const struct ds_schedule *schedule)
{
    const size_t units = shape->unit_count, cells = (size_t)shape->micro_count * shape->block_count;
    struct player player = {.shape = shape, .list = schedule};
    uint32_t *numbers = calloc(3 * units, sizeof *numbers);
    uint8_t *flags = calloc(4 * units + 2 * cells + 1, 1);
    ds_status st;

    player.saved_holder = calloc(schedule->saved_slot_count + 1u, sizeof *player.saved_holder);
    if (!numbers || !flags || !player.saved_holder) {
        st = ds_fail(DS_ERR_NO_MEMORY, "to check a schedule of %zu units", units);
    } else {
        player.weight_slot = numbers;
        player.grad_slot = numbers + units;
        player.reduced = numbers + 2 * units;
        player.is_gathered = flags;
        player.is_held = flags + units;
        player.has_grad = flags + 2 * units;
        player.is_announced = flags + 3 * units;
        player.forward = flags + 4 * units;
        player.backward = player.forward + cells;
        st = play_all(&player);
    }
    free(player.saved_holder);
    free(numbers);
    free(flags);
    return st;
}
