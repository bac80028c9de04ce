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

struct ds_comm_ops;
struct ds_kernel_ops;
struct ds_device_ops;

enum ds_memory_kind { DS_MEMORY_DEVICE, DS_MEMORY_PINNED, DS_MEMORY_HOST, DS_MEMORY_KIND_COUNT };
enum ds_alloc_flag {
    /* of device memory: its communicator can register it (comm.h); else as any other */
    DS_ALLOC_SYMMETRIC = 1u << 0,
};
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
struct ds_graph {
    struct ds_device *device;
};

enum ds_device_mode { DS_DEVICE_INLINE, DS_DEVICE_DEFERRED };

struct ds_device_options {
    enum ds_device_mode mode; /* cpu only */
    uint64_t seed;            /* of deferred's random order */
    int thread_count;  /* cpu: threads of a kernel, >= 1; cuda: that bring pages of the host */
    int deterministic; /* cuda: bits must repeat, whatever it costs; the cpu's always do */
    /* cuda, of its communicator: this rank of the world; ranks on the same GPU, this one included (0: 1); may
     * links with multicast be used? */
    uint32_t rank, sharer_count;
    int nvlink_multicast;
    int copy_engines; /* gather with them what is registered */
    /* cuda: to time products under load, in all; 0: in moments, as soon as they are met */
    uint64_t tuning_ns;
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

/* What a device chooses by the clock, at the first call with a shape (which algorithm multiplies matrices): as
 * bytes, other ranks and later runs can be given it. */
struct ds_tuning_ops {
    /* what choices hold for, fit for a file's name ("gemm-GPU-library"); empty: none are made by the clock */
    void (*name)(struct ds_device *device, char *to, size_t bytes);
    size_t (*bytes_max)(void);
    /* all so far; how many bytes. *is_new: some were made here, and not given */
    size_t (*save)(struct ds_device *device, void *to, int *is_new);
    /* these, instead of its own for the same shape. 0: the bytes are not whole or of another device; ignored */
    int (*load)(struct ds_device *device, const void *from, size_t bytes);
    /* nothing is timed from here on: a new shape gets the first guess of the library */
    void (*seal)(struct ds_device *device);
};

/* What a process takes of a device beside what it asks of the table, as far as that can be known before. */
struct ds_device_overhead {
    uint64_t library_bytes;     /* context, code and libraries: a constant that was measured */
    uint64_t first_group_bytes; /* once, where there is a communicator between several devices */
    uint64_t group_bytes;       /* each of them */
    uint64_t scratch_bytes;     /* of the stream that computes, for kernels */
    /* memory comes in pages: half of one or more has its own, smaller pieces lie together */
    uint64_t page_bytes;
    /* so many bytes of pinned memory of the host take one of the device, which maps them; 0: none */
    uint64_t pinned_per_byte;
};

struct ds_device_ops {
    const char *name;
    uint32_t caps;
    const struct ds_kernel_ops *kernels;
    /* required */
    int (*count)(void); /* devices here; 0: not available */
    ds_status (*open)(int index, const struct ds_device_options *options, struct ds_device **out);
    void (*close)(struct ds_device *device);
    ds_status (*alloc)(struct ds_device *device, enum ds_memory_kind kind, size_t bytes,
                       uint32_t flags, void **at); /* zeroed; 4096-byte aligned; ds_alloc_flag */
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
    /* a number that no other device of any host has; fallback: all ranks may have the same one */
    ds_status (*identity)(int index, uint64_t *id);
    void (*why_none)(char *to, size_t bytes); /* why count() is 0, as a sentence */
    const struct ds_comm_ops
        *comm; /* between devices; fallback: those of host memory, which it is then */
    ds_status (*call)(struct ds_stream *stream, ds_work_fn work, const void *args,
                      size_t args_bytes); /* host devices only; NULL: host code cannot be queued */
    /* see ds_stream_signal, ds_stream_await; fallback: works of `call` */
    ds_status (*stream_signal)(struct ds_stream *stream, uint32_t *word);
    ds_status (*stream_await)(struct ds_stream *stream, uint32_t *word);
    /* all four or none. What is queued between begin and end on `stream`, and on streams that wait for it,
     * does not run but becomes a graph: the same work with the same arguments, queued by one launch on
     * `stream`, which goes on when all of it is done. Within a capture no wait for an event recorded
     * before it; the other streams have to be waited for by `stream` before the end. */
    ds_status (*capture_begin)(struct ds_stream *stream);
    ds_status (*capture_end)(struct ds_stream *stream, struct ds_graph **out);
    ds_status (*graph_launch)(struct ds_stream *stream, struct ds_graph *graph);
    void (*graph_close)(struct ds_graph *graph);
    ds_status (*memory_left)(struct ds_device *device, size_t *bytes); /* fallback: no limit */
    /* of the device, by all processes, as its driver counts; fallback: not known */
    ds_status (*memory_used)(struct ds_device *device, size_t *bytes);
    const struct ds_device_overhead *overhead; /* fallback: nothing */
    /* FLOP/s of dense bf16 by its data sheet; 0, and the fallback: not known */
    double (*peak_flops)(struct ds_device *device);
    void (*describe)(struct ds_device *device, char *to, size_t bytes); /* fallback: the name */
    /* the NUMA node of the host that it hangs on; -1, and the fallback: not known */
    int (*host_node)(struct ds_device *device);
    const struct ds_tuning_ops *tuning; /* fallback: nothing is chosen by the clock */
};

/* local: the table called `name` ("cpu", "cuda"), or DS_ERR_UNSUPPORTED with the reason. "auto" takes
 * the first that computes, is here, and says at INFO why a better one is not. A plugin is looked for
 * beside the program. `who` asks for it: the option or key, which begins the message. */
DS_CHECKED ds_status ds_device_find(const char *who, const char *name,
                                    const struct ds_device_ops **out);
/* local: what ds_device_find would give, without a word; NULL: it would fail */
const struct ds_device_ops *ds_device_look(const char *name);
extern const struct ds_device_ops ds_device_cpu_ops;
extern const struct ds_device_ops ds_device_null_ops; /* counts memory, computes nothing */

/* local: by a word of pinned memory a stream and a thread of the host wait for each other, inside of graphs, too.
 * signal: when the stream comes there the word becomes 1, and what it did before is done. await: it goes on when
 * the word is not 0, and makes it 0: what the host wrote before it set the word is there. Nobody else writes
 * the word in between. An await has no deadline of its own: it ends with the thread's progress, or whoever waits
 * for the stream is watched. The thread reads and writes by ds_word_load and ds_word_store. */
DS_CHECKED ds_status ds_stream_signal(struct ds_stream *stream, uint32_t *word);
DS_CHECKED ds_status ds_stream_await(struct ds_stream *stream, uint32_t *word);

static inline uint32_t ds_word_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void ds_word_store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* local: one more stream wait in one line: `waiter` goes on after all that `first` has so far. */
DS_CHECKED ds_status ds_stream_after(struct ds_stream *waiter, struct ds_stream *first,
                                     struct ds_event *event);

#ifdef __cplusplus
}
#endif
#endif
