/* null.c - a device that computes nothing: memory is addresses that fault when touched, as many as anybody
 * asks for; copies, events and kernels are done at once. The planner assembles the real run on it, so what the ledger says then
 * is what a run takes, and host code that reads device memory shows at once. */
#include "null.h"

#include <stdlib.h>

/* No process has memory here: 52 bits are the most that a machine gives it unless asked for more. */
#define ADDRESS_FIRST ((uint64_t)1 << 52)
#define ADDRESS_END   ((uint64_t)1 << 55)
#define PAGE_BYTES    ((uint64_t)4096)

struct null_device {
    struct ds_device device;
    uint64_t next; /* address */
};

static int null_count(void)
{
    return 1;
}

static ds_status null_open(int index, const struct ds_device_options *options,
                           struct ds_device **out)
{
    struct null_device *null = calloc(1, sizeof *null);

    (void)index;
    (void)options;
    if (!null)
        return ds_fail(DS_ERR_NO_MEMORY, "the null device");
    null->device.ops = &ds_device_null_ops;
    null->next = ADDRESS_FIRST;
    *out = &null->device;
    return DS_OK;
}

static void null_close(struct ds_device *device)
{
    free(device);
}

/* Who counts to the end begins again: nothing lies there, so two may have the same addresses. */
static ds_status null_alloc(struct ds_device *device, enum ds_memory_kind kind, size_t bytes,
                            uint32_t flags, void **at)
{
    struct null_device *null = (struct null_device *)(void *)device;

    (void)kind;
    (void)flags;
    if (bytes > ADDRESS_END - null->next)
        null->next = ADDRESS_FIRST;
    *at = (void *)(uintptr_t)null->next;
    if (bytes < ADDRESS_END - null->next)
        null->next += (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    return DS_OK;
}

static void null_release(struct ds_device *device, enum ds_memory_kind kind, void *memory,
                         size_t bytes)
{
    (void)device;
    (void)kind;
    (void)memory;
    (void)bytes;
}

static ds_status null_stream_open(struct ds_device *device, uint32_t flags, struct ds_stream **out)
{
    struct ds_stream *stream = calloc(1, sizeof *stream);

    (void)flags;
    if (!stream)
        return ds_fail(DS_ERR_NO_MEMORY, "a stream");
    stream->device = device;
    *out = stream;
    return DS_OK;
}

static void null_stream_close(struct ds_stream *stream)
{
    free(stream);
}

static ds_status null_event_open(struct ds_device *device, struct ds_event **out)
{
    struct ds_event *event = calloc(1, sizeof *event);

    if (!event)
        return ds_fail(DS_ERR_NO_MEMORY, "an event");
    event->device = device;
    *out = event;
    return DS_OK;
}

static void null_event_close(struct ds_event *event)
{
    free(event);
}

static ds_status null_copy(struct ds_stream *stream, void *to, const void *from, size_t bytes)
{
    (void)stream;
    (void)to;
    (void)from;
    (void)bytes;
    return DS_OK;
}

static ds_status null_stream_wait(struct ds_stream *stream, struct ds_event *event)
{
    (void)stream;
    (void)event;
    return DS_OK;
}

static ds_status null_event_record(struct ds_event *event, struct ds_stream *stream)
{
    (void)event;
    (void)stream;
    return DS_OK;
}

static ds_status null_event_query(struct ds_event *event, int *done)
{
    (void)event;
    *done = 1;
    return DS_OK;
}

static ds_status null_event_sync(struct ds_event *event)
{
    (void)event;
    return DS_OK;
}

static ds_status null_stream_sync(struct ds_stream *stream)
{
    (void)stream;
    return DS_OK;
}

static ds_status null_stream_stamp(struct ds_stream *stream, uint64_t *at_ns)
{
    (void)stream;
    (void)at_ns; /* memory that faults when touched */
    return DS_OK;
}

static ds_status null_stream_word(struct ds_stream *stream, uint32_t *word)
{
    (void)stream;
    (void)word;
    return DS_OK;
}

/* Not DS_DEVICE_CAP_COMPUTES: neither "auto" nor training ever ends up here. */
const struct ds_device_ops ds_device_null_ops = {
    .name = "null",
    .caps = 0,
    .kernels = &ds_kernels_null,
    .count = null_count,
    .open = null_open,
    .close = null_close,
    .alloc = null_alloc,
    .release = null_release,
    .stream_open = null_stream_open,
    .stream_close = null_stream_close,
    .event_open = null_event_open,
    .event_close = null_event_close,
    .copy = null_copy,
    .stream_wait = null_stream_wait,
    .event_record = null_event_record,
    .event_query = null_event_query,
    .event_sync = null_event_sync,
    .stream_sync = null_stream_sync,
    .stream_stamp = null_stream_stamp,
    .stream_signal = null_stream_word,
    .stream_await = null_stream_word,
};
