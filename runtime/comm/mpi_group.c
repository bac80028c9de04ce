/* mpi_group.c - how communicators of MPI come to be and go, and who is on which host. MPI's own calls
 * for it block: ranks meet before in a barrier whose deadline names who is missing, and the watchdog
 * sees to it that the call ends. */
#include "comm_mpi.h"

#include <stdlib.h>

void mpi_free_guarded(struct mpi_job *job, uint64_t deadline_ns, MPI_Comm *mpi)
{
    mpi_guard_begin(job, "MPI_Comm_free", deadline_ns);
    MPI_Comm_free(mpi);
    mpi_guard_end(job);
}

ds_status mpi_comm_new(MPI_Comm mpi, struct mpi_job *job, const struct ds_comm *model,
                       size_t staging_bytes, struct ds_comm **out)
{
    struct mpi_comm *comm = calloc(1, sizeof *comm);
    size_t least_bytes = (size_t)model->size * 16 * 8; /* staging_elems is never 0 */
    size_t request_count = 2 * ((size_t)model->size + DS_MESSAGES_MAX);

    if (comm == NULL) {
        mpi_free_guarded(job, model->deadline_ns, &mpi);
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory for a communicator", model->group);
    }
    comm->base = *model;
    comm->base.ops = &mpi_ops;
    comm->mpi = mpi;
    comm->job = job;
    comm->direct_ranks_max = DS_COMM_MPI_DIRECT_RANKS;
    comm->message_bytes = MPI_MESSAGE_BYTES;
    comm->staging_bytes = staging_bytes > least_bytes ? staging_bytes : least_bytes;
    comm->staging = malloc(comm->staging_bytes);
    comm->requests = calloc(request_count, sizeof(MPI_Request));
    *out = &comm->base;
    if (comm->staging == NULL || comm->requests == NULL) {
        mpi_close(*out);
        *out = NULL;
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory for %zu bytes of staging",
                       model->group, staging_bytes);
    }
    comm->exchange_requests = comm->requests + 2 * (size_t)model->size;
    for (size_t i = 0; i < request_count; i++)
        comm->requests[i] = MPI_REQUEST_NULL;
    MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN);
    return DS_OK;
}

void mpi_close(struct ds_comm *base)
{
    struct mpi_comm *comm = (struct mpi_comm *)base;

    if (comm->has_failed)
        return; /* receives may be pending: MPI can still write to the staging */
    mpi_free_guarded(comm->job, comm->base.deadline_ns, &comm->mpi);
    free(comm->staging);
    free(comm->requests);
    free(comm);
}

static ds_status split_guarded(const struct mpi_comm *comm, int color, int key, MPI_Comm *part)
{
    mpi_guard_begin(comm->job, "MPI_Comm_split", comm->base.deadline_ns);
    const int code = MPI_Comm_split(comm->mpi, color >= 0 ? color : MPI_UNDEFINED, key, part);
    mpi_guard_end(comm->job);
    return mpi_check(&comm->base, code, "MPI_Comm_split");
}

static ds_status mpi_divide(struct ds_comm *base, int color, int key, const char *group,
                            size_t staging_bytes, struct ds_comm **out)
{
    struct mpi_comm *comm = (struct mpi_comm *)base;
    MPI_Comm part = MPI_COMM_NULL;
    struct ds_comm model;
    int rank = 0, size = 0;
    ds_status st = DS_OK;

    *out = NULL;
    DS_TRY(ds_comm_barrier(base));
    DS_TRY(split_guarded(comm, color, key, &part));
    if (part != MPI_COMM_NULL) {
        MPI_Comm_rank(part, &rank);
        MPI_Comm_size(part, &size);
        comm_init(&model, &mpi_ops, (uint32_t)rank, (uint32_t)size, base->clock, base->deadline_ns,
                  group);
        st = mpi_comm_new(part, comm->job, &model, staging_bytes, out);
    }
    st = ds_comm_agreed(base, st);
    if (st != DS_OK && *out != NULL) {
        mpi_close(*out);
        *out = NULL;
    }
    return st;
}

ds_status mpi_split(struct ds_comm *comm, int color, int key, const char *group,
                    struct ds_comm **out)
{
    return mpi_divide(comm, color, key, group, MPI_CONTROL_STAGING_BYTES, out);
}

ds_status ds_comm_mpi_open_data(struct ds_comm *control, const char *group,
                                uint32_t direct_ranks_max, struct ds_comm **out)
{
    if (control->ops != &mpi_ops)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s group: not started by mpirun", group);
    DS_TRY(mpi_divide(control, 0, (int)control->rank, group, MPI_DATA_STAGING_BYTES, out));
    DS_ASSERT(*out != NULL); /* one color for all */
    ((struct mpi_comm *)*out)->direct_ranks_max = direct_ranks_max;
    return DS_OK;
}

ds_status mpi_open_data(struct ds_comm *control, const char *group, struct ds_comm **out)
{
    const struct mpi_comm *comm = (const struct mpi_comm *)control;
    int32_t ends[2] = {comm->job->host, -comm->job->host};
    ds_status verdict = DS_ERR_UNSUPPORTED;

    DS_TRY(ds_comm_all_reduce(control, ends, 2, DS_I32, DS_REDUCE_MAX, NULL));
    if (ends[0] == -ends[1]) {
        DS_TRY(shared_open_group(control, &shm_source, comm->job->shared, 0, (int)control->rank,
                                 group, &verdict, out));
        if (verdict == DS_OK)
            return DS_OK;
        if (control->rank == 0)
            ds_warn("%s group: without shared memory its ranks talk through MPI, which is slower",
                    group);
    }
    return ds_comm_mpi_open_data(control, group, DS_COMM_MPI_DIRECT_RANKS, out);
}
