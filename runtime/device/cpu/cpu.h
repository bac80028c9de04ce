/* cpu.h - the parts of the cpu device, private to this folder.
 *
 * A stream is a queue of items: works and waits. An event is a place in a stream's count of items, so
 * recording one costs nothing and it has come when the stream has done that many. Three drivers take
 * items from the queue: the caller (inline: in calls and waits), a worker thread of the stream's own,
 * and deferred (in waits only, the streams in random order). Only the rank's main thread puts items
 * in and asks; what a worker shares with it is behind `lock` or atomic. */
#ifndef DSTRAIN_DEVICE_CPU_H
#define DSTRAIN_DEVICE_CPU_H

#include "dstrain/device.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>

struct cpu_stream;

struct cpu_task {
    ds_work_fn work;           /* NULL: wait until `source` has done `position` items */
    struct cpu_stream *source; /* borrowed: lives until the device is closed */
    uint64_t position;
};

struct cpu_item {
    struct cpu_task task;
    struct cpu_item *next;
    int is_started; /* the work was called and is not done: it must be called until it is */
    alignas(max_align_t) unsigned char args[DS_WORK_ARGS_MAX];
};

/* queue.c - first in, first out; items do not move while they are in it. */
struct cpu_queue {
    /* owns */
    struct cpu_chunk *chunks; /* newest first */
    /* inside the chunks */
    struct cpu_item *head, *tail, *spare;
};
ds_status ds_cpu_queue_init(struct cpu_queue *queue, size_t item_count);
void ds_cpu_queue_fini(struct cpu_queue *queue);
struct cpu_item *ds_cpu_queue_push(struct cpu_queue *queue); /* NULL: out of memory */
void ds_cpu_queue_pop(struct cpu_queue *queue);

enum cpu_driver { CPU_DRIVER_CALLER, CPU_DRIVER_WORKER, CPU_DRIVER_DEFERRED };

struct cpu_stream {
    struct ds_stream base;
    struct cpu_device *device;
    struct cpu_stream *next; /* of the device; closed ones stay, events may point to them */
    enum cpu_driver driver;
    int is_closed;
    uint64_t queued; /* items put in so far; the main thread's */
    atomic_uint_fast64_t done;
    atomic_int status; /* of the first work that failed; what comes after it is skipped */
    /* owns; under `lock` */
    struct cpu_queue queue;
    int is_leaving; /* the worker ends when its queue is empty */
    pthread_mutex_t lock;
    pthread_cond_t filled, moved; /* for the worker; for the host */
    pthread_t worker;
};

struct cpu_block {
    unsigned char *at;
    size_t bytes;
};

struct cpu_device {
    struct ds_device base;
    struct ds_device_options options;
    uint64_t random; /* state of deferred's choices */
    /* owns */
    struct cpu_stream *streams;
    struct cpu_block *blocks; /* all memory of DS_MEMORY_DEVICE */
    size_t block_count, block_room;
    int is_shut; /* deferred: host code faults on the blocks */
};

struct cpu_event {
    struct ds_event base;
    struct cpu_stream *stream; /* NULL: never recorded, so it has come */
    uint64_t position;
};

/* stream.c - what every driver does with the head of a queue */
enum cpu_step { CPU_STEP_EMPTY, CPU_STEP_STUCK, CPU_STEP_MOVED };
enum cpu_step ds_cpu_stream_step(struct cpu_stream *stream);
struct cpu_item *ds_cpu_stream_head(struct cpu_stream *stream);
int ds_cpu_stream_reached(struct cpu_stream *stream, uint64_t position);
ds_status ds_cpu_stream_status(struct cpu_stream *stream);
ds_status ds_cpu_stream_push(struct cpu_stream *stream, const struct cpu_task *task,
                             const void *args, size_t args_bytes);
ds_status ds_cpu_stream_open(struct ds_device *base, uint32_t flags, struct ds_stream **out);
void ds_cpu_stream_close(struct ds_stream *base);
void ds_cpu_stream_free(struct cpu_stream *stream);

/* wait.c - the host waits; inline streams are driven while it does */
struct cpu_pause {
    uint32_t count;
};
int ds_cpu_pause_is_long(const struct cpu_pause *pause); /* the next one sleeps */
void ds_cpu_pause(struct cpu_pause *pause, const struct ds_clock *clock);
enum cpu_step ds_cpu_poll(struct cpu_device *device); /* every inline stream, once */
ds_status ds_cpu_wait(struct cpu_stream *stream, uint64_t position);

/* worker.c */
ds_status ds_cpu_worker_start(struct cpu_stream *stream);
void ds_cpu_worker_join(struct cpu_stream *stream);
void ds_cpu_worker_await(struct cpu_stream *stream, uint64_t position);

/* deferred.c */
void ds_cpu_deferred_run(struct cpu_stream *stream, uint64_t position);
void ds_cpu_deferred_nudge(struct cpu_device *device);

/* memory.c */
ds_status ds_cpu_alloc(struct ds_device *base, enum ds_memory_kind kind, size_t bytes,
                       uint32_t flags, void **at);
void ds_cpu_release(struct ds_device *base, enum ds_memory_kind kind, void *memory, size_t bytes);
ds_status ds_cpu_memory_left(struct ds_device *base, size_t *bytes);
void ds_cpu_memory_set_open(struct cpu_device *device, int is_open);
void ds_cpu_memory_fini(struct cpu_device *device);

#endif
