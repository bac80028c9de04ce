/* shard_place.h (private) - where a shard lies in the cache. */
#ifndef DSTRAIN_DATA_SHARD_PLACE_H
#define DSTRAIN_DATA_SHARD_PLACE_H

#include "corpus.h"
#include "shard_file.h"

/* local: its name is made of the source's and of what it is made of */
DS_CHECKED ds_status shard_place_path(const struct ds_prepare_options *options, const char *source,
                                      const char *fingerprint, char to[CORPUS_PATH_BYTES]);
/* local: the cache is there, and open to us: asked with the file that the shard at `path` begins as */
DS_CHECKED ds_status shard_place_make(const struct ds_prepare_options *options, const char *path);
/* always a failure: nothing can be kept in the cache, because of `code`, -errno */
DS_CHECKED ds_status shard_place_refuse(const struct ds_prepare_options *options, int code);
/* pure: may it stand in a shard's header, which is JSON? */
int shard_place_is_text(const char *name);

#endif
