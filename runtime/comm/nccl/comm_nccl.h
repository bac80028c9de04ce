/* comm_nccl.h - private to the nccl backend: a communicator, the calls of it that the GPU has not finished,
 * and how NCCL is asked without ever being waited for longer than the group's deadline. */
#ifndef DSTRAIN_COMM_NCCL_H
#define DSTRAIN_COMM_NCCL_H

#include "device_cuda.h"

#include "dstrain/comm.h"

#include <nccl.h>

/* One call in the order of its stream: it waits for other ranks between the two events. */
struct nccl_call {
    cudaEvent_t began, ended;
    const char *name;
    uint64_t began_ns; /* when it was first seen to have begun; 0: not yet */
};
#define NCCL_CALLS_MAX \
    256u /* watched at once; what is queued beyond that is left to the watchdog */

/* Memory that is registered with the group. */
struct nccl_window {
    ncclWindow_t window; /* NULL: NCCL has no use for it between these ranks */
    struct nccl_window *next;
};

struct nccl_comm {
    struct ds_comm base;
    /* owns */
    ncclComm_t comm;     /* NULL: given up */
    cudaStream_t stream; /* of barriers */
    int32_t *word;       /* device memory: what a barrier adds up */
    struct nccl_call calls[NCCL_CALLS_MAX];
    struct nccl_window *windows;
    uint64_t first_call, next_call; /* of those watched; their places are modulo the size */
    int is_watching;                /* the call being made has a place */
    int is_stuck;                   /* aborted, and even that hangs */
    int has_failed;                 /* and has said so: later calls are quiet */
    struct nccl_comm *next;         /* of its device's list */
    /* borrows */
    struct cuda_device *device; /* NULL: no call has been made yet */
};

/* local: the pair around every call: `stream` is looked at and the call watched from here to its end. */
DS_CHECKED ds_status nccl_begin(struct nccl_comm *comm, const char *call, struct ds_stream *stream);
/* local: `result` of the call; polls until it is in the stream, or the deadline has passed. */
DS_CHECKED ds_status nccl_end(struct nccl_comm *comm, const char *call, struct ds_stream *stream,
                              ncclResult_t result);

/* local: poll NCCL until what it was asked is done. Fails once, then `has_failed` is set. */
DS_CHECKED ds_status nccl_settle(struct nccl_comm *comm, const char *call, ncclResult_t result);
/* local: as nccl_settle, until the GPU has come to the end of `stream` */
DS_CHECKED ds_status nccl_drain(struct nccl_comm *comm, const char *call, cudaStream_t stream);

/* nccl_memory.c. collective: what is registered leaves before the group; local where that has failed */
void nccl_forget_windows(struct nccl_comm *comm);

/* Entries of the table. */
ds_status nccl_register_memory(struct ds_comm *comm, void *at, size_t bytes);
ds_status nccl_open_data(struct ds_comm *control, const char *group, struct ds_comm **out);
void nccl_poison(struct ds_comm *comm);
void nccl_close(struct ds_comm *comm);

#endif
