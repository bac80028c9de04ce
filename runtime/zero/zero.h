/* zero.h (private) - what the files of this folder share: the state of units and slots. */
#ifndef DSTRAIN_ZERO_PRIVATE_H
#define DSTRAIN_ZERO_PRIVATE_H

#include "dstrain/zero.h"

enum { NO_SLOT = UINT32_MAX };

/* A place that units use in turn. `idle` is recorded on the stream that used it last. */
struct zero_slot {
    uint8_t *at;
    struct ds_event *idle;
    uint32_t holder; /* unit, or NO_SLOT */
};

struct zero_slots {
    struct zero_slot *slots;
    uint32_t count;
};

/* One kind of state of a unit. `shard` views its near elements, all but where some are away; `whole` full_elems, which
 * then are all near. `whole` is NULL where a rank has its own part only, all three where there is none of that kind. */
struct zero_state {
    enum ds_dtype dtype;
    uint8_t *shard, *whole;
    uint8_t *away;       /* behind near_elems; host memory that the device reads */
    uint64_t near_elems; /* of the shard */
};

/* Where a strip of states lies while it is updated: of each kind that can be away, the longest. */
struct zero_strip_slot {
    uint8_t *at[DS_ZERO_KIND_COUNT]; /* NULL: that kind is near, everywhere */
    struct ds_event *fetched;        /* on load */
    uint32_t unit, strip;            /* what is in it; unit NO_SLOT: nothing */
};

/* Where a window of an accumulator is added to. */
struct zero_grad_slot {
    uint8_t *at;
    struct ds_event *loaded, *summed, *idle; /* on load, on comm, on store */
};
#define ZERO_GRAD_SLOTS 2

/* What travels between homes and device memory: offload.c, offload_grads.c. */
struct zero_travel {
    struct zero_strip_slot *slots;
    uint32_t slot_count;
    struct zero_grad_slot grads[ZERO_GRAD_SLOTS];
    uint32_t grad_turn;
    struct ds_event *updated; /* handed over at once: compute to store */
    struct ds_event *evicted; /* on store, behind the last strip that left */
    struct ds_event *loaded;  /* handed over at once: load to comm */
    int is_evicting;          /* the compute stream has still to wait for that */
};

/* Pinned memory through which the host writes and reads shards: shard.c. */
struct zero_staging {
    void *at;
    struct ds_event *sent; /* recorded on compute behind the copies from it */
    int is_sent;           /* was it ever? */
};

/* A part of a unit's accumulator of which the sums of squares are made at once: all that is near, or what travels
 * together. */
struct zero_window {
    struct ds_span span;   /* of the owned shard */
    struct ds_span *skips; /* device; what is foreign in it, counted from its start */
    uint32_t skip_count;
};

struct zero_unit {
    struct ds_zero_layout layout;
    uint32_t slot_class;
    struct ds_span *gaps; /* between and behind parameters, up to full_elems */
    uint32_t gap_count;
    struct zero_window
        *windows; /* of the owned shard, for the norm; the first is near, if any is */
    uint32_t window_count, near_windows;
    uint64_t first_piece;     /* of zero->piece_sums */
    struct zero_state param;  /* whole: but in stage 3 of several ranks */
    struct zero_state grad;   /* the accumulator; whole in stage 0, as are: */
    struct zero_state master; /* where it is not the param itself: F32 or I16 */
    struct zero_state exp_avg, exp_avg_sq;
    struct ds_zero_strips strips; /* of what is updated */
    /* where it is now */
    uint32_t weight_slot, grad_slot; /* NO_SLOT: in none */
    uint32_t holds;                  /* how many have acquired the weights */
    uint8_t is_gathering, is_grad_gathered, is_reduced;
    uint8_t is_coming; /* a gather that the compute stream has not waited for yet: ready */
    struct ds_event
        *ready; /* on comm, or where nobody gathers on load: what was gathered last is there */
    struct ds_event *updated; /* on compute: the shard has its new values */
    struct ds_event *stored;  /* on store: the accumulator is at home; NULL: it does not leave */
    struct ds_event *held;    /* somebody reads the shard up to here; NULL: nobody. Borrowed */
};

struct ds_zero {
    /* owns */
    struct zero_unit *units;
    int grads_stay; /* zero_grads_stay */
    int is_alone;   /* nobody talks to another rank on the stream comm */
    struct zero_slots weight_slots[DS_ZERO_SLOT_CLASSES], grad_slots[DS_ZERO_SLOT_CLASSES];
    struct ds_event *handover; /* one-time: compute to comm and back */
    double *piece_sums;        /* device; of all owned shards, in order of units */
    uint64_t piece_count;
    struct zero_staging staging[2];
    uint64_t staging_elems; /* what each has room for */
    uint32_t staging_turn;
    struct zero_travel travel;
    uint32_t held_count; /* units */
    /* borrows */
    struct ds_zero_options options;
    const struct ds_device_ops *device_ops;
    const struct ds_kernel_ops *kernels;
    uint32_t shard_rank, shard_count;
};

/* Are a unit's whole weights always here? In stages 0-2, and where nobody shares them out and none are away. */
static inline int weights_stay(const struct zero_unit *unit)
{
    return unit->param.whole != NULL;
}

/* Do backward passes add straight onto the accumulator? See adds_in_place. */
int zero_grads_stay(const struct ds_zero_options *options);

/* Is it on this pipeline stage? */
static inline int is_here(const struct zero_unit *unit)
{
    return unit->layout.elems > 0;
}

static inline struct zero_unit *unit_at(const struct ds_zero *zero, uint32_t unit)
{
    DS_ASSERT(unit < zero->options.unit_count);
    DS_ASSERT(is_here(&zero->units[unit]));
    return &zero->units[unit];
}

static inline size_t dtype_bytes(enum ds_dtype dtype, uint64_t elems)
{
    return (size_t)elems * ds_dtype_bytes(dtype);
}

/* Is something kept of a weight beside it? */
static inline int has_master(const struct ds_zero_dtypes *dtypes)
{
    return dtypes->param != DS_F32 && dtypes->master != DS_MASTER_NONE;
}

static inline void zero_close_event(struct ds_zero *zero, struct ds_event *event)
{
    if (event)
        zero->device_ops->event_close(event);
}

/* element `at` of what begins at `base` */
static inline uint8_t *element(uint8_t *base, enum ds_dtype dtype, uint64_t at)
{
    return base + dtype_bytes(dtype, at);
}

/* offload.c */
DS_CHECKED ds_status zero_travel_open(struct ds_zero *zero);
void zero_travel_close(struct ds_zero *zero);
uint64_t zero_strip_slot_bytes(const struct ds_zero_options *options);
/* on load: this rank's own part of the weights into its place of the gathered copy at `whole` */
DS_CHECKED ds_status zero_load_weights(struct ds_zero *zero, const struct zero_unit *unit,
                                       struct ds_event *idle, uint8_t *whole);
/* where a unit has a kind; and the same, or NULL where there is none of it */
struct zero_state *zero_state_at(struct zero_unit *unit, enum ds_zero_kind kind);
struct zero_state *zero_state_of(struct zero_unit *unit, enum ds_zero_kind kind);
/* the compute stream waits for the strip in `slot` */
DS_CHECKED ds_status zero_wait_fetched(struct ds_zero *zero, uint32_t unit, uint32_t strip,
                                       uint32_t slot);
/* the compute stream waits for what load brings */
DS_CHECKED ds_status zero_wait_loaded(struct ds_zero *zero, struct ds_event *event);
/* elements from `start` on, at most `count`: where they lie, and how many in a row */
uint8_t *zero_state_run(const struct zero_state *state, uint64_t start, uint64_t *count);

/* unit.c: on comm */
DS_CHECKED ds_status zero_add_part(struct ds_zero *zero, const struct zero_unit *unit,
                                   uint8_t *onto, uint8_t *part, uint64_t count);

/* offload_grads.c */
DS_CHECKED ds_status zero_grads_open(struct ds_zero *zero);
void zero_grads_close(struct ds_zero *zero);
uint64_t zero_grad_slot_bytes(const struct ds_zero_options *options);
/* the sum over ranks at `part` onto what is away of the accumulator */
DS_CHECKED ds_status zero_accumulate_away(struct ds_zero *zero, struct zero_unit *unit,
                                          uint8_t *part, int is_last);
DS_CHECKED ds_status zero_grads_rejoin(struct ds_zero *zero);

/* update.c */
/* the sums of squares of a window of an accumulator that lies at `at`, on `stream` */
DS_CHECKED ds_status zero_window_pieces(struct ds_zero *zero, const struct zero_unit *unit,
                                        const struct zero_window *window, uint8_t *at,
                                        struct ds_stream *stream);

/* shard.c */
DS_CHECKED ds_status zero_staging_open(struct ds_zero *zero);
void zero_staging_close(struct ds_zero *zero);
/* the comm stream goes on after what the compute stream has so far, and the other way round */
DS_CHECKED ds_status zero_comm_after_compute(struct ds_zero *zero);
DS_CHECKED ds_status zero_compute_after_comm(struct ds_zero *zero);
/* on the comm stream: whole copies from everyone's shard */
DS_CHECKED ds_status zero_gather(struct ds_zero *zero, const struct zero_unit *unit,
                                 const struct zero_state *state);
/* the same, and then ready; and the compute stream goes on when the unit is, if it is not known to be */
DS_CHECKED ds_status zero_gather_ready(struct ds_zero *zero, struct zero_unit *unit,
                                       const struct zero_state *state);
DS_CHECKED ds_status zero_wait_ready(struct ds_zero *zero, struct zero_unit *unit);

#endif
