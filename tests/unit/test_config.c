// link: launch
// private: launch
/* A good configuration: what follows from what it says, the command line's word over the file's, and silence. */
#include "config_case.h"

static void resolving_fills_in_what_follows(void **state)
{
    struct load l = {.text = GOOD, .rank_count = 4};
    struct load other = {.text = GOOD, .rank_count = 4};

    (void)state;
    other.overrides[0] = "model.family=qwen3";
    other.overrides[1] = "parallel.shard=2";
    other.overrides[2] = "run.dir=r/";
    assert_ok(load(&l));
    assert_int_equal(l.config.parallel.data, 4);
    assert_int_equal(l.config.parallel.shard, 4);
    assert_int_equal(l.config.model.num_key_value_heads, 4);
    assert_int_equal(l.config.model.head_dim, 16);
    assert_int_equal(l.config.model.vocab_size, 259);
    assert_int_equal(l.config.model.max_position_embeddings, 32);
    assert_string_equal(l.config.data.cache, "r/data");
    assert_ok(load(&other));
    assert_int_equal(other.config.model.head_dim, 128);
    assert_int_equal(other.config.parallel.shard, 2);
    assert_string_equal(other.config.data.cache, "r/data");
}

static void the_command_line_overrides_the_file_once(void **state)
{
    struct load l = {.text = GOOD, .overrides = {"train.steps=5", "data.train=b=c.txt"}};

    (void)state;
    assert_ok(load(&l));
    assert_int_equal(l.config.train.steps, 5);
    assert_string_equal(l.config.data.train, "b=c.txt");
    l.overrides[2] = "train.steps=6";
    assert_int_equal(load(&l), DS_ERR_CONFIG);
    assert_string_equal(l.said, SAYS("command line: train.steps is given twice"));
}

static void good_configurations_say_nothing(void **state)
{
    static const char *const overrides[] = {
        "train.steps=10",           "schedule.kind=constant",
        "model.family=qwen2",       "parallel.shard=2",
        "debug.inject=nan:3:7",     "debug.inject=rate:all:3-4",
        "train.micro_batch_size=2", "zero.stage=0",
        "run.deterministic=false",  "model.num_key_value_heads=2",
        "schedule.warmup_steps=10"};

    (void)state;
    for (size_t i = 0; i < sizeof overrides / sizeof overrides[0]; i++) {
        struct load l = {.text = GOOD, .overrides = {overrides[i]}, .rank_count = 4};

        assert_ok(load(&l));
        assert_string_equal(l.said, "");
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(resolving_fills_in_what_follows),
        cmocka_unit_test(the_command_line_overrides_the_file_once),
        cmocka_unit_test(good_configurations_say_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
