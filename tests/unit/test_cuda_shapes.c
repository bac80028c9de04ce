/* test_cuda_shapes.c - how CUDA kernels share out rows, heads and sums over tokens: every element has one
 * thread, and the shape of a sum depends on the tensors alone. Needs no GPU. */
// link: base
// private: runtime/kernels/cuda
#include "test.h"

#include "dstrain/kernels.h"
#include "shapes.h"

#define FOR_ALL(array, i) for (size_t i = 0; i < sizeof(array) / sizeof((array)[0]); i++)

static const size_t widths[] = {1,    7,    8,    33,   64,   200,   768,   2048,
                                2560, 4096, 5632, 8192, 8200, 11008, 16384, 40000};
static const size_t packs_of[] = {4, 8};

/* Adds one to every element of a pack that lies in the row. */
static void touch(unsigned char *row, size_t width, size_t pack, size_t first)
{
    for (size_t i = first; i < first + pack && i < width; i++)
        row[i]++;
}

static void assert_once(const unsigned char *row, size_t width)
{
    for (size_t i = 0; i < width; i++)
        assert_int_equal(row[i], 1);
}

static void rows_have_every_element_once(void **state)
{
    static unsigned char row[40000];

    (void)state;
    FOR_ALL(widths, w) FOR_ALL(packs_of, p) for (size_t packs = 1; packs <= 4; packs *= 2)
    {
        const struct row_shape shape = shape_rows(widths[w], packs_of[p], packs, 256);

        memset(row, 0, sizeof row);
        for (size_t t = 0; t < shape.threads; t++)
            for (size_t i = 0; i < packs; i++)
                touch(row, widths[w], packs_of[p], (i * shape.threads + t) * packs_of[p]);
        assert_once(row, widths[w]);
        assert_true(shape.threads % SHAPE_WARP == 0 && shape.rows >= 1);
        assert_true(shape.rows == 1 || shape.rows * shape.threads <= 256);
    }
}

static void chunks_have_every_element_once(void **state)
{
    static unsigned char row[40000];

    (void)state;
    FOR_ALL(widths, w) FOR_ALL(packs_of, p) for (size_t packs = 1; packs <= 4; packs *= 2)
    {
        const struct chunk_shape shape = shape_chunks(widths[w], packs_of[p], packs);

        memset(row, 0, sizeof row);
        for (size_t chunk = 0; chunk < shape.chunks; chunk++)
            for (size_t t = 0; t < shape.threads; t++)
                for (size_t i = 0; i < packs; i++)
                    touch(row, widths[w], packs_of[p],
                          ((chunk * packs + i) * shape.threads + t) * packs_of[p]);
        assert_once(row, widths[w]);
        assert_true(shape.threads % SHAPE_WARP == 0 && shape.threads <= 256);
    }
}

static void slabs_have_every_token_once_and_fit_the_scratch(void **state)
{
    static const size_t tokens[] = {0, 1, 63, 64, 65, 5000, 16384, 65536, (size_t)1 << 33};

    (void)state;
    FOR_ALL(tokens, t) FOR_ALL(widths, w) FOR_ALL(packs_of, p)
    {
        const struct column_shape s = shape_columns(tokens[t], widths[w], packs_of[p]);

        assert_true((size_t)s.strips * SHAPE_WARP * packs_of[p] >= widths[w]);
        assert_true(s.slabs * s.tokens >= tokens[t]);
        assert_true(s.slabs == 0 || (s.slabs - 1) * s.tokens < tokens[t]); /* none is empty */
        assert_true(s.slabs <= COLUMN_BLOCKS && s.slabs <= 65535);
        assert_true(s.slabs * widths[w] * sizeof(float) <= (size_t)256 << 20);
    }
}

struct head_walk {
    size_t tokens, heads, dim, pack;
};

/* A block's threads as the kernels place them. */
static void walk_heads(const struct head_walk *walk, unsigned char *touched)
{
    const size_t half = walk->dim / 2;
    const uint32_t width = shape_head_width(walk->dim, walk->pack);
    const struct head_shape shape = shape_heads(walk->tokens, walk->heads, width);

    assert_true(shape.lanes * shape.tokens * width <= HEAD_THREADS);
    assert_true(shape.lanes * shape.tokens * walk->dim <= 2 * HEAD_THREADS * walk->pack);
    for (size_t group = 0; group < shape.groups; group++)
        for (size_t thread = 0; thread < HEAD_THREADS; thread++) {
            const size_t unit = thread / width, token = group * shape.tokens + unit / shape.lanes;

            if (unit / shape.lanes >= shape.tokens || token >= walk->tokens)
                continue;
            for (size_t head = unit % shape.lanes; head < walk->heads; head += shape.lanes) {
                unsigned char *at = touched + (token * walk->heads + head) * walk->dim;

                touch(at, half, walk->pack, thread % width * walk->pack);
                touch(at + half, half, walk->pack, thread % width * walk->pack);
            }
        }
}

static void heads_have_every_element_once(void **state)
{
    static const size_t dims[] = {2, 6, 10, 32, 64, 80, 96, 112, 128, 192, 250, 256};
    static const size_t heads[] = {1, 2, 3, 8, 12, 32, 96, 300};
    static const size_t tokens[] = {1, 2, 70};
    static unsigned char touched[70 * 300 * 256];

    (void)state;
    FOR_ALL(dims, d) FOR_ALL(heads, h) FOR_ALL(tokens, t) FOR_ALL(packs_of, p)
    {
        const struct head_walk walk = {tokens[t], heads[h], dims[d], packs_of[p]};

        memset(touched, 0, sizeof touched);
        walk_heads(&walk, touched);
        assert_once(touched, walk.tokens * walk.heads * walk.dim);
    }
}

static void a_head_lies_in_one_warp(void **state)
{
    (void)state;
    FOR_ALL(packs_of, p)
    for (size_t dim = 2; dim <= DS_HEAD_DIM_MAX; dim += 2) {
        const uint32_t width = shape_head_width(dim, packs_of[p]);

        assert_true(width <= SHAPE_WARP && (width & (width - 1)) == 0);
        assert_true(width * packs_of[p] >= dim / 2);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_every_element_once),
        cmocka_unit_test(chunks_have_every_element_once),
        cmocka_unit_test(slabs_have_every_token_once_and_fit_the_scratch),
        cmocka_unit_test(heads_have_every_element_once),
        cmocka_unit_test(a_head_lies_in_one_warp),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
