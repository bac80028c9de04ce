/* kernel_case.h - what kernel tests share: memory of one case, random inputs, distances, and running
 * the same case with several numbers of threads.
 *
 * A case keeps its numbers as fp32, whatever it is stored as: inputs are values that the storage holds,
 * case_store hands a kernel the 16-bit tensors, case_load brings their values back. */
#ifndef DSTRAIN_KERNEL_CASE_H
#define DSTRAIN_KERNEL_CASE_H

#include "kernel_device.h"
#include "test.h"

#include "dstrain/kernels.h"

#include <math.h>
#include <omp.h>

#define CASE_ARRAYS         64
#define CASE_CLOSE          1e-6 /* |got - want| / |want| of an fp32 kernel against fp64 */
#define FOR_ROWS(rows, row) for (size_t row = 0; row < sizeof(rows) / sizeof((rows)[0]); row++)

/* What a case's tensors are stored as. */
enum case_storage { CASE_F32, CASE_BF16, CASE_F16, CASE_STORAGE_COUNT };

static const enum ds_dtype case_dtypes[] = {DS_F32, DS_BF16, DS_F16};

#define FOR_STORAGES(k) \
    for ((k)->storage = CASE_F32; (k)->storage < CASE_STORAGE_COUNT; (k)->storage++)

struct kernel_case {
    uint64_t random;
    enum case_storage storage;
    size_t array_count;
    void *arrays[CASE_ARRAYS];
    /* 16-bit copies that a kernel was given */
    size_t stored_count;
    struct {
        float *values;
        struct ds_tensor tensor;
    } stored[16];
};

static inline uint64_t case_bits(struct kernel_case *k)
{
    uint64_t z = k->random += 0x9e3779b97f4a7c15u; /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* uniform in [-1, 1) */
static inline double case_uniform(struct kernel_case *k)
{
    return (double)(case_bits(k) >> 11) * 0x1p-52 - 1;
}

static inline void *case_bytes(struct kernel_case *k, size_t bytes)
{
    void *at;

    DS_ASSERT(bytes < (size_t)1 << 30);
    at = malloc(bytes ? bytes : 1);
    assert_non_null(at);
    assert_true(k->array_count < CASE_ARRAYS);
    memset(at, 0x5a, bytes);
    return k->arrays[k->array_count++] = at;
}

/* to the nearest value that `storage` holds */
static inline float case_rounded(enum case_storage storage, float value)
{
    unsigned char code[4];

    assert_true(ds_dtype_from_f32(code, case_dtypes[storage], &value, 1));
    assert_true(ds_dtype_to_f32(&value, code, case_dtypes[storage], 1));
    return value;
}

static inline float *case_floats(struct kernel_case *k, size_t count)
{
    float *x = case_bytes(k, count * sizeof *x);

    for (size_t i = 0; i < count; i++)
        x[i] = case_rounded(k->storage, (float)case_uniform(k));
    return x;
}

static inline float *case_copy(struct kernel_case *k, const float *from, size_t count)
{
    float *x = case_bytes(k, count * sizeof *x);

    memcpy(x, from, count * sizeof *x);
    return x;
}

static inline double *case_doubles(struct kernel_case *k, size_t count)
{
    double *x = case_bytes(k, count * sizeof *x);

    memset(x, 0, count * sizeof *x);
    return x;
}

static inline double *case_widen(struct kernel_case *k, const float *from, size_t count)
{
    double *x = case_doubles(k, count);

    for (size_t i = 0; i < count; i++)
        x[i] = from[i];
    return x;
}

static inline void case_free(struct kernel_case *k)
{
    while (k->array_count > 0)
        free(k->arrays[--k->array_count]);
    k->stored_count = 0;
}

static inline size_t case_elems(const struct ds_tensor *tensor)
{
    size_t count = 1;

    for (uint32_t i = 0; i < tensor->dim_count; i++)
        count *= tensor->shape[i];
    return count;
}

/* An fp32 tensor's values, stored as `storage`; the same memory is stored once. */
static inline void case_store_as(struct kernel_case *k, struct ds_tensor *tensor,
                                 enum case_storage storage)
{
    float *values = tensor->data;

    if (!values || storage == CASE_F32)
        return;
    tensor->dtype = case_dtypes[storage];
    for (size_t i = 0; i < k->stored_count; i++)
        if (k->stored[i].values == values) {
            tensor->data = k->stored[i].tensor.data;
            return;
        }
    assert_true(k->stored_count < sizeof k->stored / sizeof k->stored[0]);
    tensor->data = case_bytes(k, case_elems(tensor) * 2);
    assert_true(ds_dtype_from_f32(tensor->data, tensor->dtype, values, case_elems(tensor)));
    k->stored[k->stored_count].values = values;
    k->stored[k->stored_count++].tensor = *tensor;
}

static inline void case_store(struct kernel_case *k, struct ds_tensor *tensor)
{
    case_store_as(k, tensor, k->storage);
}

/* What kernels have left in the stored tensors. */
static inline void case_load(struct kernel_case *k)
{
    for (size_t i = 0; i < k->stored_count; i++) {
        const struct ds_tensor *tensor = &k->stored[i].tensor;

        assert_true(
            ds_dtype_to_f32(k->stored[i].values, tensor->data, tensor->dtype, case_elems(tensor)));
    }
    k->stored_count = 0;
}

/* |got - want| / |want|. A few elements may cancel to almost nothing; they are measured against the
 * size of the inputs, which is about one each. */
static inline double case_distance(const float *got, const double *want, size_t count)
{
    double error = 0, size = 0;

    for (size_t i = 0; i < count; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    if (count <= 64)
        size = fmax(size, 0.1 * (double)count);
    return size > 0 ? sqrt(error / size) : sqrt(error);
}

#define assert_within(got, want, count, limit) \
    case_assert_close((got), (want), (count), (limit), #got, __FILE__, __LINE__)
#define assert_close(got, want, count) assert_within(got, want, count, CASE_CLOSE)

static inline void case_assert_close(const float *got, const double *want, size_t count,
                                     double limit, const char *text, const char *file, int line)
{
    double distance = case_distance(got, want, count);

    if (!(distance <= limit))
        printf("%s: distance %.3g, allowed %.3g\n", text, distance, limit);
    _assert_true(distance <= limit, text, file, line);
}

/* half the distance of neighbours of `storage` at `value`: what one rounding may change */
static inline double case_half_ulp(enum case_storage storage, double value)
{
    static const int digits[] = {24, 8, 11}, lowest[] = {-126, -126, -14};
    int exponent;

    (void)frexp(value, &exponent); /* value = f * 2^exponent, f < 1 */
    exponent = exponent - 1 < lowest[storage] ? lowest[storage] : exponent - 1;
    return ldexp(0.5, exponent - (digits[storage] - 1));
}

/* Of a kernel that computes in fp32 and rounds once, at the end: every element is as near as its
 * storage allows, plus the error of fp32, `limit` relative to the size of all. An element may have 32
 * times its share of that. */
static inline void case_assert_rounded(enum case_storage storage, const float *got,
                                       const double *want, size_t count, double limit,
                                       const char *text, const char *file, int line)
{
    double size = 0;

    if (storage == CASE_F32) {
        case_assert_close(got, want, count, limit, text, file, line);
        return;
    }
    for (size_t i = 0; i < count; i++)
        size += want[i] * want[i] / (double)count;
    for (size_t i = 0; i < count; i++) {
        const double allowed = case_half_ulp(storage, want[i]) + 32 * limit * sqrt(fmax(size, 0.1));

        if (!(fabs(got[i] - want[i]) <= allowed))
            printf("%s[%zu], %s: %.9g, fp64 says %.9g +- %.3g\n", text, i,
                   ds_dtype_name(case_dtypes[storage]), got[i], want[i], allowed);
        _assert_true(fabs(got[i] - want[i]) <= allowed, text, file, line);
    }
}

/* Of a sum whose terms may cancel: `size` is the sum of their sizes, and no result is off by more than
 * one unit roundoff of that for each of the `roundings` on a term's way into it. */
static inline void case_assert_bounded(enum case_storage storage, const float *got,
                                       const double *want, const double *size, size_t count,
                                       double roundings, const char *text, const char *file,
                                       int line)
{
    for (size_t i = 0; i < count; i++) {
        const double last = storage == CASE_F32 ? 0 : case_half_ulp(storage, want[i]);
        const double allowed = last + roundings * 0x1p-24 * size[i] + 0x1p-149;

        if (!(fabs(got[i] - want[i]) <= allowed))
            printf("%s[%zu], %s: %.9g, fp64 says %.9g +- %.3g\n", text, i,
                   ds_dtype_name(case_dtypes[storage]), got[i], want[i], allowed);
        _assert_true(fabs(got[i] - want[i]) <= allowed, text, file, line);
    }
}

#define assert_bounded(storage, got, want, size, count, roundings)                              \
    case_assert_bounded((storage), (got), (want), (size), (count), (roundings), #got, __FILE__, \
                        __LINE__)
#define assert_rounded_within(storage, got, want, count, limit) \
    case_assert_rounded((storage), (got), (want), (count), (limit), #got, __FILE__, __LINE__)
#define assert_rounded(storage, got, want, count) \
    assert_rounded_within(storage, got, want, count, CASE_CLOSE)

/* d loss / d x along random directions against central differences of `loss`, all in fp64.
 * `gradient` is the kernel's. Distances are measured against |gradient| |direction|. */
static inline void case_assert_slope(struct kernel_case *k, double (*loss)(void *of), void *of,
                                     double *x, const float *gradient, size_t count)
{
    double *kept = case_doubles(k, count), *direction = case_doubles(k, count);

    memcpy(kept, x, count * sizeof *x);
    for (int trial = 0; trial < 4; trial++) {
        const double step = 1e-5;
        double slope = 0, length = 0, size = 0, rise;

        for (size_t i = 0; i < count; i++) {
            direction[i] = case_uniform(k);
            slope += gradient[i] * direction[i];
            length += direction[i] * direction[i];
            size += (double)gradient[i] * gradient[i];
            x[i] = kept[i] + step * direction[i];
        }
        rise = loss(of);
        for (size_t i = 0; i < count; i++)
            x[i] = kept[i] - step * direction[i];
        rise = (rise - loss(of)) / (2 * step);
        memcpy(x, kept, count * sizeof *x);
        if (fabs(rise - slope) > 1e-5 * sqrt(size * length) + 1e-9)
            printf("slope %.9g, differences say %.9g\n", slope, rise);
        assert_true(fabs(rise - slope) <= 1e-5 * sqrt(size * length) + 1e-9);
    }
}

/* Runs `run` with 1, 2 and 3 threads; `out` (its result) must have the same bytes every time. `run`
 * makes its inputs anew from the seed it is given. (To another device it is the same run three times.) */
static inline void case_assert_threads_agree(void (*run)(uint64_t seed, size_t row, void *out),
                                             uint64_t seed, size_t row, size_t bytes)
{
    unsigned char *first = malloc(bytes), *other = malloc(bytes);

    assert_true(first && other);
    omp_set_num_threads(1);
    run(seed, row, first);
    for (int threads = 2; threads <= 3; threads++) {
        memset(other, 0xa5, bytes);
        omp_set_num_threads(threads);
        run(seed, row, other);
        assert_memory_equal(first, other, bytes);
    }
    free(first);
    free(other);
}

static inline struct ds_tensor f32_1(float *x, size_t a)
{
    return ds_tensor1(x, DS_F32, a);
}

static inline struct ds_tensor f32_2(float *x, size_t a, size_t b)
{
    return ds_tensor2(x, DS_F32, a, b);
}

static inline struct ds_tensor f32_3(float *x, size_t a, size_t b, size_t c)
{
    return ds_tensor3(x, DS_F32, a, b, c);
}

static const struct ds_tensor case_absent;

#endif
