// link: optim zero comm device kernels base
/* Copies of bf16 weights without masters. Tensor ranks hold the same piece at other places of their units,
 * cut by other shards; it has the same weights and gradients, and so has a piece beside it of another
 * name. Rounded by chance, the copies stay equal, and only they. */
#include "zero_rig.h"

enum { COPY = 2500, COPY_UNIT = 6000 };

struct copies {
    float copy[2][COPY], other[2][COPY]; /* of tensor ranks */
};

/* The copy, then the other; and both in the order in which they lie. */
static const struct ds_span copy_spans[2][2] = {{{0, COPY}, {3072, COPY}},
                                                {{3200, COPY}, {128, COPY}}};
static const struct ds_span params[2][2] = {{{0, COPY}, {3072, COPY}}, {{128, COPY}, {3200, COPY}}};
static const float rate = 0.01f;

static uint64_t seed;

static float number_of(uint64_t salt, uint64_t i)
{
    uint64_t state = (seed * 64 + salt) * 1000003 + i;

    return (float)(random_next(&state) >> 40) * 0x1p-23f - 1.0f;
}

static void fill_copies(struct zero_rank *r, float *values, uint64_t salt)
{
    memset(values, 0, COPY_UNIT * sizeof *values);
    for (uint32_t p = 0; p < 2; p++)
        for (uint64_t i = 0; i < COPY; i++)
            values[copy_spans[r->tensor][p].start + i] = number_of(salt, i);
}

static struct ds_optim *open_copies(struct zero_rank *r)
{
    const struct ds_span *spans = copy_spans[r->tensor];
    const struct ds_optim_range named = {.span = spans[0], .weight_decay = 0.1f, .random = 5},
                                other = {.span = spans[1], .weight_decay = 0.1f, .random = 6};
    const struct ds_optim_range in_order[2] = {spans[0].start < spans[1].start ? named : other,
                                               spans[0].start < spans[1].start ? other : named};
    const struct ds_optim_range *lists[1] = {in_order};
    const uint32_t counts[1] = {2};
    struct ds_optim *optim = NULL;

    r->units[0] = (struct ds_zero_unit_spec){
        .elems = COPY_UNIT, .params = params[r->tensor], .param_count = 2};
    rig_zero(r, 1);
    const struct ds_optim_options options = {.beta1 = 0.9f,
                                             .beta2 = 0.95f,
                                             .epsilon = 1e-8f,
                                             .ranges = lists,
                                             .range_counts = counts,
                                             .unit_count = 1,
                                             .seed = seed,
                                             .zero = r->zero,
                                             .compute = r->compute,
                                             .kernels = r->device->ops->kernels,
                                             .memory = &r->memory};
    RIG_OK(r, ds_optim_open(&options, &optim));
    return optim;
}

static void update_copies(struct zero_rank *r, struct ds_optim *optim, uint64_t step, float *values)
{
    const struct ds_step_record record = {
        .step = step, .learning_rate = rate, .trained_tokens = 1, .loss_scale = 1};
    int is_started;

    rig_copy(r, r->record, &record, sizeof record);
    fill_copies(r, values, step);
    RIG_OK(r, ds_zero_grad_acquire(r->zero, 0, 0, &is_started));
    for (uint32_t p = 0; p < 2; p++)
        rig_copy(r, (float *)ds_zero_grads(r->zero, 0) + copy_spans[r->tensor][p].start,
                 values + copy_spans[r->tensor][p].start, COPY * sizeof *values);
    RIG_OK(r, ds_zero_reduce(r->zero, 0, 1));
    RIG_OK(r, ds_optim_verdict(optim, r->record));
    RIG_OK(r, ds_optim_update(optim, r->compute, &(struct ds_optim_strip){0, 0, DS_ZERO_NO_SLOT},
                              r->record));
}

static void read_copies(struct zero_rank *r, struct copies *out)
{
    uint16_t stored[COPY_UNIT];

    RIG_OK(r, ds_zero_acquire(r->zero, 0, 0));
    rig_copy(r, stored, ds_zero_weights(r->zero, 0), sizeof stored);
    RIG_OK(r, ds_zero_release(r->zero, 0));
    if (r->shard > 0)
        return;
    const struct ds_span *spans = copy_spans[r->tensor];
    (void)ds_dtype_to_f32(out->copy[r->tensor], stored + spans[0].start, DS_BF16, COPY);
    (void)ds_dtype_to_f32(out->other[r->tensor], stored + spans[1].start, DS_BF16, COPY);
}

static void copies_on_rank(struct ds_comm *world, void *user)
{
    float *values = malloc(COPY_UNIT * sizeof *values);
    struct zero_rank r;

    rig_open(&r, user, world);
    struct ds_optim *optim = open_copies(&r);
    const struct ds_span mine = ds_zero_layout_owned(ds_zero_unit_layout(r.zero, 0), r.shard,
                                                     (struct ds_span){0, COPY_UNIT});
    fill_copies(&r, values, 0);
    RIG_OK(&r, ds_zero_write_shard(r.zero, 0, 0, mine.count, values + mine.start));
    RIG_OK(&r, ds_zero_publish(r.zero));
    for (uint64_t step = 1; step <= 5; step++)
        update_copies(&r, optim, step, values);
    read_copies(&r, r.test->user);
    ds_optim_close(optim);
    rig_close(&r);
    free(values);
}

static void copies_without_masters_stay_equal_wherever_they_lie(void **state)
{
    struct copies *got = calloc(1, sizeof *got);

    (void)state;
    for (uint32_t zero_stage = 0; zero_stage <= 3; zero_stage += 3) {
        struct zero_case test = {.stages = 1,
                                 .tensor = 2,
                                 .replica = 1,
                                 .shard = 2,
                                 .zero_stage = zero_stage,
                                 .dtypes = ds_zero_dtypes_fp32(),
                                 .seed = seed,
                                 .user = got};
        test.dtypes.param = DS_BF16;
        test.dtypes.master = DS_MASTER_NONE;
        rig_run(&test, copies_on_rank);
        assert_memory_equal(got->copy[0], got->copy[1], sizeof got->copy[0]);
        assert_memory_equal(got->other[0], got->other[1], sizeof got->other[0]);
        assert_memory_not_equal(got->copy[0], got->other[0], sizeof got->copy[0]);
    }
    free(got);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_without_masters_stay_equal_wherever_they_lie),
    };

    seed = test_seed("test_zero_copies");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
