/* device_cuda.h - what the parts of the CUDA plugin know of each other: device, stream, event, and how a
 * failed call is told. Read by C and by nvcc. */
#ifndef DEVICE_CUDA_H
#define DEVICE_CUDA_H

#include "dstrain/device.h"
#include "dstrain/kernels.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_math; /* runtime/kernels/cuda: library handles, algorithms, attention plans */
struct nccl_comm; /* runtime/comm/nccl */

/* What NCCL has given; it takes it back. */
struct nccl_memory {
    void *at;
    struct nccl_memory *next;
};

struct cuda_device {
    struct ds_device base;
    const struct ds_clock *clock;
    int index, processor_count; /* multiprocessors */
    int major, minor;           /* compute capability */
    int is_deterministic;
    uint64_t tuning_ns; /* for products under load */
    int thread_count;   /* of the host, for what a rank does with its memory */
    int64_t offset_ns;  /* monotonic time of the host minus the GPU's globaltimer */
    char name[256];
    struct cuda_math *math;        /* owned */
    struct nccl_memory *symmetric; /* owned, in the ledger's name: DS_ALLOC_SYMMETRIC */
    void (*batch)(void); /* word_cuda.c: of the driver; NULL: not looked for yet, or not there */
    struct nccl_comm *groups; /* borrowed: those that have made a call here; waits look at them */
};

/* What a kernel needs beyond its arguments, one piece a stream, taken at the first use: a constant, so that
 * the plan can count it. Work of a stream runs in order, so a kernel has all of it while it runs. */
#define CUDA_SCRATCH_BYTES ((size_t)320 << 20)

struct cuda_stream {
    struct ds_stream base;
    cudaStream_t stream;
    void *scratch; /* owned; NULL: not used yet */
};

struct cuda_graph {
    struct ds_graph base;
    cudaGraphExec_t exec;
};

struct cuda_event {
    struct ds_event base;
    cudaEvent_t event;
};

static inline struct cuda_device *cuda_device_of(struct ds_stream *stream)
{
    return (struct cuda_device *)stream->device;
}

static inline cudaStream_t cuda_stream_of(struct ds_stream *stream)
{
    return ((struct cuda_stream *)stream)->stream;
}

/* local: the stream's scratch memory. More than CUDA_SCRATCH_BYTES is a bug of the caller, who cuts its work
 * into pieces or takes another way. Not zeroed. */
DS_CHECKED ds_status cuda_scratch(struct ds_stream *stream, size_t bytes, void **at);

ds_status cuda_fail_at(cudaError_t error, const char *call, const char *file, int line);

DS_CHECKED ds_status cuda_host_alloc(const struct cuda_device *device, size_t bytes, int is_pinned,
                                     void **at);
void cuda_host_release(int is_pinned, void *memory, size_t bytes);

#define CUDA_TRY(call)                                                   \
    do {                                                                 \
        cudaError_t cuda_error_ = (call);                                \
        if (cuda_error_ != cudaSuccess)                                  \
            return cuda_fail_at(cuda_error_, #call, __FILE__, __LINE__); \
    } while (0)
/* behind a launch: was it accepted? */
#define CUDA_LAUNCHED(name)                                             \
    do {                                                                \
        cudaError_t cuda_error_ = cudaPeekAtLastError();                \
        if (cuda_error_ != cudaSuccess)                                 \
            return cuda_fail_at(cuda_error_, name, __FILE__, __LINE__); \
    } while (0)

extern const struct ds_device_ops ds_device_cuda_ops;
extern const struct ds_kernel_ops ds_kernels_cuda;
extern const struct ds_comm_ops ds_comm_nccl_ops;

/* graph_cuda.c */
ds_status cuda_capture_begin(struct ds_stream *stream);
ds_status cuda_capture_end(struct ds_stream *stream, struct ds_graph **out);
ds_status cuda_graph_launch(struct ds_stream *stream, struct ds_graph *graph);
void cuda_graph_close(struct ds_graph *graph);

/* runtime/comm/nccl/nccl_environment.c. local: before NCCL's first call, which reads it; what the user has set
 * stays. */
void nccl_environment(const struct ds_device_options *options);

/* runtime/comm/nccl/nccl_memory.c. local: device memory that groups can register; not zeroed. free: 0: it was not
 * taken there. */
DS_CHECKED ds_status nccl_alloc(struct cuda_device *device, size_t bytes, void **at);
int nccl_free(struct cuda_device *device, void *at);

/* runtime/comm/nccl/nccl_watch.c. local: DS_OK, or how the first group that other ranks hold up has failed. Each
 * failure is told once. */
DS_CHECKED ds_status nccl_look(const struct cuda_device *device);

/* wait_cuda.c: the host waits, and looks at the groups while it does */
DS_CHECKED ds_status cuda_event_sync(struct ds_event *event);
DS_CHECKED ds_status cuda_stream_sync(struct ds_stream *stream);

/* word_cuda.c: see ds_stream_signal, ds_stream_await */
ds_status cuda_stream_signal(struct ds_stream *stream, uint32_t *word);
ds_status cuda_stream_await(struct ds_stream *stream, uint32_t *word);

/* stamp.cu: the host's monotonic time, written by the GPU to pinned memory */
ds_status cuda_stamp(struct ds_stream *stream, uint64_t *at_ns);
ds_status cuda_stamp_calibrate(struct cuda_device *device);

/* runtime/kernels/cuda/math.c */
DS_CHECKED ds_status cuda_math_open(struct cuda_device *device, struct cuda_math **out);
void cuda_math_close(struct cuda_math *math);      /* NULL is allowed */
extern const struct ds_tuning_ops cuda_tuning_ops; /* matmul_tuning.c */

#ifdef __cplusplus
}
#endif
#endif
