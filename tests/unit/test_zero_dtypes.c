// link: optim zero comm device kernels base
// cost: 40
// timeout: 3600
/* States of every combination of dtypes through whole steps - gathered, summed, accumulated, updated - with
 * the bits of scalar code that rounds where storage does, on every ZeRO stage and number of ranks. */
#include "zero_rig.h"

#include "dstrain/master.h"
#include "dstrain/random.h"

#include <math.h>

enum { UNITS = 2, RANGES = 3, STEPS = 3, MICROS = 2, ELEMS_MAX = 5000 };

static const uint64_t elems[UNITS] = {5000, 2500};
/* a gap in the first unit is padding; ends off the grid of shards (2,048) */
static const struct ds_span params[UNITS][RANGES] = {{{0, 2000}, {2048, 100}, {2148, 2852}},
                                                     {{0, 1}, {1, 2100}, {2101, 399}}};
static const float decays[RANGES] = {0.5f, 0, 0.25f};
static const float rate = 0.01f;

static uint64_t seed;
static atomic_uint skip_count;

static int is_loss_scaled(const struct zero_case *test)
{
    return test->dtypes.param == DS_F16 || test->dtypes.reduce == DS_F16;
}

static float rounded(float value, enum ds_dtype dtype)
{
    uint16_t half;

    if (dtype == DS_F32)
        return value;
    (void)ds_dtype_from_f32(&half, dtype, &value, 1);
    (void)ds_dtype_to_f32(&value, &half, dtype, 1);
    return value;
}

static float weight_of(float master, enum ds_dtype dtype)
{
    return dtype == DS_BF16 ? ds_master_join(ds_master_weight(master), 0) : rounded(master, dtype);
}

static float number_of(uint64_t run, uint64_t a, uint64_t b, uint64_t c, uint64_t i)
{
    uint64_t state = (((run * 64 + a) * 64 + b) * 64 + c) * 1000003 + i;

    return (float)(random_next(&state) >> 40) * 0x1p-23f - 1.0f;
}

static float first_master(const struct zero_case *test, uint32_t unit, uint64_t i)
{
    return number_of(test->seed, 63, unit, 0, i);
}

static const struct ds_span *param_of(uint32_t unit, uint64_t i, uint32_t *range)
{
    for (*range = 0; *range < RANGES; ++*range) {
        const struct ds_span *span = &params[unit][*range];
        if (i >= span->start && i < span->start + span->count)
            return span;
    }
    return NULL;
}

/* ---- the same in scalar code, all of it on every rank */

struct reference {
    float master[UNITS][ELEMS_MAX], weight[UNITS][ELEMS_MAX]; /* no master: both the weight */
    float grad[UNITS][ELEMS_MAX], m[UNITS][ELEMS_MAX], v[UNITS][ELEMS_MAX];
    float loss_scale;
    int is_finite;
    double norm;
};

static void reference_begin(const struct zero_case *test, struct reference *r)
{
    for (uint32_t unit = 0; unit < UNITS; unit++)
        for (uint64_t i = 0; i < elems[unit]; i++) {
            const float master = first_master(test, unit, i);
            r->weight[unit][i] = weight_of(master, test->dtypes.param);
            r->master[unit][i] =
                test->dtypes.master == DS_MASTER_NONE ? r->weight[unit][i] : master;
        }
    r->loss_scale = is_loss_scaled(test) ? 65536 : 1;
}

static float local_gradient(const struct zero_case *test, float scale, uint64_t rank,
                            uint32_t micro, uint64_t step, uint32_t unit, uint64_t i)
{
    const float value = number_of(test->seed, rank * MICROS + micro, step, unit, i);

    return rounded(value * scale, test->dtypes.reduce);
}

/* 16 bits: additions of a group in fp32, rounded once behind them. */
static float over_ranks(const struct zero_case *test, float scale, uint32_t micro, uint64_t step,
                        uint32_t unit, uint64_t i)
{
    const enum ds_dtype dtype = test->dtypes.reduce;
    float sum = 0;

    for (uint64_t replica = 0; replica < test->replica; replica++) {
        const uint64_t first = replica * test->shard;
        float part = local_gradient(test, scale, first, micro, step, unit, i);
        for (uint64_t shard = 1; shard < test->shard; shard++)
            part += local_gradient(test, scale, first + shard, micro, step, unit, i);
        part = rounded(part, dtype);
        sum = replica == 0 ? part : sum + part;
    }
    return rounded(sum, dtype);
}

static void reference_gradient(const struct zero_case *test, uint64_t step, struct reference *r)
{
    const enum ds_dtype dtype = test->dtypes.gradient;
    double sum = 0;
    uint32_t range;

    for (uint32_t unit = 0; unit < UNITS; unit++)
        for (uint64_t i = 0; i < elems[unit]; i++) {
            if (!param_of(unit, i, &range))
                continue;
            float total = rounded(over_ranks(test, r->loss_scale, 0, step, unit, i), dtype);
            for (uint32_t micro = 1; micro < MICROS; micro++)
                total =
                    rounded(total + over_ranks(test, r->loss_scale, micro, step, unit, i), dtype);
            r->grad[unit][i] = total;
            sum += (double)total * total;
        }
    r->norm = sqrt(sum) / r->loss_scale;
    r->is_finite = isfinite((float)r->norm) != 0;
}

static uint16_t number_at(uint32_t unit, uint32_t range, uint64_t step, uint64_t n)
{
    const uint64_t key = ds_random_of(77, DS_RANDOM_ROUND, unit * RANGES + range).key;
    const uint32_t counter[4] = {(uint32_t)(n / 8), 0, (uint32_t)step, 0};
    uint32_t words[4];

    ds_random_philox(counter, key, words);
    return (uint16_t)(words[n % 8 / 2] >> (n % 2 ? 16 : 0));
}

static void reference_element(const struct zero_case *test, const struct ds_step_record *record,
                              uint32_t unit, uint64_t i, struct reference *r)
{
    const struct ds_zero_dtypes *d = &test->dtypes;
    uint32_t range;
    const struct ds_span *span = param_of(unit, i, &range);
    float *master = &r->master[unit][i];

    if (!span)
        return;
    const float g = r->grad[unit][i] * (record->clip_factor / record->loss_scale);
    const float m = fmaf(0.9f, r->m[unit][i], (1 - 0.9f) * g);
    const float v = fmaf(0.95f, r->v[unit][i], (1 - 0.95f) * g * g);
    *master = fmaf(-rate * record->correction1, m / (sqrtf(v * record->correction2) + 1e-8f),
                   fmaf(-rate * decays[range], *master, *master));
    r->m[unit][i] = rounded(m, d->exp_avg);
    r->v[unit][i] = rounded(v, d->exp_avg_sq);
    r->weight[unit][i] = weight_of(*master, d->param);
    if (d->master == DS_MASTER_NONE) {
        const uint16_t number = number_at(unit, range, record->step, i - span->start);
        r->weight[unit][i] = ds_master_join(ds_master_round_randomly(*master, number), 0);
        *master = r->weight[unit][i];
    }
}

static void reference_update(const struct zero_case *test, const struct ds_step_record *record,
                             struct reference *r)
{
    for (uint32_t unit = 0; unit < UNITS && r->is_finite; unit++)
        for (uint64_t i = 0; i < elems[unit]; i++)
            reference_element(test, record, unit, i, r);
    if (!r->is_finite)
        r->loss_scale /= 2;
}

/* ---- the same through ZeRO and the optimizer */

static struct ds_optim *open_optim(struct zero_rank *r)
{
    struct ds_optim_range ranges[UNITS][RANGES];
    const struct ds_optim_range *lists[UNITS];
    const uint32_t counts[UNITS] = {RANGES, RANGES};
    struct ds_optim *optim = NULL;

    for (uint32_t unit = 0; unit < UNITS; unit++) {
        for (uint32_t i = 0; i < RANGES; i++)
            ranges[unit][i] = (struct ds_optim_range){
                .span = params[unit][i], .weight_decay = decays[i], .random = unit * RANGES + i};
        lists[unit] = ranges[unit];
    }
    const struct ds_optim_options options = {.beta1 = 0.9f,
                                             .beta2 = 0.95f,
                                             .epsilon = 1e-8f,
                                             .grad_clip = 20,
                                             .ranges = lists,
                                             .range_counts = counts,
                                             .unit_count = UNITS,
                                             .seed = 77,
                                             .zero = r->zero,
                                             .compute = r->compute,
                                             .kernels = r->device->ops->kernels,
                                             .memory = &r->memory};
    RIG_OK(r, ds_optim_open(&options, &optim));
    return optim;
}

static void write_weights(struct zero_rank *r)
{
    for (uint32_t unit = 0; unit < UNITS; unit++) {
        const struct ds_zero_layout *layout = ds_zero_unit_layout(r->zero, unit);
        const struct ds_span all = {0, elems[unit]};
        const struct ds_span mine = ds_zero_layout_owned(layout, r->shard, all);
        const uint64_t start = ds_zero_layout_shard(layout, r->shard).start;
        float *values = malloc((mine.count + 1) * sizeof *values);

        for (uint64_t i = 0; i < mine.count; i++)
            values[i] = first_master(r->test, unit, mine.start + i);
        if (mine.count > 0)
            RIG_OK(r, ds_zero_write_shard(r->zero, unit, mine.start - start, mine.count, values));
        free(values);
    }
    RIG_OK(r, ds_zero_publish(r->zero));
}

/* A backward that adds: `stored` and what lies at the gradient's place. */
static void add_what_is_there(struct zero_rank *r, uint32_t unit, uint8_t *stored)
{
    const enum ds_dtype dtype = r->test->dtypes.reduce;
    const uint64_t count = elems[unit];
    uint8_t *there = malloc(count * ds_dtype_bytes(dtype));
    float *a = malloc(count * sizeof *a), *b = malloc(count * sizeof *b);

    rig_copy(r, there, ds_zero_grads(r->zero, unit), count * ds_dtype_bytes(dtype));
    (void)ds_dtype_to_f32(a, there, dtype, count);
    (void)ds_dtype_to_f32(b, stored, dtype, count);
    for (uint64_t i = 0; i < count; i++)
        a[i] += b[i];
    (void)ds_dtype_from_f32(stored, dtype, a, count);
    free(b);
    free(a);
    free(there);
}

/* Where one rank has it all and nothing is rounded on the way, the accumulator itself is handed out. */
static int stays(const struct zero_case *test)
{
    return test->adds_in_place && test->shard == 1 && test->replica == 1 &&
           test->dtypes.reduce == test->dtypes.gradient;
}

static void bring_home(struct zero_rank *r, uint32_t unit, uint32_t micro, uint64_t step,
                       float scale)
{
    const enum ds_dtype dtype = r->test->dtypes.reduce;
    const uint64_t rank = (uint64_t)r->replica * r->test->shard + r->shard;
    const size_t size = ds_dtype_bytes(dtype);
    float *values = malloc(elems[unit] * sizeof *values);
    uint8_t *stored = malloc(elems[unit] * size);
    int is_started = 1;

    RIG_OK(r, ds_zero_grad_acquire(r->zero, unit, micro % 2, &is_started));
    RIG_HOLDS(r, is_started == (stays(r->test) && micro > 0));
    for (uint64_t i = 0; i < elems[unit]; i++)
        values[i] = local_gradient(r->test, scale, rank, micro, step, unit, i);
    (void)ds_dtype_from_f32(stored, dtype, values, elems[unit]);
    if (is_started)
        add_what_is_there(r, unit, stored);
    for (uint32_t p = 0; p < RANGES; p++) /* what lies between parameters is not backward's */
        rig_copy(r, (uint8_t *)ds_zero_grads(r->zero, unit) + params[unit][p].start * size,
                 stored + params[unit][p].start * size, params[unit][p].count * size);
    RIG_OK(r, ds_zero_reduce(r->zero, unit, 1));
    free(stored);
    free(values);
}

static void run_step(struct zero_rank *r, struct ds_optim *optim, uint64_t step, float scale)
{
    const struct ds_kernel_ops *kernels = r->device->ops->kernels;
    const struct ds_step_record record = {.step = step,
                                          .local_tokens = 4,
                                          .learning_rate = rate,
                                          .scales_loss = is_loss_scaled(r->test) != 0};

    rig_copy(r, r->record, &record, DS_STEP_RECORD_HOST_BYTES);
    RIG_OK(r, kernels->step_begin(r->compute, &(struct ds_step_begin_args){r->record, 0}));
    RIG_OK(r, ds_zero_sum_tokens(r->zero, r->record));
    RIG_OK(r, kernels->step_begin(r->compute, &(struct ds_step_begin_args){r->record, 1}));
    for (uint32_t micro = 0; micro < MICROS; micro++)
        for (uint32_t unit = 0; unit < UNITS; unit++)
            bring_home(r, unit, micro, step, scale);
    RIG_OK(r, ds_optim_verdict(optim, r->record));
    for (uint32_t unit = 0; unit < UNITS; unit++)
        RIG_OK(r, ds_optim_update(optim, r->compute,
                                  &(struct ds_optim_strip){unit, 0, DS_ZERO_NO_SLOT}, r->record));
}

/* How many of `count` stored elements from `start` are not what `want` says; padding is not compared. */
static uint32_t faults(struct zero_rank *r, const void *at, enum ds_dtype dtype, uint32_t unit,
                       uint64_t start, uint64_t count, const float *want)
{
    uint8_t *stored = malloc(count * ds_dtype_bytes(dtype));
    float *values = malloc(count * sizeof *values);
    uint32_t range, wrong = 0;

    rig_copy(r, stored, at, count * ds_dtype_bytes(dtype));
    (void)ds_dtype_to_f32(values, stored, dtype, count);
    for (uint64_t i = 0; i < count; i++)
        if (param_of(unit, start + i, &range))
            wrong += values[i] != want[start + i];
    free(values);
    free(stored);
    return wrong;
}

static void check_weights(struct zero_rank *r, uint32_t unit, const struct reference *want)
{
    const struct ds_zero_layout *layout = ds_zero_unit_layout(r->zero, unit);
    const struct ds_span shard = ds_zero_layout_shard(layout, r->shard);
    float *values = malloc(shard.count * sizeof *values);
    uint32_t range, wrong = 0;

    RIG_OK(r, ds_zero_acquire(r->zero, unit, 0));
    RIG_HOLDS(r, faults(r, ds_zero_weights(r->zero, unit), r->test->dtypes.param, unit, 0,
                        elems[unit], want->weight[unit]) == 0);
    RIG_OK(r, ds_zero_release(r->zero, unit));
    RIG_OK(r, ds_zero_read_shard(r->zero, unit, 0, shard.count, values));
    for (uint64_t i = 0; i < shard.count; i++)
        if (param_of(unit, shard.start + i, &range))
            wrong += values[i] != want->master[unit][shard.start + i];
    RIG_HOLDS(r, wrong == 0);
    free(values);
}

static void check_moments(struct zero_rank *r, uint32_t unit, const struct reference *want)
{
    const struct ds_zero_dtypes *d = &r->test->dtypes;
    struct ds_zero_state s;

    RIG_OK(r, ds_zero_update_begin(r->zero, r->compute, unit, 0, DS_ZERO_NO_SLOT, &s));
    RIG_HOLDS(r, s.exp_avg.dtype == d->exp_avg && s.exp_avg_sq.dtype == d->exp_avg_sq);
    RIG_HOLDS(r, faults(r, s.exp_avg.data, d->exp_avg, unit, s.start, s.count, want->m[unit]) == 0);
    RIG_HOLDS(
        r, faults(r, s.exp_avg_sq.data, d->exp_avg_sq, unit, s.start, s.count, want->v[unit]) == 0);
    RIG_HOLDS(r,
              faults(r, s.grad.data, d->gradient, unit, s.start, s.count, want->grad[unit]) == 0 ||
                  !want->is_finite); /* NaN is not NaN */
    RIG_OK(r, ds_zero_update_end(r->zero, r->compute, unit, 0));
}

static void check_step(struct zero_rank *r, uint64_t step, struct reference *want)
{
    const struct ds_step_record got = rig_record(r);

    reference_gradient(r->test, step, want);
    RIG_HOLDS(r, got.loss_scale == want->loss_scale);
    RIG_HOLDS(r, got.skip == !want->is_finite);
    RIG_HOLDS(r, !want->is_finite || fabs(got.norm - want->norm) <= 1e-6 * want->norm);
    RIG_HOLDS(r, got.trained_tokens == 4 * r->test->shard * r->test->replica);
    atomic_fetch_add(&skip_count, got.skip);
    reference_update(r->test, &got, want);
    for (uint32_t unit = 0; unit < UNITS; unit++) {
        check_weights(r, unit, want);
        check_moments(r, unit, want);
    }
}

/* ---- bytes by label */

static void check_memory(struct zero_rank *r)
{
    const struct ds_zero_dtypes *d = &r->test->dtypes;
    const uint64_t *got = r->memory.bytes[DS_MEMORY_DEVICE];
    const int is_whole = r->test->zero_stage == 0;
    const int stays = r->test->zero_stage < 3 || r->test->shard == 1;
    uint64_t shards = 0, wholes = 0;

    for (uint32_t unit = 0; unit < UNITS; unit++) {
        shards += ds_zero_unit_layout(r->zero, unit)->shard_elems;
        wholes += ds_zero_unit_layout(r->zero, unit)->full_elems;
    }
    const uint64_t states = is_whole ? wholes : shards;
    const uint64_t master = d->param == DS_F32 || d->master == DS_MASTER_NONE ? 0
                            : d->master == DS_MASTER_FP32                     ? 4
                                                                              : 2;
    RIG_HOLDS(r,
              got[DS_MEMORY_LABEL_PARAMS] == (stays ? wholes : shards) * ds_dtype_bytes(d->param));
    RIG_HOLDS(r, got[DS_MEMORY_LABEL_MASTER] == states * master);
    RIG_HOLDS(r, got[DS_MEMORY_LABEL_GRADS] == states * ds_dtype_bytes(d->gradient));
    RIG_HOLDS(r, got[DS_MEMORY_LABEL_EXP_AVG] == states * ds_dtype_bytes(d->exp_avg));
    RIG_HOLDS(r, got[DS_MEMORY_LABEL_EXP_AVG_SQ] == states * ds_dtype_bytes(d->exp_avg_sq));
    RIG_HOLDS(r, got[DS_MEMORY_LABEL_SLOTS] == ds_zero_slot_bytes(&r->options, r->options.slots));
}

static void train_on_rank(struct ds_comm *world, void *user)
{
    struct reference *want = calloc(1, sizeof *want);
    struct zero_rank r;

    rig_open(&r, user, world);
    for (uint32_t unit = 0; unit < UNITS; unit++)
        r.units[unit] = (struct ds_zero_unit_spec){
            .elems = elems[unit], .params = params[unit], .param_count = RANGES};
    rig_zero(&r, UNITS);
    check_memory(&r);
    struct ds_optim *optim = open_optim(&r);
    write_weights(&r);
    reference_begin(r.test, want);
    for (uint32_t unit = 0; unit < UNITS; unit++)
        check_weights(&r, unit, want);
    for (uint64_t step = 1; step <= STEPS; step++) {
        run_step(&r, optim, step, want->loss_scale);
        check_step(&r, step, want);
    }
    ds_optim_close(optim);
    rig_close(&r);
    free(want);
}

/* ---- every combination */

static const struct {
    enum ds_dtype param;
    enum ds_master master;
} weights[] = {{DS_F32, DS_MASTER_FP32},
               {DS_BF16, DS_MASTER_FP32},
               {DS_BF16, DS_MASTER_REMAINDER16},
               {DS_BF16, DS_MASTER_NONE},
               {DS_F16, DS_MASTER_FP32}};
static const enum ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};
static const uint32_t shapes[][2] = {{1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 2}, {2, 1}};

enum { COMBINATIONS = 5 * 3 * 2 * 2 * 2, SHAPES = sizeof shapes / sizeof *shapes };

static struct ds_zero_dtypes combination(uint32_t i)
{
    return (struct ds_zero_dtypes){.param = weights[i % 5].param,
                                   .master = weights[i % 5].master,
                                   .reduce = floats[i / 5 % 3],
                                   .gradient = floats[i / 15 % 2],
                                   .exp_avg = floats[i / 30 % 2],
                                   .exp_avg_sq = floats[i / 60]};
}

/* One rank, whose backward passes add straight onto the accumulator. */
static void every_combination_adds_in_place_to_the_same_bits(void **state)
{
    uint64_t random = seed;

    (void)state;
    for (uint32_t i = 0; i < COMBINATIONS; i++) {
        struct zero_case test = {.stages = 1,
                                 .tensor = 1,
                                 .replica = 1,
                                 .shard = 1,
                                 .zero_stage = (uint32_t)(random_next(&random) % 4),
                                 .dtypes = combination(i),
                                 .adds_in_place = 1,
                                 .mode = (enum ds_device_mode)(random_next(&random) % 2),
                                 .seed = seed + i};
        rig_run(&test, train_on_rank);
    }
}

/* On a shape and a mode that are drawn; on all of them with --long. */
static void every_combination_has_the_bits_of_scalar_code_on_every_stage(void **state)
{
    uint64_t random = seed;

    (void)state;
    for (uint32_t i = 0; i < COMBINATIONS; i++) {
        const uint64_t drawn = random_next(&random) % (SHAPES * 2);
        for (uint32_t variant = 0; variant < SHAPES * 2; variant++)
            for (uint32_t zero_stage = 0; zero_stage <= 3; zero_stage++) {
                struct zero_case test = {.stages = 1,
                                         .tensor = 1,
                                         .replica = shapes[variant / 2][0],
                                         .shard = shapes[variant / 2][1],
                                         .zero_stage = zero_stage,
                                         .dtypes = combination(i),
                                         .mode = (enum ds_device_mode)(variant % 2),
                                         .seed = seed + i};
                if (variant == drawn || test_is_long())
                    rig_run(&test, train_on_rank);
            }
    }
    assert_true(atomic_load(&skip_count) > 0); /* 65536 is too much for sums of fp16 */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination_adds_in_place_to_the_same_bits),
        cmocka_unit_test(every_combination_has_the_bits_of_scalar_code_on_every_stage),
    };

    seed = test_seed("test_zero_dtypes");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
