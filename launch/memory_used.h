/* memory_used.h (private to launch) - is what the driver counts what was planned? */
#ifndef DSTRAIN_LAUNCH_MEMORY_USED_H
#define DSTRAIN_LAUNCH_MEMORY_USED_H

#include "dstrain/config.h"
#include "dstrain/trainer.h"

/* After it everything is taken, by libraries, too. */
#define DS_MEMORY_IS_TAKEN_STEP 2

/* local: a line with both numbers, from the rank that finds them; a warning where they are more than 2 % apart.
 * Nothing where the device cannot say, or where ranks share it. */
DS_CHECKED ds_status ds_memory_used_check(const struct ds_config *config,
                                          const struct ds_trainer *trainer);

#endif
