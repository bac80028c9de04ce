/* qkv.cuh - what qkv_split and qkv_join share: the heads of q, of k and of v as three parts of one launch, the
 * place of a thread in them, and a rotation's angles. Every part is cut into heads as shapes.h says. */
#ifndef KERNELS_CUDA_QKV_CUH
#define KERNELS_CUDA_QKV_CUH

#include "part.cuh"
#include "shapes.h"

enum { QKV_Q, QKV_K, QKV_V, QKV_PARTS };

/* One part: its heads side by side in a tensor of its own, and in the rows of qkv. */
template <typename T> struct qkv_part {
    T *heads;       /* [T][count][D] */
    T *columns;     /* of the first head in qkv's first row */
    const T *x;     /* the same place in the saved input (join with gains) */
    const T *gain;  /* with gains; NULL: of v */
    float *rstd;    /* [T][count], with gains */
    float *partial; /* or NULL: [blocks][D], sums of the gain's gradient (join) */
    uint32_t count;
    struct head_shape shape;
    uint32_t blocks;
};

template <typename T> struct qkv_cut {
    qkv_part<T> part[QKV_PARTS];
    const int32_t *position;
    const float *rotary;     /* [P][D] */
    size_t token_count, row; /* row: elements of a row of qkv */
    uint32_t half;           /* D / 2 */
    uint32_t width;          /* threads of a head, a power of two */
    float epsilon;
};

/* Which part a block works on, and the block's number in it. */
template <typename T>
__device__ __forceinline__ int qkv_part_of(const qkv_cut<T> &cut, uint32_t *block)
{
    int part = QKV_Q;

    *block = blockIdx.x;
    while (*block >= cut.part[part].blocks)
        *block -= cut.part[part++].blocks;
    return part;
}

/* A thread's elements are `at` .. of a head's first half, and the same of its second. */
struct qkv_place {
    uint32_t at, lane, token; /* lane: its first head; token: of the group */
};
__device__ __forceinline__ qkv_place qkv_place_of(uint32_t width, const struct head_shape &shape,
                                                  uint32_t count)
{
    const uint32_t unit = threadIdx.x / width;

    return {threadIdx.x % width * count, unit % shape.lanes, unit / shape.lanes};
}

/* Sums over the threads of a head. */
__device__ __forceinline__ float head_sum(float x, uint32_t width)
{
    for (uint32_t step = width / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

template <int COUNT> struct angles {
    float cosine[COUNT], sine[COUNT];
};
template <bool VECTOR, int COUNT>
__device__ __forceinline__ void load_floats(float (&to)[COUNT], const float *from, uint32_t first,
                                            uint32_t end)
{
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        const pack<float> p = load_part<VECTOR>(from, first + i, end);

#pragma unroll
        for (int j = 0; j < 4; j++)
            to[i + j] = p.at[j];
    }
}
template <bool VECTOR, typename T>
__device__ __forceinline__ angles<pack<T>::count> load_angles(const qkv_cut<T> &cut, size_t token,
                                                              uint32_t at)
{
    const float *row = cut.rotary + (size_t)cut.position[token] * 2 * cut.half;
    angles<pack<T>::count> a;

    load_floats<VECTOR>(a.cosine, row, at, cut.half);
    load_floats<VECTOR>(a.sine, row + cut.half, at, cut.half);
    return a;
}

/* Both halves of a thread's part of a head, as stored and in fp32. */
template <typename T> struct head_part {
    pack<T> low, high;
};
template <typename T> struct head_values {
    float low[pack<T>::count], high[pack<T>::count];
};
template <bool VECTOR, typename T>
__device__ __forceinline__ head_part<T> load_head(const T *head, uint32_t at, uint32_t half,
                                                  bool is_there)
{
    const uint32_t end = is_there ? half : 0;

    return {load_part<VECTOR>(head, at, end), load_part<VECTOR>(head + half, at, end)};
}
template <bool VECTOR, typename T>
__device__ __forceinline__ void store_head(T *head, uint32_t at, uint32_t half, bool is_there,
                                           const head_part<T> &p)
{
    const uint32_t end = is_there ? half : 0;

    store_part<VECTOR>(head, at, end, p.low);
    store_part<VECTOR>(head + half, at, end, p.high);
}

template <typename T> __device__ __forceinline__ head_values<T> widen(const head_part<T> &in)
{
    head_values<T> v;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        v.low[i] = to_float(in.low.at[i]);
        v.high[i] = to_float(in.high.at[i]);
    }
    return v;
}

template <typename T>
__device__ __forceinline__ head_part<T> rotate(const head_values<T> &v,
                                               const angles<pack<T>::count> &a)
{
    head_part<T> out;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        out.low.at[i] = from_float<T>(fmaf(v.low[i], a.cosine[i], -(v.high[i] * a.sine[i])));
        out.high.at[i] = from_float<T>(fmaf(v.high[i], a.cosine[i], v.low[i] * a.sine[i]));
    }
    return out;
}

/* ---- host */

static inline ds_status cuda_wants_head_dim(const char *kernel, uint64_t dim)
{
    if (dim <= DS_HEAD_DIM_MAX)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "cuda kernel %s: head_dim is %llu, at most %u is available",
                   kernel, (unsigned long long)dim, DS_HEAD_DIM_MAX);
}

/* Fills in what follows from the shapes. */
template <typename T>
static void qkv_cut_shape(qkv_cut<T> *cut, size_t token_count, size_t dim, const uint32_t *counts)
{
    size_t at = 0;

    cut->token_count = token_count;
    cut->half = (uint32_t)(dim / 2);
    cut->width = shape_head_width(dim, pack<T>::count);
    for (int i = 0; i < QKV_PARTS; i++) {
        cut->part[i].count = counts[i];
        cut->part[i].shape = shape_heads(token_count, counts[i], cut->width);
        at += counts[i] * dim;
    }
    cut->row = at;
}

template <typename T> static uint32_t qkv_grid(const qkv_cut<T> &cut)
{
    size_t blocks = 0;

    for (int i = 0; i < QKV_PARTS; i++)
        blocks += cut.part[i].blocks;
    return grid_of(blocks);
}

template <typename T> static bool qkv_is_aligned(const qkv_cut<T> &cut)
{
    bool aligned = cut.half % pack<T>::count == 0 && is_aligned(cut.rotary);

    for (int i = 0; i < QKV_PARTS; i++)
        aligned = aligned && is_aligned(cut.part[i].heads) && is_aligned(cut.part[i].columns) &&
                  is_aligned(cut.part[i].x) && is_aligned(cut.part[i].gain);
    return aligned;
}

#endif
