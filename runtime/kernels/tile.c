/* tile.c - products of small matrices, compiled for three widths of vectors. */
#include "tile.h"

#include "elements.h"
#include "kernels.h"
#include "seen.h"

#define TILE_ROWS 4

#define TILE_NAME(x) plain_##x
#define TILE_TARGET
#define TILE_WIDTH   4
#define TILE_VECTORS 2
#include "tile_body.h"
#undef TILE_NAME
#undef TILE_TARGET
#undef TILE_WIDTH
#undef TILE_VECTORS

#ifdef __x86_64__
#define TILE_NAME(x) avx2_##x
#define TILE_TARGET  __attribute__((target("avx2")))
#define TILE_WIDTH   8
#define TILE_VECTORS 2
#include "tile_body.h"
#undef TILE_NAME
#undef TILE_TARGET
#undef TILE_WIDTH
#undef TILE_VECTORS

#define TILE_NAME(x) avx512_##x
#define TILE_TARGET  __attribute__((target("avx512f")))
#define TILE_WIDTH   16
#define TILE_VECTORS 4
#include "tile_body.h"
#endif

static void tell_product(const struct tile_product *p)
{
    const size_t size = sizeof(float);

    if (p->a_column == 1)
        kernel_tell_read(p->a, p->a_row * size, p->m, p->k * size);
    else
        kernel_tell_read(p->a, p->a_column * size, p->k, p->m * size);
    kernel_tell_read(p->b, p->b_stride * size, p->k, p->n * size);
    kernel_tell_write(p->c, p->c_stride * size, p->m, p->n * size);
}

void kernel_tile_product(const struct tile_product *product)
{
    DS_ASSERT(product->n % TILE_LANES == 0);
    DS_ASSERT(product->a_column == 1 || product->a_row == 1);
    tell_product(product);
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f")) {
        avx512_product(product);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        avx2_product(product);
        return;
    }
#endif
    plain_product(product);
}

/* Sixteen rows at a time: the writes of a column are then one line of the cache. */
KERNEL_INLINE void transpose(float *to, size_t to_stride, const struct tile_source *source,
                             enum ds_dtype dtype)
{
    const struct tile_source s = *source;

    for (size_t first = 0; first < s.rows; first += TILE_LANES) {
        const size_t count = s.rows - first < TILE_LANES ? s.rows - first : TILE_LANES;

        for (size_t column = 0; column < s.columns; column++) {
            const void *from = element_from(s.from, first * s.from_stride + column, dtype);
            float *target = to + column * to_stride + first;

            for (size_t i = 0; i < count; i++)
                target[i] = element_load(from, i * s.from_stride, dtype);
            for (size_t i = count; i < TILE_LANES; i++)
                target[i] = 0.0f;
        }
    }
}

KERNEL_UNSEEN static void tile_transpose(float *to, size_t to_stride,
                                         const struct tile_source *source)
{
    ELEMENT_SWITCH(source->dtype, transpose, to, to_stride, source);
}

static void tell_source(const struct tile_source *source)
{
    const size_t size = ds_dtype_bytes(source->dtype);

    kernel_tell_read(source->from, source->from_stride * size, source->rows,
                     source->columns * size);
}

void kernel_tile_transpose(float *to, size_t to_stride, const struct tile_source *source)
{
    tell_source(source);
    kernel_tell_write(to, to_stride * sizeof *to, source->columns,
                      TILE_ROUND_UP(source->rows) * sizeof *to);
    tile_transpose(to, to_stride, source);
}

KERNEL_INLINE void copy_rows(float *to, const struct tile_source *source, enum ds_dtype dtype)
{
    const struct tile_source s = *source;
    const size_t to_stride = TILE_ROUND_UP(s.columns);

    for (size_t row = 0; row < s.rows; row++) {
        const void *from = element_from(s.from, row * s.from_stride, dtype);
        float *target = to + row * to_stride;

        for (size_t i = 0; i < s.columns; i++)
            target[i] = element_load(from, i, dtype);
        for (size_t i = s.columns; i < to_stride; i++)
            target[i] = 0.0f;
    }
}

KERNEL_CLONES KERNEL_UNSEEN static void tile_copy(float *to, const struct tile_source *source)
{
    ELEMENT_SWITCH(source->dtype, copy_rows, to, source);
}

void kernel_tile_copy(float *to, const struct tile_source *source)
{
    const size_t stride = TILE_ROUND_UP(source->columns) * sizeof *to;

    tell_source(source);
    kernel_tell_write(to, stride, source->rows, stride);
    tile_copy(to, source);
}

KERNEL_INLINE void store_rows(void *to, size_t to_stride, const float *from, size_t rows,
                              size_t columns, enum ds_dtype dtype)
{
    for (size_t row = 0; row < rows; row++) {
        void *target = element_to(to, row * to_stride, dtype);

        for (size_t i = 0; i < columns; i++)
            element_store(target, i, from[row * TILE_ROUND_UP(columns) + i], dtype);
    }
}

KERNEL_CLONES static void tile_store(void *to, enum ds_dtype dtype, size_t to_stride,
                                     const float *from, size_t rows, size_t columns)
{
    ELEMENT_SWITCH(dtype, store_rows, to, to_stride, from, rows, columns);
}

void kernel_tile_store(void *to, enum ds_dtype dtype, size_t to_stride, const float *from,
                       size_t rows, size_t columns)
{
    tile_store(to, dtype, to_stride, from, rows, columns);
}
