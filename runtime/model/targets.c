/* targets.c - which matrices of a model an adapter is for, said as PEFT says it: by a name, or the end of one behind a
 * dot, or by a regular expression that matches whole names. */
#include "targets.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_BYTES_MAX 200

static int shown(const struct target *target)
{
    return target->bytes < SHOWN_BYTES_MAX ? (int)target->bytes : SHOWN_BYTES_MAX;
}

void target_name(uint64_t index, char to[TARGET_NAME_BYTES])
{
    snprintf(to, TARGET_NAME_BYTES, "model.layers.%llu.%s",
             (unsigned long long)(index / DS_LINEAR_COUNT),
             ds_linear_name((enum ds_linear)(index % DS_LINEAR_COUNT)));
}

/* Once and not for each layer. */
ds_status target_refuse(const char *what, const struct ds_model_config *config,
                        const struct target *target)
{
    char list[512] = "";
    size_t used = 0;

    for (int i = 0; i < DS_LINEAR_COUNT; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                                 ds_linear_name((enum ds_linear)i));
    return ds_fail(DS_ERR_DATA,
                   "%s: '%.*s' matches no matrix that can have factors; each layer, model.layers.0 "
                   "to %llu, has %s",
                   what, shown(target), target->text,
                   (unsigned long long)config->num_hidden_layers - 1, list);
}

/* ---- a name */

static int is_end_of(const char *name, const struct target *target)
{
    const size_t length = strlen(name), bytes = target->bytes;

    return bytes <= length && memcmp(name + length - bytes, target->text, bytes) == 0 &&
           (bytes == length || name[length - bytes - 1] == '.');
}

/* ---- a regular expression */

struct pattern {
    pcre2_code *code;
    pcre2_match_data *match;
};

static void pattern_fini(struct pattern *pattern)
{
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
}

static ds_status pattern_refuse(const char *what, const struct target *target, int error)
{
    PCRE2_UCHAR why[160] = "";

    (void)pcre2_get_error_message(error, why, sizeof why);
    return ds_fail(DS_ERR_DATA, "%s: the regular expression '%.*s': %s", what, shown(target),
                   target->text, (const char *)why);
}

static ds_status pattern_init(const char *what, const struct target *target, struct pattern *out)
{
    const size_t room = target->bytes + 32;
    char *text = malloc(room);
    PCRE2_SIZE where;
    int error = 0;

    *out = (struct pattern){0};
    if (!text)
        return ds_fail(DS_ERR_NO_MEMORY, "a regular expression");
    snprintf(text, room, "%s(?:%.*s)", target->takes_ends ? "(?:.*\\.)?" : "", (int)target->bytes,
             target->text);
    out->code = pcre2_compile((PCRE2_SPTR)text, strlen(text), PCRE2_ANCHORED | PCRE2_ENDANCHORED,
                              &error, &where, NULL);
    free(text);
    if (!out->code)
        return pattern_refuse(what, target, error);
    out->match = pcre2_match_data_create_from_pattern(out->code, NULL);
    if (out->match)
        return DS_OK;
    pattern_fini(out);
    return ds_fail(DS_ERR_NO_MEMORY, "a regular expression");
}

static ds_status match_pattern(const char *what, const struct ds_model_config *config,
                               const struct target *target, const struct pattern *pattern,
                               uint8_t *matches, uint64_t *found)
{
    char name[TARGET_NAME_BYTES];

    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++) {
        target_name(i, name);
        const int result =
            pcre2_match(pattern->code, (PCRE2_SPTR)name, strlen(name), 0, 0, pattern->match, NULL);
        if (result < 0 && result != PCRE2_ERROR_NOMATCH)
            return pattern_refuse(what, target, result);
        if (result < 0)
            continue;
        matches[i] = 1;
        ++*found;
    }
    return DS_OK;
}

ds_status target_match(const char *what, const struct ds_model_config *config,
                       const struct target *target, uint8_t *matches, uint64_t *found)
{
    char name[TARGET_NAME_BYTES];
    struct pattern pattern;

    *found = 0;
    if (target->is_pattern) {
        DS_TRY(pattern_init(what, target, &pattern));
        ds_status st = match_pattern(what, config, target, &pattern, matches, found);
        pattern_fini(&pattern);
        return st;
    }
    for (uint64_t i = 0; i < config->num_hidden_layers * DS_LINEAR_COUNT; i++) {
        target_name(i, name);
        if (!is_end_of(name, target))
            continue;
        matches[i] = 1;
        ++*found;
    }
    return DS_OK;
}
