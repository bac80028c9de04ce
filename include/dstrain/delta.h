/* delta.h - which chunks of a save have to be written: those that changed, and those that do not lie in two packs
 * yet. A chunk that many checkpoints share would be lost to all of them at once, so from the second save on that has
 * it unchanged it has two places, and now and then it is written anew. One rank's, one thread's. pure: everything
 * here, but that open takes memory. */
#ifndef DSTRAIN_DELTA_H
#define DSTRAIN_DELTA_H

#include "dstrain/pack.h"

#define DS_DELTA_REWRITE_SAVES 20 /* a chunk is written at least as often as this */
#define DS_DELTA_PACKS_MAX     8  /* older packs that a save refers to, for each of its files */

struct ds_delta;

/* Knows nothing yet: the first save is whole. */
DS_CHECKED ds_status ds_delta_open(const struct ds_pack_plan *plan, struct ds_delta **out);
void ds_delta_close(struct ds_delta *delta);  /* NULL is allowed */
void ds_delta_forget(struct ds_delta *delta); /* after a rollback, and when packs may have gone */

/* A save begins; one that was begun and not committed is as if it had not been. `*others`: what its packs may refer
 * to (struct ds_pack_new), until the next begin. */
void ds_delta_begin(struct ds_delta *delta, const struct ds_pack_other **others, uint32_t *count);
enum ds_delta_choice {
    DS_DELTA_PUT,      /* ds_pack_put without a copy */
    DS_DELTA_PUT_COPY, /* ds_pack_put, and *where is its second place */
    DS_DELTA_REFER,    /* ds_pack_refer to *where */
};
/* `chunk` of the plan, `digest` of its body now */
enum ds_delta_choice ds_delta_choose(const struct ds_delta *delta, uint32_t chunk,
                                     const struct ds_digest *digest, struct ds_pack_chunk *where);
/* One part is finished: its table (ds_pack_written) and its name. */
void ds_delta_wrote(struct ds_delta *delta, uint32_t part, const struct ds_pack_chunk *table,
                    const struct ds_pack_other *pack);
/* All parts are: the older packs that they refer to, which the manifest has to name. `to` has DS_PACK_OTHERS_MAX. */
uint32_t ds_delta_needed(const struct ds_delta *delta, struct ds_pack_other *to);
/* It was committed: the next save compares with it. */
void ds_delta_committed(struct ds_delta *delta);

#endif
