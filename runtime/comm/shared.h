/* shared.h - ranks that can see one piece of memory: the processes of a host (shm) or the threads of a
 * process (threads). One algorithm; a backend only says where the memory comes from.
 *
 *   segment:  | head | lines | boxes | slots of rank 0 | slots of rank 1 | ... | chunks of the boxes |
 *
 * A collective is cut into rounds, one piece of the caller's data each. In a round a rank
 *   posts  its part into its slot           when all have done the round that used the slot before,
 *   mixes  what is there (sums, or copies)  when all have posted,
 *   takes  the others' sums                 when all have mixed (all_reduce alone).
 * A rank's line holds how many rounds it has posted, mixed and done since the group was opened; a
 * line has one writer. Pieces are small enough that slots stay in the cache, and with several slots
 * a rank posts the next round while it waits for the last one: fewer turns where cores are few.
 *
 * An exchange goes through boxes: one for each rank and each other one that it sends to, a ring of
 * chunks that is full until the receiver takes some. No pair waits for another pair's chunks. */
#ifndef DSTRAIN_COMM_SHARED_H
#define DSTRAIN_COMM_SHARED_H

#include "combine.h"
#include "trial.h"
#include "wait.h"

#define SHARED_SLOTS           4
#define SHARED_SLOT_BYTES      (256u << 10)
#define SHARED_SLOT_BYTES_MIN  (4u << 10)
#define SHARED_BOX_CHUNKS      4
#define SHARED_BOX_SLOTS       2 /* chunks of all boxes of a rank together, in slots */
#define SHARED_CHUNK_BYTES_MIN 64u

#define SHARED_POLL_YIELDS 64 /* after a poll that got somewhere */

struct shared_line {
    _Alignas(128) _Atomic uint64_t posted;
    _Atomic uint64_t mixed, done;
    uint64_t signature[SHARED_SLOTS]; /* what the poster of a round thinks it is; see shared_sign */
    _Atomic uint64_t tried_ns[TRIAL_WAYS]; /* of its last trial; see is_past_cache */
};

struct shared_box {
    _Alignas(
        128) _Atomic uint64_t sent;   /* chunks since the group was opened; of the sender alone */
    uint64_t left[SHARED_BOX_CHUNKS]; /* bytes of the message from this chunk on; the sender's */
    _Alignas(128) _Atomic uint64_t taken;
    _Atomic uint64_t refused; /* taken and refused are the receiver's. 1: sizes differ, and are */
    uint64_t refused_sent, refused_wanted;
};

struct shared_segment {
    uint64_t bytes, slot_bytes, chunk_bytes;
    uint64_t slots_offset, chunks_offset;
    uint32_t rank_count;
    _Atomic uint32_t user_count; /* threads: the last to close frees */
    struct shared_line lines[];
};

#define SHARED_HANDLE_BYTES 56

/* Where the memory comes from. local: each of them. */
struct shared_source {
    const struct ds_comm_ops *ops; /* of the communicators made from it */
    /* memory of at most `bytes`; *handle is how others find it. *got_bytes may be less. */
    ds_status (*create)(const struct ds_clock *clock, size_t bytes, size_t bytes_min, void *handle,
                        void **at, size_t *got_bytes);
    ds_status (*attach)(const void *handle, void **at);
    void (*settle)(const void *handle); /* all have attached, or will not */
    void (*detach)(struct shared_segment *segment);
};

struct shared_comm {
    struct ds_comm base;
    /* owns a share of */
    struct shared_segment *segment;
    uint8_t *slots;
    uint64_t next_round;    /* of the next call; advances when a call is made, not when it runs */
    uint64_t next_exchange; /* of the next call; exchanges run in the order of the calls */
    _Atomic uint64_t done_exchanges;
    _Atomic uint32_t has_failed; /* a wait ended early: rounds are missing for good */
    /* borrows */
    struct comm_job *job;
    const struct shared_source *source;
};

/* collective over `parent`: ranks of one color form a group over memory from `source`, ordered by
 * (key, rank); a negative color gives NULL. All ranks get memory or none does: then *verdict says
 * why, and the return value is DS_OK; it speaks of the parent's own calls. */
DS_CHECKED ds_status shared_open_group(struct ds_comm *parent, const struct shared_source *source,
                                       struct comm_job *job, int color, int key, const char *group,
                                       ds_status *verdict, struct ds_comm **out);

/* local: where a segment of this many ranks has what `from` sends to `to` */
struct shared_box *shared_box_of(struct shared_segment *segment, uint32_t from, uint32_t to);
uint8_t *shared_chunk_of(struct shared_segment *segment, uint32_t from, uint32_t to,
                         uint64_t chunk);

/* local: bytes of a segment, and its head filled in */
size_t shared_bytes(uint32_t rank_count, size_t slot_bytes);
void shared_format(struct shared_segment *segment, uint32_t rank_count, size_t bytes);
DS_CHECKED ds_status shared_comm_new(const struct shared_source *source,
                                     struct shared_segment *segment, struct comm_job *job,
                                     const struct ds_comm *model, struct ds_comm **out);

/* Entries of a backend's table. */
ds_status shared_all_reduce(struct ds_comm *comm, void *data, size_t count, enum ds_dtype dtype,
                            enum ds_reduce op, struct ds_stream *stream);
ds_status shared_all_gather(struct ds_comm *comm, const void *send, void *recv, size_t count,
                            enum ds_dtype dtype, struct ds_stream *stream);
ds_status shared_reduce_scatter(struct ds_comm *comm, const void *send, void *recv, size_t count,
                                enum ds_dtype dtype, struct ds_stream *stream);
ds_status shared_broadcast(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                           struct ds_stream *stream);
ds_status shared_barrier(struct ds_comm *comm);
ds_status shared_exchange(struct ds_comm *comm, const struct ds_message *messages, uint32_t count,
                          struct ds_stream *stream);
ds_status shared_split(struct ds_comm *comm, int color, int key, const char *group,
                       struct ds_comm **out);
ds_status shared_open_data(struct ds_comm *control, const char *group, struct ds_comm **out);
void shared_poison(struct ds_comm *comm);
void shared_close(struct ds_comm *comm);

#endif
