/* schedule_checker.h - plays one list action by action. Nothing here or in the files that include it is
 * shared with the code that makes lists but the types, so that a mistake there shows here. */
#ifndef DSTRAIN_SCHEDULE_CHECKER_H
#define DSTRAIN_SCHEDULE_CHECKER_H

#include "dstrain/schedule.h"

/* What can lie in a place. A gradient is that of a block's input. */
enum content {
    CONTENT_OUTPUT,
    CONTENT_GRADIENT,
    CONTENT_SAVED,
    CONTENT_HELD,
    CONTENT_KEPT, /* on the host: a layer's input and what it saved */
    CONTENT_COUNT
};

/* What is in a slot of strips; what 0: nothing. */
struct checker_strip {
    uint32_t what, unit, strip;
};

struct checker {
    const struct ds_schedule_shape *shape;
    const struct ds_schedule *list;
    uint32_t at; /* action being played */
    /* owns */
    uint32_t *numbers;
    uint8_t *flags;
    struct checker_strip *strips; /* [slot] */
    /* borrows: of numbers, per unit */
    uint32_t *weight_slot, *grad_slot, *reduced, *user_count, *added, *grad_micro;
    uint32_t *updated;                             /* strips */
    uint32_t *weight_holder[DS_ZERO_SLOT_CLASSES]; /* [slot] unit + 1, 0: free */
    uint32_t *grad_holder[DS_ZERO_SLOT_CLASSES];
    uint32_t *streams, *saved, *held, *homes; /* [place] what is there, 0: nothing */
    /* of flags, per unit */
    uint8_t *is_gathered, *is_held, *has_grad, *is_announced; /* announced: for the next block */
    /* per (micro, block) */
    uint8_t *done;                  /* bits */
    uint8_t *sent[2], *received[2]; /* outputs, gradients */
    uint32_t transfer_count, loss_count, tied_count;
    uint32_t updating; /* the unit of the last update */
    int is_decided;
};

DS_CHECKED ds_status checker_init(struct checker *checker, const struct ds_schedule_shape *shape,
                                  const struct ds_schedule *list);
void checker_fini(struct checker *checker);
/* play action `at` and go to the next */
DS_CHECKED ds_status checker_play(struct checker *checker);
/* the same, where the action is on a unit */
DS_CHECKED ds_status checker_play_unit(struct checker *checker);
/* the same, where it belongs to the end of the step */
DS_CHECKED ds_status checker_play_end(struct checker *checker);
/* pure: are all strips of the unit updated? */
int checker_is_updated(const struct checker *checker, uint32_t unit);
/* before the first: what the list before has left in slots of strips */
void checker_start_end(struct checker *checker);
/* after the last: is every strip updated, and at home or where the next list wants it? */
DS_CHECKED ds_status checker_all_updated(struct checker *checker);
/* after the last: is everything done? */
DS_CHECKED ds_status checker_end(struct checker *checker);
static inline int checker_trains(const struct checker *checker, uint32_t unit)
{
    const uint8_t *is_frozen = checker->shape->is_frozen;

    return !is_frozen || !is_frozen[unit];
}
/* says what the action at `at` breaks */
DS_CHECKED ds_status checker_broken(const struct checker *checker, const char *promise);
#define PROMISE(checker, holds, text)             \
    do {                                          \
        if (!(holds))                             \
            return checker_broken(checker, text); \
    } while (0)

#endif
