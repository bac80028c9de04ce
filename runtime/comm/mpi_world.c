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

/* ---- the watchdog of what blocks inside MPI */

#define GUARD_TICK_NS 100000000u

void mpi_guard_begin(struct mpi_job *job, const char *call, uint64_t deadline_ns)
{
    ds_recorder_section(job->guard, call, deadline_ns);
}

void mpi_guard_end(struct mpi_job *job)
{
    ds_recorder_section(job->guard, "outside MPI", 0);
}

/* Before MPI_Init, so what mpirun says is all that is known. */
static ds_status guard_open(const struct ds_clock *clock, struct ds_recorder **out)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *size = getenv("OMPI_COMM_WORLD_SIZE");
    const struct ds_recorder_options options = {
        .run_id = "mpi",
        .rank = rank != NULL ? (uint32_t)strtoul(rank, NULL, 10) : 0,
        .rank_count = size != NULL ? (uint32_t)strtoul(size, NULL, 10) : 1,
        .clock = clock};
    ds_status st;

    DS_TRY(ds_recorder_open(&options, out));
    st = ds_watchdog_start(*out, GUARD_TICK_NS, NULL);
    if (st != DS_OK)
        ds_recorder_close(*out, ds_status_exit_code(st));
    return st;
}

/* ---- the job: what all communicators of this process share */

/* Who is on this host, and the page that they share. */
static ds_status find_host(struct mpi_job *job, const struct ds_clock *clock)
{
    MPI_Comm host;
    int rank = 0;

    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Bcast(&rank, 1, MPI_INT, 0, host);
    job->host = rank;
    job->shared = share_page(clock, host);
    MPI_Comm_free(&host);
    job->shared_bytes = job->shared != NULL ? 4096 : 0;
    if (job->shared == NULL)
        job->shared = calloc(1, sizeof *job->shared);
    return job->shared != NULL ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory for the job's state");
}

static void job_close(struct mpi_job *job, int exit_code)
{
    if (job->shared_bytes > 0)
        munmap(job->shared, job->shared_bytes);
    else
        free(job->shared);
    ds_recorder_close(job->guard, exit_code);
    free(job);
}

static ds_status job_open(const struct ds_clock *clock, struct mpi_job **out)
{
    struct mpi_job *job = calloc(1, sizeof *job);
    ds_status st;

    if (job == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the job's state");
    st = guard_open(clock, &job->guard);
    if (st != DS_OK)
        free(job);
    else
        *out = job;
    return st;
}

/* ---- the world */

static ds_status init_mpi(void)
{
    int provided = 0;

    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return ds_fail(DS_ERR_COMM, "MPI_Init_thread failed");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (provided < MPI_THREAD_FUNNELED)
        return ds_fail(DS_ERR_UNSUPPORTED, "this MPI does not allow a process to have threads");
    return DS_OK;
}

static ds_status world_open(struct mpi_job *job, const struct ds_clock *clock, uint64_t deadline_ns,
                            struct ds_comm **out)
{
    struct ds_comm model;
    MPI_Comm mpi;
    int rank = 0, size = 0;

    mpi_guard_begin(job, "MPI_Init", deadline_ns);
    DS_TRY(init_mpi());
    mpi_guard_begin(job, "MPI_Comm_split_type", deadline_ns);
    DS_TRY(find_host(job, clock));
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    comm_init(&model, &mpi_ops, (uint32_t)rank, (uint32_t)size, clock, deadline_ns, "world");
    mpi_guard_begin(job, "MPI_Comm_dup", deadline_ns);
    DS_TRY(mpi_check(&model, MPI_Comm_dup(MPI_COMM_WORLD, &mpi), "MPI_Comm_dup"));
    mpi_guard_end(job);
    return mpi_comm_new(mpi, job, &model, MPI_CONTROL_STAGING_BYTES, out);
}

ds_status ds_comm_mpi_open(const struct ds_clock *clock, uint64_t deadline_ns, struct ds_comm **out)
{
    struct mpi_job *job = NULL;
    ds_status st;

    if (getenv("OMPI_COMM_WORLD_SIZE") == NULL) { /* not started by mpirun */
        DS_TRY(ds_comm_self_open(clock, out));
        (*out)->deadline_ns = deadline_ns;
        return DS_OK;
    }
    DS_TRY(job_open(clock, &job));
    st = world_open(job, clock, deadline_ns, out);
    if (st != DS_OK)
        job_close(job, ds_status_exit_code(st));
    return st;
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
    const uint64_t deadline_ns = world->deadline_ns;
    int is_broken = job->is_broken || atomic_load(&job->shared->poisoned);

    if (is_broken && exit_code != 0)
        ds_comm_mpi_abort(exit_code);
    ds_comm_close(world);
    mpi_guard_begin(job, "MPI_Finalize", deadline_ns);
    MPI_Finalize();
    job_close(job, exit_code);
}
