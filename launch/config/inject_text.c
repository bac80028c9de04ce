/* inject_text.c - KIND:RANK:STEP and nothing else. */
#include "inject_text.h"

#include <stdlib.h>
#include <string.h>

static const char *const kind_names[DS_INJECT_KIND_COUNT] = {
#define KIND_NAME(name, text) [DS_INJECT_##name] = text,
    DS_INJECT_LIST(KIND_NAME)};

/* Up to 15 digits and what ends them; NULL: not so. */
static const char *read_digits(const char *at, char end, uint64_t *value)
{
    char *stop;

    if (*at < '0' || *at > '9')
        return NULL;
    *value = strtoull(at, &stop, 10);
    return *stop == end && stop - at <= 15 ? stop : NULL;
}

int ds_inject_parse(const char *text, struct ds_inject *out)
{
    const size_t length = strcspn(text, ":");
    struct ds_inject inject = {.kind = 0};

    if (text[length] == '\0')
        return 0;
    while (inject.kind < DS_INJECT_KIND_COUNT &&
           (strlen(kind_names[inject.kind]) != length ||
            strncmp(text, kind_names[inject.kind], length) != 0))
        inject.kind++;
    text = read_digits(text + length + 1, ':', &inject.rank);
    if (inject.kind == DS_INJECT_KIND_COUNT || !text || !read_digits(text + 1, '\0', &inject.step))
        return 0;
    *out = inject;
    return 1;
}
