/* mpi_abort.c - the end of a whole job, for launch/bootstrap.c alone. A file of its own, so that the
 * one place below launch that ends processes is easy to see. */
#include "dstrain/comm.h"

#include <mpi.h>
#include <unistd.h>

#define ABORT_S_MAX 30 /* mpirun kills us sooner, unless it is gone; then SIGALRM does */

void ds_comm_mpi_abort(int exit_code)
{
    int is_up = 0, is_down = 0;

    MPI_Initialized(&is_up);
    MPI_Finalized(&is_down);
    if (is_up && !is_down) {
        alarm(ABORT_S_MAX);
        MPI_Abort(MPI_COMM_WORLD, exit_code);
    }
    _exit(exit_code); /* no job, or MPI_Abort came back */
}
