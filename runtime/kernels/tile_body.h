/* tile_body.h - the product for one instruction set; tile.c includes it once for each.
 *
 * TILE_NAME(x): the name of x in this version; TILE_TARGET: attribute that allows the instructions;
 * TILE_WIDTH: floats in a vector; TILE_VECTORS: vectors in a row of the register block. A block of
 * TILE_ROWS x TILE_VECTORS sums stays in registers while k runs. */

/* gcc lowers vector types before it inlines, so each function carries the target itself */
#define TILE_INLINE TILE_TARGET static inline __attribute__((always_inline))

typedef float TILE_NAME(vector) __attribute__((vector_size(TILE_WIDTH * 4)));
/* the same in memory, where it may lie anywhere */
typedef float TILE_NAME(stored) __attribute__((vector_size(TILE_WIDTH * 4), aligned(4), may_alias));

/* `rows` and `vectors` are constants where this is called: the loops over them unroll. */
TILE_INLINE void TILE_NAME(block)(const struct tile_product *p, size_t row, size_t column,
                                  const size_t rows, const size_t vectors)
{
    TILE_NAME(vector) sum[TILE_ROWS][TILE_VECTORS] = {0};
    const float *a = p->a + row * p->a_row;
    const float *b = p->b + column;

    for (size_t l = 0; l < p->k; l++, a += p->a_column, b += p->b_stride)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < vectors; j++)
                sum[i][j] += a[i * p->a_row] * *(const TILE_NAME(stored) *)(b + j * TILE_WIDTH);
    float *c = p->c + row * p->c_stride + column;
    const size_t c_stride = p->c_stride;
    const int add = p->add; /* copies: for all the compiler knows, a store may change *p */

    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < vectors; j++) {
            TILE_NAME(stored) *at = (TILE_NAME(stored) *)(c + i * c_stride + j * TILE_WIDTH);

            if (add)
                sum[i][j] += *at;
            *at = sum[i][j];
        }
}

/* All rows of some columns. */
TILE_INLINE void TILE_NAME(panel)(const struct tile_product *p, size_t column, const size_t vectors)
{
    size_t row = 0;

    for (; row + TILE_ROWS <= p->m; row += TILE_ROWS)
        TILE_NAME(block)(p, row, column, TILE_ROWS, vectors);
    for (; row < p->m; row++)
        TILE_NAME(block)(p, row, column, 1, vectors);
}

TILE_TARGET KERNEL_UNSEEN static void TILE_NAME(product)(const struct tile_product *p)
{
    const size_t width = (size_t)TILE_VECTORS * TILE_WIDTH;
    size_t column = 0;

    for (; column + width <= p->n; column += width)
        TILE_NAME(panel)(p, column, TILE_VECTORS);
#if TILE_VECTORS * TILE_WIDTH > TILE_LANES
    for (; column < p->n; column += TILE_LANES)
        TILE_NAME(panel)(p, column, TILE_LANES / TILE_WIDTH);
#endif
}

#undef TILE_INLINE
