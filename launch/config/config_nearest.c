/* config_nearest.c - what a refusal advises. Values of the keys that the refusing rule names are tried, the
 * nearest first, against all rules: one key, then two, then three, where those behind the first are keys
 * of the rule that refuses next. So what is named is possible; the last resort says what is not. */
#include "config_rules.h"

#include <stdlib.h>
#include <string.h>

enum { CHANGES_MAX = 3 };

/* One or two keys: all that is near; more: what is nearest. */
static const uint32_t tries[CHANGES_MAX] = {4096, 1024, 256};
#define WIDTH 12 /* values of a key that is not the last to change */

struct search {
    struct ds_rule_check check; /* of `config`, quiet */
    struct ds_config *config;   /* resolved */
    struct ds_blame blame;
    size_t rules; /* so many are to pass */
    uint32_t tries;
    const struct ds_field *changes[CHANGES_MAX];
    size_t count;
};

/* What was left to others follows the change. */
static int passes(struct search *s)
{
    ds_config_unresolve(s->config);
    ds_config_resolve(s->config, s->check.rank_count);
    return ds_rules_ask(&s->check) == DS_OK || s->blame.rule >= s->rules;
}

/* ---- keys */

struct was {
    char bytes[64];
    uint8_t was_auto;
};

static void save(const struct search *s, const struct ds_field *field, struct was *was)
{
    DS_ASSERT(field->bytes <= sizeof was->bytes);
    memcpy(was->bytes, (const char *)s->config + field->offset, field->bytes);
    was->was_auto = s->config->places.was_auto[ds_field_index(field)];
}

static void restore(struct search *s, const struct ds_field *field, const struct was *was)
{
    memcpy((char *)s->config + field->offset, was->bytes, field->bytes);
    s->config->places.was_auto[ds_field_index(field)] = was->was_auto;
    ds_config_unresolve(s->config);
    ds_config_resolve(s->config, s->check.rank_count);
}

static int is_changed(const struct search *s, const struct ds_field *field)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->changes[i] == field)
            return 1;
    return 0;
}

/* The next of "section.key section.key"; NULL: no more. What a folder decides is no key, nor are ranks. */
static const struct ds_field *next_key(const struct search *s, const char **keys)
{
    char section[64], key[64];
    int length;

    while (*keys && sscanf(*keys, " %63[a-z].%63s%n", section, key, &length) == 2) {
        const struct ds_field *field = ds_field_find(section, key);

        *keys += length;
        DS_ASSERT(field);
        if (!is_changed(s, field) &&
            !((field->flags & DS_FIELD_SHAPES_MODEL) && s->config->model.path[0] != '\0'))
            return field;
    }
    return NULL;
}

/* ---- the search */

static int repair(struct search *s, size_t changes_left);

/* The nearest value of one key with which, after `changes_left` more changes, the rules pass. */
static int repair_key(struct search *s, const struct ds_field *field, size_t changes_left)
{
    const uint32_t most = changes_left > 0 ? WIDTH : s->tries;
    struct ds_candidates candidates;
    struct was was;

    save(s, field, &was);
    s->changes[s->count++] = field;
    ds_candidates_open(&s->check, field, &candidates);
    for (uint32_t i = 0; i < most && ds_candidates_next(&candidates, s->config); i++) {
        s->config->places.was_auto[ds_field_index(field)] = 0;
        if (passes(s) || (changes_left > 0 && repair(s, changes_left)))
            return 1;
    }
    s->count--;
    restore(s, field, &was);
    return 0;
}

/* From a configuration that s->blame refuses. */
static int repair(struct search *s, size_t changes_left)
{
    const struct ds_blame blame = s->blame;
    const char *keys = blame.keys;

    for (const struct ds_field *field; (field = next_key(s, &keys));)
        if (repair_key(s, field, changes_left - 1))
            return 1;
    return 0;
}

/* The fewest changes with which so many rules pass. */
static int repair_to(struct search *s, size_t rules, const struct ds_blame *blame)
{
    s->rules = rules;
    for (size_t changes = 1; changes <= CHANGES_MAX; changes++) {
        s->tries = tries[changes - 1];
        s->blame = *blame;
        if (repair(s, changes))
            return 1;
    }
    return 0;
}

/* The number of ranks for which the rules pass as everything is written; 0: none is near. */
static uint64_t nearest_ranks(struct search *s)
{
    const uint64_t ranks = s->check.rank_count;
    const struct ds_config *c = s->config;
    const uint64_t data = ds_config_was_auto(c, "parallel", "data") ? 1 : c->parallel.data;
    const uint64_t step = c->parallel.tensor * c->parallel.pipeline * data;
    uint64_t below = ranks / step * step, above = below + step, found = 0;

    s->rules = SIZE_MAX;
    for (uint32_t i = 0; i < tries[0] && !found && (below > 0 || above <= UINT32_MAX); i++) {
        const int is_low = below > 0 && (above > UINT32_MAX || ranks - below <= above - ranks);

        s->check.rank_count = is_low ? below : above;
        if (passes(s))
            found = s->check.rank_count;
        if (is_low)
            below -= step;
        else
            above += step;
    }
    s->check.rank_count = ranks;
    return found;
}

/* ---- as text */

/* "8", or "tensor = 2 and [train] global_batch_size = 8" */
static size_t show_changes(const struct search *s, const struct ds_blame *blame, int names_all,
                           char *to, size_t bytes)
{
    size_t used = 0;

    for (size_t i = 0; i < s->count && used < bytes; i++) {
        const struct ds_field *field = s->changes[i];
        const int is_here = strcmp(field->section, blame->section) == 0;
        const int is_bare =
            !names_all && s->count == 1 && is_here && strcmp(field->key, blame->key) == 0;
        char value[64], section[64] = "";

        ds_field_print(field, s->config, value, sizeof value);
        if (!is_here)
            snprintf(section, sizeof section, "[%s] ", field->section);
        used += (size_t)snprintf(to + used, bytes - used, "%s%s%s%s%s", i > 0 ? " and " : "",
                                 section, is_bare ? "" : field->key, is_bare ? "" : " = ", value);
    }
    return used;
}

/* Where something else is wrong, too, it is named: it will speak next. */
static size_t advise_changes(struct search *s, const struct ds_blame *blame, int names_all,
                             char *to, size_t bytes)
{
    size_t used;

    if (repair_to(s, SIZE_MAX, blame))
        return show_changes(s, blame, names_all, to, bytes);
    if (!repair_to(s, blame->rule + 1, blame))
        return 0;
    used = show_changes(s, blame, names_all, to, bytes);
    s->rules = SIZE_MAX;
    if (!passes(s) && used < bytes)
        used += (size_t)snprintf(to + used, bytes - used, ", and [%s] %s must change, too",
                                 s->blame.section, s->blame.key);
    return used;
}

static void advise(struct search *s, const struct ds_blame *blame, char to[DS_ADVICE_BYTES])
{
    const int asks_ranks = strstr(blame->keys, " ranks") != NULL;
    const uint64_t ranks = asks_ranks ? nearest_ranks(s) : 0;
    char changes[DS_ADVICE_BYTES - 128], launch[64] = "";

    (void)passes(s); /* with the ranks that there are */
    const size_t used = advise_changes(s, blame, asks_ranks, changes, sizeof changes);
    if (ranks > 0)
        snprintf(launch, sizeof launch, "%srun under mpirun -n %" PRIu64, used ? ", or " : "",
                 ranks);
    if (used > 0 || ranks > 0)
        snprintf(to, DS_ADVICE_BYTES, "; nearest: %s%s", used ? changes : "", launch);
    else
        snprintf(to, DS_ADVICE_BYTES, "; no change of up to %d keys makes it possible",
                 CHANGES_MAX);
}

const char *ds_rule_advise(const struct ds_rule_check *check, const struct ds_blame *blame,
                           char to[DS_ADVICE_BYTES])
{
    struct ds_config *config = malloc(sizeof *config);
    struct search s = {.check = *check, .config = config, .rules = SIZE_MAX};
    struct ds_blame asked = *blame;

    to[0] = '\0';
    if (config && blame->keys) {
        *config = *check->config;
        s.check.config = config;
        s.check.blame = &s.blame;
        if (!passes(&s))
            asked.rule = s.blame.rule;
        advise(&s, &asked, to);
    }
    free(config);
    return to;
}
