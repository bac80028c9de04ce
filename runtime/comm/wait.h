/* wait.h - what every backend's waits have in common: how a blocking call passes the time, when it
 * gives up, and what it says then. */
#ifndef DSTRAIN_COMM_WAIT_H
#define DSTRAIN_COMM_WAIT_H

#include "dstrain/comm.h"

#include <stdatomic.h>

/* One page for all communicators of a job, shared by the ranks that can share memory. */
struct comm_job {
    _Atomic uint32_t poisoned; /* every wait ends with DS_ERR_COMM */
};

/* The first member of a backend's work. */
struct comm_work {
    const char *call;    /* "all_gather", for messages */
    uint64_t started_ns; /* the first poll; 0: not yet polled */
    uint64_t progress;   /* grows whenever a poll got somewhere */
    int is_crowded;      /* who yields loses the core to somebody who computes: better sleep */
};

/* local: poll `work` (which begins with a comm_work) until it is done. */
DS_CHECKED ds_status comm_drive(struct ds_comm *comm, ds_work_fn work, struct comm_work *args);

/* local: let others run, and notice if that costs a time slice */
void comm_yield(const struct ds_comm *comm, struct comm_work *work);

/* local: queue `work` on `stream`, or drive it here and now if there is none. */
DS_CHECKED ds_status comm_submit(struct ds_comm *comm, struct ds_stream *stream, ds_work_fn work,
                                 struct comm_work *args, size_t args_bytes);

/* local: has this work waited too long? Asked when a poll gets nowhere. */
int comm_is_late(const struct ds_comm *comm, const struct comm_work *work);

/* Ranks for a message: "ranks 1, 3". */
struct comm_names {
    uint32_t count;
    uint32_t first;    /* of them */
    uint32_t has_more; /* than fit */
    size_t length;
    char text[160];
};
void comm_names_add(struct comm_names *names, uint32_t rank);

/* local: decide DS_ERR_DEADLINE, and keep who is missing. No names: the backend cannot know. */
DS_CHECKED ds_status comm_fail_late(struct ds_comm *comm, const struct comm_work *work,
                                    const struct comm_names *missing);

/* local: fill what a communicator inherits */
void comm_init(struct ds_comm *comm, const struct ds_comm_ops *ops, uint32_t rank, uint32_t size,
               const struct ds_clock *clock, uint64_t deadline_ns, const char *group);

/* local: a group of one rank needs no backend. Takes deadline and clock from `parent`. */
DS_CHECKED ds_status comm_self_like(const struct ds_comm *parent, const char *group,
                                    struct ds_comm **out);

#endif
