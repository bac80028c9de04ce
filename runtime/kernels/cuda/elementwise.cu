/* elementwise.cu - add, cast, rows times a factor, fill, and the sum of a micro-batch's losses. */
#include "quad.cuh"
#include "row.cuh"
#include "sums.cuh"

#include "../launch.h"

#define THREADS     256
#define QUADS       4 /* that a thread has in flight */
#define SUM_THREADS 1024
#define ROW_THREADS 128

/* y += x, or y = x: four neighbours at a time where both are aligned to that, what is left one by one. */
template <typename Y, typename X, bool IS_SUM>
__global__ void __launch_bounds__(THREADS)
    join_kernel(Y *y, const X *x, uint64_t count, uint64_t quad_count)
{
    const uint64_t first = (uint64_t)blockIdx.x * (THREADS * QUADS) + threadIdx.x;
    const uint64_t thread = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    quad<X> more[QUADS];
    quad<Y> sum[QUADS];

#pragma unroll
    for (int i = 0; i < QUADS; i++)
        if (first + i * THREADS < quad_count) {
            more[i] = load_quad(x + 4 * (first + i * THREADS));
            if (IS_SUM)
                sum[i] = load_quad(y + 4 * (first + i * THREADS));
        }
#pragma unroll
    for (int i = 0; i < QUADS; i++)
        if (first + i * THREADS < quad_count) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float add = to_float(more[i].at[j]);

                sum[i].at[j] = from_float<Y>(IS_SUM ? to_float(sum[i].at[j]) + add : add);
            }
            store_quad(y + 4 * (first + i * THREADS), sum[i]);
        }
    for (uint64_t i = 4 * quad_count + thread; i < count; i += (uint64_t)gridDim.x * THREADS)
        y[i] = from_float<Y>(IS_SUM ? to_float(y[i]) + to_float(x[i]) : to_float(x[i]));
}

template <typename Y, typename X, bool IS_SUM>
static ds_status join(struct ds_stream *stream, const struct ds_tensor *y,
                      const struct ds_tensor *x)
{
    const uint64_t count = kernel_elems(y), block = 4 * THREADS * QUADS;
    const bool is_aligned = is_quad_aligned<Y>(y->data) && is_quad_aligned<X>(x->data);

    if (count == 0)
        return DS_OK;
    join_kernel<Y, X, IS_SUM>
        <<<(unsigned)((count + block - 1) / block), THREADS, 0, cuda_stream_of(stream)>>>(
            (Y *)y->data, (const X *)x->data, count, is_aligned ? count / 4 : 0);
    CUDA_LAUNCHED(IS_SUM ? "add" : "cast");
    return DS_OK;
}

extern "C" ds_status cuda_add(struct ds_stream *stream, const struct ds_add_args *a)
{
    DS_ASSERT(kernel_elems(&a->y) == kernel_elems(&a->x));
    KERNEL_WANTS_FLOAT("add", a, y);
    KERNEL_WANTS_FLOAT("add", a, x);
    return DISPATCH(a->y.dtype, Y,
                    DISPATCH(a->x.dtype, X, (join<Y, X, true>(stream, &a->y, &a->x))));
}

extern "C" ds_status cuda_cast(struct ds_stream *stream, const struct ds_cast_args *a)
{
    DS_ASSERT(kernel_elems(&a->y) == kernel_elems(&a->x));
    KERNEL_WANTS_FLOAT("cast", a, y);
    KERNEL_WANTS_FLOAT("cast", a, x);
    return DISPATCH(a->y.dtype, Y,
                    DISPATCH(a->x.dtype, X, (join<Y, X, false>(stream, &a->y, &a->x))));
}

/* A block has a row. */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    scale_rows_kernel(T *y, const float *factors, uint64_t width)
{
    const row<T> r = row_at(y + blockIdx.x * width, width);
    const float factor = factors[blockIdx.x];

    for (int i = threadIdx.x; i < r.slot_count; i += ROW_THREADS)
        store_slot(r, i, slot_scaled(load_slot(r, i), factor));
}

template <typename T>
static ds_status scale_rows(struct ds_stream *stream, const struct ds_scale_rows_args *a)
{
    const uint64_t rows = a->y_NC.shape[0];

    if (rows == 0)
        return DS_OK;
    scale_rows_kernel<T><<<(unsigned)rows, ROW_THREADS, 0, cuda_stream_of(stream)>>>(
        (T *)a->y_NC.data, (const float *)a->factor_N.data, a->y_NC.shape[1]);
    CUDA_LAUNCHED("scale_rows");
    return DS_OK;
}

extern "C" ds_status cuda_scale_rows(struct ds_stream *stream, const struct ds_scale_rows_args *a)
{
    DS_ASSERT(kernel_elems(&a->factor_N) == a->y_NC.shape[0]);
    DS_ASSERT(a->y_NC.shape[1] <= ROW_ELEMS_MAX);
    KERNEL_WANTS_FLOAT("scale_rows", a, y_NC);
    KERNEL_WANTS("scale_rows", a, factor_N, DS_F32);
    return DISPATCH(a->y_NC.dtype, T, scale_rows<T>(stream, a));
}

extern "C" ds_status cuda_fill(struct ds_stream *stream, const struct ds_fill_args *a)
{
    if (a->bytes > 0)
        CUDA_TRY(cudaMemsetAsync(a->at, 0, a->bytes, cuda_stream_of(stream)));
    return DS_OK;
}

/* ---- the losses: one block, thread t takes t, t + SUM_THREADS, ... */

static __global__ void __launch_bounds__(SUM_THREADS)
    loss_sum_kernel(const float *loss, uint64_t count, struct ds_step_record *record)
{
    const double sum = block_sum_of<SUM_THREADS>(loss, count);

    if (threadIdx.x == 0)
        record->loss_sum += sum;
}

extern "C" ds_status cuda_loss_sum(struct ds_stream *stream, const struct ds_loss_sum_args *a)
{
    KERNEL_WANTS("loss_sum", a, loss_T, DS_F32);
    loss_sum_kernel<<<1, SUM_THREADS, 0, cuda_stream_of(stream)>>>(
        (const float *)a->loss_T.data, kernel_elems(&a->loss_T), a->record);
    CUDA_LAUNCHED("loss_sum");
    return DS_OK;
}
