/* rmsnorm_backward.cu - the way back of RMSNorm in one pass over x and dy: a block stays and takes rows with a
 * stride, so the sums of the gain's gradient stay in registers; every row of a block leaves a row of partial
 * sums, which columns.cu adds. Rows too wide for that are gone through twice, and their columns summed apart. */
#include "columns.cuh"
#include "part.cuh"
#include "shapes.h"
#include "wants.h"

#define BLOCK_THREADS 256
#define ROW_THREADS   (32 * ROW_WARPS_MAX) /* the most for a row */

template <typename T> struct norm_way_back {
    const T *x, *gain, *dy;
    const T *residual; /* or NULL */
    T *dx;             /* or NULL; may be dy, or the residual */
    const float *rstd;
    float *partial; /* or NULL: [gridDim.x * blockDim.y][width] */
    size_t token_count;
    uint32_t width;
    float inverse_width;
};

/* What a thread has of one row; its packs lie at first, first + step, .. */
template <typename T, int PACKS> struct row_part {
    pack<T> x[PACKS], dy[PACKS], residual[PACKS];
    size_t at; /* of the row's first element */
    uint32_t end;
    float rstd;
};

template <typename T, int PACKS>
__device__ __forceinline__ void keep_all_packed(pack<T> (&packs)[PACKS])
{
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        keep_packed(packs[p]);
}

template <bool VECTOR, typename T, int PACKS>
__device__ __forceinline__ void load_row(const norm_way_back<T> &b, size_t token,
                                         row_part<T, PACKS> &row)
{
    const uint32_t first = threadIdx.x * pack<T>::count, step = blockDim.x * pack<T>::count;
    const bool is_there = token < b.token_count;

    row.at = is_there ? token * b.width : 0;
    row.end = is_there ? b.width : 0;
    row.rstd = b.rstd[is_there ? token : 0];
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        row.x[p] = load_part<VECTOR>(b.x + row.at, first + p * step, row.end);
        row.dy[p] = load_part<VECTOR>(b.dy + row.at, first + p * step, row.end);
        if (b.residual && b.dx)
            row.residual[p] = load_part<VECTOR>(b.residual + row.at, first + p * step, row.end);
    }
}

template <typename T>
__device__ __forceinline__ float add_dot(float dot, const pack<T> &dy, const pack<T> &gain,
                                         const pack<T> &x)
{
#pragma unroll
    for (int i = 0; i < pack<T>::count; i++)
        dot = fmaf(to_float(dy.at[i]) * to_float(gain.at[i]), to_float(x.at[i]), dot);
    return dot;
}

/* dx = (residual) + rstd * (dy * gain - x * slope), slope = rstd * mean(dy * gain * x * rstd) */
template <typename T>
__device__ __forceinline__ pack<T> pack_dx(const pack<T> &dy, const pack<T> &gain, const pack<T> &x,
                                           float rstd, float slope, const pack<T> &residual,
                                           bool has_residual)
{
    pack<T> dx;

#pragma unroll
    for (int i = 0; i < pack<T>::count; i++) {
        const float inner =
            fmaf(to_float(dy.at[i]), to_float(gain.at[i]), -(to_float(x.at[i]) * slope));

        dx.at[i] = from_float<T>(has_residual ? fmaf(rstd, inner, to_float(residual.at[i]))
                                              : __fmul_rn(rstd, inner));
    }
    return dx;
}

template <bool VECTOR, typename T, int PACKS, int ROWS>
__device__ __forceinline__ void write_dx(const norm_way_back<T> &b,
                                         row_part<T, PACKS> (&rows)[ROWS], pack<T> (&gain)[PACKS],
                                         float (*shared)[ROWS])
{
    const uint32_t first = threadIdx.x * pack<T>::count, step = blockDim.x * pack<T>::count;
    float dot[ROWS] = {};

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int p = 0; p < PACKS; p++)
            dot[r] = add_dot(dot[r], rows[r].dy[p], gain[p], rows[r].x[p]);
    }
    row_sums(dot, shared);
    keep_all_packed(gain);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        keep_all_packed(rows[r].x);
        keep_all_packed(rows[r].dy);
        const float slope = dot[r] * rows[r].rstd * b.inverse_width * rows[r].rstd;

#pragma unroll
        for (int p = 0; p < PACKS; p++)
            store_part<VECTOR>(b.dx + rows[r].at, first + p * step, rows[r].end,
                               pack_dx(rows[r].dy[p], gain[p], rows[r].x[p], rows[r].rstd, slope,
                                       rows[r].residual[p], b.residual != NULL));
    }
}

template <typename T, int PACKS>
__device__ __forceinline__ void add_dgain(float (&dgain)[PACKS][pack<T>::count],
                                          const row_part<T, PACKS> &row)
{
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < pack<T>::count; i++)
            dgain[p][i] =
                fmaf(to_float(row.dy[p].at[i]), to_float(row.x[p].at[i]) * row.rstd, dgain[p][i]);
    }
}

template <typename T, int PACKS>
__device__ __forceinline__ void store_dgain(const norm_way_back<T> &b,
                                            const float (&dgain)[PACKS][pack<T>::count])
{
    float *row = b.partial + ((size_t)blockIdx.x * blockDim.y + threadIdx.y) * b.width;

#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < pack<T>::count; i++) {
            const uint32_t column = (threadIdx.x + p * blockDim.x) * pack<T>::count + i;

            if (column < b.width)
                row[column] = dgain[p][i];
        }
    }
}

/* ROWS rows are under way at once; the two sets of shared sums take turns, so that one barrier is enough. */
template <typename T, int PACKS, int ROWS, bool VECTOR>
__global__ void __launch_bounds__(PACKS == 4 ? ROW_THREADS : BLOCK_THREADS, PACKS == 4 ? 1 : 2)
    rmsnorm_backward_rows(const norm_way_back<T> b)
{
    __shared__ alignas(16) float shared[2][ROW_WARPS_MAX][ROWS];
    const uint32_t step = ROWS * blockDim.y;
    pack<T> gain[PACKS];
    float dgain[PACKS][pack<T>::count] = {};
    int turn = 0;

#pragma unroll
    for (int p = 0; p < PACKS; p++)
        gain[p] =
            load_part<VECTOR>(b.gain, (threadIdx.x + p * blockDim.x) * pack<T>::count, b.width);
    for (size_t first = (size_t)blockIdx.x * step; first < b.token_count;
         first += (size_t)gridDim.x * step, turn ^= 1) {
        row_part<T, PACKS> rows[ROWS];

#pragma unroll
        for (int r = 0; r < ROWS; r++)
            load_row<VECTOR>(b, first + r * blockDim.y + threadIdx.y, rows[r]);
        if (b.partial) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                add_dgain(dgain, rows[r]);
                keep_all_packed(rows[r].x);
                keep_all_packed(rows[r].dy);
            }
        }
        if (b.dx)
            write_dx<VECTOR>(b, rows, gain, shared[turn]);
    }
    if (b.partial)
        store_dgain(b, dgain);
}

/* A block for a row of any width. */
template <typename T, bool VECTOR>
__global__ void __launch_bounds__(ROW_THREADS) rmsnorm_backward_wide_rows(const norm_way_back<T> b)
{
    __shared__ float shared[ROW_WARPS_MAX][1];
    const uint32_t first = threadIdx.x * pack<T>::count, step = blockDim.x * pack<T>::count;
    const size_t row = blockIdx.x * (size_t)b.width;
    const float rstd = b.rstd[blockIdx.x];
    float dot[1] = {};

    for (uint32_t at = first; at < b.width; at += step)
        dot[0] = add_dot(dot[0], load_part<VECTOR>(b.dy + row, at, b.width),
                         load_part<VECTOR>(b.gain, at, b.width),
                         load_part<VECTOR>(b.x + row, at, b.width));
    row_sums(dot, shared);
    const float slope = dot[0] * rstd * b.inverse_width * rstd;
    for (uint32_t at = first; at < b.width; at += step) {
        pack<T> residual;

        if (b.residual)
            residual = load_part<VECTOR>(b.residual + row, at, b.width);
        store_part<VECTOR>(b.dx + row, at, b.width,
                           pack_dx(load_part<VECTOR>(b.dy + row, at, b.width),
                                   load_part<VECTOR>(b.gain, at, b.width),
                                   load_part<VECTOR>(b.x + row, at, b.width), rstd, slope, residual,
                                   b.residual != NULL));
    }
}

template <typename T, int PACKS, int ROWS, bool VECTOR>
static ds_status launch_rows(struct ds_stream *stream, norm_way_back<T> b,
                             const struct ds_rmsnorm_backward_args *a)
{
    const struct row_shape shape = shape_rows(b.width, pack<T>::count, PACKS, BLOCK_THREADS);
    const uint32_t slabs = shape_slabs(b.token_count, ROWS * shape.rows);
    const size_t partials = (size_t)slabs * shape.rows;
    void *partial = NULL;

    if (a->dgain_C.data)
        DS_TRY(cuda_scratch(stream, partials * b.width * sizeof(float), &partial));
    b.partial = (float *)partial;
    if (slabs > 0)
        rmsnorm_backward_rows<T, PACKS, ROWS, VECTOR>
            <<<slabs, dim3(shape.threads, shape.rows), 0, cuda_stream_of(stream)>>>(b);
    CUDA_LAUNCHED("rmsnorm_backward_rows");
    return partial
               ? cuda_columns_total(stream, b.partial, partials, b.width, &a->dgain_C, a->gain_add)
               : DS_OK;
}

/* The columns first: they read dy, which dx may overwrite. */
template <typename T, bool VECTOR>
static ds_status launch_wide(struct ds_stream *stream, const norm_way_back<T> &b,
                             const struct ds_rmsnorm_backward_args *a)
{
    const struct cuda_columns columns = {b.dy,    b.x,     a->x_TC.dtype, b.rstd,     b.token_count,
                                         b.width, b.width, a->dgain_C,    a->gain_add};

    if (a->dgain_C.data)
        DS_TRY(cuda_columns_sum(stream, &columns));
    if (b.dx && b.token_count > 0)
        rmsnorm_backward_wide_rows<T, VECTOR>
            <<<grid_of(b.token_count), ROW_THREADS, 0, cuda_stream_of(stream)>>>(b);
    CUDA_LAUNCHED("rmsnorm_backward_wide_rows");
    return DS_OK;
}

/* Narrow rows have more of them under way: it is always about as many bytes. */
template <typename T, bool VECTOR>
static ds_status launch_width(struct ds_stream *stream, const norm_way_back<T> &b,
                              const struct ds_rmsnorm_backward_args *a)
{
    const size_t packs = shape_ceil(b.width, pack<T>::count);

    if (packs <= BLOCK_THREADS)
        return launch_rows<T, 1, 4, VECTOR>(stream, b, a);
    if (packs <= 2 * BLOCK_THREADS)
        return launch_rows<T, 2, 2, VECTOR>(stream, b, a);
    if (packs <= 4 * ROW_THREADS)
        return launch_rows<T, 4, 1, VECTOR>(stream, b, a);
    return launch_wide<T, VECTOR>(stream, b, a);
}

template <typename T>
static ds_status launch_backward(struct ds_stream *stream, const struct ds_rmsnorm_backward_args *a)
{
    const norm_way_back<T> b = {(const T *)a->x_TC.data,
                                (const T *)a->gain_C.data,
                                (const T *)a->dy_TC.data,
                                (const T *)a->residual_TC.data,
                                (T *)a->dx_TC.data,
                                (const float *)a->rstd_T.data,
                                NULL,
                                a->x_TC.shape[0],
                                (uint32_t)a->x_TC.shape[1],
                                1.0f / (float)a->x_TC.shape[1]};

    if (b.width % pack<T>::count == 0 && is_aligned(b.x) && is_aligned(b.gain) &&
        is_aligned(b.dy) && is_aligned(b.residual) && is_aligned(b.dx))
        return launch_width<T, true>(stream, b, a);
    return launch_width<T, false>(stream, b, a);
}

ds_status cuda_rmsnorm_backward(struct ds_stream *stream, const struct ds_rmsnorm_backward_args *a)
{
    DS_ASSERT(a->gain_C.shape[0] == a->x_TC.shape[1] && a->x_TC.shape[1] < INT32_MAX);
    CUDA_WANTS_FLOAT("rmsnorm_backward", a, x_TC);
    CUDA_WANTS_SAME("rmsnorm_backward", a, gain_C, x_TC);
    CUDA_WANTS_SAME("rmsnorm_backward", a, dy_TC, x_TC);
    CUDA_WANTS_SAME("rmsnorm_backward", a, residual_TC, x_TC);
    CUDA_WANTS_SAME("rmsnorm_backward", a, dx_TC, x_TC);
    CUDA_WANTS("rmsnorm_backward", a, rstd_T, DS_F32);
    CUDA_WANTS_FLOAT("rmsnorm_backward", a, dgain_C);
    return DISPATCH(a->x_TC.dtype, T, launch_backward<T>(stream, a));
}
