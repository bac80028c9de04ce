// link: data storage base
// private: runtime/data
/* The endless order of samples: pure, so it is walked through. */
#include "test.h"

#include "sources.h"

enum { SOURCES_MAX = 9 };

static struct order order_of(struct order_source *sources, size_t count, uint64_t seed, int shuffle)
{
    struct order order = {.sources = sources,
                          .source_count = count,
                          .seed = seed,
                          .shuffle = shuffle,
                          .is_plain = !shuffle};

    for (size_t i = 0; i < count; i++)
        order.epoch_samples += sources[i].share;
    return order;
}

/* Sources of weight 1 with these many samples each; 0 ends them. */
static size_t equal_sources(const uint64_t *counts, struct order_source *sources)
{
    size_t count = 0;

    for (; counts[count]; count++)
        sources[count] = (struct order_source){counts[count], counts[count]};
    return count;
}

static const uint64_t shapes[][SOURCES_MAX + 1] = {{1},
                                                   {2},
                                                   {3},
                                                   {5},
                                                   {64},
                                                   {65},
                                                   {1000},
                                                   {1, 1},
                                                   {1, 7},
                                                   {100, 1},
                                                   {17, 5, 29},
                                                   {1, 1, 1, 1, 1},
                                                   {1000, 1, 1, 1},
                                                   {3, 1, 4, 1, 5, 9, 2, 6, 5}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], EPOCHS = 4, SAMPLES_MAX = 1100 };

static uint64_t number_of(const struct order *order, struct order_place place)
{
    uint64_t number = place.sample;

    assert_true(place.source < order->source_count);
    assert_true(place.sample < order->sources[place.source].sample_count);
    for (size_t i = 0; i < place.source; i++)
        number += order->sources[i].sample_count;
    return number;
}

static void assert_bijection(const struct order *order, uint64_t epoch)
{
    uint8_t seen[SAMPLES_MAX] = {0};

    for (uint64_t i = 0; i < order->epoch_samples; i++) {
        uint64_t number = number_of(order, order_at(order, epoch * order->epoch_samples + i));
        assert_int_equal(seen[number], 0);
        seen[number] = 1;
    }
}

static void every_sample_comes_once_an_epoch_with_weight_1(void **state)
{
    const uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int shuffle = 0; shuffle < 2; shuffle++) {
            struct order_source sources[SOURCES_MAX];
            size_t count = equal_sources(shapes[s], sources);
            struct order order = order_of(sources, count, seed, shuffle);
            for (uint64_t epoch = 0; epoch < EPOCHS; epoch++)
                assert_bijection(&order, epoch);
            order.is_plain = 0; /* the same where sources are dealt without a shuffle */
            for (uint64_t epoch = 0; epoch < EPOCHS; epoch++)
                assert_bijection(&order, epoch);
        }
}

static void without_shuffle_files_follow_one_another_every_epoch(void **state)
{
    struct order_source sources[SOURCES_MAX];
    const struct order order =
        order_of(sources, equal_sources((uint64_t[]){17, 5, 29, 0}, sources), 1, 0);

    (void)state;
    for (uint64_t position = 0; position < 3 * 51; position++)
        assert_int_equal(number_of(&order, order_at(&order, position)), position % 51);
}

static int same_places(const struct order *a, const struct order *b, uint64_t from_a,
                       uint64_t from_b)
{
    int same = 0;

    for (uint64_t i = 0; i < 1000; i++)
        same += number_of(a, order_at(a, from_a + i)) == number_of(b, order_at(b, from_b + i));
    return same;
}

static void shuffles_differ_by_seed_and_epoch_and_are_no_file_order(void **state)
{
    struct order_source sources[SOURCES_MAX];
    const size_t count = equal_sources((uint64_t[]){600, 400, 0}, sources);
    const struct order one = order_of(sources, count, 1, 1), two = order_of(sources, count, 2, 1);
    const struct order plain = order_of(sources, count, 1, 0);

    (void)state;
    assert_int_equal(same_places(&one, &one, 0, 0), 1000);
    assert_true(same_places(&one, &two, 0, 0) < 50);
    assert_true(same_places(&one, &one, 0, 1000) < 50);
    assert_true(same_places(&one, &plain, 0, 0) < 50);
}

/* Two sources of one size are not walked through in the same order. */
static void sources_of_one_size_are_shuffled_differently(void **state)
{
    struct order_source sources[SOURCES_MAX];
    const struct order order =
        order_of(sources, equal_sources((uint64_t[]){500, 500, 0}, sources), 3, 1);
    uint64_t drawn[2][500];
    size_t count[2] = {0}, same = 0;

    (void)state;
    for (uint64_t position = 0; position < 1000; position++) {
        struct order_place place = order_at(&order, position);
        drawn[place.source][count[place.source]++] = place.sample;
    }
    for (size_t i = 0; i < 500; i++)
        same += drawn[0][i] == drawn[1][i];
    assert_true(same < 25);
}

static uint64_t ceil_log2(size_t count)
{
    uint64_t bits = 0;

    while (((size_t)1 << bits) < count)
        bits++;
    return bits;
}

/* At every prefix of `positions`, every source. */
static void assert_shares(const struct order *order, uint64_t positions)
{
    const double bound = (double)ceil_log2(order->source_count) + 1e-6;
    uint64_t drawn[SOURCES_MAX] = {0};

    for (uint64_t position = 0; position < positions; position++) {
        drawn[order_at(order, position).source]++;
        for (size_t i = 0; i < order->source_count; i++) {
            double want = (double)(position + 1) * (double)order->sources[i].share /
                          (double)order->epoch_samples;
            double off = (double)drawn[i] - want;
            if (off > bound || off < -bound)
                fail_msg("after %llu positions source %zu of %zu has %llu, its share is %.3f",
                         (unsigned long long)position + 1, i, order->source_count,
                         (unsigned long long)drawn[i], want);
        }
    }
}

static void any_prefix_is_within_the_bound_of_the_shares(void **state)
{
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 0);

    (void)state;
    for (uint64_t trial = 0; trial < 60; trial++) {
        struct order_source sources[SOURCES_MAX];
        const size_t count = 1 + trial % SOURCES_MAX;
        for (size_t i = 0; i < count; i++) {
            const uint64_t at = 2 * (trial * SOURCES_MAX + i);
            sources[i] = (struct order_source){1 + ds_random_below(random, at, 100),
                                               1 + ds_random_below(random, at + 1, 300)};
        }
        struct order order = order_of(sources, count, 7, (int)(trial & 1));
        order.is_plain = 0;
        assert_shares(&order, 2 * order.epoch_samples + 13);
    }
}

/* Draws of one source, in order, go through all its samples before any comes again. */
static void a_weighted_source_repeats_nothing_before_it_is_used_up(void **state)
{
    struct order_source sources[] = {{40, 20}, {30, 30}, {7, 21}};
    struct order order = order_of(sources, 3, 11, 1);
    uint64_t drawn[3] = {0};
    uint8_t seen[3][40] = {{0}};

    (void)state;
    for (uint64_t position = 0; position < 10 * order.epoch_samples; position++) {
        struct order_place place = order_at(&order, position);
        const uint64_t round = drawn[place.source]++ / sources[place.source].sample_count;
        assert_int_equal(seen[place.source][place.sample]++, round);
    }
    assert_int_equal(drawn[0], 10 * 20);
    assert_int_equal(drawn[1], 10 * 30);
    assert_int_equal(drawn[2], 10 * 21);
}

static void a_far_position_is_found_as_a_near_one(void **state)
{
    /* counts beyond 32 bits; the two sources take turns, so their draws are known */
    struct order_source sources[] = {{1ull << 40, 1ull << 40}, {1ull << 40, 1ull << 40}};
    struct order order = order_of(sources, 2, 5, 0);

    (void)state;
    order.is_plain = 0;
    for (uint64_t position = (1ull << 44) - 6; position < (1ull << 44) + 6; position++) {
        struct order_place place = order_at(&order, position);
        assert_int_equal(place.source, (position & 1) == 0);
        assert_true(place.sample == position / 2 % (1ull << 40));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sample_comes_once_an_epoch_with_weight_1),
        cmocka_unit_test(without_shuffle_files_follow_one_another_every_epoch),
        cmocka_unit_test(shuffles_differ_by_seed_and_epoch_and_are_no_file_order),
        cmocka_unit_test(sources_of_one_size_are_shuffled_differently),
        cmocka_unit_test(any_prefix_is_within_the_bound_of_the_shares),
        cmocka_unit_test(a_weighted_source_repeats_nothing_before_it_is_used_up),
        cmocka_unit_test(a_far_position_is_found_as_a_near_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
