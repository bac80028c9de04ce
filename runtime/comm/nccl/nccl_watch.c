/* nccl_watch.c - nobody waits for NCCL: it is polled, with the group's deadline.
 *
 * A call has two stretches in which a rank that does not come would hold it up for ever. On the host, while
 * NCCL connects ranks and puts the call into the stream: polled here. On the GPU, between two events around
 * the call: looked at by the device's waits (device_cuda.c), which is when the host has time. Queued behind
 * long arithmetic a call has not begun, and no deadline runs. Calls that are captured into a graph have no
 * events; errors are seen there all the same, and the watchdog of the process does the rest. */
#include "comm_nccl.h"

#include <sched.h>

#define SPINS  2000 /* a call that NCCL knows is in the stream in less */
#define YIELDS 20000
#define NAP_NS 20000u

static void relax(const struct nccl_comm *comm, uint32_t turn)
{
    if (turn >= SPINS + YIELDS)
        ds_clock_sleep_ns(comm->base.clock, NAP_NS);
    else if (turn >= SPINS)
        sched_yield();
}

static int is_late(const struct nccl_comm *comm, uint64_t began_ns)
{
    return ds_clock_mono_ns(comm->base.clock) - began_ns > comm->base.deadline_ns;
}

static ds_status fail_late(struct nccl_comm *comm, const char *call, const char *where)
{
    comm->has_failed = 1;
    return ds_fail(DS_ERR_DEADLINE,
                   "%s group: %s: a rank has not come within %.3g s (%s; NCCL cannot say which)",
                   comm->base.group, call, (double)comm->base.deadline_ns * 1e-9, where);
}

static ds_status fail_nccl(struct nccl_comm *comm, const char *call, ncclResult_t result)
{
    const char *more = ncclGetLastError(comm->comm);
    const ds_status st = result == ncclUnhandledCudaError ? DS_ERR_DEVICE : DS_ERR_COMM;

    comm->has_failed = 1;
    return ds_fail(st, "%s group: %s: NCCL: %s%s%s", comm->base.group, call,
                   ncclGetErrorString(result), more && more[0] ? ": " : "", more ? more : "");
}

static ds_status fail_cuda(struct nccl_comm *comm, const char *call, cudaError_t error)
{
    comm->has_failed = 1;
    return cuda_fail_at(error, call, __FILE__, __LINE__);
}

/* How NCCL is: well, still at work, or what a rank, a link or the GPU has done to it. */
static ncclResult_t ask(const struct nccl_comm *comm)
{
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm->comm, &result);

    return asked == ncclSuccess ? result : asked;
}

ds_status nccl_settle(struct nccl_comm *comm, const char *call, ncclResult_t result)
{
    uint64_t began_ns = 0;

    for (uint32_t turn = 0; result == ncclInProgress; turn++) {
        if (began_ns == 0)
            began_ns = ds_clock_mono_ns(comm->base.clock);
        relax(comm, turn);
        result = ask(comm);
        if (result == ncclInProgress && is_late(comm, began_ns))
            return fail_late(comm, call, "on the way into the stream");
    }
    return result == ncclSuccess ? DS_OK : fail_nccl(comm, call, result);
}

ds_status nccl_drain(struct nccl_comm *comm, const char *call, cudaStream_t stream)
{
    const uint64_t began_ns = ds_clock_mono_ns(comm->base.clock);
    cudaError_t error = cudaStreamQuery(stream);

    for (uint32_t turn = 0; error == cudaErrorNotReady; turn++) {
        (void)cudaGetLastError(); /* not ready is no failure */
        relax(comm, turn);
        DS_TRY(nccl_settle(comm, call, ask(comm)));
        if (is_late(comm, began_ns))
            return fail_late(comm, call, "in the stream");
        error = cudaStreamQuery(stream);
    }
    return error == cudaSuccess ? DS_OK : fail_cuda(comm, call, error);
}

/* ---- the calls that the GPU has not finished */

static struct nccl_call *call_at(struct nccl_comm *comm, uint64_t index)
{
    return &comm->calls[index % NCCL_CALLS_MAX];
}

/* Has the GPU come to `event`? */
static ds_status is_reached(struct nccl_comm *comm, cudaEvent_t event, int *reached)
{
    const cudaError_t error = cudaEventQuery(event);

    *reached = error == cudaSuccess;
    if (error == cudaSuccess)
        return DS_OK;
    if (error != cudaErrorNotReady)
        return fail_cuda(comm, "a wait for other ranks", error);
    (void)cudaGetLastError();
    return DS_OK;
}

/* Those that are through leave; of the oldest that is not the time runs from when it was seen to begin. */
static ds_status advance(struct nccl_comm *comm)
{
    while (comm->first_call < comm->next_call) {
        struct nccl_call *call = call_at(comm, comm->first_call);
        int reached;

        DS_TRY(is_reached(comm, call->ended, &reached));
        if (!reached)
            break;
        comm->first_call++;
    }
    return DS_OK;
}

static ds_status look(struct nccl_comm *comm)
{
    struct nccl_call *call;
    int reached;

    if (comm->has_failed)
        return DS_ERR_COMM; /* it has said why */
    DS_TRY(nccl_settle(comm, "a wait for other ranks", ask(comm)));
    DS_TRY(advance(comm));
    call = call_at(comm, comm->first_call);
    if (comm->first_call == comm->next_call)
        return DS_OK;
    if (call->began_ns == 0) {
        DS_TRY(is_reached(comm, call->began, &reached));
        call->began_ns = reached ? ds_clock_mono_ns(comm->base.clock) : 0;
    }
    if (call->began_ns != 0 && is_late(comm, call->began_ns))
        return fail_late(comm, call->name, "on the GPU");
    return DS_OK;
}

ds_status nccl_look(const struct cuda_device *device)
{
    for (struct nccl_comm *comm = device->groups; comm != NULL; comm = comm->next)
        DS_TRY(look(comm));
    return DS_OK;
}

static ds_status watch(struct nccl_comm *comm, const char *name, cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    struct nccl_call *call = call_at(comm, comm->next_call);

    comm->is_watching = 0;
    CUDA_TRY(cudaStreamIsCapturing(stream, &capture));
    if (capture != cudaStreamCaptureStatusNone)
        return DS_OK;
    if (comm->next_call - comm->first_call == NCCL_CALLS_MAX)
        DS_TRY(advance(comm));
    if (comm->next_call - comm->first_call == NCCL_CALLS_MAX)
        return DS_OK;
    CUDA_TRY(cudaEventRecord(call->began, stream));
    call->name = name;
    call->began_ns = 0;
    comm->is_watching = 1;
    return DS_OK;
}

static void join(struct nccl_comm *comm, struct cuda_device *device)
{
    comm->device = device;
    comm->next = device->groups;
    device->groups = comm;
}

ds_status nccl_begin(struct nccl_comm *comm, const char *call, struct ds_stream *stream)
{
    if (stream == NULL)
        return ds_fail(
            DS_ERR_UNSUPPORTED,
            "%s group: %s: NCCL works on the GPU's memory in the order of a stream; host "
            "memory goes through a control group",
            comm->base.group, call);
    if (comm->has_failed)
        return DS_ERR_COMM;
    if (comm->device == NULL)
        join(comm, cuda_device_of(stream));
    DS_ASSERT(comm->device == cuda_device_of(stream));
    return watch(comm, call, cuda_stream_of(stream));
}

ds_status nccl_end(struct nccl_comm *comm, const char *call, struct ds_stream *stream,
                   ncclResult_t result)
{
    DS_TRY(nccl_settle(comm, call, result));
    if (!comm->is_watching)
        return DS_OK;
    CUDA_TRY(cudaEventRecord(call_at(comm, comm->next_call)->ended, cuda_stream_of(stream)));
    comm->next_call++;
    return DS_OK;
}
