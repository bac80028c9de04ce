/* share.h - who reads which chunk, when several ranks want it, and how it gets from rank to rank. pure: every rank
 * knows who wants what and comes to the same answers. */
#ifndef DSTRAIN_CHECKPOINT_SHARE_H
#define DSTRAIN_CHECKPOINT_SHARE_H

#include "dstrain/status.h"

#include <stdint.h>

#define SHARE_SLOTS 4u /* chunks of one turn that a rank may want: it has as many buffers */

struct share {
    uint32_t rank_count;
    uint64_t chunk_count, row_bytes;
    /* owns */
    uint8_t *bits;   /* [rank_count][row_bytes]: does the rank want the chunk */
    uint64_t *reads; /* [rank_count]: chunks that it reads, those that it alone wants included */
    uint64_t *turn;  /* [rank_count]: the last one that it has a part in */
    uint32_t *used;  /* [rank_count]: chunks of that turn */
};

struct share_place {
    uint64_t turn;
    uint32_t reader;
    uint32_t count; /* of ranks that want it */
};

/* nobody wants anything; fini after a failure, too */
DS_CHECKED ds_status share_init(struct share *share, uint32_t rank_count, uint64_t chunk_count);
void share_fini(struct share *share);
void share_want(struct share *share, uint32_t rank, uint64_t chunk);
/* in order; `ranks` has rank_count */
uint32_t share_wanters(const struct share *share, uint64_t chunk, uint32_t *ranks);

/* All have said what they want: then place for every chunk, in order. */
void share_begin(struct share *share, uint32_t *ranks);
struct share_place share_place(struct share *share, const uint32_t *ranks, uint32_t count);

/* Who has a chunk sends it to who has not: with reach 1, 2, 4, ... below count the number of those that have it
 * doubles. 1: `rank`, one of `ranks`, sends to *peer; -1: it receives from *peer; 0: it does neither. */
int share_hop(const uint32_t *ranks, uint32_t count, uint32_t reader, uint32_t rank, uint32_t reach,
              uint32_t *peer);

#endif
