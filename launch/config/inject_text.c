/* inject_text.c - KIND:RANK:STEP or KIND:all:FIRST-LAST and nothing else. */
#include "inject_text.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int is_alike;
} kinds[DS_INJECT_KIND_COUNT] = {
#define KIND(name, text, is_alike) [DS_INJECT_##name] = {text, is_alike},
    DS_INJECT_LIST(KIND)};

/* Up to 15 digits and what ends them; NULL: not so. */
static const char *read_digits(const char *at, char end, uint64_t *value)
{
    char *stop;

    if (*at < '0' || *at > '9')
        return NULL;
    *value = strtoull(at, &stop, 10);
    return *stop == end && stop - at <= 15 ? stop : NULL;
}

static int read_alike(const char *text, struct ds_inject *to)
{
    if (strncmp(text, "all:", 4) != 0)
        return 0;
    to->rank = DS_INJECT_ALL;
    text = read_digits(text + 4, '-', &to->step);
    return text && read_digits(text + 1, '\0', &to->last) && to->step >= 1 && to->step <= to->last;
}

static int read_of_rank(const char *text, struct ds_inject *to)
{
    text = read_digits(text, ':', &to->rank);
    return text && read_digits(text + 1, '\0', &to->step);
}

int ds_inject_parse(const char *text, struct ds_inject *out)
{
    const size_t length = strcspn(text, ":");
    struct ds_inject inject = {.kind = 0};

    if (text[length] == '\0')
        return 0;
    while (inject.kind < DS_INJECT_KIND_COUNT &&
           (strlen(kinds[inject.kind].name) != length ||
            strncmp(text, kinds[inject.kind].name, length) != 0))
        inject.kind++;
    if (inject.kind == DS_INJECT_KIND_COUNT)
        return 0;
    text += length + 1;
    if (!(kinds[inject.kind].is_alike ? read_alike(text, &inject) : read_of_rank(text, &inject)))
        return 0;
    *out = inject;
    return 1;
}
