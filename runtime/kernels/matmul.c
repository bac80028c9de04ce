/* matmul.c - C = op(A) op(B) + add * C in fp32.
 *
 * C is cut into tiles by its shape alone; a tile is made by one thread, with OpenBLAS or, where there
 * is none, with the own kernel. So the bits do not depend on the number of threads, which they do
 * when OpenBLAS divides the work. Any thread may call; several may at once. */
#include "blas.h"
#include "kernels.h"
#include "launch.h"
#include "tile.h"

#include <limits.h>
#include <omp.h>
#include <string.h>

struct gemm {
    const float *a, *b;
    float *c;
    size_t m, n, k;
    size_t a_stride, b_stride; /* of stored rows; C's is n */
    int trans_a, trans_b, add;
};

/* Rows and columns of a tile. The smaller, the more often A and B are packed: the largest wins that
 * leaves enough tiles to share out. */
struct gemm_tiling {
    size_t rows, columns, row_count, count;
};

static struct gemm_tiling choose_tiling(const struct gemm *g)
{
    static const size_t sizes[][2] = {{1024, 1024}, {512, 1024}, {512, 512}, {256, 512},
                                      {256, 256},   {128, 256},  {128, 128}};
    const size_t worth_sharing = (size_t)1 << 18; /* products */
    const size_t enough = g->m * g->n * g->k > worth_sharing ? 8 : 1;
    struct gemm_tiling t = {0};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && t.count < enough; i++) {
        size_t across = (g->n + sizes[i][1] - 1) / sizes[i][1];

        t.row_count = (g->m + sizes[i][0] - 1) / sizes[i][0];
        t.count = t.row_count * across;
        t.rows = TILE_ROUND_UP((g->m + t.row_count - 1) / t.row_count);
        t.columns = TILE_ROUND_UP((g->n + across - 1) / across);
    }
    return t;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The part of the product that makes tile `index`; tiles of one column of tiles come in a row. */
static struct gemm cut_tile(const struct gemm *g, const struct gemm_tiling *t, size_t index)
{
    size_t row = index % t->row_count * t->rows, column = index / t->row_count * t->columns;
    struct gemm tile = *g;

    tile.m = row < g->m ? smaller(t->rows, g->m - row) : 0;
    tile.n = column < g->n ? smaller(t->columns, g->n - column) : 0;
    tile.a += g->trans_a ? row : row * g->a_stride;
    tile.b += g->trans_b ? column * g->b_stride : column;
    tile.c += row * g->n + column;
    return tile;
}

#define PANEL 64  /* rows and columns of C in hand */
#define DEPTH 256 /* of k at a time: a packed piece of B is 64 KiB */

/* B[first .. first+depth, column .. column+n] as rows of PANEL, zeros behind n */
static void pack_b(float *to, const struct gemm *g, size_t first, size_t depth, size_t column,
                   size_t n)
{
    if (g->trans_b) {
        kernel_tile_transpose(to, PANEL, g->b + column * g->b_stride + first, g->b_stride, n,
                              depth);
        return;
    }
    for (size_t l = 0; l < depth; l++)
        for (size_t j = 0; j < TILE_ROUND_UP(n); j++)
            to[l * PANEL + j] = j < n ? g->b[(first + l) * g->b_stride + column + j] : 0.0f;
}

static void store_c(float *c, size_t c_stride, const float *sum, size_t rows, size_t columns,
                    int add)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            c[i * c_stride + j] =
                add ? c[i * c_stride + j] + sum[i * PANEL + j] : sum[i * PANEL + j];
}

/* One piece of B against all rows of the tile. */
static void own_panel(const struct gemm *g, size_t c_stride, size_t first, size_t column)
{
    _Alignas(64) float b[DEPTH * PANEL], sum[PANEL * PANEL];
    size_t depth = smaller(DEPTH, g->k - first), n = smaller(PANEL, g->n - column);

    pack_b(b, g, first, depth, column, n);
    for (size_t row = 0; row < g->m; row += PANEL) {
        const float *a =
            g->a + (g->trans_a ? first * g->a_stride + row : row * g->a_stride + first);
        size_t m = smaller(PANEL, g->m - row);

        kernel_tile_product(&(struct tile_product){.m = m,
                                                   .n = TILE_ROUND_UP(n),
                                                   .k = depth,
                                                   .a = a,
                                                   .a_row = g->trans_a ? 1 : g->a_stride,
                                                   .a_column = g->trans_a ? g->a_stride : 1,
                                                   .b = b,
                                                   .b_stride = PANEL,
                                                   .c = sum,
                                                   .c_stride = PANEL});
        store_c(g->c + row * c_stride + column, c_stride, sum, m, n, g->add || first > 0);
    }
}

static void own_tile(const struct gemm *g, size_t c_stride)
{
    for (size_t column = 0; column < g->n; column += PANEL)
        for (size_t first = 0; first < g->k; first += DEPTH)
            own_panel(g, c_stride, first, column);
}

/* k in parts that an int holds; the tile's rows and columns are small. */
static void blas_tile(blas_sgemm sgemm, const struct gemm *g, size_t c_stride)
{
    const size_t part_max = (size_t)1 << 30;

    for (size_t first = 0; first < g->k; first += part_max) {
        const float *a = g->a + (g->trans_a ? first * g->a_stride : first);
        const float *b = g->b + (g->trans_b ? first : first * g->b_stride);

        sgemm(BLAS_ROW_MAJOR, g->trans_a ? BLAS_TRANSPOSED : BLAS_PLAIN,
              g->trans_b ? BLAS_TRANSPOSED : BLAS_PLAIN, (int)g->m, (int)g->n,
              (int)smaller(part_max, g->k - first), 1.0f, a, (int)g->a_stride, b, (int)g->b_stride,
              g->add || first > 0 ? 1.0f : 0.0f, g->c, (int)c_stride);
    }
}

static void multiply(const struct gemm *g)
{
    const struct gemm_tiling tiling = choose_tiling(g);
    const int has_int_strides = g->a_stride <= INT_MAX && g->b_stride <= INT_MAX && g->n <= INT_MAX;
    const blas_sgemm sgemm = has_int_strides ? kernel_blas_sgemm() : NULL;

#pragma omp parallel if (tiling.count > 1)
    {
        omp_set_num_threads(1); /* of this region: OpenBLAS looks at it */
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < tiling.count; i++) {
            struct gemm tile = cut_tile(g, &tiling, i);

            if (tile.m == 0 || tile.n == 0)
                continue; /* rounding up the sizes has used up the matrix */
            if (sgemm)
                blas_tile(sgemm, &tile, g->n);
            else
                own_tile(&tile, g->n);
        }
    }
}

static size_t columns_of(const struct ds_tensor *t)
{
    return t->shape[t->dim_count - 1];
}

static size_t rows_of(const struct ds_tensor *t)
{
    size_t count = 1;

    for (uint32_t i = 0; i + 1 < t->dim_count; i++)
        count *= t->shape[i];
    return count;
}

static struct gemm describe(const struct ds_matmul_args *args)
{
    return (struct gemm){.a = args->a.data,
                         .b = args->b.data,
                         .c = args->c.data,
                         .m = rows_of(&args->c),
                         .n = columns_of(&args->c),
                         .k = args->trans_a ? rows_of(&args->a) : columns_of(&args->a),
                         .a_stride = columns_of(&args->a),
                         .b_stride = columns_of(&args->b),
                         .trans_a = args->trans_a,
                         .trans_b = args->trans_b,
                         .add = args->add};
}

static ds_status matmul_work(void *args, int *done)
{
    const struct gemm g = describe(args);

    if (g.k > 0)
        multiply(&g);
    else if (!g.add)
        memset(g.c, 0, g.m * g.n * sizeof *g.c);
    *done = 1;
    return DS_OK;
}

/* Tensors of more than two dims count as rows of their last one. */
ds_status kernel_matmul(struct ds_stream *stream, const struct ds_matmul_args *args)
{
    KERNEL_WANTS("matmul", args, a, DS_F32);
    KERNEL_WANTS("matmul", args, b, DS_F32);
    KERNEL_WANTS("matmul", args, c, DS_F32);
    DS_ASSERT(rows_of(&args->c) == (args->trans_a ? columns_of(&args->a) : rows_of(&args->a)));
    DS_ASSERT(columns_of(&args->c) == (args->trans_b ? rows_of(&args->b) : columns_of(&args->b)));
    DS_ASSERT((args->trans_a ? rows_of(&args->a) : columns_of(&args->a)) ==
              (args->trans_b ? columns_of(&args->b) : rows_of(&args->b)));
    return kernel_launch(stream, matmul_work, args, sizeof *args);
}
