/* sources.c - from the value of a data key to files. */
#include "sources.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ds_sources_cache(const struct ds_config *config, char *to, size_t bytes)
{
    if (config->data.cache[0])
        snprintf(to, bytes, "%s", config->data.cache);
    else
        snprintf(to, bytes, "%s/data", config->run.dir[0] ? config->run.dir : ".");
}

static ds_status fill(const struct ds_config *config, const struct ds_prepare_options *prepare,
                      struct ds_prepare_report *report, struct ds_sources *s)
{
    s->paths = calloc(s->parts.count, sizeof *s->paths);
    s->weights = calloc(s->parts.count, sizeof *s->weights);
    if (!s->paths || !s->weights)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu sources of data", s->parts.count);
    for (size_t i = 0; i < s->parts.count; i++) {
        const struct ds_data_part *part = &s->parts.parts[i];
        s->weights[i] = part->weight;
        if (config->data.format == DS_DATA_TEXT)
            DS_TRY(ds_prepare_text(prepare, part->path, &s->paths[i], report));
        else if (!(s->paths[i] = strdup(part->path)))
            return ds_fail(DS_ERR_NO_MEMORY, "a path");
    }
    return DS_OK;
}

ds_status ds_sources_open(const struct ds_config *config, const struct ds_prepare_options *prepare,
                          const char *where, const char *text, struct ds_prepare_report *report,
                          struct ds_sources *out)
{
    struct ds_sources sources = {0};
    ds_status st;

    DS_TRY(ds_data_parts_parse(where, text, &sources.parts));
    st = fill(config, prepare, report, &sources);
    if (st != DS_OK) {
        ds_sources_close(&sources);
        return st;
    }
    *out = sources;
    return DS_OK;
}

void ds_sources_close(struct ds_sources *sources)
{
    for (size_t i = 0; sources->paths && i < sources->parts.count; i++)
        free(sources->paths[i]);
    free(sources->paths);
    free(sources->weights);
    ds_data_parts_fini(&sources->parts);
    *sources = (struct ds_sources){0};
}
