/* graph_cuda.c - what a stream would do as a CUDA graph, launched as one. */
#include "device_cuda.h"

#include <stdlib.h>

/* Thread-local: NCCL's own threads may call what a capture forbids. */
ds_status cuda_capture_begin(struct ds_stream *stream)
{
    CUDA_TRY(cudaStreamBeginCapture(cuda_stream_of(stream), cudaStreamCaptureModeThreadLocal));
    return DS_OK;
}

ds_status cuda_capture_end(struct ds_stream *stream, struct ds_graph **out)
{
    struct cuda_graph *graph = calloc(1, sizeof *graph);
    cudaGraph_t captured = NULL;
    cudaError_t error = cudaStreamEndCapture(cuda_stream_of(stream), &captured);

    if (error == cudaSuccess && graph)
        error = cudaGraphInstantiate(&graph->exec, captured, 0);
    if (captured)
        (void)cudaGraphDestroy(captured);
    if (error != cudaSuccess || !graph) {
        free(graph);
        return error == cudaSuccess ? ds_fail(DS_ERR_NO_MEMORY, "no memory for a graph")
                                    : cuda_fail_at(error, "capture", __FILE__, __LINE__);
    }
    graph->base.device = stream->device;
    *out = &graph->base;
    return DS_OK;
}

ds_status cuda_graph_launch(struct ds_stream *stream, struct ds_graph *graph)
{
    CUDA_TRY(cudaGraphLaunch(((struct cuda_graph *)graph)->exec, cuda_stream_of(stream)));
    return DS_OK;
}

void cuda_graph_close(struct ds_graph *base)
{
    struct cuda_graph *graph = (struct cuda_graph *)base;

    (void)cudaGraphExecDestroy(graph->exec);
    free(graph);
}
