/* bias.cu - a bias added to rows, and its gradient. */
#include "columns.cuh"
#include "part.cuh"
#include "shapes.h"
#include "wants.h"

#define PACKS 4 /* of a thread */

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(256)
    bias_rows(T *y_TN, const T *bias, uint32_t width, size_t stride, uint32_t chunks)
{
    constexpr int COUNT = pack<T>::count;
    const uint32_t first = (blockIdx.x % chunks * PACKS * blockDim.x + threadIdx.x) * COUNT;
    const uint32_t step = blockDim.x * COUNT;
    T *row = y_TN + (size_t)(blockIdx.x / chunks) * stride;
    pack<T> y[PACKS], b[PACKS];

#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        y[p] = load_part<VECTOR>(row, first + p * step, width);
        b[p] = load_part<VECTOR>(bias, first + p * step, width);
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            y[p].at[i] = from_float<T>(to_float(y[p].at[i]) + to_float(b[p].at[i]));
        store_part<VECTOR>(row, first + p * step, width, y[p]);
    }
}

static size_t stride_of(const struct ds_bias_args *a)
{
    return a->y_stride ? a->y_stride : a->y_TN.shape[1];
}

template <typename T>
static ds_status launch_forward(struct ds_stream *stream, const struct ds_bias_args *a)
{
    const size_t token_count = a->y_TN.shape[0], width = a->y_TN.shape[1], stride = stride_of(a);
    const struct chunk_shape shape = shape_chunks(width, pack<T>::count, PACKS);
    const uint32_t grid = grid_of(token_count * shape.chunks);
    T *y = (T *)a->y_TN.data;
    const T *bias = (const T *)a->bias_N.data;

    if (grid == 0)
        return DS_OK;
    if (width % pack<T>::count == 0 && stride % pack<T>::count == 0 && is_aligned(y) &&
        is_aligned(bias))
        bias_rows<T, true><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(
            y, bias, (uint32_t)width, stride, shape.chunks);
    else
        bias_rows<T, false><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(
            y, bias, (uint32_t)width, stride, shape.chunks);
    CUDA_LAUNCHED("bias_rows");
    return DS_OK;
}

ds_status cuda_bias_forward(struct ds_stream *stream, const struct ds_bias_args *a)
{
    DS_ASSERT(a->bias_N.shape[0] == a->y_TN.shape[1] && a->y_TN.shape[1] < INT32_MAX);
    CUDA_WANTS_FLOAT("bias_forward", a, y_TN);
    CUDA_WANTS_SAME("bias_forward", a, bias_N, y_TN);
    return DISPATCH(a->y_TN.dtype, T, launch_forward<T>(stream, a));
}

ds_status cuda_bias_backward(struct ds_stream *stream, const struct ds_bias_args *a)
{
    const struct cuda_columns columns = {a->y_TN.data, a->x_TN.data,     a->y_TN.dtype,
                                         NULL,         a->y_TN.shape[0], a->y_TN.shape[1],
                                         stride_of(a), a->bias_N,        a->add};

    DS_ASSERT(a->bias_N.shape[0] == a->y_TN.shape[1] && a->y_TN.shape[1] < INT32_MAX);
    CUDA_WANTS_FLOAT("bias_backward", a, y_TN);
    CUDA_WANTS_FLOAT("bias_backward", a, bias_N);
    CUDA_WANTS_SAME("bias_backward", a, x_TN, y_TN);
    return cuda_columns_sum(stream, &columns);
}
