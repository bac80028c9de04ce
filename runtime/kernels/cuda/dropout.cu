/* dropout.cu - some elements become zeros: a thread takes those of a row that one block of random numbers decides. */
#include "element.cuh"

#include "../launch.h"

#include "dstrain/philox.h"

#define THREADS 256
#define NUMBERS 8 /* of 16 bits in a block of Philox */

/* Blocks of numbers that a row may touch: its first may begin in the middle of one. */
static __host__ __device__ __forceinline__ uint64_t blocks_of(uint64_t columns)
{
    return columns / NUMBERS + 2;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    dropout_kernel(T *y, const T *x, struct ds_dropout_args a, uint64_t rows, uint64_t columns,
                   float scale)
{
    const uint64_t thread = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    const uint64_t row = thread / blocks_of(columns), turn = thread % blocks_of(columns);

    if (row >= rows)
        return;
    const uint64_t first = (a.first_row + row) * a.whole_columns + a.first_column;
    const uint64_t block = first / NUMBERS + turn, step = a.record->step;
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)step,
                                 (uint32_t)(step >> 32)};
    uint32_t words[4];

    ds_philox(counter, a.key, words);
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) {
        const uint64_t number = block * NUMBERS + i;
        if (number < first || number - first >= columns)
            continue;
        const uint64_t at = row * columns + (number - first);
        const bool is_kept = (words[i / 2] >> 16 * (i & 1) & 0xffffu) >= a.threshold;
        const float kept = is_kept ? to_float(x[at]) * scale : 0.0f;
        y[at] = from_float<T>(a.add ? to_float(y[at]) + kept : kept);
    }
}

template <typename T>
static ds_status drop(struct ds_stream *stream, const struct ds_dropout_args *a)
{
    const uint64_t rows = a->x.shape[0], columns = a->x.shape[1];
    const uint64_t threads = rows * blocks_of(columns);
    const float scale = (float)DS_DROPOUT_NUMBERS / (float)(DS_DROPOUT_NUMBERS - a->threshold);

    if (rows == 0 || columns == 0)
        return DS_OK;
    dropout_kernel<T>
        <<<(unsigned)((threads + THREADS - 1) / THREADS), THREADS, 0, cuda_stream_of(stream)>>>(
            (T *)a->y.data, (const T *)a->x.data, *a, rows, columns, scale);
    CUDA_LAUNCHED("dropout");
    return DS_OK;
}

extern "C" ds_status cuda_dropout(struct ds_stream *stream, const struct ds_dropout_args *a)
{
    KERNEL_WANTS_FLOAT("dropout", a, x);
    KERNEL_WANTS_SAME("dropout", a, y, x);
    DS_ASSERT(kernel_elems(&a->y) == kernel_elems(&a->x) && a->x.dim_count == 2);
    DS_ASSERT(a->threshold < DS_DROPOUT_NUMBERS &&
              a->first_column + a->x.shape[1] <= a->whole_columns);
    return DISPATCH(a->x.dtype, T, (drop<T>(stream, a)));
}
