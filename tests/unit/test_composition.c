// link: launch
// tsan
// timeout: 7200
// cost: 70
/* Everything composes: data, tensor and pipeline ranks as threads, with every ZeRO stage, gathered parameters
 * given back at once, after a window or never, every pipeline schedule, recomputation and stream, what layers
 * keep on the device or on the host. At one layout none of these changes a bit; between layouts only rounding differs. The normal mode takes every
 * layout and draws the other choices, the long mode has all of them. */
#include "test.h"

#include "tiny_run.h"

#include "dstrain/random.h"

#include <math.h>
#include <stdio.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { STEPS = 4, RANKS_MAX = 4, ONE_OF = 3 }; /* layouts: every thread and every wait is in each */
#else
enum { STEPS = 20, RANKS_MAX = 8, ONE_OF = 1 };
#endif

static char *folder, *data;
static uint64_t seed, drawn, long_count;

struct layout {
    uint32_t data, tensor, pipeline;
};

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 7), drawn++, bound);
}

enum { BATCH_MAX = 16 };

/* Of at least two micro-batches a rank. */
static uint64_t batch_of(struct layout layout)
{
    return 12 % layout.data == 0 ? 12 : 2 * layout.data;
}

/* The smallest model that the layout divides, since the long mode trains it some three thousand times. Heads
 * for the tensor ranks, of which from 4 on some hold copies of kv heads; a block for every chunk, 8 at least. */
static struct tiny_case model_of(struct layout layout)
{
    const uint32_t tensor = layout.tensor, chunks = 2 * layout.pipeline; /* of interleaved */
    const uint32_t heads = tensor == 3 ? 6 : tensor < 4 ? 4 : tensor;
    const uint32_t kv_heads = tensor % 3 == 0 ? 3 : tensor == 5 || tensor == 7 ? 1 : 2;

    return (struct tiny_case){.family = DS_FAMILY_QWEN3,
                              .layers = chunks > 8 ? chunks - 2 : 6,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .head_dim = 4,
                              .is_tied = tensor % 2 == 0,
                              .steps = STEPS,
                              .global_batch = batch_of(layout),
                              .micro_batch = 1,
                              .seed = seed,
                              .data = data};
}

static struct tiny_case case_of(struct layout layout)
{
    struct tiny_case c = model_of(layout);

    c.ranks = layout.data * layout.tensor * layout.pipeline;
    c.tensor = layout.tensor;
    c.pipeline = layout.pipeline;
    c.schedule = DS_PIPELINE_1F1B;
    return c;
}

static void keep_on_the_host(struct ds_config *config)
{
    config->offload.activations = (struct ds_home_key){DS_HOME_HOST, 1};
}

static void keep_half_in_files(struct ds_config *config)
{
    config->offload.activations = (struct ds_home_key){DS_HOME_NVME, 0.5};
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", folder);
}

static void describe(const struct tiny_case *c, char *to, size_t bytes)
{
    snprintf(to, bytes,
             "data %u tensor %u pipeline %u, stage %d reshard %d window %llu schedule %d chunks %u "
             "recompute %d mode %d sp %d kept %d",
             c->ranks / (c->tensor * c->pipeline), c->tensor, c->pipeline, c->stage, c->reshard,
             (unsigned long long)c->window, c->schedule, c->chunks, c->recompute, c->mode,
             c->sequence_parallel,
             c->adjust == keep_on_the_host     ? 100
             : c->adjust == keep_half_in_files ? 50
                                               : 0);
}

static struct tiny_result run(const struct tiny_case *c)
{
    struct tiny_result result;
    char what[256];

    tiny_run(c, &result);
    describe(c, what, sizeof what);
    if (result.status != DS_OK || result.steps != c->steps)
        fail_msg("%s: %s after %llu steps", what, ds_status_text(result.status),
                 (unsigned long long)result.steps);
    return result;
}

static void assert_same_bits(const struct tiny_case *c, const struct tiny_result *a,
                             const struct tiny_result *b)
{
    char what[256];

    describe(c, what, sizeof what);
    for (uint64_t i = 0; i < c->steps; i++)
        if (memcmp(&a->loss[i], &b->loss[i], sizeof a->loss[i]) != 0 ||
            memcmp(&a->norm[i], &b->norm[i], sizeof a->norm[i]) != 0)
            fail_msg("%s: step %llu: loss %.17g and %.17g, norm %.9g and %.9g", what,
                     (unsigned long long)i + 1, a->loss[i], b->loss[i], a->norm[i], b->norm[i]);
    if (memcmp(a->params, b->params, a->param_elems * sizeof *a->params) != 0)
        fail_msg("%s: other parameters", what);
}

static void assert_same_losses(const struct tiny_case *c, const struct tiny_result *a,
                               const struct tiny_result *b)
{
    char what[256];

    describe(c, what, sizeof what);
    for (uint64_t i = 0; i < c->steps; i++)
        if (!(fabs(a->loss[i] - b->loss[i]) <= 2e-6 * fabs(b->loss[i])))
            fail_msg("%s: step %llu: loss %.9g, on one rank %.9g", what, (unsigned long long)i + 1,
                     a->loss[i], b->loss[i]);
    if (!(fabs(a->eval_loss - b->eval_loss) <= 2e-6 * b->eval_loss))
        fail_msg("%s: evaluation %.9g, on one rank %.9g", what, a->eval_loss, b->eval_loss);
}

/* ---- the choices at a layout, as one number each */

/* the ZeRO stages, and then stage 3 again: nothing is given back before the step ends; windows */
enum { HOLDS_NEVER = 4, HOLDS_WINDOW, HOLDS, RECOMPUTES = 3, MODES = 2 };

static uint32_t schedule_count(struct layout layout)
{
    return layout.pipeline == 1 ? 1 : 4;
}

static uint32_t variant_count(struct layout layout)
{
    return HOLDS * RECOMPUTES * MODES * schedule_count(layout);
}

static struct tiny_case variant_of(struct layout layout, uint32_t number)
{
    static const int schedules[] = {DS_PIPELINE_1F1B, DS_PIPELINE_GPIPE, DS_PIPELINE_ZERO_BUBBLE,
                                    DS_PIPELINE_INTERLEAVED};
    void (*const kept[])(struct ds_config *) = {NULL, keep_on_the_host, keep_half_in_files};
    const uint32_t holds = number % HOLDS;
    struct tiny_case c = case_of(layout);

    c.adjust = kept[draw(3)];

    c.stage = holds < 3 ? (int)holds : 3;
    c.reshard = holds == HOLDS_NEVER ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS;
    c.window = holds == HOLDS_WINDOW ? 2 + draw(4) : 1;
    c.recompute = (int)(number / HOLDS % RECOMPUTES);
    c.mode = (int)(number / HOLDS / RECOMPUTES % MODES);
    c.schedule = schedules[number / HOLDS / RECOMPUTES / MODES];
    c.chunks = c.schedule == DS_PIPELINE_INTERLEAVED ? 2 : 1;
    return c;
}

static void check_variant(struct layout layout, uint32_t number, const struct tiny_result *base)
{
    const struct tiny_case c = variant_of(layout, number);
    struct tiny_result other = run(&c);

    assert_same_bits(&c, &other, base);
    tiny_result_fini(&other);
}

/* Tokens that are shared out add up in another order, the same for all choices. */
static void check_sequence_parallel(struct layout layout, const struct tiny_result *one)
{
    const uint32_t variants = variant_count(layout), all = test_is_long() ? variants : 1;
    struct tiny_case c = case_of(layout);

    if (TINY_SEQ % layout.tensor != 0)
        return;
    c.sequence_parallel = 1;
    struct tiny_result base = run(&c);
    assert_same_losses(&c, &base, one);
    for (uint32_t i = 0; i < all; i++) {
        if (test_is_long() && !test_is_mine(long_count++))
            continue;
        c = variant_of(layout, test_is_long() ? i : (uint32_t)draw(variants));
        c.sequence_parallel = 1;
        struct tiny_result other = run(&c);
        assert_same_bits(&c, &other, &base);
        tiny_result_fini(&other);
    }
    tiny_result_fini(&base);
}

/* The run of one rank with this layout's model and batch, made once. */
static const struct tiny_result *one_rank(struct layout layout)
{
    static struct tiny_result results[RANKS_MAX + 1][BATCH_MAX + 1][2 * RANKS_MAX];
    struct tiny_case c = model_of(layout);
    struct tiny_result *result = &results[layout.tensor][batch_of(layout)][c.layers];

    c.ranks = c.tensor = c.pipeline = 1;
    if (result->steps == 0)
        *result = run(&c);
    return result; /* lives as long as the test */
}

static void check_layout(struct layout layout)
{
    const struct tiny_case c = case_of(layout);
    const struct tiny_result *one = one_rank(layout);
    const uint32_t variants = variant_count(layout);

    struct tiny_result base = run(&c);
    assert_same_losses(&c, &base, one);
    if (test_is_long())
        for (uint32_t i = 1; i < variants; i++) {
            if (test_is_mine(long_count++))
                check_variant(layout, i, &base);
        }
    else
        check_variant(layout, 1 + (uint32_t)draw(variants - 1), &base);
    if (layout.tensor > 1 && (test_is_long() || draw(2) == 0))
        check_sequence_parallel(layout, one);
    tiny_result_fini(&base);
}

static void every_layout_agrees(void **state)
{
    (void)state;
    for (uint32_t d = 1; d <= RANKS_MAX; d++)
        for (uint32_t t = 1; d * t <= RANKS_MAX; t++)
            for (uint32_t p = 1; d * t * p <= RANKS_MAX; p++)
                if (draw(ONE_OF) == 0)
                    check_layout((struct layout){d, t, p});
}

/* One kv head, of which every tensor rank has a copy, while tokens are shared out and stages hand them on:
 * three sums of gradients at once, never left to the draw. */
static void copies_of_kv_heads_agree_under_sequence_parallel_on_stages(void **state)
{
    static const struct layout layouts[] = {{1, 2, 2}, {1, 2, 4}, {1, 4, 2}, {2, 2, 2}};
    struct tiny_result one = {.steps = 0};

    (void)state;
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i += ONE_OF) {
        struct tiny_case c = variant_of(layouts[i], (uint32_t)draw(variant_count(layouts[i])));
        struct tiny_case alone = model_of(layouts[i]);

        c.kv_heads = alone.kv_heads = 1;
        c.sequence_parallel = 1;
        alone.ranks = alone.tensor = alone.pipeline = 1;
        if (one.steps == 0) /* all of them have this model and batch */
            one = run(&alone);
        struct tiny_result many = run(&c);
        assert_same_losses(&c, &many, &one);
        tiny_result_fini(&many);
    }
    tiny_result_fini(&one);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_agrees),
        cmocka_unit_test(copies_of_kv_heads_agree_under_sequence_parallel_on_stages),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_composition");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (test_is_long())
        print_message("%llu variants, those of every part together\n",
                      (unsigned long long)long_count);
    free(data);
    tiny_remove(folder);
    return failed;
}
