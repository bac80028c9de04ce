// link: data
/* Batches that are left out: every other batch is trained once, in order; what is added in any order reads back as the
 * same ranges. */
#include "test.h"

#include "dstrain/data.h"
#include "dstrain/random.h"

#include <string.h>

enum { BATCHES = 400 };

static uint64_t seed, drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 31), drawn++, bound);
}

static void every_other_batch_comes_once(void **state)
{
    (void)state;
    for (int turn = 0; turn < 300; turn++) {
        struct ds_skips skips = {.count = 0}, back;
        char left_out[2 * BATCHES] = "", text[DS_SKIPS_TEXT_BYTES];
        uint64_t step = 0;

        for (uint64_t i = draw(12); i > 0; i--) {
            const uint64_t begin = 1 + draw(BATCHES - 40), end = begin + 1 + draw(30);
            assert_true(ds_skips_add(&skips, (struct ds_batch_range){begin, end}));
            memset(left_out + begin, 1, end - begin);
        }
        for (uint64_t batch = 1; batch < BATCHES; batch++) {
            assert_int_equal(ds_skips_step_before(&skips, batch), step);
            if (!left_out[batch])
                assert_int_equal(ds_skips_batch(&skips, ++step), batch);
        }
        for (uint32_t i = 1; i < skips.count; i++)
            assert_true(skips.ranges[i - 1].end < skips.ranges[i].begin);
        ds_skips_print(&skips, text);
        assert_true(ds_skips_parse(text, &back));
        assert_memory_equal(&back, &skips, sizeof back);
    }
}

static void there_is_room_for_so_many(void **state)
{
    struct ds_skips skips = {.count = 0}, before;
    char text[DS_SKIPS_TEXT_BYTES];
    const uint64_t far = ((uint64_t)1 << 53) - 1000;

    (void)state;
    for (uint64_t i = 0; i < DS_SKIPS_MAX; i++)
        assert_true(ds_skips_add(&skips, (struct ds_batch_range){far + 3 * i, far + 3 * i + 2}));
    before = skips;
    assert_false(ds_skips_add(&skips, (struct ds_batch_range){5, 6}));
    assert_memory_equal(&skips, &before, sizeof skips);
    ds_skips_print(&skips, text);
    assert_true(strlen(text) <= 4096); /* of a manifest's value */
    assert_true(ds_skips_parse(text, &before));
    assert_true(ds_skips_add(&skips, (struct ds_batch_range){1, far + 900}));
    assert_int_equal(skips.count, 1);
    assert_false(ds_skips_add(&skips, (struct ds_batch_range){0, 2}));
    assert_false(ds_skips_add(&skips, (struct ds_batch_range){7, 7}));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_other_batch_comes_once),
        cmocka_unit_test(there_is_room_for_so_many),
    };

    seed = test_seed("test_skips");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
