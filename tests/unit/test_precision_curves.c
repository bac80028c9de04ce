// link: launch
// timeout: 3600
/* What 16 bits cost: the same small Llama on real English in fp32 and in the other precisions, step by step;
 * beside them, as controls, fp32 that is disturbed otherwise. 100 steps, 500 in the long mode. At another
 * learning rate than the one where rounding stays rounding, DSTRAIN_TEST_RATE=3e-3, the distances are printed
 * and nobody is held to them. */
#include "test.h"

#include "tiny_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CORPUS "/usr/share/games/fortunes/cookie"

enum { WINDOW = 10 }; /* steps averaged: one batch says little */

static char *folder;
static uint64_t seed;
static double rate = 1e-3; /* higher ones make any rounding another path */
static int is_held = 1;

static uint64_t step_count(void)
{
    return test_is_long() ? 500 : 100;
}

static void text_config(struct ds_config *config)
{
    const struct tiny_case c = {.ranks = 1,
                                .steps = step_count(),
                                .global_batch = 8,
                                .micro_batch = 4,
                                .seed = seed,
                                .data = CORPUS};

    tiny_config(&c, config);
    config->data.format = DS_DATA_TEXT;
    config->data.eval[0] = '\0';
    snprintf(config->data.tokenizer, sizeof config->data.tokenizer, "bytes");
    snprintf(config->data.cache, sizeof config->data.cache, "%s/cache", folder);
    config->model.vocab_size = DS_BYTE_VOCAB;
    config->model.hidden_size = 64;
    config->model.intermediate_size = 176;
    config->model.num_hidden_layers = 2;
    config->model.initializer_range = 0.02;
    config->train.seq_length = 64;
    config->optimizer.learning_rate = rate;
    config->optimizer.eps = 1e-8;
    config->schedule.warmup_steps = 20;
}

static struct tiny_result run(const struct ds_config *config)
{
    const struct tiny_case c = {.ranks =
                                    (uint32_t)(config->parallel.data * config->parallel.tensor),
                                .steps = step_count(),
                                .config = config};
    struct tiny_result result;

    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(result.steps, c.steps);
    return result;
}

static double mean(const double *loss, uint64_t start)
{
    double sum = 0;

    for (uint64_t i = 0; i < WINDOW; i++)
        sum += loss[start + i];
    return sum / WINDOW;
}

static void expect_near(const char *what, const struct tiny_result *fp32,
                        const struct tiny_result *other, double most)
{
    double worst = 0;

    for (uint64_t i = 0; i + WINDOW <= fp32->steps; i++) {
        double off = fabs(mean(other->loss, i) / mean(fp32->loss, i) - 1);
        worst = off > worst ? off : worst;
    }
    printf("%s: the curve is within %.3f %% of fp32's\n", what, 100 * worst);
    fflush(stdout);
    if (is_held && !(worst <= most))
        fail_msg("%s: the curve leaves fp32's by %.2f %%", what, 100 * worst);
}

struct precision {
    const char *what;
    int compute, master, exp_avg, exp_avg_sq, gradients, reduce;
    double most;
};

/* clang-format off */
static const struct precision precisions[] = {
    {"bf16, fp32 master",        DS_PRECISION_BF16, DS_MASTER_KEY_FP32, 0, 0, 0, 0, 0.01},
    {"bf16, no master",          DS_PRECISION_BF16, DS_MASTER_KEY_NONE, 0, 0, 0, 0, 0.02},
    {"bf16, remainder16, bf16 moments, gradients and reduce",
                                 DS_PRECISION_BF16, DS_MASTER_KEY_REMAINDER16, 1, 1, 1, 1, 0.02},
    {"fp16, fp32 master",        DS_PRECISION_FP16, DS_MASTER_KEY_FP32, 0, 0, 0, 0, 0.01},
};
/* clang-format on */

/* What is no rounding to 16 bits: the same numbers added up in another order, and first weights that are larger
 * by as much as bf16, or fp16, rounds at most. All arithmetic is fp32's. */
struct control {
    const char *what;
    uint64_t micro_batch, data, tensor;
    double larger, most;
};

static const struct control controls[] = {
    {"fp32, micro-batches of 2", 2, 1, 1, 0, 0.0002},
    {"fp32, micro-batches of 8", 8, 1, 1, 0, 0.0002},
    {"fp32, 2 data ranks", 4, 2, 1, 0, 0.0002},
    {"fp32, 2 tensor ranks", 4, 1, 2, 0, 0.0002},
    {"fp32, first weights larger by 2^-9", 4, 1, 1, 0x1p-9, 0.01},
    {"fp32, first weights larger by 2^-12", 4, 1, 1, 0x1p-12, 0.01},
};

static void compare_controls(const struct ds_config *base, const struct tiny_result *fp32)
{
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        const struct control *c = &controls[i];
        struct ds_config config = *base;
        config.train.micro_batch_size = c->micro_batch;
        config.parallel.data = config.parallel.shard = c->data;
        config.parallel.tensor = c->tensor;
        config.model.initializer_range *= 1 + c->larger;
        struct tiny_result other = run(&config);
        expect_near(c->what, fp32, &other, c->most);
        tiny_result_fini(&other);
    }
}

static void compare_precisions(const struct ds_config *base, const struct tiny_result *fp32)
{
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
        const struct precision *p = &precisions[i];
        struct ds_config config = *base;
        config.precision.compute = p->compute;
        config.precision.master = p->master;
        config.precision.exp_avg = p->exp_avg;
        config.precision.exp_avg_sq = p->exp_avg_sq;
        config.precision.gradients = p->gradients;
        config.precision.reduce = p->reduce;
        struct tiny_result other = run(&config);
        expect_near(p->what, fp32, &other, p->most);
        tiny_result_fini(&other);
    }
}

static void curves_in_16_bit_stay_near_fp32(void **state)
{
    struct ds_config config;

    (void)state;
    if (access(CORPUS, R_OK) != 0)
        skip(); /* the package fortunes */
    text_config(&config);
    struct tiny_result fp32 = run(&config);
    assert_true(mean(fp32.loss, fp32.steps - WINDOW) < 0.6 * fp32.loss[0]); /* it learned */
    compare_controls(&config, &fp32);
    compare_precisions(&config, &fp32);
    tiny_result_fini(&fp32);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(curves_in_16_bit_stay_near_fp32),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_precision_curves");
    if (getenv("DSTRAIN_TEST_RATE")) {
        rate = strtod(getenv("DSTRAIN_TEST_RATE"), NULL);
        is_held = 0;
    }
    folder = tiny_folder();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    tiny_remove(folder);
    return failed;
}
