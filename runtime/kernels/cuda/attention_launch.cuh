/* attention_launch.cuh - from arguments to a grid: what forward and backward of the own attention share on the
 * host. */
#ifndef KERNELS_CUDA_ATTENTION_LAUNCH_CUH
#define KERNELS_CUDA_ATTENTION_LAUNCH_CUH

#include "attention_own.h"
#include "attention_tile.cuh"

#include <initializer_list>

inline attention_shape shape_of(const ds_attention_args *a, const int32_t *is_done)
{
    attention_shape s = {};

    s.document = a->one_document ? NULL : (const int32_t *)a->document_T.data;
    s.is_done = is_done;
    s.seq_count = (int32_t)(a->q_THD.shape[0] / a->seq_length);
    s.seq_length = (int32_t)a->seq_length;
    s.heads = (int32_t)a->q_THD.shape[1];
    s.kv_heads = (int32_t)a->k_TGD.shape[1];
    s.group = s.heads / s.kv_heads;
    s.dim = (int32_t)a->q_THD.shape[2];
    s.scale = a->scale;
    return s;
}

/* Can rows of all of these be read 16 bytes at a time? */
inline int32_t are_aligned(std::initializer_list<const ds_tensor *> tensors)
{
    uintptr_t bits = 0;

    for (const ds_tensor *tensor : tensors)
        bits |= (uintptr_t)tensor->data | tensor->shape[2] * ds_dtype_bytes(tensor->dtype);
    return bits % 16 == 0;
}

/* One block a tile of rows, head and sequence. */
template <class W, typename Args>
ds_status launch_tiles(struct ds_stream *stream, void (*kernel)(Args), const char *name,
                       const Args &args, int32_t heads, size_t shared_bytes)
{
    const attention_shape &s = args.s;
    const uint64_t blocks =
        (uint64_t)attention_steps(0, s.seq_length, W::rows) * s.seq_count * heads;

    if (blocks > INT32_MAX)
        return ds_fail(DS_ERR_UNSUPPORTED, "cuda kernel %s: %llu tiles are too many for a call",
                       name, (unsigned long long)blocks);
    CUDA_TRY(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)shared_bytes));
    kernel<<<(unsigned)blocks, W::threads, shared_bytes, cuda_stream_of(stream)>>>(args);
    CUDA_LAUNCHED(name);
    return DS_OK;
}

/* Rows are padded to one of three widths. */
#define DISPATCH_DIM(dim_of_row, D, call) \
    ([&]() -> ds_status {                 \
        if ((dim_of_row) <= 64) {         \
            constexpr int D = 64;         \
            return call;                  \
        }                                 \
        if ((dim_of_row) <= 128) {        \
            constexpr int D = 128;        \
            return call;                  \
        }                                 \
        constexpr int D = 256;            \
        return call;                      \
    }())

#endif
