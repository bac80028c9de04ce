// link: zero
/* The layout of units, exhaustively: every element of every parameter has exactly one owner. */
#include "test.h"

#include "dstrain/zero.h"

static void every_element_has_exactly_one_owner(void **state)
{
    (void)state;
    for (uint32_t shards = 1; shards <= 9; shards++) {
        for (uint64_t elems = 1; elems <= 3 * 2048 * 9 + 1; elems += 509) {
            struct ds_zero_layout layout = ds_zero_layout_of(elems, shards);
            struct ds_span param = {elems / 3, elems - elems / 3};
            uint64_t next = param.start;

            assert_true(layout.full_elems >= elems);
            assert_int_equal(layout.shard_elems % DS_ZERO_CUT_ELEMS, 0);
            assert_true(layout.shard_elems < elems / shards + 1 + DS_ZERO_CUT_ELEMS);
            for (uint32_t rank = 0; rank < shards; rank++) {
                struct ds_span owned = ds_zero_layout_owned(&layout, rank, param);
                if (owned.count == 0)
                    continue;
                assert_int_equal(owned.start, next);
                assert_int_equal(owned.start / layout.shard_elems, rank);
                next += owned.count;
            }
            assert_int_equal(next, elems);
        }
    }
}

static void groups_start_at_128_elements_and_fused_parameters_touch(void **state)
{
    (void)state;
    for (uint64_t end = 0; end < 1000; end++) {
        uint64_t start = ds_zero_layout_place(end, 1);
        assert_int_equal(ds_zero_layout_place(end, 0), end);
        assert_int_equal(start % DS_ZERO_GROUP_ELEMS, 0);
        assert_true(start >= end && start < end + DS_ZERO_GROUP_ELEMS);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_has_exactly_one_owner),
        cmocka_unit_test(groups_start_at_128_elements_and_fused_parameters_touch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
