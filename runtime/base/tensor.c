/* tensor.c - sizes, names and conversions of dtypes. Conversions serve files, not steps. */
#include "dstrain/tensor.h"

#include "dstrain/narrow.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtype_rows[DS_DTYPE_COUNT] = {
#define DTYPE_ROW(name, bytes, text) [DS_##name] = {text, bytes},
    DS_DTYPE_LIST(DTYPE_ROW)};

size_t ds_dtype_bytes(enum ds_dtype dtype)
{
    return dtype_rows[dtype].bytes;
}

const char *ds_dtype_name(enum ds_dtype dtype)
{
    return dtype_rows[dtype].name;
}

int ds_dtype_parse(const char *text, enum ds_dtype *out)
{
    for (int i = 0; i < DS_DTYPE_COUNT; i++)
        if (strcmp(text, dtype_rows[i].name) == 0) {
            *out = (enum ds_dtype)i;
            return 1;
        }
    return 0;
}

static float float_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A small float of `exponent_bits` and `mantissa_bits` as fp32; `has_infinity` as in IEEE 754, else the
 * all-ones code alone is NaN (E4M3 of the OCP 8-bit specification). */
static float small_to_f32(uint32_t code, int exponent_bits, int mantissa_bits, int has_infinity)
{
    const uint32_t exponent_max = (1u << exponent_bits) - 1;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
    uint32_t exponent = (code >> mantissa_bits) & exponent_max;
    float sign = (code >> (exponent_bits + mantissa_bits)) & 1 ? -1.0f : 1.0f;

    if (has_infinity && exponent == exponent_max)
        return mantissa ? float_of_bits(0x7fc00000u) : sign * (float)INFINITY;
    if (!has_infinity && exponent == exponent_max && mantissa == (1u << mantissa_bits) - 1)
        return float_of_bits(0x7fc00000u);
    if (exponent == 0)
        return sign * ldexpf((float)mantissa, 1 - bias - mantissa_bits);
    return sign *
           ldexpf((float)(mantissa | 1u << mantissa_bits), (int)exponent - bias - mantissa_bits);
}

static void small_to_f32_all(float *to, const uint8_t *from, enum ds_dtype dtype, size_t count)
{
    const int is_e5m2 = dtype == DS_F8_E5M2;

    for (size_t i = 0; i < count; i++)
        to[i] = is_e5m2 ? small_to_f32(from[i], 5, 2, 1) : small_to_f32(from[i], 4, 3, 0);
}

static void f64_to_f32(float *to, const double *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (float)from[i];
}

static void f32_to_f64(double *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (double)from[i];
}

int ds_dtype_to_f32(float *to, const void *from, enum ds_dtype dtype, size_t count)
{
    switch (dtype) {
    case DS_F32:
        memcpy(to, from, count * sizeof *to);
        return 1;
    case DS_F64:
        f64_to_f32(to, from, count);
        return 1;
    case DS_BF16:
        ds_bf16_widen(to, from, count);
        return 1;
    case DS_F16:
        ds_f16_widen(to, from, count);
        return 1;
    case DS_F8_E5M2:
    case DS_F8_E4M3:
        small_to_f32_all(to, from, dtype, count);
        return 1;
    default:
        return 0;
    }
}

int ds_dtype_from_f32(void *to, enum ds_dtype dtype, const float *from, size_t count)
{
    switch (dtype) {
    case DS_F32:
        memcpy(to, from, count * sizeof *from);
        return 1;
    case DS_F64:
        f32_to_f64(to, from, count);
        return 1;
    case DS_BF16:
        ds_bf16_narrow(to, from, count);
        return 1;
    case DS_F16:
        ds_f16_narrow(to, from, count);
        return 1;
    default:
        return 0;
    }
}
