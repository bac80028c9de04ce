/* device_rig.h - the matrix of cpu devices that device tests run on: inline, deferred, and both again
 * through the plugin; a device with three streams; small works whose effects show. */
#ifndef DSTRAIN_DEVICE_RIG_H
#define DSTRAIN_DEVICE_RIG_H

#include "test.h"

#include "dstrain/device.h"
#include "dstrain/plugin.h"

#include <stdatomic.h>

/* ---- the matrix */

struct backend {
    const char *name;
    int is_plugin;
    enum ds_device_mode mode;
};

static struct backend backends[] = {
    {"inline", 0, DS_DEVICE_INLINE},
    {"deferred", 0, DS_DEVICE_DEFERRED},
    {"plugin inline", 1, DS_DEVICE_INLINE},
    {"plugin deferred", 1, DS_DEVICE_DEFERRED},
};

/* An open device with three streams: two of the main thread, one that may have a worker. */
struct rig {
    const struct ds_device_ops *ops;
    struct ds_device *device;
    struct ds_stream *a, *b, *worker;
    struct ds_event *event;
};

static inline const struct ds_device_ops *find_ops(const struct backend *backend)
{
    const struct ds_plugin *plugin;

    if (!backend->is_plugin)
        return &ds_device_cpu_ops;
    assert_ok(ds_plugin_load(DS_BINARY_DIR "/libdstrain_cpu.so", &plugin));
    assert_ptr_not_equal(plugin->device, &ds_device_cpu_ops);
    return plugin->device;
}

static inline struct rig rig_open(void **state, uint64_t seed)
{
    const struct backend *backend = *state;
    struct ds_device_options options = {
        .mode = backend->mode, .seed = seed, .thread_count = 1, .clock = ds_clock_system()};
    struct rig rig = {.ops = find_ops(backend)};

    assert_ok(rig.ops->open(0, &options, &rig.device));
    assert_ok(rig.ops->stream_open(rig.device, 0, &rig.a));
    assert_ok(rig.ops->stream_open(rig.device, 0, &rig.b));
    assert_ok(rig.ops->stream_open(rig.device, DS_STREAM_WORKER, &rig.worker));
    assert_ok(rig.ops->event_open(rig.device, &rig.event));
    return rig;
}

static inline void rig_close(struct rig *rig)
{
    rig->ops->event_close(rig->event);
    rig->ops->stream_close(rig->a);
    rig->ops->stream_close(rig->b);
    rig->ops->stream_close(rig->worker);
    rig->ops->close(rig->device);
}

static inline int is_deferred(void **state)
{
    return ((const struct backend *)*state)->mode == DS_DEVICE_DEFERRED;
}

static inline void *take(struct rig *rig, enum ds_memory_kind kind, size_t bytes)
{
    void *at = NULL;

    assert_ok(rig->ops->alloc(rig->device, kind, bytes, 0, &at));
    return at;
}

/* ---- works */

#define TRACE_MAX 20000

struct trace {
    int count;
    int tags[TRACE_MAX];
};

struct note_args {
    struct trace *trace;
    int tag;
};

static inline ds_status note_work(void *self, int *done)
{
    struct note_args *args = self;

    args->trace->tags[args->trace->count++] = args->tag;
    *done = 1;
    return DS_OK;
}

static inline void note(struct ds_stream *stream, struct trace *trace, int tag)
{
    struct note_args args = {trace, tag};

    assert_ok(stream->device->ops->call(stream, note_work, &args, sizeof args));
}

struct flag_args {
    atomic_int *flag;
    int value;
    ds_status st;
    void *address; /* of these arguments at the first try */
};

static inline ds_status set_work(void *self, int *done)
{
    struct flag_args *args = self;

    atomic_store(args->flag, args->value);
    *done = 1;
    return args->st;
}

/* Not done before the flag has the value; the arguments must not move in the meantime. */
static inline ds_status until_work(void *self, int *done)
{
    struct flag_args *args = self;

    assert_true(args->address == NULL || args->address == self);
    args->address = self;
    *done = atomic_load(args->flag) == args->value;
    return DS_OK;
}

static inline ds_status countdown_work(void *self, int *done)
{
    struct flag_args *args = self;

    *done = args->value-- == 0;
    return DS_OK;
}

/* A millisecond. */
static inline ds_status sleep_work(void *self, int *done)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), 1000000);
    *done = 1;
    return DS_OK;
}

static inline void call(struct ds_stream *stream, ds_work_fn work, atomic_int *flag, int value)
{
    struct flag_args args = {flag, value, DS_OK, NULL};

    assert_ok(stream->device->ops->call(stream, work, &args, sizeof args));
}

/* clang-format off */
#define FOR_EACH_BACKEND(test)                                \
    {#test "/inline", test, NULL, NULL, &backends[0]},        \
    {#test "/deferred", test, NULL, NULL, &backends[1]},      \
    {#test "/plugin inline", test, NULL, NULL, &backends[2]}, \
    {#test "/plugin deferred", test, NULL, NULL, &backends[3]}
#define FOR_INLINE(test)                                      \
    {#test "/inline", test, NULL, NULL, &backends[0]},        \
    {#test "/plugin inline", test, NULL, NULL, &backends[2]}
#define FOR_DEFERRED(test)                                    \
    {#test "/deferred", test, NULL, NULL, &backends[1]},      \
    {#test "/plugin deferred", test, NULL, NULL, &backends[3]}
/* clang-format on */

#endif
