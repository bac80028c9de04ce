/* storage_fault.c - a storage whose n-th completion fails, whatever backend does the work: io_uring
 * cannot be made to fail from outside. The data has been moved all the same; the caller is told not. */
#include "storage_private.h"

#include <stdlib.h>

struct fault {
    struct ds_storage *inner; /* owns */
    uint64_t fail_at, completions;
};

static int fault_score(void)
{
    return 0; /* never chosen by name: ds_storage_fault_open makes it */
}

static void fault_close(void *at)
{
    ds_storage_close(((struct fault *)at)->inner);
}

static ds_status fault_submit(void *at, struct ds_storage_request *request)
{
    return ds_storage_submit(((struct fault *)at)->inner, request);
}

static ds_status fault_reap(void *at, struct ds_storage_request **done)
{
    struct fault *self = at;

    DS_TRY(ds_storage_reap(self->inner, done));
    if (++self->completions == self->fail_at)
        (*done)->status = ds_fail(DS_ERR_IO, "completion %llu fails, as a test wants it",
                                  (unsigned long long)self->fail_at);
    return DS_OK;
}

static ds_status fault_pin(void *at, void *data, size_t bytes)
{
    return ds_storage_pin(((struct fault *)at)->inner, data, bytes);
}

static ds_status fault_flush(void *at, int file)
{
    return ds_storage_flush(((struct fault *)at)->inner, file);
}

static const struct ds_storage_ops fault_ops = {
    .name = "fault",
    .self_bytes = sizeof(struct fault),
    .score = fault_score,
    .close = fault_close,
    .submit = fault_submit,
    .reap = fault_reap,
    .pin = fault_pin,
    .flush = fault_flush,
};

ds_status ds_storage_fault_open(struct ds_storage *inner, uint64_t fail_at, struct ds_storage **out)
{
    ds_status st = storage_make(&fault_ops, inner->fs, inner->depth, out);

    if (st != DS_OK) {
        ds_storage_close(inner); /* it was taken over */
        return st;
    }
    *(struct fault *)(*out)->self = (struct fault){.inner = inner, .fail_at = fail_at};
    return DS_OK;
}
