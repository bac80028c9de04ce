/* comm.h - a group of ranks that talk. `collective:` means that every rank of the group makes the
 * call, and makes its calls in the same order. The group is always an argument; there is no "current"
 * one.
 *
 * A NULL stream: host memory, the call returns when it is done here. With a stream the call returns
 * at once, the work happens in the stream's order and a failure comes back from the next wait on the
 * stream; buffers belong to the work until then. Between hosts' memories sums are made in rank order, whatever
 * the backend, so one host and several give the same bits. Between GPUs they are NCCL's: in the order
 * of its algorithm, and of 16-bit floats rounded at each step; equal calls on an equal layout give equal bits
 * where its algorithm is fixed (run.deterministic). Counts are size_t: anything beyond 2^31 is cut inside.
 * Every wait has the group's deadline: DS_ERR_DEADLINE names the group, the operation and the ranks
 * that are missing, where the backend can know them. */
#ifndef DSTRAIN_COMM_H
#define DSTRAIN_COMM_H

#include "dstrain/clock.h"
#include "dstrain/device.h"
#include "dstrain/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ds_reduce { DS_REDUCE_SUM, DS_REDUCE_MAX, DS_REDUCE_MIN };

/* Which data plane a person asks for; auto: what open_data finds best. */
enum ds_transport { DS_TRANSPORT_AUTO, DS_TRANSPORT_SHM, DS_TRANSPORT_MPI, DS_TRANSPORT_NCCL };

enum ds_comm_cap {
    DS_COMM_CAP_WORKER = 1u << 0, /* collectives may be driven by a worker thread */
};

/* One message of a grouped exchange. `data` is only read where it is sent. */
struct ds_message {
    void *data;
    size_t bytes; /* may be 0: then it only says that the sender has come so far */
    uint32_t peer;
    int is_send;
};
#define DS_MESSAGES_MAX 32 /* of one exchange */

struct ds_comm;

struct ds_comm_ops {
    const char *name;
    uint32_t caps;
    /* collective, all five, in the same order on every rank. Dtypes: all_reduce and reduce_scatter F32,
     * F64, BF16, F16, I32, I64, U64; the others move bytes. 16-bit floats are added in fp32 over all
     * ranks and rounded once, to nearest even (nccl: see above). In place is allowed: all_reduce always is; all_gather
     * where `send` is rank * count elements into `recv`; reduce_scatter where `recv` is that part of
     * `send`. */
    ds_status (*all_reduce)(struct ds_comm *comm, void *data, size_t count, enum ds_dtype dtype,
                            enum ds_reduce op, struct ds_stream *stream);
    ds_status (*all_gather)(struct ds_comm *comm, const void *send, void *recv, size_t count,
                            enum ds_dtype dtype, struct ds_stream *stream); /* count: of one rank */
    ds_status (*reduce_scatter)(struct ds_comm *comm, const void *send, void *recv, size_t count,
                                enum ds_dtype dtype, struct ds_stream *stream); /* of one rank */
    ds_status (*broadcast)(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                           struct ds_stream *stream);
    ds_status (*barrier)(struct ds_comm *comm);
    /* collective among the ranks that name each other: the messages of a call progress together, none
     * waits for another one. Between two ranks those of one direction are matched in the order of the
     * calls and, inside a call, of the array; sizes that differ are DS_ERR_COMM (nccl does not see it). It
     * has no place in the order of the collectives of a host backend; nccl's follow the calls, and the first
     * messages between two ranks must be in calls that match: both their directions, or one. The array is
     * copied at the call. */
    ds_status (*exchange)(struct ds_comm *comm, const struct ds_message *messages, uint32_t count,
                          struct ds_stream *stream);
    /* collective: ranks of one color form a group, ordered by (key, old rank). A negative color:
     * *out = NULL. Host side, blocking. Control groups and those that host memory goes through; else NULL. */
    ds_status (*split)(struct ds_comm *comm, int color, int key, const char *group,
                       struct ds_comm **out);
    /* collective: a communicator over the same ranks for data in a step, the best for where they are
     * (a control group only): threads -> threads, one host -> shm, else mpi. Of nccl, whatever the control
     * group: between the GPUs that its ranks have open. */
    ds_status (*open_data)(struct ds_comm *control, const char *group, struct ds_comm **out);
    /* collective, optional: `bytes` from `at` on, taken with DS_ALLOC_SYMMETRIC and as many on every rank, are
     * what calls send from and receive into: they may then move without copies, by other ways that give the
     * same bytes. Until close; the memory stays that long. Fallback: all memory is alike. */
    ds_status (*register_memory)(struct ds_comm *comm, void *at, size_t bytes);
    /* local, optional: the caller's own place in a group whose shape it knows; for a backend that sends
     * nothing and so cannot be asked who else there is */
    ds_status (*place)(struct ds_comm *comm, uint32_t rank, uint32_t size, const char *group,
                       struct ds_comm **out);
    /* local: make every wait of every rank of this job end with DS_ERR_COMM, if that is possible */
    void (*poison)(struct ds_comm *comm);
    void (*close)(struct ds_comm *comm); /* collective; not for the world of mpi or threads */
};

struct ds_comm { /* the first member of a backend's own struct */
    const struct ds_comm_ops *ops;
    uint32_t rank; /* in this group, not in the world */
    uint32_t size;
    uint64_t deadline_ns; /* of every wait; inherited by split and open_data */
    const struct ds_clock *clock;
    char group[16]; /* "world", "shard", ... for messages */
    /* the rank that a wait was given up for: where it was for one alone; else DS_COMM_NOBODY */
    uint32_t missing;
};
#define DS_COMM_NOBODY UINT32_MAX

/* collective, all of these: the wrappers every caller goes through: asserts, and groups of one rank need
 * no backend. */
ds_status ds_comm_all_reduce(struct ds_comm *comm, void *data, size_t count, enum ds_dtype dtype,
                             enum ds_reduce op, struct ds_stream *stream);
ds_status ds_comm_all_gather(struct ds_comm *comm, const void *send, void *recv, size_t count,
                             enum ds_dtype dtype, struct ds_stream *stream);
ds_status ds_comm_reduce_scatter(struct ds_comm *comm, const void *send, void *recv, size_t count,
                                 enum ds_dtype dtype, struct ds_stream *stream);
ds_status ds_comm_broadcast(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                            struct ds_stream *stream);
ds_status ds_comm_barrier(struct ds_comm *comm);
ds_status
ds_comm_exchange(struct ds_comm *comm, const struct ds_message *messages, uint32_t count,
                 struct ds_stream *stream); /* none to itself; 0 messages: nothing to do */
ds_status ds_comm_split(struct ds_comm *comm, int color, int key, const char *group,
                        struct ds_comm **out);
ds_status ds_comm_open_data(struct ds_comm *control, const char *group, struct ds_comm **out);
ds_status ds_comm_register_memory(struct ds_comm *comm, void *at, size_t bytes);
void ds_comm_close(struct ds_comm *comm); /* NULL is allowed; local then */

/* collective: turn "it failed here" into "we all know what failed". The way out of a stretch of
 * rank-local work that peers will wait for. Every rank gets the worst status. Returns whether the
 * agreement itself worked. */
DS_CHECKED ds_status ds_comm_agree(struct ds_comm *control, ds_status local, ds_status *verdict);

/* collective: the usual end of rank-local work: the agreed status, or the failure to agree. */
DS_CHECKED ds_status ds_comm_agreed(struct ds_comm *control, ds_status local);

/* ---- worlds. Control communicators: host memory, blocking. */

/* collective: the world of mpirun; of one rank where the program was not started by mpirun. Call once,
 * from the main thread, after ds_comm_mpi_environment(). Starts a watchdog: where MPI itself waits (to
 * start, to split and free groups, to end) nothing can be given up, and a passed deadline is one line
 * with the name of the call and the end of the process with 71. */
DS_CHECKED ds_status ds_comm_mpi_open(const struct ds_clock *clock, uint64_t deadline_ns,
                                      struct ds_comm **out);
/* local: before MPI_Init: yield when idle, silence what would only alarm; never overrides the user. */
void ds_comm_mpi_environment(void);
/* collective over an mpi control communicator: a data communicator over MPI wherever its ranks are,
 * where open_data would take shared memory. Groups of more than `direct_ranks_max` ranks use MPI's
 * trees for what needs no order of addition; up to it messages go from each to each, and a late rank
 * can be named. */
#define DS_COMM_MPI_DIRECT_RANKS 64 /* what open_data takes */
DS_CHECKED ds_status ds_comm_mpi_open_data(struct ds_comm *control, const char *group,
                                           uint32_t direct_ranks_max, struct ds_comm **out);
/* collective over an mpi control communicator: the library's own collective on fp32 host memory, for
 * measurements alone: no deadline, sums in an order of its choice. `count` is as in struct ds_comm_ops
 * (at most INT_MAX); all_reduce and broadcast work on `recv`, the root is rank 0. */
enum ds_comm_native {
    DS_COMM_NATIVE_ALL_REDUCE,
    DS_COMM_NATIVE_REDUCE_SCATTER,
    DS_COMM_NATIVE_ALL_GATHER,
    DS_COMM_NATIVE_BROADCAST,
};
DS_CHECKED ds_status ds_comm_mpi_native(struct ds_comm *control, enum ds_comm_native call,
                                        const void *send, void *recv, size_t count);
/* collective: MPI_Finalize */
void ds_comm_mpi_close(struct ds_comm *world, int exit_code);
/* local: end the whole job at once with `exit_code` (MPI_Abort); for launch/bootstrap.c alone. */
void ds_comm_mpi_abort(int exit_code) __attribute__((noreturn));

/* local, both: `size` ranks inside this process, for tests; out[i] is rank i's. Closed by one call, when no
 * rank is in one. */
DS_CHECKED ds_status ds_comm_threads_open(uint32_t size, const struct ds_clock *clock,
                                          uint64_t deadline_ns, struct ds_comm **out);
void ds_comm_threads_close(struct ds_comm **world, uint32_t size);

/* local: rank `rank` of `size` that are not there; nothing moves. For the planner. */
DS_CHECKED ds_status ds_comm_null_open(uint32_t rank, uint32_t size, const struct ds_clock *clock,
                                       struct ds_comm **out);

/* local: a world of one rank, no threads, no MPI. */
DS_CHECKED ds_status ds_comm_self_open(const struct ds_clock *clock, struct ds_comm **out);

#ifdef __cplusplus
}
#endif
#endif
