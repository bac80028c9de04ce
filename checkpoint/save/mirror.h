/* mirror.h (private) - the second directory of checkpoints, which may be as slow as it is: a thread copies the newest
 * one that is committed, this rank's packs first; when all ranks have theirs, rank 0 commits it there by the same
 * protocol, and only then old ones go there. What comes while a copy goes on waits, the newest of it. A copy that
 * fails costs a line. Main threads meet at the ends of steps while a copy goes on. */
#ifndef CHECKPOINT_MIRROR_H
#define CHECKPOINT_MIRROR_H

#include "dstrain/saver.h"

struct mirror;

struct mirror_options {
    const struct ds_saver_start *start; /* of the open alone; start->mirror is where copies go */
    uint32_t pack_max;                  /* of this rank in one checkpoint, or of what was loaded */
    void *buffer;                       /* DS_PACK_CHUNK_BYTES */
    uint64_t deadline_ns; /* nothing may stand still for longer, where somebody waits for it */
};

/* local */
DS_CHECKED ds_status mirror_open(const struct mirror_options *options, struct mirror **out);
/* collective, before it is closed: its threads have ended on all ranks, or (0) one's call to storage takes too long */
DS_CHECKED ds_status mirror_end(struct mirror *mirror, int *has_ended);
/* local, behind mirror_end: a thread that has not ended is left behind, with the buffer; the directory of copies goes with it */
void mirror_leave(struct mirror *mirror);
/* local: as writer_close */
int mirror_close(struct mirror *mirror, uint64_t grace_ns);
/* local, on all ranks the same: it is committed, with these packs of this rank and those that they refer to */
void mirror_offer(struct mirror *mirror, const struct ds_manifest_id *id,
                  const struct ds_manifest_pack *packs, uint32_t count);
/* collective, before anything else is offered: the launch that wrote it was ended before it was copied, or had no mirror */
DS_CHECKED ds_status mirror_offer_loaded(struct mirror *mirror, const struct ds_manifest *loaded);
/* collective: `may_begin`: nothing is going from the first directory right now. DS_ERR_FENCED: another launch owns
 * the run. */
DS_CHECKED ds_status mirror_poll(struct mirror *mirror, int may_begin);
/* collective: until nothing is left to copy, or it stands still */
DS_CHECKED ds_status mirror_wait(struct mirror *mirror);
/* any thread of rank 0: is one being copied? It must stay where it is. */
int mirror_reads(struct mirror *mirror, struct ds_manifest_id *id);

#endif
