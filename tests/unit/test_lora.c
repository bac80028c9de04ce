// link: launch
// timeout: 3600
/* Factors beside frozen matrices, and what is trained of the model itself, on any layout: stages, streams, recomputation, schedules and homes give the same
 * bits, the number of ranks only rounding. What is frozen stays as it was to the bit, has no state but itself and is in
 * no checkpoint; a run that was stopped goes on from one all the same. */
#include "test.h"
#include "tiny_run.h"

#include "dstrain/checkpoint.h"
#include "dstrain/kernels.h"
#include "dstrain/random.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { DRAWS_NORMAL = 6, DRAWS_LONG = 60, STEPS = 6 };

static char *folder, *data, *root;
static uint64_t seed, drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 13), drawn++, bound);
}

/* ---- what is drawn */

static struct {
    uint64_t r, interval, eval_interval;
    double alpha, dropout;
    const char *targets, *ranks, *alphas, *whole;
    int bias; /* enum ds_lora_bias */
    int dora;
    int is_rslora, compute, updates; /* enum ds_precision, enum ds_updates_when */
    struct ds_home_key params, exp_avg, activations;
    int is_on_host; /* updates of what is away */
} now;

static void adjust(struct ds_config *config)
{
    config->lora.r = now.r;
    config->lora.alpha = now.alpha;
    config->lora.dropout = now.dropout;
    config->lora.rslora = now.is_rslora;
    snprintf(config->lora.target_modules, sizeof config->lora.target_modules, "%s", now.targets);
    snprintf(config->lora.rank_pattern, sizeof config->lora.rank_pattern, "%s", now.ranks);
    snprintf(config->lora.alpha_pattern, sizeof config->lora.alpha_pattern, "%s", now.alphas);
    snprintf(config->lora.modules_to_save, sizeof config->lora.modules_to_save, "%s", now.whole);
    config->lora.bias = now.bias;
    config->lora.dora = now.dora;
    config->precision.compute = now.compute;
    config->offload.params = now.params;
    config->offload.exp_avg = now.exp_avg;
    config->offload.activations = now.activations;
    config->offload.updates = now.updates;
    if (now.is_on_host) {
        config->offload.optimizer_compute = (struct ds_home_key){DS_OPTIMIZER_CPU, 1};
        config->offload.exp_avg_sq = now.exp_avg;
        if (now.compute != DS_PRECISION_FP32)
            config->offload.master = now.exp_avg;
    }
    config->optimizer.learning_rate = 1e-2;
    config->schedule.decay_steps = 4 * STEPS;
    config->train.eval_interval = now.eval_interval;
    config->checkpoint.interval = now.interval;
    if (now.interval > 0)
        snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static const char *const targets[] = {"all-linear",
                                      "q_proj, v_proj",
                                      "k_proj down_proj",
                                      "/model\\.layers\\.[12]\\..*(gate|o)_proj/",
                                      "layers.1.mlp.up_proj self_attn.o_proj",
                                      "up_proj"};

static const char *const wholes[] = {
    "", "embed_tokens", "lm_head", "norm", "embed_tokens, lm_head model.norm", "2.input_layernorm"};

static struct tiny_case draw_case(void)
{
    static const struct {
        uint32_t ranks, tensor, pipeline;
    } layouts[] = {{1, 1, 1}, {2, 1, 1}, {2, 2, 1}, {2, 1, 2}, {4, 2, 1},
                   {4, 4, 1}, {4, 2, 2}, {4, 1, 4}, {8, 2, 2}};
    const uint64_t layout = draw(sizeof layouts / sizeof *layouts);

    now.r = 1 + draw(9);
    now.alpha = 1 + (double)draw(32);
    now.dropout = draw(2) ? 0.1 * (double)draw(8) : 0;
    now.targets = targets[draw(sizeof targets / sizeof *targets)];
    now.ranks = draw(2) ? "q_proj: 3, layers.1.*: 2, down_proj: 11" : "";
    now.alphas = draw(2) ? ".*(o|v)_proj: 0.5, model.layers.0.*:7" : "";
    now.is_rslora = draw(2) == 1;
    now.whole = wholes[draw(sizeof wholes / sizeof *wholes)];
    now.bias = (int)draw(DS_LORA_BIAS_COUNT);
    now.dora = (int)draw(2);
    now.interval = now.eval_interval = 0;
    now.compute = DS_PRECISION_FP32;
    now.updates = DS_UPDATES_KEY_END;
    now.params = now.exp_avg = now.activations = (struct ds_home_key){0};
    now.is_on_host = 0;
    return (struct tiny_case){.ranks = layouts[layout].ranks,
                              .tensor = layouts[layout].tensor,
                              .pipeline = layouts[layout].pipeline,
                              .stage = 3,
                              .steps = STEPS,
                              .global_batch = 8,
                              .micro_batch = 1,
                              .family = (int)draw(DS_FAMILY_COUNT),
                              .is_tied = (int)draw(2),
                              .seed = seed + draw(1000),
                              .data = data,
                              .adjust = adjust};
}

static void print_case(const struct tiny_case *c)
{
    print_message(
        "ranks %u, tensor %u, pipeline %u, stage %d, mode %d, recompute %d, schedule %d, "
        "sequence %d, family %d, tied %d, r %d, dropout %g, '%s', '%s', bias %d, dora %d\n",
        c->ranks, c->tensor, c->pipeline, c->stage, c->mode, c->recompute, c->schedule,
        c->sequence_parallel, c->family, c->is_tied, (int)now.r, now.dropout, now.targets,
        now.whole, now.bias, now.dora);
}

static struct tiny_result run(const struct tiny_case *c)
{
    struct tiny_result result;

    tiny_run(c, &result);
    if (result.status != DS_OK)
        print_case(c);
    assert_int_equal(result.status, DS_OK);
    return result;
}

/* ---- what holds */

static int is_factor(const struct tiny_param *param)
{
    return strstr(param->name, "lora_") != NULL;
}

/* Of a matrix that has factors? */
static int is_beside_factors(const struct tiny_result *result, const struct tiny_param *bias)
{
    const size_t bytes = strlen(bias->name) - strlen("bias");

    for (uint32_t i = 0; i < result->param_count; i++)
        if (strncmp(result->table[i].name, bias->name, bytes) == 0 && is_factor(&result->table[i]))
            return 1;
    return 0;
}

static int is_named(const char *what)
{
    return strstr(now.whole, what) != NULL;
}

static int is_trained(const struct tiny_result *result, const struct tiny_param *param)
{
    const char *name = param->name, *end = strrchr(name, '.');

    if (is_factor(param))
        return 1;
    if (strcmp(end, ".bias") == 0)
        return now.bias == DS_LORA_BIAS_ALL ||
               (now.bias == DS_LORA_BIAS_ONLY && is_beside_factors(result, param));
    if (strncmp(name, "model.embed", 11) == 0)
        return is_named("embed") || (result->of.is_tied && is_named("lm_head"));
    if (strncmp(name, "lm_head", 7) == 0)
        return is_named("lm_head");
    if (strcmp(name, "model.norm.weight") == 0)
        return is_named("norm") && !is_named("layernorm");
    return strncmp(end - 4, "norm", 4) == 0 &&
           (strcmp(now.whole, "norm") == 0 ||
            (is_named("2.input") && strstr(name, "2.input_layernorm")));
}

static void assert_same_bits(const struct tiny_case *c, const struct tiny_result *a,
                             const struct tiny_result *b)
{
    if (memcmp(a->loss, b->loss, sizeof a->loss) != 0 ||
        memcmp(a->norm, b->norm, sizeof a->norm) != 0 ||
        memcmp(a->params, b->params, a->param_elems * sizeof *a->params) != 0) {
        print_case(c);
        fail_msg("other bits: last losses %.9g and %.9g", a->loss[STEPS - 1], b->loss[STEPS - 1]);
    }
}

/* Frozen to the bit; the rest to rounding. */
static void assert_same_learning(const struct tiny_result *a, const struct tiny_result *b)
{
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(a->loss[i] - b->loss[i]) <= 2e-6 * fabs(b->loss[i])) ||
            !(fabs(a->norm[i] - b->norm[i]) <= 1e-4 * fabs(b->norm[i])))
            fail_msg("step %d: loss %.9g and %.9g, norm %.9g and %.9g", i + 1, a->loss[i],
                     b->loss[i], a->norm[i], b->norm[i]);
    for (uint32_t i = 0; i < a->param_count; i++) {
        const struct tiny_param *param = &a->table[i];
        const size_t bytes = param->elems * sizeof(float);
        const float *of_a = a->params + param->start, *of_b = b->params + param->start;
        if (!is_trained(a, param) && memcmp(of_a, of_b, bytes) != 0)
            fail_msg("%s is frozen, and has changed", param->name);
    }
}

/* Products that begin with zeros do not stay so. */
static void assert_learned(const struct tiny_result *result)
{
    int count = 0;

    for (uint32_t i = 0; i < result->param_count; i++) {
        const struct tiny_param *param = &result->table[i];
        double size = 0;
        if (!strstr(param->name, "lora_B"))
            continue;
        for (uint64_t k = 0; k < param->elems; k++)
            size += fabs((double)result->params[param->start + k]);
        if (!(size > 0))
            fail_msg("%s has learned nothing", param->name);
        count++;
    }
    assert_true(count > 0);
}

static void draw_variant(struct tiny_case *c)
{
    static const int schedules[] = {DS_PIPELINE_1F1B, DS_PIPELINE_GPIPE, DS_PIPELINE_ZERO_BUBBLE};

    c->stage = (int)draw(4);
    now.updates = draw(2) ? DS_UPDATES_KEY_LATE : DS_UPDATES_KEY_END;
    c->mode = draw(2) ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE;
    c->recompute = (int)draw(3);
    c->schedule = schedules[draw(3)];
    c->window = c->stage == 3 ? 1 + draw(3) : 1;
    c->reshard = c->stage == 3 && draw(3) == 0 ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS;
    now.params = c->stage == 3 && draw(2) ? (struct ds_home_key){DS_HOME_HOST, 0.6}
                                          : (struct ds_home_key){0};
    now.exp_avg = (c->stage > 0 || c->ranks == 1) && draw(2) ? (struct ds_home_key){DS_HOME_HOST, 1}
                                                             : (struct ds_home_key){0};
    now.is_on_host = now.exp_avg.home && draw(2);
    now.activations = draw(2) ? (struct ds_home_key){DS_HOME_HOST, 1} : (struct ds_home_key){0};
}

static void layouts_change_rounding_and_the_rest_nothing(void **state)
{
    const int draws = test_is_long() ? DRAWS_LONG : DRAWS_NORMAL;

    (void)state;
    seed = test_seed(__func__);
    for (int i = 0; i < draws; i++) {
        struct tiny_case c = draw_case(), alone = c;
        struct tiny_result base = run(&c);

        for (int variant = 0; variant < 3; variant++) {
            struct tiny_case other = c;
            draw_variant(&other);
            struct tiny_result result = run(&other);
            assert_same_bits(&other, &base, &result);
            tiny_result_fini(&result);
        }
        now.params = now.exp_avg = now.activations = (struct ds_home_key){0};
        now.is_on_host = 0;
        now.updates = DS_UPDATES_KEY_END;
        alone.ranks = alone.tensor = alone.pipeline = 1;
        struct tiny_result one = run(&alone);
        assert_same_learning(&base, &one);
        assert_learned(&one);
        tiny_result_fini(&one);
        if (c.tensor > 1) {
            c.sequence_parallel = 1;
            one = run(&c);
            assert_same_learning(&base, &one);
            tiny_result_fini(&one);
        }
        tiny_result_fini(&base);
    }
}

/* With B = 0 rows have the lengths that they begin with, and nothing is changed yet. */
static void a_run_with_lengths_begins_as_one_without(void **state)
{
    (void)state;
    seed = test_seed(__func__);
    for (int i = 0; i < (test_is_long() ? DRAWS_LONG : 4); i++) {
        struct tiny_case c = draw_case();
        struct tiny_result with, without;

        c.sequence_parallel = c.tensor > 1 && draw(2);
        now.dora = 1;
        with = run(&c);
        now.dora = 0;
        without = run(&c);
        if (!(fabs(with.loss[0] - without.loss[0]) <= 2e-6 * without.loss[0])) {
            print_case(&c);
            fail_msg("first losses %.9g and %.9g", with.loss[0], without.loss[0]);
        }
        assert_true(with.loss[STEPS - 1] != without.loss[STEPS - 1]);
        tiny_result_fini(&with);
        tiny_result_fini(&without);
    }
}

/* ---- lengths are measured once a step */

static struct ds_device_ops counting_ops;
static struct ds_kernel_ops counting_kernels;
static atomic_uint measured;

static ds_status count_row_squares(struct ds_stream *stream, const struct ds_row_squares_args *args)
{
    atomic_fetch_add(&measured, 1);
    return ds_kernels_cpu.row_squares(stream, args);
}

static ds_status counting_open(int index, const struct ds_device_options *options,
                               struct ds_device **out)
{
    DS_TRY(ds_device_cpu_ops.open(index, options, out));
    (*out)->ops = &counting_ops;
    return DS_OK;
}

static const struct ds_device_ops *counting_device(void)
{
    counting_kernels = ds_kernels_cpu;
    counting_kernels.row_squares = count_row_squares;
    counting_ops = ds_device_cpu_ops;
    counting_ops.kernels = &counting_kernels;
    counting_ops.open = counting_open;
    return &counting_ops;
}

static unsigned measured_in(struct tiny_case c, uint64_t steps)
{
    struct tiny_result result;

    c.device = counting_device();
    c.steps = steps;
    atomic_store(&measured, 0);
    result = run(&c);
    tiny_result_fini(&result);
    return atomic_load(&measured);
}

/* Weights and factors change once a step: each rank measures its 7 matrices of 3 layers, or its stage's share of them, in
 * a step's first micro-batch, whatever is made again. What evaluations measure changes nothing. */
static void lengths_are_measured_once_a_step(void **state)
{
    (void)state;
    seed = test_seed(__func__);
    for (int i = 0; i < (test_is_long() ? DRAWS_LONG : 4); i++) {
        struct tiny_case c = draw_case();
        struct tiny_result plain, evaluated;

        draw_variant(&c);
        now.dora = 1;
        now.targets = "all-linear";
        print_case(&c);
        assert_int_equal(measured_in(c, STEPS) - measured_in(c, STEPS - 2),
                         2 * 3 * 7 * c.ranks / c.pipeline);
        plain = run(&c);
        now.eval_interval = 1;
        evaluated = run(&c);
        assert_same_bits(&c, &plain, &evaluated);
        tiny_result_fini(&plain);
        tiny_result_fini(&evaluated);
    }
}

/* ---- memory */

/* Frozen parameters take themselves, in the dtype of arithmetic; trained ones their states. Gaps and shards' ends are
 * the difference: a unit has less than 2048 + 14 * 128 elements of them. */
static void what_is_frozen_has_no_state(void **state)
{
    struct tiny_case c = {.ranks = 1,
                          .stage = 3,
                          .steps = 2,
                          .global_batch = 2,
                          .micro_batch = 1,
                          .data = data,
                          .adjust = adjust};
    uint64_t trained = 0, whole = 0;
    struct tiny_result result;

    (void)state;
    now.r = 4;
    now.alpha = 8;
    now.dropout = 0;
    now.targets = "q_proj";
    now.ranks = now.alphas = now.whole = "";
    now.bias = DS_LORA_BIAS_NONE;
    now.dora = 0;
    now.compute = DS_PRECISION_BF16;
    now.interval = now.eval_interval = 0;
    now.updates = DS_UPDATES_KEY_END;
    now.params = now.exp_avg = now.activations = (struct ds_home_key){0};
    now.is_on_host = 0;
    result = run(&c);
    for (uint32_t i = 0; i < result.param_count; i++) {
        trained += is_factor(&result.table[i]) ? result.table[i].elems : 0;
        whole += result.table[i].elems;
    }
    const uint64_t *bytes = result.bytes[0][DS_MEMORY_DEVICE], layers = 3;
    const uint64_t most = trained + layers * (2048 + 14 * 128);
    const int states[] = {DS_MEMORY_LABEL_MASTER, DS_MEMORY_LABEL_GRADS, DS_MEMORY_LABEL_EXP_AVG,
                          DS_MEMORY_LABEL_EXP_AVG_SQ};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        assert_true(bytes[states[i]] >= trained * sizeof(float));
        assert_true(bytes[states[i]] <= most * sizeof(float));
    }
    assert_true(whole > 2 * most); /* else that would say nothing */
    assert_true(bytes[DS_MEMORY_LABEL_PARAMS] >= whole * sizeof(uint16_t));
    tiny_result_fini(&result);
}

/* ---- checkpoints */

static void assert_holds(uint64_t step, uint64_t trained)
{
    struct ds_checkpoint_list list;
    struct ds_manifest manifest;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &list));
    assert_true(list.count > 0 && list.entries[0].id.step == step);
    assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &list.entries[0].id, &manifest));
    assert_int_equal(manifest.catalogue.count, 3 * trained);
    ds_manifest_fini(&manifest);
    ds_checkpoint_list_fini(&list);
}

static uint64_t count_trained(const struct tiny_result *result)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < result->param_count; i++)
        count += is_trained(result, &result->table[i]);
    return count;
}

static void a_run_goes_on_from_its_factors(void **state)
{
    (void)state;
    seed = test_seed(__func__);
    for (int i = 0; i < (test_is_long() ? DRAWS_LONG : 3); i++) {
        struct tiny_case c = draw_case(), half, elsewhere;
        struct tiny_result whole = run(&c), first, rest;

        now.interval = STEPS / 2;
        half = elsewhere = c;
        half.steps = STEPS / 2;
        first = run(&half);
        assert_holds(STEPS / 2, count_trained(&first));
        if (i % 2) { /* on other ranks: to rounding */
            elsewhere.ranks = elsewhere.ranks == 2 ? 4 : 2;
            elsewhere.tensor = elsewhere.pipeline = 1;
        }
        rest = run(&elsewhere);
        memcpy(rest.loss, whole.loss, STEPS / 2 * sizeof *rest.loss);
        memcpy(rest.norm, whole.norm, STEPS / 2 * sizeof *rest.norm);
        assert_same_learning(&whole, &rest);
        if (i % 2 == 0)
            assert_same_bits(&c, &whole, &rest);
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
        tiny_result_fini(&whole);
        tiny_result_fini(&first);
        tiny_result_fini(&rest);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_change_rounding_and_the_rest_nothing),
        cmocka_unit_test(a_run_with_lengths_begins_as_one_without),
        cmocka_unit_test(lengths_are_measured_once_a_step),
        cmocka_unit_test(what_is_frozen_has_no_state),
        cmocka_unit_test(a_run_goes_on_from_its_factors),
    };
    int failed;

    ds_log.is_leader = 0;
    folder = tiny_folder();
    data = tiny_data(folder, 7, 40);
    root = malloc(600);
    snprintf(root, 600, "%s/checkpoints", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(root);
    free(data);
    tiny_remove(folder);
    return failed;
}
