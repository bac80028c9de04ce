// link: launch
// tsan
// cost: 100
/* Layout never changes the result: the real trainer, ranks as threads, on the cpu device inline and
 * deferred. ZeRO stages and streams change nothing at all; the number of ranks only rounding. */
#include "test.h"

#include "tiny_run.h"

#include "dstrain/plugin.h"

#include <math.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
/* Every thread, every wait and every state is there in each step, and the schedule's warm-up and its end in
 * six: what a sanitizer looks for does not depend on how many follow, which only take minutes. Sums of
 * thirty are compared in the plain build. */
enum { STEPS = 6 };
#else
enum { STEPS = 30 };
#endif

static char *folder, *data;
static uint64_t seed;

static struct tiny_case case_of(uint32_t ranks, int stage, int mode)
{
    return (struct tiny_case){.ranks = ranks,
                              .stage = stage,
                              .mode = mode,
                              .steps = STEPS,
                              .global_batch = 8,
                              .micro_batch = ranks == 8 ? 1 : 2,
                              .seed = seed,
                              .data = data};
}

static struct tiny_result run(const struct tiny_case *c)
{
    struct tiny_result result;

    tiny_run(c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(result.steps, c->steps);
    return result;
}

static void assert_same_bits(const struct tiny_result *a, const struct tiny_result *b)
{
    assert_memory_equal(a->loss, b->loss, sizeof a->loss);
    assert_memory_equal(a->norm, b->norm, sizeof a->norm);
    assert_memory_equal(&a->eval_loss, &b->eval_loss, sizeof a->eval_loss);
    assert_memory_equal(a->params, b->params, a->param_elems * sizeof *a->params);
}

static void assert_same_losses(const struct tiny_result *a, const struct tiny_result *b,
                               double most)
{
    for (uint64_t i = 0; i < a->steps; i++)
        if (!(fabs(a->loss[i] - b->loss[i]) <= most * fabs(b->loss[i])))
            fail_msg("step %llu: %.9g and %.9g", (unsigned long long)i + 1, a->loss[i], b->loss[i]);
}

static void stages_and_streams_agree_to_the_bit(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 8; ranks *= 2) {
        struct tiny_case base_case = case_of(ranks, 0, DS_DEVICE_INLINE);
        struct tiny_result base = run(&base_case);
        for (int variant = 1; variant < 8; variant++) {
            struct tiny_case c =
                case_of(ranks, variant >> 1, variant & 1 ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE);
            struct tiny_result other = run(&c);
            assert_same_bits(&base, &other);
            tiny_result_fini(&other);
        }
        tiny_result_fini(&base);
    }
}

/* Equal numbers could be equally wrong. The samples are random, so that nothing can be learned from other
 * ones: here every step sees the same, and has to know them better than the one before. */
static void what_is_seen_again_is_known_better(void **state)
{
    struct tiny_case c = case_of(2, 3, DS_DEVICE_INLINE);
    char *few = tiny_data(folder, seed + 1, c.global_batch);

    (void)state;
    c.data = few;
    struct tiny_result result = run(&c);
    for (uint64_t i = 1; i < c.steps; i++)
        if (!(result.loss[i] < result.loss[i - 1]))
            fail_msg("step %llu: %.9g after %.9g", (unsigned long long)i + 1, result.loss[i],
                     result.loss[i - 1]);
    assert_true(result.eval_loss < result.loss[0]);
    tiny_result_fini(&result);
    free(few);
}

/* The same code behind the plugin boundary: nothing of it may depend on what it is linked with. */
static void a_device_that_is_a_plugin_agrees_to_the_bit(void **state)
{
    const struct ds_plugin *plugin;

    (void)state;
    assert_ok(ds_plugin_load(DS_BINARY_DIR "/libdstrain_cpu.so", &plugin));
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        struct tiny_case c = case_of(2, 3, mode);
        struct tiny_result built_in = run(&c);
        c.device = plugin->device;
        struct tiny_result other = run(&c);
        assert_same_bits(&built_in, &other);
        tiny_result_fini(&built_in);
        tiny_result_fini(&other);
    }
}

/* What is made again is what was there, to the bit, and takes less room. */
static void recomputation_changes_memory_alone(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage += 3)
        for (int is_tied = 0; is_tied < 2; is_tied++) {
            struct tiny_case c = case_of(2, stage, is_tied ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE);
            uint64_t before = UINT64_MAX;
            struct tiny_result base;
            c.is_tied = is_tied;
            for (c.recompute = DS_RECOMPUTE_NONE; c.recompute <= DS_RECOMPUTE_FULL; c.recompute++) {
                struct tiny_result next = run(&c);
                assert_true(next.bytes[0][DS_MEMORY_DEVICE][DS_MEMORY_LABEL_ACTIVATIONS] < before);
                before = next.bytes[0][DS_MEMORY_DEVICE][DS_MEMORY_LABEL_ACTIVATIONS];
                if (c.recompute == DS_RECOMPUTE_NONE) {
                    base = next;
                    continue;
                }
                assert_same_bits(&base, &next);
                tiny_result_fini(&next);
            }
            tiny_result_fini(&base);
        }
}

static void ranks_agree_with_one_rank_to_rounding(void **state)
{
    const struct tiny_case one_case = case_of(1, 3, DS_DEVICE_INLINE);
    struct tiny_result one = run(&one_case);

    (void)state;
    for (uint32_t ranks = 2; ranks <= 8; ranks *= 2) {
        const struct tiny_case c = case_of(ranks, 3, DS_DEVICE_INLINE);
        struct tiny_result many = run(&c);
        assert_same_losses(&many, &one, 2e-6);
        tiny_result_fini(&many);
    }
    tiny_result_fini(&one);
}

static void two_ranks_agree_with_two_micro_batches_to_the_bit(void **state)
{
    struct tiny_case split = case_of(2, 3, DS_DEVICE_INLINE),
                     serial = case_of(1, 3, DS_DEVICE_INLINE);

    (void)state;
    split.global_batch = serial.global_batch = 4;
    struct tiny_result a = run(&split), b = run(&serial);
    assert_same_bits(&a, &b);
    tiny_result_fini(&a);
    tiny_result_fini(&b);
}

/* Where bits need not be those of other layouts: what the cpu does only when it is told to. */
static void add_in_place(struct ds_config *config)
{
    config->run.deterministic = 0;
}

/* A stage of its own for the head, so that the tied unit's halves meet between stages. */
static void gradients_that_are_added_in_place_agree(void **state)
{
    struct tiny_case c = case_of(1, 3, DS_DEVICE_INLINE);

    (void)state;
    c.is_tied = 1;
    struct tiny_result one = run(&c);
    c.adjust = add_in_place;
    for (uint32_t stages = 1; stages <= 2; stages++)
        for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
            c.ranks = c.pipeline = stages;
            c.mode = mode;
            struct tiny_result other = run(&c);
            assert_same_losses(&other, &one, 2e-6);
            assert_true(other.bytes[0][DS_MEMORY_DEVICE][DS_MEMORY_LABEL_SLOTS] <
                        one.bytes[0][DS_MEMORY_DEVICE][DS_MEMORY_LABEL_SLOTS]);
            tiny_result_fini(&other);
        }
    tiny_result_fini(&one);
}

static int reduce;

static void add_16_bits_in_place(struct ds_config *config)
{
    config->run.deterministic = 0;
    config->precision.compute = config->precision.gradients = DS_PRECISION_BF16;
    config->precision.reduce = reduce;
}

/* What ranks send each other is of no concern to one rank; two have it in their slots. */
static void one_rank_makes_gradients_in_the_dtype_of_their_sum(void **state)
{
    struct tiny_case c = case_of(1, 3, DS_DEVICE_INLINE);

    (void)state;
    c.adjust = add_16_bits_in_place;
    for (c.ranks = 1; c.ranks <= 2; c.ranks++) {
        reduce = DS_PRECISION_BF16;
        struct tiny_result narrow = run(&c);
        reduce = DS_PRECISION_FP32;
        struct tiny_result wide = run(&c);
        const uint64_t *in_narrow = narrow.bytes[0][DS_MEMORY_DEVICE],
                       *in_wide = wide.bytes[0][DS_MEMORY_DEVICE];

        if (c.ranks == 1) {
            assert_same_bits(&narrow, &wide);
            assert_int_equal(in_narrow[DS_MEMORY_LABEL_SLOTS], in_wide[DS_MEMORY_LABEL_SLOTS]);
        } else {
            assert_true(in_narrow[DS_MEMORY_LABEL_SLOTS] < in_wide[DS_MEMORY_LABEL_SLOTS]);
        }
        tiny_result_fini(&narrow);
        tiny_result_fini(&wide);
    }
}

static void hybrid_sharding_agrees_across_stages(void **state)
{
    (void)state;
    for (int is_tied = 0; is_tied < 2; is_tied++) {
        struct tiny_case c = case_of(4, 0, DS_DEVICE_INLINE);
        c.shard = 2;
        c.is_tied = is_tied;
        struct tiny_result base = run(&c);
        for (c.stage = 1; c.stage <= 3; c.stage++) {
            c.mode = c.stage & 1 ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE;
            struct tiny_result other = run(&c);
            assert_same_bits(&base, &other);
            tiny_result_fini(&other);
        }
        tiny_result_fini(&base);
    }
}

/* Ranks that share nothing out meet in their sums alone. */
static void replicas_agree_with_one_rank(void **state)
{
    struct tiny_case c = case_of(1, 0, DS_DEVICE_INLINE);
    struct tiny_result one = run(&c);

    (void)state;
    for (int stage = 0; stage <= 3; stage++) {
        struct tiny_case d = case_of(2, stage, stage & 1 ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE);
        d.shard = 1;
        struct tiny_result many = run(&d);
        assert_same_losses(&many, &one, 2e-6);
        tiny_result_fini(&many);
    }
    tiny_result_fini(&one);
}

static void tied_weights_agree_across_ranks_and_stages(void **state)
{
    struct tiny_case c = case_of(1, 0, DS_DEVICE_INLINE);

    (void)state;
    c.is_tied = 1;
    struct tiny_result one = run(&c);
    for (uint32_t ranks = 2; ranks <= 4; ranks *= 2)
        for (int stage = 0; stage <= 3; stage += 3) {
            struct tiny_case d = case_of(ranks, stage, DS_DEVICE_DEFERRED);
            d.is_tied = 1;
            struct tiny_result many = run(&d);
            assert_same_losses(&many, &one, 2e-6);
            tiny_result_fini(&many);
        }
    tiny_result_fini(&one);
}

static void three_ranks_that_divide_nothing_agree(void **state)
{
    struct tiny_case c = case_of(3, 3, DS_DEVICE_DEFERRED), one = case_of(1, 3, DS_DEVICE_INLINE);

    (void)state;
    c.global_batch = one.global_batch = 6;
    struct tiny_result a = run(&c), b = run(&one);
    assert_same_losses(&a, &b, 2e-6);
    tiny_result_fini(&a);
    tiny_result_fini(&b);
}

/* A step that is not finite changes nothing anywhere, and is counted on every rank. */
static void a_step_that_is_not_finite_is_skipped_everywhere(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage++) {
        struct tiny_case c = case_of(4, stage, DS_DEVICE_INLINE);
        c.inject = "nan:2:5";
        c.steps = 5;
        struct tiny_result skipped = run(&c);
        assert_int_equal(skipped.skipped, 1);
        assert_true(isnan(skipped.loss[4]) || isnan(skipped.norm[4]));
        c.steps = 12;
        struct tiny_result on = run(&c);
        assert_int_equal(on.skipped, 1);
        assert_true(isfinite(on.loss[11]) && isfinite(on.norm[11]));
        tiny_result_fini(&skipped);
        tiny_result_fini(&on);
    }
}

static void a_rank_that_fails_ends_the_run_on_all(void **state)
{
    struct tiny_case c = case_of(4, 3, DS_DEVICE_INLINE);
    struct tiny_result result;

    (void)state;
    c.inject = "fail:1:4";
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_ERR_IO);
    assert_true(result.steps < 5);
    tiny_result_fini(&result);
}

static uint64_t state_bytes(const struct tiny_result *r)
{
    const uint64_t *bytes = r->bytes[0][DS_MEMORY_DEVICE];

    return bytes[DS_MEMORY_LABEL_PARAMS] + bytes[DS_MEMORY_LABEL_MASTER] +
           bytes[DS_MEMORY_LABEL_GRADS] + bytes[DS_MEMORY_LABEL_EXP_AVG] +
           bytes[DS_MEMORY_LABEL_EXP_AVG_SQ] + bytes[DS_MEMORY_LABEL_SLOTS];
}

/* P parameters in fp32 on 8 ranks: what each stage leaves on one of them, and four units in flight. */
/* Time that arithmetic waits for other ranks is told, step by step. */
static void waits_for_communication_are_counted(void **state)
{
    struct tiny_case c = case_of(4, 3, DS_DEVICE_INLINE);
    struct tiny_result r = run(&c);

    (void)state;
    assert_true(r.last.wait_comm_s > 0 && r.last.wait_comm_s < r.last.step_s);
    tiny_result_fini(&r);
}

static void zero_really_shards(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage++) {
        struct tiny_case c = case_of(8, stage, DS_DEVICE_INLINE);
        c.steps = 1;
        c.is_tied = 1;
        struct tiny_result r = run(&c);
        /* units are padded to 8 shards of at least 2,048 elements: count P as it is laid out */
        const uint64_t unit = (r.largest_unit_elems + 16383) / 16384 * 16384 * 4, p = 5 * unit;
        const uint64_t most[] = {4 * p, 2 * p + 2 * p / 8, p + 3 * p / 8, 4 * p / 8};
        if (state_bytes(&r) > most[stage] + 4 * unit)
            fail_msg("stage %d: %llu bytes, at most %llu", stage,
                     (unsigned long long)state_bytes(&r),
                     (unsigned long long)(most[stage] + 4 * unit));
        tiny_result_fini(&r);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_and_streams_agree_to_the_bit),
        cmocka_unit_test(what_is_seen_again_is_known_better),
        cmocka_unit_test(a_device_that_is_a_plugin_agrees_to_the_bit),
        cmocka_unit_test(recomputation_changes_memory_alone),
        cmocka_unit_test(ranks_agree_with_one_rank_to_rounding),
        cmocka_unit_test(two_ranks_agree_with_two_micro_batches_to_the_bit),
        cmocka_unit_test(gradients_that_are_added_in_place_agree),
        cmocka_unit_test(one_rank_makes_gradients_in_the_dtype_of_their_sum),
        cmocka_unit_test(hybrid_sharding_agrees_across_stages),
        cmocka_unit_test(replicas_agree_with_one_rank),
        cmocka_unit_test(tied_weights_agree_across_ranks_and_stages),
        cmocka_unit_test(three_ranks_that_divide_nothing_agree),
        cmocka_unit_test(a_step_that_is_not_finite_is_skipped_everywhere),
        cmocka_unit_test(a_rank_that_fails_ends_the_run_on_all),
        cmocka_unit_test(waits_for_communication_are_counted),
        cmocka_unit_test(zero_really_shards),
    };
    int failed;

    ds_log.is_leader = 0; /* skipped steps are expected, in every run */
    seed = test_seed("test_equivalence");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
