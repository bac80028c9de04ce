/* link.c - see link.h. */
#include "link.h"

#include <string.h>

enum { TO_DEVICE, TO_HOST, PATTERN = 0x5a, MEASURED = 5 };

static ds_status open_way(struct ds_link *link, int way)
{
    const struct ds_device_ops *ops = link->device->ops;

    DS_TRY(ops->alloc(link->device, DS_MEMORY_DEVICE, link->bytes, 0, &link->near[way]));
    DS_TRY(ops->alloc(link->device, DS_MEMORY_PINNED, link->bytes, 0, &link->far[way]));
    return ops->stream_open(link->device, DS_STREAM_WORKER, &link->streams[way]);
}

ds_status ds_link_open(struct ds_link *link, struct ds_device *device, size_t bytes)
{
    ds_status st;

    *link = (struct ds_link){.bytes = bytes, .device = device};
    DS_TRY_GOTO(st, open_way(link, TO_DEVICE), fail);
    DS_TRY_GOTO(st, open_way(link, TO_HOST), fail);
    return DS_OK;
fail:
    ds_link_close(link);
    return st;
}

void ds_link_close(struct ds_link *link)
{
    const struct ds_device_ops *ops = link->device ? link->device->ops : NULL;

    for (int way = 0; way < 2; way++) {
        if (link->streams[way])
            ops->stream_close(link->streams[way]);
        if (link->near[way])
            ops->release(link->device, DS_MEMORY_DEVICE, link->near[way], link->bytes);
        if (link->far[way])
            ops->release(link->device, DS_MEMORY_PINNED, link->far[way], link->bytes);
    }
    *link = (struct ds_link){0};
}

ds_status ds_link_copy(struct ds_link *link, enum ds_link_way way)
{
    const struct ds_device_ops *ops = link->device->ops;

    if (way != DS_LINK_TO_HOST)
        DS_TRY(ops->copy(link->streams[TO_DEVICE], link->near[TO_DEVICE], link->far[TO_DEVICE],
                         link->bytes));
    if (way != DS_LINK_TO_DEVICE)
        DS_TRY(ops->copy(link->streams[TO_HOST], link->far[TO_HOST], link->near[TO_HOST],
                         link->bytes));
    DS_TRY(ops->stream_sync(link->streams[TO_DEVICE]));
    return ops->stream_sync(link->streams[TO_HOST]);
}

/* There and back by both streams. */
ds_status ds_link_check(struct ds_link *link)
{
    const struct ds_device_ops *ops = link->device->ops;
    uint8_t *there = link->far[TO_DEVICE], *back = link->far[TO_HOST];

    for (size_t i = 0; i < link->bytes; i++)
        there[i] = (uint8_t)(PATTERN + i % 251);
    memset(back, 0, link->bytes);
    DS_TRY(ds_link_copy(link, DS_LINK_TO_DEVICE));
    DS_TRY(ops->copy(link->streams[TO_HOST], back, link->near[TO_DEVICE], link->bytes));
    DS_TRY(ops->stream_sync(link->streams[TO_HOST]));
    if (memcmp(there, back, link->bytes) != 0)
        return ds_fail(DS_ERR_UNFIT, "the link of the device %s: other bytes came back than went",
                       ops->name);
    return DS_OK;
}

static void sort(double *samples, int count)
{
    for (int i = 1; i < count; i++)
        for (int k = i; k > 0 && samples[k - 1] > samples[k]; k--) {
            const double sample = samples[k];
            samples[k] = samples[k - 1];
            samples[k - 1] = sample;
        }
}

ds_status ds_link_measure(struct ds_link *link, const struct ds_clock *clock, double *per_s)
{
    double samples[MEASURED];

    DS_TRY(ds_link_copy(link, DS_LINK_BOTH)); /* the first brings pages */
    for (int i = 0; i < MEASURED; i++) {
        const uint64_t start_ns = ds_clock_mono_ns(clock);
        DS_TRY(ds_link_copy(link, DS_LINK_BOTH));
        const uint64_t took_ns = ds_clock_mono_ns(clock) - start_ns;
        samples[i] = took_ns > 0 ? (double)took_ns * 1e-9 : 1e-9;
    }
    sort(samples, MEASURED);
    *per_s = (double)link->bytes / samples[MEASURED / 2];
    return DS_OK;
}
