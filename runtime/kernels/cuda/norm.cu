/* norm.cu - the gradient's norm. A piece is summed up in the order of the cpu's: element i goes to lane i % 16
 * of fp64, the lanes are added pairwise; so its sum has the cpu's bits. A square of fp32 is exact in fp64.
 *
 * A thread has the lanes of 16 bytes, two (16 bits) or four (fp32) threads have a piece: what a warp reads at
 * once are whole sectors of memory. Memory gives the next rows while a thread squares those before them: the way
 * to fp64 is narrow, and of 16 bits there are twice as many numbers in a byte. */
#include "row.cuh"
#include "sums.cuh"

#include "../launch.h"

#define LANES   16
#define ROWS    (DS_NORM_PIECE / LANES) /* additions to a lane */
#define BATCH   4 /* rows that are loaded at once, while as many are added up */
#define THREADS 128
#define BLOCKS  8 /* of a multiprocessor */

#define SEGMENT       4096 /* pieces that one block adds up */
#define TOTAL_THREADS 256

struct piece {
    uint64_t start, end; /* elements */
    const struct ds_span *skips;
    size_t skip_count;
};

/* Does a skipped span meet elements start..end? */
__device__ __forceinline__ bool is_skipped(const struct piece *piece, uint64_t start, uint64_t end)
{
    for (size_t i = 0; i < piece->skip_count; i++)
        if (piece->skips[i].start < end && start < piece->skips[i].start + piece->skips[i].count)
            return true;
    return false;
}

__device__ __forceinline__ void add_square(double *lane, float value)
{
    *lane = fma((double)value, (double)value, *lane);
}

template <typename T> __device__ __forceinline__ void load_rows(slot<T> (&to)[BATCH], const T *at)
{
#pragma unroll
    for (int i = 0; i < BATCH; i++)
        *reinterpret_cast<uint4 *>(&to[i]) = *reinterpret_cast<const uint4 *>(at + i * LANES);
}

template <typename T, int WIDE>
__device__ __forceinline__ void add_rows(double (&lane)[WIDE], const slot<T> (&rows)[BATCH])
{
#pragma unroll
    for (int i = 0; i < BATCH; i++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
            add_square(&lane[j], slot_get(rows[i], j));
}

/* All of a piece counts, and lies aligned: `at` is its first element of this thread's lanes. */
template <typename T, int WIDE>
__device__ __forceinline__ void sum_plain(double (&lane)[WIDE], const T *at)
{
    slot<T> even[BATCH], odd[BATCH];

    load_rows(even, at);
#pragma unroll 1
    for (int row = 0; row < ROWS; row += 2 * BATCH) {
        load_rows(odd, at + (row + BATCH) * LANES);
        add_rows(lane, even);
        if (row + 2 * BATCH < ROWS)
            load_rows(even, at + (row + 2 * BATCH) * LANES);
        add_rows(lane, odd);
    }
}

template <typename T, int WIDE>
__device__ __forceinline__ void sum_some(double (&lane)[WIDE], const T *x,
                                         const struct piece *piece, uint64_t first)
{
    for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int j = 0; j < WIDE; j++) {
            const uint64_t i = first + (uint64_t)row * LANES + j;

            if (i < piece->end && !is_skipped(piece, i, i + 1))
                add_square(&lane[j], to_float(x[i]));
        }
}

/* The lanes of the SHARES threads that have a piece; the first of them gets the sum. */
template <int WIDE> __device__ __forceinline__ double lanes_total(double (&lane)[WIDE])
{
    constexpr int SHARES = LANES / WIDE;

#pragma unroll
    for (int share = SHARES / 2; share > 0; share /= 2)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
            lane[j] += __shfl_down_sync(0xffffffffu, lane[j], share, SHARES);
#pragma unroll
    for (int width = WIDE / 2; width > 0; width /= 2)
#pragma unroll
        for (int j = 0; j < width; j++)
            lane[j] += lane[j + width];
    return lane[0];
}

template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    pieces_kernel(double *sums, const T *x, uint64_t count, uint64_t piece_count,
                  const struct ds_span *skips, size_t skip_count, bool is_aligned)
{
    constexpr int WIDE = slot<T>::count, SHARES = LANES / WIDE;
    const uint64_t thread = (uint64_t)blockIdx.x * THREADS + threadIdx.x, index = thread / SHARES;
    const struct piece piece = {index * DS_NORM_PIECE, min((index + 1) * DS_NORM_PIECE, count),
                                skips, skip_count};
    const uint64_t first = piece.start + thread % SHARES * WIDE;
    double lane[WIDE] = {};

    if (index < piece_count) {
        if (is_aligned && piece.end - piece.start == DS_NORM_PIECE &&
            !is_skipped(&piece, piece.start, piece.end))
            sum_plain(lane, x + first);
        else
            sum_some(lane, x, &piece, first);
    }
    const double sum = lanes_total(lane); /* all threads of a warp come here */
    if (index < piece_count && thread % SHARES == 0)
        sums[index] = sum;
}

template <typename T>
static ds_status pieces(struct ds_stream *stream, const struct ds_norm_pieces_args *a)
{
    const uint64_t piece_count = kernel_elems(&a->sums);
    const uint64_t thread_count = piece_count * (LANES / slot<T>::count);

    if (piece_count == 0)
        return DS_OK;
    pieces_kernel<T><<<(unsigned)((thread_count + THREADS - 1) / THREADS), THREADS, 0,
                       cuda_stream_of(stream)>>>(
        (double *)a->sums.data, (const T *)a->x.data, kernel_elems(&a->x), piece_count, a->skips,
        a->skip_count, (uintptr_t)a->x.data % sizeof(slot<T>) == 0);
    CUDA_LAUNCHED("norm_pieces");
    return DS_OK;
}

extern "C" ds_status cuda_norm_pieces(struct ds_stream *stream, const struct ds_norm_pieces_args *a)
{
    DS_ASSERT(kernel_elems(&a->sums) == (kernel_elems(&a->x) + DS_NORM_PIECE - 1) / DS_NORM_PIECE);
    KERNEL_WANTS_FLOAT("norm_pieces", a, x);
    KERNEL_WANTS("norm_pieces", a, sums, DS_F64);
    return DISPATCH(a->x.dtype, T, pieces<T>(stream, a));
}

/* ---- the sum of all pieces: segments of a fixed length, then those */

static __global__ void __launch_bounds__(TOTAL_THREADS)
    segments_kernel(double *segments, const double *sums, uint64_t count)
{
    const uint64_t start = (uint64_t)blockIdx.x * SEGMENT, left = count - start;
    const double sum =
        block_sum_of<TOTAL_THREADS>(sums + start, left < SEGMENT ? left : (uint64_t)SEGMENT);

    if (threadIdx.x == 0)
        segments[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(TOTAL_THREADS)
    total_kernel(struct ds_step_record *record, const double *segments, uint64_t count)
{
    const double sum = block_sum_of<TOTAL_THREADS>(segments, count);

    if (threadIdx.x == 0)
        record->norm_squared = sum;
}

extern "C" ds_status cuda_norm_sum(struct ds_stream *stream, const struct ds_norm_sum_args *a)
{
    const uint64_t count = kernel_elems(&a->sums), segment_count = (count + SEGMENT - 1) / SEGMENT;
    void *segments;

    KERNEL_WANTS("norm_sum", a, sums, DS_F64);
    DS_TRY(cuda_scratch(stream, segment_count * sizeof(double), &segments));
    if (segment_count > 0)
        segments_kernel<<<(unsigned)segment_count, TOTAL_THREADS, 0, cuda_stream_of(stream)>>>(
            (double *)segments, (const double *)a->sums.data, count);
    CUDA_LAUNCHED("norm_sum");
    total_kernel<<<1, TOTAL_THREADS, 0, cuda_stream_of(stream)>>>(
        a->record, (const double *)segments, segment_count);
    CUDA_LAUNCHED("norm_sum");
    return DS_OK;
}
