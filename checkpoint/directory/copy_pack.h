/* copy_pack.h (private) - a pack from one directory of checkpoints to another, byte by byte, under its own name: chunks
 * with their sums checked, durable, its name too, and read back. One that is there already is left as it is, unless it
 * was damaged since. */
#ifndef CHECKPOINT_COPY_PACK_H
#define CHECKPOINT_COPY_PACK_H

#include "dstrain/checkpoint.h"

#define COPY_PACK_ENDING ".tmp" /* behind the name of one that is being written */

struct copy_pack_options {
    struct ds_fs *fs;
    const char *from, *to;                      /* roots; data/<dir> is there in both */
    void *buffer;                               /* DS_PACK_CHUNK_BYTES */
    int (*went_on)(void *user, uint64_t bytes); /* so much more was written; 0: leave it */
    void *user;
};
/* local: DS_ERR_DEADLINE: it was left, and no line is said */
DS_CHECKED ds_status copy_pack(const struct copy_pack_options *options,
                               const struct ds_manifest_pack *pack);

#endif
