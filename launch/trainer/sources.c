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

/* Takes the path, which is malloc'ed or NULL. */
static ds_status add_path(struct ds_sources *s, char *path, double weight)
{
    const size_t count = s->path_count + 1;
    char **paths = realloc(s->paths, count * sizeof *paths);
    double *weights = realloc(s->weights, count * sizeof *weights);

    s->paths = paths ? paths : s->paths;
    s->weights = weights ? weights : s->weights;
    if (!path || !paths || !weights) {
        free(path);
        return ds_fail(DS_ERR_NO_MEMORY, "%zu files of data", count);
    }
    paths[s->path_count] = path;
    weights[s->path_count] = weight;
    s->path_count = count;
    return DS_OK;
}

static int is_tokenised_name(const char *name)
{
    const char *end = strrchr(name, '.');

    return name[0] != '.' && end && strcmp(end, ".safetensors") == 0;
}

static ds_status add_folder(struct ds_fs *fs, const struct ds_data_part *part, struct ds_sources *s)
{
    const size_t count_before = s->path_count;
    char path[DS_TEXT_MAX + 264], **names = NULL;
    size_t count = 0;
    ds_status st = DS_OK;
    int code = ds_fs_readdir(fs, part->path, &names, &count);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: cannot read this directory: %s", part->path,
                       strerror(-code));
    for (size_t i = 0; i < count && st == DS_OK; i++) {
        if (!is_tokenised_name(names[i]))
            continue;
        snprintf(path, sizeof path, "%s/%s", part->path, names[i]);
        st = add_path(s, strdup(path), part->weight);
    }
    free(names);
    if (st == DS_OK && s->path_count == count_before)
        st = ds_fail(DS_ERR_DATA,
                     "%s: no *.safetensors file in this directory, which data.format = safetensors "
                     "reads",
                     part->path);
    return st;
}

static ds_status add_tokenised(struct ds_fs *fs, const struct ds_data_part *part,
                               struct ds_sources *s)
{
    struct ds_fs_stat stat;

    if (ds_fs_stat(fs, part->path, &stat) == 0 && stat.is_directory)
        return add_folder(fs, part, s);
    return add_path(s, strdup(part->path), part->weight);
}

static ds_status fill(const struct ds_config *config, const struct ds_prepare_options *prepare,
                      struct ds_prepare_report *report, struct ds_sources *s)
{
    for (size_t i = 0; i < s->parts.count; i++) {
        const struct ds_data_part *part = &s->parts.parts[i];
        char *shard = NULL;
        if (config->data.format == DS_DATA_TEXT) {
            DS_TRY(ds_prepare_text(prepare, part->path, &shard, report));
            DS_TRY(add_path(s, shard, part->weight));
        } else {
            DS_TRY(add_tokenised(prepare->fs, part, s));
        }
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
    for (size_t i = 0; i < sources->path_count; i++)
        free(sources->paths[i]);
    free(sources->paths);
    free(sources->weights);
    ds_data_parts_fini(&sources->parts);
    *sources = (struct ds_sources){0};
}
