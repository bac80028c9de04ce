/* record.cu - the step record on the GPU: one thread, since it lives in device memory. */
#include "kernels_cuda.h"

#include "../record.h"

static __global__ void step_begin_kernel(struct ds_step_begin_args a)
{
    if (a.is_global)
        record_begin_global(a.record);
    else
        record_begin_local(a.record);
}

static __global__ void verdict_kernel(struct ds_verdict_args a)
{
    record_verdict(&a);
}

extern "C" ds_status cuda_step_begin(struct ds_stream *stream, const struct ds_step_begin_args *a)
{
    step_begin_kernel<<<1, 1, 0, cuda_stream_of(stream)>>>(*a);
    CUDA_LAUNCHED("step_begin");
    return DS_OK;
}

extern "C" ds_status cuda_verdict(struct ds_stream *stream, const struct ds_verdict_args *a)
{
    verdict_kernel<<<1, 1, 0, cuda_stream_of(stream)>>>(*a);
    CUDA_LAUNCHED("verdict");
    return DS_OK;
}
