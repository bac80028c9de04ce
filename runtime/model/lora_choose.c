/* lora_choose.c - an adapter from the keys of a configuration: one rank and one scale for all matrices that are meant,
 * but those that patterns name. */
#include "lora_file.h"

#include "targets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char separators[] = ", \t";

float lora_scale(const struct ds_lora_settings *settings, double rank, double alpha)
{
    return (float)(alpha / (settings->is_rslora ? sqrt(rank) : rank));
}

ds_status lora_take(const struct ds_model_config *config, const struct ds_lora_settings *settings,
                    struct ds_lora *out)
{
    *out = (struct ds_lora){.settings = *settings};
    out->modules =
        calloc((size_t)config->num_hidden_layers * DS_LINEAR_COUNT, sizeof *out->modules);
    return out->modules ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "the list of an adapter's matrices");
}

void ds_lora_fini(struct ds_lora *lora)
{
    free(lora->modules);
    *lora = (struct ds_lora){0};
}

void lora_fill(const struct ds_model_config *config, const uint8_t *chosen, struct ds_lora *lora)
{
    const struct ds_lora_settings *settings = &lora->settings;
    const struct ds_lora_module module = {
        (uint32_t)settings->r, lora_scale(settings, (double)settings->r, settings->alpha)};

    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++)
        if (chosen[i])
            lora->modules[i] = module;
}

static ds_status choose_one(const char *what, const struct ds_model_config *config,
                            const struct target *target, uint8_t *chosen)
{
    uint64_t found;

    DS_TRY(target_match(what, config, target, chosen, &found));
    return found > 0 ? DS_OK : target_refuse(what, config, target);
}

static ds_status choose(const char *what, const struct ds_model_config *config, const char *targets,
                        uint8_t *chosen)
{
    const char *at = targets + strspn(targets, separators);
    const size_t bytes = strlen(at);

    if (bytes == 0 || strcmp(at, "all-linear") == 0) {
        memset(chosen, 1, (size_t)config->num_hidden_layers * DS_LINEAR_COUNT);
        return DS_OK;
    }
    if (bytes >= 2 && at[0] == '/' && at[bytes - 1] == '/')
        return choose_one(what, config,
                          &(struct target){.text = at + 1, .bytes = bytes - 2, .is_pattern = 1},
                          chosen);
    for (; *at; at += strspn(at, separators)) {
        const struct target target = {.text = at, .bytes = strcspn(at, separators)};

        DS_TRY(choose_one(what, config, &target, chosen));
        at += target.bytes;
    }
    return DS_OK;
}

/* What is chosen, without what is not to be. */
static ds_status choose_some(const struct ds_model_config *config, const struct ds_lora_wish *wish,
                             uint8_t *chosen)
{
    const size_t count = (size_t)config->num_hidden_layers * DS_LINEAR_COUNT;
    uint8_t *excluded = calloc(count, 1);
    ds_status st = excluded ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "an adapter's matrices");

    if (st == DS_OK)
        st = choose(wish->targets.place, config, wish->targets.text, chosen);
    if (st == DS_OK && wish->excluded.text[strspn(wish->excluded.text, separators)])
        st = choose(wish->excluded.place, config, wish->excluded.text, excluded);
    for (size_t i = 0; st == DS_OK && i < count; i++)
        chosen[i] = (uint8_t)(chosen[i] && !excluded[i]);
    free(excluded);
    DS_TRY(st);
    if (wish->layers.text[strspn(wish->layers.text, separators)])
        DS_TRY(layers_keep(wish->layers.place, config, wish->layers.text, chosen));
    return layers_check(wish->targets.place, config, chosen);
}

/* ---- what single ones have otherwise */

ds_status lora_apply(const char *what, const struct ds_model_config *config, const double *ranks,
                     const double *alphas, struct ds_lora *lora)
{
    const struct ds_lora_settings *settings = &lora->settings;

    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++) {
        struct ds_lora_module *module = &lora->modules[i];
        const double rank = ranks[i] > 0 ? ranks[i] : (double)settings->r;

        if (module->rank == 0)
            continue;
        if (rank != (double)(uint32_t)rank)
            return ds_fail(DS_ERR_DATA, "%s: a rank of %g, which is no whole number", what, rank);
        *module = (struct ds_lora_module){
            (uint32_t)rank,
            lora_scale(settings, rank, alphas[i] > 0 ? alphas[i] : settings->alpha)};
    }
    return DS_OK;
}

void lora_note(const struct ds_model_config *config, const uint8_t *matches, double number,
               double *numbers)
{
    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++)
        if (matches[i] && numbers[i] == 0)
            numbers[i] = number;
}

/* "KEY: NUMBER" */
static ds_status read_entry(const char *place, const char *at, size_t bytes, double max,
                            struct target *target, double *number)
{
    const char *colon = memrchr(at, ':', bytes);
    char *end = NULL;

    if (colon)
        *number = strtod(colon + 1, &end);
    while (end && end < at + bytes && (*end == ' ' || *end == '\t'))
        end++;
    if (!colon || colon == at || end != at + bytes || !(*number > 0 && *number <= max))
        return ds_fail(DS_ERR_DATA, "%s: '%.*s' must read KEY: NUMBER, with a number in 0..%g",
                       place, bytes < 200 ? (int)bytes : 200, at, max);
    *target = (struct target){
        .text = at, .bytes = (size_t)(colon - at), .is_pattern = 1, .takes_ends = 1};
    return DS_OK;
}

/* numbers[i]: of matrix i, 0 where no entry means it */
static ds_status read_pattern(const struct ds_lora_text *from, const struct ds_model_config *config,
                              double max, uint8_t *matches, double *numbers)
{
    const char *at = from->text + strspn(from->text, separators);

    for (size_t bytes; *at; at += bytes, at += strspn(at, separators)) {
        struct target target;
        double number = 0;

        bytes = strcspn(at, ",");
        DS_TRY(read_entry(from->place, at, bytes, max, &target, &number));
        memset(matches, 0, (size_t)config->num_hidden_layers * DS_LINEAR_COUNT);
        DS_TRY(choose_one(from->place, config, &target, matches));
        lora_note(config, matches, number, numbers);
    }
    return DS_OK;
}

/* ---- all of it */

static ds_status choose_all(const struct ds_model_config *config, const struct ds_lora_wish *wish,
                            uint8_t *chosen, double *numbers, struct ds_lora *lora)
{
    double *ranks = numbers, *alphas = numbers + config->num_hidden_layers * DS_LINEAR_COUNT;

    DS_TRY(choose_some(config, wish, chosen));
    DS_TRY(whole_take(wish->whole.place, config, wish->whole.text, lora->settings.whole));
    lora_fill(config, chosen, lora);
    DS_TRY(read_pattern(&wish->ranks, config, DS_LORA_RANK_MAX, chosen, ranks));
    DS_TRY(read_pattern(&wish->alphas, config, DS_LORA_ALPHA_MAX, chosen, alphas));
    return lora_apply(wish->ranks.place, config, ranks, alphas, lora);
}

ds_status ds_lora_choose(const struct ds_model_config *config,
                         const struct ds_lora_settings *settings, const struct ds_lora_wish *wish,
                         struct ds_lora *out)
{
    const size_t count = (size_t)config->num_hidden_layers * DS_LINEAR_COUNT;
    uint8_t *chosen = calloc(count, 1);
    double *numbers = calloc(2 * count, sizeof *numbers);
    struct ds_lora lora = {0};
    ds_status st = chosen && numbers
                       ? lora_take(config, settings, &lora)
                       : ds_fail(DS_ERR_NO_MEMORY, "the list of an adapter's matrices");

    if (st == DS_OK)
        st = choose_all(config, wish, chosen, numbers, &lora);
    free(chosen);
    free(numbers);
    if (st != DS_OK) {
        ds_lora_fini(&lora);
        return st;
    }
    *out = lora;
    return DS_OK;
}
