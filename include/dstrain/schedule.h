/* schedule.h - a schedule is data: everything one rank does in one step, communication included, in one
 * order. Making the list is pure; the executor is the only code that acts on it, and only obeys.
 * Slots of gathered units, of local gradients and of saved activations are assigned here. */
#ifndef DSTRAIN_SCHEDULE_H
#define DSTRAIN_SCHEDULE_H

#include "dstrain/status.h"
#include "dstrain/zero.h"

#include <stddef.h>
#include <stdint.h>

/* clang-format off */
#define DS_ACTION_LIST(X)                                                                  \
    X(BEGIN, "begin")              /* the record: trained tokens of the global batch */    \
    X(FORWARD, "forward")          /* one block, one micro-batch */                        \
    X(LOSS, "loss")                /* the head, forward and backward in one */             \
    X(RECOMPUTE, "recompute")      /* what a block's backward reads, made again */         \
    X(BACKWARD, "backward")        /* one block, input and weight parts */                 \
    X(PREFETCH, "prefetch") X(ACQUIRE, "acquire") X(RELEASE, "release")                    \
    X(GRAD_ACQUIRE, "grad_acquire") X(REDUCE, "reduce")                                    \
    X(NORM, "norm")                /* ends in the verdict; state changes after it */       \
    X(UPDATE, "update")
/* clang-format on */
#define DS_ACTION_ENUM(name, text) DS_ACTION_##name,
enum ds_action_kind { DS_ACTION_LIST(DS_ACTION_ENUM) DS_ACTION_KIND_COUNT };
#undef DS_ACTION_ENUM
extern const char *const ds_action_names[DS_ACTION_KIND_COUNT];

struct ds_action {
    enum ds_action_kind kind;
    uint32_t micro;
    uint32_t block; /* arithmetic */
    uint32_t unit;  /* of ZeRO's actions */
    uint32_t slot;  /* of the gathered unit, the local gradient, or the block's saved activations */
};

/* What the list depends on: numbers only. */
struct ds_schedule_block {
    uint32_t unit_count;
    uint32_t units[4]; /* the block's units */
};
struct ds_schedule_shape {
    const struct ds_schedule_block *blocks;
    uint32_t block_count; /* first embedding, last head */
    const uint64_t *unit_elems;
    uint32_t unit_count;
    uint32_t micro_count;
    uint32_t zero_stage;
    int is_training; /* 0: forward and loss only */
    int recomputes;  /* layers keep only their input: what backward reads is made again before it */
    /* or NULL: use this list's slots and classes, so that both run on what was taken for it */
    const struct ds_schedule *like;
};

struct ds_schedule {
    /* owns */
    struct ds_action *actions;
    uint32_t *slot_class; /* [unit_count] */
    uint32_t action_count, action_capacity;
    struct ds_zero_slots slots;
    uint32_t saved_slot_count; /* of saved activations */
    int is_training;
};

/* pure: the list of one step. Slot classes: 0 rotates over the decoder layers, 1 is for embedding and
 * head - or everything rotates in class 0, where that takes fewer bytes. */
DS_CHECKED ds_status ds_schedule_make(const struct ds_schedule_shape *shape,
                                      struct ds_schedule *out);
/* local */
void ds_schedule_fini(struct ds_schedule *schedule);
/* pure: does the list keep its promises: acquire before use, one holder a slot, every micro-batch of
 * every block forward once and backward once, every unit reduced once a micro-batch, nothing held at
 * the end, NORM before UPDATE? DS_ERR_CONFIG says the first that is broken. */
DS_CHECKED ds_status ds_schedule_check(const struct ds_schedule_shape *shape,
                                       const struct ds_schedule *schedule);

#endif
