// link: launch
// tsan
// timeout: 10800
// cost: 160
/* A run that was ended goes on as if it had not been. On the same layout the bits of every later step are those of the
 * run that nobody disturbed, whatever the stage, the schedule, the precision and the streams, and whether its
 * checkpoint was written at the end or while training went on. On another layout every weight has the same bits where
 * it is loaded, and losses go on within rounding. */
#include "saved_run.h"

#include "dstrain/random.h"

#include <math.h>
#include <stdio.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
/* every thread and every wait is in each, and in the first steps */
enum { STRIDE = 3, SOURCES = 2, LOADS = 3, INTERVAL = 2, STEPS = 7 };
#else
enum { STRIDE = 1, SOURCES = 10, LOADS = 10, INTERVAL = 4, STEPS = 14 };
#endif
enum { FIRST = 2 * INTERVAL };

static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 11), drawn++, bound);
}

/* ---- runs. Rates do not depend on where a run ends. */

static uint64_t buffer;
static struct {
    int compute, master, exp_avg, exp_avg_sq;
} precision;

static void with_precision(struct ds_config *config)
{
    config->precision.compute = precision.compute;
    config->precision.master = precision.master;
    config->precision.exp_avg = precision.exp_avg;
    config->precision.exp_avg_sq = precision.exp_avg_sq;
    config->checkpoint.buffer = buffer;
}

static struct tiny_case base_case(void)
{
    return (struct tiny_case){.ranks = 1,
                              .stage = 3,
                              .global_batch = 8,
                              .micro_batch = 1,
                              .data = saved.data,
                              .layers = 4};
}

static void remove_newest(void)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_manifest_id ids[SAVED_MAX];

    assert_true(saved_list(saved.root, ids) > 0);
    ds_checkpoint_manifest_path(saved.root, &ids[0], path);
    assert_int_equal(ds_fs_unlink(ds_fs_posix(), path), 0);
}

/* ---- the same layout: the same bits */

static void assert_goes_on(const struct tiny_case *c, const struct tiny_result *whole,
                           uint64_t from)
{
    struct tiny_result rest = saved_run(*c, STEPS, with_checkpoints);

    assert_int_equal(saved_went_on_from(&rest), from);
    assert_same_run(&rest, whole, from);
    assert_int_equal(rest.steps, STEPS);
    assert_int_equal(rest.skipped, whole->skipped);
    assert_int_equal(rest.last.tokens, whole->last.tokens);
    tiny_result_fini(&rest);
}

/* From the checkpoint behind the last step, and from the one before it, that was written while training went on. */
static void check(struct tiny_case c)
{
    struct tiny_result whole = saved_run(c, STEPS, without_checkpoints);
    struct tiny_result first = saved_run(c, FIRST, with_checkpoints);
    struct ds_manifest_id ids[SAVED_MAX];

    assert_memory_equal(first.loss, whole.loss,
                        FIRST * sizeof *whole.loss); /* saving is not seen */
    assert_int_equal(saved_list(saved.root, ids), FIRST / INTERVAL);
    assert_int_equal(ids[0].step, FIRST);
    remove_newest();
    assert_goes_on(&c, &whole, FIRST - INTERVAL);
    saved_forget(saved.root);
    tiny_result_fini(&first);
    first = saved_run(c, FIRST, with_checkpoints);
    assert_goes_on(&c, &whole, FIRST);
    saved_forget(saved.root);
    tiny_result_fini(&first);
    tiny_result_fini(&whole);
}

static void every_stage_goes_on_with_the_same_bits(void **state)
{
    (void)state;
    for (int stage = 0; stage <= 3; stage += STRIDE)
        for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
            struct tiny_case c = base_case();

            c.stage = stage;
            c.mode = mode;
            c.ranks = 4;
            c.shard = mode == DS_DEVICE_INLINE ? 4 : 2;
            c.is_tied = stage & 1;
            check(c);
        }
    check(base_case());
}

static void pipelines_and_tensor_ranks_go_on_with_the_same_bits(void **state)
{
    static const struct {
        uint32_t ranks, tensor, pipeline, chunks;
        int schedule, is_tied, stage, mode;
    } rows[] = {{2, 1, 2, 1, DS_PIPELINE_1F1B, 1, 3, DS_DEVICE_DEFERRED},
                {4, 1, 2, 2, DS_PIPELINE_INTERLEAVED, 0, 2, DS_DEVICE_INLINE},
                {4, 2, 2, 1, DS_PIPELINE_ZERO_BUBBLE, 1, 1, DS_DEVICE_INLINE},
                {4, 4, 1, 1, DS_PIPELINE_1F1B, 0, 3, DS_DEVICE_INLINE},
                {8, 2, 2, 1, DS_PIPELINE_GPIPE, 1, 0, DS_DEVICE_INLINE}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i += STRIDE) {
        struct tiny_case c = base_case();

        c.ranks = rows[i].ranks;
        c.tensor = rows[i].tensor;
        c.pipeline = rows[i].pipeline;
        c.chunks = rows[i].chunks;
        c.schedule = rows[i].schedule;
        c.is_tied = rows[i].is_tied;
        c.stage = rows[i].stage;
        c.mode = rows[i].mode;
        check(c);
    }
}

static void every_precision_goes_on_with_the_same_bits(void **state)
{
    static const int rows[][4] = {
        {DS_PRECISION_BF16, DS_MASTER_KEY_FP32, DS_PRECISION_FP32, DS_PRECISION_BF16},
        {DS_PRECISION_BF16, DS_MASTER_KEY_REMAINDER16, DS_PRECISION_BF16, DS_PRECISION_FP32},
        {DS_PRECISION_BF16, DS_MASTER_KEY_NONE, DS_PRECISION_BF16, DS_PRECISION_BF16},
        {DS_PRECISION_FP16, DS_MASTER_KEY_FP32, DS_PRECISION_FP32, DS_PRECISION_FP32},
        {DS_PRECISION_FP32, DS_MASTER_KEY_FP32, DS_PRECISION_BF16, DS_PRECISION_BF16}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i += STRIDE) {
        struct tiny_case c = base_case();

        memcpy(&precision, rows[i], sizeof precision);
        c.ranks = 1 + (uint32_t)(i & 1);
        c.stage = (int)(3 * (i & 1));
        c.mode = (int)(i / 2 & 1);
        check(c);
    }
    memset(&precision, 0, sizeof precision);
}

/* Memory for the largest unit alone: it is emptied and filled again, and the save is still one step's state. */
static void a_save_in_turns_is_one_step(void **state)
{
    struct tiny_case c = base_case();
    struct capture capture;
    char *need;

    (void)state;
    c.ranks = 2;
    buffer = 1;
    capture_begin(&capture);
    struct tiny_case small = c;
    struct tiny_result result;
    small.steps = FIRST;
    small.adjust = with_checkpoints;
    tiny_run(&small, &result);
    need = strstr(capture_end(&capture), "nearest: ");
    assert_int_equal(result.status, DS_ERR_CONFIG);
    assert_non_null(need);
    buffer = strtoull(need + strlen("nearest: "), NULL, 10);
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        c.mode = mode;
        check(c);
    }
    struct tiny_result one = saved_run(c, FIRST, with_checkpoints);
    const uint64_t taken = one.bytes[0][DS_MEMORY_PINNED][DS_MEMORY_LABEL_SNAPSHOT];
    assert_true(taken > 0 && taken <= buffer);
    tiny_result_fini(&one);
    saved_forget(saved.root);
    buffer = 0;
}

/* ---- another layout */

struct layout {
    uint32_t data, shard, tensor, pipeline;
    int stage;
};

enum { LAYOUTS_MAX = 128, BATCH = 24 };

static uint32_t list_layouts(struct layout to[LAYOUTS_MAX])
{
    static const uint32_t datas[] = {1, 2, 3, 4, 6, 8}; /* they divide the batch */
    uint32_t count = 0;

    for (size_t d = 0; d < sizeof datas / sizeof *datas; d++)
        for (uint32_t shard = 1; shard <= datas[d]; shard++)
            for (uint32_t tensor = 1; tensor <= 8; tensor *= 2)
                for (uint32_t pipeline = 1; pipeline <= 6; pipeline++)
                    if (datas[d] % shard == 0 && datas[d] * tensor * pipeline <= 8)
                        to[count++] = (struct layout){datas[d], shard, tensor, pipeline, 0};
    return count;
}

static struct tiny_case case_of(const struct layout *layout)
{
    struct tiny_case c = base_case();

    c.ranks = layout->data * layout->tensor * layout->pipeline;
    c.shard = layout->shard;
    c.tensor = layout->tensor;
    c.pipeline = layout->pipeline;
    c.stage = layout->stage;
    c.global_batch = BATCH;
    c.family = DS_FAMILY_QWEN3;
    c.heads = 8;
    c.kv_heads = 2;
    c.head_dim = 4;
    c.is_tied = 1;
    return c;
}

static void describe(const struct layout *a, const struct layout *b, char *to, size_t bytes)
{
    snprintf(to, bytes, "data %u shard %u tensor %u pipeline %u stage %d -> %u %u %u %u %d",
             a->data, a->shard, a->tensor, a->pipeline, a->stage, b->data, b->shard, b->tensor,
             b->pipeline, b->stage);
}

enum { LOADED = 3, MORE = 1 };

/* `whole`: of `from`, LOADED steps and MORE; `source`: the weights after LOADED. */
static void check_pair(const struct layout *from, const struct layout *to,
                       const struct tiny_result *whole, const struct tiny_result *source)
{
    const struct tiny_case c = case_of(to);
    char what[128];

    describe(from, to, what, sizeof what);
    if (test_is_long() || draw(2) == 0) {
        struct tiny_result loaded = saved_run(c, LOADED, with_checkpoints);

        if (loaded.steps != 0)
            fail_msg("%s: it began again", what);
        if (memcmp(loaded.params, source->params, source->param_elems * sizeof *source->params) !=
            0)
            fail_msg("%s: other weights", what);
        tiny_result_fini(&loaded);
    }
    struct tiny_result rest = saved_run(c, LOADED + MORE, with_checkpoints);
    for (uint64_t i = LOADED; i < LOADED + MORE; i++)
        if (!(fabs(rest.loss[i] - whole->loss[i]) <= 2e-6 * fabs(whole->loss[i])))
            fail_msg("%s: step %llu: loss %.9g, %.9g where it was saved", what,
                     (unsigned long long)i + 1, rest.loss[i], whole->loss[i]);
    tiny_result_fini(&rest);
}

/* Saved once, loaded by `count` others, or all where it is 0. */
static void check_source(const struct layout *layouts, uint32_t layout_count, struct layout from,
                         uint32_t count)
{
    const struct tiny_case c = case_of(&from);
    struct tiny_result whole = saved_run(c, LOADED + MORE, without_checkpoints);

    saved.interval = LOADED;
    struct tiny_result source = saved_run(c, LOADED, with_checkpoints);
    saved.interval = 0; /* others load, and leave it as it is */
    for (uint32_t i = 0; i < (count ? count : layout_count); i++) {
        struct layout to = layouts[count ? draw(layout_count) : i];

        to.stage = (int)draw(4);
        check_pair(&from, &to, &whole, &source);
    }
    saved_forget(saved.root);
    saved.interval = INTERVAL;
    tiny_result_fini(&whole);
    tiny_result_fini(&source);
}

static void every_layout_loads_what_another_has_saved(void **state)
{
    static struct layout layouts[LAYOUTS_MAX];
    const uint32_t count = list_layouts(layouts);
    const int is_long = test_is_long();

    (void)state;
    for (uint32_t i = 0; i < (is_long ? count : SOURCES); i++) {
        struct layout from = layouts[is_long ? i : draw(count)];

        from.stage = (int)draw(4);
        check_source(layouts, count, from, is_long ? 0 : LOADS);
    }
}

/* Weights alone for masters, moments of other dtypes: what can be kept of the bits is. */
static void other_precisions_load(void **state)
{
    static const int masters[] = {DS_MASTER_KEY_FP32, DS_MASTER_KEY_REMAINDER16,
                                  DS_MASTER_KEY_NONE};

    (void)state;
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++) {
            struct tiny_case c = base_case();

            memcpy(&precision,
                   (int[]){DS_PRECISION_BF16, masters[from], DS_PRECISION_BF16, DS_PRECISION_FP32},
                   sizeof precision);
            struct tiny_result source = saved_run(c, LOADED, with_checkpoints);
            precision.master = masters[to];
            precision.exp_avg = DS_PRECISION_FP32;
            c.ranks = 2;
            struct tiny_result loaded = saved_run(c, LOADED, with_checkpoints);
            assert_int_equal(loaded.steps, 0);
            if (masters[to] != DS_MASTER_KEY_NONE)
                assert_memory_equal(loaded.params, source.params,
                                    source.param_elems * sizeof *source.params);
            tiny_result_fini(&loaded);
            loaded = saved_run(c, LOADED + 1, with_checkpoints);
            assert_int_equal(loaded.steps, LOADED + 1);
            saved_forget(saved.root);
            tiny_result_fini(&loaded);
            tiny_result_fini(&source);
        }
    memset(&precision, 0, sizeof precision);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_stage_goes_on_with_the_same_bits),
        cmocka_unit_test(pipelines_and_tensor_ranks_go_on_with_the_same_bits),
        cmocka_unit_test(every_precision_goes_on_with_the_same_bits),
        cmocka_unit_test(a_save_in_turns_is_one_step),
        cmocka_unit_test(every_layout_loads_what_another_has_saved),
        cmocka_unit_test(other_precisions_load),
    };
    int failed;

    saved_begin("test_resume", 64);
    saved.interval = INTERVAL;
    saved.decay_steps = STEPS - 3;
    saved.also = with_precision;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
