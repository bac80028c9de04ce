/* graph_device.h - the cpu device with graphs, for tests: what a GPU does with a capture, where there is none.
 *
 * The table is the cpu's but for the entries below, and so are its streams and events: kernels see the
 * device that they know. Between begin and end nothing of a captured stream runs: works, copies, stamps, events and
 * collectives are kept with their arguments, in the order in which they were queued. A launch queues them
 * again on streams of the graph's own, so that only what was captured orders them. What device.h asks of a
 * capture is checked as a GPU would, and is a failure of the call that broke it:
 *   a wait inside for an event that was recorded before; a wait outside for one that was recorded inside;
 *   an end with a stream that was drawn in and has work that the first one does not wait for;
 *   a host that waits or asks, or memory that comes or goes, inside.
 * A rank is a thread and has its own device, one at a time. */
#ifndef DSTRAIN_TEST_GRAPH_DEVICE_H
#define DSTRAIN_TEST_GRAPH_DEVICE_H

#include "dstrain/comm.h"
#include "dstrain/device.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

enum { GRAPH_LANES = 8, GRAPH_EVENTS = 1024 };

/* How much work of each captured stream something comes after. */
struct graph_after {
    uint64_t work[GRAPH_LANES];
};

enum graph_call { GRAPH_REDUCE, GRAPH_GATHER, GRAPH_SCATTER, GRAPH_BROADCAST, GRAPH_EXCHANGE };

struct graph_collective {
    enum graph_call call;
    struct ds_comm *comm; /* of host memory */
    const void *send;
    void *recv;
    size_t count; /* elements, bytes or messages */
    enum ds_dtype dtype;
    enum ds_reduce op;
    uint32_t root;
};

enum graph_kind { GRAPH_WORK, GRAPH_COPY, GRAPH_STAMP, GRAPH_COLLECTIVE, GRAPH_RECORD, GRAPH_WAIT };

struct graph_item {
    enum graph_kind kind;
    uint32_t lane;
    union {
        ds_work_fn work;
        struct graph_collective collective;
        uint64_t *at_ns;
        uint32_t event;
    } u;
    void *to;
    const void *from;
    size_t bytes; /* of the copy, or of args */
    alignas(max_align_t) unsigned char args[DS_WORK_ARGS_MAX];
};

struct device_graph {
    struct ds_graph base;
    /* owns */
    struct graph_item *items;
    size_t item_count, item_room;
    struct ds_event **events; /* one for each record */
    uint32_t event_count;
    struct ds_stream *lanes[GRAPH_LANES]; /* but the first: that is the stream of the launch */
    uint32_t lane_count;
};

struct graph_mark { /* what an event stands for */
    const struct ds_event *event;
    uint32_t capture; /* 0: recorded outside of any, or never */
    uint32_t place;   /* among the graph's events */
    struct graph_after after;
};

/* Of this rank. */
struct graph_rig {
    struct graph_mark marks[GRAPH_EVENTS];
    uint32_t mark_count;
    uint32_t capture_count;     /* so far */
    struct device_graph *graph; /* being captured; NULL: none is */
    const struct ds_stream *lanes[GRAPH_LANES];
    struct graph_after after[GRAPH_LANES]; /* of the next work on each */
    uint64_t launches;
};
static _Thread_local struct graph_rig graph_rig;

#define GRAPH_BROKEN(...)      ds_fail(DS_ERR_DEVICE, "capture: " __VA_ARGS__)
#define GRAPH_NOT_INSIDE(what) (graph_rig.graph ? GRAPH_BROKEN("%s inside of it", what) : DS_OK)

/* ---- what is kept */

static inline int graph_lane_of(const struct ds_stream *stream)
{
    for (uint32_t i = 0; graph_rig.graph && i < graph_rig.graph->lane_count; i++)
        if (graph_rig.lanes[i] == stream)
            return (int)i;
    return -1;
}

static inline struct graph_item *graph_keep(enum graph_kind kind, int lane)
{
    struct device_graph *graph = graph_rig.graph;

    if (graph->item_count == graph->item_room) {
        graph->item_room = graph->item_room ? 2 * graph->item_room : 256;
        graph->items = realloc(graph->items, graph->item_room * sizeof *graph->items);
        DS_ASSERT(graph->items);
    }
    struct graph_item *item = &graph->items[graph->item_count++];
    memset(item, 0, sizeof *item);
    item->kind = kind;
    item->lane = (uint32_t)lane;
    if (kind != GRAPH_RECORD && kind != GRAPH_WAIT)
        graph_rig.after[lane].work[lane]++;
    return item;
}

static inline struct graph_mark *graph_mark_of(const struct ds_event *event)
{
    for (uint32_t i = 0; i < graph_rig.mark_count; i++)
        if (graph_rig.marks[i].event == event)
            return &graph_rig.marks[i];
    DS_ASSERT(!"an event of this device");
    return NULL;
}

/* ---- the entries of a stream */

static inline ds_status graph_call(struct ds_stream *stream, ds_work_fn work, const void *args,
                                   size_t bytes)
{
    const int lane = graph_lane_of(stream);

    if (lane < 0)
        return ds_device_cpu_ops.call(stream, work, args, bytes);
    struct graph_item *item = graph_keep(GRAPH_WORK, lane);
    DS_ASSERT(bytes <= sizeof item->args);
    item->u.work = work;
    item->bytes = bytes;
    memcpy(item->args, args, bytes);
    return DS_OK;
}

static inline ds_status graph_copy(struct ds_stream *stream, void *to, const void *from,
                                   size_t bytes)
{
    const int lane = graph_lane_of(stream);

    if (lane < 0)
        return ds_device_cpu_ops.copy(stream, to, from, bytes);
    struct graph_item *item = graph_keep(GRAPH_COPY, lane);
    item->to = to;
    item->from = from;
    item->bytes = bytes;
    return DS_OK;
}

static inline ds_status graph_stamp(struct ds_stream *stream, uint64_t *at_ns)
{
    const int lane = graph_lane_of(stream);

    if (lane < 0)
        return ds_device_cpu_ops.stream_stamp(stream, at_ns);
    graph_keep(GRAPH_STAMP, lane)->u.at_ns = at_ns;
    return DS_OK;
}

static inline ds_status graph_event_record(struct ds_event *event, struct ds_stream *stream)
{
    struct graph_mark *mark = graph_mark_of(event);
    const int lane = graph_lane_of(stream);

    mark->capture = 0;
    if (lane < 0)
        return ds_device_cpu_ops.event_record(event, stream);
    mark->capture = graph_rig.capture_count;
    mark->place = graph_rig.graph->event_count++;
    mark->after = graph_rig.after[lane];
    graph_keep(GRAPH_RECORD, lane)->u.event = mark->place;
    return DS_OK;
}

/* A stream that waits for captured work is captured from there on. */
static inline int graph_draw_in(const struct ds_stream *stream)
{
    const uint32_t lane = graph_rig.graph->lane_count++;

    DS_ASSERT(lane < GRAPH_LANES);
    graph_rig.lanes[lane] = stream;
    memset(&graph_rig.after[lane], 0, sizeof graph_rig.after[lane]);
    return (int)lane;
}

static inline ds_status graph_stream_wait(struct ds_stream *stream, struct ds_event *event)
{
    const struct graph_mark *mark = graph_mark_of(event);
    int lane = graph_lane_of(stream);

    if (mark->capture == 0 && lane < 0)
        return ds_device_cpu_ops.stream_wait(stream, event);
    if (mark->capture == 0)
        return GRAPH_BROKEN("a wait inside for an event that was not recorded inside");
    if (!graph_rig.graph || mark->capture != graph_rig.capture_count)
        return GRAPH_BROKEN("a wait for an event that was recorded inside of one that is over");
    lane = lane < 0 ? graph_draw_in(stream) : lane;
    graph_keep(GRAPH_WAIT, lane)->u.event = mark->place;
    for (int i = 0; i < GRAPH_LANES; i++)
        if (graph_rig.after[lane].work[i] < mark->after.work[i])
            graph_rig.after[lane].work[i] = mark->after.work[i];
    return DS_OK;
}

/* ---- what a capture forbids */

static inline ds_status graph_event_query(struct ds_event *event, int *done)
{
    DS_TRY(GRAPH_NOT_INSIDE("event_query"));
    if (graph_mark_of(event)->capture)
        return GRAPH_BROKEN("event_query of an event that was recorded inside of one");
    return ds_device_cpu_ops.event_query(event, done);
}

static inline ds_status graph_event_sync(struct ds_event *event)
{
    DS_TRY(GRAPH_NOT_INSIDE("event_sync"));
    if (graph_mark_of(event)->capture)
        return GRAPH_BROKEN("event_sync of an event that was recorded inside of one");
    return ds_device_cpu_ops.event_sync(event);
}

static inline ds_status graph_stream_sync(struct ds_stream *stream)
{
    DS_TRY(GRAPH_NOT_INSIDE("stream_sync"));
    return ds_device_cpu_ops.stream_sync(stream);
}

static inline ds_status graph_alloc(struct ds_device *device, enum ds_memory_kind kind,
                                    size_t bytes, uint32_t flags, void **at)
{
    DS_TRY(GRAPH_NOT_INSIDE("alloc"));
    return ds_device_cpu_ops.alloc(device, kind, bytes, flags, at);
}

static inline ds_status graph_event_open(struct ds_device *device, struct ds_event **out)
{
    DS_ASSERT(graph_rig.mark_count < GRAPH_EVENTS);
    DS_TRY(ds_device_cpu_ops.event_open(device, out));
    graph_rig.marks[graph_rig.mark_count++] = (struct graph_mark){.event = *out};
    return DS_OK;
}

static inline void graph_event_close(struct ds_event *event)
{
    struct graph_mark *mark = graph_mark_of(event);

    *mark = graph_rig.marks[--graph_rig.mark_count];
    ds_device_cpu_ops.event_close(event);
}

/* ---- captures */

static inline ds_status graph_capture_begin(struct ds_stream *stream)
{
    struct device_graph *graph = calloc(1, sizeof *graph);

    DS_ASSERT(graph && !graph_rig.graph);
    graph->base.device = stream->device;
    graph_rig.graph = graph;
    graph_rig.capture_count++;
    (void)graph_draw_in(stream);
    return DS_OK;
}

static inline void graph_close(struct ds_graph *base)
{
    struct device_graph *graph = (struct device_graph *)base;

    for (uint32_t i = 1; i < graph->lane_count; i++)
        if (graph->lanes[i])
            ds_device_cpu_ops.stream_close(graph->lanes[i]);
    for (uint32_t i = 0; graph->events && i < graph->event_count; i++)
        if (graph->events[i])
            ds_device_cpu_ops.event_close(graph->events[i]);
    free(graph->events);
    free(graph->items);
    free(graph);
}

static inline ds_status graph_make(struct device_graph *graph)
{
    struct ds_device *device = graph->base.device;

    graph->events = calloc(graph->event_count + 1u, sizeof *graph->events);
    DS_ASSERT(graph->events);
    for (uint32_t i = 0; i < graph->event_count; i++)
        DS_TRY(ds_device_cpu_ops.event_open(device, &graph->events[i]));
    for (uint32_t i = 1; i < graph->lane_count; i++)
        DS_TRY(ds_device_cpu_ops.stream_open(device, 0, &graph->lanes[i]));
    return DS_OK;
}

static inline ds_status graph_is_joined(const struct device_graph *graph)
{
    for (uint32_t i = 1; i < graph->lane_count; i++)
        if (graph_rig.after[0].work[i] < graph_rig.after[i].work[i])
            return GRAPH_BROKEN("stream %u of it is not waited for at its end", i);
    return DS_OK;
}

static inline ds_status graph_capture_end(struct ds_stream *stream, struct ds_graph **out)
{
    struct device_graph *graph = graph_rig.graph;
    ds_status st;

    DS_ASSERT(graph && graph_rig.lanes[0] == stream);
    st = graph_is_joined(graph);
    memset(graph_rig.after, 0, sizeof graph_rig.after);
    graph_rig.graph = NULL;
    if (st == DS_OK)
        st = graph_make(graph);
    if (st != DS_OK) {
        graph_close(&graph->base);
        return st;
    }
    *out = &graph->base;
    return DS_OK;
}

static inline ds_status graph_collect(const struct graph_collective *c,
                                      const struct ds_message *messages, struct ds_stream *stream)
{
    const struct ds_comm_ops *ops = c->comm->ops;

    switch (c->call) {
    case GRAPH_REDUCE:
        return ops->all_reduce(c->comm, c->recv, c->count, c->dtype, c->op, stream);
    case GRAPH_GATHER:
        return ops->all_gather(c->comm, c->send, c->recv, c->count, c->dtype, stream);
    case GRAPH_SCATTER:
        return ops->reduce_scatter(c->comm, c->send, c->recv, c->count, c->dtype, stream);
    case GRAPH_BROADCAST:
        return ops->broadcast(c->comm, c->recv, c->count, c->root, stream);
    default:
        return ops->exchange(c->comm, messages, (uint32_t)c->count, stream);
    }
}

static inline ds_status graph_replay(struct device_graph *graph, const struct graph_item *item,
                                     struct ds_stream *stream)
{
    const struct ds_device_ops *cpu = &ds_device_cpu_ops;

    switch (item->kind) {
    case GRAPH_WORK:
        return cpu->call(stream, item->u.work, item->args, item->bytes);
    case GRAPH_COPY:
        return cpu->copy(stream, item->to, item->from, item->bytes);
    case GRAPH_STAMP:
        return cpu->stream_stamp(stream, item->u.at_ns);
    case GRAPH_COLLECTIVE:
        return graph_collect(&item->u.collective, (const struct ds_message *)item->args, stream);
    case GRAPH_RECORD:
        return cpu->event_record(graph->events[item->u.event], stream);
    default:
        return cpu->stream_wait(stream, graph->events[item->u.event]);
    }
}

static inline ds_status graph_launch(struct ds_stream *stream, struct ds_graph *base)
{
    struct device_graph *graph = (struct device_graph *)base;

    DS_TRY(GRAPH_NOT_INSIDE("graph_launch"));
    for (size_t i = 0; i < graph->item_count; i++) {
        const struct graph_item *item = &graph->items[i];
        DS_TRY(graph_replay(graph, item, item->lane == 0 ? stream : graph->lanes[item->lane]));
    }
    graph_rig.launches++;
    return DS_OK;
}

/* ---- groups: a collective is told its place when it is queued, so each launch queues it again */

struct graph_comm {
    struct ds_comm base;
    struct ds_comm *inner; /* owned: of host memory */
};

static inline ds_status graph_collective(struct ds_comm *base, struct graph_collective c,
                                         const struct ds_message *messages,
                                         struct ds_stream *stream)
{
    const int lane = stream ? graph_lane_of(stream) : -1;

    c.comm = ((struct graph_comm *)base)->inner;
    if (lane < 0)
        return graph_collect(&c, messages, stream);
    struct graph_item *item = graph_keep(GRAPH_COLLECTIVE, lane);
    item->u.collective = c;
    if (messages)
        memcpy(item->args, messages, c.count * sizeof *messages);
    return DS_OK;
}

static inline ds_status graph_all_reduce(struct ds_comm *comm, void *data, size_t count,
                                         enum ds_dtype dtype, enum ds_reduce op,
                                         struct ds_stream *stream)
{
    struct graph_collective c = {.call = GRAPH_REDUCE, .recv = data, .count = count};

    c.dtype = dtype;
    c.op = op;
    return graph_collective(comm, c, NULL, stream);
}

static inline ds_status graph_all_gather(struct ds_comm *comm, const void *send, void *recv,
                                         size_t count, enum ds_dtype dtype,
                                         struct ds_stream *stream)
{
    struct graph_collective c = {.call = GRAPH_GATHER, .send = send, .recv = recv, .count = count};

    c.dtype = dtype;
    return graph_collective(comm, c, NULL, stream);
}

static inline ds_status graph_reduce_scatter(struct ds_comm *comm, const void *send, void *recv,
                                             size_t count, enum ds_dtype dtype,
                                             struct ds_stream *stream)
{
    struct graph_collective c = {.call = GRAPH_SCATTER, .send = send, .recv = recv, .count = count};

    c.dtype = dtype;
    return graph_collective(comm, c, NULL, stream);
}

static inline ds_status graph_broadcast(struct ds_comm *comm, void *data, size_t bytes,
                                        uint32_t root, struct ds_stream *stream)
{
    const struct graph_collective c = {
        .call = GRAPH_BROADCAST, .recv = data, .count = bytes, .root = root};

    return graph_collective(comm, c, NULL, stream);
}

static inline ds_status graph_exchange(struct ds_comm *comm, const struct ds_message *messages,
                                       uint32_t count, struct ds_stream *stream)
{
    const struct graph_collective c = {.call = GRAPH_EXCHANGE, .count = count};

    return graph_collective(comm, c, messages, stream);
}

static inline ds_status graph_barrier(struct ds_comm *comm)
{
    struct ds_comm *inner = ((struct graph_comm *)comm)->inner;

    return inner->ops->barrier(inner);
}

static inline void graph_poison(struct ds_comm *comm)
{
    struct ds_comm *inner = ((struct graph_comm *)comm)->inner;

    inner->ops->poison(inner);
}

static inline void graph_comm_close(struct ds_comm *comm)
{
    ds_comm_close(((struct graph_comm *)comm)->inner);
    free(comm);
}

static inline ds_status graph_open_data(struct ds_comm *control, const char *group,
                                        struct ds_comm **out);

static const struct ds_comm_ops graph_comm_ops = {
    .name = "graph",
    .all_reduce = graph_all_reduce,
    .all_gather = graph_all_gather,
    .reduce_scatter = graph_reduce_scatter,
    .broadcast = graph_broadcast,
    .barrier = graph_barrier,
    .exchange = graph_exchange,
    .open_data = graph_open_data,
    .poison = graph_poison,
    .close = graph_comm_close,
};

static inline ds_status graph_open_data(struct ds_comm *control, const char *group,
                                        struct ds_comm **out)
{
    struct graph_comm *comm = calloc(1, sizeof *comm);

    DS_ASSERT(comm);
    DS_TRY(ds_comm_open_data(control, group, &comm->inner));
    comm->base = *comm->inner;
    comm->base.ops = &graph_comm_ops;
    *out = &comm->base;
    return DS_OK;
}

/* ---- the table */

static struct ds_device_ops graph_device_ops;

static inline ds_status graph_device_open(int index, const struct ds_device_options *options,
                                          struct ds_device **out)
{
    memset(&graph_rig, 0, sizeof graph_rig);
    DS_TRY(ds_device_cpu_ops.open(index, options, out));
    (*out)->ops = &graph_device_ops;
    return DS_OK;
}

/* A capture that failed half way is still open. */
static inline void graph_device_close(struct ds_device *device)
{
    if (graph_rig.graph)
        graph_close(&graph_rig.graph->base);
    graph_rig.graph = NULL;
    ds_device_cpu_ops.close(device);
}

/* Once, before there are threads: the table, made of the cpu's. */
static inline const struct ds_device_ops *graph_device(void)
{
    struct ds_device_ops ops = ds_device_cpu_ops;

    ops.name = "graph";
    ops.open = graph_device_open;
    ops.close = graph_device_close;
    ops.alloc = graph_alloc;
    ops.event_open = graph_event_open;
    ops.event_close = graph_event_close;
    ops.copy = graph_copy;
    ops.stream_wait = graph_stream_wait;
    ops.event_record = graph_event_record;
    ops.event_query = graph_event_query;
    ops.event_sync = graph_event_sync;
    ops.stream_sync = graph_stream_sync;
    ops.stream_stamp = graph_stamp;
    ops.call = graph_call;
    ops.capture_begin = graph_capture_begin;
    ops.capture_end = graph_capture_end;
    ops.graph_launch = graph_launch;
    ops.graph_close = graph_close;
    ops.comm = &graph_comm_ops;
    graph_device_ops = ops;
    return &graph_device_ops;
}

#endif
