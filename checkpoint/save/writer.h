/* writer.h (private) - a thread that writes what a snapshot brings, and on rank 0 commits it. It sees files and host
 * memory alone; the main thread gives it one thing after the other to do, and asks whether it is done. */
#ifndef CHECKPOINT_WRITER_H
#define CHECKPOINT_WRITER_H

#include "snapshot.h"

struct mirror;
struct writer;

/* local: storage, memory and the thread. `mirror` may be NULL: what it reads stays. `start` outlives it; what start->loaded is, is read here alone. */
DS_CHECKED ds_status writer_open(const struct ds_saver_start *start,
                                 const struct snapshot *snapshot, struct mirror *mirror,
                                 struct writer **out);
/* local: what is being written is abandoned; NULL is allowed. 0: the thread has not ended in `grace_ns`; it may at any
 * time go on with what it was given, until it sees that it should end, and all of that is its own now. */
int writer_close(struct writer *writer, uint64_t grace_ns);

/* local: the packs of `step`, which is above 0; begun again, directly behind a failure, they get names of their own: a
 * commit that failed leaves those that it could not name */
void writer_begin(struct writer *writer, uint64_t step);
/* local: so many pieces, from the first on, may be read */
void writer_release(struct writer *writer, uint32_t piece_count);
/* local, rank 0: the second phase, then retention; `manifest` is the thread's until it is done */
void writer_commit(struct writer *writer, const struct ds_manifest *manifest);
/* local: what a save that failed leaves behind goes, and on rank 0 all that nobody needs; `drops_packs`: the packs of
 * this rank, too */
void writer_tidy(struct writer *writer, int drops_packs);
/* local: nobody waits for the packs that are being written any more */
void writer_stop(struct writer *writer);
/* local: is there nothing to do any more? Then what became of it */
int writer_is_done(struct writer *writer, ds_status *st);
/* local: is it done, or will it at least not read so many pieces again? */
int writer_is_past(struct writer *writer, uint32_t piece_count);
/* local, when done: what was written is a checkpoint, and the next save compares with it */
void writer_committed(struct writer *writer);
/* local, between saves: sharing has failed once, and would again */
int writer_cannot_share(struct writer *writer);
/* local, when done with packs: they, and those that they refer to */
const struct ds_manifest_pack *writer_packs(const struct writer *writer, uint32_t *count);

#endif
