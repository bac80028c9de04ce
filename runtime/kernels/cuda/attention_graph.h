/* attention_graph.h - attention as cuDNN's graph API wants it told: tensors, operations, and from them a plan
 * that can be executed. Needs no GPU: a plan can be made for a device that is described in words. */
#ifndef KERNELS_CUDA_ATTENTION_GRAPH_H
#define KERNELS_CUDA_ATTENTION_GRAPH_H

#include "dstrain/tensor.h"

#include <cudnn_graph.h>

/* ---- the library, found at run time: dstrain works without it */

#define CUDNN_CALLS(X)               \
    X(cudnnCreate)                   \
    X(cudnnDestroy)                  \
    X(cudnnSetStream)                \
    X(cudnnGetVersion)               \
    X(cudnnGetErrorString)           \
    X(cudnnGetLastErrorString)       \
    X(cudnnBackendCreateDescriptor)  \
    X(cudnnBackendDestroyDescriptor) \
    X(cudnnBackendSetAttribute)      \
    X(cudnnBackendGetAttribute)      \
    X(cudnnBackendFinalize)          \
    X(cudnnBackendExecute)

#define CUDNN_FIELD(name) __typeof__(name) *name;
struct cudnn_library {
    void *handle; /* NULL: not here */
    CUDNN_CALLS(CUDNN_FIELD)
};
#undef CUDNN_FIELD

/* local: by its name, then beside the shared object that `beside` is a function of, which may be NULL, and where
 * Python's packages lay it from there. 0: not here; `why` says what the loader said of the name. */
int cudnn_library_open(struct cudnn_library *cudnn, const void *beside, const char **why);
void cudnn_library_close(struct cudnn_library *cudnn);

/* ---- what is asked for */

/* Causal attention of sequences, each one document or, where `documents` is not 0, of so many documents at most
 * that follow each other in them. All bytes count: it is compared as memory. */
struct attention_key {
    int32_t seq_count, seq_length, heads, kv_heads, dim;
    int32_t documents;
    uint16_t dtype; /* DS_BF16 or DS_F16 */
    uint16_t is_backward;
};

/* Tensors that a call brings, by the ids they have in a graph. */
enum attention_id {
    ATTENTION_Q = 1,
    ATTENTION_K,
    ATTENTION_V,
    ATTENTION_O,
    ATTENTION_LSE,
    ATTENTION_SCALE,  /* the three that are floats of the host */
    ATTENTION_HIDDEN, /* -inf */
    ATTENTION_ONE,
    ATTENTION_DO,
    ATTENTION_DELTA, /* fp32, T x H in some order, scratch */
    ATTENTION_DQ,
    ATTENTION_DK,
    ATTENTION_DV,
    ATTENTION_DQ_SUMS, /* fp32, T x H x D in some order, scratch */
    /* of packed documents alone */
    ATTENTION_QUERIES_AT,    /* int64 [documents + 1]: elements of q before each */
    ATTENTION_KEYS_AT,       /* of k */
    ATTENTION_LSE_AT,        /* of lse */
    ATTENTION_QUERY_LENGTHS, /* int32 [documents]; 0: not there */
    ATTENTION_KEY_LENGTHS,
    ATTENTION_DK_HEADS, /* [T, H, D] as q is stored, where heads share keys; scratch */
    ATTENTION_DV_HEADS,
    ATTENTION_ID_END
};

#define GRAPH_DESCRIPTORS_MAX 192
#define GRAPH_OPERATIONS_MAX  32
#define GRAPH_CONFIGS_MAX     16

struct attention_graph {
    const struct cudnn_library *cudnn;
    cudnnStatus_t status; /* the first that is no success; after it nothing is done */
    cudnnBackendDescriptor_t made[GRAPH_DESCRIPTORS_MAX]; /* owned */
    cudnnBackendDescriptor_t operations[GRAPH_OPERATIONS_MAX];
    int made_count, operation_count;
    int64_t next_id; /* of tensors that exist inside only */
};

struct attention_plan {
    struct attention_graph graph; /* what the plan is made of lives as long as it does */
    cudnnBackendDescriptor_t plan;
    int64_t workspace_bytes;
};

/* The GPU at hand, or one that is described: one of the two is NULL. */
struct attention_target {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t device;
};

/* local: half a second at the first call of a kind, since kernels are compiled. Not CUDNN_STATUS_SUCCESS: cuDNN
 * does not do it. The plan can be closed either way. */
cudnnStatus_t attention_plan_open(struct attention_plan *plan, const struct cudnn_library *cudnn,
                                  const struct attention_key *key,
                                  const struct attention_target *target);
void attention_plan_close(struct attention_plan *plan);

/* local, of attention_graph.c: */
cudnnBackendDescriptor_t graph_make(struct attention_graph *g, cudnnBackendDescriptorType_t type);
void graph_set(struct attention_graph *g, cudnnBackendDescriptor_t of,
               cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
               const void *value);
void graph_finish(struct attention_graph *g, cudnnBackendDescriptor_t descriptor);
void graph_forward(struct attention_graph *g, const struct attention_key *key);
void graph_backward(struct attention_graph *g, const struct attention_key *key);

#endif
