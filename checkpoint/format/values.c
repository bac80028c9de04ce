/* values.c - named values, kept in order of their names. */
#include "dstrain/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where `name` is, or where it belongs. */
static uint32_t place_of(const struct ds_values *values, const char *name, int *is_there)
{
    uint32_t low = 0, high = values->count;

    while (low < high) {
        const uint32_t middle = (low + high) / 2;

        if (strcmp(values->items[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *is_there = low < values->count && strcmp(values->items[low].name, name) == 0;
    return low;
}

static int is_name(const char *name)
{
    const size_t bytes = strlen(name);

    return bytes > 0 && bytes <= DS_VALUE_NAME_BYTES_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.") == bytes;
}

static ds_status make_room(struct ds_values *values, const char *name)
{
    if (values->count >= DS_MANIFEST_VALUES_MAX)
        return ds_fail(DS_ERR_DATA, "'%s' is one more than the %u values allowed", name,
                       DS_MANIFEST_VALUES_MAX);
    if (values->count < values->capacity)
        return DS_OK;
    const uint32_t capacity = values->capacity ? 2 * values->capacity : 64;
    struct ds_value *items = realloc(values->items, capacity * sizeof *items);
    if (!items)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the value '%s'", name);
    values->items = items;
    values->capacity = capacity;
    return DS_OK;
}

static ds_status set_text(struct ds_value *value, const char *text)
{
    const size_t bytes = strlen(text) + 1;

    if (bytes > DS_VALUE_BYTES_MAX + 1)
        return ds_fail(DS_ERR_DATA, "the value '%s' has %zu bytes; there may be %u", value->name,
                       bytes - 1, DS_VALUE_BYTES_MAX);
    if (bytes > value->capacity) {
        const size_t capacity = (bytes + 63) / 64 * 64;
        char *larger = realloc(value->text, capacity);

        if (!larger)
            return ds_fail(DS_ERR_NO_MEMORY, "no memory for the value '%s'", value->name);
        value->text = larger;
        value->capacity = capacity;
    }
    memcpy(value->text, text, bytes);
    return DS_OK;
}

ds_status ds_values_set(struct ds_values *values, const char *name, const char *text)
{
    int is_there = 0;
    const uint32_t place = place_of(values, name, &is_there);

    DS_ASSERT(is_name(name));
    if (is_there)
        return set_text(&values->items[place], text);
    DS_TRY(make_room(values, name));
    struct ds_value value = {.text = NULL};
    memcpy(value.name, name, strlen(name) + 1);
    DS_TRY(set_text(&value, text));
    memmove(values->items + place + 1, values->items + place,
            (values->count - place) * sizeof *values->items);
    values->items[place] = value;
    values->count++;
    return DS_OK;
}

ds_status ds_values_set_u64(struct ds_values *values, const char *name, uint64_t number)
{
    char text[32];

    snprintf(text, sizeof text, "%" PRIu64, number);
    return ds_values_set(values, name, text);
}

ds_status ds_values_set_real(struct ds_values *values, const char *name, double number)
{
    char text[64];

    snprintf(text, sizeof text, "%a", number);
    return ds_values_set(values, name, text);
}

const char *ds_values_get(const struct ds_values *values, const char *name)
{
    int is_there = 0;
    const uint32_t place = place_of(values, name, &is_there);

    return is_there ? values->items[place].text : NULL;
}

ds_status ds_values_u64(const struct ds_values *values, const char *what, const char *name,
                        uint64_t min, uint64_t max, uint64_t *out)
{
    const char *text = ds_values_get(values, name);
    char again[32], *end = NULL;

    errno = 0;
    const uint64_t number = text ? strtoull(text, &end, 10) : 0;
    if (!text)
        return ds_fail(DS_ERR_DATA, "%s: the value '%s' is not there", what, name);
    snprintf(again, sizeof again, "%" PRIu64, number);
    if (errno != 0 || strcmp(again, text) != 0 || number < min || number > max)
        return ds_fail(DS_ERR_DATA,
                       "%s: '%s' must be a whole number in %" PRIu64 "..%" PRIu64 ", is '%.40s'",
                       what, name, min, max, text);
    *out = number;
    return DS_OK;
}

ds_status ds_values_real(const struct ds_values *values, const char *what, const char *name,
                         double *out)
{
    const char *text = ds_values_get(values, name);
    char again[64], *end = NULL;

    if (!text)
        return ds_fail(DS_ERR_DATA, "%s: the value '%s' is not there", what, name);
    const double number = strtod(text, &end);
    snprintf(again, sizeof again, "%a", number);
    if (strcmp(again, text) != 0)
        return ds_fail(DS_ERR_DATA, "%s: '%s' must be a number as %%a writes it, is '%.40s'", what,
                       name, text);
    *out = number;
    return DS_OK;
}

void ds_values_fini(struct ds_values *values)
{
    for (uint32_t i = 0; i < values->count; i++)
        free(values->items[i].text);
    free(values->items);
    *values = (struct ds_values){0};
}
