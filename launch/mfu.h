/* mfu.h (private to launch) - model FLOPs utilisation, by the one formula that metrics, console and `bench step`
 * share: the FLOPs of the tokens that a rank trains in a second over what its device can do at most. FLOPs are
 * 6 for every element of a matrix that multiplies (the head, too, and not the embedding) and, for every layer, 6 *
 * seq_length * heads * head_dim: attention as it is computed, half of the square ("causal"). What is computed
 * again to save memory does not count. */
#ifndef DSTRAIN_LAUNCH_MFU_H
#define DSTRAIN_LAUNCH_MFU_H

#include "dstrain/device.h"
#include "dstrain/model.h"

/* local: of 1, `tokens_per_s` being those of all ranks together; NAN where the device's peak is not known (the
 * cpu has none worth naming) or not that of the arithmetic: it is that of 16 bits, and fp32 is another */
double ds_mfu(const struct ds_model *model, uint64_t seq_length, struct ds_device *device,
              double tokens_per_s, uint32_t rank_count);

#endif
