/* test_cuda_attention_index.c - where the own attention kernels of CUDA find their tiles: the arithmetic of
 * attention_index.h against the definition. Needs no GPU. */
// link: base
// private: runtime/kernels/cuda
#include "test.h"

#include "attention_index.h"
#include "kernel_compare.h"

/* The pieces of a row stay in it, and eight rows' same piece in eight groups of banks. */
static void pieces_of_a_tile_have_places_of_their_own(void **state)
{
    static unsigned char used[64 * 64];

    (void)state;
    for (uint32_t pieces = 8; pieces <= 64; pieces *= 2) {
        memset(used, 0, sizeof used);
        for (uint32_t row = 0; row < 64; row++)
            for (uint32_t piece = 0; piece < pieces; piece++) {
                const uint32_t at = attention_offset(row, piece, pieces * 16);

                assert_int_equal(at % 16, 0);
                assert_int_equal(at / 16 / pieces, row);
                assert_int_equal(used[at / 16]++, 0);
            }
        for (uint32_t piece = 0; piece < pieces; piece++) {
            uint32_t banks = 0;

            for (uint32_t row = 8; row < 16; row++)
                banks |= 1u << attention_offset(row, piece, pieces * 16) / 16 % 8;
            assert_int_equal(banks, 0xff);
        }
    }
}

static void blocks_cover_every_tile_of_every_head_once(void **state)
{
    enum { HEADS = 3, SEQS = 5, TILES = 7 };
    int count[TILES][SEQS][HEADS] = {0};

    (void)state;
    for (uint32_t block = 0; block < HEADS * SEQS * TILES; block++) {
        const struct attention_place p = attention_place_of(block, HEADS, SEQS);

        assert_int_equal(count[p.tile][p.seq][p.head]++, 0);
        assert_int_equal(p.tile, (int32_t)(block / (HEADS * SEQS))); /* the first ones first */
    }
}

static void make_documents(int32_t *document, int32_t length, uint64_t *seed)
{
    int32_t start = 0;

    for (int32_t t = 0; t < length; t++) {
        if (random_next(seed) % 20 == 0)
            start = t;
        document[t] = start;
    }
}

/* Every pair of a query and a key that sees it lies in the walks of both, and the walks end where nobody sees
 * anything any more. */
static void walks_meet_all_that_is_seen_and_no_more(void **state)
{
    enum { LENGTH = 150, ROWS = 32, WIDTH = 16 };
    uint64_t seed = test_seed(__func__);
    int32_t document[LENGTH];

    (void)state;
    for (int round = 0; round < 200; round++) {
        const int32_t length = 1 + (int32_t)(random_next(&seed) % LENGTH);
        const int32_t *given = round % 4 ? document : NULL;

        make_documents(document, length, &seed);
        for (int32_t first = 0; first < length; first += ROWS) {
            const int32_t end = first + ROWS < length ? first + ROWS : length;
            const int32_t begin = attention_key_begin(given, first, WIDTH);
            const int32_t behind = attention_query_end(given, length, end);
            int32_t first_key = first, last_query = first;

            for (int32_t query = 0; query < length; query++)
                for (int32_t key = 0; key < length; key++) {
                    if (!attention_sees(query, key, given ? given[query] : 0))
                        continue;
                    if (query >= first && query < end && key < first_key)
                        first_key = key;
                    if (key >= first && key < end && query > last_query)
                        last_query = query;
                }
            assert_int_equal(begin, first_key / WIDTH * WIDTH);
            assert_int_equal(behind, last_query + 1);
        }
    }
}

static void steps_reach_the_end(void **state)
{
    (void)state;
    assert_int_equal(attention_steps(0, 1, 64), 1);
    assert_int_equal(attention_steps(0, 64, 64), 1);
    assert_int_equal(attention_steps(0, 65, 64), 2);
    assert_int_equal(attention_steps(64, 65, 64), 1);
    assert_int_equal(attention_steps(64, 64, 64), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_of_a_tile_have_places_of_their_own),
        cmocka_unit_test(blocks_cover_every_tile_of_every_head_once),
        cmocka_unit_test(walks_meet_all_that_is_seen_and_no_more),
        cmocka_unit_test(steps_reach_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
