/* inject.h (private) - faults on request (config/inject_text.h), so that what a run does about them can be
 * tested on a real run. */
#ifndef DSTRAIN_INJECT_H
#define DSTRAIN_INJECT_H

#include "trainer.h"

/* local: does what `debug.inject` asks of this rank in this step, if anything */
DS_CHECKED ds_status inject_into_step(struct ds_trainer *t, uint64_t step);

/* pure: by all ranks alike: another rate for this step; labels at random for this step's batch, if it is one of those,
 * the same ones on every layout */
void inject_into_rate(const struct ds_trainer *t, uint64_t step, float *rate);
void inject_into_labels(const struct ds_trainer *t, uint64_t step,
                        const struct ds_loader_batch *batch);

#endif
