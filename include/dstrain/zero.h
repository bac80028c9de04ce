/* zero.h - units sharded over a group: who owns what, where a gathered copy lies, how a gradient comes
 * home. ZeRO is given sizes, a shard group and a replica group, never a mesh or a block.
 *
 * Stages. 0: every rank keeps everything. 1: optimizer states are shared out. 2: gradients, too.
 * 3: parameters, too. The order of every addition is the same in all of them: a unit's local gradient
 * is reduce-scattered over the shard group in rank order, summed over the replica group in rank order,
 * and added to the owned part of the accumulator in micro-batch order. Since that leaves each rank with
 * the sum of its own part only, stages 1 and 2 keep the same state; stage 0 gathers gradients before
 * the update and updates everything everywhere. */
#ifndef DSTRAIN_ZERO_H
#define DSTRAIN_ZERO_H

#include "dstrain/comm.h"
#include "dstrain/device.h"
#include "dstrain/kernels.h"
#include "dstrain/memory.h"
#include "dstrain/status.h"
#include "dstrain/swap.h"
#include "dstrain/tensor.h"
#include "dstrain/timeline.h"

/* ---- layout: pure. Where each parameter lives inside a flat unit, and who owns which part.
 *
 *   unit:    | q k v, no gap | o | gate up, no gap | down | pad |     groups start at 128 elements
 *   shards:  |    rank 0    |    rank 1    |    rank 2    |           cut at multiples of 2,048,
 *                                              4 KiB in 16 bit: every shard can be read O_DIRECT */
#define DS_ZERO_GROUP_ELEMS 128
#define DS_ZERO_CUT_ELEMS   2048

struct ds_zero_layout {
    uint64_t elems;       /* of the unit, up to its last parameter */
    uint64_t shard_elems; /* of one shard, a multiple of DS_ZERO_CUT_ELEMS */
    uint64_t full_elems;  /* shard_elems * shard_count */
    uint32_t shard_count;
};

/* Start of the next parameter: right behind `end` inside a fuse group, else at a multiple of 128. */
uint64_t ds_zero_layout_place(uint64_t end, int is_new_group);
struct ds_zero_layout ds_zero_layout_of(uint64_t unit_elems, uint32_t shard_count);
/* The same of what is stored packed, in bytes, which are cut in twos, as 16-bit elements are. */
struct ds_zero_layout ds_zero_layout_packed(uint64_t bytes, uint32_t shard_count);
struct ds_span ds_zero_layout_shard(const struct ds_zero_layout *layout, uint32_t shard_rank);
/* The part of `param` (unit coordinates) that rank `shard_rank` owns; count 0 if none. */
struct ds_span ds_zero_layout_owned(const struct ds_zero_layout *layout, uint32_t shard_rank,
                                    struct ds_span param);

/* ---- homes: pure. Where a kind of state lives between its uses.
 *
 *   what a rank has of a unit:  | near: in device memory | away: at its home           |
 *   the optimizer goes by:      | strip 0                | strip 1 | strip 2 | strip 3 |
 *
 * An away strip is fetched into a slot of device memory, updated there, and evicted. Each kind has its own share
 * away; a strip is near where all kinds are. Where a kind alone is away it alone travels. Or the host updates it, where all
 * that only the optimizer has of it lives there: then the slot is pinned memory, into which its gradient comes and from
 * which its weights go, as far as they live on the device. */
enum ds_home { DS_HOME_DEVICE, DS_HOME_HOST, DS_HOME_NVME };

/* The kinds of state of a unit: those that outlive a step, and the accumulated gradient. */
enum ds_zero_kind {
    DS_ZERO_PARAM,
    DS_ZERO_MASTER,
    DS_ZERO_EXP_AVG,
    DS_ZERO_EXP_AVG_SQ,
    DS_ZERO_GRAD
};
#define DS_ZERO_KIND_COUNT 5

struct ds_zero_homes {
    enum ds_home home[DS_ZERO_KIND_COUNT];
    double share
        [DS_ZERO_KIND_COUNT]; /* of a kind's elements that is to be away; of DS_HOME_DEVICE none is */
    uint64_t strip_elems;     /* a multiple of DS_ZERO_CUT_ELEMS */
    uint32_t drive_count; /* over so many files DS_HOME_NVME is spread; with 0 nothing is there */
    uint32_t
        host_kinds; /* bits of kinds: strips of which all these are away the host may update; 0: none */
    double host_share; /* of all elements those at most, the last of each unit */
};

/* One unit's part of it: near are the first so many elements of each kind. */
struct ds_zero_strips {
    uint64_t elems; /* of every kind, what the rank updates */
    uint64_t strip_elems;
    uint64_t near_elems[DS_ZERO_KIND_COUNT];
    int keeps_gradient;  /* that is near, whatever its share: it is added up where it lies */
    uint64_t host_elems; /* the last so many, which the host updates */
};

/* Over all units, in which all else is filled in, in their order: near_elems, such that a kind's share
 * is away of all units together to half a strip, and host_elems. */
void ds_zero_strips_share(const struct ds_zero_homes *homes, struct ds_zero_strips *units,
                          uint32_t unit_count);
/* How many strips there are, 0 of no element; the first that is away, the count where none is; and strip `index`,
 * in elements of what the rank updates. */
uint32_t ds_zero_strip_count(const struct ds_zero_strips *strips);
uint32_t ds_zero_strip_first_away(const struct ds_zero_strips *strips);
struct ds_span ds_zero_strip_at(const struct ds_zero_strips *strips, uint32_t index);
/* Does the host update it? */
int ds_zero_strip_on_host(const struct ds_zero_strips *strips, uint32_t index);

/* ---- machinery */

/* A part of a unit's local gradient that is a partial sum over another group, too: of norms where ranks
 * see parts of a sequence, of kv heads that several ranks hold. */
struct ds_zero_sum {
    struct ds_span span; /* unit coordinates */
    struct ds_comm *over;
};

/* A part of a unit whose weights are stored in a smaller form than they are used in, and where in that form its own
 * parts begin, in bytes. */
struct ds_zero_packed {
    struct ds_span span; /* where its weights lie in the unit */
    int is_plain;        /* stored as they are used, from codes_at on; else as `form` says: */
    struct ds_dequantise_args form; /* without y and data; what has no dim is not there */
    uint64_t codes_at, absmax_at, nest_absmax_at, map_at, offset_at;
};
struct ds_zero_pack {
    const struct ds_zero_packed *parts;
    uint32_t part_count;
    uint64_t bytes; /* of all of them */
};

/* What ZeRO must know of a unit. Its arrays are borrowed: they outlive the ds_zero. */
struct ds_zero_unit_spec {
    uint64_t elems;      /* 0: another pipeline stage has it; nothing here is called for it */
    int is_frozen;       /* weights alone: no gradient, no other state, no update */
    uint32_t slot_class; /* which set of slots its gathered copy and its gradient use */
    const struct ds_span *params; /* where parameters lie: the rest is padding, kept zero */
    uint32_t param_count;
    const struct ds_zero_sum *sums; /* made by reduce, before the gradient is shared out */
    uint32_t sum_count;
    const struct ds_span *foreign; /* copies of what another rank counts in the norm */
    uint32_t foreign_count;
    struct ds_zero_strips
        strips; /* of what this rank updates, of a packed unit what it owns, in bytes, of strips of twice
                                     homes.strip_elems; elems 0: all of it is near */
    const struct ds_zero_pack
        *pack; /* of a frozen unit: how it is stored, shared out and gathered, in every stage;
                  it is brought back into a slot when it is acquired. NULL: as it is used */
};

#define DS_ZERO_SLOT_CLASSES 3

/* How many slots of each class: for gathered weights and for local gradients; and for strips of states that are
 * away. Made with the list. */
struct ds_zero_slots {
    uint32_t weight_count[DS_ZERO_SLOT_CLASSES], grad_count[DS_ZERO_SLOT_CLASSES];
    uint32_t strip_count;
};

/* What the optimizer keeps of a weight (kernels.h, ds_adamw_args). Of an fp32 weight itself, always. */
enum ds_master {
    DS_MASTER_FP32,
    DS_MASTER_REMAINDER16, /* bf16 weights: what fp32 has more, in 16 bits; the same weights */
    DS_MASTER_NONE,        /* bf16 weights: nothing; updates are rounded stochastically */
};

/* How each kind of state is stored. */
struct ds_zero_dtypes {
    enum ds_dtype param;               /* F32, BF16, F16: what is gathered and computed with */
    enum ds_dtype reduce;              /* F32, BF16, F16: local gradients, summed over ranks */
    enum ds_dtype gradient;            /* F32, BF16: the accumulator */
    enum ds_dtype exp_avg, exp_avg_sq; /* F32, BF16 */
    enum ds_master master;
};
/* pure: all of them fp32 */
struct ds_zero_dtypes ds_zero_dtypes_fp32(void);

struct ds_zero_options {
    uint32_t stage; /* 0-3 */
    struct ds_zero_dtypes dtypes;
    const struct ds_zero_unit_spec *units;
    uint32_t unit_count;
    struct ds_zero_slots slots;
    struct ds_zero_homes
        homes; /* of param but in stage 3, and of all in stage 0 of several ranks: the device */
    int is_training; /* 0: weights only */
    int registers;   /* weights lie where the shard group may register them */
    /* Where no sum over ranks stands between a local gradient and the accumulator, backward passes may add
     * straight onto it: no slots and no pass over memory, but products and sums of several micro-batches are
     * rounded otherwise than on several ranks. */
    int adds_in_place;
    /* Data communicators, used on the stream `comm` alone, those of sums and `tie` included. */
    struct ds_comm *shard, *replica; /* replica may have size 1 */
    struct ds_comm *norm[2]; /* tensor and pipeline: the norm is a sum over them, too; NULL: none */
    struct ds_comm *tie;     /* the two stages that hold a tied unit; NULL: none */
    struct ds_device *device;
    struct ds_stream *compute, *comm; /* where arithmetic and where collectives are queued */
    struct ds_stream *load,
        *store; /* where states come from their homes, and go; NULL: none is away */
    struct ds_stream
        *grads; /* where accumulators come from the host, which are at home late; or NULL: load */
    struct ds_memory *memory;     /* everything is taken here, in open */
    struct ds_timeline *timeline; /* where waits are marked; or NULL */
};

struct ds_zero;

/* collective: take the memory; parameters are zero until ds_zero_load_* has filled them. */
DS_CHECKED ds_status ds_zero_open(const struct ds_zero_options *options, struct ds_zero **out);
/* local: closes events; the memory goes back with the ledger. NULL is allowed. */
void ds_zero_close(struct ds_zero *zero);

/* local: where things are; of a unit that is elsewhere: no element, owned by nobody */
const struct ds_zero_layout *ds_zero_unit_layout(const struct ds_zero *zero, uint32_t unit);
/* local: bytes that ds_zero_open takes for its slots with these counts (pure) */
uint64_t ds_zero_slot_bytes(const struct ds_zero_options *options, struct ds_zero_slots slots);

/* local: fill the owned shard of a unit (device memory) from host memory, and read it back, fp32 on the
 * host's side; outside a step. Written are the weight and its master; read is the master, or the weight where
 * there is none. `from` is the caller's again at once; what was written is there after ds_zero_publish, for
 * ds_zero_read_shard, and for later work of the compute stream. */
DS_CHECKED ds_status ds_zero_write_shard(struct ds_zero *zero, uint32_t unit, uint64_t start,
                                         uint64_t count, const float *from);
/* local: the same of a unit that is packed: bytes start.. of its form, of which what other ranks own is passed over */
DS_CHECKED ds_status ds_zero_write_packed(struct ds_zero *zero, uint32_t unit, uint64_t start,
                                          uint64_t count, const void *from);
DS_CHECKED ds_status ds_zero_read_shard(struct ds_zero *zero, uint32_t unit, uint64_t start,
                                        uint64_t count, float *to);
/* local: the same for a kind of state that only the optimizer has (DS_ZERO_EXP_AVG, DS_ZERO_EXP_AVG_SQ); what was
 * written is there after ds_zero_publish_moments */
DS_CHECKED ds_status ds_zero_write_moment(struct ds_zero *zero, uint32_t unit,
                                          enum ds_zero_kind kind, uint64_t start, uint64_t count,
                                          const float *from);
/* local: how many elements the owned shard has of a kind, 0 where there is none, and how they are stored */
uint64_t ds_zero_shard_elems(const struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                             enum ds_dtype *dtype);
/* Some of them as they are stored. What lives in a file comes by way of pinned memory, which others wait for. */
struct ds_zero_view {
    struct ds_tensor tensor;
    int is_away;       /* not in device memory */
    uint32_t *is_read; /* NULL, or to be signalled (device.h) on the stream when it has been read */
};
/* local: from `start` on at most `count`, and fewer where the rest lies elsewhere; for a `stream` that ds_zero_evicted
 * has been told of, the same for all: work queued on it from here on sees them. */
DS_CHECKED ds_status ds_zero_shard(struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                                   uint64_t start, uint64_t count, struct ds_stream *stream,
                                   struct ds_zero_view *out);
/* pure: may anything of these be away? */
int ds_zero_has_away(const struct ds_zero *zero);
/* local: `stream` goes on when all that was evicted so far is at home */
DS_CHECKED ds_status ds_zero_evicted(const struct ds_zero *zero, struct ds_stream *stream);
/* local: the same of the compute stream, and of accumulators and all that was fetched: nothing of an earlier list is on
 * its way any more */
DS_CHECKED ds_status ds_zero_join(struct ds_zero *zero);
/* local: the unit's next update waits, on the compute stream, until this event, which is recorded, has come: what
 * is read of the owned states until then is what they are now. Not while another one holds the unit; the same
 * one may have been recorded again, behind what it stood for. */
void ds_zero_hold(struct ds_zero *zero, uint32_t unit, struct ds_event *until);
/* local: is there a unit whose next update waits? Such a step cannot be captured, nor launched as a graph. */
int ds_zero_is_held(const struct ds_zero *zero);
/* local: at the start of a capture (device.h), and of the first list behind a graph: every event of an earlier
 * step that a step waits for is recorded again behind all that the compute stream has, and the comm stream
 * waits for that; it must have nothing of its own that the compute stream has not waited for. */
DS_CHECKED ds_status ds_zero_rejoin(struct ds_zero *zero);
/* collective, once: with `registers`, what weights are gathered from and into is registered with the shard group */
DS_CHECKED ds_status ds_zero_register(struct ds_zero *zero);
/* collective: after all shards are written: stages 0-2 gather their whole copies */
DS_CHECKED ds_status ds_zero_publish(struct ds_zero *zero);
/* collective: after all moments are written: stage 0 gathers its whole copies */
DS_CHECKED ds_status ds_zero_publish_moments(struct ds_zero *zero);

/* ---- files: what has its home at DS_HOME_NVME. It begins as zeros. */

/* local: of each kind of state (device memory and the host have the rest) this rank's bytes in files; of one of the
 * files all that is to be there */
uint64_t ds_zero_filed_bytes(const struct ds_zero *zero, enum ds_zero_kind kind);
uint64_t ds_zero_file_bytes(const struct ds_zero *zero, uint32_t drive);
/* local: what of some elements of a unit's own part passes between files and memory with them */
uint64_t ds_zero_filed_of(const struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                          struct ds_span span);
/* local, once, before anything is written or queued; without any such home there is nothing to do */
DS_CHECKED ds_status ds_zero_start_files(struct ds_zero *zero, const struct ds_swap_files *files);
/* local: DS_OK, or how reading or writing them has failed, which was told; what has been computed since from such states
 * is nothing (swap.h). Known at the latest when the stream that reads them is through. */
ds_status ds_zero_files_status(const struct ds_zero *zero);
/* local: files of somebody else's that a step's verdict depends on as well, or NULL: their failure is one of these. Borrowed
 * for as long as anybody asks. */
void ds_zero_heed_files(struct ds_zero *zero, const struct ds_swap *others);
/* local: states in files as they are when all that was evicted so far is at home, in other files, which share it
 * (swap.h): masters whole, moments, and parameters without another master; `files` one for each drive. Waits for the
 * one before it. */
DS_CHECKED ds_status ds_zero_freeze(struct ds_zero *zero, const int *files);
int ds_zero_frozen(const struct ds_zero *zero, ds_status *st); /* local: see ds_swap_frozen */
uint64_t ds_zero_still_bytes(const struct ds_zero *zero, uint32_t drive);
uint32_t ds_zero_block_count(const struct ds_zero *zero);
void ds_zero_stills(const struct ds_zero *zero, struct ds_swap_still *to); /* one a block */
/* pure: do these elements of a unit's own part lie there, at multiples of DS_FS_DIRECT_ALIGN? Then from byte *offset of
 * block *block on, and in those behind it. */
int ds_zero_still_at(const struct ds_zero *zero, uint32_t unit, enum ds_zero_kind kind,
                     struct ds_span span, uint32_t *block, uint64_t *offset);
/* local: before streams are closed: they no longer wait for files */
void ds_zero_abandon_files(struct ds_zero *zero);
/* local: what a list queues between begin and end goes with a graph, and again with each launch of it; `turn` is one of
 * DS_SWAP_TAPES */
void ds_zero_record_begin(struct ds_zero *zero, uint32_t turn);
void ds_zero_record_end(struct ds_zero *zero);
DS_CHECKED ds_status ds_zero_record_launch(struct ds_zero *zero, uint32_t turn);

/* ---- in the list. `slot` is one of the plan's, chosen by whoever made the list. */

/* collective: start gathering into `slot`. Does not wait; a failure shows at acquire. */
DS_CHECKED ds_status ds_zero_prefetch(struct ds_zero *zero, uint32_t unit, uint32_t slot);
/* collective: work queued on the compute stream after this sees the unit's whole weights. Starts the
 * gather itself if nobody has. Stages 0-2: nothing to do. */
DS_CHECKED ds_status ds_zero_acquire(struct ds_zero *zero, uint32_t unit, uint32_t slot);
/* local: give the gathered copy back. The shard stays. */
DS_CHECKED ds_status ds_zero_release(struct ds_zero *zero, uint32_t unit);
/* local: the whole unit in device memory (dtypes.param), while acquired */
void *ds_zero_weights(const struct ds_zero *zero, uint32_t unit);
/* local: from here to reduce the unit's local gradient has this slot; padding is zero. `*is_started`:
 * was it there already (a second block adds to it)? */
DS_CHECKED ds_status ds_zero_grad_acquire(struct ds_zero *zero, uint32_t unit, uint32_t slot,
                                          int *is_started);
/* local: the unit's local gradient (dtypes.reduce), between grad_acquire and reduce */
void *ds_zero_grads(const struct ds_zero *zero, uint32_t unit);
/* collective: bring the local gradient home: add it to the owned part of the accumulator. The first
 * reduce of a step overwrites; the last one of the unit says so. */
DS_CHECKED ds_status ds_zero_reduce(struct ds_zero *zero, uint32_t unit, int is_last);
/* collective: the owned part of a tied unit's accumulator becomes the sum of both stages'; once, after the
 * unit's last reduce of the step. Both then do the same update. */
DS_CHECKED ds_status ds_zero_tied_reduce(struct ds_zero *zero, uint32_t unit);
/* collective: norm_squared of the owned parts of all units, without what is foreign, summed over shard
 * ranks and the groups of `norm` in record (each replica counts the same, once). Also sums
 * record->loss_sum over shard, replica and norm[1]: stages without the head have 0; and record->asked over all
 * of them. */
DS_CHECKED ds_status ds_zero_norm(struct ds_zero *zero, struct ds_step_record *record);
/* collective: trained_tokens of the record summed over both groups */
DS_CHECKED ds_status ds_zero_sum_tokens(struct ds_zero *zero, struct ds_step_record *record);

/* local: bring what is away of a strip into `slot`, behind what was evicted from there and of the unit, and all that was
 * added to its accumulator. Does not wait. is_ahead: for an update of a later list, and so without a span. */
DS_CHECKED ds_status ds_zero_fetch(struct ds_zero *zero, uint32_t unit, uint32_t strip,
                                   uint32_t slot, int is_ahead);
/* local: and back, when the update that is queued on `stream` is through; the slot is free */
DS_CHECKED ds_status ds_zero_evict(struct ds_zero *zero, struct ds_stream *stream, uint32_t unit,
                                   uint32_t strip, uint32_t slot);

/* What the optimizer updates of a strip: views of device memory. Stage 0: of the whole unit (after
 * ds_zero_update_begin has gathered its gradient); else of the owned shard, `start` in the unit. */
struct ds_zero_state {
    struct ds_tensor master, param, grad, exp_avg, exp_avg_sq; /* master: as ds_adamw_args has it */
    uint64_t start, count;
};
/* local: which part of the unit this rank updates: all of it in stage 0, else the owned shard; nothing of
 * a unit that is elsewhere, or frozen */
void ds_zero_update_part(const struct ds_zero *zero, uint32_t unit, uint64_t *start,
                         uint64_t *count);
/* local: in which strips; of a unit that is elsewhere: none */
struct ds_zero_strips ds_zero_update_strips(const struct ds_zero *zero, uint32_t unit);
/* local: the same of a strip that the host updates: views of host memory, and its words (device.h). In the list its fetch
 * brings the gradient and then signals `go`; its eviction awaits `done`, and takes the weights along. */
struct ds_zero_host_strip {
    struct ds_zero_state state;
    uint32_t *go, *done;
};
struct ds_zero_host_strip ds_zero_host_strip(const struct ds_zero *zero, uint32_t unit,
                                             uint32_t strip, uint32_t slot);
/* pure: may updates be queued on a stream beside the compute stream's? In stage 0 of several ranks gradients meet there */
int ds_zero_updates_beside(const struct ds_zero *zero);
/* collective: stage 0 gathers the unit's gradient; gives the views. `slot`: where an away strip was fetched to, else
 * DS_ZERO_NO_SLOT. Strips come in their order. `stream`: where the update is queued: the compute stream, or another one
 * that goes on behind all that this list's verdict rests on; then the unit's next acquire waits for it. */
#define DS_ZERO_NO_SLOT UINT32_MAX
DS_CHECKED ds_status ds_zero_update_begin(struct ds_zero *zero, struct ds_stream *stream,
                                          uint32_t unit, uint32_t strip, uint32_t slot,
                                          struct ds_zero_state *out);
/* collective: the update is queued: after a unit's last strip stages 1-2 gather the new parameters */
DS_CHECKED ds_status ds_zero_update_end(struct ds_zero *zero, struct ds_stream *stream,
                                        uint32_t unit, uint32_t strip);

#endif
