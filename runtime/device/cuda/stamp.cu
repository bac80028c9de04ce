/* stamp.cu - the host's monotonic time, written by the GPU when a stream comes to it. Host callbacks would
 * hold up the stream for tens of microseconds; the GPU's own nanosecond counter costs one tiny launch, and
 * its distance from the host's clock is measured once. What a kernel has written the host sees behind an event or
 * a wait of the stream, so the stamp waits for nothing itself. */
#include "device_cuda.h"

__global__ void stamp_kernel(uint64_t *at_ns, int64_t offset_ns)
{
    uint64_t now;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    *at_ns = now + (uint64_t)offset_ns;
}

extern "C" ds_status cuda_stamp(struct ds_stream *stream, uint64_t *at_ns)
{
    stamp_kernel<<<1, 1, 0, cuda_stream_of(stream)>>>(at_ns, cuda_device_of(stream)->offset_ns);
    CUDA_LAUNCHED("stamp");
    return DS_OK;
}

#define CALIBRATIONS 16

/* The try with the shortest way there and back tells it best; half of the way is what it may be off. */
extern "C" ds_status cuda_stamp_calibrate(struct cuda_device *device)
{
    uint64_t *at_ns = NULL, best_ns = UINT64_MAX;

    CUDA_TRY(cudaMallocHost((void **)&at_ns, sizeof *at_ns));
    for (int i = 0; i < CALIBRATIONS; i++) {
        const uint64_t before_ns = ds_clock_mono_ns(device->clock);
        stamp_kernel<<<1, 1>>>(at_ns, 0);
        const cudaError_t error = cudaDeviceSynchronize();
        const uint64_t way_ns = ds_clock_mono_ns(device->clock) - before_ns;

        if (error != cudaSuccess) {
            (void)cudaFreeHost(at_ns);
            return cuda_fail_at(error, "stamp", __FILE__, __LINE__);
        }
        if (way_ns < best_ns) {
            best_ns = way_ns;
            device->offset_ns = (int64_t)(before_ns + way_ns / 2 - *at_ns);
        }
    }
    CUDA_TRY(cudaFreeHost(at_ns));
    return DS_OK;
}
