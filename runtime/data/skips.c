/* skips.c - which batch a step trains, where some are left out for good. */
#include "dstrain/data.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX ((uint64_t)1 << 53)

uint64_t ds_skips_batch(const struct ds_skips *skips, uint64_t step)
{
    for (uint32_t i = 0; i < skips->count && skips->ranges[i].begin <= step; i++)
        step += skips->ranges[i].end - skips->ranges[i].begin;
    return step;
}

uint64_t ds_skips_step_before(const struct ds_skips *skips, uint64_t batch)
{
    uint64_t left_out = 0;

    for (uint32_t i = 0; i < skips->count && skips->ranges[i].begin < batch; i++) {
        const struct ds_batch_range *r = &skips->ranges[i];

        left_out += (r->end < batch ? r->end : batch) - r->begin;
    }
    return batch - 1 - left_out;
}

static int is_apart(const struct ds_batch_range *a, const struct ds_batch_range *b)
{
    return a->end < b->begin || b->end < a->begin;
}

/* Those that it meets become one with it. */
int ds_skips_add(struct ds_skips *skips, struct ds_batch_range range)
{
    struct ds_skips out = {.count = 0};
    uint32_t before = 0;

    if (range.begin == 0 || range.begin >= range.end)
        return 0;
    for (uint32_t i = 0; i < skips->count; i++) {
        const struct ds_batch_range *r = &skips->ranges[i];

        if (is_apart(r, &range)) {
            before += r->end < range.begin;
            out.ranges[out.count++] = *r;
            continue;
        }
        range.begin = r->begin < range.begin ? r->begin : range.begin;
        range.end = r->end > range.end ? r->end : range.end;
    }
    if (out.count == DS_SKIPS_MAX)
        return 0;
    memmove(out.ranges + before + 1, out.ranges + before,
            (out.count - before) * sizeof *out.ranges);
    out.ranges[before] = range;
    out.count++;
    *skips = out;
    return 1;
}

void ds_skips_print(const struct ds_skips *skips, char to[DS_SKIPS_TEXT_BYTES])
{
    size_t used = 0;

    to[0] = '\0';
    for (uint32_t i = 0; i < skips->count; i++)
        used += (size_t)snprintf(to + used, DS_SKIPS_TEXT_BYTES - used, "%s%" PRIu64 "-%" PRIu64,
                                 i ? "," : "", skips->ranges[i].begin, skips->ranges[i].end);
}

/* What it prints again is what was read: one spelling. */
int ds_skips_parse(const char *text, struct ds_skips *out)
{
    char again[DS_SKIPS_TEXT_BYTES];
    struct ds_skips skips = {.count = 0};

    for (const char *at = text; *at;) {
        struct ds_batch_range range;
        char *end;

        range.begin = strtoull(at, &end, 10);
        if (*end != '-')
            return 0;
        range.end = strtoull(end + 1, &end, 10);
        if (range.end > BATCH_MAX || !ds_skips_add(&skips, range))
            return 0;
        at = *end == ',' ? end + 1 : end;
    }
    ds_skips_print(&skips, again);
    if (strcmp(again, text) != 0)
        return 0;
    *out = skips;
    return 1;
}
