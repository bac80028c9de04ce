/* mpi_native.c - the MPI library's own collectives, to measure ours against. Blocking, without a
 * deadline, sums in an order of the library's choice: never part of a run. Main thread. */
#include "comm_mpi.h"

#include <limits.h>

ds_status ds_comm_mpi_native(struct ds_comm *control, enum ds_comm_native call, const void *send,
                             void *recv, size_t count)
{
    struct mpi_comm *comm = (struct mpi_comm *)control;
    const int n = (int)count;

    if (control->ops != &mpi_ops)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s group: not started by mpirun", control->group);
    DS_ASSERT(count <= INT_MAX);
    switch (call) {
    case DS_COMM_NATIVE_ALL_REDUCE:
        return mpi_check(control,
                         MPI_Allreduce(MPI_IN_PLACE, recv, n, MPI_FLOAT, MPI_SUM, comm->mpi),
                         "MPI_Allreduce");
    case DS_COMM_NATIVE_REDUCE_SCATTER:
        return mpi_check(control,
                         MPI_Reduce_scatter_block(send, recv, n, MPI_FLOAT, MPI_SUM, comm->mpi),
                         "MPI_Reduce_scatter_block");
    case DS_COMM_NATIVE_ALL_GATHER:
        return mpi_check(control, MPI_Allgather(send, n, MPI_FLOAT, recv, n, MPI_FLOAT, comm->mpi),
                         "MPI_Allgather");
    case DS_COMM_NATIVE_BROADCAST:
        return mpi_check(control, MPI_Bcast(recv, n, MPI_FLOAT, 0, comm->mpi), "MPI_Bcast");
    }
    DS_ASSERT(!"a collective that is none");
    return DS_OK;
}
