/* trace_text.c - first..last and nothing else. */
#include "trace_text.h"

#include <stdlib.h>

/* Up to 15 digits; NULL: not so. */
static const char *read_count(const char *at, uint64_t *value)
{
    char *stop;

    if (*at < '0' || *at > '9')
        return NULL;
    *value = strtoull(at, &stop, 10);
    return stop - at <= 15 ? stop : NULL;
}

int ds_trace_range_parse(const char *text, uint64_t *first, uint64_t *last)
{
    uint64_t from, to;
    const char *at = read_count(text, &from);

    if (!at || at[0] != '.' || at[1] != '.')
        return 0;
    at = read_count(at + 2, &to);
    if (!at || *at != '\0' || from < 1 || from > to)
        return 0;
    *first = from;
    *last = to;
    return 1;
}
