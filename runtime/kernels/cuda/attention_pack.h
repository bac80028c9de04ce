/* attention_pack.h - what a call brings to a plan: addresses, by the ids of the plan's graph. Memory lies where it lay
 * in the step before, so that the packs cuDNN wants are made once and kept. */
#ifndef KERNELS_CUDA_ATTENTION_PACK_H
#define KERNELS_CUDA_ATTENTION_PACK_H

#include "attention_graph.h"

/* All bytes count: it is compared as memory. */
struct attention_binding {
    cudnnBackendDescriptor_t plan;
    void *workspace;
    int64_t ids[ATTENTION_ID_END];
    void *at[ATTENTION_ID_END];
    float scale, hidden, one; /* of the host; not among `at` */
    int32_t is_backward, count;
    int32_t unused; /* no byte is left open */
};

static inline void attention_bind(struct attention_binding *b, enum attention_id id, void *at)
{
    b->ids[b->count] = id;
    b->at[b->count++] = at;
}

#define PACKS_MAX 256 /* calls of a step: layers, directions, micro-batches at once */

struct attention_packs {
    struct attention_pack {
        cudnnBackendDescriptor_t pack; /* owned; NULL: none */
        struct attention_binding of;
    } kept[PACKS_MAX];
};

/* local: *out is kept until another call takes its place; made if need be */
cudnnStatus_t attention_packs_find(struct attention_packs *packs, const struct cudnn_library *cudnn,
                                   const struct attention_binding *binding,
                                   cudnnBackendDescriptor_t *out);
void attention_packs_close(struct attention_packs *packs, const struct cudnn_library *cudnn);

#endif
