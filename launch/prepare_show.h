/* prepare_show.h (private to launch) - rows as a person can check them: what of them is learned. */
#ifndef DSTRAIN_LAUNCH_PREPARE_SHOW_H
#define DSTRAIN_LAUNCH_PREPARE_SHOW_H

#include "dstrain/rows.h"

/* local: the first `count` rows of a shard, to stdout; tokenizer NULL: bytes */
DS_CHECKED ds_status ds_prepare_show(struct ds_fs *fs, const struct ds_tokenizer *tokenizer,
                                     const char *shard, const char *name, uint64_t count);

#endif
