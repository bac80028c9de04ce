/* fake_cublaslt.h - as much of cuBLASLt and of the CUDA runtime as matrix products call, on host memory.
 * Descriptors hold what they were told, a product is made in fp64 from the column-major view it is given,
 * and time passes by what the algorithm costs. */
#ifndef DSTRAIN_FAKE_CUBLASLT_H
#define DSTRAIN_FAKE_CUBLASLT_H

#include "test.h"

#include "matmul.h"

#undef GEMM_WORKSPACE_BYTES
#undef GEMM_SPARE_BYTES
#define GEMM_WORKSPACE_BYTES ((size_t)256)
#define GEMM_SPARE_BYTES     ((size_t)4096)

#define FAKE_ALGOS 6

static struct {
    /* what the library offers */
    int algo_count, first_algo;
    uint64_t cost_ns[FAKE_ALGOS + 1]; /* of a product by algorithm i, from 1; 0: it refuses */
    /* the same of a GPU that has been busy for so long; 0: never */
    uint64_t hot_cost_ns[FAKE_ALGOS + 1], hot_after_ns;
    int accepts_bytes; /* what it says of an algorithm that was stored */
    int is_idle;       /* products are not made: only counted */
    enum cudaStreamCaptureStatus capture;
    /* what it saw */
    int launches, questions, asked_for;
    uint64_t last_algo;
    uint32_t alignment[4]; /* A, B, C, D in its words */
    uint32_t schemes;
    /* the stream */
    uint64_t now_ns, event_ns[2];
    int event_count;
    _Alignas(256) unsigned char scratch[256 + 4096];
} fake;

/* ---- the runtime */

static uint64_t fake_mono_ns(void *self)
{
    (void)self;
    return fake.now_ns;
}
static const struct ds_clock fake_clock = {.mono_ns = fake_mono_ns};

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    assert_true(fake.event_count < 2);
    *event = (cudaEvent_t)&fake.event_ns[fake.event_count++];
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    (void)event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)stream;
    *(uint64_t *)event = fake.now_ns;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    (void)event;
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)(*(uint64_t *)end - *(uint64_t *)begin) * 1e-6f;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    (void)stream;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    (void)stream;
    *status = fake.capture;
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    (void)stream;
    memset(at, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemset2DAsync(void *at, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream)
{
    (void)stream;
    for (size_t row = 0; row < height; row++)
        memset((char *)at + row * pitch, value, width);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind, (void)stream;
    memcpy(to, from, bytes);
    return cudaSuccess;
}

/* ---- the plugin's own */

ds_status cuda_fail_at(cudaError_t error, const char *call, const char *file, int line)
{
    return ds_fail_at(DS_ERR_DEVICE, file, line, "%s: %d", call, (int)error);
}
ds_status cuda_scratch(struct ds_stream *stream, size_t bytes, void **at)
{
    (void)stream;
    (void)bytes;
    *at = fake.scratch;
    return DS_OK;
}

static void fake_round(struct ds_tensor y, struct ds_tensor x, int add)
{
    for (size_t i = 0; i < y.shape[0]; i++) {
        char *at = (char *)y.data + i * ds_dtype_bytes(y.dtype);
        float before = 0.0f, sum;

        ds_dtype_to_f32(&sum, (const char *)x.data + i * ds_dtype_bytes(x.dtype), x.dtype, 1);
        if (add)
            ds_dtype_to_f32(&before, at, y.dtype, 1);
        sum += before;
        ds_dtype_from_f32(at, y.dtype, &sum, 1);
    }
}
ds_status cuda_add(struct ds_stream *stream, const struct ds_add_args *a)
{
    (void)stream;
    fake_round(a->y, a->x, 1);
    return DS_OK;
}
ds_status cuda_cast(struct ds_stream *stream, const struct ds_cast_args *a)
{
    (void)stream;
    fake_round(a->y, a->x, 0);
    return DS_OK;
}

/* ---- the library */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = (cublasLtHandle_t)&fake;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    (void)handle;
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void)
{
    return 1;
}
const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "another failure";
}
cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t bytes,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    assert_int_equal(compute, CUBLAS_COMPUTE_32F); /* no TF32 */
    assert_int_equal(scale, CUDA_R_32F);
    memset(desc, 0, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes)
{
    assert_int_equal(bytes, sizeof(int32_t));
    assert_true(name == CUBLASLT_MATMUL_DESC_TRANSA || name == CUBLASLT_MATMUL_DESC_TRANSB);
    desc->data[name == CUBLASLT_MATMUL_DESC_TRANSB] =
        *(const cublasOperation_t *)value == CUBLAS_OP_T;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t to, size_t bytes,
                                                 cudaDataType type, uint64_t rows, uint64_t columns,
                                                 int64_t ld)
{
    assert_true(ld >= (int64_t)rows && rows > 0 && columns > 0);
    memset(to, 0, bytes);
    to->data[0] = type;
    to->data[1] = rows;
    to->data[2] = columns;
    to->data[3] = (uint64_t)ld;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t to, size_t bytes)
{
    memset(to, 0, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t to,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t bytes)
{
    (void)to;
    if (name == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        assert_int_equal(bytes, sizeof(uint64_t));
        return CUBLAS_STATUS_SUCCESS;
    }
    assert_int_equal(bytes, sizeof(uint32_t));
    if (name == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        fake.schemes = *(const uint32_t *)value;
    else
        fake.alignment[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] =
            *(const uint32_t *)value;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked_for,
                                              cublasLtMatmulHeuristicResult_t results[], int *count)
{
    (void)handle, (void)desc, (void)a, (void)b, (void)c, (void)d, (void)preference;
    fake.questions++;
    fake.asked_for = asked_for;
    *count = asked_for < fake.algo_count ? asked_for : fake.algo_count;
    memset(results, 0, (size_t)*count * sizeof results[0]);
    for (int i = 0; i < *count; i++)
        results[i].algo.data[0] = (uint64_t)(i + 1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    (void)handle, (void)desc, (void)a, (void)b, (void)c, (void)d, (void)algo;
    memset(result, 0, sizeof *result);
    return fake.accepts_bytes ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static enum ds_dtype fake_dtype(uint64_t type)
{
    return type == CUDA_R_32F ? DS_F32 : type == CUDA_R_16BF ? DS_BF16 : DS_F16;
}

/* element (row, column) of a column-major matrix, or of its transpose */
static double fake_at(const void *from, cublasLtMatrixLayout_t l, int is_transposed, uint64_t row,
                      uint64_t column)
{
    const uint64_t at = is_transposed ? row * l->data[3] + column : column * l->data[3] + row;
    const enum ds_dtype dtype = fake_dtype(l->data[0]);
    float x;

    ds_dtype_to_f32(&x, (const char *)from + at * ds_dtype_bytes(dtype), dtype, 1);
    return (double)x;
}

static void fake_multiply(cublasLtMatmulDesc_t desc, float alpha, const void *a,
                          cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl,
                          float beta, const void *c, void *d, cublasLtMatrixLayout_t dl)
{
    const int ta = (int)desc->data[0], tb = (int)desc->data[1];
    const uint64_t depth = al->data[ta ? 1 : 2];
    const enum ds_dtype out = fake_dtype(dl->data[0]);

    assert_int_equal(al->data[0], bl->data[0]);
    assert_true(out == DS_F32 || dl->data[0] == al->data[0]); /* what the library has kernels for */
    assert_int_equal(depth, bl->data[tb ? 2 : 1]);
    assert_int_equal(dl->data[1], al->data[ta ? 2 : 1]);
    assert_int_equal(dl->data[2], bl->data[tb ? 1 : 2]);
    for (uint64_t j = 0; j < dl->data[2]; j++)
        for (uint64_t i = 0; i < dl->data[1]; i++) {
            double sum = 0.0;
            float value;

            for (uint64_t l = 0; l < depth; l++)
                sum += fake_at(a, al, ta, i, l) * fake_at(b, bl, tb, l, j);
            value = (float)((double)alpha * sum);
            if (beta != 0.0f) /* else C is not read */
                value = (float)((double)alpha * sum + (double)beta * fake_at(c, dl, 0, i, j));
            ds_dtype_from_f32((char *)d + (j * dl->data[3] + i) * ds_dtype_bytes(out), out, &value,
                              1);
        }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t al, const void *b,
                              cublasLtMatrixLayout_t bl, const void *beta, const void *c,
                              cublasLtMatrixLayout_t cl, void *d, cublasLtMatrixLayout_t dl,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t stream)
{
    (void)handle, (void)cl, (void)stream;
    assert_ptr_equal(workspace, fake.scratch);
    assert_true(bytes <= GEMM_WORKSPACE_BYTES);
    assert_true(algo->data[0] >= 1 && algo->data[0] <= FAKE_ALGOS);
    if (fake.cost_ns[algo->data[0]] == 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(workspace, 0xee, bytes); /* it is the library's */
    fake.launches++;
    fake.last_algo = algo->data[0];
    fake.now_ns += fake.hot_after_ns && fake.now_ns > fake.hot_after_ns
                       ? fake.hot_cost_ns[algo->data[0]]
                       : fake.cost_ns[algo->data[0]];
    if (!fake.is_idle)
        fake_multiply(desc, *(const float *)alpha, a, al, b, bl, *(const float *)beta, c, d, dl);
    return CUBLAS_STATUS_SUCCESS;
}

#endif
