/* comm_mpi.h - private to the mpi backend: a communicator, and what all of a process share. */
#ifndef DSTRAIN_COMM_MPI_H
#define DSTRAIN_COMM_MPI_H

#include "shared.h"

#include "dstrain/recorder.h"

#include <mpi.h>

#define MPI_CONTROL_STAGING_BYTES (64u << 10)
#define MPI_DATA_STAGING_BYTES    (4u << 20)
#define MPI_MESSAGE_BYTES         (1u << 30) /* MPI counts are int */

/* Tags: collectives use those below, by their number; the least that MPI promises is 0..32767. */
#define MPI_TAG_EXCHANGE       0x7ffe /* what an exchange moves */
#define MPI_TAG_EXCHANGE_BYTES 0x7fff /* how much: ahead of each of its messages */

struct mpi_job {               /* of this process; owned by the world */
    struct comm_job *shared;   /* one page for the ranks of this host; our own if that cannot be */
    size_t shared_bytes;       /* mapped; 0: from malloc */
    int32_t host;              /* the lowest world rank on this host */
    int is_broken;             /* a wait of MPI ended early */
    struct ds_recorder *guard; /* of MPI's own blocking calls; with a watchdog */
};

struct mpi_comm {
    struct ds_comm base;
    /* owns */
    MPI_Comm mpi;
    MPI_Request *requests; /* a receive from each rank, a send to each; unused: MPI_REQUEST_NULL */
    MPI_Request *exchange_requests; /* behind them: DS_MESSAGES_MAX of sizes, as many of data */
    uint8_t *staging;
    size_t staging_bytes;
    size_t message_bytes; /* what is larger is cut */
    uint32_t direct_ranks_max;
    uint64_t next_call, done_calls;           /* collectives run in the order of the calls */
    uint64_t next_exchange, done_exchanges;   /* and so do exchanges, by themselves */
    uint64_t exchange_bytes[DS_MESSAGES_MAX]; /* the sizes */
    int has_failed;
    /* borrows */
    struct mpi_job *job;
};

extern const struct shared_source shm_source;
extern const struct ds_comm_ops mpi_ops;

/* local: the pair around a call of MPI that waits for other ranks by itself. It cannot be given up: when the
 * deadline passes, the watchdog names the call and ends the process with 71. */
void mpi_guard_begin(struct mpi_job *job, const char *call, uint64_t deadline_ns);
void mpi_guard_end(struct mpi_job *job);
void mpi_free_guarded(struct mpi_job *job, uint64_t deadline_ns, MPI_Comm *mpi);

/* local: DS_OK, or log what MPI has against `what` */
DS_CHECKED ds_status mpi_check(const struct ds_comm *comm, int code, const char *what);

/* local: takes `mpi` over, also when it fails */
DS_CHECKED ds_status mpi_comm_new(MPI_Comm mpi, struct mpi_job *job, const struct ds_comm *model,
                                  size_t staging_bytes, struct ds_comm **out);

/* Entries of the table. */
ds_status mpi_split(struct ds_comm *comm, int color, int key, const char *group,
                    struct ds_comm **out);
ds_status mpi_open_data(struct ds_comm *control, const char *group, struct ds_comm **out);
ds_status mpi_exchange(struct ds_comm *comm, const struct ds_message *messages, uint32_t count,
                       struct ds_stream *stream);
void mpi_close(struct ds_comm *base);

#endif
