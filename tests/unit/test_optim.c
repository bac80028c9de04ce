// link: launch
/* test_optim.c - learning rates against the formulas of Hugging Face's schedules, written down again
 * here; and who decays: exactly what was configured, wherever shards are cut. */
#include "ranks.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/optim.h"

#include <math.h>
#include <stdatomic.h>

static uint64_t seed;
static char *folder, *data;

/* ---- learning rates. s counts from 0, W warm-up, S total, D decay, r the floor as a part of peak */

static double with_floor(double shape, double r)
{
    return shape * (1 - r) + r;
}

static double hf_linear(double s, double w, double total)
{
    return fmax(0, (total - s) / fmax(1, total - w));
}

static double hf_cosine(double s, double w, double total)
{
    const double progress = (s - w) / fmax(1, total - w);

    return fmax(0, 0.5 * (1 + cos(acos(-1) * 2 * 0.5 * progress)));
}

static double hf_wsd(double s, double w, double stable, double decay)
{
    if (s < w + stable)
        return 1;
    return s < w + stable + decay ? 1 - (s - w - stable) / fmax(1, decay) : 0;
}

/* Ours rises to step / W, so that the first update has a rate; behind it the step before counts. */
static double expected(const struct ds_lr_schedule *c, uint64_t step)
{
    const double s = (double)step - 1, w = (double)c->warmup_steps, total = (double)c->total_steps;
    const double decay = (double)c->decay_steps, r = c->min / c->peak;
    const double end = decay > 0 ? w + decay : total; /* of linear and cosine */

    if (s < w)
        return c->peak * (double)step / w;
    switch (c->kind) {
    case DS_LR_CONSTANT:
        return c->peak;
    case DS_LR_LINEAR:
        return c->peak * with_floor(hf_linear(fmin(s, end), w, end), r);
    case DS_LR_COSINE:
        return c->peak * with_floor(hf_cosine(fmin(s, end), w, end), r);
    case DS_LR_WSD:
        return c->peak * with_floor(hf_wsd(s, w, total - w - decay, decay), r);
    }
    return NAN;
}

static void expect_rates(const struct ds_lr_schedule *c)
{
    /* where warm-up is the whole run, or nothing decays, there is no shape behind its end */
    const int has_end =
        c->warmup_steps < c->total_steps && (c->kind != DS_LR_WSD || c->decay_steps);
    const uint64_t beyond = has_end ? 20 : 0;

    for (uint64_t step = 1; step <= c->total_steps + beyond; step++) {
        const double rate = ds_lr_at(c, step), want = expected(c, step);
        if (!(fabs(rate - want) <= 1e-12 * c->peak))
            fail_msg("kind %d, W %llu, D %llu, S %llu, min %g, step %llu: %.17g, not %.17g",
                     c->kind, (unsigned long long)c->warmup_steps,
                     (unsigned long long)c->decay_steps, (unsigned long long)c->total_steps, c->min,
                     (unsigned long long)step, rate, want);
    }
}

static void every_kind_has_its_formula(void **state)
{
    static const uint64_t totals[] = {1, 2, 7, 100}, warmups[] = {0, 1, 3, 50, 100};
    static const uint64_t decays[] = {0, 1, 4, 40, 100};

    (void)state;
    for (int kind = DS_LR_CONSTANT; kind <= DS_LR_WSD; kind++)
        for (int i = 0; i < 4 * 5 * 5 * 2; i++) {
            const struct ds_lr_schedule c = {.kind = (enum ds_lr_kind)kind,
                                             .peak = 3e-4,
                                             .min = i % 2 ? 3e-5 : 0,
                                             .total_steps = totals[i / 2 % 4],
                                             .warmup_steps = warmups[i / 8 % 5],
                                             .decay_steps = decays[i / 40]};
            const int fits = c.warmup_steps + c.decay_steps <= c.total_steps; /* as configured */
            if (c.warmup_steps <= c.total_steps && (kind != DS_LR_WSD || fits))
                expect_rates(&c);
        }
}

static double rate_at(enum ds_lr_kind kind, uint64_t warmup, uint64_t decay, uint64_t step)
{
    const struct ds_lr_schedule c = {kind, 1.0, 0.1, warmup, decay, 110};

    return ds_lr_at(&c, step);
}

/* Worked out by hand: peak 1, floor 0.1, 110 steps. */
static void rates_are_those_on_paper(void **state)
{
    (void)state;
    assert_true(rate_at(DS_LR_CONSTANT, 10, 0, 1) == 0.1); /* the first update is not lost */
    assert_true(rate_at(DS_LR_CONSTANT, 10, 0, 10) == 1.0);
    assert_true(rate_at(DS_LR_CONSTANT, 10, 0, 9999) == 1.0);
    assert_true(rate_at(DS_LR_LINEAR, 10, 0, 11) == 1.0);
    assert_true(fabs(rate_at(DS_LR_LINEAR, 10, 0, 61) - 0.55) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_LINEAR, 10, 0, 110) - 0.109) < 1e-15); /* HF: one short of 0 */
    assert_true(fabs(rate_at(DS_LR_LINEAR, 10, 0, 111) - 0.1) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_COSINE, 10, 0, 61) - 0.55) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_COSINE, 10, 0, 36) - (0.55 + 0.45 * sqrt(0.5))) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_COSINE, 10, 20, 21) - 0.55) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_COSINE, 10, 20, 31) - 0.1) <
                1e-15); /* and does not rise again */
    assert_true(fabs(rate_at(DS_LR_COSINE, 10, 20, 51) - 0.1) < 1e-15);
    assert_true(rate_at(DS_LR_WSD, 10, 20, 91) == 1.0);
    assert_true(fabs(rate_at(DS_LR_WSD, 10, 20, 101) - 0.55) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_WSD, 10, 20, 111) - 0.1) < 1e-15);
    assert_true(fabs(rate_at(DS_LR_WSD, 10, 20, 9999) - 0.1) < 1e-15);
}

static void a_rate_stays_between_floor_and_peak(void **state)
{
    (void)state;
    for (int kind = DS_LR_CONSTANT; kind <= DS_LR_WSD; kind++) {
        const struct ds_lr_schedule c = {(enum ds_lr_kind)kind, 1e-3, 1e-4, 5, 30, 60};
        double last = 1e-3;
        for (uint64_t step = 1; step <= 5; step++)
            assert_true(ds_lr_at(&c, step) > 0 && ds_lr_at(&c, step) <= c.peak);
        for (uint64_t step = 6; step <= 200; step++) { /* behind warm-up it never rises */
            const double rate = ds_lr_at(&c, step);
            assert_true(rate <= last && rate >= c.min * (1 - 1e-12));
            last = rate;
        }
    }
}

/* ---- who decays, in a model. Two runs of one step that differ in weight decay alone have the same
 * gradient, so their weights differ by rate * decay * weight, and where nothing decays by nothing. */

enum { RATE_PERCENT = 5, DECAY_PERCENT = 40 };

static struct {
    double rate, decay;
    int on, family;
} adjustment;

static void adjust(struct ds_config *config)
{
    config->model.family = adjustment.family;
    config->optimizer.learning_rate = adjustment.rate;
    config->optimizer.weight_decay = adjustment.decay;
    config->optimizer.weight_decay_on = adjustment.on;
    config->schedule.warmup_steps = 0;
}

static struct tiny_result step_once(uint32_t ranks, int stage, double rate, double decay)
{
    const struct tiny_case c = {.ranks = ranks,
                                .stage = stage,
                                .steps = 1,
                                .global_batch = 4,
                                .micro_batch = 1,
                                .seed = seed,
                                .data = data,
                                .adjust = adjust};
    struct tiny_result result;

    adjustment.rate = rate;
    adjustment.decay = decay;
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(result.skipped, 0);
    return result;
}

static int is_matrix(const char *name)
{
    static const char *const ends[] = {
        "embed_tokens.weight", "q_proj.weight",    "k_proj.weight",
        "v_proj.weight",       "o_proj.weight",    "gate_proj.weight",
        "up_proj.weight",      "down_proj.weight", "lm_head.weight"};

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        const size_t length = strlen(name), end = strlen(ends[i]);
        if (length >= end && strcmp(name + length - end, ends[i]) == 0)
            return 1;
    }
    return 0;
}

static void expect_decay(const struct tiny_param *param, const float *first, const float *without,
                         const float *with, double part)
{
    for (uint64_t i = param->start; i < param->start + param->elems; i++) {
        const double want = without[i] - part * first[i];
        if (part == 0 ? with[i] != without[i]
                      : !(fabs(with[i] - want) <= 1e-6 * fabs(first[i]) + 1e-7))
            fail_msg("%s[%llu] was %.9g; without decay %.9g, with %.9g", param->name,
                     (unsigned long long)(i - param->start), first[i], without[i], with[i]);
    }
}

static void expect_decays(uint32_t ranks, int stage, int on)
{
    const double rate = RATE_PERCENT * 0.01, decay = DECAY_PERCENT * 0.01;
    adjustment.on = on;
    struct tiny_result first = step_once(ranks, stage, 0, 0);
    struct tiny_result without = step_once(ranks, stage, rate, 0);
    struct tiny_result with = step_once(ranks, stage, rate, decay);
    uint32_t matrices = 0;

    for (uint32_t i = 0; i < first.param_count; i++) {
        const struct tiny_param *param = &first.table[i];
        const int decays = on == DS_DECAY_ALL || is_matrix(param->name);
        matrices += (uint32_t)is_matrix(param->name);
        expect_decay(param, first.params, without.params, with.params, decays ? rate * decay : 0);
    }
    assert_int_equal(matrices, 3 * 7 + 2);
    assert_true(memcmp(first.params, without.params, first.param_elems * sizeof(float)) != 0);
    tiny_result_fini(&first);
    tiny_result_fini(&without);
    tiny_result_fini(&with);
}

static void a_model_decays_its_matrices_or_everything(void **state)
{
    (void)state;
    for (int on = DS_DECAY_MATRICES; on <= DS_DECAY_ALL; on++)
        for (uint32_t ranks = 1; ranks <= 4; ranks *= 4)
            for (int stage = 0; stage <= 3; stage += 3)
                for (int family = DS_FAMILY_LLAMA; family < DS_FAMILY_COUNT; family++) {
                    adjustment.family = family;
                    expect_decays(ranks, stage, on);
                }
}

/* ---- and in a unit, whatever the ranges. The gradient is zero, so an update only decays. */

enum { UNIT = 9000, RANGES = 5, PASSES = 3 };

/* Ends off the grid of pieces and shards (2,048), a range of one element, a gap that is padding. */
static const struct ds_optim_range ranges[RANGES] = {
    {.span = {0, 2047}, .weight_decay = 0.5f, .random = 0},
    {.span = {2047, 1}, .weight_decay = 0.0f, .random = 1},
    {.span = {2048, 3000}, .weight_decay = 0.25f, .random = 2},
    {.span = {5120, 3700}, .weight_decay = 0.0f, .random = 3},
    {.span = {8820, 180}, .weight_decay = 1.0f, .random = 4}};

static float decay_of(uint64_t at)
{
    for (int i = 0; i < RANGES; i++)
        if (at >= ranges[i].span.start && at < ranges[i].span.start + ranges[i].span.count)
            return ranges[i].weight_decay;
    return 0;
}

static float weight_at(uint64_t at)
{
    return at < UNIT ? 1.0f + (float)(at % 977) : 0.0f;
}

struct unit_rig {
    int stage;
    enum ds_device_mode mode;
    atomic_uint fault_count;
};

struct unit_rank {
    struct ds_device *device;
    struct ds_stream *compute, *comm;
    struct ds_memory memory;
    struct ds_comm *shard, *replica;
    struct ds_zero *zero;
    struct ds_optim *optim;
    struct ds_step_record *record;
};

static ds_status open_rank(struct ds_comm *world, const struct unit_rig *rig, struct unit_rank *r)
{
    static const struct ds_span params[RANGES] = {
        {0, 2047}, {2047, 1}, {2048, 3000}, {5120, 3700}, {8820, 180}};
    static const struct ds_zero_unit_spec spec = {
        .elems = UNIT, .params = params, .param_count = RANGES};
    static const struct ds_optim_range *const lists[1] = {ranges};
    static const uint32_t counts[1] = {RANGES};
    const struct ds_device_options options = {.mode = rig->mode,
                                              .seed = seed + world->rank,
                                              .thread_count = 1,
                                              .clock = ds_clock_system()};
    const struct ds_step_record record = {.step = 1,
                                          .learning_rate = 0.125f,
                                          .loss_scale = 1,
                                          .clip_factor = 1,
                                          .correction1 = 1,
                                          .correction2 = 1};
    void *at = NULL;

    DS_TRY(ds_comm_open_data(world, "shard", &r->shard));
    DS_TRY(ds_comm_self_open(ds_clock_system(), &r->replica));
    DS_TRY(ds_device_cpu_ops.open(0, &options, &r->device));
    DS_TRY(r->device->ops->stream_open(r->device, 0, &r->compute));
    DS_TRY(r->device->ops->stream_open(r->device, DS_STREAM_WORKER, &r->comm));
    ds_memory_init(&r->memory, r->device);
    const struct ds_zero_options zero = {.stage = (uint32_t)rig->stage,
                                         .dtypes = ds_zero_dtypes_fp32(),
                                         .units = &spec,
                                         .unit_count = 1,
                                         .slots = {{1, 0}, {1, 0}},
                                         .is_training = 1,
                                         .shard = r->shard,
                                         .replica = r->replica,
                                         .device = r->device,
                                         .compute = r->compute,
                                         .comm = r->comm,
                                         .memory = &r->memory};
    DS_TRY(ds_zero_open(&zero, &r->zero));
    const struct ds_optim_options optim = {.beta1 = 0.9f,
                                           .beta2 = 0.95f,
                                           .epsilon = 1e-8f,
                                           .ranges = lists,
                                           .range_counts = counts,
                                           .unit_count = 1,
                                           .zero = r->zero,
                                           .compute = r->compute,
                                           .kernels = r->device->ops->kernels,
                                           .memory = &r->memory};
    DS_TRY(ds_optim_open(&optim, &r->optim));
    DS_TRY(ds_memory_take(&r->memory, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_BATCH, sizeof record, &at));
    r->record = at;
    DS_TRY(r->device->ops->copy(r->compute, at, &record, sizeof record));
    return r->device->ops->stream_sync(r->compute);
}

static void close_rank(struct unit_rank *r)
{
    r->device->ops->stream_close(r->comm);
    r->device->ops->stream_close(r->compute);
    ds_optim_close(r->optim);
    ds_zero_close(r->zero);
    ds_memory_fini(&r->memory);
    r->device->ops->close(r->device);
    ds_comm_close(r->replica);
    ds_comm_close(r->shard);
}

/* The shard as it is after some updates, and right behind them, with no wait of the host in between, the
 * gathered unit as arithmetic would see it. */
static ds_status update(struct unit_rank *r, struct ds_span shard, float *values, float *whole)
{
    for (uint64_t i = 0; i < shard.count; i++)
        values[i] = weight_at(shard.start + i);
    DS_TRY(ds_zero_write_shard(r->zero, 0, 0, shard.count, values));
    DS_TRY(ds_zero_publish(r->zero));
    for (int pass = 0; pass < PASSES; pass++)
        DS_TRY(ds_optim_update(r->optim, r->compute,
                               &(struct ds_optim_strip){0, 0, DS_ZERO_NO_SLOT}, r->record));
    DS_TRY(ds_zero_acquire(r->zero, 0, 0));
    DS_TRY(
        r->device->ops->copy(r->compute, whole, ds_zero_weights(r->zero, 0), UNIT * sizeof *whole));
    DS_TRY(ds_zero_release(r->zero, 0));
    DS_TRY(r->device->ops->stream_sync(r->compute));
    return ds_zero_read_shard(r->zero, 0, 0, shard.count, values);
}

static uint32_t count_faults(const float *values, struct ds_span span)
{
    uint32_t count = 0;

    for (uint64_t i = 0; i < span.count; i++) {
        double want = weight_at(span.start + i);
        for (int pass = 0; pass < PASSES; pass++)
            want *= 1 - 0.125 * (double)decay_of(span.start + i);
        count += !(fabs(values[i] - want) <= 1e-6 * want);
    }
    return count;
}

static void update_on_rank(struct ds_comm *world, void *user)
{
    struct unit_rig *rig = user;
    struct unit_rank r = {0};

    if (open_rank(world, rig, &r) != DS_OK) {
        atomic_fetch_add(&rig->fault_count, 1);
        return;
    }
    const struct ds_span shard =
        ds_zero_layout_shard(ds_zero_unit_layout(r.zero, 0), r.shard->rank);
    float *values = malloc(shard.count * sizeof *values), *whole = malloc(UNIT * sizeof *whole);
    if (update(&r, shard, values, whole) != DS_OK)
        atomic_fetch_add(&rig->fault_count, 1);
    atomic_fetch_add(&rig->fault_count, count_faults(values, shard));
    atomic_fetch_add(&rig->fault_count, count_faults(whole, (struct ds_span){0, UNIT}));
    free(values);
    free(whole);
    close_rank(&r);
}

static void ranges_decay_as_they_say_wherever_shards_are_cut(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 5; ranks++)
        for (int stage = 0; stage <= 3; stage++)
            for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
                struct unit_rig rig = {.stage = stage, .mode = (enum ds_device_mode)mode};
                assert_true(run_ranks(ranks, 60000000000u, update_on_rank, &rig));
                assert_int_equal(atomic_load(&rig.fault_count), 0);
            }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_its_formula),
        cmocka_unit_test(rates_are_those_on_paper),
        cmocka_unit_test(a_rate_stays_between_floor_and_peak),
        cmocka_unit_test(a_model_decays_its_matrices_or_everything),
        cmocka_unit_test(ranges_decay_as_they_say_wherever_shards_are_cut),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_optim");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
