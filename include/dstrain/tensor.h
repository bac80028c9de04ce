/* tensor.h - dtypes and the three facts that describe a tensor: where, of what, how large.
 * Read by C and by nvcc. Tensors are contiguous and row-major. pure: everything here. */
#ifndef DSTRAIN_TENSOR_H
#define DSTRAIN_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
/* name, bytes of one element, spelling in safetensors files */
#define DS_DTYPE_LIST(X) \
    X(BOOL, 1, "BOOL") X(U8, 1, "U8") X(I8, 1, "I8") X(F8_E5M2, 1, "F8_E5M2") X(F8_E4M3, 1, "F8_E4M3") \
    X(I16, 2, "I16") X(U16, 2, "U16") X(F16, 2, "F16") X(BF16, 2, "BF16")                             \
    X(I32, 4, "I32") X(U32, 4, "U32") X(F32, 4, "F32")                                                \
    X(F64, 8, "F64") X(I64, 8, "I64") X(U64, 8, "U64")
/* clang-format on */

#define DS_DTYPE_ENUM(name, bytes, text) DS_##name,
enum ds_dtype { DS_DTYPE_LIST(DS_DTYPE_ENUM) DS_DTYPE_COUNT };
#undef DS_DTYPE_ENUM

#define DS_DIMS_MAX 4

size_t ds_dtype_bytes(enum ds_dtype dtype);
const char *ds_dtype_name(enum ds_dtype dtype);           /* safetensors spelling */
int ds_dtype_parse(const char *text, enum ds_dtype *out); /* 0: unknown, out unchanged */

struct ds_tensor {
    void *data;
    enum ds_dtype dtype; /* of storage; a kernel that lacks one returns DS_ERR_UNSUPPORTED */
    uint32_t dim_count;
    uint64_t shape[DS_DIMS_MAX];
};

/* pure: `count` elements of any float dtype to fp32 and back (round to nearest even; NaN stays
 * NaN). Used where files meet memory, not in a step. 0: that dtype is not a float. */
int ds_dtype_to_f32(float *to, const void *from, enum ds_dtype dtype, size_t count);
int ds_dtype_from_f32(void *to, enum ds_dtype dtype, const float *from, size_t count);

static inline struct ds_tensor ds_tensor1(void *data, enum ds_dtype dtype, uint64_t d0)
{
    struct ds_tensor t = {data, dtype, 1, {d0, 1, 1, 1}};
    return t;
}
static inline struct ds_tensor ds_tensor2(void *data, enum ds_dtype dtype, uint64_t d0, uint64_t d1)
{
    struct ds_tensor t = {data, dtype, 2, {d0, d1, 1, 1}};
    return t;
}
static inline struct ds_tensor ds_tensor3(void *data, enum ds_dtype dtype, uint64_t d0, uint64_t d1,
                                          uint64_t d2)
{
    struct ds_tensor t = {data, dtype, 3, {d0, d1, d2, 1}};
    return t;
}

/* A range of elements. */
struct ds_span {
    uint64_t start, count;
};

#ifdef __cplusplus
}
#endif
#endif
