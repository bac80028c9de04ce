/* device_cuda.c - one GPU as a device: opening it, its memory, and failures in words. */
#include "device_cuda.h"

#include "absence.h"
#include "peak.h"

#include "dstrain/overhead_cuda.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ds_status cuda_fail_at(cudaError_t error, const char *call, const char *file, int line)
{
    const ds_status st = error == cudaErrorMemoryAllocation ? DS_ERR_NO_MEMORY : DS_ERR_DEVICE;

    (void)cudaGetLastError(); /* else the next launch is told of it, too */
    return ds_fail_at(st, file, line, "%s: %s (%s)", call, cudaGetErrorString(error),
                      cudaGetErrorName(error));
}

/* Also where no driver is: the runtime then answers cudaErrorInsufficientDriver. */
static int cuda_count(void)
{
    int count = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return count;
}

static void cuda_why_none(char *to, size_t bytes)
{
    struct cuda_absence absence = {.visible = getenv("CUDA_VISIBLE_DEVICES")};
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);

    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&absence.driver);
    (void)cudaRuntimeGetVersion(&absence.runtime);
    absence.is_too_old = error == cudaErrorInsufficientDriver;
    absence.error =
        error == cudaSuccess || error == cudaErrorNoDevice ? NULL : cudaGetErrorString(error);
    cuda_absence_tell(&absence, to, bytes);
}

/* Of the 16 random bytes that name a GPU, or a part of one. */
static ds_status cuda_identity(int index, uint64_t *id)
{
    struct cudaDeviceProp properties;
    uint64_t halves[2];

    CUDA_TRY(cudaGetDeviceProperties(&properties, index));
    _Static_assert(sizeof halves == sizeof properties.uuid, "a UUID has 16 bytes");
    memcpy(halves, &properties.uuid, sizeof halves);
    *id = halves[0] ^ halves[1];
    return DS_OK;
}

static void cuda_close(struct ds_device *base)
{
    struct cuda_device *device = (struct cuda_device *)base;

    cuda_math_close(device->math);
    free(device);
}

static ds_status look_at(struct cuda_device *device)
{
    struct cudaDeviceProp properties;

    CUDA_TRY(cudaGetDeviceProperties(&properties, device->index));
    if (properties.major < 8)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "GPU %d (%s) has compute capability %d.%d; dstrain needs 8.0 or higher",
                       device->index, properties.name, properties.major, properties.minor);
    device->processor_count = properties.multiProcessorCount;
    device->major = properties.major;
    device->minor = properties.minor;
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    return DS_OK;
}

static ds_status open_parts(struct cuda_device *device)
{
    CUDA_TRY(cudaSetDevice(device->index));
    DS_TRY(look_at(device));
    DS_TRY(cuda_stamp_calibrate(device));
    return cuda_math_open(device, &device->math);
}

static ds_status cuda_open(int index, const struct ds_device_options *options,
                           struct ds_device **out)
{
    struct cuda_device *device = calloc(1, sizeof *device);
    ds_status st;

    if (!device)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a device");
    device->base.ops = &ds_device_cuda_ops;
    device->clock = options->clock;
    device->index = index;
    device->is_deterministic = options->deterministic;
    device->tuning_ns = options->tuning_ns;
    device->thread_count = options->thread_count;
    nccl_environment(options);
    st = open_parts(device);
    if (st != DS_OK) {
        cuda_close(&device->base);
        return st;
    }
    *out = &device->base;
    return DS_OK;
}

/* ---- memory */

/* Programs that share a GPU see nothing of each other but what is left. */
static ds_status no_room(const struct cuda_device *device, size_t bytes)
{
    size_t left = 0, whole = 0;

    (void)cudaGetLastError(); /* else the next call reports it again */
    (void)cudaMemGetInfo(&left, &whole);
    return ds_fail(DS_ERR_NO_MEMORY,
                   "GPU %d has %zu of its %zu bytes left, %zu are wanted; nvidia-smi says which "
                   "other programs have some of them",
                   device->index, left, whole, bytes);
}

static ds_status malloc_device(const struct cuda_device *device, size_t bytes, void **at)
{
    const cudaError_t error = cudaMalloc(at, bytes);

    if (error == cudaErrorMemoryAllocation)
        return no_room(device, bytes);
    return error == cudaSuccess ? DS_OK : cuda_fail_at(error, "cudaMalloc", __FILE__, __LINE__);
}

/* Aligned to 512 bytes; whole pages of 2 MiB where it matters. */
static ds_status alloc_device(struct cuda_device *device, size_t bytes, uint32_t flags, void **at)
{
    if (flags & DS_ALLOC_SYMMETRIC)
        DS_TRY(nccl_alloc(device, bytes, at));
    else
        DS_TRY(malloc_device(device, bytes, at));
    CUDA_TRY(cudaMemset(*at, 0, bytes));
    CUDA_TRY(cudaDeviceSynchronize());
    return DS_OK;
}

static ds_status cuda_alloc(struct ds_device *device, enum ds_memory_kind kind, size_t bytes,
                            uint32_t flags, void **at)
{
    struct cuda_device *cuda = (struct cuda_device *)device;

    *at = NULL;
    if (bytes == 0)
        return DS_OK;
    return kind == DS_MEMORY_DEVICE ? alloc_device(cuda, bytes, flags, at)
                                    : cuda_host_alloc(cuda, bytes, kind == DS_MEMORY_PINNED, at);
}

static void cuda_release(struct ds_device *device, enum ds_memory_kind kind, void *memory,
                         size_t bytes)
{
    if (memory == NULL)
        return;
    if (kind == DS_MEMORY_DEVICE) {
        if (!nccl_free((struct cuda_device *)device, memory))
            (void)cudaFree(memory);
        return;
    }
    cuda_host_release(kind == DS_MEMORY_PINNED, memory, bytes);
}

static ds_status cuda_memory_left(struct ds_device *device, size_t *bytes)
{
    size_t total = 0;

    (void)device;
    CUDA_TRY(cudaMemGetInfo(bytes, &total));
    return DS_OK;
}

static ds_status cuda_memory_used(struct ds_device *device, size_t *bytes)
{
    size_t left = 0, total = 0;

    (void)device;
    CUDA_TRY(cudaMemGetInfo(&left, &total));
    *bytes = total - left;
    return DS_OK;
}

static double cuda_peak_flops(struct ds_device *device)
{
    return cuda_peak_flops_of(((const struct cuda_device *)device)->name);
}

/* What the kernel says of its place on the bus. */
static int cuda_host_node(struct ds_device *base)
{
    char id[32], path[96];
    int node = -1;
    FILE *file;

    if (cudaDeviceGetPCIBusId(id, sizeof id, ((const struct cuda_device *)base)->index) !=
        cudaSuccess)
        return -1;
    for (char *at = id; *at; at++)
        *at = (char)tolower((unsigned char)*at);
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/numa_node", id);
    file = fopen(path, "re");
    if (!file)
        return -1;
    if (fscanf(file, "%d", &node) != 1)
        node = -1;
    fclose(file);
    return node;
}

static void cuda_describe(struct ds_device *base, char *to, size_t bytes)
{
    const struct cuda_device *device = (const struct cuda_device *)base;

    snprintf(to, bytes, "cuda: GPU %d, %s, %d.%d, %d multiprocessors", device->index, device->name,
             device->major, device->minor, device->processor_count);
}

/* ---- streams and events */

static ds_status cuda_stream_open(struct ds_device *device, uint32_t flags, struct ds_stream **out)
{
    struct cuda_stream *stream = calloc(1, sizeof *stream);
    cudaError_t error;

    (void)flags; /* the GPU drives its streams */
    if (!stream)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a stream");
    stream->base.device = device;
    error = cudaStreamCreateWithFlags(&stream->stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        free(stream);
        return cuda_fail_at(error, "cudaStreamCreateWithFlags", __FILE__, __LINE__);
    }
    *out = &stream->base;
    return DS_OK;
}

static void cuda_stream_close(struct ds_stream *base)
{
    struct cuda_stream *stream = (struct cuda_stream *)base;

    (void)cudaStreamSynchronize(stream->stream);
    (void)cudaStreamDestroy(stream->stream);
    (void)cudaFree(stream->scratch);
    free(stream);
}

ds_status cuda_scratch(struct ds_stream *base, size_t bytes, void **at)
{
    struct cuda_stream *stream = (struct cuda_stream *)base;

    DS_ASSERT(bytes <= CUDA_SCRATCH_BYTES);
    if (stream->scratch == NULL)
        CUDA_TRY(cudaMalloc(&stream->scratch, CUDA_SCRATCH_BYTES));
    *at = stream->scratch;
    return DS_OK;
}

static ds_status cuda_event_open(struct ds_device *device, struct ds_event **out)
{
    struct cuda_event *event = calloc(1, sizeof *event);
    cudaError_t error;

    if (!event)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for an event");
    event->base.device = device;
    error = cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming);
    if (error != cudaSuccess) {
        free(event);
        return cuda_fail_at(error, "cudaEventCreateWithFlags", __FILE__, __LINE__);
    }
    *out = &event->base;
    return DS_OK;
}

static void cuda_event_close(struct ds_event *base)
{
    struct cuda_event *event = (struct cuda_event *)base;

    (void)cudaEventDestroy(event->event);
    free(event);
}

static ds_status cuda_copy(struct ds_stream *stream, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cuda_stream_of(stream)));
    return DS_OK;
}

static ds_status cuda_stream_wait(struct ds_stream *stream, struct ds_event *event)
{
    CUDA_TRY(cudaStreamWaitEvent(cuda_stream_of(stream), ((struct cuda_event *)event)->event, 0));
    return DS_OK;
}

static ds_status cuda_event_record(struct ds_event *event, struct ds_stream *stream)
{
    CUDA_TRY(cudaEventRecord(((struct cuda_event *)event)->event, cuda_stream_of(stream)));
    return DS_OK;
}

static ds_status cuda_event_query(struct ds_event *event, int *done)
{
    const cudaError_t error = cudaEventQuery(((struct cuda_event *)event)->event);

    *done = error == cudaSuccess;
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return DS_OK;
    }
    CUDA_TRY(error);
    return DS_OK;
}

_Static_assert(CUDA_SCRATCH_BYTES == DS_CUDA_SCRATCH_BYTES, "what is taken is what is planned");

const struct ds_device_ops ds_device_cuda_ops = {
    .name = "cuda",
    .caps = DS_DEVICE_CAP_COMPUTES,
    .kernels = &ds_kernels_cuda,
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .stream_open = cuda_stream_open,
    .stream_close = cuda_stream_close,
    .event_open = cuda_event_open,
    .event_close = cuda_event_close,
    .copy = cuda_copy,
    .stream_wait = cuda_stream_wait,
    .event_record = cuda_event_record,
    .event_query = cuda_event_query,
    .event_sync = cuda_event_sync,
    .stream_sync = cuda_stream_sync,
    .stream_stamp = cuda_stamp,
    .stream_signal = cuda_stream_signal,
    .stream_await = cuda_stream_await,
    .capture_begin = cuda_capture_begin,
    .capture_end = cuda_capture_end,
    .graph_launch = cuda_graph_launch,
    .graph_close = cuda_graph_close,
    .identity = cuda_identity,
    .why_none = cuda_why_none,
    .comm = &ds_comm_nccl_ops,
    .memory_left = cuda_memory_left,
    .memory_used = cuda_memory_used,
    .overhead = &ds_overhead_cuda,
    .peak_flops = cuda_peak_flops,
    .describe = cuda_describe,
    .host_node = cuda_host_node,
    .tuning = &cuda_tuning_ops,
};
