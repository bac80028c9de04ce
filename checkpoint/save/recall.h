/* recall.h (private) - what a launch was loaded from is what its first save compares with, where this rank's packs of it
 * were written by the same plan. */
#ifndef CHECKPOINT_RECALL_H
#define CHECKPOINT_RECALL_H

#include "dstrain/delta.h"
#include "dstrain/saver.h"

/* local: knows start->loaded afterwards, or nothing */
void recall(const struct ds_saver_start *start, const struct ds_pack_plan *plan,
            struct ds_delta *delta);

#endif
