/* test_model_blocks.c - gradients against finite differences on tiny models of odd shapes, and the
 * promises of a backward: in parts, again, added up, and nothing outside the parameters; of an adapter nothing but its
 * factors and what it trains of the model itself; DoRA beside the arithmetic of its definition. */
// link: model comm device kernels storage base
#include "test.h"

#include "dstrain/random.h"
#include "model_run.h"

#include <math.h>

#define SEQ    9
#define TOKENS (3 * SEQ)

/* 7 heads of 6 over a hidden size of 20, one kv head, every bias there is. */
static struct ds_model_config llama_config(void)
{
    struct ds_model_config c;

    ds_model_config_default(DS_FAMILY_LLAMA, &c);
    c.vocab_size = 11;
    c.hidden_size = 20;
    c.intermediate_size = 13;
    c.num_hidden_layers = 2;
    c.num_attention_heads = 7;
    c.num_key_value_heads = 1;
    c.head_dim = 6;
    c.rms_norm_eps = 1e-5;
    c.has_qkv_bias = c.has_o_bias = c.has_mlp_bias = 1;
    return c;
}

/* Head norms, grouped heads, one matrix for embedding and head. */
static struct ds_model_config qwen3_config(void)
{
    struct ds_model_config c;

    ds_model_config_default(DS_FAMILY_QWEN3, &c);
    c.vocab_size = 11;
    c.hidden_size = 18;
    c.intermediate_size = 13;
    c.num_hidden_layers = 2;
    c.num_attention_heads = 6;
    c.num_key_value_heads = 2;
    c.head_dim = 10;
    c.tie_word_embeddings = 1;
    return c;
}

/* Beside some matrices of each layer, of several ranks and scales. */
static struct ds_lora_module modules[2 * DS_LINEAR_COUNT];
static struct ds_lora some_factors = {.settings = {.r = 2, .alpha = 2}, .modules = modules};
static const struct ds_lora *adapter; /* of the next model, or NULL */

static void draw_factors(uint64_t seed)
{
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 500);

    for (uint64_t i = 0; i < 2 * DS_LINEAR_COUNT; i++)
        modules[i] = (struct ds_lora_module){(uint32_t)ds_random_below(random, 2 * i, 4),
                                             0.5f + (float)ds_random_unit(random, 2 * i + 1)};
    modules[seed % DS_LINEAR_COUNT].rank = 1;
}

/* Weights far from their initial values: no bias is 0, no gain is 1. */
static void fill_weights(struct model_run *run, uint64_t seed)
{
    for (uint32_t i = 0; i < run->model->param_count; i++) {
        const struct ds_param *param = &run->model->params[i];
        float *at = run_weight(run, param);

        ds_random_normal(ds_random_of(seed, DS_RANDOM_TEST, i), 0, param->elems, 0.3f, at);
        for (uint64_t j = 0; j < param->elems; j++)
            at[j] += param->init_value;
    }
}

/* Random tokens, some without a target; the second sequence is made of two documents. */
static void fill_batch(struct model_run *run, uint64_t seed)
{
    struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, 1000);
    const uint64_t vocab = run->model->config.vocab_size;

    for (uint64_t t = 0; t < run->token_count; t++) {
        run->ids[t] = (int32_t)ds_random_below(random, 2 * t, vocab);
        run->targets[t] = (int32_t)ds_random_below(random, 2 * t + 1, vocab);
        if (t % 5 == 3)
            run->targets[t] = DS_IGNORE_INDEX;
        if (t >= run->seq_length + 4 && t < 2 * run->seq_length) {
            run->documents[t] = 4;
            run->positions[t] -= 4;
        }
    }
    run_count_tokens(run);
}

static void open_tiny(struct model_run *run, const struct ds_model_config *config, uint64_t seed)
{
    const struct run_options options = {.mode = DS_DEVICE_INLINE, .lora = adapter};

    run_open_with(run, &options, config, TOKENS, SEQ);
    fill_weights(run, seed);
    fill_batch(run, seed);
}

static void train(struct model_run *run, enum run_parts parts, int add)
{
    run_loss(run, 1, add);
    run_backward(run, parts, add);
}

static double norm_of(const float *at, uint64_t count)
{
    double sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += (double)at[i] * (double)at[i];
    return sqrt(sum);
}

/* A unit vector half along the gradient, so that the derivative is large, and half random. */
static void pick_direction(const float *gradient, uint64_t count, struct ds_random random,
                           float *to)
{
    double size = norm_of(gradient, count);

    ds_random_normal(random, 0, count, (float)(1 / sqrt((double)count)), to);
    for (uint64_t i = 0; i < count; i++)
        to[i] += (float)((double)gradient[i] / (size + 1e-30));
    size = norm_of(to, count);
    for (uint64_t i = 0; i < count; i++)
        to[i] = (float)((double)to[i] / size);
}

/* ---- DoRA in fp64 */

static const struct ds_param *matrix_of(const struct model_run *run, uint64_t index)
{
    char name[96];

    snprintf(name, sizeof name, "model.layers.%llu.%s.weight",
             (unsigned long long)(index / DS_LINEAR_COUNT),
             ds_linear_name((enum ds_linear)(index % DS_LINEAR_COUNT)));
    return ds_model_find(run->model, name);
}

/* W + scale * B A: element `i` of row `row` of matrix `index` */
static double sum_at(const struct model_run *run, uint64_t index, uint64_t row, uint64_t i)
{
    const struct ds_lora_factors *f = &run->model->factors[index];
    const uint64_t columns = matrix_of(run, index)->shape[1], rank = f->module.rank;
    const float *a = run_weight(run, &run->model->params[f->a]);
    const float *b = run_weight(run, &run->model->params[f->b]);
    double sum = run_weight(run, matrix_of(run, index))[row * columns + i];

    for (uint64_t k = 0; k < rank; k++)
        sum += (double)f->module.scale * (double)b[row * rank + k] * (double)a[k * columns + i];
    return sum;
}

static void measure(const struct model_run *run, uint64_t index, double *lengths)
{
    const struct ds_param *matrix = matrix_of(run, index);

    for (uint64_t row = 0; row < matrix->shape[0]; row++) {
        double squares = 0;
        for (uint64_t i = 0; i < matrix->shape[1]; i++)
            squares += sum_at(run, index, row, i) * sum_at(run, index, row, i);
        lengths[row] = sqrt(squares);
    }
}

/* The matrix whose lengths change with this parameter, or -1. */
static int64_t lengthened(const struct model_run *run, const struct ds_param *param)
{
    const uint32_t number = (uint32_t)(param - run->model->params);

    for (uint64_t i = 0; run->model->lora.is_dora && i < 2 * DS_LINEAR_COUNT; i++)
        if (run->model->factors[i].module.rank > 0 &&
            (run->model->factors[i].a == number || run->model->factors[i].b == number))
            return (int64_t)i;
    return -1;
}

#define ROWS_MAX 64

/* A step of one parameter. Backward takes lengths for constants: what is trained follows them. */
static void move_along(struct model_run *run, const struct ds_param *param, const float *start,
                       const float *direction, double step)
{
    const int64_t index = lengthened(run, param);
    double before[ROWS_MAX], after[ROWS_MAX];
    float *at = run_weight(run, param);

    if (index >= 0)
        measure(run, (uint64_t)index, before);
    for (uint64_t i = 0; i < param->elems; i++)
        at[i] = (float)((double)start[i] + step * (double)direction[i]);
    if (index < 0)
        return;
    const struct ds_param *m = &run->model->params[run->model->factors[index].m];
    assert_true(m->elems <= ROWS_MAX);
    measure(run, (uint64_t)index, after);
    for (uint64_t i = 0; i < m->elems; i++)
        run_weight(run, m)[i] = (float)((double)run_weight(run, m)[i] * after[i] / before[i]);
}

static double loss_along(struct model_run *run, const struct ds_param *param, const float *start,
                         const float *direction, double step)
{
    const int64_t index = lengthened(run, param);
    const struct ds_param *m =
        index >= 0 ? &run->model->params[run->model->factors[index].m] : NULL;
    float *at = run_weight(run, param), kept[ROWS_MAX];

    if (m)
        memcpy(kept, run_weight(run, m), m->elems * sizeof *kept);
    move_along(run, param, start, direction, step);
    double loss = run_loss(run, 0, 0); /* a head that trains would write its gradients anew */
    memcpy(at, start, param->elems * sizeof(float));
    if (m)
        memcpy(run_weight(run, m), kept, m->elems * sizeof *kept);
    return loss;
}

/* Differences of fourth order. */
static double slope_along(struct model_run *run, const struct ds_param *param, const float *start,
                          const float *direction, double h)
{
    double near =
        loss_along(run, param, start, direction, h) - loss_along(run, param, start, direction, -h);
    double far = loss_along(run, param, start, direction, 2 * h) -
                 loss_along(run, param, start, direction, -2 * h);

    return (8 * near - far) / (12 * h);
}

/* The longer step leaves rounding near 4e-5; where the loss bends too much for it, the shorter one is
 * asked, whose rounding is five times that. A wrong gradient fits neither. */
static void check_param(struct model_run *run, const struct ds_param *param,
                        struct ds_random random)
{
    const float *gradient = run_grad(run, param);
    float *start = malloc(param->elems * sizeof *start);
    float *direction = malloc(param->elems * sizeof *direction);
    double slope = 0, size = norm_of(gradient, param->elems);
    const double allowed = 3e-3 * size + 1e-4;

    memcpy(start, run_weight(run, param), param->elems * sizeof *start);
    pick_direction(gradient, param->elems, random, direction);
    for (uint64_t i = 0; i < param->elems; i++)
        slope += (double)gradient[i] * (double)direction[i];
    double measured = slope_along(run, param, start, direction, 5e-3);
    if (fabs(measured - slope) > allowed)
        measured = slope_along(run, param, start, direction, 1e-3);
    if (!(fabs(measured - slope) <= allowed))
        fail_msg("%s: slope %.6g, measured %.6g, gradient %.3g", param->name, slope, measured,
                 size);
    free(start);
    free(direction);
}

static void check_gradients(const struct ds_model_config *config, uint64_t seed)
{
    struct model_run run;

    open_tiny(&run, config, seed);
    train(&run, RUN_TOGETHER, 0);
    for (uint32_t i = 0; i < run.model->param_count; i++)
        if (run.model->params[i].is_trainable)
            check_param(&run, &run.model->params[i], ds_random_of(seed, DS_RANDOM_TEST, 2000 + i));
    run_close(&run);
}

static void every_gradient_is_the_slope_of_the_loss(void **state)
{
    uint64_t seed = test_seed("every_gradient_is_the_slope_of_the_loss");
    struct ds_model_config llama = llama_config(), qwen3 = qwen3_config();

    (void)state;
    check_gradients(&llama, seed);
    llama.rope.kind = DS_ROPE_YARN; /* cos and sin carry a factor */
    llama.rope.factor = 4;
    check_gradients(&llama, seed + 1);
    check_gradients(&qwen3, seed + 2);
}

static float *copy_grads(const struct model_run *run, uint32_t unit)
{
    size_t bytes = run->model->units[unit].elems * sizeof(float);
    float *copy = malloc(bytes);

    memcpy(copy, run->grads[unit], bytes);
    return copy;
}

static void check_parts(const struct ds_model_config *config, uint64_t seed)
{
    struct model_run run;

    open_tiny(&run, config, seed);
    train(&run, RUN_TOGETHER, 0);
    for (uint32_t unit = 0; unit < run.model->unit_count; unit++) {
        float *together = copy_grads(&run, unit);

        train(&run, RUN_APART, 0);
        assert_memory_equal(together, run.grads[unit],
                            run.model->units[unit].elems * sizeof(float));
        free(together);
    }
    run_close(&run);
}

static void parts_one_by_one_are_the_parts_together_to_the_bit(void **state)
{
    uint64_t seed = test_seed("parts_one_by_one_are_the_parts_together_to_the_bit");
    struct ds_model_config llama = llama_config(), qwen3 = qwen3_config();

    (void)state;
    check_parts(&llama, seed);
    check_parts(&qwen3, seed);
}

static void check_added(const struct ds_model_config *config, uint64_t seed)
{
    struct model_run run;

    open_tiny(&run, config, seed);
    for (uint32_t unit = 0; unit < run.model->unit_count; unit++) {
        train(&run, RUN_TOGETHER, 0);
        float *once = copy_grads(&run, unit);

        train(&run, RUN_TOGETHER, 1);
        for (uint32_t i = 0; i < run.model->units[unit].param_count; i++) {
            const struct ds_param *param =
                &run.model->params[run.model->units[unit].param_start + i];
            const float *twice = run_grad(&run, param), *first = once + param->offset;
            double size = norm_of(first, param->elems);

            for (uint64_t j = 0; j < param->elems && param->is_trainable; j++)
                if (fabs((double)twice[j] - 2 * (double)first[j]) > 1e-5 * size)
                    fail_msg("%s: %g is not twice %g", param->name, (double)twice[j],
                             (double)first[j]);
        }
        free(once);
    }
    run_close(&run);
}

static void gradients_are_added_where_asked(void **state)
{
    uint64_t seed = test_seed("gradients_are_added_where_asked");
    struct ds_model_config llama = llama_config(), qwen3 = qwen3_config();

    (void)state;
    check_added(&llama, seed);
    check_added(&qwen3, seed);
}

/* What a backward writes where nothing is trained would be a gradient that nobody made room for. */
static void check_frozen(const struct ds_model_config *config, uint64_t seed)
{
    struct model_run run;

    open_tiny(&run, config, seed);
    train(&run, RUN_TOGETHER, 0);
    train(&run, RUN_APART, 0);
    for (uint32_t unit = 0; unit < run.model->unit_count; unit++) {
        const uint8_t *at = (const uint8_t *)run.grads[unit];

        for (uint64_t i = 0;
             i < run.model->units[unit].elems * sizeof(float) && run.model->units[unit].is_frozen;
             i++)
            assert_int_equal(at[i], 0xa5);
    }
    run_close(&run);
}

static void what_is_frozen_has_no_gradient(void **state)
{
    static const struct {
        const char *whole;
        enum ds_lora_bias bias;
    } rows[] = {{"", DS_LORA_BIAS_NONE},
                {"", DS_LORA_BIAS_ONLY},
                {"norm", DS_LORA_BIAS_ALL},
                {"embed_tokens,1.input_layernorm", DS_LORA_BIAS_NONE},
                {"lm_head,model.norm", DS_LORA_BIAS_ONLY},
                {"layers.0.input_layernorm", DS_LORA_BIAS_ALL},
                {"lm_head", DS_LORA_BIAS_NONE},
                {"embed_tokens,lm_head,norm", DS_LORA_BIAS_ONLY}};
    uint64_t seed = test_seed("what_is_frozen_has_no_gradient");
    const struct ds_model_config configs[] = {llama_config(), qwen3_config()};

    (void)state;
    for (uint64_t i = 0; i < 16; i++) {
        const struct ds_model_config *config = &configs[i % 2];
        struct ds_lora_settings *settings = &some_factors.settings;

        draw_factors(seed + i);
        settings->dropout = i < 2 ? 0 : 0.3;
        settings->bias = rows[i / 2].bias;
        settings->is_dora = i % 4 >= 2;
        snprintf(settings->whole, sizeof settings->whole, "%s", rows[i / 2].whole);
        adapter = &some_factors;
        check_gradients(config, seed + i);
        check_parts(config, seed + i);
        check_added(config, seed + i);
        check_frozen(config, seed + i);
        adapter = NULL;
    }
}

/* Without dropout a layer with lengths is one whose matrix has rows of these lengths. */
static void lengths_are_those_of_the_rows(void **state)
{
    uint64_t seed = test_seed("lengths_are_those_of_the_rows");
    const struct ds_model_config configs[] = {llama_config(), qwen3_config()};

    (void)state;
    for (uint64_t i = 0; i < 4; i++) {
        struct model_run adapted, plain;
        double lengths[ROWS_MAX];

        draw_factors(seed + i);
        some_factors.settings = (struct ds_lora_settings){.r = 2, .alpha = 2, .is_dora = 1};
        adapter = &some_factors;
        open_tiny(&adapted, &configs[i % 2], seed + i);
        adapter = NULL;
        open_tiny(&plain, &configs[i % 2], seed + i);
        for (uint32_t p = 0; p < adapted.model->param_count; p++)
            if (!adapted.model->params[p].is_factor)
                memcpy(
                    run_weight(&plain, ds_model_find(plain.model, adapted.model->params[p].name)),
                    run_weight(&adapted, &adapted.model->params[p]),
                    adapted.model->params[p].elems * sizeof(float));
        for (uint64_t index = 0; index < 2 * DS_LINEAR_COUNT; index++) {
            const struct ds_lora_factors *f = &adapted.model->factors[index];
            const struct ds_param *matrix = matrix_of(&plain, index);
            if (f->module.rank == 0)
                continue;
            measure(&adapted, index, lengths);
            for (uint64_t k = 0; k < matrix->elems; k++) {
                const uint64_t row = k / matrix->shape[1], column = k % matrix->shape[1];
                const float m = run_weight(&adapted, &adapted.model->params[f->m])[row];
                run_weight(&plain, matrix)[k] =
                    (float)((double)m / lengths[row] * sum_at(&adapted, index, row, column));
            }
        }
        const double want = run_loss(&plain, 0, 0), got = run_loss(&adapted, 0, 0);
        if (!(fabs(got - want) <= 3e-6 * want))
            fail_msg("loss %.9g, of the matrices themselves %.9g", got, want);
        run_close(&adapted);
        run_close(&plain);
    }
}

/* Rows that have the lengths that they are told to have are those of factors alone, dropout or not. */
static void own_lengths_change_nothing(void **state)
{
    uint64_t seed = test_seed("own_lengths_change_nothing");
    const struct ds_model_config configs[] = {llama_config(), qwen3_config()};

    (void)state;
    for (uint64_t i = 0; i < 4; i++) {
        struct model_run dora, lora;
        double lengths[ROWS_MAX];

        draw_factors(seed + i);
        some_factors.settings =
            (struct ds_lora_settings){.r = 2, .alpha = 2, .dropout = i < 2 ? 0 : 0.4};
        adapter = &some_factors;
        open_tiny(&lora, &configs[i % 2], seed + i);
        some_factors.settings.is_dora = 1;
        open_tiny(&dora, &configs[i % 2], seed + i);
        adapter = NULL;
        for (uint32_t p = 0; p < lora.model->param_count; p++)
            memcpy(run_weight(&dora, ds_model_find(dora.model, lora.model->params[p].name)),
                   run_weight(&lora, &lora.model->params[p]),
                   lora.model->params[p].elems * sizeof(float));
        for (uint64_t index = 0; index < 2 * DS_LINEAR_COUNT; index++) {
            const struct ds_lora_factors *f = &dora.model->factors[index];
            if (f->module.rank == 0)
                continue;
            const struct ds_param *m = &dora.model->params[f->m];
            measure(&dora, index, lengths);
            for (uint64_t row = 0; row < m->elems; row++)
                run_weight(&dora, m)[row] = (float)lengths[row];
        }
        const double want = run_loss(&lora, 0, 0), got = run_loss(&dora, 0, 0);
        if (!(fabs(got - want) <= 3e-6 * want))
            fail_msg("loss %.9g, of factors alone %.9g", got, want);
        run_close(&lora);
        run_close(&dora);
    }
}

static const float *row_of(const struct model_run *run, const char *name, uint64_t row)
{
    return run_grad(run, ds_model_find(run->model, name)) + row * run->model->config.hidden_size;
}

/* The loss's way back to the row of padding ends before the look-up, as in transformers (padding_idx): of a
 * table that the head shares, that row gets the head's part alone. */
static void the_look_up_gives_no_gradient_to_padding(void **state)
{
    const uint64_t seed = test_seed("the_look_up_gives_no_gradient_to_padding");
    struct ds_model_config config = llama_config();
    struct model_run apart, tied;

    (void)state;
    open_tiny(&apart, &config, seed);
    config.tie_word_embeddings = 1;
    open_tiny(&tied, &config, seed);
    memcpy(run_weight(&apart, ds_model_find(apart.model, "lm_head.weight")),
           run_weight(&apart, ds_model_find(apart.model, "model.embed_tokens.weight")),
           config.vocab_size * config.hidden_size * sizeof(float));
    apart.model->config.pad_token_id = tied.model->config.pad_token_id = apart.ids[2];
    train(&apart, RUN_TOGETHER, 0);
    train(&tied, RUN_TOGETHER, 0);
    for (uint64_t row = 0; row < config.vocab_size; row++) {
        const float *look_up = row_of(&apart, "model.embed_tokens.weight", row);
        const float *head = row_of(&apart, "lm_head.weight", row);
        const float *both = row_of(&tied, "model.embed_tokens.weight", row);

        if (row == (uint64_t)apart.ids[2]) {
            assert_true(norm_of(look_up, config.hidden_size) == 0);
            assert_memory_equal(both, head, config.hidden_size * sizeof(float));
        } else {
            for (uint64_t i = 0; i < config.hidden_size; i++)
                assert_true(fabsf(both[i] - look_up[i] - head[i]) <= 1e-5f);
        }
    }
    run_close(&apart);
    run_close(&tied);
}

static void fill_padding(struct model_run *run, float value, int is_check)
{
    for (uint32_t u = 0; u < run->model->unit_count; u++) {
        const struct ds_unit *unit = &run->model->units[u];
        uint64_t end = 0;

        for (uint32_t i = 0; i < unit->param_count; i++) {
            const struct ds_param *param = &run->model->params[unit->param_start + i];

            for (uint64_t j = end; j < param->offset; j++) {
                if (is_check)
                    assert_true(run->grads[u][j] == value);
                run->grads[u][j] = run->weights[u][j] = value;
            }
            end = param->offset + param->elems;
        }
    }
}

static void padding_between_parameters_is_neither_read_nor_written(void **state)
{
    struct ds_model_config llama = llama_config();
    struct model_run run;

    (void)state;
    open_tiny(&run, &llama, 3);
    fill_padding(&run, 0, 0);
    double loss = run_loss(&run, 1, 0);
    fill_padding(&run, 1e30f, 0);
    assert_true(run_loss(&run, 1, 0) == loss);
    run_backward(&run, RUN_TOGETHER, 0);
    fill_padding(&run, 1e30f, 1);
    run_close(&run);
}

static void evaluation_leaves_gradients_alone(void **state)
{
    struct ds_model_config qwen3 = qwen3_config();
    struct model_run run;

    (void)state;
    open_tiny(&run, &qwen3, 4);
    train(&run, RUN_TOGETHER, 0);
    double trained = run.record.loss_sum;
    float *head = copy_grads(&run, run.model->unit_count - 1), *table = copy_grads(&run, 0);
    run_loss(&run, 0, 0);
    assert_true(run.record.loss_sum == trained);
    assert_memory_equal(head, run.grads[run.model->unit_count - 1], 18 * sizeof(float));
    assert_memory_equal(table, run.grads[0], 11 * 18 * sizeof(float));
    free(head);
    free(table);
    run_close(&run);
}

/* 40,000 rows: a chunk of logits holds 64 tokens, three sequences of 50 need three chunks. */
static struct ds_model_config wide_config(void)
{
    struct ds_model_config c = qwen3_config();

    c.vocab_size = 40000;
    c.hidden_size = 8;
    c.num_hidden_layers = 1;
    return c;
}

/* The same sequences one at a time, loss and gradients added up: every chunk is whole. */
static double train_one_by_one(const struct model_run *all, struct model_run *one)
{
    double sum = 0;

    for (uint64_t s = 0; s < 3; s++) {
        memcpy(one->ids, all->ids + 50 * s, 50 * sizeof *one->ids);
        memcpy(one->targets, all->targets + 50 * s, 50 * sizeof *one->targets);
        memcpy(one->positions, all->positions + 50 * s, 50 * sizeof *one->positions);
        memcpy(one->documents, all->documents + 50 * s, 50 * sizeof *one->documents);
        one->record = all->record;
        train(one, RUN_TOGETHER, s > 0);
        sum += one->record.loss_sum;
    }
    return sum;
}

static void chunks_of_logits_change_nothing(void **state)
{
    struct ds_model_config wide = wide_config();
    struct model_run all, one;

    (void)state;
    run_open(&all, &wide, 150, 50);
    fill_weights(&all, 5);
    fill_batch(&all, 5);
    train(&all, RUN_TOGETHER, 0);
    run_open(&one, &wide, 50, 50);
    fill_weights(&one, 5);
    double sum = train_one_by_one(&all, &one);

    assert_true(fabs(sum / all.record.loss_sum - 1) < 1e-9);
    for (uint32_t i = 0; i < all.model->param_count; i++) {
        const struct ds_param *param = &all.model->params[i];
        const float *a = run_grad(&all, param), *b = run_grad(&one, param);
        double size = norm_of(a, param->elems);

        for (uint64_t j = 0; j < param->elems; j++)
            if (fabs((double)a[j] - (double)b[j]) > 1e-5 * size)
                fail_msg("%s: %g and %g", param->name, (double)a[j], (double)b[j]);
    }
    run_close(&all);
    run_close(&one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gradient_is_the_slope_of_the_loss),
        cmocka_unit_test(parts_one_by_one_are_the_parts_together_to_the_bit),
        cmocka_unit_test(gradients_are_added_where_asked),
        cmocka_unit_test(what_is_frozen_has_no_gradient),
        cmocka_unit_test(lengths_are_those_of_the_rows),
        cmocka_unit_test(own_lengths_change_nothing),
        cmocka_unit_test(the_look_up_gives_no_gradient_to_padding),
        cmocka_unit_test(padding_between_parameters_is_neither_read_nor_written),
        cmocka_unit_test(evaluation_leaves_gradients_alone),
        cmocka_unit_test(chunks_of_logits_change_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
