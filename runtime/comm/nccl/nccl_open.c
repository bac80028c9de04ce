/* nccl_open.c - how groups of NCCL come to be and go. Ranks meet over the control group: what failed on one is
 * known to all before anybody waits inside NCCL. A group that has failed is aborted by a thread of its own,
 * with a limit: an abort that hangs, as it may where a GPU is wedged, does not hang the end of the process. */
#include "comm_nccl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ABORT_NS 5000000000u

/* ---- giving up */

static void *abort_main(void *comm)
{
    (void)ncclCommAbort(comm);
    return NULL;
}

static void abort_within_limit(struct nccl_comm *comm)
{
    const uint64_t until_ns = ds_clock_real_ns(comm->base.clock) + ABORT_NS;
    const struct timespec until = {(time_t)(until_ns / 1000000000u),
                                   (long)(until_ns % 1000000000u)};
    pthread_t thread;

    comm->is_stuck = pthread_create(&thread, NULL, abort_main, comm->comm) != 0;
    comm->comm = NULL;
    if (comm->is_stuck || pthread_timedjoin_np(thread, NULL, &until) == 0)
        return;
    comm->is_stuck = 1;
    (void)pthread_detach(thread);
}

void nccl_poison(struct ds_comm *base)
{
    struct nccl_comm *comm = (struct nccl_comm *)base;

    comm->has_failed = 1;
    if (comm->comm != NULL)
        abort_within_limit(comm);
}

/* ---- coming to be */

/* collective: the worst status of all ranks. The control group is the host program's; here is only its table. */
static ds_status agreed(struct ds_comm *control, ds_status local)
{
    int32_t worst = (int32_t)local;

    DS_TRY(control->ops->all_reduce(control, &worst, 1, DS_I32, DS_REDUCE_MAX, NULL));
    return (ds_status)worst;
}

static ds_status take_parts(struct nccl_comm *comm)
{
    void *word = NULL;

    CUDA_TRY(cudaStreamCreateWithFlags(&comm->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaMalloc(&word, sizeof *comm->word));
    comm->word = word;
    CUDA_TRY(cudaMemset(word, 0, sizeof *comm->word));
    for (uint32_t i = 0; i < NCCL_CALLS_MAX; i++) {
        CUDA_TRY(cudaEventCreateWithFlags(&comm->calls[i].began, cudaEventDisableTiming));
        CUDA_TRY(cudaEventCreateWithFlags(&comm->calls[i].ended, cudaEventDisableTiming));
    }
    return DS_OK;
}

static void give_parts(struct nccl_comm *comm)
{
    for (uint32_t i = 0; i < NCCL_CALLS_MAX; i++) {
        if (comm->calls[i].began != NULL)
            (void)cudaEventDestroy(comm->calls[i].began);
        if (comm->calls[i].ended != NULL)
            (void)cudaEventDestroy(comm->calls[i].ended);
    }
    (void)cudaFree(comm->word);
    if (comm->stream != NULL)
        (void)cudaStreamDestroy(comm->stream);
    free(comm);
}

static ds_status make_id(const struct ds_comm *control, const char *group, ncclUniqueId *id)
{
    const ncclResult_t result = control->rank == 0 ? ncclGetUniqueId(id) : ncclSuccess;
    const char *more;

    if (result == ncclSuccess)
        return DS_OK;
    more = ncclGetLastError(NULL);
    return ds_fail(DS_ERR_COMM, "%s group: NCCL cannot start: %s%s%s", group,
                   ncclGetErrorString(result), more && more[0] ? ": " : "", more ? more : "");
}

/* local: all that can fail without the others */
static ds_status prepare(const struct ds_comm *control, const char *group, ncclUniqueId *id,
                         struct nccl_comm **out)
{
    struct nccl_comm *comm = calloc(1, sizeof *comm);
    const size_t length = strnlen(group, sizeof comm->base.group - 1);
    ds_status st;

    if (comm == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory for a communicator", group);
    comm->base.ops = &ds_comm_nccl_ops;
    comm->base.rank = control->rank;
    comm->base.size = control->size;
    comm->base.deadline_ns = control->deadline_ns;
    comm->base.clock = control->clock;
    comm->base.missing = DS_COMM_NOBODY; /* it cannot know */
    memcpy(comm->base.group, group, length);
    st = take_parts(comm);
    if (st == DS_OK)
        st = make_id(control, group, id);
    if (st != DS_OK) {
        give_parts(comm);
        return st;
    }
    *out = comm;
    return DS_OK;
}

static ds_status connect_ranks(struct nccl_comm *comm, const ncclUniqueId *id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;

    config.blocking = 0;
    config.commName = comm->base.group;
    return nccl_settle(comm, "opening",
                       ncclCommInitRankConfig(&comm->comm, (int)comm->base.size, *id,
                                              (int)comm->base.rank, &config));
}

ds_status nccl_open_data(struct ds_comm *control, const char *group, struct ds_comm **out)
{
    struct nccl_comm *comm = NULL;
    ncclUniqueId id = {{0}};
    ds_status st = agreed(control, prepare(control, group, &id, &comm));

    if (st == DS_OK)
        st = control->ops->broadcast(control, &id, sizeof id, 0, NULL);
    if (st == DS_OK)
        st = agreed(control, connect_ranks(comm, &id));
    if (st != DS_OK && comm != NULL) {
        comm->has_failed = 1; /* here or on another rank: nobody is left to close it with */
        nccl_close(&comm->base);
    }
    if (st != DS_OK)
        return st;
    *out = &comm->base;
    return DS_OK;
}

/* ---- going */

static void leave(struct nccl_comm *comm)
{
    struct nccl_comm **at = comm->device != NULL ? &comm->device->groups : NULL;

    while (at != NULL && *at != comm)
        at = &(*at)->next;
    if (at != NULL)
        *at = comm->next;
}

/* Finalize flushes and asks the others; with all of them there, destroy is local. */
static void end_orderly(struct nccl_comm *comm)
{
    if (nccl_settle(comm, "closing", ncclCommFinalize(comm->comm)) != DS_OK)
        return; /* it was logged, and is aborted */
    (void)ncclCommDestroy(comm->comm);
    comm->comm = NULL;
}

void nccl_close(struct ds_comm *base)
{
    struct nccl_comm *comm = (struct nccl_comm *)base;

    nccl_forget_windows(comm);
    if (comm->comm != NULL && !comm->has_failed)
        end_orderly(comm);
    if (comm->comm != NULL)
        abort_within_limit(comm);
    leave(comm);
    if (!comm->is_stuck)
        give_parts(comm);
    /* else work hangs on the GPU, to free memory would wait for it, and the process is about to end */
}
