/* ended_launch.cuh - the host's side of ended_product.cuh: is a product worth its own kernel, how is it cut, and the launch. */
#ifndef KERNELS_CUDA_ENDED_LAUNCH_CUH
#define KERNELS_CUDA_ENDED_LAUNCH_CUH

#include "ended_map.h"
#include "ended_product.cuh"
#include "shapes.h"

/* Of an operand that is read again: what the second cache keeps. */
#define ENDED_NEAR_BYTES ((size_t)16 << 20)
/* Of the stream's scratch the beginning is the launch's; behind it there is room for an end's own. */
#define ENDED_SCRATCH_BYTES ((size_t)256)

/* c = a b^T, or a b where b is turned; strip_columns and other_half are the cut's. */
struct ended_call {
    const struct ds_tensor *a, *b;
    size_t columns; /* of c, that a strip is cut from */
    uint32_t strip_columns, other_half;
};

/* Pairs of tiles that go through all strips together: few where all of b stays near, else as many as stay near themselves. */
static inline uint32_t ended_group(const struct ended_call &call)
{
    const size_t b_bytes = call.b->shape[0] * call.b->shape[1] * 2;
    const size_t pair_bytes = 2 * TILE_ROWS * call.a->shape[1] * 2;
    const size_t pairs = ENDED_NEAR_BYTES / pair_bytes;

    if (b_bytes <= ENDED_NEAR_BYTES || pairs < 4)
        return 4;
    return pairs < 16 ? (uint32_t)pairs : 16;
}

static inline ended_cut ended_cut_of(const struct ended_call &call)
{
    ended_cut cut = {};

    cut.pairs = (uint32_t)shape_ceil(call.a->shape[0], 2 * TILE_ROWS);
    cut.strips = (uint32_t)shape_ceil(call.columns, call.strip_columns);
    cut.steps = (uint32_t)shape_ceil(call.a->shape[1], TILE_INNER);
    cut.group = ended_group(call);
    cut.strip_columns = call.strip_columns;
    cut.other_half = call.other_half;
    return cut;
}

/* Is there such a kernel for these operands here, and are there tiles for half of the multiprocessors? */
static inline bool ended_is_worth_it(struct ds_stream *stream, const struct ended_call &call)
{
    const ended_cut cut = ended_cut_of(call);

    return cuda_ended_fits(stream, call.a, call.b) &&
           4 * (size_t)cut.pairs * cut.strips >= (size_t)cuda_device_of(stream)->processor_count;
}

/* The product alone, for a kernel of its own behind it. */
static inline ds_status ended_apart(struct ds_stream *stream, const struct ended_call &call,
                                    const struct ds_tensor &c, int b_turned)
{
    struct ds_matmul_args product = {};

    product.a = *call.a;
    product.b = *call.b;
    product.c = c;
    product.trans_b = !b_turned;
    return cuda_matmul(stream, &product);
}

template <typename T, int B_TURNED, typename END>
static ds_status ended_launch(struct ds_stream *stream, const struct ended_call &call,
                              const END &end)
{
    const size_t room = sizeof(ended_room<T>) + alignof(ended_room<T>);
    ended_cut cut = ended_cut_of(call);
    cudaLaunchAttribute pair = {};
    cudaLaunchConfig_t config = {};
    CUtensorMap a_map, b_map;
    void *scratch;

    DS_TRY(cuda_ended_map(stream, call.a, TILE_ROWS, &a_map));
    DS_TRY(cuda_ended_map(stream, call.b, B_TURNED ? TILE_INNER : TILE_HALF, &b_map));
    DS_TRY(cuda_scratch(stream, ENDED_SCRATCH_BYTES, &scratch));
    cut.taken = (uint32_t *)scratch;
    CUDA_TRY(cudaMemsetAsync(scratch, 0, sizeof *cut.taken, cuda_stream_of(stream)));
    CUDA_TRY(cudaFuncSetAttribute(ended_product<T, B_TURNED, END>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    pair.id = cudaLaunchAttributeClusterDimension;
    pair.val.clusterDim.x = 2;
    pair.val.clusterDim.y = pair.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)cuda_device_of(stream)->processor_count / 2 * 2);
    config.blockDim = dim3(ENDED_THREADS);
    config.dynamicSmemBytes = room;
    config.stream = cuda_stream_of(stream);
    config.attrs = &pair;
    config.numAttrs = 1;
    CUDA_TRY(cudaLaunchKernelEx(&config, ended_product<T, B_TURNED, END>, a_map, b_map, cut, end));
    return DS_OK;
}

#endif
