/* test_model_blocks.c - gradients against finite differences on tiny models of odd shapes, and the
 * promises of a backward: in parts, again, added up, and nothing outside the parameters. */
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
    run_open(run, config, TOKENS, SEQ);
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

static double loss_along(struct model_run *run, const struct ds_param *param, const float *start,
                         const float *direction, double step)
{
    float *at = run_weight(run, param);

    for (uint64_t i = 0; i < param->elems; i++)
        at[i] = (float)((double)start[i] + step * (double)direction[i]);
    double loss = run_loss(run, 0, 0);
    memcpy(at, start, param->elems * sizeof(float));
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

            for (uint64_t j = 0; j < param->elems; j++)
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
        cmocka_unit_test(the_look_up_gives_no_gradient_to_padding),
        cmocka_unit_test(padding_between_parameters_is_neither_read_nor_written),
        cmocka_unit_test(evaluation_leaves_gradients_alone),
        cmocka_unit_test(chunks_of_logits_change_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
