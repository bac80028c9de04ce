/* config_candidates.c - the values that a key may have instead of its own, the nearest first. What other keys
 * leave of them narrows the search and no more: whether one is possible, the rules are asked. */
#include "config_rules.h"
#include "inject_text.h"
#include "trace_text.h"

#include <string.h>

/* ---- what other keys leave of a count */

typedef void narrow(const struct ds_rule_check *check, struct ds_candidates *c);

static uint64_t at_least_one(uint64_t count)
{
    return count > 0 ? count : 1;
}

static void divides_ranks(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->divides = check->rank_count;
}

static void divides_ranks_and_heads(const struct ds_rule_check *check, struct ds_candidates *c)
{
    const uint64_t heads = ds_rule_model(check).num_attention_heads;

    divides_ranks(check, c);
    if (heads > 0)
        c->most = heads;
}

static void divides_ranks_and_has_blocks(const struct ds_rule_check *check, struct ds_candidates *c)
{
    const uint64_t layers = ds_rule_model(check).num_hidden_layers;

    divides_ranks(check, c);
    if (layers > 0)
        c->most = layers + 2;
}

static void chunk_has_a_block(const struct ds_rule_check *check, struct ds_candidates *c)
{
    const uint64_t layers = ds_rule_model(check).num_hidden_layers;

    if (layers > 0)
        c->most = at_least_one((layers + 2) / check->config->parallel.pipeline);
}

static void divides_data(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->divides = check->config->parallel.data;
}

static void whole_micro_batches(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->step = check->config->train.micro_batch_size * at_least_one(check->config->parallel.data);
}

static void divides_batch(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->divides = check->config->train.global_batch_size;
}

static void within_positions(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->most = at_least_one(ds_rule_model(check).max_position_embeddings);
}

static void at_least_sequence(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->least = check->config->train.seq_length;
}

static void is_even(const struct ds_rule_check *check, struct ds_candidates *c)
{
    (void)check;
    c->step = 2;
}

/* Half of the heads' dims are turned: pairs, where the width decides what a head has. */
static void shared_by_heads(const struct ds_rule_check *check, struct ds_candidates *c)
{
    const int decides = ds_config_was_auto(check->config, "model", "head_dim") &&
                        check->config->model.family != DS_FAMILY_QWEN3;
    const uint64_t heads = at_least_one(check->config->model.num_attention_heads);

    c->step = decides ? 2 * heads : heads;
    if (decides)
        c->most = heads * DS_MODEL_HEAD_DIM_MAX;
}

static void divides_heads(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->divides = check->config->model.num_attention_heads;
}

static void at_least_the_tokenizer(const struct ds_rule_check *check, struct ds_candidates *c)
{
    if (ds_config_has_byte_text(check->config))
        c->least = DS_BYTE_VOCAB;
}

static void only_with_data(const struct ds_rule_check *check, struct ds_candidates *c)
{
    if (!ds_config_has_eval(check->config))
        c->most = 0;
}

static void only_what_is_saved(const struct ds_rule_check *check, struct ds_candidates *c)
{
    const uint64_t interval = check->config->checkpoint.interval;

    c->step = at_least_one(interval);
    if (interval == 0)
        c->most = 0;
}

static void only_where_saved(const struct ds_rule_check *check, struct ds_candidates *c)
{
    if (check->config->checkpoint.interval == 0)
        c->most = 0;
}

static void within_steps(const struct ds_rule_check *check, struct ds_candidates *c)
{
    c->most = check->config->train.steps;
}

static void within_micro_batches(const struct ds_rule_check *check, struct ds_candidates *c)
{
    const struct ds_config *config = check->config;
    const uint64_t at_once = config->train.micro_batch_size * config->parallel.data;

    if (at_once > 0)
        c->most = at_least_one(config->train.global_batch_size / at_once);
}

static const struct {
    const char *section, *key;
    narrow *narrow;
} narrows[] = {{"parallel", "data", divides_ranks},
               {"parallel", "tensor", divides_ranks_and_heads},
               {"parallel", "pipeline", divides_ranks_and_has_blocks},
               {"parallel", "chunks", chunk_has_a_block},
               {"parallel", "shard", divides_data},
               {"train", "global_batch_size", whole_micro_batches},
               {"train", "micro_batch_size", divides_batch},
               {"train", "seq_length", within_positions},
               {"train", "eval_interval", only_with_data},
               {"train", "eval_samples", only_with_data},
               {"model", "max_position_embeddings", at_least_sequence},
               {"model", "head_dim", is_even},
               {"model", "hidden_size", shared_by_heads},
               {"model", "num_key_value_heads", divides_heads},
               {"model", "vocab_size", at_least_the_tokenizer},
               {"schedule", "warmup_steps", within_steps},
               {"schedule", "decay_steps", within_steps},
               {"checkpoint", "export", only_what_is_saved},
               {"checkpoint", "keep_every", only_where_saved},
               {"zero", "window", within_micro_batches}};

/* ---- counts: multiples of `step` on both sides of what is wanted */

static uint64_t *count_at(const struct ds_field *field, struct ds_config *config)
{
    return (uint64_t *)(void *)((char *)config + field->offset);
}

static int is_count(const struct ds_field *field)
{
    return field->kind == DS_FIELD_COUNT || field->kind == DS_FIELD_AUTO;
}

enum { NONE_BELOW = 0 };
#define NONE_ABOVE UINT64_MAX

/* `below` is one more than the value, so that 0 is none. */
static void open_counts(struct ds_candidates *c)
{
    const uint64_t from = c->wanted < c->most ? c->wanted : c->most;
    const uint64_t floor = from / c->step * c->step;
    const uint64_t more = floor + c->step, least = (c->least + c->step - 1) / c->step * c->step;
    const uint64_t above = more > least ? more : least;

    c->below = floor >= c->least ? floor + 1 : NONE_BELOW;
    c->above = above <= c->most ? above : NONE_ABOVE;
}

static uint64_t take_count(struct ds_candidates *c)
{
    const uint64_t low = c->below - 1, high = c->above;
    const int is_low =
        c->above == NONE_ABOVE ||
        (c->below != NONE_BELOW && (low >= c->wanted || c->wanted - low <= high - c->wanted));

    if (is_low) {
        c->below = low >= c->step && low - c->step >= c->least ? low - c->step + 1 : NONE_BELOW;
        return low;
    }
    c->above = c->most - high >= c->step ? high + c->step : NONE_ABOVE;
    return high;
}

static int next_count(struct ds_candidates *c, struct ds_config *config)
{
    while (c->below != NONE_BELOW || c->above != NONE_ABOVE) {
        const uint64_t value = take_count(c);

        if (value == c->wanted || (c->divides > 0 && (value == 0 || c->divides % value != 0)))
            continue;
        *count_at(c->field, config) = value;
        return 1;
    }
    return 0;
}

/* ---- choices: the preset, then the others as the table has them */

static const char *choice_name(const struct ds_field *field, int index)
{
    static const struct ds_choice bools[] = {{"false", 0}, {"true", 1}, {NULL, 0}};
    const struct ds_choice *choices = field->kind == DS_FIELD_BOOL ? bools : field->choices;

    return index == 0 ? field->preset : choices[index - 1].name;
}

static int next_choice(struct ds_candidates *c, struct ds_config *config)
{
    for (const char *name; (name = choice_name(c->field, c->given)); c->given++) {
        const int is_preset = strcmp(name, c->field->preset) == 0;

        if (strcmp(name, c->text) == 0 || (is_preset && c->given > 0))
            continue;
        if (ds_field_parse(c->field, "advice", name, config) != DS_OK)
            DS_ASSERT(!"a choice is a legal value");
        c->given++;
        return 1;
    }
    return 0;
}

/* ---- the rest: one value each, which another key or the launch decides */

static int name_last_step(struct ds_config *config)
{
    const unsigned long long steps = config->train.steps;

    snprintf(config->log.trace, sizeof config->log.trace, "%llu..%llu", steps, steps);
    return 1;
}

/* The last rank there is, the first step in which something is computed. */
static int name_last_rank(const struct ds_candidates *c, struct ds_config *config)
{
    const int kind = (int)strcspn(c->text, ":");
    struct ds_inject inject;

    if (!ds_inject_parse(c->text, &inject) || inject.rank == DS_INJECT_ALL)
        return 0;
    if (c->rank_count > 0 && inject.rank >= c->rank_count)
        inject.rank = c->rank_count - 1;
    if (inject.kind == DS_INJECT_NAN && inject.step == 0)
        inject.step = 1;
    snprintf(config->debug.inject, sizeof config->debug.inject, "%.*s:%" PRIu64 ":%" PRIu64, kind,
             c->text, inject.rank, inject.step);
    return 1;
}

static int next_value(struct ds_candidates *c, struct ds_config *config)
{
    if (c->given++ > 0)
        return 0;
    if (strcmp(c->field->key, "trace") == 0)
        return name_last_step(config);
    if (strcmp(c->field->key, "inject") == 0)
        return name_last_rank(c, config);
    DS_ASSERT(strcmp(c->field->key, "min_learning_rate") == 0);
    config->schedule.min_learning_rate =
        config->schedule.kind == DS_LR_CONSTANT ? 0 : config->optimizer.learning_rate;
    return 1;
}

/* ---- any */

void ds_candidates_open(const struct ds_rule_check *check, const struct ds_field *field,
                        struct ds_candidates *out)
{
    *out = (struct ds_candidates){.field = field, .rank_count = check->rank_count, .step = 1};
    if (!is_count(field)) {
        ds_field_print(field, check->config, out->text, sizeof out->text);
        return;
    }
    out->wanted = *(const uint64_t *)(const void *)((const char *)check->config + field->offset);
    out->least = (uint64_t)field->min;
    out->most = (uint64_t)field->max;
    for (size_t i = 0; i < sizeof narrows / sizeof *narrows; i++)
        if (strcmp(narrows[i].section, field->section) == 0 &&
            strcmp(narrows[i].key, field->key) == 0)
            narrows[i].narrow(check, out);
    if (out->most > (uint64_t)field->max)
        out->most = (uint64_t)field->max;
    open_counts(out);
}

int ds_candidates_next(struct ds_candidates *candidates, struct ds_config *config)
{
    if (is_count(candidates->field))
        return next_count(candidates, config);
    return candidates->field->choices || candidates->field->kind == DS_FIELD_BOOL
               ? next_choice(candidates, config)
               : next_value(candidates, config);
}
