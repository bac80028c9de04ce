// link: optim zero comm device kernels base
// tsan
// cost: 210
/* What a gradient meets on its way home when tensor ranks and pipeline stages share the model: units that
 * are elsewhere, partial sums over another group, a unit on two stages, a norm that counts each once. */
#include "zero_rig.h"

enum { TIED, FIRST, SECOND, UNITS, MICROS = 2 };

/* The tied unit is on both stages, the others on one each. Ends off the grid of pieces (2,048). */
static const uint64_t elems[UNITS] = {5000, 7001, 2500};
static const struct ds_span params[UNITS][2] = {
    {{0, 3000}, {3072, 1928}}, {{0, 7001}, {7001, 0}}, {{0, 100}, {128, 2372}}};
/* Partial sums over tensor ranks, each of which has the whole of them afterwards: copies. */
static const struct ds_span shared[UNITS] = {{2040, 20}, {100, 6500}, {2100, 400}};

static uint64_t seed;

static int is_on(uint32_t unit, uint32_t stage, uint32_t stages)
{
    if (unit == TIED)
        return stage == 0 || stage == stages - 1;
    return stage == (unit == FIRST ? 0 : stages - 1);
}

static int is_within(uint64_t at, struct ds_span span)
{
    return at >= span.start && at < span.start + span.count;
}

static int is_param(uint32_t unit, uint64_t at)
{
    return is_within(at, params[unit][0]) || is_within(at, params[unit][1]);
}

/* Where a number comes from. */
struct origin {
    const struct zero_case *test;
    uint32_t stage, tensor, replica, shard;
};

static struct origin origin_of(const struct zero_rank *r)
{
    return (struct origin){r->test, r->stage, r->tensor, r->replica, r->shard};
}

/* What one rank's backward leaves for one micro-batch; of 16 bits whole numbers whose sums are exact. */
static float local_gradient(struct origin from, uint32_t unit, uint32_t micro, uint64_t at)
{
    uint64_t place =
        (((((from.test->seed * 8 + unit) * 8 + micro) * 8 + from.stage) * 8 + from.tensor) * 8 +
         from.replica) *
            8 +
        from.shard;
    uint64_t state = place * 1000003 + at;

    if (from.test->dtypes.reduce != DS_F32)
        return (float)(random_next(&state) >> 61) - 4;
    return (float)(random_next(&state) >> 40) * 0x1p-23f - 1.0f;
}

static float over_tensor(struct origin from, uint32_t unit, uint32_t micro, uint64_t at)
{
    if (!is_within(at, shared[unit]))
        return local_gradient(from, unit, micro, at);
    from.tensor = 0;
    float sum = local_gradient(from, unit, micro, at);
    for (from.tensor = 1; from.tensor < from.test->tensor; from.tensor++)
        sum += local_gradient(from, unit, micro, at);
    return sum;
}

static float over_data(struct origin from, uint32_t unit, uint32_t micro, uint64_t at)
{
    float sum = 0;

    for (from.replica = 0; from.replica < from.test->replica; from.replica++) {
        from.shard = 0;
        float part = over_tensor(from, unit, micro, at);
        for (from.shard = 1; from.shard < from.test->shard; from.shard++)
            part += over_tensor(from, unit, micro, at);
        sum = from.replica == 0 ? part : sum + part;
    }
    return sum;
}

static float over_micros(struct origin from, uint32_t unit, uint64_t at)
{
    float sum = over_data(from, unit, 0, at);

    for (uint32_t micro = 1; micro < MICROS; micro++)
        sum += over_data(from, unit, micro, at);
    return sum;
}

/* The whole gradient of an element, with the additions in the order that is promised. */
static float expected(struct origin from, uint32_t unit, uint64_t at)
{
    const uint32_t last = from.test->stages - 1;

    if (!is_param(unit, at))
        return 0;
    if (unit != TIED || last == 0)
        return over_micros(from, unit, at);
    from.stage = 0;
    float sum = over_micros(from, unit, at);
    from.stage = last;
    return sum + over_micros(from, unit, at);
}

static void describe(struct zero_rank *r, struct ds_zero_sum sums[UNITS],
                     struct ds_span foreign[UNITS])
{
    const int is_last = r->stage > 0 && r->stage == r->test->stages - 1;

    for (uint32_t unit = 0; unit < UNITS; unit++) {
        const int is_copy = unit == TIED && is_last;
        sums[unit] = (struct ds_zero_sum){shared[unit], r->tensors};
        foreign[unit] = is_copy ? (struct ds_span){0, elems[unit]} : shared[unit];
        if (is_on(unit, r->stage, r->test->stages))
            r->units[unit] = (struct ds_zero_unit_spec){
                .elems = elems[unit],
                .slot_class = unit == TIED,
                .params = params[unit],
                .param_count = 2,
                .sums = &sums[unit],
                .sum_count = 1,
                .foreign = &foreign[unit],
                .foreign_count = is_copy || r->tensor > 0,
            };
    }
}

static void bring_home(struct zero_rank *r, uint32_t unit, uint32_t micro)
{
    const enum ds_dtype dtype = r->test->dtypes.reduce;
    const size_t size = ds_dtype_bytes(dtype);
    float *values = malloc(elems[unit] * sizeof *values);
    uint8_t *stored = malloc(elems[unit] * size);
    int is_started = 1;

    RIG_OK(r, ds_zero_grad_acquire(r->zero, unit, micro % 2, &is_started));
    RIG_HOLDS(r, !is_started);
    for (uint64_t i = 0; i < elems[unit]; i++)
        values[i] = local_gradient(origin_of(r), unit, micro, i);
    (void)ds_dtype_from_f32(stored, dtype, values, elems[unit]);
    for (uint32_t p = 0; p < 2; p++) /* what lies between parameters is not backward's */
        rig_copy(r, (uint8_t *)ds_zero_grads(r->zero, unit) + params[unit][p].start * size,
                 stored + params[unit][p].start * size, params[unit][p].count * size);
    RIG_OK(r, ds_zero_reduce(r->zero, unit, 1));
    free(stored);
    free(values);
}

static void bring_all_home(struct zero_rank *r)
{
    for (uint32_t micro = 0; micro < MICROS; micro++)
        for (uint32_t unit = 0; unit < UNITS; unit++)
            if (is_on(unit, r->stage, r->test->stages))
                bring_home(r, unit, micro);
    if (r->test->stages > 1 && is_on(TIED, r->stage, r->test->stages))
        RIG_OK(r, ds_zero_tied_reduce(r->zero, TIED));
}

static void check_gradient(struct zero_rank *r, uint32_t unit)
{
    struct ds_zero_state state;
    uint32_t wrong = 0;

    RIG_OK(r, ds_zero_update_begin(r->zero, r->compute, unit, 0, DS_ZERO_NO_SLOT, &state));
    uint8_t *stored = malloc(state.count * ds_dtype_bytes(state.grad.dtype));
    float *values = malloc(state.count * sizeof *values);
    rig_copy(r, stored, state.grad.data, state.count * ds_dtype_bytes(state.grad.dtype));
    (void)ds_dtype_to_f32(values, stored, state.grad.dtype, state.count);
    for (uint64_t i = 0; i < state.count; i++)
        wrong += values[i] != expected(origin_of(r), unit, state.start + i);
    RIG_HOLDS(r, wrong == 0);
    RIG_OK(r, ds_zero_update_end(r->zero, r->compute, unit, 0));
    free(values);
    free(stored);
}

/* Every element once, however many ranks hold a copy. */
static double expected_norm(const struct zero_rank *r)
{
    struct origin from = origin_of(r);
    double sum = 0;

    for (uint32_t unit = 0; unit < UNITS; unit++)
        for (from.tensor = 0; from.tensor < r->test->tensor; from.tensor++) {
            from.stage = unit == SECOND ? r->test->stages - 1 : 0;
            for (uint64_t i = 0; i < elems[unit]; i++) {
                double value = expected(from, unit, i);
                if (from.tensor == 0 || !is_within(i, shared[unit]))
                    sum += value * value;
            }
        }
    return sum;
}

/* The head's stage knows a loss of 3 and more on each rank, the others none. What ranks ask, which is another number on
 * each, is summed over all of them. */
static void check_norm(struct zero_rank *r)
{
    const struct zero_case *t = r->test;
    const uint32_t data = t->shard * t->replica, place = r->replica * t->shard + r->shard;
    const uint32_t rank = (r->stage * t->tensor + r->tensor) * data + place;
    const uint32_t rank_count = t->stages * t->tensor * data;
    const struct ds_step_record record = {.loss_sum = r->stage == t->stages - 1 ? 3 + place : 0,
                                          .asked = rank};
    const double want = expected_norm(r);

    rig_copy(r, r->record, &record, sizeof record);
    RIG_OK(r, ds_zero_norm(r->zero, r->record));
    const struct ds_step_record got = rig_record(r);
    RIG_HOLDS(r, fabs(got.norm_squared - want) <= 1e-12 * want);
    RIG_HOLDS(r, got.loss_sum == data * 3 + data * (data - 1) / 2);
    RIG_HOLDS(r, got.asked == rank_count * (rank_count - 1) / 2);
}

static void compose_on_rank(struct ds_comm *world, void *user)
{
    struct ds_zero_sum sums[UNITS];
    struct ds_span foreign[UNITS];
    struct zero_rank r;

    rig_open(&r, user, world);
    describe(&r, sums, foreign);
    rig_zero(&r, UNITS);
    for (int step = 0; step < 2; step++) { /* the second overwrites what the first left */
        bring_all_home(&r);
        check_norm(&r);
        for (uint32_t unit = 0; unit < UNITS; unit++)
            if (is_on(unit, r.stage, r.test->stages))
                check_gradient(&r, unit);
    }
    rig_close(&r);
}

static void compose(struct ds_zero_dtypes dtypes)
{
    static const uint32_t shapes[][4] = {{1, 1, 1, 1}, {1, 2, 1, 1}, {2, 1, 1, 1}, {2, 1, 1, 3},
                                         {1, 3, 1, 2}, {2, 2, 1, 1}, {3, 2, 1, 1}, {2, 2, 1, 2},
                                         {1, 2, 2, 2}, {2, 1, 2, 2}};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint32_t zero_stage = 0; zero_stage <= 3; zero_stage++)
            for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
                struct zero_case test = {
                    .stages = shapes[i][0],
                    .tensor = shapes[i][1],
                    .replica = shapes[i][2],
                    .shard = shapes[i][3],
                    .zero_stage = zero_stage,
                    .dtypes = dtypes,
                    .mode = (enum ds_device_mode)mode,
                    .seed = seed,
                };
                const int is_once = TEST_IS_SANITIZED || dtypes.reduce != DS_F32;
                if (!is_once || (i + zero_stage) % 2 == (size_t)mode)
                    rig_run(&test, compose_on_rank);
            }
}

static void every_gradient_is_summed_and_counted_once(void **state)
{
    (void)state;
    compose(ds_zero_dtypes_fp32());
}

static void so_is_every_gradient_of_16_bits(void **state)
{
    struct ds_zero_dtypes dtypes = ds_zero_dtypes_fp32();

    (void)state;
    dtypes.param = dtypes.reduce = DS_F16;
    compose(dtypes);
    dtypes.param = dtypes.reduce = dtypes.gradient = DS_BF16;
    compose(dtypes);
}

/* ---- units elsewhere */

static void take_on_rank(struct ds_comm *world, void *user)
{
    struct zero_rank absent, without;

    rig_open(&absent, user, world);
    rig_open(&without, user, world);
    absent.units[0] = (struct ds_zero_unit_spec){.slot_class = 1};
    absent.units[1] = without.units[0] = (struct ds_zero_unit_spec){
        .elems = elems[FIRST], .params = params[FIRST], .param_count = 2};
    absent.units[2] = (struct ds_zero_unit_spec){.slot_class = 0};
    rig_zero(&absent, 3);
    rig_zero(&without, 1);
    RIG_HOLDS(&absent,
              memcmp(absent.memory.bytes, without.memory.bytes, sizeof absent.memory.bytes) == 0);
    RIG_HOLDS(&absent, ds_zero_unit_layout(absent.zero, 0)->full_elems == 0);
    RIG_OK(&absent, ds_zero_publish(absent.zero));
    rig_close(&absent);
    rig_close(&without);
}

static void a_unit_that_is_elsewhere_takes_no_memory(void **state)
{
    (void)state;
    for (uint32_t zero_stage = 0; zero_stage <= 3; zero_stage++) {
        struct zero_case test = {.stages = 1,
                                 .tensor = 1,
                                 .replica = 1,
                                 .shard = 2,
                                 .zero_stage = zero_stage,
                                 .dtypes = ds_zero_dtypes_fp32(),
                                 .seed = seed};
        rig_run(&test, take_on_rank);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gradient_is_summed_and_counted_once),
        cmocka_unit_test(so_is_every_gradient_of_16_bits),
        cmocka_unit_test(a_unit_that_is_elsewhere_takes_no_memory),
    };

    seed = test_seed("test_zero_groups");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
