/* tensor.c - sizes, names and conversions of dtypes. Conversions serve files, not steps. */
#include "dstrain/tensor.h"

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

static uint32_t bits_of_float(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
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

int ds_dtype_to_f32(float *to, const void *from, enum ds_dtype dtype, size_t count)
{
    const uint8_t *at = from;

    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        double wide;

        switch (dtype) {
        case DS_F32:
            memcpy(&to[i], at + 4 * i, 4);
            break;
        case DS_F64:
            memcpy(&wide, at + 8 * i, 8);
            to[i] = (float)wide;
            break;
        case DS_BF16:
            memcpy(&half, at + 2 * i, 2);
            to[i] = float_of_bits((uint32_t)half << 16);
            break;
        case DS_F16:
            memcpy(&half, at + 2 * i, 2);
            to[i] = small_to_f32(half, 5, 10, 1);
            break;
        case DS_F8_E5M2:
            to[i] = small_to_f32(at[i], 5, 2, 1);
            break;
        case DS_F8_E4M3:
            to[i] = small_to_f32(at[i], 4, 3, 0);
            break;
        default:
            return 0;
        }
    }
    return 1;
}

static uint16_t f32_to_bf16(float value)
{
    uint32_t bits = bits_of_float(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static uint16_t f32_to_f16(float value)
{
    uint32_t bits = bits_of_float(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    float size = fabsf(value);

    if (size != size)
        return (uint16_t)(sign | 0x7e00u);
    if (size >= 65520.0f)
        return (uint16_t)(sign | 0x7c00u);
    if (size < 6.103515625e-05f) /* subnormal: multiples of 2^-24 */
        return (uint16_t)(sign | (uint16_t)nearbyintf(ldexpf(size, 24)));
    uint32_t magnitude = bits & 0x7fffffffu;
    magnitude += 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (uint16_t)((magnitude - 0x38000000u) >> 13));
}

int ds_dtype_from_f32(void *to, enum ds_dtype dtype, const float *from, size_t count)
{
    uint8_t *at = to;

    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        double wide;

        switch (dtype) {
        case DS_F32:
            memcpy(at + 4 * i, &from[i], 4);
            break;
        case DS_F64:
            wide = (double)from[i];
            memcpy(at + 8 * i, &wide, 8);
            break;
        case DS_BF16:
        case DS_F16:
            half = dtype == DS_BF16 ? f32_to_bf16(from[i]) : f32_to_f16(from[i]);
            memcpy(at + 2 * i, &half, 2);
            break;
        default:
            return 0;
        }
    }
    return 1;
}
