/* mpi_world.c - how a process joins mpirun's job and leaves it. Main thread. */
#include "comm_mpi.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* Containers often forbid reading another process's memory. Open MPI then works all the same, but
 * prints an error for each message. */
static int can_read_processes(void)
{
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};

    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

void ds_comm_mpi_environment(void)
{
    /* Whoever spins takes the core from the rank that all wait for: a small all_reduce of 4 ranks
     * on 2 cores takes 4 ms instead of microseconds. */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    if (!can_read_processes())
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

/* One page for the ranks of a host. Never a failure: without it poison reaches this process alone. */
static void *share_page(const struct ds_clock *clock, MPI_Comm host)
{
    char handle[SHARED_HANDLE_BYTES + 1] = ""; /* the last byte: there is one */
    void *page = NULL;
    size_t bytes = 0;
    int rank = 0, have = 0, all_have = 0;

    MPI_Comm_rank(host, &rank);
    if (rank == 0)
        handle[SHARED_HANDLE_BYTES] =
            shm_source.create(clock, 4096, 4096, handle, &page, &bytes) == DS_OK;
    MPI_Bcast(handle, sizeof handle, MPI_BYTE, 0, host);
    if (rank != 0 && handle[SHARED_HANDLE_BYTES] && shm_source.attach(handle, &page) != DS_OK)
        page = NULL;
    have = page != NULL;
    MPI_Allreduce(&have, &all_have, 1, MPI_INT, MPI_MIN, host);
    if (rank == 0 && page != NULL)
        shm_source.settle(handle);
    if (page != NULL && !all_have) {
        munmap(page, 4096);
        page = NULL;
    }
    return page;
}

static ds_status job_open(const struct ds_clock *clock, struct mpi_job **out)
{
    struct mpi_job *job = calloc(1, sizeof *job);
    MPI_Comm host;
    int rank = 0;

    if (job == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the job's state");
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Bcast(&rank, 1, MPI_INT, 0, host);
    job->host = rank;
    job->shared = share_page(clock, host);
    MPI_Comm_free(&host);
    job->shared_bytes = job->shared != NULL ? 4096 : 0;
    if (job->shared == NULL)
        job->shared = calloc(1, sizeof *job->shared);
    if (job->shared == NULL) {
        free(job);
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the job's state");
    }
    *out = job;
    return DS_OK;
}

static void job_close(struct mpi_job *job)
{
    if (job->shared_bytes > 0)
        munmap(job->shared, job->shared_bytes);
    else
        free(job->shared);
    free(job);
}

static ds_status world_open(const struct ds_clock *clock, uint64_t deadline_ns,
                            struct ds_comm **out)
{
    struct mpi_job *job = NULL;
    struct ds_comm model;
    MPI_Comm mpi;
    int rank = 0, size = 0;
    ds_status st;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    comm_init(&model, &mpi_ops, (uint32_t)rank, (uint32_t)size, clock, deadline_ns, "world");
    DS_TRY(job_open(clock, &job));
    DS_TRY_GOTO(st, mpi_check(&model, MPI_Comm_dup(MPI_COMM_WORLD, &mpi), "MPI_Comm_dup"), fail);
    DS_TRY_GOTO(st, mpi_comm_new(mpi, job, &model, MPI_CONTROL_STAGING_BYTES, out), fail);
    return DS_OK;

fail:
    job_close(job);
    return st;
}

ds_status ds_comm_mpi_open(const struct ds_clock *clock, uint64_t deadline_ns, struct ds_comm **out)
{
    int provided = 0;

    if (getenv("OMPI_COMM_WORLD_SIZE") == NULL) { /* not started by mpirun */
        DS_TRY(ds_comm_self_open(clock, out));
        (*out)->deadline_ns = deadline_ns;
        return DS_OK;
    }
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return ds_fail(DS_ERR_COMM, "MPI_Init_thread failed");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (provided < MPI_THREAD_FUNNELED)
        return ds_fail(DS_ERR_UNSUPPORTED, "this MPI does not allow a process to have threads");
    return world_open(clock, deadline_ns, out);
}

/* Where a wait has ended early, ranks may never come to MPI_Finalize: a failed run does not wait for
 * them. */
void ds_comm_mpi_close(struct ds_comm *world, int exit_code)
{
    if (world == NULL)
        return;
    if (world->ops != &mpi_ops) {
        ds_comm_close(world);
        return;
    }
    struct mpi_job *job = ((struct mpi_comm *)world)->job;
    int is_broken = job->is_broken || atomic_load(&job->shared->poisoned);

    if (is_broken && exit_code != 0)
        ds_comm_mpi_abort(exit_code);
    ds_comm_close(world);
    MPI_Finalize();
    job_close(job);
}
