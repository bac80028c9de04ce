/* test_model_tensor.c - a model on several tensor ranks is the model: outputs, loss, gradients, logits, for
 * random small models and every number of ranks that their heads allow, with and without the tokens shared
 * out, in pieces or not; two calls of a backward are the one; the order in which a device works changes nothing;
 * collectives run beside matrix products. */
// link: model comm device kernels storage base
#include "test.h"

#include "tensor_run.h"

#define SEQ    24
#define TOKENS (2 * SEQ) /* every number of ranks below divides it */

/* fp32 sums in another order, of the norm: of what is compared and, for gradients, of all of them together.
 * One gradient alone may be a small difference of large terms (a head's norm over four channels). */
#define LIMIT     2e-6
#define LIMIT_ONE 5e-5

static const uint32_t sizes[] = {2, 3, 4, 6, 8};
#define SIZE_COUNT (sizeof sizes / sizeof sizes[0])

static uint64_t pick(struct ds_random random, uint64_t *at, const uint64_t *from, uint64_t count)
{
    return from[ds_random_below(random, (*at)++, count)];
}

#define PICK(...)                                      \
    pick(random, &at, (const uint64_t[]){__VA_ARGS__}, \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* Every fourth is a llama with all biases, one without, a qwen2, a qwen3; sizes are drawn. */
static struct ds_model_config random_config(uint64_t seed)
{
    static const enum ds_family families[] = {DS_FAMILY_LLAMA, DS_FAMILY_LLAMA, DS_FAMILY_QWEN2,
                                              DS_FAMILY_QWEN3};
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 1);
    struct ds_model_config c;
    uint64_t at = 0;

    ds_model_config_default(families[seed % 4], &c);
    c.vocab_size = PICK(509, 61, 17);
    c.hidden_size = PICK(20, 36, 50);
    c.intermediate_size = PICK(9, 37, 67, 128);
    c.num_hidden_layers = 2;
    c.num_attention_heads = PICK(6, 12, 8);
    c.num_key_value_heads = c.num_attention_heads / PICK(1, 2);
    if (ds_random_below(random, at++, 2))
        c.num_key_value_heads = PICK(1, 2);
    c.head_dim = PICK(8, 10, 16); /* a norm over fewer would lose digits */
    c.rms_norm_eps = 1e-5;
    c.tie_word_embeddings = (int)ds_random_below(random, at++, 2);
    c.pad_token_id = (int64_t)ds_random_below(random, at++, 17);
    if (seed % 4 == 0)
        c.has_qkv_bias = c.has_o_bias = c.has_mlp_bias = 1;
    return c;
}

static void open_whole(struct model_run *whole, const struct ds_model_config *config, uint64_t seed)
{
    run_open(whole, config, TOKENS, SEQ);
    tensor_fill_weights(whole, seed);
    tensor_fill_batch(whole, seed);
}

static void describe(const struct tensor_run *all)
{
    const struct ds_model_config *c = all->config;

    print_message(
        "%s, %llu heads of %llu over %llu, %llu hidden, %llu intermediate, %llu tokens%s; "
        "%u ranks%s\n",
        ds_family_name(c->family), (unsigned long long)c->num_attention_heads,
        (unsigned long long)c->head_dim, (unsigned long long)c->num_key_value_heads,
        (unsigned long long)c->hidden_size, (unsigned long long)c->intermediate_size,
        (unsigned long long)c->vocab_size, c->tie_word_embeddings ? ", tied" : "",
        all->with.share.tp_size, all->with.share.sequence_parallel ? ", sequence" : "");
}

static void near(const struct tensor_run *all, const char *what, const float *got,
                 const float *want, uint64_t count, double limit)
{
    const double off = tensor_distance(got, want, count);

    if (off <= limit)
        return;
    describe(all);
    fail_msg("%s is off by %.3g", what, off);
}

/* Each rank's part of the stream against the whole's: outputs of blocks, and the gradient of the first. */
static void check_stream(const struct tensor_run *all)
{
    const struct model_run *whole = all->whole;
    const uint64_t hidden = all->config->hidden_size;

    for (uint32_t r = 0; r < all->with.share.tp_size; r++) {
        const struct model_run *run = &all->ranks[r];
        const uint64_t rows = ds_model_stream_tokens(run->model, TOKENS);
        const uint64_t start = rows < TOKENS ? r * rows * hidden : 0;

        for (uint32_t b = 0; b + 1 < run->model->block_count; b++)
            near(all, "an output", run->outputs[b], whole->outputs[b] + start, rows * hidden,
                 LIMIT);
        near(all, "the stream's gradient", run->dy, whole->dy + start, rows * hidden, LIMIT_ONE);
        if (rows == TOKENS)
            assert_memory_equal(run->dy, all->ranks[0].dy, rows * hidden * sizeof(float));
    }
}

static void check_gradients(const struct tensor_run *all)
{
    double difference = 0, norm = 0;

    for (uint32_t i = 0; i < all->whole->model->param_count; i++) {
        const struct ds_param *param = &all->whole->model->params[i];
        const float *want = run_grad(all->whole, param);
        const double size = tensor_norm(want, param->elems);
        float *got = tensor_gradient(all, i);

        near(all, param->name, got, want, param->elems, LIMIT_ONE);
        difference += pow(tensor_distance(got, want, param->elems) * size, 2);
        norm += size * size;
        free(got);
    }
    if (!(sqrt(difference / norm) <= LIMIT)) {
        describe(all);
        fail_msg("the gradient is off by %.3g", sqrt(difference / norm));
    }
}

/* A gradient that nobody adds up is the same on all ranks that hold a copy. */
static void check_copies(const struct tensor_run *all)
{
    for (uint32_t i = 0; i < all->whole->model->param_count; i++)
        for (uint32_t r = 0; r < all->with.share.tp_size; r++) {
            const struct ds_param *param = &all->ranks[r].model->params[i];
            const uint32_t owner = r - r % param->copies;

            if (param->sum == DS_PARAM_SUM_NONE)
                assert_memory_equal(
                    run_grad(&all->ranks[r], param),
                    run_grad(&all->ranks[owner], &all->ranks[owner].model->params[i]),
                    param->elems * sizeof(float));
        }
}

static void check_loss(const struct tensor_run *all, double loss, const float *logits)
{
    for (uint32_t r = 0; r < all->with.share.tp_size; r++) {
        assert_true(all->loss[r] == all->loss[0]);
        near(all, "rows of logits", all->logits[r], logits, LOGIT_ROWS * all->config->vocab_size,
             LIMIT);
    }
    if (!(fabs(all->loss[0] / loss - 1) <= LIMIT)) {
        describe(all);
        fail_msg("loss %.9g, of the whole %.9g", all->loss[0], loss);
    }
}

/* Of the residual stream, and how what ranks share out of it is gathered on the way forward. */
enum tokens { ALL_TOKENS, SHARED_TOKENS, SHARED_IN_PIECES, TOKENS_COUNT };

static struct tensor_run run_of(const struct model_run *whole, uint32_t tp_size, enum tokens tokens)
{
    return (struct tensor_run){
        .config = &whole->model->config,
        .with = {.share = {.tp_size = tp_size, .sequence_parallel = tokens != ALL_TOKENS},
                 .mode = DS_DEVICE_INLINE,
                 .piece_tokens = tokens == SHARED_IN_PIECES ? 1 : 0},
        .token_count = TOKENS,
        .seq_length = SEQ,
        .parts = RUN_TOGETHER,
        .whole = whole,
    };
}

/* Returns how many numbers of ranks the model's heads allow. */
static int check_model(uint64_t seed)
{
    struct ds_model_config config = random_config(seed);
    struct model_run whole;
    char why[256];
    int checked = 0;

    open_whole(&whole, &config, seed);
    float *logits = tensor_logits(&whole);
    double loss = run_loss(&whole, 1, 0);
    run_backward(&whole, RUN_TOGETHER, 0);
    for (size_t i = 0; i < TOKENS_COUNT * SIZE_COUNT; i++) {
        const uint32_t size = sizes[i / TOKENS_COUNT];
        struct tensor_run all = run_of(&whole, size, (enum tokens)(i % TOKENS_COUNT));

        if (!ds_model_may_share(&whole.model->config, size, why, sizeof why))
            continue;
        tensor_open(&all);
        check_loss(&all, loss, logits);
        check_stream(&all);
        check_gradients(&all);
        check_copies(&all);
        tensor_close(&all);
        checked++;
    }
    free(logits);
    run_close(&whole);
    return checked;
}

static void several_ranks_are_the_whole_model(void **state)
{
    const uint64_t seed = test_seed(__func__);
    const int count = test_is_long() ? 400 : 12;
    int checked = 0;

    (void)state;
    for (int i = 0; i < count; i++)
        checked += check_model(seed + (uint64_t)i);
    print_message("%d models, %d layouts\n", count, checked);
    assert_true(checked >= 2 * count);
}

/* All that two runs of the same ranks leave, to the bit. */
static void assert_same(const struct tensor_run *a, const struct tensor_run *b)
{
    for (uint32_t r = 0; r < a->with.share.tp_size; r++) {
        const struct ds_model *model = a->ranks[r].model;

        assert_true(a->loss[r] == b->loss[r]);
        assert_memory_equal(a->ranks[r].dy, b->ranks[r].dy, run_activation_bytes(&a->ranks[r]));
        assert_memory_equal(a->logits[r], b->logits[r],
                            LOGIT_ROWS * a->config->vocab_size * sizeof(float));
        for (uint32_t i = 0; i < model->param_count; i++)
            assert_memory_equal(run_grad(&a->ranks[r], &model->params[i]),
                                run_grad(&b->ranks[r], &model->params[i]),
                                model->params[i].elems * sizeof(float));
    }
}

/* The first seed from `seed` on whose model that many ranks may share. */
static uint64_t seed_for(uint64_t seed, uint32_t tp_size)
{
    char why[256];

    for (;; seed++) {
        struct ds_model_config c = random_config(seed);
        ds_model_config_complete(&c);
        if (ds_model_may_share(&c, tp_size, why, sizeof why))
            return seed;
    }
}

/* How a run of the same ranks may differ without a difference in bits. */
struct variant {
    enum run_parts parts;
    enum ds_device_mode mode;
    enum ds_keeps keeps;
};

static void bits_are_those_of_one_call_inline(void **state)
{
    static const struct variant variants[] = {
        {RUN_TOGETHER, DS_DEVICE_INLINE, DS_KEEPS_ALL},
        {RUN_APART, DS_DEVICE_INLINE, DS_KEEPS_ALL},
        {RUN_TOGETHER, DS_DEVICE_DEFERRED, DS_KEEPS_ALL},
        {RUN_TOGETHER, DS_DEVICE_INLINE, DS_KEEPS_NORMS},
        {RUN_APART, DS_DEVICE_INLINE, DS_KEEPS_NORMS},
        {RUN_TOGETHER, DS_DEVICE_INLINE, DS_KEEPS_PRODUCTS},
        {RUN_APART, DS_DEVICE_DEFERRED, DS_KEEPS_PRODUCTS},
    };
    const uint64_t start = test_seed(__func__);

    (void)state;
    for (size_t i = 0; i < TOKENS_COUNT * SIZE_COUNT; i++) {
        const uint32_t size = sizes[i / TOKENS_COUNT];
        const enum tokens tokens = (enum tokens)(i % TOKENS_COUNT);
        const uint64_t seed = seed_for(start + 100 * i, size);
        struct ds_model_config config = random_config(seed);
        struct model_run whole;

        open_whole(&whole, &config, seed);
        struct tensor_run one = run_of(&whole, size, tokens);
        tensor_open(&one);
        for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++) {
            struct tensor_run other = run_of(&whole, size, tokens);

            other.parts = variants[v].parts;
            other.with.mode = variants[v].mode;
            other.with.keeps = variants[v].keeps;
            other.with.seed = seed;
            tensor_open(&other);
            assert_same(&one, &other);
            tensor_close(&other);
        }
        tensor_close(&one);
        run_close(&whole);
    }
}

/* What the ranks take: the stream's part shrinks with the ranks where tokens are shared out. */
static void shared_tokens_take_less_memory(void **state)
{
    struct ds_model_config config = random_config(seed_for(1, 4));
    struct ds_model_share plain = {.tp_size = 4};
    struct ds_model_share shared = {.tp_size = 4, .sequence_parallel = 1};
    struct ds_model *a, *b;

    (void)state;
    assert_ok(ds_model_open(&config, &plain, &a));
    assert_ok(ds_model_open(&config, &shared, &b));
    const struct ds_block *x = &a->blocks[1], *y = &b->blocks[1];
    const size_t stream = 3 * 1024 * config.hidden_size * sizeof(float); /* n1, n2, h */
    const size_t rstds = 2 * 1024 * sizeof(float);
    assert_int_equal(x->ops->saved_bytes(x, 1024) - y->ops->saved_bytes(y, 1024),
                     (stream + rstds) / 4 * 3);
    ds_model_close(a);
    ds_model_close(b);
}

/* ---- what runs beside what */

#define CALLS_MAX 64

/* What a rank's streams were given: how many products between a collective and the wait for it. One rank is one
 * thread. */
static _Thread_local struct spy {
    const struct ds_device_ops *real;
    const struct ds_tensor_stream *tensor;
    uint32_t products, begun_at[DS_TENSOR_CALLS_MAX]; /* products before the call */
    uint32_t beside[CALLS_MAX], call_count;
} spy;

static uint32_t event_index(const struct ds_event *event)
{
    for (uint32_t i = 0; i < DS_TENSOR_CALLS_MAX; i++)
        if (spy.tensor->done[i] == event)
            return i;
    return DS_TENSOR_CALLS_MAX;
}

static ds_status spy_record(struct ds_event *event, struct ds_stream *stream)
{
    const uint32_t i = event_index(event);

    if (i < DS_TENSOR_CALLS_MAX)
        spy.begun_at[i] = spy.products;
    return spy.real->event_record(event, stream);
}

static ds_status spy_wait(struct ds_stream *stream, struct ds_event *event)
{
    const uint32_t i = event_index(event);

    if (i < DS_TENSOR_CALLS_MAX) {
        assert_true(spy.call_count < CALLS_MAX && stream != spy.tensor->stream);
        spy.beside[spy.call_count++] = spy.products - spy.begun_at[i];
    }
    return spy.real->stream_wait(stream, event);
}

static ds_status spy_product(struct ds_stream *stream, const struct ds_matmul_args *args)
{
    spy.products++;
    return spy.real->kernels->matmul(stream, args);
}

/* What a product may be a part of. */
static ds_status spy_swiglu(struct ds_stream *stream, const struct ds_swiglu_args *args)
{
    spy.products += args->x_TC.data != NULL;
    return spy.real->kernels->swiglu_forward(stream, args);
}

static ds_status spy_swiglu_backward(struct ds_stream *stream,
                                     const struct ds_swiglu_backward_args *args)
{
    spy.products += args->dz_TC.data != NULL;
    return spy.real->kernels->swiglu_backward(stream, args);
}

static ds_status spy_split(struct ds_stream *stream, const struct ds_qkv_split_args *args)
{
    spy.products += args->x_TC.data != NULL;
    return spy.real->kernels->qkv_split(stream, args);
}

static uint32_t count_alone(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < spy.call_count; i++)
        count += spy.beside[i] == 0;
    return count;
}

static void spy_begin(struct model_run *run, struct ds_device_ops *ops,
                      struct ds_kernel_ops *kernels)
{
    spy = (struct spy){.real = run->device->ops, .tensor = &run->tensor_stream};
    *kernels = *run->device->ops->kernels;
    kernels->matmul = spy_product;
    kernels->swiglu_forward = spy_swiglu;
    kernels->swiglu_backward = spy_swiglu_backward;
    kernels->qkv_split = spy_split;
    *ops = *run->device->ops;
    ops->kernels = kernels;
    ops->event_record = spy_record;
    ops->stream_wait = spy_wait;
    run->device->ops = ops;
}

static void assert_calls(uint32_t count, uint32_t alone)
{
    assert_int_equal(spy.call_count, count);
    assert_int_equal(count_alone(), alone);
}

/* Forward, with tokens shared out, four a layer and one in the embedding, all of them waited for at once; in pieces
 * twice as many a layer, the first half of a sum and the second half of what is gathered beside products, the others
 * beside norms. None shared out: two a layer, alone. Backward, with tokens shared out, six a layer and one in the embedding:
 * all but the first of each go beside a product. None shared out: two a layer, each beside two. */
static void count_beside(struct ds_comm *world, void *user)
{
    struct tensor_run *all = user;
    struct model_run *run = &all->ranks[world->rank];
    const uint32_t layers = (uint32_t)all->config->num_hidden_layers;
    struct ds_kernel_ops kernels;
    struct ds_device_ops ops;
    struct run_options with = all->with;

    with.tp = world;
    with.share.tp_rank = world->rank;
    run_open_with(run, &with, all->config, all->token_count, all->seq_length);
    tensor_copy_inputs(run, all->whole);
    spy_begin(run, &ops, &kernels);
    run_forward(run);
    if (!with.share.sequence_parallel)
        assert_calls(2 * layers + 1, 2 * layers + 1);
    else if (with.piece_tokens == 1)
        assert_calls(8 * layers + 1, 4 * layers + 1);
    else
        assert_calls(4 * layers + 1, 4 * layers + 1);
    run->device->ops = spy.real;
    all->loss[world->rank] = run_loss(run, 1, 0);
    spy_begin(run, &ops, &kernels);
    run_backward(run, all->parts, 0);
    run->device->ops = spy.real;
    if (with.share.sequence_parallel)
        assert_calls(6 * layers + 1, layers + 1);
    else
        assert_calls(2 * layers, 0);
    run_close(run);
}

static void collectives_go_beside_products(void **state)
{
    const uint64_t seed = seed_for(test_seed(__func__), 2);
    struct ds_model_config config = random_config(seed);
    struct model_run whole;

    (void)state;
    open_whole(&whole, &config, seed);
    for (int tokens = 0; tokens < TOKENS_COUNT; tokens++) {
        struct tensor_run all = run_of(&whole, 2, (enum tokens)tokens);

        assert_true(run_ranks(2, TENSOR_DEADLINE_NS, count_beside, &all));
    }
    run_close(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_ranks_are_the_whole_model),
        cmocka_unit_test(bits_are_those_of_one_call_inline),
        cmocka_unit_test(shared_tokens_take_less_memory),
        cmocka_unit_test(collectives_go_beside_products),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
