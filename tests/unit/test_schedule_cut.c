// link: parallel base
/* The cut of a model's blocks into stages, against all cuts there are. */
#include "test.h"

#include "dstrain/random.h"
#include "dstrain/schedule.h"

enum { BLOCKS_MAX = 12 };

static uint64_t sum(const uint64_t *costs, uint32_t from, uint32_t to)
{
    uint64_t total = 0;

    for (uint32_t b = from; b < to; b++)
        total += costs[b];
    return total;
}

/* The least possible cost of the dearest of `parts` parts, by trying them all. */
static uint64_t least(const uint64_t *costs, uint32_t blocks, uint32_t parts)
{
    uint64_t best = UINT64_MAX;

    if (parts == 1)
        return sum(costs, 0, blocks);
    for (uint32_t end = 1; blocks - end >= parts - 1; end++) {
        uint64_t here = sum(costs, 0, end);
        uint64_t rest = least(costs + end, blocks - end, parts - 1);
        uint64_t most = here > rest ? here : rest;
        best = most < best ? most : best;
    }
    return best;
}

static uint64_t dearest(const uint64_t *costs, const uint32_t *first, uint32_t parts)
{
    uint64_t most = 0;

    for (uint32_t k = 0; k < parts; k++) {
        uint64_t cost = sum(costs, first[k], first[k + 1]);
        most = cost > most ? cost : most;
    }
    return most;
}

static void no_cut_has_a_cheaper_dearest_part(void **state)
{
    const uint64_t seed = test_seed("no_cut_has_a_cheaper_dearest_part");

    (void)state;
    for (uint64_t trial = 0; trial < 2000; trial++) {
        const struct ds_random draw = ds_random_of(seed, DS_RANDOM_TEST, trial);
        const uint32_t blocks = 1 + (uint32_t)ds_random_below(draw, 0, BLOCKS_MAX);
        const uint32_t parts = 1 + (uint32_t)ds_random_below(draw, 1, blocks);
        const uint64_t bound = trial % 3 == 0 ? 2 : 20; /* often equal, or rarely */
        uint64_t costs[BLOCKS_MAX];
        uint32_t first[BLOCKS_MAX + 1];
        for (uint32_t b = 0; b < blocks; b++)
            costs[b] = ds_random_below(draw, 2 + b, bound);
        ds_schedule_cut(costs, blocks, parts, first);
        assert_int_equal(first[0], 0);
        assert_int_equal(first[parts], blocks);
        for (uint32_t k = 0; k < parts; k++)
            assert_true(first[k] < first[k + 1]);
        assert_true(dearest(costs, first, parts) == least(costs, blocks, parts));
    }
}

/* Where blocks are alike no part is more than one block longer than another. */
static void equal_blocks_are_spread_evenly(void **state)
{
    uint64_t costs[64];

    (void)state;
    for (uint32_t b = 0; b < 64; b++)
        costs[b] = 7;
    for (uint32_t blocks = 1; blocks <= 64; blocks++)
        for (uint32_t parts = 1; parts <= blocks; parts++) {
            uint32_t first[65];
            ds_schedule_cut(costs, blocks, parts, first);
            for (uint32_t k = 0; k < parts; k++) {
                assert_true(first[k + 1] - first[k] >= blocks / parts);
                assert_true(first[k + 1] - first[k] <= (blocks + parts - 1) / parts);
            }
        }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_cut_has_a_cheaper_dearest_part),
        cmocka_unit_test(equal_blocks_are_spread_evenly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
