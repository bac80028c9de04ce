// link: launch
// private: launch
/* Weights of bf16 without masters, on every number of tensor ranks, shards and stages: rounded by chance,
 * an element by its place in the whole parameter, so the same gradients leave the same weights. */
#include "zero_rig.h"

#include "trainer/trainer.h"

enum { STEPS = 3, UNITS = 2, TENSOR_MAX = 3 };

/* What one layout has left of each parameter, whole. */
struct weights {
    uint64_t start[64]; /* of each parameter in `at` */
    uint64_t count;
    uint16_t *at;
};

/* Six query heads and one of keys, so that tensor ranks have copies; sizes that no rank count divides. */
static const struct ds_model_config shape = {
    .family = DS_FAMILY_QWEN2,
    .vocab_size = 101,
    .hidden_size = 48,
    .intermediate_size = 77,
    .num_hidden_layers = 1,
    .num_attention_heads = 6,
    .num_key_value_heads = 1,
    .head_dim = 8,
    .max_position_embeddings = 16,
    .rms_norm_eps = 1e-5,
    .initializer_range = 0.02,
    .has_qkv_bias = 1,
    .rope = {.theta = 10000, .factor = 1},
    .bos_token_id = -1,
    .eos_token_id = -1,
    .pad_token_id = -1,
};

static uint64_t seed;

static float number_of(uint64_t salt, uint64_t param, uint64_t i)
{
    uint64_t state = ((seed * 64 + salt) * 64 + param) * 1000003 + i;

    return (float)(random_next(&state) >> 40) * 0x1p-23f - 1.0f;
}

/* The rank's parts of the numbers of whole parameters. */
static void fill(const struct ds_model *model, uint32_t unit, uint64_t salt, float *values)
{
    const struct ds_unit *u = &model->units[unit];

    memset(values, 0, u->elems * sizeof *values);
    for (uint32_t p = u->param_start; p < u->param_start + u->param_count; p++)
        for (uint64_t i = 0; i < model->params[p].elems; i++)
            values[model->params[p].offset + i] =
                number_of(salt, p, ds_param_run(&model->params[p], i, 1).start);
}

static struct ds_optim *open_units(struct zero_rank *r, const struct ds_model *model,
                                   struct ds_span *spans, struct ds_optim_range *ranges)
{
    const struct ds_optim_range *lists[UNITS];
    uint32_t counts[UNITS];
    struct ds_optim *optim = NULL;

    for (uint32_t p = 0; p < model->param_count; p++) {
        spans[p] = (struct ds_span){model->params[p].offset, model->params[p].elems};
        ranges[p] = trainer_range(model, p, 0.1f);
    }
    for (uint32_t u = 0; u < UNITS; u++) {
        const struct ds_unit *unit = &model->units[u];
        r->units[u] = (struct ds_zero_unit_spec){.elems = unit->elems,
                                                 .params = &spans[unit->param_start],
                                                 .param_count = unit->param_count};
        lists[u] = &ranges[unit->param_start];
        counts[u] = unit->param_count;
    }
    rig_zero(r, UNITS);
    const struct ds_optim_options options = {.beta1 = 0.9f,
                                             .beta2 = 0.95f,
                                             .epsilon = 1e-8f,
                                             .ranges = lists,
                                             .range_counts = counts,
                                             .unit_count = UNITS,
                                             .seed = seed,
                                             .zero = r->zero,
                                             .compute = r->compute,
                                             .kernels = r->device->ops->kernels,
                                             .memory = &r->memory};
    RIG_OK(r, ds_optim_open(&options, &optim));
    return optim;
}

static void write_weights(struct zero_rank *r, const struct ds_model *model, float *values)
{
    for (uint32_t u = 0; u < UNITS; u++) {
        const struct ds_span mine = ds_zero_layout_owned(
            ds_zero_unit_layout(r->zero, u), r->shard, (struct ds_span){0, model->units[u].elems});
        fill(model, u, 0, values);
        RIG_OK(r, ds_zero_write_shard(r->zero, u, 0, mine.count, values + mine.start));
    }
    RIG_OK(r, ds_zero_publish(r->zero));
}

static void step(struct zero_rank *r, const struct ds_model *model, struct ds_optim *optim,
                 uint64_t number, float *values)
{
    const struct ds_step_record record = {
        .step = number, .learning_rate = 1e-3f, .trained_tokens = 1, .loss_scale = 1};
    int is_started;

    rig_copy(r, r->record, &record, sizeof record);
    for (uint32_t u = 0; u < UNITS; u++) {
        fill(model, u, number, values);
        RIG_OK(r, ds_zero_grad_acquire(r->zero, u, 0, &is_started));
        rig_copy(r, ds_zero_grads(r->zero, u), values, model->units[u].elems * sizeof *values);
        RIG_OK(r, ds_zero_reduce(r->zero, u, 1));
    }
    RIG_OK(r, ds_optim_verdict(optim, r->record));
    for (uint32_t u = 0; u < UNITS; u++)
        RIG_OK(r, ds_optim_update(optim, r->compute,
                                  &(struct ds_optim_strip){u, 0, DS_ZERO_NO_SLOT}, r->record));
}

/* Every element from the tensor rank that owns it. */
static void collect(struct zero_rank *r, const struct ds_model *model, uint16_t *stored,
                    struct weights *out)
{
    for (uint32_t u = 0; u < UNITS; u++) {
        const struct ds_unit *unit = &model->units[u];
        RIG_OK(r, ds_zero_acquire(r->zero, u, 0));
        rig_copy(r, stored, ds_zero_weights(r->zero, u), unit->elems * sizeof *stored);
        RIG_OK(r, ds_zero_release(r->zero, u));
        for (uint32_t p = unit->param_start; p < unit->param_start + unit->param_count; p++) {
            const struct ds_param *param = &model->params[p];
            if (r->shard > 0 || !param->is_owner)
                continue;
            for (uint64_t i = 0; i < param->elems; i++)
                out->at[out->start[p] + ds_param_run(param, i, 1).start] =
                    stored[param->offset + i];
        }
    }
}

static void update_on_rank(struct ds_comm *world, void *user)
{
    struct ds_span spans[64];
    struct ds_optim_range ranges[64];
    struct ds_model *model = NULL;
    struct zero_rank r;

    rig_open(&r, user, world);
    const struct ds_model_share share = {.tp_rank = r.tensor, .tp_size = r.test->tensor};
    RIG_OK(&r, ds_model_open(&shape, &share, &model));
    float *values = malloc((model->units[0].elems + model->units[1].elems) * sizeof *values);
    struct ds_optim *optim = open_units(&r, model, spans, ranges);
    write_weights(&r, model, values);
    for (uint64_t number = 1; number <= STEPS; number++)
        step(&r, model, optim, number, values);
    collect(&r, model, (uint16_t *)values, r.test->user);
    ds_optim_close(optim);
    rig_close(&r);
    free(values);
    ds_model_close(model);
}

static struct weights make_weights(void)
{
    struct ds_model *model = NULL;
    struct weights w = {.count = 0};

    assert_ok(ds_model_open(&shape, NULL, &model));
    assert_true(model->unit_count >= UNITS && model->param_count <= 64);
    for (uint32_t p = 0; p < model->param_count; p++) {
        w.start[p] = w.count;
        w.count += ds_param_whole_elems(&model->params[p]);
    }
    ds_model_close(model);
    w.at = calloc(w.count, sizeof *w.at);
    assert_non_null(w.at);
    return w;
}

static void update_everywhere(uint32_t tensor, uint32_t shard, uint32_t zero_stage,
                              struct weights *out)
{
    struct zero_case test = {.stages = 1,
                             .tensor = tensor,
                             .replica = 1,
                             .shard = shard,
                             .zero_stage = zero_stage,
                             .dtypes = ds_zero_dtypes_fp32(),
                             .seed = seed,
                             .user = out};

    test.dtypes.param = DS_BF16;
    test.dtypes.master = DS_MASTER_NONE;
    memset(out->at, 0, out->count * sizeof *out->at);
    rig_run(&test, update_on_rank);
}

static void an_element_rounds_by_its_place_in_the_whole_parameter(void **state)
{
    struct weights want = make_weights(), got = make_weights();

    (void)state;
    for (uint32_t shard = 1; shard <= 2; shard++) { /* two add up what one has: other gradients */
        update_everywhere(1, shard, 0, &want);
        for (uint32_t tensor = 1; tensor <= TENSOR_MAX; tensor++)
            for (uint32_t zero_stage = 0; zero_stage <= 3; zero_stage++) {
                update_everywhere(tensor, shard, zero_stage, &got);
                for (uint64_t i = 0; i < want.count; i++)
                    if (got.at[i] != want.at[i])
                        fail_msg("tensor %u, shard %u, stage %u: element %llu of all is %04x, "
                                 "not %04x",
                                 tensor, shard, zero_stage, (unsigned long long)i, got.at[i],
                                 want.at[i]);
            }
    }
    free(want.at);
    free(got.at);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_element_rounds_by_its_place_in_the_whole_parameter),
    };

    seed = test_seed("test_zero_whole");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
