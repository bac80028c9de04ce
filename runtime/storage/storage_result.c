/* storage_result.c - what the result of one operation means for its request, the same for every level: how far it has
 * come, whether its rest follows, when patience ends. Here tests let single operations fail, as no disk does on
 * demand and io_uring cannot be made to from outside. */
#include "storage_private.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define STALLS_MAX      1000 /* operations in a row that bring nothing: then it is a failure */
#define STALLS_READ_MAX 8    /* that bring a part of a block: then that is where the file ends */

size_t storage_part(const struct ds_storage_options *options,
                    const struct ds_storage_request *request)
{
    const size_t left = request->bytes - request->done_bytes;

    return options->block_bytes && options->block_bytes < left ? options->block_bytes : left;
}

static int64_t faulted(struct ds_storage_faults *faults, int64_t result)
{
    const uint64_t number = faults ? atomic_fetch_add(&faults->operations, 1) + 1 : 0;

    if (!faults || number < faults->at || number - faults->at >= faults->times)
        return result;
    return faults->result < result ? faults->result : result;
}

/* A file around the page cache moves whole blocks: a part of one is moved again. */
static size_t whole_blocks(const struct ds_storage_request *request, size_t done_bytes)
{
    const uint64_t all = (uint64_t)(uintptr_t)request->data | request->offset | request->bytes;

    return all % DS_FS_DIRECT_ALIGN ? done_bytes : done_bytes - done_bytes % DS_FS_DIRECT_ALIGN;
}

/* A signal, a kernel short of memory, less than a block: tried again, but not for ever. A read that brings
 * no more than a part of a block has met the end of the file. */
static int may_try_again(struct ds_storage_request *request, int64_t result)
{
    const uint32_t stalls_max = result > 0 && !request->is_write ? STALLS_READ_MAX : STALLS_MAX;

    return (result > 0 || result == -EINTR || result == -EAGAIN) && ++request->stalls < stalls_max;
}

int storage_absorb(const struct ds_storage_options *options, struct ds_storage_request *request,
                   int64_t result)
{
    const size_t before = request->done_bytes;

    result = faulted(options->faults, result);
    if (result > 0)
        request->done_bytes = whole_blocks(request, before + (size_t)result);
    if (request->done_bytes == request->bytes) {
        request->status = DS_OK;
        return 1;
    }
    if (request->done_bytes > before) {
        request->stalls = 0;
        return 0;
    }
    if (may_try_again(request, result))
        return 0;
    request->status = storage_request_failed(request, result > 0 ? 0 : (int)result);
    return 1;
}

ds_status storage_request_failed(const struct ds_storage_request *request, int code)
{
    return ds_fail(DS_ERR_IO, "%s%s%s of %zu bytes at %llu: %s", request->name ? request->name : "",
                   request->name ? ": " : "", request->is_write ? "write" : "read", request->bytes,
                   (unsigned long long)request->offset,
                   code != 0           ? strerror(-code)
                   : request->is_write ? "nothing was taken"
                                       : "the file ends before");
}
