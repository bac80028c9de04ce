/* base.h (private) - what an epoch goes on from, as the file says that the launch which claimed it has written. */
#ifndef CHECKPOINT_BASE_H
#define CHECKPOINT_BASE_H

#include "dstrain/checkpoint.h"

#define BASE_ENDING ".base.json"

struct base {
    uint64_t epoch;
    struct ds_manifest_id id;
    int has_id; /* 0: from the beginning */
};

/* local: `skips` and `skip_count` may be NULL; what reads in part sets nothing */
DS_CHECKED ds_status base_read(struct ds_fs *fs, const char *root, uint64_t epoch, struct base *out,
                               struct ds_checkpoint_skip *skips, uint32_t *skip_count,
                               char past[DS_CHECKPOINT_PAST_BYTES]);
/* pure: newer than `base`: where training went on from there, it has never been */
int base_is_behind(const struct base *base, const struct ds_manifest_id *id);

#endif
