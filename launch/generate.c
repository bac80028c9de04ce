/* generate.c - `dstrain generate MODEL --prompt TEXT`: a few tokens, to see what was learned. One process;
 * the whole sequence goes through the model again for each token. */
#include "command.h"
#include "run_dir.h"

#include "dstrain/hf.h"
#include "dstrain/random.h"
#include "dstrain/trainer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct generate {
    char folder[DS_RUN_PATH_BYTES]; /* of the model: `model`, or its export if that is a run */
    const char *model, *prompt;
    uint64_t token_count, seed, top_k;
    double temperature;
};

/* ---- the command line */

struct generate_option {
    const char *name, *meaning;
    size_t offset;
    double min, max;
    int kind; /* 0: text, 1: count, 2: real */
};
#define OPTION(name, field, kind, min, max, meaning)                    \
    {                                                                   \
        name, meaning, offsetof(struct generate, field), min, max, kind \
    }
static const struct generate_option generate_options[] = {
    OPTION("--prompt", prompt, 0, 0, 0, "text to go on from"),
    OPTION("--tokens", token_count, 1, 1, 1e6, "how many tokens to make"),
    OPTION("--temperature", temperature, 2, 0, 100, "0 takes the likeliest token"),
    OPTION("--top-k", top_k, 1, 0, 1e6, "draw from the k likeliest; 0: from all"),
    OPTION("--seed", seed, 1, 0, 1e18, "of the draw"),
};

static ds_status set_option(struct generate *g, const struct generate_option *option,
                            const char *text)
{
    char *at = (char *)g + option->offset, *end;

    if (option->kind == 0) {
        memcpy(at, &text, sizeof text);
        return DS_OK;
    }
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !(value >= option->min && value <= option->max) ||
        (option->kind == 1 && value != floor(value)))
        return ds_fail(DS_ERR_CONFIG, "%s = '%s' must be a %s in %g..%g (%s)", option->name, text,
                       option->kind == 1 ? "whole number" : "number", option->min, option->max,
                       option->meaning);
    uint64_t count = (uint64_t)value;
    memcpy(at, option->kind == 1 ? (void *)&count : (void *)&value, sizeof value);
    return DS_OK;
}

static const struct generate_option *find_option(const char *name)
{
    for (size_t i = 0; i < sizeof generate_options / sizeof *generate_options; i++)
        if (strcmp(generate_options[i].name, name) == 0)
            return &generate_options[i];
    return NULL;
}

static ds_status check_arguments(const struct generate *g)
{
    if (!g->model)
        return ds_command_usage("generate");
    if (!g->prompt)
        return ds_fail(DS_ERR_CONFIG, "--prompt is missing (text to go on from, may be '')");
    return DS_OK;
}

static ds_status read_arguments(const struct ds_command *command, struct generate *g)
{
    uint32_t given = 0; /* bits by index of generate_options */

    *g = (struct generate){.token_count = 100, .seed = 1, .temperature = 0.8};
    for (int i = 0; i < command->argc; i++) {
        const struct generate_option *option = find_option(command->argv[i]);
        if (!option && (command->argv[i][0] == '-' || g->model))
            return ds_command_usage("generate");
        if (!option) {
            g->model = command->argv[i];
            continue;
        }
        if (++i == command->argc)
            return ds_fail(DS_ERR_CONFIG, "%s: a value is missing (%s)", option->name,
                           option->meaning);
        const uint32_t bit = 1u << (option - generate_options);
        if (given & bit)
            return ds_fail(DS_ERR_CONFIG, "%s is given twice", option->name);
        given |= bit;
        DS_TRY(set_option(g, option, command->argv[i]));
    }
    return check_arguments(g);
}

/* ---- drawing a token */

struct choice {
    float logit;
    int32_t id;
};

static int by_logit(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int32_t draw(const struct generate *g, struct choice *choices, const float *logits,
                    uint64_t vocab, uint64_t position)
{
    const struct ds_random random = ds_random_of(g->seed, DS_RANDOM_SAMPLE, 0);
    uint64_t count = g->top_k && g->top_k < vocab ? g->top_k : vocab;
    double sum = 0, at;

    for (uint64_t i = 0; i < vocab; i++)
        choices[i] = (struct choice){logits[i], (int32_t)i};
    qsort(choices, vocab, sizeof *choices, by_logit);
    if (g->temperature == 0)
        return choices[0].id;
    for (uint64_t i = 0; i < count; i++)
        sum += exp((choices[i].logit - choices[0].logit) / g->temperature);
    at = ds_random_unit(random, position) * sum;
    for (uint64_t i = 0; i < count; i++) {
        at -= exp((choices[i].logit - choices[0].logit) / g->temperature);
        if (at < 0)
            return choices[i].id;
    }
    return choices[0].id;
}

/* ---- going on from the prompt */

struct sequence {
    int32_t *tokens;
    uint64_t count, capacity;
};

/* The last `capacity` tokens are what the model sees. */
static ds_status next_token(struct ds_trainer *trainer, const struct sequence *s, float *logits)
{
    const uint64_t seen = s->count < s->capacity ? s->count : s->capacity;

    return ds_trainer_predict(trainer, s->tokens + s->count - seen, seen, logits);
}

static ds_status go_on(const struct generate *g, struct ds_trainer *trainer, struct sequence *s)
{
    const uint64_t vocab = ds_trainer_model(trainer)->config.vocab_size;
    float *logits = malloc(vocab * sizeof *logits);
    struct choice *choices = malloc(vocab * sizeof *choices);
    ds_status st = logits && choices
                       ? DS_OK
                       : ds_fail(DS_ERR_NO_MEMORY, "%llu logits", (unsigned long long)vocab);

    for (uint64_t i = 0; i < g->token_count && st == DS_OK; i++) {
        st = next_token(trainer, s, logits);
        if (st != DS_OK)
            break;
        int32_t id =
            draw(g, choices, logits, DS_BYTE_VOCAB, s->count); /* rows above mean nothing */
        if (id >= DS_BYTE_BOS)
            break; /* the document ends */
        s->tokens[s->count++] = id;
        putchar(id);
        fflush(stdout);
    }
    putchar('\n');
    free(logits);
    free(choices);
    return st;
}

static void make_config(const struct generate *g, const struct ds_model_config *model,
                        struct ds_config *config)
{
    uint64_t length = strlen(g->prompt) + 1 + g->token_count;

    ds_config_preset(config);
    snprintf(config->model.path, sizeof config->model.path, "%.*s", DS_TEXT_MAX - 1, g->folder);
    config->train.seq_length =
        length < model->max_position_embeddings ? length : model->max_position_embeddings;
    config->train.global_batch_size = config->train.micro_batch_size = 1;
    config->train.steps = 1;
    ds_config_resolve(config, 1);
}

static void warn_of_length(const struct generate *g, const struct ds_model_config *model)
{
    const uint64_t length = strlen(g->prompt) + 1; /* behind bos */

    if (length > model->max_position_embeddings)
        ds_warn("--prompt has %llu tokens with its begin, the model sees the last %llu alone "
                "(max_position_embeddings)",
                (unsigned long long)length, (unsigned long long)model->max_position_embeddings);
}

static int has_config(struct ds_fs *fs, const char *folder)
{
    char path[DS_RUN_PATH_BYTES + 16];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/config.json", folder);
    return ds_fs_stat(fs, path, &stat) == 0;
}

static void find_folder(struct ds_fs *fs, struct generate *g)
{
    snprintf(g->folder, sizeof g->folder, "%s/export", g->model);
    if (has_config(fs, g->model) || !has_config(fs, g->folder))
        snprintf(g->folder, sizeof g->folder, "%s", g->model);
}

/* The files decide: a vocabulary may be of any size for its own reasons. */
static ds_status check_tokenizer(struct ds_fs *fs, const struct generate *g,
                                 const struct ds_model_config *model)
{
    enum ds_hf_tokenizer tokenizer;

    DS_TRY(ds_hf_which_tokenizer(fs, g->folder, &tokenizer));
    if (tokenizer == DS_HF_TOKENIZER_NONE)
        return ds_fail(DS_ERR_UNSUPPORTED,
                       "%s: tokenizer.json is missing: nothing there says which tokens a text has",
                       g->folder);
    if (tokenizer != DS_HF_TOKENIZER_BYTES)
        return ds_fail(
            DS_ERR_UNSUPPORTED,
            "%s: its tokenizer is another one than the byte tokenizer, which is the only "
            "one so far",
            g->folder);
    if (model->vocab_size < DS_BYTE_VOCAB)
        return ds_fail(DS_ERR_DATA, "%s: vocab_size is %llu, but the byte tokenizer has %d ids",
                       g->folder, (unsigned long long)model->vocab_size, DS_BYTE_VOCAB);
    return DS_OK;
}

static ds_status run(struct ds_command *command, const struct generate *g, struct ds_config *config,
                     struct sequence *s)
{
    const struct ds_trainer_options options = {.config = config,
                                               .mode = DS_TRAINER_GENERATE,
                                               .world = command->world,
                                               .fs = command->fs,
                                               .clock = command->clock,
                                               .thread_count = command->thread_count};
    struct ds_model_config model;
    struct ds_trainer *trainer = NULL;
    ds_status st;

    DS_TRY(ds_hf_read_config(command->fs, g->folder, &model));
    DS_TRY(check_tokenizer(command->fs, g, &model));
    warn_of_length(g, &model);
    make_config(g, &model, config);
    s->capacity = config->train.seq_length;
    DS_TRY(ds_trainer_open(&options, &trainer));
    fputs(g->prompt, stdout);
    st = go_on(g, trainer, s);
    ds_trainer_close(trainer);
    return st;
}

ds_status ds_generate_main(struct ds_command *command)
{
    struct ds_config *config = malloc(sizeof *config);
    struct sequence s = {0};
    struct generate g;
    ds_status st = read_arguments(command, &g);

    if (st == DS_OK) {
        s.tokens = malloc((strlen(g.prompt) + 1 + g.token_count) * sizeof *s.tokens);
        if (!config || !s.tokens)
            st = ds_fail(DS_ERR_NO_MEMORY, "a sequence");
    }
    if (st == DS_OK) {
        find_folder(command->fs, &g);
        s.tokens[s.count++] = DS_BYTE_BOS;
        for (const char *c = g.prompt; *c; c++)
            s.tokens[s.count++] = (unsigned char)*c;
        st = run(command, &g, config, &s);
    }
    free(s.tokens);
    free(config);
    return st;
}
