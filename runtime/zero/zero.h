/* zero.h (private) - what the files of this folder share: the state of units and slots. */
#ifndef DSTRAIN_ZERO_PRIVATE_H
#define DSTRAIN_ZERO_PRIVATE_H

#include "dstrain/zero.h"

enum { NO_SLOT = UINT32_MAX };

/* A place that units use in turn. `idle` is recorded on the stream that used it last. */
struct zero_slot {
    uint8_t *at;
    uint8_t *packed; /* where a unit's packed form is gathered; NULL: none is */
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
    uint64_t near_elems;  /* of the shard; what is behind them is away: */
    uint8_t *away;        /* in host memory that the device reads, */
    uint32_t first_block; /* or in blocks of a strip each, where */
    uint8_t is_filed;     /* it lives in files */
    uint8_t kind;         /* enum ds_zero_kind */
};

/* Where a strip of states lies while it is updated: of each kind that can be away, the longest. */
struct zero_strip_slot {
    uint8_t *at[DS_ZERO_KIND_COUNT]; /* NULL: that kind is near, everywhere */
    struct ds_event *fetched;        /* on load */
    struct ds_event *evicted;        /* on store */
    struct ds_event *fetched_grad;   /* on a stream of its own; has_grad: it is waited for, too */
    /* of a strip that the host updates: pinned memory, of kinds that live on the device; and words */
    uint8_t *host[DS_ZERO_KIND_COUNT];
    uint32_t *go, *done;
    uint32_t unit, strip; /* what is in it; unit NO_SLOT: nothing */
    uint8_t has_grad;
    uint8_t is_coming; /* the compute stream has not been joined with that */
};

/* Where a window of an accumulator is added to. */
struct zero_grad_slot {
    uint8_t *at;
    struct ds_event *loaded, *summed, *idle; /* on load, on comm, on store */
};
#define ZERO_GRAD_SLOTS 2

/* A block of a file as the host reads and changes it, outside of a step: one of each kind. */
struct zero_edit {
    uint8_t *at; /* NULL: nothing of that kind is in files */
    uint32_t block, version;
    uint8_t is_valid, is_changed;
};

/* What travels between homes and device memory: offload.c, offload_grads.c. */
struct zero_travel {
    struct zero_strip_slot *slots;
    uint32_t slot_count;
    struct zero_grad_slot grads[ZERO_GRAD_SLOTS];
    uint32_t grad_turn;
    struct ds_event *updated;     /* handed over at once: compute to store */
    struct ds_event *evicted;     /* on store, behind the last strip that left */
    struct ds_event *loaded;      /* handed over at once: load to comm */
    struct ds_event *gone;        /* handed over at once: store to compute */
    struct ds_event *graded;      /* on compute: accumulators are those of the verdict */
    struct ds_event *returned;    /* on load, behind the last strip that the host is done with */
    int is_returning;             /* the compute stream has still to wait for that */
    int is_evicting;              /* the compute stream has still to wait for what is evicted */
    int is_storing;               /* and for anything else on store */
    struct ds_swap *swap;         /* owned; NULL: nothing is in files */
    const struct ds_swap *others; /* borrowed, or NULL: see ds_zero_heed_files */
    int has_frozen;               /* it was asked to */
    struct zero_edit edits[DS_ZERO_KIND_COUNT];
    uint64_t filed_bytes[DS_ZERO_KIND_COUNT];
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
    struct ds_zero_layout layout;    /* of what is stored: of a packed unit in bytes */
    const struct ds_zero_pack *pack; /* or NULL */
    uint8_t is_unpacked;             /* its weights are in weight_slot */
    uint32_t slot_class;
    int is_frozen;
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
    struct ds_event *updated; /* where updates are queued: the shard has its new values */
    uint8_t is_updating; /* beside the compute stream, which has not waited for it yet: updated */
    uint8_t waits;       /* enum ds_timeline_what: what that update had to wait for; 0: nothing */
    struct ds_event *stored;  /* on store: the accumulator is at home; NULL: it does not leave */
    struct ds_event *evicted; /* on store: its last strip that left is at home; NULL: none leaves */
    struct ds_event
        *returned;         /* on load: the host is done with its last strip; NULL: updates none */
    struct ds_event *held; /* somebody reads the shard up to here; NULL: nobody. Borrowed */
    struct ds_event *held_away; /* the same, for what the host updates of it */
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

/* Are a unit's whole weights always here, as they are used? In stages 0-2, and where nobody shares them out and none are
 * away; of what is packed never. */
static inline int weights_stay(const struct zero_unit *unit)
{
    return unit->param.whole != NULL && unit->pack == NULL;
}

/* offload_still.c: is what lies in files of this kind saved as it lies there? */
int zero_is_still(const struct ds_zero_options *options, enum ds_zero_kind kind);

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

/* Is some of it not in device memory? */
static inline int leaves(const struct zero_state *state)
{
    return state->away || state->is_filed;
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

/* pack.c: on compute, from the packed form, which is there, into its slot */
DS_CHECKED ds_status zero_unpack(struct ds_zero *zero, struct zero_unit *unit);
/* pure: of one class, bytes of the longest packed form that is gathered */
uint64_t zero_packed_bytes_max(const struct ds_zero_options *options, uint32_t slot_class);

/* offload.c */
DS_CHECKED ds_status zero_travel_open(struct ds_zero *zero);
void zero_travel_close(struct ds_zero *zero);
DS_CHECKED ds_status zero_travel_rejoin(struct ds_zero *zero);
uint64_t zero_strip_slot_bytes(const struct ds_zero_options *options);
/* on load: this rank's own part of the weights into its place of the gathered copy at `whole` */
DS_CHECKED ds_status zero_load_weights(struct ds_zero *zero, const struct zero_unit *unit,
                                       struct ds_event *idle, uint8_t *whole);
/* where a unit has a kind; and the same, or NULL where there is none of it */
struct zero_state *zero_state_at(struct zero_unit *unit, enum ds_zero_kind kind);
struct zero_state *zero_state_of(struct zero_unit *unit, enum ds_zero_kind kind);
/* what is away of a kind, from `start` on, to device memory on load, and from there home on store; whole strips where it
 * lives in files */
DS_CHECKED ds_status zero_bring(struct ds_zero *zero, struct ds_stream *stream,
                                const struct zero_state *state, uint64_t start, uint64_t count,
                                uint8_t *to);
/* on which an accumulator that is away comes: files have an order on load */
static inline struct ds_stream *zero_grad_stream(const struct ds_zero *zero,
                                                 const struct zero_unit *unit)
{
    return zero->options.grads && !unit->grad.is_filed ? zero->options.grads : zero->options.load;
}
DS_CHECKED ds_status zero_take_home(struct ds_zero *zero, const struct zero_state *state,
                                    uint64_t start, uint64_t count, const uint8_t *from);
/* pure: how a kind is stored */
enum ds_dtype zero_kind_dtype(const struct ds_zero_dtypes *dtypes, enum ds_zero_kind kind);
/* `stream` waits for the strip in `slot` */
DS_CHECKED ds_status zero_wait_fetched(struct ds_zero *zero, struct ds_stream *stream,
                                       uint32_t unit, uint32_t strip, uint32_t slot);
/* `stream` waits for what load brings */
DS_CHECKED ds_status zero_wait_loaded(struct ds_zero *zero, struct ds_stream *stream,
                                      struct ds_event *event);
/* elements from `start` on, at most `count`: where they lie, and how many in a row */
uint8_t *zero_state_run(const struct zero_state *state, uint64_t start, uint64_t *count);

/* offload_host.c: what the host updates */
static inline int has_host_strips(const struct zero_unit *unit)
{
    return unit->strips.host_elems > 0;
}
DS_CHECKED ds_status zero_host_open(struct ds_zero *zero);
void zero_host_close(struct ds_zero *zero);
DS_CHECKED ds_status zero_host_fetch(struct ds_zero *zero, struct zero_strip_slot *slot);
DS_CHECKED ds_status zero_host_evict(struct ds_zero *zero, struct ds_stream *stream,
                                     struct zero_strip_slot *slot);
/* the compute stream waits for all that is on load for it; and its events, as of ds_zero_rejoin */
DS_CHECKED ds_status zero_host_join(struct ds_zero *zero);
DS_CHECKED ds_status zero_host_rejoin(struct ds_zero *zero);

/* update.c: who waits or works there: the compute stream, or that of updates beside it */
static inline enum ds_timeline_row zero_row_of(const struct ds_zero *zero,
                                               const struct ds_stream *stream)
{
    return stream == zero->options.compute ? DS_TIMELINE_COMPUTE : DS_TIMELINE_UPDATES;
}
/* `stream` goes on when nobody reads what `held` is the event of, which is forgotten */
DS_CHECKED ds_status zero_wait_reader(struct ds_zero *zero, struct ds_event **held,
                                      struct ds_stream *stream);
/* a kind of a strip in device memory */
uint8_t *zero_near_strip(const struct ds_zero *zero, const struct zero_state *state,
                         uint64_t start);
/* the unit has its new weights, on `stream` */
DS_CHECKED ds_status zero_unit_updated(struct ds_zero *zero, struct ds_stream *stream,
                                       uint32_t unit);
/* the compute stream goes on behind the unit's update, if that goes on beside it */
DS_CHECKED ds_status zero_wait_updated(struct ds_zero *zero, struct zero_unit *unit);

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

/* offload_files.c */
DS_CHECKED ds_status zero_files_open(struct ds_zero *zero);
void zero_files_close(struct ds_zero *zero);
/* blocks for so many elements of a state */
void zero_files_reserve(struct ds_zero *zero, struct zero_state *state, uint64_t elems,
                        int is_saved);
/* the block in which element `start` of a state lies; how much of `count` is there with it, and where */
uint32_t zero_block_at(const struct ds_zero *zero, const struct zero_state *state, uint64_t start,
                       uint64_t *count, uint64_t *offset);
/* the host reads or writes elements itself, outside of a step; what was written is in the files behind flush */
DS_CHECKED ds_status zero_files_edit(struct ds_zero *zero, const struct zero_state *state,
                                     uint64_t start, uint64_t count, uint8_t *host, int is_write);
DS_CHECKED ds_status zero_files_flush(struct ds_zero *zero);

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
