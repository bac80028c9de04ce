/* nccl_memory.c - memory that all ranks of a host map: taken from NCCL, registered with a group, after which its
 * gathers write straight into the others' memory, by kernels or by copy engines. */
#include "comm_nccl.h"

#include <stdlib.h>

/* ---- taken */

static ds_status fail_nccl(ncclResult_t result, const char *call, size_t bytes)
{
    const char *more = ncclGetLastError(NULL);

    return ds_fail(result == ncclUnhandledCudaError ? DS_ERR_NO_MEMORY : DS_ERR_DEVICE,
                   "%s of %zu bytes: NCCL: %s%s%s", call, bytes, ncclGetErrorString(result),
                   more && more[0] ? ": " : "", more ? more : "");
}

ds_status nccl_alloc(struct cuda_device *device, size_t bytes, void **at)
{
    struct nccl_memory *memory = calloc(1, sizeof *memory);
    ncclResult_t result;

    if (memory == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to book %zu bytes", bytes);
    result = ncclMemAlloc(&memory->at, bytes);
    if (result != ncclSuccess) {
        free(memory);
        return fail_nccl(result, "ncclMemAlloc", bytes);
    }
    memory->next = device->symmetric;
    device->symmetric = memory;
    *at = memory->at;
    return DS_OK;
}

int nccl_free(struct cuda_device *device, void *at)
{
    struct nccl_memory **link = &device->symmetric;

    while (*link != NULL && (*link)->at != at)
        link = &(*link)->next;
    if (*link == NULL)
        return 0;
    struct nccl_memory *memory = *link;
    *link = memory->next;
    free(memory);
    (void)ncclMemFree(at);
    return 1;
}

/* ---- registered */

ds_status nccl_register_memory(struct ds_comm *base, void *at, size_t bytes)
{
    struct nccl_comm *comm = (struct nccl_comm *)base;
    struct nccl_window *window;

    if (comm->has_failed)
        return DS_ERR_COMM;
    window = calloc(1, sizeof *window);
    if (window == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory for a window", comm->base.group);
    window->next = comm->windows;
    comm->windows = window;
    DS_TRY(
        nccl_settle(comm, "register_memory", ncclInProgress)); /* what came before it is through */
    DS_TRY(nccl_settle(
        comm, "register_memory",
        ncclCommWindowRegister(comm->comm, at, bytes, &window->window, NCCL_WIN_COLL_SYMMETRIC)));
    return nccl_settle(comm, "register_memory", ncclInProgress); /* it may say success too early */
}

void nccl_forget_windows(struct nccl_comm *comm)
{
    while (comm->windows != NULL) {
        struct nccl_window *window = comm->windows;

        comm->windows = window->next;
        if (window->window != NULL && comm->comm != NULL && !comm->has_failed &&
            nccl_settle(comm, "closing", ncclCommWindowDeregister(comm->comm, window->window)) !=
                DS_OK)
            comm->has_failed = 1; /* it was logged; the rest goes with the abort */
        free(window);
    }
}
