/* combine.c - one loop per dtype and operation, vectorised for the processor at hand. */
#include "combine.h"

#include "dstrain/clones.h"
#include "dstrain/narrow.h"

#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#define SUM_OF(x, y)      ((x) + (y))
#define LARGEST_OF(x, y)  ((x) > (y) || (x) != (x) ? (x) : (y))
#define SMALLEST_OF(x, y) ((x) < (y) || (x) != (x) ? (x) : (y))

/* Integers add as unsigned: they wrap. */
#define COMBINE(name, type, f)                                                       \
    DS_CLONES static void name(void *to, const void *a, const void *b, size_t count) \
    {                                                                                \
        type *out = to;                                                              \
        const type *x = a, *y = b;                                                   \
        DS_NO_OVERLAP for (size_t i = 0; i < count; i++) out[i] = f(x[i], y[i]);     \
    }

COMBINE(sum_f32, float, SUM_OF)
COMBINE(sum_f64, double, SUM_OF)
COMBINE(sum_32, uint32_t, SUM_OF)
COMBINE(sum_64, uint64_t, SUM_OF)
COMBINE(max_f32, float, LARGEST_OF)
COMBINE(max_f64, double, LARGEST_OF)
COMBINE(max_i32, int32_t, LARGEST_OF)
COMBINE(max_i64, int64_t, LARGEST_OF)
COMBINE(max_u64, uint64_t, LARGEST_OF)
COMBINE(min_f32, float, SMALLEST_OF)
COMBINE(min_f64, double, SMALLEST_OF)
COMBINE(min_i32, int32_t, SMALLEST_OF)
COMBINE(min_i64, int64_t, SMALLEST_OF)
COMBINE(min_u64, uint64_t, SMALLEST_OF)

#define ROW(bytes, sum, max, min)                           \
    {                                                       \
        {sum, NULL, NULL, bytes}, {max, NULL, NULL, bytes}, \
        {                                                   \
            min, NULL, NULL, bytes                          \
        }                                                   \
    }
#define ROW_16(kind)                                             \
    {                                                            \
        {sum_f32, ds_##kind##_widen, ds_##kind##_narrow, 2},     \
            {max_f32, ds_##kind##_widen, ds_##kind##_narrow, 2}, \
        {                                                        \
            min_f32, ds_##kind##_widen, ds_##kind##_narrow, 2    \
        }                                                        \
    }

static const struct combine combine_table[DS_DTYPE_COUNT][3] = {
    [DS_BF16] = ROW_16(bf16),
    [DS_F16] = ROW_16(f16),
    [DS_F32] = ROW(4, sum_f32, max_f32, min_f32),
    [DS_F64] = ROW(8, sum_f64, max_f64, min_f64),
    [DS_I32] = ROW(4, sum_32, max_i32, min_i32),
    [DS_I64] = ROW(8, sum_64, max_i64, min_i64),
    [DS_U64] = ROW(8, sum_64, max_u64, min_u64),
};

const struct combine *combine_find(enum ds_dtype dtype, enum ds_reduce op)
{
    DS_ASSERT(dtype < DS_DTYPE_COUNT && op <= DS_REDUCE_MIN);
    return combine_table[dtype][op].fold != NULL ? &combine_table[dtype][op] : NULL;
}

/* The running sum of a block stays in the nearest cache while the parts of all ranks pass by. */
#define BLOCK_BYTES 8192
#define WIDE_ELEMS  (BLOCK_BYTES / sizeof(float))

static const uint8_t *part_of(const struct combine_parts *parts, uint32_t rank, size_t offset)
{
    const uint8_t *part = rank == parts->own_rank ? parts->own : parts->base + rank * parts->stride;

    return part + offset;
}

static void combine_block(const struct combine *combine, void *to,
                          const struct combine_parts *parts, size_t offset, size_t count)
{
    _Alignas(64) uint8_t sum[BLOCK_BYTES];
    const void *left = part_of(parts, 0, offset);

    for (uint32_t rank = 1; rank < parts->rank_count; rank++) {
        void *result = rank + 1 == parts->rank_count ? to : sum;

        combine->fold(result, left, part_of(parts, rank, offset), count);
        left = result;
    }
}

static void combine_wide(const struct combine *combine, void *to, const struct combine_parts *parts,
                         size_t offset, size_t count)
{
    _Alignas(64) float sum[WIDE_ELEMS], next[WIDE_ELEMS];

    combine->widen(sum, (const uint16_t *)part_of(parts, 0, offset), count);
    for (uint32_t rank = 1; rank < parts->rank_count; rank++) {
        combine->widen(next, (const uint16_t *)part_of(parts, rank, offset), count);
        combine->fold(sum, sum, next, count);
    }
    combine->narrow(to, sum, count);
}

void combine_ranks(const struct combine *combine, void *to, const struct combine_parts *parts,
                   size_t count)
{
    const int is_wide = combine->widen != NULL;
    const size_t block = is_wide ? WIDE_ELEMS : BLOCK_BYTES / combine->elem_bytes;

    DS_ASSERT(parts->rank_count > 1);
    for (size_t at = 0; at < count; at += block) {
        size_t now = count - at < block ? count - at : block, offset = at * combine->elem_bytes;

        (is_wide ? combine_wide : combine_block)(combine, (uint8_t *)to + offset, parts, offset,
                                                 now);
    }
}

struct ds_span combine_slice(size_t total, uint32_t rank_count, uint32_t rank)
{
    size_t slice = (total + rank_count - 1) / rank_count;

    slice = (slice + 15) / 16 * 16; /* ranks write to cache lines of their own */
    size_t start = slice * rank < total ? slice * rank : total;
    size_t count = total - start < slice ? total - start : slice;
    return (struct ds_span){start, count};
}

#if defined(__x86_64__)
void copy_past_cache(void *to, const void *from, size_t bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    size_t head = (64 - ((uintptr_t)out & 63)) & 63;

    if (bytes < 4096) {
        memcpy(out, in, bytes);
        return;
    }
    memcpy(out, in, head);
    size_t at = head;
    for (; at + 64 <= bytes; at += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)(in + at));
        __m128i b = _mm_loadu_si128((const __m128i *)(in + at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(in + at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(in + at + 48));
        _mm_stream_si128((__m128i *)(out + at), a);
        _mm_stream_si128((__m128i *)(out + at + 16), b);
        _mm_stream_si128((__m128i *)(out + at + 32), c);
        _mm_stream_si128((__m128i *)(out + at + 48), d);
    }
    memcpy(out + at, in + at, bytes - at);
    _mm_sfence(); /* streamed stores are not ordered by a later release */
}
#else
void copy_past_cache(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
#endif
