/* inject.h (private) - faults on request (config/inject_text.h), so that what a run does about them can be
 * tested on a real run. */
#ifndef DSTRAIN_INJECT_H
#define DSTRAIN_INJECT_H

#include "trainer.h"

/* local: does what `debug.inject` asks of this rank in this step, if anything */
DS_CHECKED ds_status inject_into_step(struct ds_trainer *t, uint64_t step);

#endif
