// link: data storage base
// tsan
/* Loaders: every share sees its own part of one order, whatever the layout; a step may be asked for at any time, one that
 * cannot be read fails alone, and waiting is measured. */
#include "data_case.h"

#include "dstrain/random.h"

/* ---- one order for any number of shares */

enum { SHARES_MAX = 8, EPOCH = 240, WALK = 2 * EPOCH };

/* The samples of all shares, in the order in which one share with the same steps would have them. */
static void walk_shares(const struct ds_dataset *dataset, const struct layout *layout,
                        uint64_t *numbers)
{
    struct ds_loader *loaders[SHARES_MAX];
    uint64_t count = 0;

    for (uint32_t share = 0; share < layout->share_count; share++)
        loaders[share] = open_share(dataset, layout, share, 0);
    for (uint64_t step = 0; count < WALK; step++) {
        struct ds_loader_batch batches[SHARES_MAX];
        for (uint32_t share = 0; share < layout->share_count; share++)
            batches[share] = next(loaders[share], step);
        for (uint64_t micro = 0; micro < layout->micro_count; micro++)
            for (uint32_t share = 0; share < layout->share_count; share++)
                for (uint64_t row = 0; row < layout->micro_batch_size && count < WALK; row++)
                    numbers[count++] =
                        (uint64_t)batches[share].id[(micro * layout->micro_batch_size + row) * SEQ];
    }
    for (uint32_t share = 0; share < layout->share_count; share++)
        ds_loader_close(loaders[share]);
}

static void every_sample_comes_once_an_epoch_on_any_layout(void **state)
{
    static const struct layout layouts[] = {{1, 1, 1}, {1, 1, 2}, {3, 1, 3}, {1, 5, 8}, {2, 4, 1},
                                            {2, 3, 2}, {1, 4, 3}, {3, 2, 8}, {7, 1, 3}, {5, 5, 2}};
    struct ds_dataset *dataset = open_three(*state);
    uint64_t alone[WALK], numbers[WALK];

    walk_shares(dataset, &layouts[0], alone);
    for (int epoch = 0; epoch < 2; epoch++) {
        uint8_t seen[EPOCH] = {0};
        for (uint64_t i = 0; i < EPOCH; i++) {
            assert_true(alone[epoch * EPOCH + i] < EPOCH);
            assert_int_equal(seen[alone[epoch * EPOCH + i]]++, 0);
        }
    }
    for (size_t i = 0; i < WALK; i++)
        assert_int_equal(alone[i], ds_dataset_order(dataset, i));
    for (size_t l = 1; l < sizeof layouts / sizeof layouts[0]; l++) {
        walk_shares(dataset, &layouts[l], numbers);
        assert_memory_equal(numbers, alone, sizeof alone);
    }
    ds_dataset_close(dataset);
}

static void without_shuffle_the_file_is_read_in_order_every_epoch(void **state)
{
    static const struct layout layout = {2, 3, 2};
    uint64_t numbers[WALK];
    struct ds_dataset *dataset;

    put_numbered(*state, "rows", 37, 0, 0);
    dataset = open_one(*state, "rows");
    walk_shares(dataset, &layout, numbers);
    for (size_t i = 0; i < WALK; i++)
        assert_int_equal(numbers[i], i % 37);
    ds_dataset_close(dataset);
}

static void weights_blend_sources_in_their_shares(void **state)
{
    static const char *const paths[] = {"a", "b"};
    static const double weights[] = {0.5, 2};
    struct ds_dataset_options options = options_of(*state, paths, 2);
    struct ds_dataset *dataset = NULL;
    uint64_t from_a = 0;

    put_numbered(*state, "a", 60, 0, 0);
    put_numbered(*state, "b", 10, 60, 0);
    options.weights = weights;
    assert_ok(ds_dataset_open(&options, &dataset));
    assert_int_equal(ds_dataset_sample_count(dataset), 30 + 20);
    for (uint64_t position = 0; position < 500; position++) {
        from_a += ds_dataset_order(dataset, position) < 60;
        assert_in_range(5 * from_a + 5, 3 * (position + 1), 3 * (position + 1) + 10);
    }
    ds_dataset_close(dataset);
}

static void a_step_asked_for_at_random_is_the_one_of_the_sequence(void **state)
{
    enum { STEPS = 40, ROWS = 6 };
    static const struct layout layout = {2, 3, 3};
    const struct ds_random random = ds_random_of(test_seed(__func__), DS_RANDOM_TEST, 0);
    struct ds_dataset *dataset = open_three(*state);
    struct ds_loader *loader = open_share(dataset, &layout, 1, 0);
    static int32_t ids[STEPS][ROWS * SEQ], targets[STEPS][ROWS * SEQ];

    for (uint64_t step = 0; step < STEPS; step++) {
        struct ds_loader_batch batch = next(loader, step);
        memcpy(ids[step], batch.id, sizeof ids[step]);
        memcpy(targets[step], batch.target, sizeof targets[step]);
    }
    for (uint64_t i = 0; i < 300; i++) {
        const uint64_t step = ds_random_below(random, i, STEPS);
        struct ds_loader_batch batch = next(loader, step);
        assert_memory_equal(batch.id, ids[step], sizeof ids[step]);
        assert_memory_equal(batch.target, targets[step], sizeof targets[step]);
    }
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

/* Also of the step that it has read already. */
static void a_loader_leaves_out_what_it_is_told(void **state)
{
    const struct layout layout = {1, 2, 2};
    struct ds_dataset *dataset = open_three(*state);
    struct ds_loader *all = open_share(dataset, &layout, 0, 0);
    struct ds_loader *some = open_share(dataset, &layout, 0, 0);
    const uint64_t ints = layout.micro_batch_size * layout.micro_count * SEQ;
    struct ds_skips skips = {.count = 0};

    assert_true(ds_skips_add(&skips, (struct ds_batch_range){2, 4}));
    (void)next(some, 0); /* and step 1 is read ahead */
    ds_loader_skip(some, &skips);
    for (uint64_t step = 1; step < 6; step++) {
        struct ds_loader_batch got = next(some, step), want = next(all, step + 2);
        assert_memory_equal(got.id, want.id, ints * sizeof *got.id);
    }
    ds_loader_close(all);
    ds_loader_close(some);
    ds_dataset_close(dataset);
}

/* Two loaders of one data set, as training and an evaluation of the same file would be. */
static void two_loaders_read_one_data_set_at_a_time(void **state)
{
    static const struct layout one = {4, 2, 1}, two = {1, 3, 2};
    struct ds_dataset *dataset = open_three(*state);
    struct ds_loader *a = open_share(dataset, &one, 0, 0), *b = open_share(dataset, &two, 1, 0);

    for (uint64_t step = 0; step < 50; step++) {
        struct ds_loader_batch first = next(a, step), second = next(b, step);
        for (uint64_t i = 0; i < 8; i++)
            assert_int_equal(first.id[i * SEQ], ds_dataset_order(dataset, step * 8 + i));
        for (uint64_t m = 0; m < 3; m++)
            assert_int_equal(second.id[m * SEQ], ds_dataset_order(dataset, (step * 3 + m) * 2 + 1));
    }
    ds_loader_close(a);
    ds_loader_close(b);
    ds_dataset_close(dataset);
}

/* What all shares train on with such a limit, and that what lies behind it is blank. */
static uint64_t trained_up_to(const struct ds_dataset *dataset, uint64_t limit)
{
    static const struct layout layout = {2, 1, 4};
    uint64_t trained = 0;

    for (uint32_t share = 0; share < 4; share++) {
        struct ds_loader *loader = open_share(dataset, &layout, share, limit);
        for (uint64_t step = 0; step < 3; step++) {
            struct ds_loader_batch batch = next(loader, step);
            trained += batch.trained_tokens;
            for (uint64_t i = 0; i < 2 * (uint64_t)SEQ; i++) {
                const uint64_t position = (step * 4 + share) * 2 + i / SEQ;
                if (position < limit)
                    continue;
                assert_int_equal(batch.id[i], 0);
                assert_int_equal(batch.target[i], -100);
                assert_int_equal(batch.position[i], i % SEQ);
                assert_int_equal(batch.document[i], 0);
            }
        }
        ds_loader_close(loader);
    }
    return trained;
}

static void a_limited_loader_trains_every_sample_below_it_once_and_then_nothing(void **state)
{
    struct ds_dataset *dataset;

    put_numbered(*state, "rows", 10, 1, 0);
    dataset = open_one(*state, "rows");
    for (uint64_t limit = 1; limit <= 10; limit++)
        assert_int_equal(trained_up_to(dataset, limit), limit * (SEQ - 1));
    ds_dataset_close(dataset);
}

/* ---- waiting and failing */

/* Each look at it finds 5 ns gone. */
static uint64_t ticking_ns(void *self)
{
    return *(uint64_t *)self += 5;
}

static void waiting_is_measured_by_the_clock_that_was_given(void **state)
{
    uint64_t now_ns = 0, waited_ns = 0;
    const struct ds_clock clock = {.mono_ns = ticking_ns, .self = &now_ns};
    struct ds_loader_options with = {.clock = &clock,
                                     .seq_length = 4,
                                     .micro_batch_size = 1,
                                     .micro_count = 1,
                                     .share_count = 1};
    struct ds_loader *loader = NULL;
    struct ds_loader_batch batch;
    struct ds_dataset *dataset;

    put_text(*state, "text", "1234567");
    dataset = open_prepared(*state, "text", 4, DS_BYTE_VOCAB);
    with.dataset = dataset;
    assert_ok(ds_loader_open(&with, &loader));
    assert_ok(ds_loader_next(loader, 0, &batch, &waited_ns));
    assert_int_equal(waited_ns, 5);
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

/* A bad sample fails the step that has it, each time it is asked for, and no other one. */
static void a_failing_step_fails_and_the_others_do_not(void **state)
{
    static const struct layout layout = {2, 1, 1};
    struct ds_dataset *dataset;
    struct ds_loader *loader;
    struct ds_loader_batch batch;
    struct capture log;
    int64_t ids[10 * SEQ] = {0};
    uint64_t waited_ns;

    ids[5 * SEQ] = VOCAB; /* in step 2 */
    put_rows(*state, "rows", ids, NULL, 10, 0);
    dataset = open_file(*state, "rows", 1);
    loader = open_share(dataset, &layout, 0, 0);
    capture_begin(&log);
    for (uint64_t step = 0; step < 5; step++)
        assert_int_equal(ds_loader_next(loader, step, &batch, &waited_ns),
                         step == 2 ? DS_ERR_DATA : DS_OK);
    assert_int_equal(ds_loader_next(loader, 2, &batch, &waited_ns), DS_ERR_DATA);
    assert_int_equal(ds_loader_next(loader, 2, &batch, &waited_ns), DS_ERR_DATA);
    (void)capture_end(&log);
    ds_loader_close(loader);
    ds_dataset_close(dataset);
}

static void a_disk_that_fails_is_an_io_error_that_names_the_file(void **state)
{
    static const struct layout layout = {1, 1, 1};
    struct ds_fs *sim = *state, *fault = NULL;
    int failures = 0;

    put_numbered(sim, "rows", 4, 0, 0);
    for (uint64_t fail_at = 1; fail_at <= 12; fail_at++) {
        const char *const paths[] = {"rows"};
        struct ds_dataset *dataset = NULL;
        struct capture log;
        assert_ok(ds_fs_fault_open(sim, fail_at, &fault));
        const struct ds_dataset_options options = options_of(fault, paths, 1);
        capture_begin(&log);
        ds_status st = ds_dataset_open(&options, &dataset);
        if (st == DS_OK) {
            struct ds_loader *loader = open_share(dataset, &layout, 0, 0);
            struct ds_loader_batch batch;
            uint64_t waited_ns;
            for (uint64_t step = 0; step < 4 && st == DS_OK; step++)
                st = ds_loader_next(loader, step, &batch, &waited_ns);
            ds_loader_close(loader);
        }
        const char *said = capture_end(&log);
        failures += st != DS_OK;
        if (st != DS_OK && (st != DS_ERR_IO || !strstr(said, "rows: ")))
            fail_msg("call %llu: status %d, said: %s", (unsigned long long)fail_at, (int)st, said);
        ds_dataset_close(dataset);
        ds_fs_fault_close(fault);
    }
    assert_true(failures >= 6);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ON_DISK(every_sample_comes_once_an_epoch_on_any_layout),
        ON_DISK(without_shuffle_the_file_is_read_in_order_every_epoch),
        ON_DISK(weights_blend_sources_in_their_shares),
        ON_DISK(a_step_asked_for_at_random_is_the_one_of_the_sequence),
        ON_DISK(a_loader_leaves_out_what_it_is_told),
        ON_DISK(two_loaders_read_one_data_set_at_a_time),
        ON_DISK(a_limited_loader_trains_every_sample_below_it_once_and_then_nothing),
        ON_DISK(waiting_is_measured_by_the_clock_that_was_given),
        ON_DISK(a_failing_step_fails_and_the_others_do_not),
        ON_DISK(a_disk_that_fails_is_an_io_error_that_names_the_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
