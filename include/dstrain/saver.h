/* saver.h - checkpoints while training goes on. Behind the update of a step the states are copied, unit by unit, to
 * pinned memory on a stream of their own; only the next update of a unit that is not yet copied waits. A thread
 * writes what has come and, on rank 0, commits; the main threads of all ranks meet at the ends of steps while a save
 * is on its way, and never otherwise. What the last checkpoint has already is referred to, not written (delta.h):
 * states that do not change cost what a table takes, from the third save on that has them. A save that is due while
 * another is on its way is left out. Storage that fails costs a checkpoint and a line, never the run: its leavings go,
 * and the next tries come after 1, 2, 4 .. 32 intervals. Storage that does not answer costs no more: that save is given
 * up, later ones are left out until it does. What is committed is copied to a mirror, where there is one, by a thread
 * of its own, in its own time. */
#ifndef DSTRAIN_SAVER_H
#define DSTRAIN_SAVER_H

#include "dstrain/checkpoint.h"
#include "dstrain/exporter.h"
#include "dstrain/progress.h"
#include "dstrain/states.h"

/* A save may take as long as this, or three times what saves take. */
#define DS_SAVER_DEADLINE_NS 120000000000u

struct ds_saver;

struct ds_saver_options {
    /* what is saved: borrowed for as long as the saver lives */
    const struct ds_catalogue *catalogue;
    const struct ds_state_piece *pieces;
    uint32_t piece_count;
    uint32_t unit_count; /* of the model; these two: of each */
    const uint32_t *unit_param_counts;
    const uint8_t
        *saves_unit; /* does this rank write of it, or would it if its shard held anything? */
    const struct ds_zero_dtypes *dtypes;
    struct ds_zero *zero;
    struct ds_device *device;
    struct ds_stream *compute, *comm;
    struct ds_memory *memory;
    const char *buffer_place; /* whose key buffer_bytes is, for a message of open */
    uint64_t buffer_bytes;    /* of pinned memory; 0: as much as all states take */
    int has_mirror;           /* checkpoints may be copied to a second directory */
};

/* local: memory, stream and events; a plan does no more */
DS_CHECKED ds_status ds_saver_open(const struct ds_saver_options *options, struct ds_saver **out);
/* local: ends the thread; a save that is on its way is abandoned. A thread that is stuck in a call to the disk is left
 * behind, with all the memory that it can see. NULL is allowed. */
void ds_saver_close(struct ds_saver *saver);

/* How often a save has to stop training to empty its memory; 0: never. And the memory that it would take to save at
 * once. The same for all ranks of a role. pure, both. */
uint32_t ds_saver_stops(const struct ds_saver *saver);
uint64_t ds_saver_bytes(const struct ds_saver *saver);

/* States at home in files can be saved as they lie there: the saver has them frozen (zero.h), which stops nothing but writes
 * to those files, for a moment; its thread reads them from there in its own time, compares the sum of every block with
 * the one that it was written with, and has packs share their blocks. Nothing passes the device, the
 * snapshot's memory or the pages of a pack. Packs are what they always are, whole and their own. A block of states has
 * two places (swap.h), so that what a checkpoint shares is not written over, and no update needs room that may not be there:
 * files of states are larger by what is saved of them. What two saves find unchanged is not shared by both: it is written, or referred to, as ever (delta.h). */
struct ds_saver_still {
    int *files;         /* [count], one a drive: to read and write, without a name */
    char **directories; /* [count], theirs */
    uint32_t count;
};
/* closes and frees them; all zero: nothing to do */
void ds_saver_still_fini(struct ds_fs *fs, struct ds_saver_still *still);

struct ds_saver_start {
    struct ds_comm *control;
    struct ds_fs *fs;
    const struct ds_clock *clock;
    const char *root;   /* borrowed; both */
    const char *mirror; /* where copies go, the mirror of `dir`; NULL: nowhere */
    uint8_t run[16], nonce[16];
    uint64_t epoch;
    struct ds_checkpoint_dir
        *dir; /* rank 0's, whose epoch is claimed and has its base; the saver's from here on */
    struct ds_manifest_layout layout;
    struct ds_manifest_id parent; /* what the launch went on from */
    int has_parent;
    const struct ds_manifest *loaded; /* the same in full, read by start alone; NULL: nothing was */
    struct ds_values values;          /* what else the manifests say; taken over */
    uint32_t keep;
    uint64_t keep_every, keep_margin; /* struct ds_checkpoint_retention */
    struct ds_saver_still still;      /* count 0: all states are copied; the saver's from here on */
    struct ds_exporter *exporter; /* rank 0's, or NULL: is told of what is committed; borrowed */
    uint64_t
        stall_ns_max; /* how long a step may stand still for a save: other ranks wait for it; 0: any time */
    void (*beat)(void *user); /* a wait goes on */
    void *user;
};
/* collective, before the first step: proves that all ranks' pieces are each tensor once, and starts the thread.
 * DS_ERR_DATA, DS_ERR_NO_MEMORY, DS_ERR_IO, the same on all ranks. */
DS_CHECKED ds_status ds_saver_start(struct ds_saver *saver, const struct ds_saver_start *start);

/* collective: saves the states that `step` leaves, all of which is queued. `is_last`: waits for an earlier save,
 * which otherwise lets this one be left out. A step whose save has failed may be saved again. */
DS_CHECKED ds_status ds_saver_begin(struct ds_saver *saver, uint64_t step, int is_last);
/* local: what else the manifest of the save of `step` is to say, while it may be changed: until the step's numbers
 * have come. NULL: it is not being saved. */
struct ds_values *ds_saver_values(struct ds_saver *saver, uint64_t step);
/* local: the step's numbers have come. Only those of the step that is being saved are taken. */
DS_CHECKED ds_status ds_saver_note(struct ds_saver *saver, const struct ds_progress *progress);
/* collective, at the end of every step: nothing happens where no save is on its way. DS_ERR_FENCED: another launch
 * owns the run; else a failure is one to copy or to talk. */
DS_CHECKED ds_status ds_saver_poll(struct ds_saver *saver);
/* pure, all three, and the same on all ranks at the end of a step. Is no save on its way, not even one that was given
 * up? Is `step` being saved, or is it the last that was, by this launch? Why has the last one failed that has: DS_ERR_DATA,
 * its states are not finite; DS_OK: none has, or nothing but time was against it. */
int ds_saver_is_idle(const struct ds_saver *saver);
int ds_saver_has(const struct ds_saver *saver, uint64_t step);
ds_status ds_saver_failure(const struct ds_saver *saver);
/* collective: until none is, or the one that is was given up */
DS_CHECKED ds_status ds_saver_wait(struct ds_saver *saver);
/* collective: until the last one is copied to the mirror, too, as long as that goes on */
DS_CHECKED ds_status ds_saver_wait_mirror(struct ds_saver *saver);

/* collective, where none is: ends the threads, what is being copied to the mirror is left; the saver can be started again.
 * `*dir`: rank 0's directory, the caller's again; it has no mirror any more where a thread that copies does not end, which is
 * left behind. The status is this rank's; DS_ERR_IO: one that writes checkpoints does not end. */
DS_CHECKED ds_status ds_saver_stop(struct ds_saver *saver, struct ds_checkpoint_dir **dir);

#endif
