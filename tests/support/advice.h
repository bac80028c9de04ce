/* advice.h - what a refusal advises, read as a person would read it: "; nearest: 8", "; nearest: tensor = 2 and
 * [train] global_batch_size = 8, or run under mpirun -n 6". */
#ifndef DSTRAIN_ADVICE_H
#define DSTRAIN_ADVICE_H

#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADVICE_CHANGES_MAX = 4 };

struct advice {
    char changes[ADVICE_CHANGES_MAX][128]; /* overrides, "section.key=value" */
    size_t count;                          /* 0: none */
    uint64_t ranks;                        /* the launch on which all stays as it is; 0: none */
    char also[128];                        /* "[section] key": must change, too; "": nothing */
};

/* "8", "tensor = 2" or "[train] steps = 8" */
static inline void advice_read_change(const char *text, const char *section, const char *key,
                                      char to[128])
{
    char at_section[64], at_key[64], value[128];

    if (sscanf(text, "[%63[a-z]] %63s = %127[^\n]", at_section, at_key, value) == 3)
        snprintf(to, 128, "%.30s.%.30s=%.60s", at_section, at_key, value);
    else if (sscanf(text, "%63s = %127[^\n]", at_key, value) == 2)
        snprintf(to, 128, "%.30s.%.30s=%.60s", section, at_key, value);
    else
        snprintf(to, 128, "%.30s.%.30s=%.60s", section, key, text);
}

static inline struct advice advice_read(const char *said)
{
    static const char nearest[] = "; nearest: ", ranks[] = "run under mpirun -n ";
    static const char also[] = " must change, too";
    const char *behind = strstr(said, nearest);
    struct advice advice = {.count = 0};
    char section[64], key[64], text[1024], *at = text, *next;

    if (!behind || sscanf(strchr(said, '['), "[%63[a-z]] %63s", section, key) != 2)
        return advice;
    snprintf(text, sizeof text, "%s", behind + sizeof nearest - 1);
    if ((next = strstr(text, ", and [")) && strstr(next, also)) {
        snprintf(advice.also, sizeof advice.also, "%.*s", (int)(strstr(next, also) - next - 6),
                 next + 6);
        *next = '\0';
    }
    if ((next = strstr(text, ranks))) {
        advice.ranks = strtoull(next + sizeof ranks - 1, NULL, 10);
        *next = '\0';
        if ((next = strstr(text, ", or ")))
            *next = '\0';
    }
    for (; *at && advice.count < ADVICE_CHANGES_MAX; at = next) {
        next = strstr(at, " and ");
        if (next)
            *next = '\0';
        advice_read_change(at, section, key, advice.changes[advice.count++]);
        next = next ? next + strlen(" and ") : at + strlen(at);
    }
    return advice;
}

/* `change` in the place of an earlier override of the same key, or behind all; their number. */
static inline size_t advice_take(const char **overrides, size_t count, const char *change)
{
    const size_t name = strcspn(change, "=") + 1;
    size_t i = 0;

    while (i < count && strncmp(overrides[i], change, name) != 0)
        i++;
    overrides[i] = change;
    return i < count ? count : count + 1;
}

#endif
