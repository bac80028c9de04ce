/* device.h - memory and order of execution.
 *
 * "cuda" maps onto streams and events; "cpu" works inside the call (inline) or, deferred, when
 * somebody waits. Everything that runs on a stream runs in the stream's order; between streams only
 * recorded events order work. A failure of queued work is kept by its stream and comes back from
 * the next wait on it. Calls are made by the rank's main thread. local: everything here. */
#ifndef DSTRAIN_DEVICE_H
#define DSTRAIN_DEVICE_H

#include "dstrain/clock.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ds_kernel_ops;
struct ds_device_ops;

enum ds_memory_kind { DS_MEMORY_DEVICE, DS_MEMORY_PINNED, DS_MEMORY_HOST, DS_MEMORY_KIND_COUNT };
enum ds_device_cap {
    DS_DEVICE_CAP_COMPUTES = 1u << 0, /* "auto" and training ask for this bit */
    /* device memory is host memory: host comm may work on it */
    DS_DEVICE_CAP_HOST_MEMORY = 1u << 1,
};

/* The first member of a backend's own struct, each of them. */
struct ds_device {
    const struct ds_device_ops *ops;
};
struct ds_stream {
    struct ds_device *device;
};
struct ds_event {
    struct ds_device *device;
};

enum ds_device_mode { DS_DEVICE_INLINE, DS_DEVICE_DEFERRED };

struct ds_device_options {
    enum ds_device_mode mode; /* cpu only */
    uint64_t seed;            /* of deferred's random order */
    int thread_count;         /* cpu: threads of a kernel, >= 1 */
    const struct ds_clock *clock;
};

/* Work in stream order on the host: called again and again until it sets *done. Must not block: a
 * collective that waits for a peer returns with *done = 0. `args` is a copy that lives as long as
 * the work. Runs on the thread that drives the stream. */
typedef ds_status (*ds_work_fn)(void *args, int *done);
#define DS_WORK_ARGS_MAX 1024 /* bytes; more is a bug */

/* Who drives a host stream in inline mode: the main thread, inside calls and waits (compute, mpi),
 * or a worker thread of the stream's own (collectives that may run beside arithmetic). Deferred
 * streams are always driven by the main thread; on cuda the flag means nothing. */
enum ds_stream_flag { DS_STREAM_WORKER = 1u << 0 };

struct ds_device_ops {
    const char *name;
    uint32_t caps;
    const struct ds_kernel_ops *kernels;
    /* required */
    int (*count)(void); /* devices here; 0: not available */
    ds_status (*open)(int index, const struct ds_device_options *options, struct ds_device **out);
    void (*close)(struct ds_device *device);
    ds_status (*alloc)(struct ds_device *device, enum ds_memory_kind kind, size_t bytes,
                       uint32_t flags, void **at); /* zeroed; 4096-byte aligned */
    void (*release)(struct ds_device *device, enum ds_memory_kind kind, void *memory, size_t bytes);
    ds_status (*stream_open)(struct ds_device *device, uint32_t flags, struct ds_stream **out);
    void (*stream_close)(struct ds_stream *stream); /* drains */
    ds_status (*event_open)(struct ds_device *device, struct ds_event **out);
    void (*event_close)(struct ds_event *event);
    ds_status (*copy)(struct ds_stream *stream, void *to, const void *from, size_t bytes);
    ds_status (*stream_wait)(struct ds_stream *stream, struct ds_event *event);
    ds_status (*event_record)(struct ds_event *event, struct ds_stream *stream);
    /* never waits; may make progress */
    ds_status (*event_query)(struct ds_event *event, int *done);
    ds_status (*event_sync)(struct ds_event *event);    /* the host waits */
    ds_status (*stream_sync)(struct ds_stream *stream); /* the host waits for all of it */
    /* when the stream comes to it, the monotonic time of this host goes to *at_ns (pinned memory) */
    ds_status (*stream_stamp)(struct ds_stream *stream, uint64_t *at_ns);
    /* optional */
    ds_status (*call)(struct ds_stream *stream, ds_work_fn work, const void *args,
                      size_t args_bytes); /* host devices only; NULL: host code cannot be queued */
    ds_status (*memory_left)(struct ds_device *device, size_t *bytes);  /* fallback: no limit */
    void (*describe)(struct ds_device *device, char *to, size_t bytes); /* fallback: the name */
};

/* local: the table called `name` ("cpu", "cuda"), or DS_ERR_UNSUPPORTED with the reason. "auto" takes
 * the first that computes, is here, and says at INFO why a better one is not. A plugin is looked for
 * beside the program. `who` asks for it: the option or key, which begins the message. */
DS_CHECKED ds_status ds_device_find(const char *who, const char *name,
                                    const struct ds_device_ops **out);
extern const struct ds_device_ops ds_device_cpu_ops;
extern const struct ds_device_ops ds_device_null_ops; /* counts memory, computes nothing */

/* local: one more stream wait in one line: `waiter` goes on after all that `first` has so far. */
DS_CHECKED ds_status ds_stream_after(struct ds_stream *waiter, struct ds_stream *first,
                                     struct ds_event *event);

#ifdef __cplusplus
}
#endif
#endif
