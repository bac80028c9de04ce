/* finite.c - see finite.h. Looked at as bits: an exponent of ones alone is no number, whatever the mantissa. */
#include "finite.h"

#include "dstrain/clones.h"

#define EXPONENT_F32  0x7f800000u
#define EXPONENT_BF16 0x7f80u
#define EXPONENT_F16  0x7c00u

/* No way out of these loops, so that they become vectors. */
DS_CLONES static int has_bad_32(const uint32_t *at, uint64_t count)
{
    uint32_t found = 0;

    for (uint64_t i = 0; i < count; i++)
        found |= (uint32_t)((at[i] & EXPONENT_F32) == EXPONENT_F32);
    return found != 0;
}

DS_CLONES static int has_bad_16(const uint16_t *at, uint64_t count, uint16_t exponent)
{
    uint16_t found = 0;

    for (uint64_t i = 0; i < count; i++)
        found |= (uint16_t)((at[i] & exponent) == exponent);
    return found != 0;
}

static int has_bad(const uint8_t *at, uint64_t count, enum ds_dtype dtype)
{
    switch (dtype) {
    case DS_F32:
        return has_bad_32((const uint32_t *)(const void *)at, count);
    case DS_BF16:
        return has_bad_16((const uint16_t *)(const void *)at, count, EXPONENT_BF16);
    case DS_F16:
        return has_bad_16((const uint16_t *)(const void *)at, count, EXPONENT_F16);
    default:
        return 0;
    }
}

ds_status finite_check(const struct ds_catalogue *catalogue, const struct ds_pack_chunk *chunk,
                       const void *body)
{
    const uint8_t *at = body;
    uint64_t first = 0;

    if (!has_bad(at, chunk->end - chunk->begin, chunk->dtype))
        return DS_OK;
    while (!has_bad(at + first * ds_dtype_bytes(chunk->dtype), 1, chunk->dtype))
        first++;
    return ds_fail(DS_ERR_DATA, "%s of %s is not finite at element %llu of its part; not saved",
                   ds_state_kind_name(chunk->kind), catalogue->tensors[chunk->tensor].name,
                   (unsigned long long)(chunk->begin + first));
}
