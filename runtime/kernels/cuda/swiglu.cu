/* swiglu.cu - the gated activation and its way back, which can write the product again. A thread reads all of
 * its elements before it writes one, so outputs may lie on inputs. */
#include "part.cuh"
#include "shapes.h"
#include "wants.h"

#define PACKS 2 /* of a thread, of each tensor */

/* fp32 as exactly as it goes; where 16 bits are kept, the hardware's exp and division are exact enough. */
template <typename T> __device__ __forceinline__ float sigmoid(float x)
{
    if (sizeof(T) == sizeof(float))
        return 1.0f / (1.0f + expf(-x));
    return __fdividef(1.0f, 1.0f + __expf(-x));
}

/* Where a thread's packs lie: pack p at elements first + p * step of a row. */
struct place {
    size_t token;
    uint32_t first, step;
};
static __device__ __forceinline__ place place_of(uint32_t chunks, uint32_t count)
{
    return {blockIdx.x / chunks, (blockIdx.x % chunks * PACKS * blockDim.x + threadIdx.x) * count,
            blockDim.x * count};
}

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(256)
    swiglu_rows(const T *gate_up_TN, T *y_TI, uint32_t width, uint32_t chunks)
{
    const place at = place_of(chunks, pack<T>::count);
    const T *row = gate_up_TN + at.token * 2 * width;
    pack<T> gates[PACKS], ups[PACKS];

#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        gates[p] = load_part<VECTOR>(row, at.first + p * at.step, width);
        ups[p] = load_part<VECTOR>(row + width, at.first + p * at.step, width);
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        pack<T> y;

#pragma unroll
        for (int i = 0; i < pack<T>::count; i++) {
            const float gate = to_float(gates[p].at[i]);

            y.at[i] = from_float<T>(gate * sigmoid<T>(gate) * to_float(ups[p].at[i]));
        }
        store_part<VECTOR>(y_TI + at.token * width, at.first + p * at.step, width, y);
    }
}

template <typename T> struct swiglu_way_back {
    const T *gate_up_TN, *dy_TI;
    T *dgate_up_TN; /* may be gate_up_TN */
    T *y_TI;        /* or NULL */
    uint32_t width, chunks;
};

/* In place: gate becomes dgate, up dup, dy the product. */
template <typename T>
__device__ __forceinline__ void backward_pack(pack<T> &gates, pack<T> &ups, pack<T> &dys)
{
#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float gate = to_float(gates.at[i]), up = to_float(ups.at[i]);
        const float dy = to_float(dys.at[i]), sigma = sigmoid<T>(gate), silu = gate * sigma;

        gates.at[i] = from_float<T>(dy * up * (sigma * fmaf(gate, 1.0f - sigma, 1.0f)));
        ups.at[i] = from_float<T>(dy * silu);
        dys.at[i] = from_float<T>(silu * up);
    }
}

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(256) swiglu_backward_rows(const swiglu_way_back<T> b)
{
    const uint32_t width = b.width;
    const place at = place_of(b.chunks, pack<T>::count);
    const size_t row = at.token * width;
    pack<T> gate[PACKS], up[PACKS], dy[PACKS];

#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const uint32_t first = at.first + p * at.step;

        gate[p] = load_part<VECTOR>(b.gate_up_TN + 2 * row, first, width);
        up[p] = load_part<VECTOR>(b.gate_up_TN + 2 * row + width, first, width);
        dy[p] = load_part<VECTOR>(b.dy_TI + row, first, width);
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const uint32_t first = at.first + p * at.step;

        backward_pack(gate[p], up[p], dy[p]);
        store_part<VECTOR>(b.dgate_up_TN + 2 * row, first, width, gate[p]);
        store_part<VECTOR>(b.dgate_up_TN + 2 * row + width, first, width, up[p]);
        if (b.y_TI)
            store_part<VECTOR>(b.y_TI + row, first, width, dy[p]);
    }
}

template <typename T>
static ds_status launch_forward(struct ds_stream *stream, const struct ds_swiglu_args *a)
{
    const size_t width = a->y_TI.shape[1];
    const struct chunk_shape shape = shape_chunks(width, pack<T>::count, PACKS);
    const uint32_t grid = grid_of(a->y_TI.shape[0] * shape.chunks);
    const T *gate_up = (const T *)a->gate_up_TN.data;
    T *y = (T *)a->y_TI.data;

    if (grid == 0)
        return DS_OK;
    if (width % pack<T>::count == 0 && is_aligned(gate_up) && is_aligned(y))
        swiglu_rows<T, true><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(
            gate_up, y, (uint32_t)width, shape.chunks);
    else
        swiglu_rows<T, false><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(
            gate_up, y, (uint32_t)width, shape.chunks);
    CUDA_LAUNCHED("swiglu_rows");
    return DS_OK;
}

template <typename T>
static ds_status launch_backward(struct ds_stream *stream, const struct ds_swiglu_backward_args *a)
{
    const size_t width = a->dy_TI.shape[1];
    const struct chunk_shape shape = shape_chunks(width, pack<T>::count, PACKS);
    const uint32_t grid = grid_of(a->dy_TI.shape[0] * shape.chunks);
    const swiglu_way_back<T> b = {(const T *)a->gate_up_TN.data,
                                  (const T *)a->dy_TI.data,
                                  (T *)a->dgate_up_TN.data,
                                  (T *)a->y_TI.data,
                                  (uint32_t)width,
                                  shape.chunks};

    if (grid == 0)
        return DS_OK;
    if (width % pack<T>::count == 0 && is_aligned(b.gate_up_TN) && is_aligned(b.dy_TI) &&
        is_aligned(b.dgate_up_TN) && is_aligned(b.y_TI))
        swiglu_backward_rows<T, true><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(b);
    else
        swiglu_backward_rows<T, false><<<grid, shape.threads, 0, cuda_stream_of(stream)>>>(b);
    CUDA_LAUNCHED("swiglu_backward_rows");
    return DS_OK;
}

ds_status cuda_swiglu_forward(struct ds_stream *stream, const struct ds_swiglu_args *a)
{
    DS_ASSERT(a->gate_up_TN.shape[1] == 2 * a->y_TI.shape[1] && a->gate_up_TN.shape[1] < INT32_MAX);
    CUDA_WANTS_FLOAT("swiglu_forward", a, gate_up_TN);
    CUDA_WANTS_SAME("swiglu_forward", a, y_TI, gate_up_TN);
    return DISPATCH(a->y_TI.dtype, T, launch_forward<T>(stream, a));
}

ds_status cuda_swiglu_backward(struct ds_stream *stream, const struct ds_swiglu_backward_args *a)
{
    DS_ASSERT(a->gate_up_TN.shape[1] == 2 * a->dy_TI.shape[1] &&
              a->gate_up_TN.shape[1] < INT32_MAX);
    CUDA_WANTS_FLOAT("swiglu_backward", a, gate_up_TN);
    CUDA_WANTS_SAME("swiglu_backward", a, dy_TI, gate_up_TN);
    CUDA_WANTS_SAME("swiglu_backward", a, dgate_up_TN, gate_up_TN);
    CUDA_WANTS_SAME("swiglu_backward", a, y_TI, gate_up_TN);
    return DISPATCH(a->dy_TI.dtype, T, launch_backward<T>(stream, a));
}
