/* attention_node.h - what a graph of attention is put together of: tensors of (b, h, s, d) and operations on
 * them. In comments b documents or whole sequences, h heads, s positions, d head_dim. */
#ifndef KERNELS_CUDA_ATTENTION_NODE_H
#define KERNELS_CUDA_ATTENTION_NODE_H

#include "attention_graph.h"

#define FP32 CUDNN_DATA_FLOAT

enum { INSIDE = 0 }; /* id of a tensor that never lies in memory */

struct node {
    cudnnBackendDescriptor_t descriptor;
    int64_t dims[4], strides[4];
};

cudnnDataType_t node_stored_type(const struct attention_key *key);
int64_t node_batch(const struct attention_key *key);

/* `offsets` NULL: one b behind the other; else where each b begins, in elements */
struct node node_tensor(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                        const int64_t dims[4], const int64_t strides[4],
                        const struct node *offsets);
struct node node_scalar(struct attention_graph *g, int64_t id);
/* `count` integers */
struct node node_list(struct attention_graph *g, int64_t id, cudnnDataType_t type, int64_t count);
/* (b, h, rows, columns), one after the other */
struct node node_square(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                        const struct attention_key *key, int64_t rows, int64_t columns);
/* (b, h, s, s) inside */
struct node node_scores(struct attention_graph *g, cudnnDataType_t type,
                        const struct attention_key *key);
/* [T, heads, d] as (b, heads, s, d) */
struct node node_heads(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                       const struct attention_key *key, int32_t heads, const struct node *offsets);
/* [T, g, d] as (b, g, d, s): what a product with queries reads */
struct node node_turned_keys(struct attention_graph *g, int64_t id, const struct attention_key *key,
                             const struct node *offsets);
/* fp32 [T, h] as (b, h, s, 1) */
struct node node_per_query(struct attention_graph *g, int64_t id, const struct attention_key *key,
                           const struct node *offsets);

/* c = a b; of its rows, columns and sums only as many as these lists say for each b, where they are given */
struct product {
    const struct node *a, *b, *c;
    const struct node *rows, *columns, *sums;
};
void node_multiply(struct attention_graph *g, const struct product *p);
void node_reduce(struct attention_graph *g, cudnnReduceTensorOp_t how_to, const struct node *x,
                 const struct node *y);
void node_reshape(struct attention_graph *g, const struct node *x, const struct node *y);

/* y = mode(x, b), where `by` is set chosen by it; b and `by` may be NULL. */
struct pointwise {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t math;
    int64_t axis; /* of an index */
    const struct node *x, *b, *by;
};
void node_pointwise(struct attention_graph *g, const struct pointwise *p, const struct node *y);
/* scores = mode(scores, b) in fp32, stored as `type` */
struct node node_of_scores(struct attention_graph *g, const struct attention_key *key,
                           cudnnPointwiseMode_t mode, cudnnDataType_t type, const struct node *x,
                           const struct node *b);

#endif
