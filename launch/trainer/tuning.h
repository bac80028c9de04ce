/* tuning.h - what a device chooses by the clock (struct ds_tuning_ops), alike on all ranks and kept for the
 * next run.
 *
 * Before the first step rank 0 reads what earlier runs have kept and all ranks take it. What is still unknown
 * each rank times for itself in its first step. After it the ranks' choices are put together: where several
 * have timed the same shape, that of the lowest rank holds for all of them from the second step on; rank 0
 * keeps the whole for the next run, and no rank times anything any more. So ranks that do the same work do it
 * by the same algorithm, whatever a rank's clock has seen, and so do runs after the first one. Only the first
 * step of a run that finds nothing kept may differ between them, by rounding.
 *
 * Kept in $XDG_CACHE_HOME/dstrain or ~/.cache/dstrain, one file a GPU's name and library; a file that does not fit
 * is ignored and replaced, a folder that cannot be written costs one warning. */
#ifndef DSTRAIN_TUNING_H
#define DSTRAIN_TUNING_H

#include "dstrain/comm.h"
#include "dstrain/fs.h"

struct tuning {
    struct ds_device *device;
    struct ds_comm *world; /* control */
    struct ds_fs *fs;
};

/* collective, both; nothing happens where the device chooses nothing by the clock */
DS_CHECKED ds_status tuning_recall(const struct tuning *tuning);
DS_CHECKED ds_status tuning_settle(const struct tuning *tuning);

#endif
