/* sources.c - from the value of a data key to files. */
#include "sources.h"
#include "config/config.h"
#include "rows_keys.h"

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

static ds_status add_folder(struct ds_fs *fs, const char *where, const struct ds_data_part *part,
                            struct ds_sources *s)
{
    const size_t count_before = s->path_count;
    char path[DS_TEXT_MAX + 264], **names = NULL;
    size_t count = 0;
    ds_status st = DS_OK;
    int code = ds_fs_readdir(fs, part->path, &names, &count);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: %s: cannot read this directory: %s", where, part->path,
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
                     "%s: %s: no *.safetensors file in this directory, which data.format = "
                     "safetensors reads",
                     where, part->path);
    return st;
}

/* What is not there is a mistake in the key; what is wrong inside, the file says. */
static ds_status add_part(const struct ds_config *config, const struct ds_prepare_options *prepare,
                          const struct ds_rows_options *rows, const char *where,
                          const struct ds_data_part *part, struct ds_prepare_report *report,
                          struct ds_sources *s)
{
    struct ds_fs_stat stat;
    char *shard = NULL;
    int code = ds_fs_stat(prepare->fs, part->path, &stat);

    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: %s: %s", where, part->path, strerror(-code));
    if (ds_config_has_text(config)) {
        DS_TRY(rows ? ds_prepare_rows(prepare, rows, part->path, &shard, report)
                    : ds_prepare_text(prepare, part->path, &shard, report));
        return add_path(s, shard, part->weight);
    }
    return stat.is_directory ? add_folder(prepare->fs, where, part, s)
                             : add_path(s, strdup(part->path), part->weight);
}

ds_status ds_sources_open(const struct ds_config *config, const struct ds_prepare_options *prepare,
                          const char *key, struct ds_prepare_report *report, struct ds_sources *out)
{
    const char *text = strcmp(key, "train") == 0 ? config->data.train : config->data.eval;
    struct ds_sources sources = {0};
    struct ds_prepare_options named = *prepare;
    const int has_rows = config->data.format == DS_DATA_JSONL;
    char where[DS_KEY_BYTES], cache[DS_KEY_BYTES], why[DS_CHAT_WHY_BYTES];
    struct ds_rows_options rows;
    ds_status st = DS_OK;

    if (has_rows)
        DS_TRY(ds_rows_keys_read(config, prepare->fs, why, &rows));
    named.cache_key = ds_config_key(config, "data", "cache", cache);
    DS_TRY(ds_data_parts_parse(ds_config_key(config, "data", key, where), text, &sources.parts));
    for (size_t i = 0; i < sources.parts.count && st == DS_OK; i++)
        st = add_part(config, &named, has_rows ? &rows : NULL, where, &sources.parts.parts[i],
                      report, &sources);
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
