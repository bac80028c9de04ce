/* progress.h - where training stands behind a step, beside its tensors: what a launch has to know to go on as if it
 * had never ended. Learning rates, random numbers and the order of samples are functions of the step. pure. */
#ifndef DSTRAIN_PROGRESS_H
#define DSTRAIN_PROGRESS_H

#include "dstrain/manifest.h"

struct ds_progress {
    uint64_t step;            /* the last that is in the states */
    uint64_t samples, tokens; /* read so far: sequences, positions */
    /* of the step record (kernels.h) */
    uint64_t updates, skipped;
    float next_loss_scale;
    uint32_t finite_count;
};

DS_CHECKED ds_status ds_progress_write(const struct ds_progress *progress,
                                       struct ds_values *values);
/* DS_ERR_DATA, one line that begins with `what` */
DS_CHECKED ds_status ds_progress_read(const char *what, const struct ds_values *values,
                                      struct ds_progress *out);

#endif
