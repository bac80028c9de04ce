/* sources.h (private to launch) - what `data.train` and `data.eval` name, as files to read: text and rows become token
 * shards in the cache, everything else is read as it is, of a folder its *.safetensors in the order of their names. */
#ifndef DSTRAIN_LAUNCH_SOURCES_H
#define DSTRAIN_LAUNCH_SOURCES_H

#include "dstrain/config.h"
#include "dstrain/data.h"

struct ds_sources {
    /* owns */
    struct ds_data_parts parts;
    char **paths; /* [path_count]: at least one of every part */
    double *weights;
    size_t path_count;
};

/* local: what key "train" or "eval" names; text that is not prepared is prepared now */
DS_CHECKED ds_status ds_sources_open(const struct ds_config *config,
                                     const struct ds_prepare_options *prepare, const char *key,
                                     struct ds_prepare_report *report, struct ds_sources *out);
void ds_sources_close(struct ds_sources *sources);
/* pure: where token shards lie; put it into prepare->cache */
void ds_sources_cache(const struct ds_config *config, char *to, size_t bytes);

#endif
