/* banner.h (private to launch) - the first lines of a run, from what was assembled. */
#ifndef DSTRAIN_LAUNCH_BANNER_H
#define DSTRAIN_LAUNCH_BANNER_H

#include "dstrain/config.h"
#include "dstrain/trainer.h"

/* collective over world: rank 0 shows them; memory is that of the rank that takes most */
DS_CHECKED ds_status ds_banner_show(struct ds_comm *world, const struct ds_config *config,
                                    const struct ds_trainer *trainer);

#endif
