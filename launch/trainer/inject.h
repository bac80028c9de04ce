/* inject.h (private) - faults on request, so that what a run does about them can be tested on a real run.
 * `debug.inject = KIND:RANK:STEP`: hang (the rank sleeps for ever), fail (a failure in the middle of the
 * step), kill (SIGKILL), nan (what attention turns by is NaN during this step). */
#ifndef DSTRAIN_INJECT_H
#define DSTRAIN_INJECT_H

#include "trainer.h"

DS_CHECKED ds_status inject_into_step(struct ds_trainer *t, uint64_t step);

#endif
