/* norm.cu - the gradient's norm. A piece is summed up in the order of the cpu's: element i goes to lane i % 16
 * of fp64, the lanes are added pairwise; so its sum has the cpu's bits. A square of fp32 is exact in fp64.
 *
 * A thread has the lanes of 16 bytes, two (16 bits) or four (fp32) threads have a piece. Memory is read in longer
 * runs than they need at once, some batches ahead, through a ring in shared memory that a warp has for itself: it
 * waits for nobody else, and its registers hold nothing that is under way. */
#include "copy_async.cuh"
#include "norm_ring.h"
#include "row.cuh"
#include "sums.cuh"

#include "../launch.h"

#define LANES NORM_LANES
#define ROWS  (DS_NORM_PIECE / LANES) /* additions to a lane */
#define WARPS 12                      /* of a multiprocessor: what their rings leave room for */

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

/* A batch of those pieces of the warp that `plain`, a bit a thread, has; `from` and `to` are this thread's of the
 * first turn. */
template <typename T>
__device__ __forceinline__ void copy_batch(char *to, const T *from, uint32_t plain)
{
    constexpr int SHARES = norm_shares(sizeof(T)), PIECES = norm_turn_pieces(sizeof(T));
    constexpr int BYTES = norm_part_bytes(sizeof(T));

#pragma unroll
    for (int turn = 0; turn < NORM_BATCH; turn++)
        if (plain >> turn * PIECES * SHARES & 1)
            copy_async_16(to + turn * PIECES * BYTES, from + turn * PIECES * DS_NORM_PIECE);
    copy_async_close();
}

template <typename T, int WIDE>
__device__ __forceinline__ void add_batch(double (&lane)[WIDE], const char *from)
{
#pragma unroll
    for (int row = 0; row < NORM_BATCH; row++) {
        const slot<T> s = *reinterpret_cast<const slot<T> *>(from + norm_row_at(0, row, sizeof(T)));

#pragma unroll
        for (int j = 0; j < WIDE; j++)
            add_square(&lane[j], slot_get(s, j));
    }
}

/* Pieces all of which count, and that lie aligned: those that `plain` has, this thread's if `is_plain`. `x` is the
 * warp's first. A batch is copied to where the one before that which is now added up was: all have read it. */
template <typename T, int WIDE>
__device__ __forceinline__ void sum_plain(double (&lane)[WIDE], const T *x, uint32_t plain,
                                          bool is_plain)
{
    constexpr int BATCHES = ROWS / NORM_BATCH, RING = NORM_RING;
    constexpr int ELEMS = NORM_BATCH * LANES, BYTES = norm_batch_bytes(sizeof(T));
    __shared__ alignas(16) char ring[RING * BYTES];
    const struct norm_slot slot = norm_slot_of(threadIdx.x, sizeof(T));
    const T *from = x + slot.piece * DS_NORM_PIECE + slot.elem;
    const char *row = ring + norm_row_at(threadIdx.x, 0, sizeof(T));
    char *to = ring + slot.at;

    plain >>= slot.piece * norm_shares(sizeof(T));
#pragma unroll
    for (int batch = 0; batch < RING - 1; batch++)
        copy_batch(to + batch * BYTES, from + batch * ELEMS, plain);
#pragma unroll RING
    for (int batch = 0; batch < BATCHES; batch++) {
        const int next = batch + RING - 1;

        copy_async_wait_but<RING - 2>();
        __syncwarp();
        copy_batch(to + next % RING * BYTES, from + next * ELEMS, next < BATCHES ? plain : 0);
        if (is_plain)
            add_batch<T>(lane, row + batch % RING * BYTES);
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

/* A block is a warp: few pieces, so that all multiprocessors end together. */
template <typename T>
__global__ void __launch_bounds__(WARP, WARPS)
    pieces_kernel(double *sums, const T *x, uint64_t count, uint64_t piece_count,
                  const struct ds_span *skips, size_t skip_count, bool is_aligned)
{
    constexpr int WIDE = slot<T>::count, SHARES = norm_shares(sizeof(T)), PIECES = WARP / SHARES;
    const uint64_t start = (uint64_t)blockIdx.x * PIECES, index = start + threadIdx.x / SHARES;
    const struct piece piece = {index * DS_NORM_PIECE, min((index + 1) * DS_NORM_PIECE, count),
                                skips, skip_count};
    const bool is_plain = is_aligned && piece.end == piece.start + DS_NORM_PIECE &&
                          !is_skipped(&piece, piece.start, piece.end);
    const uint32_t plain = __ballot_sync(0xffffffffu, is_plain);
    double lane[WIDE] = {};

    if (plain != 0)
        sum_plain(lane, x + start * DS_NORM_PIECE, plain, is_plain);
    if (!is_plain && index < piece_count)
        sum_some(lane, x, &piece, piece.start + threadIdx.x % SHARES * WIDE);
    const double sum = lanes_total(lane);
    if (index < piece_count && threadIdx.x % SHARES == 0)
        sums[index] = sum;
}

template <typename T>
static ds_status pieces(struct ds_stream *stream, const struct ds_norm_pieces_args *a)
{
    constexpr uint64_t PIECES = WARP / norm_shares(sizeof(T));
    const uint64_t piece_count = kernel_elems(&a->sums);

    if (piece_count == 0)
        return DS_OK;
    CUDA_TRY(cudaFuncSetAttribute((const void *)pieces_kernel<T>,
                                  cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    pieces_kernel<T>
        <<<(unsigned)((piece_count + PIECES - 1) / PIECES), WARP, 0, cuda_stream_of(stream)>>>(
            (double *)a->sums.data, (const T *)a->x.data, kernel_elems(&a->x), piece_count,
            a->skips, a->skip_count, (uintptr_t)a->x.data % sizeof(slot<T>) == 0);
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
