/* comm_cuts.h - communicators that cut everything into small odd pieces, as they cut what is larger than
 * their buffers or than MPI's counts: the same code with other numbers. Needs runtime/comm. */
#ifndef DSTRAIN_COMM_CUTS_H
#define DSTRAIN_COMM_CUTS_H

#include "comm_mpi.h"

/* collective */
static inline ds_status cut_shared(struct ds_comm *comm)
{
    struct shared_segment *segment = ((struct shared_comm *)comm)->segment;

    DS_TRY(ds_comm_barrier(comm));
    if (comm->rank == 0) {
        segment->slot_bytes = SHARED_SLOT_BYTES_MIN;
        segment->chunk_bytes = 31 * SHARED_CHUNK_BYTES_MIN;
    }
    return ds_comm_barrier(comm);
}

/* local */
static inline void cut_messages(struct ds_comm *comm)
{
    struct mpi_comm *mpi = (struct mpi_comm *)comm;

    mpi->message_bytes = 4101;
    mpi->staging_bytes = (size_t)comm->size * 1001;
}

#endif
