/* delta.h - which chunks of a save have to be written: those that changed, and those that do not lie in two packs
 * yet. A chunk that many checkpoints share would be lost to all of them at once, so from the second save on that has
 * it unchanged it has two places, and now and then it is written anew. So is what lies in packs of which too little
 * else is of use: at least half of what a save keeps from going is its own. One rank's, one thread's. pure: everything
 * here. */
#ifndef DSTRAIN_DELTA_H
#define DSTRAIN_DELTA_H

#include "dstrain/pack.h"

#define DS_DELTA_REWRITE_SAVES 20 /* a chunk is written at least as often as this */
#define DS_DELTA_PACKS_MAX     8  /* older packs that a save refers to, for each of its files */

struct ds_delta;

/* Memory for a plan of so many chunks. */
size_t ds_delta_bytes(uint64_t chunk_count);
/* In `memory`, at a multiple of 16, which outlives it and is the caller's to free. Knows nothing yet: the first save
 * is whole. */
struct ds_delta *ds_delta_make(const struct ds_pack_plan *plan, void *memory);
void ds_delta_forget(struct ds_delta *delta); /* after a rollback, and when packs may have gone */
/* An earlier launch has committed `pack`, called `name`, as this part. 0: not by this plan, or there are too many
 * others; then forget. All packs that it refers to are `name`d in the plan's way: of one of its parts. */
int ds_delta_recall(struct ds_delta *delta, uint32_t part, const struct ds_pack *pack,
                    const struct ds_pack_other *name);
/* A pack of what was recalled is not to be relied on: what has another place has that alone, the rest is written again. */
void ds_delta_drop(struct ds_delta *delta, const struct ds_pack_id *id);

/* A save begins; one that was begun and not committed is as if it had not been. `*others`: what its packs may refer
 * to (struct ds_pack_new), until the next begin. */
void ds_delta_begin(struct ds_delta *delta, const struct ds_pack_other **others, uint32_t *count);
enum ds_delta_choice {
    DS_DELTA_PUT,      /* ds_pack_put without a copy */
    DS_DELTA_PUT_COPY, /* ds_pack_put, and *where is its second place */
    DS_DELTA_REFER,    /* ds_pack_refer to *where */
};
/* 0: it will be DS_DELTA_PUT, whatever its digest */
int ds_delta_knows(const struct ds_delta *delta, uint32_t chunk);
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
