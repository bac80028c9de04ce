/* wait_cuda.c - the host waits for the GPU by asking it now and then. A blocking wait could not be given up:
 * where a rank has died the work of its peers never ends. Between two questions it looks at the groups
 * whose work is queued; their deadlines end the wait. */
#include "device_cuda.h"

#define SPINS      200 /* questions at once: some 100 us */
#define NAP_NS     20000u
#define NAP_NS_MAX 200000u
#define LOOK_NS    1000000u /* between two looks at the groups */

typedef cudaError_t query_fn(const void *what);

static cudaError_t query_event(const void *what)
{
    return cudaEventQuery(((const struct cuda_event *)what)->event);
}

static cudaError_t query_stream(const void *what)
{
    return cudaStreamQuery(((const struct cuda_stream *)what)->stream);
}

static void nap(const struct cuda_device *device, uint32_t turn)
{
    const uint64_t ns = (uint64_t)NAP_NS * (1 + turn / SPINS);

    if (turn >= SPINS)
        ds_clock_sleep_ns(device->clock, ns < NAP_NS_MAX ? ns : NAP_NS_MAX);
}

static ds_status wait_until(const struct cuda_device *device, query_fn *query, const void *what)
{
    uint64_t looked_ns = ds_clock_mono_ns(device->clock);
    cudaError_t error = query(what);

    for (uint32_t turn = 0; error == cudaErrorNotReady; turn++) {
        const uint64_t now_ns = ds_clock_mono_ns(device->clock);

        (void)cudaGetLastError(); /* not ready is no failure */
        if (now_ns - looked_ns >= LOOK_NS) {
            looked_ns = now_ns;
            DS_TRY(nccl_look(device));
        }
        nap(device, turn);
        error = query(what);
    }
    CUDA_TRY(error);
    return nccl_look(device); /* work of a group that has failed ends, too, with any bytes */
}

ds_status cuda_event_sync(struct ds_event *event)
{
    return wait_until((const struct cuda_device *)event->device, query_event, event);
}

ds_status cuda_stream_sync(struct ds_stream *stream)
{
    return wait_until(cuda_device_of(stream), query_stream, stream);
}
