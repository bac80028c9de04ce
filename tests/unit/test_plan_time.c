// link: launch
// private: launch
/* The time of a step, against figures by hand; and the work of a list, against what a layout must move. */
#include "test.h"

#include "config/config.h"
#include "plan.h"

#include <math.h>

static void assert_near(double value, double wanted)
{
    if (!(fabs(value - wanted) <= 1e-9 * wanted))
        fail_msg("%.12g, not %.12g", value, wanted);
}

/* ---- seconds of given work */

static const struct ds_speeds round_speeds = {.flops_per_s = 100e12,
                                              .to_device_per_s = 50e9,
                                              .to_host_per_s = 25e9,
                                              .file_read_per_s = 4e9,
                                              .file_write_per_s = 2e9,
                                              .updated_per_s = 2e12,
                                              .host_updated_per_s = 100e9};

static void a_part_lasts_as_long_as_its_slowest(void **state)
{
    static const struct {
        struct ds_step_work work;
        double s;
    } rows[] = {
        {{.flops = 200e12}, 2},                                    /* 200 / 100 */
        {{.flops = 200e12, .updated = 1000000000000}, 2.5},        /* and 1 / 2 behind it */
        {{.flops = 200e12, .to_device = 150000000000}, 3},         /* 150 / 50 beside it */
        {{.to_device = 100000000000, .to_host = 100000000000}, 4}, /* 100 / 25; 100 / 50 beside */
        {{.file_read = 8000000000, .file_write = 8000000000}, 6},  /* 8 / 4 and 8 / 2 in turn */
        {{.host_updated = 300000000000, .flops = 100e12}, 3},      /* 300 / 100 */
        {{.host_updated = 300000000000, .to_device = 50000000000},
         3.7}, /* (300 + 1.4 * 50) / 100 */
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ds_step_work work[DS_STEP_PARTS] = {{0}};
        work[i % DS_STEP_PARTS] = rows[i].work;
        assert_near(ds_plan_step_s(work, &round_speeds), rows[i].s);
        work[(i + 1) % DS_STEP_PARTS] = rows[i].work; /* parts follow each other */
        assert_near(ds_plan_step_s(work, &round_speeds), 2 * rows[i].s);
    }
}

static void what_has_no_rate_takes_no_time(void **state)
{
    const struct ds_step_work work[DS_STEP_PARTS] = {{.flops = 1e15, .to_device = 10000000000},
                                                     {.file_read = 1000000000}};
    const struct ds_speeds link = {.to_device_per_s = 50e9};

    (void)state;
    assert_near(ds_plan_step_s(work, &link), 0.2);
}

/* ---- the work of a list: 2 layers of hidden 64, one rank, two micro-batches of 16 tokens */

static const char text[] =
    "[run]\ndir = unused\ndevice = cpu\n"
    "[model]\nfamily = llama\nvocab_size = 300\nhidden_size = 64\nintermediate_size = 160\n"
    "num_hidden_layers = 2\nnum_attention_heads = 4\nnum_key_value_heads = 4\n"
    "[data]\ntrain = unused.txt\n"
    "[precision]\ncompute = bf16\n"
    "[train]\nsteps = 1\nglobal_batch_size = 2\nmicro_batch_size = 1\nseq_length = 16\n"
    "[zero]\nreshard_after_forward = always\nwindow = 1\n"
    "[offload]\nblock_size = 8192\ndepth = 2\n";

/* Elements of units, cut at 2,048: the embedding and the head have 300 rows, the head a norm beside them. */
enum { TOKENS = 32, TABLE = 20480, LAYER = 49152 };

static struct ds_plan plan_of(const char *const *overrides)
{
    static struct ds_config config;
    struct ds_plan_question question = {
        .config = &config, .fs = ds_fs_posix(), .clock = ds_clock_system(), .size = 1};
    struct ds_plan plan;
    size_t count = 0;

    while (overrides[count])
        count++;
    assert_ok(ds_config_parse("c.ini", text, sizeof text - 1, overrides, count, &config));
    ds_config_resolve(&config, 1);
    assert_ok(ds_config_validate(&config, DS_CONFIG_TRAIN, 1));
    assert_ok(ds_plan_settle(&question, &config));
    assert_ok(ds_plan_measure(&question, 0, &plan));
    return plan;
}

static struct ds_step_work sum_of(const struct ds_plan *plan)
{
    struct ds_step_work sum = {0};

    for (int part = 0; part < DS_STEP_PARTS; part++) {
        sum.flops += plan->work[part].flops;
        sum.to_device += plan->work[part].to_device;
        sum.to_host += plan->work[part].to_host;
        sum.file_read += plan->work[part].file_read;
        sum.file_write += plan->work[part].file_write;
        sum.updated += plan->work[part].updated;
        sum.host_updated += plan->work[part].host_updated;
    }
    return sum;
}

static uint64_t pinned(const struct ds_plan *plan, enum ds_memory_label label)
{
    return plan->bytes[DS_MEMORY_PINNED][label];
}

/* 6 FLOPs an element of each matrix that multiplies and token, and attention: 2 s h forward, twice that back. */
static void flops_are_those_of_the_model(void **state)
{
    const double layer = 4 * 64.0 * 64 + 3 * 64.0 * 160, head = 300 * 64.0, attention = 16 * 64.0;
    const double model = TOKENS * (6 * (2 * layer + head) + 2 * 6 * attention);
    const double again = TOKENS * 2 * (layer + attention); /* the last layer is still there */
    const char *const plain[] = {NULL}, *const full[] = {"train.activation_checkpointing=full",
                                                         NULL};
    const struct ds_plan plan = plan_of(plain), recomputed = plan_of(full);
    const double embedding = 0.01 * model; /* moves rows: next to nothing */

    (void)state;
    assert_true(fabs(sum_of(&plan).flops - model) < embedding * 6);
    assert_near(sum_of(&recomputed).flops - sum_of(&plan).flops, again);
    assert_true(plan.work[DS_STEP_FORWARD].flops > 0 && plan.work[DS_STEP_UPDATES].flops == 0);
    assert_true(sum_of(&plan).to_device == 0 && sum_of(&plan).to_host == 0);
}

/* States come and go once; weights come for each micro-batch, those of the first layer once more for its way back (the last
 * is still there), and all for their update, from which they go; sums of gradients go for each micro-batch and come for
 * all but the first, and for the update. */
static void what_is_away_passes_the_link(void **state)
{
    const char *const states[] = {"offload.exp_avg=host", "offload.exp_avg_sq=host:0.5", NULL};
    const char *const grads[] = {"offload.grads=host", NULL};
    const char *const params[] = {"offload.params=host", NULL};
    const struct ds_plan of_states = plan_of(states), of_grads = plan_of(grads),
                         of_params = plan_of(params);

    (void)state;
    const uint64_t moments = pinned(&of_states, DS_MEMORY_LABEL_EXP_AVG) +
                             pinned(&of_states, DS_MEMORY_LABEL_EXP_AVG_SQ);
    assert_true(moments > 0);
    assert_true(sum_of(&of_states).to_device == moments && sum_of(&of_states).to_host == moments);
    const uint64_t sums = pinned(&of_grads, DS_MEMORY_LABEL_GRADS);
    assert_true(sum_of(&of_grads).to_host == 2 * sums && sum_of(&of_grads).to_device == 2 * sums);
    const uint64_t weights = pinned(&of_params, DS_MEMORY_LABEL_PARAMS);
    assert_true(weights > 0 && sum_of(&of_params).to_host == weights);
    assert_true(weights == 2 * (2 * TABLE + 2 * LAYER) && sum_of(&of_params).to_host == weights);
    assert_true(sum_of(&of_params).to_device == weights + 2 * (weights + 2 * LAYER));
}

/* What is frozen comes for each micro-batch, and never goes. */
static void frozen_weights_only_come(void **state)
{
    const char *const overrides[] = {"offload.params=host", "lora.r=4", "lora.alpha=8", NULL};
    const struct ds_plan plan = plan_of(overrides);
    const uint64_t weights = pinned(&plan, DS_MEMORY_LABEL_PARAMS);

    (void)state;
    assert_true(weights > 2 * (2 * TABLE + 2 * LAYER));
    assert_true(sum_of(&plan).to_device > 2 * weights);
    assert_true(sum_of(&plan).to_host < weights / 4); /* factors */
}

/* By the host: gradients come down, weights go up, and nothing else. The bytes of an update are 2 x 12 of fp32 states, a
 * gradient of 4 and a weight of 2 that is written. */
static void the_host_s_updates_are_its_own(void **state)
{
    const char *const gpu[] = {"offload.master=host", "offload.exp_avg=host",
                               "offload.exp_avg_sq=host", NULL};
    const char *const cpu[] = {"offload.master=host", "offload.exp_avg=host",
                               "offload.exp_avg_sq=host", "offload.optimizer_compute=cpu", NULL};
    const struct ds_plan by_gpu = plan_of(gpu), by_cpu = plan_of(cpu);
    const uint64_t elems = pinned(&by_gpu, DS_MEMORY_LABEL_EXP_AVG) / 4;

    (void)state;
    assert_true(sum_of(&by_gpu).updated == 30 * elems && sum_of(&by_gpu).host_updated == 0);
    assert_true(sum_of(&by_cpu).host_updated == 30 * elems && sum_of(&by_cpu).updated == 0);
    assert_true(sum_of(&by_cpu).to_host == 4 * elems && sum_of(&by_cpu).to_device == 2 * elems);
}

/* At the end behind the verdict, but for what the slots take before it; late beside the next forward pass. */
static void late_updates_travel_beside_the_forward_pass(void **state)
{
    const char *const end[] = {"offload.exp_avg=host", NULL};
    const char *const late[] = {"offload.exp_avg=host", "offload.updates=late", NULL};
    const struct ds_plan at_end = plan_of(end), in_next = plan_of(late);
    const uint64_t bytes = pinned(&at_end, DS_MEMORY_LABEL_EXP_AVG), slots = 2 * 8192;

    (void)state;
    assert_true(at_end.work[DS_STEP_UPDATES].to_device == bytes - slots);
    assert_true(at_end.work[DS_STEP_UPDATES].to_host == bytes);
    assert_true(at_end.work[DS_STEP_REST].to_device == slots);
    assert_true(in_next.work[DS_STEP_FORWARD].to_device == bytes - slots);
    assert_true(in_next.work[DS_STEP_FORWARD].to_host == bytes);
    assert_true(in_next.work[DS_STEP_REST].to_device == slots);
    assert_true(in_next.work[DS_STEP_UPDATES].to_host == 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_lasts_as_long_as_its_slowest),
        cmocka_unit_test(what_has_no_rate_takes_no_time),
        cmocka_unit_test(flops_are_those_of_the_model),
        cmocka_unit_test(what_is_away_passes_the_link),
        cmocka_unit_test(frozen_weights_only_come),
        cmocka_unit_test(the_host_s_updates_are_its_own),
        cmocka_unit_test(late_updates_travel_beside_the_forward_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
