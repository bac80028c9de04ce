/* cpu.c - the cpu device: the table, and what its entries ask of queue, streams and memory.
 *
 * This folder is built twice, into the program and as a plugin: it uses status.h, the options' clock
 * and nothing else of the project. */
#include "cpu.h"
#include "dstrain/kernels.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int cpu_count(void)
{
    return 1;
}

/* Ranks of a host share the one cpu, so the index means nothing. Kernels ask OpenMP how many threads
 * they may use; its count belongs to the calling thread, which is the one that will run them. */
static ds_status cpu_open(int index, const struct ds_device_options *options,
                          struct ds_device **out)
{
    struct cpu_device *device = calloc(1, sizeof *device);

    (void)index;
    DS_ASSERT(options->thread_count >= 1 && options->clock != NULL);
    if (device == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a cpu device");
    device->base.ops = &ds_device_cpu_ops;
    device->options = *options;
    device->random = options->seed;
    device->is_shut = options->mode == DS_DEVICE_DEFERRED;
    omp_set_num_threads(options->thread_count);
    *out = &device->base;
    return DS_OK;
}

static void cpu_close(struct ds_device *base)
{
    struct cpu_device *device = (struct cpu_device *)base;

    for (struct cpu_stream *s = device->streams; s != NULL; s = s->next)
        if (!s->is_closed)
            ds_cpu_stream_close(&s->base);
    while (device->streams != NULL) {
        struct cpu_stream *stream = device->streams;
        device->streams = stream->next;
        ds_cpu_stream_free(stream);
    }
    ds_cpu_memory_fini(device);
    free(device);
}

static ds_status cpu_event_open(struct ds_device *base, struct ds_event **out)
{
    struct cpu_event *event = calloc(1, sizeof *event);

    if (event == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for an event");
    event->base.device = base;
    *out = &event->base;
    return DS_OK;
}

static void cpu_event_close(struct ds_event *event)
{
    free(event);
}

static ds_status cpu_event_record(struct ds_event *base, struct ds_stream *stream)
{
    struct cpu_event *event = (struct cpu_event *)base;

    DS_ASSERT(base->device == stream->device);
    event->stream = (struct cpu_stream *)stream;
    event->position = event->stream->queued;
    return DS_OK;
}

static ds_status cpu_event_query(struct ds_event *base, int *done)
{
    struct cpu_event *event = (struct cpu_event *)base;
    struct cpu_device *device = (struct cpu_device *)base->device;

    if (event->stream == NULL) {
        *done = 1;
        return DS_OK;
    }
    if (device->options.mode == DS_DEVICE_DEFERRED)
        ds_cpu_deferred_nudge(device);
    else
        (void)ds_cpu_poll(device);
    DS_TRY(ds_cpu_stream_status(event->stream));
    *done = ds_cpu_stream_reached(event->stream, event->position);
    return DS_OK;
}

static ds_status cpu_event_sync(struct ds_event *base)
{
    struct cpu_event *event = (struct cpu_event *)base;

    return event->stream == NULL ? DS_OK : ds_cpu_wait(event->stream, event->position);
}

static ds_status cpu_stream_sync(struct ds_stream *base)
{
    struct cpu_stream *stream = (struct cpu_stream *)base;

    return ds_cpu_wait(stream, stream->queued);
}

/* On an inline stream with nothing queued the host itself waits: what follows runs inside its call. */
static ds_status cpu_stream_wait(struct ds_stream *base, struct ds_event *event_base)
{
    struct cpu_stream *stream = (struct cpu_stream *)base;
    struct cpu_event *event = (struct cpu_event *)event_base;
    struct cpu_task wait = {NULL, event->stream, event->position};
    int was_empty = ds_cpu_stream_reached(stream, stream->queued);

    DS_ASSERT(base->device == event_base->device);
    if (event->stream == NULL)
        return DS_OK;
    if (ds_cpu_stream_reached(event->stream, event->position) &&
        ds_cpu_stream_status(event->stream) == DS_OK)
        return DS_OK;
    DS_TRY(ds_cpu_stream_push(stream, &wait, NULL, 0));
    if (stream->driver == CPU_DRIVER_CALLER && was_empty)
        return ds_cpu_wait(stream, stream->queued);
    return ds_cpu_stream_status(event->stream);
}

static ds_status cpu_call(struct ds_stream *base, ds_work_fn work, const void *args,
                          size_t args_bytes)
{
    struct cpu_stream *stream = (struct cpu_stream *)base;
    struct cpu_task task = {.work = work};

    DS_TRY(ds_cpu_stream_push(stream, &task, args, args_bytes));
    if (stream->driver != CPU_DRIVER_DEFERRED)
        (void)ds_cpu_poll(stream->device);
    return DS_OK; /* a failure of the work comes back from the next wait, in every mode */
}

struct copy_args {
    void *to;
    const void *from;
    size_t bytes;
};

static ds_status copy_work(void *self, int *done)
{
    const struct copy_args *args = self;

    memcpy(args->to, args->from, args->bytes);
    *done = 1;
    return DS_OK;
}

static ds_status cpu_copy(struct ds_stream *stream, void *to, const void *from, size_t bytes)
{
    struct copy_args args = {to, from, bytes};

    return bytes == 0 ? DS_OK : cpu_call(stream, copy_work, &args, sizeof args);
}

struct stamp_args {
    const struct ds_clock *clock;
    uint64_t *at_ns;
};

static ds_status stamp_work(void *self, int *done)
{
    const struct stamp_args *args = self;

    *args->at_ns = ds_clock_mono_ns(args->clock);
    *done = 1;
    return DS_OK;
}

/* With nothing queued the host's own stream is at the stamp already. */
static ds_status cpu_stream_stamp(struct ds_stream *base, uint64_t *at_ns)
{
    struct cpu_stream *stream = (struct cpu_stream *)base;
    struct stamp_args args = {stream->device->options.clock, at_ns};

    if (stream->driver != CPU_DRIVER_CALLER || !ds_cpu_stream_reached(stream, stream->queued))
        return cpu_call(base, stamp_work, &args, sizeof args);
    *at_ns = ds_clock_mono_ns(args.clock);
    return DS_OK;
}

/* "cpu" where /proc has no name for it, as on some ARM systems. */
static void read_model(char *to, size_t bytes)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    int is_found = 0;

    snprintf(to, bytes, "unknown model");
    if (file == NULL)
        return;
    while (!is_found && fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');

        is_found = colon != NULL && strncmp(line, "model name", 10) == 0;
        if (is_found)
            snprintf(to, bytes, "%.*s", (int)strcspn(colon + 1, "\n") - 1, colon + 2);
    }
    fclose(file);
}

static void cpu_describe(struct ds_device *base, char *to, size_t bytes)
{
    const struct ds_device_options *options = &((struct cpu_device *)base)->options;
    char model[128];

    read_model(model, sizeof model);
    snprintf(to, bytes, "cpu: %s, %d thread%s, %s", model, options->thread_count,
             options->thread_count == 1 ? "" : "s",
             options->mode == DS_DEVICE_DEFERRED ? "deferred" : "inline");
}

const struct ds_device_ops ds_device_cpu_ops = {
    .name = "cpu",
    .caps = DS_DEVICE_CAP_COMPUTES | DS_DEVICE_CAP_HOST_MEMORY,
    .kernels = &ds_kernels_cpu,
    .count = cpu_count,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = ds_cpu_alloc,
    .release = ds_cpu_release,
    .stream_open = ds_cpu_stream_open,
    .stream_close = ds_cpu_stream_close,
    .event_open = cpu_event_open,
    .event_close = cpu_event_close,
    .copy = cpu_copy,
    .stream_wait = cpu_stream_wait,
    .event_record = cpu_event_record,
    .event_query = cpu_event_query,
    .event_sync = cpu_event_sync,
    .stream_sync = cpu_stream_sync,
    .stream_stamp = cpu_stream_stamp,
    .call = cpu_call,
    .memory_left = ds_cpu_memory_left,
    .describe = cpu_describe,
};
