/* dequantise.cu - numbers of a quantised matrix: a thread has eight neighbours at a time, of one block or row, so that
 * what a warp writes lies side by side. Products and sums are rounded one by one, as on the cpu. */
#include "element.cuh"

#include "../dequantise.h"

#define THREADS   256
#define GROUP     8 /* numbers; 4 bytes of NF4, 8 of int8 */
#define IN_FLIGHT 4 /* groups of a thread */

static __constant__ float level_table[16] = DS_NF4_LEVELS;

/* What is needed of a matrix; codes are those from `start` on. */
struct source {
    const uint8_t *codes;
    const float *absmax;
    const uint8_t *absmax_codes;
    const float *nest_absmax, *map, *offset;
    uint64_t start, columns, first_block, row_blocks, whole_row_blocks;
};

/* NF4: two codes a byte, the first in the high half. */
template <bool IS_NESTED> struct nf4 {
    typedef uint32_t word;
    static constexpr int codes_a_byte = 2;
    const float *level;

    __device__ __forceinline__ float absmax(const source &s, uint64_t i) const
    {
        const uint64_t block = (s.start + i) / DS_NF4_BLOCK;

        if (!IS_NESTED)
            return __ldg(s.absmax + block);
        const uint64_t whole =
            ds_nf4_whole_block(block, s.first_block, s.row_blocks, s.whole_row_blocks);
        return __fadd_rn(__fmul_rn(__ldg(s.map + __ldg(s.absmax_codes + block)),
                                   __ldg(s.nest_absmax + whole / DS_NF4_NEST)),
                         __ldg(s.offset));
    }
    __device__ __forceinline__ float at(word codes, int i, float most) const
    {
        return __fmul_rn(level[codes >> (8 * (i / 2) + (i % 2 ? 0 : 4)) & 15], most);
    }
    __device__ __forceinline__ float one(const source &s, uint64_t i) const
    {
        return at(s.codes[i / 2], (int)(i % 2), absmax(s, i));
    }
};

struct int8 {
    typedef uint64_t word;
    static constexpr int codes_a_byte = 1;
    const float *level; /* none */

    __device__ __forceinline__ float absmax(const source &s, uint64_t i) const
    {
        const uint64_t at = s.start + i;

        if ((at | s.columns) >> 32)
            return __ldg(s.absmax + at / s.columns);
        return __ldg(s.absmax + (uint32_t)at / (uint32_t)s.columns);
    }
    __device__ __forceinline__ float at(word codes, int i, float most) const
    {
        return __fmul_rn(__fmul_rn((float)(int8_t)(codes >> 8 * i), most), DS_INT8_SCALE);
    }
    __device__ __forceinline__ float one(const source &s, uint64_t i) const
    {
        return at(s.codes[i], 0, absmax(s, i));
    }
};

template <typename Y, typename Kind>
__device__ __forceinline__ void store_group(Y *y, const Kind &kind, typename Kind::word codes,
                                            float most)
{
#pragma unroll
    for (int part = 0; part < GROUP; part += pack<Y>::count) {
        pack<Y> p;

#pragma unroll
        for (int i = 0; i < pack<Y>::count; i++)
            p.at[i] = from_float<Y>(kind.at(codes, part + i, most));
        store_pack(y + part, p);
    }
}

/* Groups below group_count lie at whole words and in one block or row each; what is left goes one by one. */
template <typename Y, typename Kind>
__global__ void __launch_bounds__(THREADS)
    dequantise_kernel(Y *y, const source s, uint64_t count, uint64_t group_count)
{
    typedef typename Kind::word word;
    const uint64_t first = (uint64_t)blockIdx.x * (THREADS * IN_FLIGHT) + threadIdx.x;
    const uint64_t thread = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    __shared__ float level[16];
    const Kind kind = {level};
    word codes[IN_FLIGHT];
    float most[IN_FLIGHT];

    if (threadIdx.x < 16)
        level[threadIdx.x] = level_table[threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < IN_FLIGHT; i++)
        if (first + i * THREADS < group_count) {
            codes[i] = __ldg((const word *)s.codes + (first + i * THREADS));
            most[i] = kind.absmax(s, GROUP * (first + i * THREADS));
        }
#pragma unroll
    for (int i = 0; i < IN_FLIGHT; i++)
        if (first + i * THREADS < group_count)
            store_group(y + GROUP * (first + i * THREADS), kind, codes[i], most[i]);
    for (uint64_t i = GROUP * group_count + thread; i < count; i += (uint64_t)gridDim.x * THREADS)
        y[i] = from_float<Y>(kind.one(s, i));
}

template <typename Y, typename Kind>
static ds_status dequantise(struct ds_stream *stream, const struct ds_dequantise_args *a)
{
    const uint64_t count = kernel_elems(&a->y), block = GROUP * THREADS * IN_FLIGHT;
    const bool is_nf4 = Kind::codes_a_byte == 2;
    const source s = {(const uint8_t *)a->codes.data + a->start / Kind::codes_a_byte,
                      a->absmax.dtype == DS_F32 ? (const float *)a->absmax.data : NULL,
                      (const uint8_t *)a->absmax.data,
                      (const float *)a->nest_absmax.data,
                      (const float *)a->map.data,
                      (const float *)a->offset.data,
                      a->start,
                      a->columns,
                      a->first_block,
                      a->row_blocks,
                      a->whole_row_blocks};
    const bool is_grouped = (uintptr_t)s.codes % sizeof(typename Kind::word) == 0 &&
                            (uintptr_t)a->y.data % 16 == 0 &&
                            (is_nf4 || (a->start | a->columns) % GROUP == 0);

    if (count == 0)
        return DS_OK;
    dequantise_kernel<Y, Kind>
        <<<(unsigned)((count + block - 1) / block), THREADS, 0, cuda_stream_of(stream)>>>(
            (Y *)a->y.data, s, count, is_grouped ? count / GROUP : 0);
    CUDA_LAUNCHED("dequantise");
    return DS_OK;
}

extern "C" ds_status cuda_dequantise(struct ds_stream *stream, const struct ds_dequantise_args *a)
{
    DS_TRY(dequantise_wants(a));
    if (a->codes.dtype == DS_I8)
        return DISPATCH(a->y.dtype, Y, (dequantise<Y, int8>(stream, a)));
    if (a->absmax.dtype == DS_U8)
        return DISPATCH(a->y.dtype, Y, (dequantise<Y, nf4<true>>(stream, a)));
    return DISPATCH(a->y.dtype, Y, (dequantise<Y, nf4<false>>(stream, a)));
}
