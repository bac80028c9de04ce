/* word_cuda.c - words between streams and threads of the host (device.h): operations on memory that a stream does itself,
 * without a kernel, and that a capture takes, too. A wait and the write behind it are one batch. The driver's, since
 * the runtime has none. */
#include "device_cuda.h"

#include <cuda.h>
#include <dlfcn.h>

typedef CUresult batch_fn(CUstream stream, unsigned count, CUstreamBatchMemOpParams *ops,
                          unsigned flags);

/* The driver is in the process already: the runtime has loaded it. */
static batch_fn *find_batch(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    union {
        void *object;
        batch_fn *function;
    } found = {driver ? dlsym(driver, "cuStreamBatchMemOp_v2") : NULL};

    return found.function;
}

static ds_status queue(struct ds_stream *stream, CUstreamBatchMemOpParams *ops, unsigned count)
{
    struct cuda_device *device = cuda_device_of(stream);
    CUresult result;

    if (!device->batch)
        device->batch = (void (*)(void))find_batch();
    if (!device->batch)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "the driver has no cuStreamBatchMemOp: streams cannot wait for files");
    result = ((batch_fn *)device->batch)((CUstream)cuda_stream_of(stream), count, ops, 0);
    return result == CUDA_SUCCESS
               ? DS_OK
               : ds_fail(DS_ERR_DEVICE, "cuStreamBatchMemOp: driver error %d", (int)result);
}

static CUstreamBatchMemOpParams write_of(uint32_t *word, uint32_t value)
{
    CUstreamBatchMemOpParams op = {0};

    op.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    op.writeValue.address = (CUdeviceptr)(uintptr_t)word;
    op.writeValue.value = value;
    op.writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT; /* behind all that the stream wrote */
    return op;
}

ds_status cuda_stream_signal(struct ds_stream *stream, uint32_t *word)
{
    CUstreamBatchMemOpParams op = write_of(word, 1);

    return queue(stream, &op, 1);
}

ds_status cuda_stream_await(struct ds_stream *stream, uint32_t *word)
{
    CUstreamBatchMemOpParams ops[2] = {{0}, write_of(word, 0)};

    ops[0].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    ops[0].waitValue.address = (CUdeviceptr)(uintptr_t)word;
    ops[0].waitValue.value = 1;
    ops[0].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    return queue(stream, ops, 2);
}
