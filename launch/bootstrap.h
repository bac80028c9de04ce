/* bootstrap.h (private to launch) - what happens around MPI: the process finds its place before MPI_Init
 * and leaves the job the same way on every rank. The one caller of ds_comm_mpi_abort. */
#ifndef DSTRAIN_LAUNCH_BOOTSTRAP_H
#define DSTRAIN_LAUNCH_BOOTSTRAP_H

#include "config/config.h"

struct ds_bootstrap {
    /* owns */
    struct ds_comm *world; /* NULL until it is open */
    /* borrows */
    struct ds_fs *fs;
    const struct ds_clock *clock;
    int is_mpirun; /* started by mpirun; then these are what it said */
    int rank, rank_count, local_rank, local_count;
    int core_count;    /* this host's, as far as the cgroup allows */
    int cores_are_own; /* bound by request: no other rank is on them */
};

/* local: log, affinity, what becomes of us when mpirun dies. Nothing here can fail. */
void ds_bootstrap_init(struct ds_bootstrap *boot);
/* collective with `with_ranks`: the world of mpirun; else a world of one */
DS_CHECKED ds_status ds_bootstrap_open(struct ds_bootstrap *boot, int with_ranks);
/* local: what the configuration says about waits and threads; returns the threads of this rank */
int ds_bootstrap_configure(struct ds_bootstrap *boot, const struct ds_config *config);
/* collective: write out what was printed, agree on how it ended, leave MPI; the exit code. `peers_wait`: this rank failed where the
 * others wait for it, so the job is ended at once with its code; `peer_ends`: by another rank, whose
 * code counts, and by this one if that one does not come to it. */
int ds_bootstrap_close(struct ds_bootstrap *boot, ds_status st, int peers_wait, int peer_ends);

/* pure: cores that a line of cgroup's cpu.max ("200000 100000", "max 100000") allows; 0: no limit */
int ds_bootstrap_quota(const char *text);

#endif
