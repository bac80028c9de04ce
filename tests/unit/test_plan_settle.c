// link: launch
// private: launch
/* What is left to the plan becomes the fewest gathers that fit and as many logits at once as suit the device; what a person
 * has named stays. (Homes are test_plan_homes.c's.) */
#include "test.h"

#include "capture.h"
#include "plan_case.h"

enum { MICROS = 6 };

/* 8 ranks share the parameters out; each has 6 micro-batches a step. */
static const struct setup gathers = {"gathers",
                                     8,
                                     {"train.global_batch_size=48", RECOMPUTES,
                                      "zero.reshard_after_forward=auto", "zero.window=auto"}};

static uint64_t bytes_of(const char *tensor, int reshard, uint64_t window)
{
    static struct ds_config config;

    assert_true(load(&gathers, tensor, DS_AUTO, &config));
    config.zero.reshard_after_forward = reshard;
    config.zero.window = window;
    return worst_bytes(&config, gathers.ranks);
}

static void assert_choice(const struct ds_config *config, uint64_t limit, uint64_t never,
                          const uint64_t *always)
{
    uint64_t window = MICROS;

    while (window > 1 && always[window] > limit)
        window--;
    assert_int_equal(config->zero.reshard_after_forward,
                     never <= limit ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS);
    assert_int_equal(config->zero.window, never <= limit ? 1 : window);
}

/* As the limit shrinks: kept for the step, then windows from the widest on, then nothing that can be done. */
static void what_is_left_to_the_plan_is_the_fewest_gathers_that_fit(void **state)
{
    static struct ds_config config;
    uint64_t always[MICROS + 1], limits[2 * (MICROS + 1)];
    int seen_never = 0, seen_window = 0, seen_narrow = 0;

    (void)state;
    const uint64_t never = bytes_of(NULL, DS_RESHARD_KEY_NEVER, 1);
    for (uint64_t w = 1; w <= MICROS; w++)
        always[w] = bytes_of(NULL, DS_RESHARD_KEY_ALWAYS, w);
    always[0] = never;
    for (int i = 0; i <= MICROS; i++) {
        limits[2 * i] = always[i];
        limits[2 * i + 1] = always[i] - 1;
    }
    for (int i = 0; i < 2 * (MICROS + 1); i++) {
        struct capture capture;
        assert_true(load(&gathers, NULL, limits[i], &config));
        capture_begin(&capture);
        const ds_status st = settle_and_check(&config, gathers.ranks);
        (void)capture_end(&capture);
        assert_choice(&config, limits[i], never, always);
        assert_int_equal(st == DS_OK, never <= limits[i] || always[1] <= limits[i]);
        seen_never |= config.zero.reshard_after_forward == DS_RESHARD_KEY_NEVER;
        seen_window |= config.zero.window == MICROS;
        seen_narrow |= config.zero.window > 1 && config.zero.window < MICROS;
    }
    assert_true(seen_never && seen_window && seen_narrow);
}

static void what_is_named_is_kept(void **state)
{
    static const struct {
        const char *change;
        int reshard;
        uint64_t window;
    } rows[] = {{"zero.reshard_after_forward=never", DS_RESHARD_KEY_NEVER, 1},
                {"zero.reshard_after_forward=always", DS_RESHARD_KEY_ALWAYS, MICROS},
                {"zero.window=2", DS_RESHARD_KEY_NEVER, 2},
                {"parallel.pipeline=2", DS_RESHARD_KEY_NEVER, 1},
                {"parallel.shard=1", DS_RESHARD_KEY_ALWAYS, 1},
                {"zero.stage=2", DS_RESHARD_KEY_ALWAYS, 1}};
    static struct ds_config config;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(load(&gathers, rows[i].change, UINT64_MAX, &config));
        assert_ok(settle_and_check(&config, gathers.ranks));
        assert_int_equal(config.zero.reshard_after_forward, rows[i].reshard);
        assert_int_equal(config.zero.window, rows[i].window);
        assert_true(load(&gathers, rows[i].change, DS_AUTO, &config));
        assert_ok(settle_and_check(&config, gathers.ranks));
        assert_int_equal(config.zero.reshard_after_forward,
                         i == 0 ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS);
        assert_int_equal(config.zero.window, i == 2 ? 2 : 1);
    }
}

/* A micro-batch of 16 x 48 rows of 300 logits in fp32 is 921,600 bytes: the chunk is cut to it. */
static void logits_are_as_many_as_suit_the_device(void **state)
{
    static const struct setup rows = {
        "logits", 1, {"train.micro_batch_size=16", "run.deterministic=true"}};
    static struct ds_config config;
    uint64_t whole, least;

    (void)state;
    assert_true(load(&rows, NULL, DS_AUTO, &config));
    assert_ok(settle_and_check(&config, 1));
    assert_true(config.memory.logits == DS_AUTO);
    assert_true(load(&rows, "run.device=cuda", DS_AUTO, &config));
    assert_ok(settle_and_check(&config, 1));
    assert_true(config.memory.logits == (uint64_t)1 << 30);
    whole = worst_bytes(&config, 1);
    assert_true(load(&rows, "memory.logits=100000", DS_AUTO, &config));
    assert_ok(settle_and_check(&config, 1));
    assert_true(config.memory.logits == 100000);
    config.memory.logits = 64 * 300 * sizeof(float);
    least = worst_bytes(&config, 1);
    assert_true(whole >= least);
    config.memory.logits = 1;
    assert_true(worst_bytes(&config, 1) == least); /* never fewer than 64 rows */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_as_many_as_suit_the_device),
        cmocka_unit_test(what_is_left_to_the_plan_is_the_fewest_gathers_that_fit),
        cmocka_unit_test(what_is_named_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
