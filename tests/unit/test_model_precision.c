/* test_model_precision.c - blocks in bf16 and fp16 against the same blocks in fp32 on the same weights: what
 * is rounded makes no larger a difference than roundings do; two calls of a backward are the one; memory. */
// link: model comm device kernels storage base
#include "test.h"

#include "tensor_run.h"

#define SEQ    24
#define TOKENS (2 * SEQ)

/* Results that are stored on the way through a layer: forward n1, qkv, turned heads, o, its product, its sum
 * over ranks, h, n2, gate_up, silu(g) * u, its product, its sum, y; backward as many gradients. The head: the
 * norm, logits, and their gradients. */
#define ROUNDINGS_FORWARD 13
#define ROUNDINGS_LAYER   26
#define ROUNDINGS_HEAD    6
#define LAYERS            2

struct precision {
    enum ds_dtype compute, grad;
    uint32_t tp_size;
    int is_sequence;
};

static const struct precision precisions[] = {
    {DS_BF16, DS_F32, 1, 0}, {DS_F16, DS_F32, 1, 0},  {DS_BF16, DS_BF16, 1, 0},
    {DS_F16, DS_F16, 1, 0},  {DS_BF16, DS_F32, 2, 0}, {DS_BF16, DS_BF16, 4, 1},
    {DS_F16, DS_F32, 4, 0},  {DS_BF16, DS_F32, 8, 1},
};
#define PRECISION_COUNT (sizeof precisions / sizeof precisions[0])

/* Half the distance of neighbours, relative. */
static double unit_roundoff(enum ds_dtype dtype)
{
    return dtype == DS_BF16 ? 0x1p-8 : 0x1p-11;
}

/* Roundings are independent: their errors add as squares, of at most one unit each. */
static double limit_of(enum ds_dtype dtype, int roundings)
{
    return unit_roundoff(dtype) * sqrt(roundings);
}

static struct ds_model_config config_of(uint64_t seed)
{
    static const enum ds_family families[] = {DS_FAMILY_LLAMA, DS_FAMILY_QWEN2, DS_FAMILY_QWEN3};
    struct ds_model_config c;

    ds_model_config_default(families[seed % 3], &c);
    c.vocab_size = 509;
    c.hidden_size = 36;
    c.intermediate_size = 67;
    c.num_hidden_layers = LAYERS;
    c.num_attention_heads = 8;
    c.num_key_value_heads = seed % 2 ? 2 : 8;
    c.head_dim = 16;
    c.rms_norm_eps = 1e-5;
    c.tie_word_embeddings = seed % 5 < 2;
    if (c.family == DS_FAMILY_LLAMA)
        c.has_qkv_bias = c.has_o_bias = c.has_mlp_bias = 1;
    return c;
}

/* In fp32, on weights that `dtype` holds; fp16's gradients want a scale. */
static void open_whole(struct model_run *whole, const struct ds_model_config *config, uint64_t seed,
                       enum ds_dtype dtype)
{
    run_open(whole, config, TOKENS, SEQ);
    tensor_fill_weights(whole, seed);
    tensor_fill_batch(whole, seed);
    for (uint32_t i = 0; i < whole->model->param_count; i++) {
        const struct ds_param *param = &whole->model->params[i];
        float *at = run_weight(whole, param), *copy = tensor_floats(at, DS_F32, param->elems);

        assert_true(ds_dtype_from_f32(copy, dtype, at, param->elems));
        assert_true(ds_dtype_to_f32(at, copy, dtype, param->elems));
        free(copy);
    }
    whole->record.loss_scale = 256;
}

static struct tensor_run run_of(const struct model_run *whole, const struct precision *p)
{
    return (struct tensor_run){
        .config = &whole->model->config,
        .with = {.share = {.tp_size = p->tp_size,
                           .sequence_parallel = p->is_sequence,
                           .compute = p->compute,
                           .grad = p->grad},
                 .mode = DS_DEVICE_INLINE},
        .token_count = TOKENS,
        .seq_length = SEQ,
        .parts = RUN_TOGETHER,
        .whole = whole,
    };
}

/* Of 60 models the worst uses 0.57 of what is allowed. */
static void near(const char *what, const struct precision *p, double off, double limit)
{
    if (!(off <= limit))
        fail_msg("%s in %s, gradients in %s, %u ranks: off by %.3g, allowed is %.3g", what,
                 ds_dtype_name(p->compute), ds_dtype_name(p->grad), p->tp_size, off, limit);
}

static void check_stream(const struct tensor_run *all, const struct precision *p)
{
    for (uint32_t r = 0; r < p->tp_size; r++) {
        const struct model_run *run = &all->ranks[r];
        const uint64_t rows = ds_model_stream_tokens(run->model, TOKENS);
        const uint64_t count = rows * all->config->hidden_size,
                       start = p->is_sequence ? r * count : 0;

        for (uint32_t b = 0; b + 1 < run->model->block_count; b++) {
            float *got = tensor_floats(run->outputs[b], p->compute, count);
            near("an output", p, tensor_distance(got, all->whole->outputs[b] + start, count),
                 limit_of(p->compute, 1 + ROUNDINGS_FORWARD * (int)b));
            free(got);
        }
        near("logits", p,
             tensor_distance(all->logits[r], all->whole_logits,
                             LOGIT_ROWS * all->config->vocab_size),
             limit_of(p->compute, ROUNDINGS_FORWARD * LAYERS + 1));
    }
}

static void check_gradients(const struct tensor_run *all, const struct precision *p)
{
    const int roundings = ROUNDINGS_HEAD + ROUNDINGS_LAYER * LAYERS;
    double difference = 0, norm = 0;

    for (uint32_t i = 0; i < all->whole->model->param_count; i++) {
        const struct ds_param *param = &all->whole->model->params[i];
        const float *want = run_grad(all->whole, param);
        const double size = tensor_norm(want, param->elems);
        float *got = tensor_gradient(all, i);
        const double off = tensor_distance(got, want, param->elems);

        /* one alone may be a difference of larger terms */
        near(param->name, p, off, 3 * limit_of(p->compute, roundings));
        difference += off * size * off * size;
        norm += size * size;
        free(got);
    }
    near("the gradient", p, sqrt(difference / norm), limit_of(p->compute, roundings));
}

static void check_precision(const struct precision *p, uint64_t seed)
{
    const struct ds_model_config config = config_of(seed);
    struct model_run whole;

    open_whole(&whole, &config, seed, p->compute);
    float *logits = tensor_logits(&whole);
    const double loss = run_loss(&whole, 1, 0);
    run_backward(&whole, RUN_TOGETHER, 0);
    struct tensor_run all = run_of(&whole, p);
    all.whole_logits = logits;
    tensor_open(&all);
    for (uint32_t r = 0; r < p->tp_size; r++)
        assert_true(all.loss[r] == all.loss[0]);
    near("loss", p, fabs(all.loss[0] / loss - 1), limit_of(p->compute, 1));
    check_stream(&all, p);
    check_gradients(&all, p);
    tensor_close(&all);
    free(logits);
    run_close(&whole);
}

static void blocks_of_16_bits_are_off_by_their_roundings(void **state)
{
    const uint64_t seed = test_seed(__func__);
    const int count = test_is_long() ? 60 : 3;

    (void)state;
    for (int i = 0; i < count; i++)
        for (size_t p = 0; p < PRECISION_COUNT; p++)
            check_precision(&precisions[p], seed + (uint64_t)i);
}

static void assert_same(const struct tensor_run *a, const struct tensor_run *b)
{
    for (uint32_t r = 0; r < a->with.share.tp_size; r++) {
        const struct ds_model *model = a->ranks[r].model;

        assert_true(a->loss[r] == b->loss[r]);
        assert_memory_equal(a->ranks[r].dy, b->ranks[r].dy, run_activation_bytes(&a->ranks[r]));
        for (uint32_t i = 0; i < model->param_count; i++)
            assert_memory_equal(run_grad(&a->ranks[r], &model->params[i]),
                                run_grad(&b->ranks[r], &model->params[i]),
                                model->params[i].elems * ds_dtype_bytes(model->share.grad));
    }
}

static void two_calls_have_the_bits_of_one(void **state)
{
    const uint64_t seed = test_seed(__func__);

    (void)state;
    for (size_t p = 0; p < PRECISION_COUNT; p++) {
        const struct ds_model_config config = config_of(seed + p);
        struct model_run whole;

        open_whole(&whole, &config, seed, precisions[p].compute);
        struct tensor_run one = run_of(&whole, &precisions[p]);
        struct tensor_run other = one;
        tensor_open(&one);
        other.parts = RUN_APART;
        other.with.keeps = DS_KEEPS_PRODUCTS;
        other.with.mode = DS_DEVICE_DEFERRED;
        tensor_open(&other);
        assert_same(&one, &other);
        tensor_close(&one);
        tensor_close(&other);
        run_close(&whole);
    }
}

/* What blocks ask for follows the dtype; a softmax's and a norm's own numbers and held gains stay fp32. */
static void memory_follows_the_dtype(void **state)
{
    const struct ds_model_share half = {.compute = DS_BF16};
    struct ds_model_config config = config_of(2); /* with head norms */
    const uint64_t T = 1024, rstds = 2 * T, heads = 2 * T * 8 + T * 8, gains = 2 * 64 + 2 * 64;
    struct ds_model *a, *b;

    (void)state;
    config.hidden_size = config.head_dim = 64; /* nothing is lost to alignment */
    assert_ok(ds_model_open(&config, NULL, &a));
    assert_ok(ds_model_open(&config, &half, &b));
    const struct ds_block *x = &a->blocks[1], *y = &b->blocks[1];
    assert_int_equal(2 * y->ops->saved_bytes(y, T) - x->ops->saved_bytes(x, T),
                     (rstds + heads) * sizeof(float));
    assert_int_equal(2 * y->ops->held_bytes(y, T) - x->ops->held_bytes(x, T),
                     gains * sizeof(float));
    for (uint32_t i = 0; i < a->block_count; i++)
        assert_true(b->blocks[i].ops->workspace_bytes(&b->blocks[i], T) <=
                    a->blocks[i].ops->workspace_bytes(&a->blocks[i], T));
    ds_model_close(a);
    ds_model_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_16_bits_are_off_by_their_roundings),
        cmocka_unit_test(two_calls_have_the_bits_of_one),
        cmocka_unit_test(memory_follows_the_dtype),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
