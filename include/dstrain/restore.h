/* restore.h - the states of a run, filled from the newest checkpoint that verifies, whatever layout and whatever
 * dtypes wrote it. Each chunk is read once, by one of the ranks that need something of it; its sum is checked
 * while it is read. */
#ifndef DSTRAIN_RESTORE_H
#define DSTRAIN_RESTORE_H

#include "dstrain/checkpoint.h"
#include "dstrain/states.h"

struct ds_restore_options {
    struct ds_comm *control;
    struct ds_fs *fs;
    const char *root;
    const struct ds_checkpoint_dir *dir; /* rank 0's, whose epoch is claimed, with its mirror */
    uint64_t step_max;                   /* no newer one; UINT64_MAX: any */
    /* what this rank holds, written by it or not (ds_states_catalogue, ds_states_pieces) */
    const struct ds_catalogue *catalogue;
    const struct ds_state_piece *pieces;
    uint32_t piece_count;
    struct ds_zero *zero;
    void (*beat)(void *user); /* it goes on; or NULL */
    void *user;
};

enum ds_restored { DS_RESTORED_NOTHING, DS_RESTORED, DS_RESTORED_FROM_MIRROR };

/* collective: owned shards, then whole copies. A master is read from weights alone and the other way round, moments in
 * any dtype. One that fails its sums is passed over, with a line that says so. `*found`, an enum ds_restored, 0: there has never been one,
 * nothing is changed. DS_ERR_NO_CHECKPOINT: there were some, none verifies. DS_ERR_DATA: of another model. `*out`, on
 * every rank, is the caller's to fini. */
DS_CHECKED ds_status ds_restore(const struct ds_restore_options *options, struct ds_manifest *out,
                                int *found);

#endif
