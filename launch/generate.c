/* generate.c - `dstrain generate MODEL --prompt TEXT`: a few tokens, to see what was learned. One process;
 * the whole sequence goes through the model again for each token. */
#include "command.h"
#include "run_dir.h"

#include "dstrain/hf.h"
#include "dstrain/random.h"
#include "dstrain/tokenizer.h"
#include "dstrain/trainer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct generate {
    char folder[DS_RUN_PATH_BYTES]; /* of the model: `model`, or its export if that is a run */
    char adapter
        [DS_RUN_PATH_BYTES]; /* or that is an adapter, and `folder` what it is for; "": it is none */
    const char *model, *prompt, *base; /* base NULL: as the adapter says */
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
    OPTION("--base", base, 0, 0, 0, "folder of the model that an adapter is for"),
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

static int32_t draw(const struct generate *g, struct choice *choices, uint64_t choice_count,
                    uint64_t position)
{
    const struct ds_random random = ds_random_of(g->seed, DS_RANDOM_SAMPLE, 0);
    uint64_t count = g->top_k && g->top_k < choice_count ? g->top_k : choice_count;
    double sum = 0, at;

    qsort(choices, choice_count, sizeof *choices, by_logit);
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
    /* owns */
    struct ds_tokenizer *tokenizer;
    struct ds_token_list tokens;
    char *text; /* what they say */
    size_t text_bytes;
    /* plain values */
    uint64_t seen_max; /* tokens that the model sees */
};

static void sequence_fini(struct sequence *s)
{
    ds_tokenizer_close(s->tokenizer);
    ds_token_list_fini(&s->tokens);
    free(s->text);
}

/* The last `seen_max` tokens are what the model sees. */
static ds_status next_token(struct ds_trainer *trainer, const struct sequence *s, float *logits)
{
    const uint64_t count = s->tokens.count, seen = count < s->seen_max ? count : s->seen_max;

    return ds_trainer_predict(trainer, (const int32_t *)s->tokens.ids + count - seen, seen, logits);
}

/* Rows of the model that are no token mean nothing. */
static uint64_t list_choices(const struct sequence *s, const float *logits, uint64_t rows,
                             struct choice *choices)
{
    const uint64_t end = ds_tokenizer_id_end(s->tokenizer);
    uint64_t count = 0;

    for (uint64_t id = 0; id < rows && id < end; id++)
        if (ds_tokenizer_token(s->tokenizer, (uint32_t)id))
            choices[count++] = (struct choice){logits[id], (int32_t)id};
    return count;
}

/* The document ends: the tokenizer or the model has this for it. */
static int is_end(const struct ds_model *model, const struct sequence *s, int32_t id)
{
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(s->tokenizer);
    const struct ds_model_config *config = &model->config;

    return (marks.has_bos && id == (int32_t)marks.bos) ||
           (marks.has_eos && id == (int32_t)marks.eos) ||
           (marks.has_pad && id == (int32_t)marks.pad) || id == config->bos_token_id ||
           id == config->eos_token_id || id == config->pad_token_id;
}

/* What the tokens say now, behind what they said before. */
static ds_status tell(struct sequence *s, int is_shown)
{
    char *text;
    size_t bytes;

    DS_TRY(ds_tokenizer_decode(s->tokenizer, s->tokens.ids, s->tokens.count, DS_DECODE_SKIP_SPECIAL,
                               &text, &bytes));
    if (is_shown && bytes > s->text_bytes)
        fwrite(text + s->text_bytes, 1, bytes - s->text_bytes, stdout);
    free(s->text);
    s->text = text;
    s->text_bytes = bytes;
    fflush(stdout);
    return DS_OK;
}

static ds_status go_on(const struct generate *g, struct ds_trainer *trainer, struct sequence *s)
{
    const struct ds_model *model = ds_trainer_model(trainer);
    const uint64_t rows = model->config.vocab_size;
    float *logits = malloc(rows * sizeof *logits);
    struct choice *choices = malloc(rows * sizeof *choices);
    ds_status st = logits && choices
                       ? tell(s, 0)
                       : ds_fail(DS_ERR_NO_MEMORY, "%llu logits", (unsigned long long)rows);

    for (uint64_t i = 0; i < g->token_count && st == DS_OK; i++) {
        st = next_token(trainer, s, logits);
        if (st != DS_OK)
            break;
        const uint64_t count = list_choices(s, logits, rows, choices);
        const int32_t id = draw(g, choices, count, s->tokens.count);
        if (is_end(model, s, id))
            break;
        st = ds_token_list_add(&s->tokens, (uint32_t)id);
        if (st == DS_OK)
            st = tell(s, 1);
    }
    putchar('\n');
    free(logits);
    free(choices);
    return st;
}

static void make_config(const struct generate *g, const struct ds_model_config *model,
                        const struct sequence *s, struct ds_config *config)
{
    const uint64_t length = s->tokens.count + g->token_count;

    ds_config_preset(config);
    snprintf(config->model.path, sizeof config->model.path, "%.*s", DS_TEXT_MAX - 1, g->folder);
    snprintf(config->lora.adapter, sizeof config->lora.adapter, "%.*s", DS_TEXT_MAX - 1,
             g->adapter);
    config->train.seq_length =
        length < model->max_position_embeddings ? length : model->max_position_embeddings;
    config->train.global_batch_size = config->train.micro_batch_size = 1;
    config->train.steps = 1;
    ds_config_resolve(config, 1);
}

static void warn_of_length(const struct sequence *s, const struct ds_model_config *model)
{
    const uint64_t length = s->tokens.count;

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

static int is_model(struct ds_fs *fs, const char *folder)
{
    return has_config(fs, folder) || ds_hf_is_adapter(fs, folder);
}

static ds_status find_folder(struct ds_fs *fs, struct generate *g)
{
    snprintf(g->folder, sizeof g->folder, "%s/export", g->model);
    if (is_model(fs, g->model) || !is_model(fs, g->folder))
        snprintf(g->folder, sizeof g->folder, "%s", g->model);
    g->adapter[0] = '\0';
    if (has_config(fs, g->folder) || !ds_hf_is_adapter(fs, g->folder))
        return g->base ? ds_fail(DS_ERR_CONFIG,
                                 "--base is the model that an adapter is for, and %s is none",
                                 g->folder)
                       : DS_OK;
    memcpy(g->adapter, g->folder, sizeof g->adapter);
    if (g->base && (size_t)snprintf(g->folder, sizeof g->folder, "%s", g->base) >= sizeof g->folder)
        return ds_fail(DS_ERR_CONFIG, "--base: the path is too long");
    return g->base ? DS_OK : ds_hf_adapter_base(fs, g->adapter, g->folder, sizeof g->folder);
}

/* The files decide: a vocabulary may be of any size for its own reasons. An export of the byte tokenizer takes any
 * bytes, as training does. */
static ds_status open_tokenizer(struct ds_fs *fs, const struct generate *g,
                                const struct ds_model_config *model, struct ds_tokenizer **out)
{
    enum ds_hf_tokenizer there;
    char file[DS_RUN_PATH_BYTES + 32];
    struct ds_fs_stat stat;

    snprintf(file, sizeof file, "%s/tokenizer.json", g->folder);
    DS_TRY(ds_hf_which_tokenizer(fs, g->folder, &there));
    if (ds_fs_stat(fs, file, &stat) != 0)
        return ds_fail(DS_ERR_DATA,
                       "%s: tokenizer.json is missing: nothing there says which tokens a text has",
                       g->folder);
    DS_TRY(ds_tokenizer_open(fs, there == DS_HF_TOKENIZER_BYTES ? "bytes" : g->folder, out));
    if (model->vocab_size < ds_tokenizer_id_end(*out))
        return ds_fail(DS_ERR_DATA, "%s: vocab_size is %llu, but the tokenizer has %u ids",
                       g->folder, (unsigned long long)model->vocab_size, ds_tokenizer_id_end(*out));
    return DS_OK;
}

static ds_status encode_prompt(const struct generate *g, struct sequence *s)
{
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(s->tokenizer);
    struct ds_encoder *encoder;
    ds_status st = DS_OK;

    DS_TRY(ds_encoder_open(s->tokenizer, &encoder));
    if (marks.has_bos)
        st = ds_token_list_add(&s->tokens, marks.bos);
    if (st == DS_OK)
        st = ds_encoder_encode(encoder, "--prompt", g->prompt, strlen(g->prompt), 0, &s->tokens);
    ds_encoder_close(encoder);
    if (st == DS_OK && s->tokens.count == 0)
        return ds_fail(DS_ERR_CONFIG,
                       "--prompt is empty, and the tokenizer of %s has no token that "
                       "a text begins with",
                       g->folder);
    return st;
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
    DS_TRY(open_tokenizer(command->fs, g, &model, &s->tokenizer));
    DS_TRY(encode_prompt(g, s));
    warn_of_length(s, &model);
    make_config(g, &model, s, config);
    s->seen_max = config->train.seq_length;
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

    if (st == DS_OK && !config)
        st = ds_fail(DS_ERR_NO_MEMORY, "a configuration");
    if (st == DS_OK)
        st = find_folder(command->fs, &g);
    if (st == DS_OK)
        st = run(command, &g, config, &s);
    sequence_fini(&s);
    free(config);
    return st;
}
