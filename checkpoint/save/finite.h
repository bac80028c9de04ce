/* finite.h (private) - what is not a number, or infinite, is in no checkpoint: nobody could train on from there. */
#ifndef CHECKPOINT_FINITE_H
#define CHECKPOINT_FINITE_H

#include "dstrain/pack.h"

/* local: the elements of `chunk`, which lie at `body`. DS_ERR_DATA names the tensor and the first element. */
DS_CHECKED ds_status finite_check(const struct ds_catalogue *catalogue,
                                  const struct ds_pack_chunk *chunk, const void *body);

#endif
