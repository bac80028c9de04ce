/* matmul.c - C = scale * op(A) op(B) + add * C, or + an addend.
 *
 * C is cut into tiles by its shape alone; a tile is made by one thread, with OpenBLAS or, where there
 * is none, with the own kernel. So the bits do not depend on the number of threads, which they do
 * when OpenBLAS divides the work. Any thread may call; several may at once.
 *
 * What is stored in 16 bits goes through fp32: a tile's part of A and B is read in pieces along k, its
 * sums stay in fp32 until the last piece, then they are rounded once. The room for that lies on the
 * stack, and bounds the tile. An addend joins the sums of a tile when they are complete. */
#include "blas.h"
#include "elements.h"
#include "kernels.h"
#include "launch.h"
#include "seen.h"
#include "tile.h"

#include <limits.h>
#include <omp.h>
#include <string.h>

struct gemm {
    const void *a, *b, *addend; /* the last may be NULL */
    void *c;
    enum ds_dtype in, out; /* of A and B, of C and the addend */
    size_t m, n, k;
    size_t a_stride, b_stride, c_stride; /* of stored rows */
    int trans_a, trans_b, add;
    float scale;
};

#define ROOM_SIDE 256 /* of a piece of A, B and C in fp32: 256 KiB each */

static int is_fp32(const struct gemm *g)
{
    return g->in == DS_F32 && g->out == DS_F32;
}

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
    const size_t side_max = is_fp32(g) ? SIZE_MAX : ROOM_SIDE;
    struct gemm_tiling t = {0};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && t.count < enough; i++) {
        const size_t across = (g->n + sizes[i][1] - 1) / sizes[i][1];

        if (sizes[i][0] > side_max || sizes[i][1] > side_max)
            continue;
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
    tile.a = element_from(g->a, g->trans_a ? row : row * g->a_stride, g->in);
    tile.b = element_from(g->b, g->trans_b ? column * g->b_stride : column, g->in);
    tile.c = element_to(g->c, row * g->c_stride + column, g->out);
    if (g->addend)
        tile.addend = element_from(g->addend, row * g->c_stride + column, g->out);
    return tile;
}

KERNEL_INLINE void add_rows(float *sum, size_t sum_stride, const struct gemm *g,
                            enum ds_dtype dtype)
{
    for (size_t row = 0; row < g->m; row++) {
        const void *addend = element_from(g->addend, row * g->c_stride, dtype);
        float *target = sum + row * sum_stride;

        for (size_t i = 0; i < g->n; i++)
            target[i] += element_load(addend, i, dtype);
    }
}

/* What is added to a tile's sums. */
KERNEL_CLONES static void join_addend(float *sum, size_t sum_stride, const struct gemm *g)
{
    ELEMENT_SWITCH(g->out, add_rows, sum, sum_stride, g);
}

#define PANEL 64  /* rows and columns of C in hand */
#define DEPTH 256 /* of k at a time: a packed piece of B is 64 KiB */

KERNEL_UNSEEN static void copy_b(float *to, const float *b, size_t stride, size_t depth, size_t n)
{
    for (size_t l = 0; l < depth; l++)
        for (size_t j = 0; j < TILE_ROUND_UP(n); j++)
            to[l * PANEL + j] = j < n ? b[l * stride + j] : 0.0f;
}

/* B[first .. first+depth, column .. column+n] as rows of PANEL, zeros behind n */
static void pack_b(float *to, const struct gemm *g, size_t first, size_t depth, size_t column,
                   size_t n)
{
    const float *b = g->b;

    if (g->trans_b) {
        kernel_tile_transpose(to, PANEL,
                              &(struct tile_source){.from = b + column * g->b_stride + first,
                                                    .dtype = DS_F32,
                                                    .from_stride = g->b_stride,
                                                    .rows = n,
                                                    .columns = depth});
        return;
    }
    kernel_tell_read(b + first * g->b_stride + column, g->b_stride * sizeof *b, depth,
                     n * sizeof *b);
    copy_b(to, b + first * g->b_stride + column, g->b_stride, depth, n);
}

/* Sums of a panel, times the scale, onto the tile of `g` at `c`. */
KERNEL_UNSEEN static void store_c(const struct gemm *g, float *c, const float *sum, size_t rows,
                                  size_t columns, int add)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            const float product = g->scale * sum[i * PANEL + j];

            c[i * g->c_stride + j] = add ? c[i * g->c_stride + j] + product : product;
        }
}

/* One piece of B against all rows of the tile. */
static void own_panel(const struct gemm *g, size_t first, size_t column)
{
    _Alignas(64) float b[DEPTH * PANEL], sum[PANEL * PANEL];
    size_t depth = smaller(DEPTH, g->k - first), n = smaller(PANEL, g->n - column);

    pack_b(b, g, first, depth, column, n);
    for (size_t row = 0; row < g->m; row += PANEL) {
        const float *a = (const float *)g->a +
                         (g->trans_a ? first * g->a_stride + row : row * g->a_stride + first);
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
        float *c = (float *)g->c + row * g->c_stride + column;

        kernel_tell_write(c, g->c_stride * sizeof *c, m, n * sizeof *c);
        store_c(g, c, sum, m, n, g->add || first > 0);
    }
}

static void own_tile(const struct gemm *g)
{
    for (size_t column = 0; column < g->n; column += PANEL)
        for (size_t first = 0; first < g->k; first += DEPTH)
            own_panel(g, first, column);
}

/* k in parts that an int holds; the tile's rows and columns are small. */
static void blas_tile(blas_sgemm sgemm, const struct gemm *g)
{
    const size_t part_max = (size_t)1 << 30;

    for (size_t first = 0; first < g->k; first += part_max) {
        const float *a = (const float *)g->a + (g->trans_a ? first * g->a_stride : first);
        const float *b = (const float *)g->b + (g->trans_b ? first : first * g->b_stride);

        sgemm(BLAS_ROW_MAJOR, g->trans_a ? BLAS_TRANSPOSED : BLAS_PLAIN,
              g->trans_b ? BLAS_TRANSPOSED : BLAS_PLAIN, (int)g->m, (int)g->n,
              (int)smaller(part_max, g->k - first), g->scale, a, (int)g->a_stride, b,
              (int)g->b_stride, g->add || first > 0 ? 1.0f : 0.0f, g->c, (int)g->c_stride);
    }
}

static void fp32_tile(blas_sgemm sgemm, const struct gemm *g)
{
    if (sgemm)
        blas_tile(sgemm, g);
    else
        own_tile(g);
}

/* Rows of A or B as they are stored, `first` .. `first` + depth of k of them, into `room`. */
static size_t read_piece(float *room, const void *from, enum ds_dtype dtype, size_t stride,
                         int k_is_row, size_t first, size_t depth, size_t side)
{
    const struct tile_source source = {
        .from = element_from(from, k_is_row ? first * stride : first, dtype),
        .dtype = dtype,
        .from_stride = stride,
        .rows = k_is_row ? depth : side,
        .columns = k_is_row ? side : depth};

    kernel_tile_copy(room, &source);
    return TILE_ROUND_UP(source.columns);
}

struct room {
    _Alignas(64) float a[ROOM_SIDE * ROOM_SIDE];
    float b[ROOM_SIDE * ROOM_SIDE], c[ROOM_SIDE * ROOM_SIDE];
};

static void stored_tile(blas_sgemm sgemm, const struct gemm *g)
{
    struct room room;
    struct gemm piece = *g;

    piece.in = piece.out = DS_F32;
    if (g->out != DS_F32) {
        piece.c = room.c;
        piece.c_stride = TILE_ROUND_UP(g->n);
        if (g->add)
            kernel_tile_copy(room.c, &(struct tile_source){g->c, g->out, g->c_stride, g->m, g->n});
    }
    piece.a = room.a;
    piece.b = room.b;
    for (size_t first = 0; first < g->k; first += ROOM_SIDE) {
        piece.k = smaller(ROOM_SIDE, g->k - first);
        piece.a_stride =
            read_piece(room.a, g->a, g->in, g->a_stride, g->trans_a, first, piece.k, g->m);
        piece.b_stride =
            read_piece(room.b, g->b, g->in, g->b_stride, !g->trans_b, first, piece.k, g->n);
        fp32_tile(sgemm, &piece);
        piece.add = 1;
    }
    if (g->addend)
        join_addend(piece.c, piece.c_stride, g);
    if (g->out != DS_F32)
        kernel_tile_store(g->c, g->out, g->c_stride, room.c, g->m, g->n);
}

static void make_tile(blas_sgemm sgemm, const struct gemm *g)
{
    if (!is_fp32(g)) {
        stored_tile(sgemm, g);
        return;
    }
    fp32_tile(sgemm, g);
    if (g->addend)
        join_addend(g->c, g->c_stride, g);
}

static void multiply(const struct gemm *g)
{
    const struct gemm_tiling tiling = choose_tiling(g);
    const int has_int_strides =
        g->a_stride <= INT_MAX && g->b_stride <= INT_MAX && g->c_stride <= INT_MAX;
    const blas_sgemm sgemm = has_int_strides ? kernel_blas_sgemm() : NULL;

#pragma omp parallel if (tiling.count > 1)
    {
        omp_set_num_threads(1); /* of this region: OpenBLAS looks at it */
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < tiling.count; i++) {
            struct gemm tile = cut_tile(g, &tiling, i);

            if (tile.m == 0 || tile.n == 0)
                continue; /* rounding up the sizes has used up the matrix */
            make_tile(sgemm, &tile);
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

static size_t stride_of(uint64_t stride, const struct ds_tensor *t)
{
    return stride ? stride : columns_of(t);
}

static struct gemm describe(const struct ds_matmul_args *args)
{
    return (struct gemm){.a = args->a.data,
                         .b = args->b.data,
                         .addend = args->addend.data,
                         .c = args->c.data,
                         .in = args->a.dtype,
                         .out = args->c.dtype,
                         .m = rows_of(&args->c),
                         .n = columns_of(&args->c),
                         .k = args->trans_a ? rows_of(&args->a) : columns_of(&args->a),
                         .a_stride = stride_of(args->a_stride, &args->a),
                         .b_stride = stride_of(args->b_stride, &args->b),
                         .c_stride = stride_of(args->c_stride, &args->c),
                         .trans_a = args->trans_a,
                         .trans_b = args->trans_b,
                         .add = args->add,
                         .scale = args->scale != 0 ? args->scale : 1};
}

/* The sum of no products. */
static void multiply_nothing(const struct gemm *g)
{
    const size_t bytes = g->n * ds_dtype_bytes(g->out);

    for (size_t row = 0; row < g->m && !g->add; row++) {
        void *to = element_to(g->c, row * g->c_stride, g->out);

        if (g->addend)
            memcpy(to, element_from(g->addend, row * g->c_stride, g->out), bytes);
        else
            memset(to, 0, bytes);
    }
}

static ds_status matmul_work(void *args, int *done)
{
    const struct gemm g = describe(args);

    if (g.k > 0)
        multiply(&g);
    else
        multiply_nothing(&g);
    *done = 1;
    return DS_OK;
}

/* Tensors of more than two dims count as rows of their last one. */
ds_status kernel_matmul(struct ds_stream *stream, const struct ds_matmul_args *args)
{
    KERNEL_WANTS_FLOAT("matmul", args, a);
    KERNEL_WANTS_SAME("matmul", args, b, a);
    KERNEL_WANTS_FLOAT("matmul", args, c);
    KERNEL_WANTS_SAME("matmul", args, addend, c);
    DS_ASSERT(!args->addend.data ||
              (!args->add && args->addend.data != args->c.data &&
               kernel_elems(&args->addend) == kernel_elems(&args->c) && args->c_stride == 0));
    DS_ASSERT(stride_of(args->a_stride, &args->a) >= columns_of(&args->a) &&
              stride_of(args->b_stride, &args->b) >= columns_of(&args->b) &&
              stride_of(args->c_stride, &args->c) >= columns_of(&args->c));
    DS_ASSERT(rows_of(&args->c) == (args->trans_a ? columns_of(&args->a) : rows_of(&args->a)));
    DS_ASSERT(columns_of(&args->c) == (args->trans_b ? rows_of(&args->b) : columns_of(&args->b)));
    DS_ASSERT((args->trans_a ? rows_of(&args->a) : columns_of(&args->a)) ==
              (args->trans_b ? columns_of(&args->b) : rows_of(&args->b)));
    return kernel_launch(stream, matmul_work, args, sizeof *args);
}
