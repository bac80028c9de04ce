/* stream.c - a stream of the cpu device: items go in at the end, the head is tried until it is done.
 *
 * A work that fails leaves its status on the stream for good: later works are skipped, their places
 * still count as done so that nobody waits for ever, and every wait on the stream returns it. A stream
 * that waited for a failed one takes the status over: what it would compute next has no meaning. Nor does it wait for
 * others itself: what they wait for may be a work of its own that was skipped, by way of the host. */
#include "cpu.h"

#include <stdlib.h>
#include <string.h>

/* A whole step may lie in the queue of a deferred stream, and of a worker that fell behind all that a
 * step has for it. Enough for most from the start, so that steps take no memory; untouched it costs none. */
#define ITEMS_AT_FIRST 8192

ds_status ds_cpu_stream_status(struct cpu_stream *stream)
{
    return (ds_status)atomic_load_explicit(&stream->status, memory_order_acquire);
}

static void fail_stream(struct cpu_stream *stream, ds_status st)
{
    int expected = DS_OK; /* the first failure stays */

    atomic_compare_exchange_strong(&stream->status, &expected, (int)st);
}

int ds_cpu_stream_reached(struct cpu_stream *stream, uint64_t position)
{
    return atomic_load_explicit(&stream->done, memory_order_acquire) >= position;
}

struct cpu_item *ds_cpu_stream_head(struct cpu_stream *stream)
{
    struct cpu_item *item;

    pthread_mutex_lock(&stream->lock);
    item = stream->queue.head;
    pthread_mutex_unlock(&stream->lock);
    return item;
}

static int try_work(struct cpu_stream *stream, struct cpu_item *item)
{
    int done = 0;
    ds_status st;

    if (!item->is_started && ds_cpu_stream_status(stream) != DS_OK)
        return 1; /* skipped */
    item->is_started = 1;
    st = item->task.work(item->args, &done);
    if (st != DS_OK)
        fail_stream(stream, st);
    return done || st != DS_OK;
}

static int try_wait(struct cpu_stream *stream, const struct cpu_task *wait)
{
    ds_status st;

    if (ds_cpu_stream_status(stream) != DS_OK)
        return 1;
    if (!ds_cpu_stream_reached(wait->source, wait->position))
        return 0;
    st = ds_cpu_stream_status(wait->source);
    if (st != DS_OK)
        fail_stream(stream, st);
    return 1;
}

/* The count moves under the lock, or a host about to sleep on `moved` could miss it. */
static void finish_head(struct cpu_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    ds_cpu_queue_pop(&stream->queue);
    atomic_fetch_add_explicit(&stream->done, 1, memory_order_release);
    if (stream->driver == CPU_DRIVER_WORKER)
        pthread_cond_broadcast(&stream->moved);
    pthread_mutex_unlock(&stream->lock);
}

enum cpu_step ds_cpu_stream_step(struct cpu_stream *stream)
{
    struct cpu_item *item = ds_cpu_stream_head(stream);
    int is_done;

    if (item == NULL)
        return CPU_STEP_EMPTY;
    is_done = item->task.work ? try_work(stream, item) : try_wait(stream, &item->task);
    if (!is_done)
        return CPU_STEP_STUCK;
    finish_head(stream);
    return CPU_STEP_MOVED;
}

ds_status ds_cpu_stream_push(struct cpu_stream *stream, const struct cpu_task *task,
                             const void *args, size_t args_bytes)
{
    struct cpu_item *item;

    DS_ASSERT(args_bytes <= DS_WORK_ARGS_MAX);
    pthread_mutex_lock(&stream->lock);
    item = ds_cpu_queue_push(&stream->queue);
    if (item != NULL) {
        item->task = *task;
        if (args_bytes > 0)
            memcpy(item->args, args, args_bytes);
        stream->queued++;
        if (stream->driver == CPU_DRIVER_WORKER)
            pthread_cond_signal(&stream->filled);
    }
    pthread_mutex_unlock(&stream->lock);
    return item != NULL ? DS_OK : DS_ERR_NO_MEMORY; /* the queue has said it */
}

static enum cpu_driver choose_driver(const struct cpu_device *device, uint32_t flags)
{
    if (device->options.mode == DS_DEVICE_DEFERRED)
        return CPU_DRIVER_DEFERRED;
    return flags & DS_STREAM_WORKER ? CPU_DRIVER_WORKER : CPU_DRIVER_CALLER;
}

void ds_cpu_stream_free(struct cpu_stream *stream)
{
    ds_cpu_queue_fini(&stream->queue);
    pthread_cond_destroy(&stream->moved);
    pthread_cond_destroy(&stream->filled);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

ds_status ds_cpu_stream_open(struct ds_device *base, uint32_t flags, struct ds_stream **out)
{
    struct cpu_device *device = (struct cpu_device *)base;
    struct cpu_stream *stream = calloc(1, sizeof *stream);
    ds_status st;

    if (stream == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a stream");
    stream->base.device = base;
    stream->device = device;
    stream->driver = choose_driver(device, flags);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->filled, NULL);
    pthread_cond_init(&stream->moved, NULL);
    DS_TRY_GOTO(st, ds_cpu_queue_init(&stream->queue, ITEMS_AT_FIRST), fail);
    if (stream->driver == CPU_DRIVER_WORKER)
        DS_TRY_GOTO(st, ds_cpu_worker_start(stream), fail);
    stream->next = device->streams;
    device->streams = stream;
    *out = &stream->base;
    return DS_OK;

fail:
    ds_cpu_stream_free(stream);
    return st;
}

void ds_cpu_stream_close(struct ds_stream *base)
{
    struct cpu_stream *stream = (struct cpu_stream *)base;

    (void)ds_cpu_wait(stream, stream->queued); /* who failed has logged */
    if (stream->driver == CPU_DRIVER_WORKER)
        ds_cpu_worker_join(stream);
    ds_cpu_queue_fini(&stream->queue);
    stream->is_closed = 1;
}
