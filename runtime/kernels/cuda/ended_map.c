/* ended_map.c - what a product with an end of its own needs of the driver: how the copy engine finds the boxes of a matrix. */
#include "ended_map.h"

#include <dlfcn.h>

typedef CUresult encode_fn(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *at,
                           const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box,
                           const cuuint32_t *steps, CUtensorMapInterleave interleave,
                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                           CUtensorMapFloatOOBfill fill);

/* The driver is in the process already: the runtime has loaded it. */
void cuda_ended_open(const struct cuda_device *device, struct cuda_math *math)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    union {
        void *object;
        void (*function)(void);
    } found = {driver ? dlsym(driver, "cuTensorMapEncodeTiled") : NULL};

    if (device->major == 9 && device->minor == 0)
        math->encode = found.function;
}

static int is_boxed(const struct ds_tensor *matrix)
{
    return (uintptr_t)matrix->data % 16 == 0 && matrix->dim_count == 2 && matrix->shape[0] > 0 &&
           matrix->shape[1] > 0 && matrix->shape[1] % 8 == 0 && matrix->shape[0] < INT32_MAX &&
           matrix->shape[1] < INT32_MAX;
}

int cuda_ended_fits(struct ds_stream *stream, const struct ds_tensor *a, const struct ds_tensor *b)
{
    const struct cuda_device *device = cuda_device_of(stream);

    return device->math->encode && a->data && (a->dtype == DS_BF16 || a->dtype == DS_F16) &&
           b->dtype == a->dtype && is_boxed(a) && is_boxed(b);
}

ds_status cuda_ended_map(struct ds_stream *stream, const struct ds_tensor *matrix, uint32_t rows,
                         CUtensorMap *map)
{
    encode_fn *const encode = (encode_fn *)cuda_device_of(stream)->math->encode;
    const cuuint64_t dims[2] = {matrix->shape[1], matrix->shape[0]};
    const cuuint64_t strides[1] = {matrix->shape[1] * 2};
    const cuuint32_t box[2] = {ENDED_BOX_COLUMNS, rows}, steps[2] = {1, 1};
    const CUresult result =
        encode(map,
               matrix->dtype == DS_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                        : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
               2, matrix->data, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

    return result == CUDA_SUCCESS
               ? DS_OK
               : ds_fail(DS_ERR_DEVICE, "cuTensorMapEncodeTiled: driver error %d", (int)result);
}
