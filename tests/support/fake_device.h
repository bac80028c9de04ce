/* fake_device.h - a device for kernel tests: `call` does the work at once, on this thread. */
#ifndef DSTRAIN_FAKE_DEVICE_H
#define DSTRAIN_FAKE_DEVICE_H

#include "dstrain/device.h"

static ds_status fake_call(struct ds_stream *stream, ds_work_fn work, const void *args,
                           size_t bytes)
{
    _Alignas(64) unsigned char copy[1024]; /* the contract: the work sees a copy */
    int done = 0;

    (void)stream;
    DS_ASSERT(bytes <= sizeof copy);
    for (size_t i = 0; i < bytes; i++)
        copy[i] = ((const unsigned char *)args)[i];
    while (!done)
        DS_TRY(work(copy, &done));
    return DS_OK;
}

static const struct ds_device_ops fake_device_ops = {.name = "fake", .call = fake_call};
static struct ds_device fake_device = {&fake_device_ops};
static struct ds_stream fake_stream = {&fake_device};

#endif
