/* matmul.c - C = scale * op(A) op(B) + add * C, or + an addend, by cuBLASLt: fp32 sums whatever is stored, fp32 without TF32.
 *
 * A shape is described to the library once; after that a call is a look into the table and a launch. What
 * the library has no kernels for (A, B and C of two 16-bit dtypes, 16 bits from fp32) is made in fp32 in the
 * stream's scratch memory, some rows of C at a time, and rounded from there. */
#include "matmul.h"
#include "wants.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == GEMM_ALGO_WORDS * sizeof(uint64_t),
               "the table holds an algorithm as it is");

ds_status gemm_fail_at(cublasStatus_t status, const char *what, const struct gemm_key *key,
                       const char *file, int line)
{
    const ds_status st = status == CUBLAS_STATUS_NOT_SUPPORTED ? DS_ERR_UNSUPPORTED : DS_ERR_DEVICE;

    return ds_fail_at(st, file, line,
                      "%.60s: %s; product of %llu x %llu x %llu, %s to %s, transposed %d %d, "
                      "aligned to %d %d %d bytes",
                      what, cublasLtGetStatusString(status), (unsigned long long)key->m,
                      (unsigned long long)key->n, (unsigned long long)key->k,
                      ds_dtype_name((enum ds_dtype)key->in), ds_dtype_name((enum ds_dtype)key->out),
                      key->trans_a, key->trans_b, key->align_a, key->align_b, key->align_c);
}

/* ---- a device's state */

static ds_status open_parts(struct cuda_device *device, struct cuda_gemm *gemm)
{
    cublasStatus_t status = cublasLtCreate(&gemm->handle);

    if (status != CUBLAS_STATUS_SUCCESS)
        return ds_fail(DS_ERR_DEVICE, "cuBLASLt does not start: %s",
                       cublasLtGetStatusString(status));
    CUDA_TRY(cudaEventCreate(&gemm->begin));
    CUDA_TRY(cudaEventCreate(&gemm->end));
    gemm->clock = device->clock;
    gemm->is_deterministic = device->is_deterministic;
    gemm->load_left_ns = device->is_deterministic ? 0 : device->tuning_ns;
    gemm->timing_left_ns = GEMM_TIMING_NS + gemm->load_left_ns / 8; /* more candidates then */
    snprintf(gemm->made_for, sizeof gemm->made_for, "%.100s, %d multiprocessors, cuBLASLt %zu",
             device->name, device->processor_count, cublasLtGetVersion());
    return DS_OK;
}

ds_status cuda_gemm_open(struct cuda_device *device, struct cuda_gemm **out)
{
    struct cuda_gemm *gemm = calloc(1, sizeof *gemm);
    ds_status st;

    if (!gemm)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the table of GEMM algorithms");
    st = open_parts(device, gemm);
    if (st != DS_OK) {
        cuda_gemm_close(gemm);
        return st;
    }
    *out = gemm;
    return DS_OK;
}

void cuda_gemm_close(struct cuda_gemm *gemm)
{
    if (!gemm)
        return;
    if (gemm->end)
        (void)cudaEventDestroy(gemm->end);
    if (gemm->begin)
        (void)cudaEventDestroy(gemm->begin);
    if (gemm->handle)
        (void)cublasLtDestroy(gemm->handle);
    free(gemm);
}

/* ---- a shape in cuBLASLt's words */

static cudaDataType_t data_type(uint8_t dtype)
{
    return dtype == DS_F32 ? CUDA_R_32F : dtype == DS_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* Rows of `columns` elements are columns there. */
static cublasStatus_t layout(cublasLtMatrixLayoutOpaque_t *to, uint8_t dtype, uint64_t rows,
                             uint64_t columns, uint64_t stride)
{
    return cublasLtMatrixLayoutInit(to, data_type(dtype), columns, rows, (int64_t)stride);
}

static ds_status plan_shape(const struct gemm_key *key, struct gemm_plan *plan)
{
    const cublasOperation_t of_x = key->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t of_y = key->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;

    GEMM_TRY(cublasLtMatmulDescInit(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), key);
    GEMM_TRY(cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &of_x,
                                            sizeof of_x),
             key);
    GEMM_TRY(cublasLtMatmulDescSetAttribute(&plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &of_y,
                                            sizeof of_y),
             key);
    if (key->trans_b)
        GEMM_TRY(layout(&plan->x, key->in, key->n, key->k, key->b_stride), key);
    else
        GEMM_TRY(layout(&plan->x, key->in, key->k, key->n, key->b_stride), key);
    if (key->trans_a)
        GEMM_TRY(layout(&plan->y, key->in, key->k, key->m, key->a_stride), key);
    else
        GEMM_TRY(layout(&plan->y, key->in, key->m, key->k, key->a_stride), key);
    GEMM_TRY(layout(&plan->c, key->out, key->m, key->n, key->c_stride), key);
    return DS_OK;
}

cublasStatus_t gemm_launch(const struct gemm_call *call, struct gemm_plan *p,
                           const cublasLtMatmulAlgo_t *algo, void *workspace, void *to)
{
    const float alpha = call->scale, beta = call->added ? 1.0f : 0.0f;

    return cublasLtMatmul(call->gemm->handle, &p->product, &alpha, call->b, &p->x, call->a, &p->y,
                          &beta, call->added ? call->added : to, &p->c, to, &p->c, algo, workspace,
                          GEMM_WORKSPACE_BYTES, cuda_stream_of(call->stream));
}

/* An algorithm that came as bytes: does the library take it here? */
static int is_accepted(const struct gemm_call *call, struct gemm_plan *plan)
{
    cublasLtMatmulHeuristicResult_t result;

    return cublasLtMatmulAlgoCheck(call->gemm->handle, &plan->product, &plan->x, &plan->y, &plan->c,
                                   &plan->c, &plan->algo, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= GEMM_WORKSPACE_BYTES;
}

static struct gemm_plan *plan_of(struct cuda_gemm *gemm, const struct gemm_entry *entry)
{
    return &gemm->plans[entry - gemm->table.entries];
}

static ds_status plan_new(const struct gemm_call *call, struct gemm_plan **out)
{
    struct cuda_gemm *gemm = call->gemm;
    struct gemm_plan *aside = &gemm->plan_aside;
    struct gemm_entry *entry;
    enum gemm_known known = GEMM_GUESSED;

    *out = aside;
    DS_TRY(plan_shape(&call->key, aside));
    DS_TRY(gemm_choose(call, aside, &known));
    entry = gemm_table_set(&gemm->table, &call->key, aside->algo.data, known);
    if (!entry)
        return DS_OK;
    *out = plan_of(gemm, entry);
    DS_TRY(plan_shape(&call->key, *out));
    (*out)->algo = aside->algo;
    entry->is_ready = 1;
    return DS_OK;
}

static ds_status find_plan(const struct gemm_call *call, struct gemm_plan **out)
{
    struct cuda_gemm *gemm = call->gemm;
    struct gemm_entry *entry = gemm_table_find(&gemm->table, &call->key);

    if (!entry)
        return plan_new(call, out);
    *out = plan_of(gemm, entry);
    if (entry->is_ready)
        return DS_OK;
    DS_TRY(plan_shape(&call->key, *out));
    memcpy((*out)->algo.data, entry->algo, sizeof entry->algo);
    if (!is_accepted(call, *out) || gemm_may_improve(call, (enum gemm_known)entry->known))
        return plan_new(call, out);
    entry->is_ready = 1;
    return DS_OK;
}

static ds_status multiply(const struct gemm_call *call)
{
    struct gemm_plan *plan;
    void *workspace;

    DS_TRY(cuda_scratch(call->stream, CUDA_SCRATCH_BYTES, &workspace));
    DS_TRY(find_plan(call, &plan));
    GEMM_TRY(gemm_launch(call, plan, &plan->algo, workspace, call->c), &call->key);
    return DS_OK;
}

/* ---- the row of the kernel table */

static uint64_t columns_of(const struct ds_tensor *t)
{
    return t->shape[t->dim_count - 1];
}

static uint64_t rows_of(const struct ds_tensor *t)
{
    uint64_t count = 1;

    for (uint32_t i = 0; i + 1 < t->dim_count; i++)
        count *= t->shape[i];
    return count;
}

static uint64_t stride_of(uint64_t stride, const struct ds_tensor *t)
{
    return stride ? stride : columns_of(t);
}

static int is_float(enum ds_dtype dtype)
{
    return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
}

static ds_status check(const struct ds_matmul_args *a)
{
    const uint64_t k = a->trans_a ? rows_of(&a->a) : columns_of(&a->a);

    if (!is_float(a->a.dtype) || a->b.dtype != a->a.dtype || !is_float(a->c.dtype))
        return ds_fail(DS_ERR_UNSUPPORTED, "matmul of %s and %s to %s", ds_dtype_name(a->a.dtype),
                       ds_dtype_name(a->b.dtype), ds_dtype_name(a->c.dtype));
    DS_ASSERT(rows_of(&a->c) == (a->trans_a ? columns_of(&a->a) : rows_of(&a->a)));
    DS_ASSERT(columns_of(&a->c) == (a->trans_b ? rows_of(&a->b) : columns_of(&a->b)));
    DS_ASSERT(k == (a->trans_b ? columns_of(&a->b) : rows_of(&a->b)));
    DS_ASSERT(stride_of(a->a_stride, &a->a) >= columns_of(&a->a) &&
              stride_of(a->b_stride, &a->b) >= columns_of(&a->b) &&
              stride_of(a->c_stride, &a->c) >= columns_of(&a->c));
    return DS_OK;
}

static ds_status check_addend(const struct ds_matmul_args *a)
{
    if (!a->addend.data)
        return DS_OK;
    CUDA_WANTS_SAME("matmul", a, addend, c);
    DS_ASSERT(!a->add && a->addend.data != a->c.data && a->c_stride == 0);
    DS_ASSERT(rows_of(&a->addend) == rows_of(&a->c) && columns_of(&a->addend) == columns_of(&a->c));
    return DS_OK;
}

/* Of C, and of the addend: the library is told one for both. */
static uint8_t align_c(const struct ds_matmul_args *a)
{
    return gemm_alignment((const void *)((uintptr_t)a->c.data | (uintptr_t)a->addend.data));
}

static struct gemm_call describe(struct ds_stream *stream, const struct ds_matmul_args *a)
{
    return (struct gemm_call){.gemm = cuda_device_of(stream)->math->gemm,
                              .stream = stream,
                              .key = {.m = rows_of(&a->c),
                                      .n = columns_of(&a->c),
                                      .k = a->trans_a ? rows_of(&a->a) : columns_of(&a->a),
                                      .a_stride = stride_of(a->a_stride, &a->a),
                                      .b_stride = stride_of(a->b_stride, &a->b),
                                      .c_stride = stride_of(a->c_stride, &a->c),
                                      .in = (uint8_t)a->a.dtype,
                                      .out = (uint8_t)a->c.dtype,
                                      .trans_a = a->trans_a != 0,
                                      .trans_b = a->trans_b != 0,
                                      .align_a = gemm_alignment(a->a.data),
                                      .align_b = gemm_alignment(a->b.data),
                                      .align_c = align_c(a)},
                              .a = a->a.data,
                              .b = a->b.data,
                              .added = a->add ? a->c.data : a->addend.data,
                              .c = a->c.data,
                              .scale = a->scale != 0 ? a->scale : 1.0f};
}

/* The sum of no products. */
static ds_status multiply_nothing(const struct gemm_call *call)
{
    const size_t elem_bytes = ds_dtype_bytes((enum ds_dtype)call->key.out);
    const size_t row = call->key.n * elem_bytes, stride = call->key.c_stride * elem_bytes;

    if (!call->added)
        CUDA_TRY(
            cudaMemset2DAsync(call->c, stride, 0, row, call->key.m, cuda_stream_of(call->stream)));
    else if (call->added != call->c)
        CUDA_TRY(cudaMemcpyAsync(call->c, call->added, row * call->key.m, cudaMemcpyDeviceToDevice,
                                 cuda_stream_of(call->stream)));
    return DS_OK;
}

/* Rows of C, from the fp32 sums in `sums`; neither kernel uses the scratch memory in which they lie. */
static ds_status round_rows(const struct gemm_call *call, void *sums, uint64_t first, uint64_t rows)
{
    const enum ds_dtype out = (enum ds_dtype)call->key.out;
    const uint64_t count = rows * call->key.n;
    const size_t skipped = first * call->key.n * ds_dtype_bytes(out);
    const struct ds_tensor x = ds_tensor1(sums, DS_F32, count),
                           y = ds_tensor1((char *)call->c + skipped, out, count);
    struct ds_add_args add = {.y = y, .x = x};

    if (call->added == call->c)
        return cuda_add(call->stream, &add);
    if (call->added) {
        add.y = x;
        add.x = ds_tensor1((char *)(uintptr_t)call->added + skipped, out, count);
        DS_TRY(cuda_add(call->stream, &add));
    }
    return cuda_cast(call->stream, &(struct ds_cast_args){.y = y, .x = x});
}

static ds_status multiply_through_fp32(const struct gemm_call *call)
{
    const struct gemm_key *key = &call->key;
    const uint64_t rows_max = GEMM_SPARE_BYTES / (key->n * sizeof(float));
    const size_t a_step =
        (key->trans_a ? 1 : key->a_stride) * ds_dtype_bytes((enum ds_dtype)key->in);
    void *scratch;

    DS_ASSERT(rows_max > 0 && key->c_stride == key->n); /* weights' gradients */
    DS_TRY(cuda_scratch(call->stream, CUDA_SCRATCH_BYTES, &scratch));
    for (uint64_t first = 0; first < key->m; first += rows_max) {
        struct gemm_call part = *call;

        part.a = (const char *)call->a + first * a_step;
        part.c = (char *)scratch + GEMM_WORKSPACE_BYTES;
        part.added = NULL;
        part.key.m = key->m - first < rows_max ? key->m - first : rows_max;
        part.key.out = DS_F32;
        part.key.align_a = gemm_alignment(part.a);
        part.key.align_c = gemm_alignment(part.c);
        DS_TRY(multiply(&part));
        DS_TRY(round_rows(call, part.c, first, part.key.m));
    }
    return DS_OK;
}

ds_status cuda_matmul(struct ds_stream *stream, const struct ds_matmul_args *a)
{
    struct gemm_call call;

    DS_TRY(check(a));
    DS_TRY(check_addend(a));
    call = describe(stream, a);
    if (call.key.m == 0 || call.key.n == 0)
        return DS_OK;
    if (call.key.k == 0)
        return multiply_nothing(&call);
    if (a->c.dtype == a->a.dtype || a->c.dtype == DS_F32)
        return multiply(&call);
    return multiply_through_fp32(&call);
}
