/* parts.c - `a.txt, b.txt:0.5` as a list of paths with weights. */
#include "dstrain/data.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static size_t trimmed(const char *text, size_t length)
{
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        length--;
    return length;
}

/* The weight behind the last ':' where a number follows it, else the whole text is the path. */
static ds_status cut_weight(const char *where, char *text, double *weight)
{
    char *colon = strrchr(text, ':'), *end;

    *weight = 1.0;
    if (!colon || !(isdigit((unsigned char)colon[1]) || colon[1] == '.' || colon[1] == '-'))
        return DS_OK;
    double value = strtod(colon + 1, &end);
    if (*end != '\0')
        return DS_OK; /* a path that happens to hold a colon */
    if (!(value >= 1e-6 && value <= 1e6))
        return ds_fail(DS_ERR_CONFIG, "%s: the weight in '%s' must be a number in 1e-6..1e6", where,
                       text);
    text[trimmed(text, (size_t)(colon - text))] = '\0';
    *weight = value;
    return DS_OK;
}

static ds_status add_part(const char *where, const char *from, size_t length,
                          struct ds_data_parts *out)
{
    struct ds_data_part *more;
    ds_status st;

    while (length > 0 && isspace((unsigned char)from[0])) {
        from++;
        length--;
    }
    length = trimmed(from, length);
    if (length == 0)
        return ds_fail(DS_ERR_CONFIG, "%s: an empty path; paths are separated by single commas",
                       where);
    more = realloc(out->parts, (out->count + 1) * sizeof *more);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu sources", out->count + 1);
    out->parts = more;
    char *path = strndup(from, length);
    if (!path)
        return ds_fail(DS_ERR_NO_MEMORY, "a path");
    more[out->count] = (struct ds_data_part){path, 1.0};
    out->count++; /* from here on fini frees the path */
    st = cut_weight(where, path, &more[out->count - 1].weight);
    if (st == DS_OK && path[0] == '\0')
        st = ds_fail(DS_ERR_CONFIG, "%s: a weight without a path", where);
    return st;
}

ds_status ds_data_parts_parse(const char *where, const char *text, struct ds_data_parts *out)
{
    struct ds_data_parts parts = {0};

    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        ds_status st = add_part(where, at, length, &parts);
        if (st != DS_OK) {
            ds_data_parts_fini(&parts);
            return st;
        }
        at += length;
        if (*at == '\0')
            break;
    }
    *out = parts;
    return DS_OK;
}

void ds_data_parts_fini(struct ds_data_parts *parts)
{
    for (size_t i = 0; i < parts->count; i++)
        free(parts->parts[i].path);
    free(parts->parts);
    *parts = (struct ds_data_parts){0};
}
