/* tile.c - products of small matrices, compiled for three widths of vectors. */
#include "tile.h"

#include "kernels.h"

#include <string.h>

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

void kernel_tile_product(const struct tile_product *product)
{
    DS_ASSERT(product->n % TILE_LANES == 0);
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
void kernel_tile_transpose(float *to, size_t to_stride, const float *from, size_t from_stride,
                           size_t rows, size_t columns)
{
    for (size_t first = 0; first < rows; first += TILE_LANES) {
        size_t count = rows - first < TILE_LANES ? rows - first : TILE_LANES;

        for (size_t column = 0; column < columns; column++) {
            const float *source = from + first * from_stride + column;
            float *target = to + column * to_stride + first;

            for (size_t i = 0; i < count; i++)
                target[i] = source[i * from_stride];
            for (size_t i = count; i < TILE_LANES; i++)
                target[i] = 0.0f;
        }
    }
}

void kernel_tile_copy(float *to, const float *from, size_t from_stride, size_t rows, size_t columns)
{
    size_t to_stride = TILE_ROUND_UP(columns);

    for (size_t i = 0; i < rows; i++) {
        memcpy(to + i * to_stride, from + i * from_stride, columns * sizeof *to);
        memset(to + i * to_stride + columns, 0, (to_stride - columns) * sizeof *to);
    }
}
