/* schedule.h - a schedule is data: everything one rank does in one step, communication included, in one
 * order. Making the list is pure; the executor is the only code that acts on it, and only obeys.
 *
 * Blocks are the model's: 0 the embedding, the decoder layers, and last the head. Pipeline stages share
 * them out: each part is a run of blocks, and part v = chunk * stage_count + stage lies on `stage`. A
 * list names only blocks and units of its own stage. The lists of all stages are views of one order in
 * time, so that communication done one after another, each waiting for its partner, cannot hang.
 *
 * Where everything lies is assigned here, as numbers of places: gathered units and local gradients
 * (ZeRO's slots), saved activations of decoder layers, the residual stream between blocks, and what the
 * input part of a backward leaves for its weight part. A place is free after its last reader.
 * What a layer keeps for its backward - its input and, unless it is made again, what it saved - may be on the
 * host in between: a few places of the device then do for all layers.
 *
 *   FORWARD          reads x (the embedding has none), writes out and the saved slot
 *   LOSS             reads x, writes out, the gradient of x; where nothing is trained there is no out
 *   RECOMPUTE        reads x, writes the saved slot again
 *   BACKWARD         reads x, dy, saved; writes out, the gradient of x, in the place of dy. The
 *                    embedding has dy alone.
 *   BACKWARD_INPUT   the same, but out is another place, and `held` is written: all it read stays for
 *   BACKWARD_WEIGHT  which reads x, dy, saved, held. Where backwards are in two parts the embedding's
 *                    is only this; a LOSS does both of the head.
 *   EXCHANGE         reads what it sends and writes what it receives, all messages at once
 *   EVICT_KEPT       reads x and saved, writes home, a place on the host. x and saved are free
 *   FETCH_KEPT       reads home, which is free then; writes x and saved, in other places
 *
 * An embedding's or a head's saved slot is DS_NO_SLOT. The weights of its units are gathered for
 * every piece of a block but the embedding's backward and weight parts, which multiply what is held.
 * Where they are frozen the embedding's backward is there, too, and does nothing. */
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
    X(BACKWARD_INPUT, "backward_input") X(BACKWARD_WEIGHT, "backward_weight")              \
    X(EXCHANGE, "exchange")        /* sends and receives of neighbouring stages, a group */\
    X(EVICT_KEPT, "evict_kept")    /* what a layer keeps for its backward, to the host */  \
    X(FETCH_KEPT, "fetch_kept")    /* and back */                                          \
    X(PREFETCH, "prefetch") X(ACQUIRE, "acquire") X(RELEASE, "release")                    \
    X(GRAD_ACQUIRE, "grad_acquire") X(REDUCE, "reduce")                                    \
    X(TIED_REDUCE, "tied_reduce")  /* a unit of the first and the last stage, summed */    \
    X(NORM, "norm")                /* ends in the verdict; state changes after it */       \
    X(FETCH, "fetch")              /* states of a strip, from their homes */               \
    X(UPDATE, "update")            /* of a strip of a unit */                              \
    X(EVICT, "evict")              /* and back */
/* clang-format on */
#define DS_ACTION_ENUM(name, text) DS_ACTION_##name,
enum ds_action_kind { DS_ACTION_LIST(DS_ACTION_ENUM) DS_ACTION_KIND_COUNT };
#undef DS_ACTION_ENUM
extern const char *const ds_action_names[DS_ACTION_KIND_COUNT];

#define DS_NO_SLOT UINT32_MAX
#define DS_NO_UNIT UINT32_MAX

struct ds_action {
    enum ds_action_kind kind;
    uint32_t micro;
    uint32_t block; /* arithmetic; in an EXCHANGE that of the first transfer */
    uint32_t unit;  /* of ZeRO's actions; for arithmetic, the block's first unit */
    uint32_t
        slot; /* of the gathered unit, the local gradient, the block's saved activations, or the strip */
    uint32_t strip;      /* of the unit: FETCH, UPDATE, EVICT */
    uint32_t is_ahead;   /* FETCH: for an update of the next list; see enum ds_updates */
    uint32_t x, dy, out; /* places of the residual stream, DS_NO_SLOT where none */
    uint32_t held;       /* from BACKWARD_INPUT to BACKWARD_WEIGHT */
    uint32_t home;       /* EVICT_KEPT, FETCH_KEPT: on the host */
    uint32_t transfer_start, transfer_count; /* EXCHANGE: its part of list->transfers */
};

/* One message of an EXCHANGE. Between two stages those of one direction stand in the same order on both
 * sides. */
struct ds_transfer {
    uint32_t is_send, peer; /* peer: a stage */
    uint32_t micro, block;  /* its output travels or, the other way, the gradient of its input */
    uint32_t is_gradient;
    uint32_t slot; /* place of the residual stream */
};
#define DS_EXCHANGE_TRANSFERS_MAX 16 /* of one EXCHANGE */

/* In which order a stage does its arithmetic. */
enum ds_schedule_kind {
    DS_SCHEDULE_1F1B,        /* fill, then one forward and one backward in turn */
    DS_SCHEDULE_GPIPE,       /* all forwards, then all backwards */
    DS_SCHEDULE_INTERLEAVED, /* 1F1B over several chunks a stage */
    DS_SCHEDULE_ZERO_BUBBLE, /* weight parts of backward fill the gaps */
    DS_SCHEDULE_KIND_COUNT
};

/* When a step's gradients become weights. Late updates stand in the list of the step behind it, each unit's just before
 * that gathers it, so that its states travel beside arithmetic; the list begins with the first of them in their slots and
 * ends, its own verdict made, with the same for the next one. Without those actions it is the list of a step that has
 * nothing to make up for, and those alone are what makes up for a step that no other follows. */
enum ds_updates { DS_UPDATES_END, DS_UPDATES_LATE };

/* How long a gathered unit stays: until its block (and, in a window, the block's other micro-batches) is
 * through, or from its first use in a step to its last. */
enum ds_reshard { DS_RESHARD_ALWAYS, DS_RESHARD_NEVER };

/* What the list depends on: numbers only, the same on every rank of a stage. */
struct ds_schedule_block {
    uint32_t unit_count;
    uint32_t units[4]; /* the block's units */
};
/* How long the pieces of a part take with one micro-batch, in ticks of the schedule's clock; at least 1 each. */
struct ds_schedule_part {
    uint32_t forward, input, weight;
};
struct ds_schedule_shape {
    const struct ds_schedule_block *blocks; /* all of the model */
    uint32_t block_count;                   /* first embedding, last head */
    /* relative sizes: of several ways to share slots the smallest is taken */
    const uint64_t *unit_cost;
    uint32_t unit_count;
    const uint8_t *is_frozen; /* [unit_count]: no gradient, no update; NULL: none is */
    /* [unit_count], or NULL: the strips of what is updated here, and slots for those that are away; NULL, and of no
     * element: one, which is near */
    const struct ds_zero_strips *strips;
    uint32_t strip_slots;
    enum ds_updates updates;
    uint32_t micro_count;
    uint32_t zero_stage;
    int is_training; /* 0: forward and loss only */
    int recomputes;  /* layers keep only their input: what backward reads is made again before it */
    enum ds_schedule_kind kind;
    uint32_t stage, stage_count;
    uint32_t chunk_count; /* 1 unless interleaved */
    /* [stage_count * chunk_count + 1] first block of each part, then block_count */
    const uint32_t *chunk_first;
    /* Of the layers of a stage, in their order, this share keeps what it keeps on the host, where there is time for it:
     * beside so many pieces of arithmetic a copy goes, each way, in places of its own. 0, 0: all of it is near */
    double kept_share;
    uint32_t kept_distance;
    /* [stage_count * chunk_count], or NULL: 1 tick for everything. Only where backwards are in two parts: those
     * of weights shall fill gaps that are there. Other orders do not depend on time. */
    const struct ds_schedule_part *parts;
    uint32_t tied_unit; /* held by first and last stage, or DS_NO_UNIT; several stages only */
    enum ds_reshard reshard;
    /* 1, or how many micro-batches go through a unit while it is gathered. One stage takes them
     * through each block one after another; several, where messages are waited for, keep a chunk's
     * units gathered while so many micro-batches go through it, up or back. Where head and embedding
     * of one stage share a unit, which has one local gradient at a time, the way back goes by single
     * micro-batches. */
    uint32_t window;
    /* or NULL: use this list's slots and classes, so that both run on what was taken for it, which
     * had no fewer micro-batches */
    const struct ds_schedule *like;
};

struct ds_schedule {
    /* owns */
    struct ds_action *actions;
    struct ds_transfer *transfers;
    uint32_t *slot_class; /* [unit_count], 0 for units of other stages */
    uint32_t action_count, action_capacity, transfer_count;
    uint32_t micro_count;
    struct ds_zero_slots slots;
    uint32_t stream_slot_count, saved_slot_count, held_slot_count;
    uint32_t
        home_count; /* places on the host, for an input each and, with home_has_saved, what is saved beside it */
    int home_has_saved;
    int is_training;
    enum ds_updates updates;
    /* on the schedule's clock (see shape->parts; messages take no time): the whole step, and what of it this stage works */
    uint32_t ticks, busy_ticks;
};

/* pure: the list of one step. Slot classes: 0 rotates over the decoder layers, 1 is for embedding and
 * head - or everything rotates in class 0, where that takes fewer bytes; 2 is for units that a layer has
 * beside its first. */
DS_CHECKED ds_status ds_schedule_make(const struct ds_schedule_shape *shape,
                                      struct ds_schedule *out);
/* pure: what is taken for `plan` has room for `list`, too, of activations: stages of an evaluation hand on what they
 * have when the next one wants it, and a training step that has most on the host may keep less than that */
void ds_schedule_widen(struct ds_schedule *plan, const struct ds_schedule *list);
/* local */
void ds_schedule_fini(struct ds_schedule *schedule);
/* pure: does it make up for the step before? Of lists with late updates. */
static inline int ds_action_is_late(const struct ds_action *action)
{
    return action->kind == DS_ACTION_UPDATE || action->kind == DS_ACTION_EVICT ||
           (action->kind == DS_ACTION_FETCH && !action->is_ahead);
}
/* pure: does the list keep its promises: acquire before use, one holder a place and what is read really
 * there, every micro-batch of every block forward once and backward once, every unit reduced once a
 * micro-batch and in their order, nothing held at the end, NORM before UPDATE or, where updates are late, UPDATE before
 * its unit is gathered, every strip updated once, between its fetch and its eviction if it is away? What arrives from
 * other stages is believed. DS_ERR_CONFIG says the first that is broken. */
DS_CHECKED ds_status ds_schedule_check(const struct ds_schedule_shape *shape,
                                       const struct ds_schedule *schedule);

/* What playing says of a stage. Until `end` it worked for `busy` and stood still otherwise. */
struct ds_schedule_played {
    uint64_t end, busy; /* its last arithmetic was done; all of its arithmetic */
    uint32_t alive_max; /* the most micro-batches, counted in each chunk, under way at once */
};

/* pure: plays the lists of all stages [stage_count], strictly: communication one after another, and no
 * message before both its ends have come to it. DS_ERR_CONFIG as above, and where stages would wait
 * for one another. `costs`: NULL, and times are those of the schedule's clock, or what each kind of action
 * takes on each block [block_count * DS_ACTION_KIND_COUNT], see below. `stages` [stage_count].
 * shape->stage does not matter. */
DS_CHECKED ds_status ds_schedule_play(const struct ds_schedule_shape *shape,
                                      const struct ds_schedule *lists, const uint64_t *costs,
                                      struct ds_schedule_played *stages);

static inline size_t ds_schedule_cost_at(uint32_t block, enum ds_action_kind kind)
{
    return (size_t)block * DS_ACTION_KIND_COUNT + kind;
}

/* pure: cuts the blocks into contiguous parts of at least one block, first[0..part_count], such that the
 * dearest part costs as little as can be and the others are as even as that allows */
void ds_schedule_cut(const uint64_t *costs, uint32_t block_count, uint32_t part_count,
                     uint32_t *first);

#endif
