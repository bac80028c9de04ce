/* attention_plans.h - the plans of a device: one for each shape that has been met. */
#ifndef KERNELS_CUDA_ATTENTION_PLANS_H
#define KERNELS_CUDA_ATTENTION_PLANS_H

#include "attention_graph.h"

#define PLANS_MAX 64 /* shapes of a run, of both directions and of pieces */

struct attention_planned {
    struct attention_key key;
    struct attention_plan plan;
    cudnnStatus_t status; /* of making it */
};

struct attention_plans {
    int count;
    struct attention_planned planned[PLANS_MAX]; /* owned */
};

/* local: made at the first call with a key. NULL: cuDNN does not take the shape, which is said once at INFO, or there
 * have been too many of them. */
const struct attention_planned *attention_plans_find(struct attention_plans *plans,
                                                     const struct attention_key *key,
                                                     const struct cudnn_library *cudnn,
                                                     cudnnHandle_t handle);
void attention_plans_close(struct attention_plans *plans);

#endif
