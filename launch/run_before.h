/* run_before.h (private to launch) - the directory of a run right before the first step, when nothing can
 * refuse the launch any more: what earlier launches have left that would be taken for this one's, and
 * room for what this one will write. local: everything here, on rank 0, which holds the run's lock. */
#ifndef DSTRAIN_LAUNCH_RUN_BEFORE_H
#define DSTRAIN_LAUNCH_RUN_BEFORE_H

#include "dstrain/fs.h"

/* for a launch that writes none: the export of an earlier one becomes export.kept-N, with the first N that
 * is free, which `to` then names; "" where there was none */
DS_CHECKED ds_status ds_run_set_export_aside(struct ds_fs *fs, const char *dir, char *to,
                                             size_t bytes);
/* log/rank-NNNN.log of ranks that this launch does not have */
DS_CHECKED ds_status ds_run_remove_logs(struct ds_fs *fs, const char *dir, uint32_t rank_count);
/* One line where less is free than these will take. A warning: space may be made while the run goes on. */
void ds_run_check_space(struct ds_fs *fs, const char *dir, uint64_t export_bytes,
                        uint64_t metrics_bytes);

#endif
