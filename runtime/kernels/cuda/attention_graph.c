/* attention_graph.c - attention as a graph of products, sums over rows and pointwise operations.
 *
 * cuDNN knows its fused kernels by their pattern: operations and their order are those of cudnn-frontend for
 * versions before 9.21, whose one-piece attention takes no causal mask. In comments b sequences, h heads, s
 * positions, d head_dim; tensors are (b, h, s, d) to cuDNN and lie as ours do. */
#include "attention_graph.h"

#include <stdbool.h>
#include <string.h>

/* ---- descriptors: made, filled, finished; the first failure stays */

cudnnBackendDescriptor_t graph_make(struct attention_graph *g, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t made = NULL;

    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    if (g->made_count == GRAPH_DESCRIPTORS_MAX) {
        g->status = CUDNN_STATUS_ALLOC_FAILED;
        return NULL;
    }
    g->status = g->cudnn->cudnnBackendCreateDescriptor(type, &made);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->made[g->made_count++] = made;
    return made;
}

void graph_set(struct attention_graph *g, cudnnBackendDescriptor_t of,
               cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
               const void *value)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = g->cudnn->cudnnBackendSetAttribute(of, name, type, count, value);
}

void graph_finish(struct attention_graph *g, cudnnBackendDescriptor_t descriptor)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = g->cudnn->cudnnBackendFinalize(descriptor);
}

static void set_part(struct attention_graph *g, cudnnBackendDescriptor_t of,
                     cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t part)
{
    graph_set(g, of, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static void set_flag(struct attention_graph *g, cudnnBackendDescriptor_t of,
                     cudnnBackendAttributeName_t name, int flag)
{
    const bool value = flag;

    graph_set(g, of, name, CUDNN_TYPE_BOOLEAN, 1, &value);
}

static void set_type(struct attention_graph *g, cudnnBackendDescriptor_t of,
                     cudnnBackendAttributeName_t name, cudnnDataType_t type)
{
    graph_set(g, of, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

static void add_operation(struct attention_graph *g, cudnnBackendDescriptor_t operation)
{
    graph_finish(g, operation);
    if (g->operation_count == GRAPH_OPERATIONS_MAX)
        g->status = CUDNN_STATUS_ALLOC_FAILED;
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->operations[g->operation_count++] = operation;
}

/* ---- tensors */

struct node {
    cudnnBackendDescriptor_t descriptor;
    int64_t dims[4], strides[4];
};

#define FP32 CUDNN_DATA_FLOAT

enum { INSIDE = 0 }; /* id of a tensor that never lies in memory */

static int is_of_host(int64_t id)
{
    return id == ATTENTION_SCALE || id == ATTENTION_HIDDEN || id == ATTENTION_ONE;
}

static struct node tensor(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                          const int64_t dims[4], const int64_t strides[4])
{
    const int64_t alignment = 16, own_id = id == INSIDE ? g->next_id++ : id;
    struct node x = {.descriptor = graph_make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR)};

    memcpy(x.dims, dims, sizeof x.dims);
    memcpy(x.strides, strides, sizeof x.strides);
    set_type(g, x.descriptor, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    graph_set(g, x.descriptor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    graph_set(g, x.descriptor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    graph_set(g, x.descriptor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &own_id);
    graph_set(g, x.descriptor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    set_flag(g, x.descriptor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, id == INSIDE);
    set_flag(g, x.descriptor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, is_of_host(id));
    graph_finish(g, x.descriptor);
    return x;
}

/* (b, h, rows, columns), one after the other */
static struct node packed(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                          const struct attention_key *key, int64_t rows, int64_t columns)
{
    const int64_t dims[4] = {key->seq_count, key->heads, rows, columns};
    const int64_t strides[4] = {key->heads * rows * columns, rows * columns, columns, 1};

    return tensor(g, id, type, dims, strides);
}

static struct node scores(struct attention_graph *g, cudnnDataType_t type,
                          const struct attention_key *key)
{
    return packed(g, INSIDE, type, key, key->seq_length, key->seq_length);
}

static struct node scalar(struct attention_graph *g, int64_t id)
{
    const int64_t one[4] = {1, 1, 1, 1};

    return tensor(g, id, FP32, one, one);
}

static cudnnDataType_t stored_type(const struct attention_key *key)
{
    return key->dtype == DS_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

/* [T, heads, d] as (b, heads, s, d) */
static struct node heads_of(struct attention_graph *g, int64_t id, const struct attention_key *key,
                            int32_t heads)
{
    const int64_t row = (int64_t)heads * key->dim;
    const int64_t dims[4] = {key->seq_count, heads, key->seq_length, key->dim};
    const int64_t strides[4] = {key->seq_length * row, key->dim, row, 1};

    return tensor(g, id, stored_type(key), dims, strides);
}

/* [T, g, d] as (b, g, d, s): what a product with queries reads */
static struct node turned_keys(struct attention_graph *g, int64_t id,
                               const struct attention_key *key)
{
    const int64_t row = (int64_t)key->kv_heads * key->dim;
    const int64_t dims[4] = {key->seq_count, key->kv_heads, key->dim, key->seq_length};
    const int64_t strides[4] = {key->seq_length * row, key->dim, 1, row};

    return tensor(g, id, stored_type(key), dims, strides);
}

/* lse_TH as (b, h, s, 1) */
static struct node lse_of(struct attention_graph *g, const struct attention_key *key)
{
    const int64_t dims[4] = {key->seq_count, key->heads, key->seq_length, 1};
    const int64_t strides[4] = {(int64_t)key->heads * key->seq_length, 1, key->heads, 1};

    return tensor(g, ATTENTION_LSE, FP32, dims, strides);
}

/* ---- operations */

static void multiply(struct attention_graph *g, const struct node *a, const struct node *b,
                     const struct node *c)
{
    const cudnnBackendDescriptor_t how = graph_make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    cudnnBackendDescriptor_t product;

    set_type(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, FP32);
    graph_finish(g, how);
    product = graph_make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_part(g, product, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a->descriptor);
    set_part(g, product, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b->descriptor);
    set_part(g, product, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c->descriptor);
    set_part(g, product, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add_operation(g, product);
}

static void reduce(struct attention_graph *g, cudnnReduceTensorOp_t how_to, const struct node *x,
                   const struct node *y)
{
    const cudnnBackendDescriptor_t how = graph_make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    cudnnBackendDescriptor_t reduction;

    graph_set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
              &how_to);
    set_type(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, FP32);
    graph_finish(g, how);
    reduction = graph_make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_part(g, reduction, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x->descriptor);
    set_part(g, reduction, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y->descriptor);
    set_part(g, reduction, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    add_operation(g, reduction);
}

static void reshape(struct attention_graph *g, const struct node *x, const struct node *y)
{
    const cudnnBackendDescriptor_t operation =
        graph_make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);

    set_part(g, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x->descriptor);
    set_part(g, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y->descriptor);
    add_operation(g, operation);
}

/* y = mode(x, b), where `by` is set chosen by it; b and `by` may be NULL. */
struct pointwise {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t math;
    int64_t axis; /* of an index */
    const struct node *x, *b, *by;
};

static void pointwise_to(struct attention_graph *g, const struct pointwise *p, const struct node *y)
{
    const cudnnBackendDescriptor_t how = graph_make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    cudnnBackendDescriptor_t operation;

    graph_set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &p->mode);
    set_type(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, p->math);
    if (p->mode == CUDNN_POINTWISE_GEN_INDEX)
        graph_set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &p->axis);
    graph_finish(g, how);
    operation = graph_make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p->x->descriptor);
    if (p->b)
        set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p->b->descriptor);
    if (p->by)
        set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, p->by->descriptor);
    set_part(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y->descriptor);
    add_operation(g, operation);
}

/* scores = mode(scores, b) in fp32, stored as `type` */
static struct node of_scores(struct attention_graph *g, const struct attention_key *key,
                             cudnnPointwiseMode_t mode, cudnnDataType_t type, const struct node *x,
                             const struct node *b)
{
    const struct node y = scores(g, type, key);

    pointwise_to(g, &(struct pointwise){.mode = mode, .math = FP32, .x = x, .b = b}, &y);
    return y;
}

static struct node index_of(struct attention_graph *g, const struct attention_key *key,
                            const struct node *x, int64_t axis)
{
    const struct node y = scores(g, CUDNN_DATA_INT32, key);

    pointwise_to(
        g,
        &(struct pointwise){.mode = CUDNN_POINTWISE_GEN_INDEX, .math = FP32, .axis = axis, .x = x},
        &y);
    return y;
}

/* Scores of keys behind the query become -inf. */
static struct node hide_later(struct attention_graph *g, const struct attention_key *key,
                              const struct node *x, const struct node *hidden)
{
    const struct node row = index_of(g, key, x, 2), column = index_of(g, key, x, 3);
    const struct node sees = scores(g, CUDNN_DATA_BOOLEAN, key);
    const struct node y = scores(g, FP32, key);

    pointwise_to(
        g,
        &(struct pointwise){
            .mode = CUDNN_POINTWISE_CMP_GE, .math = CUDNN_DATA_BOOLEAN, .x = &row, .b = &column},
        &sees);
    pointwise_to(
        g,
        &(struct pointwise){
            .mode = CUDNN_POINTWISE_BINARY_SELECT, .math = FP32, .x = x, .b = hidden, .by = &sees},
        &y);
    return y;
}

/* ---- forward */

/* x becomes probabilities, lse = max + log(sum of exp) on the way. */
static struct node soften(struct attention_graph *g, const struct attention_key *key,
                          const struct node *x, const struct node *lse)
{
    const int64_t s = key->seq_length;
    const struct node top = packed(g, INSIDE, FP32, key, s, 1);
    struct node sum, log, below, power;

    reduce(g, CUDNN_REDUCE_TENSOR_MAX, x, &top);
    below = of_scores(g, key, CUDNN_POINTWISE_SUB, FP32, x, &top);
    power = of_scores(g, key, CUDNN_POINTWISE_EXP, FP32, &below, NULL);
    sum = packed(g, INSIDE, FP32, key, s, 1);
    reduce(g, CUDNN_REDUCE_TENSOR_ADD, &power, &sum);
    log = packed(g, INSIDE, FP32, key, s, 1);
    pointwise_to(g, &(struct pointwise){.mode = CUDNN_POINTWISE_LOG, .math = FP32, .x = &sum},
                 &log);
    pointwise_to(
        g, &(struct pointwise){.mode = CUDNN_POINTWISE_ADD, .math = FP32, .x = &top, .b = &log},
        lse);
    return of_scores(g, key, CUDNN_POINTWISE_DIV, stored_type(key), &power, &sum);
}

void graph_forward(struct attention_graph *g, const struct attention_key *key)
{
    const struct node q = heads_of(g, ATTENTION_Q, key, key->heads);
    const struct node k = turned_keys(g, ATTENTION_K, key);
    const struct node v = heads_of(g, ATTENTION_V, key, key->kv_heads);
    const struct node o = heads_of(g, ATTENTION_O, key, key->heads);
    const struct node lse = lse_of(g, key), scale = scalar(g, ATTENTION_SCALE);
    const struct node hidden = scalar(g, ATTENTION_HIDDEN);
    struct node x = scores(g, FP32, key);

    multiply(g, &q, &k, &x);
    x = of_scores(g, key, CUDNN_POINTWISE_MUL, FP32, &x, &scale);
    x = hide_later(g, key, &x, &hidden);
    x = soften(g, key, &x, &lse);
    multiply(g, &x, &v, &o);
}

/* ---- backward */

/* delta = sum over d of do * o */
static struct node delta_of(struct attention_graph *g, const struct attention_key *key,
                            const struct node *dout)
{
    const int64_t s = key->seq_length;
    const struct node o = heads_of(g, ATTENTION_O, key, key->heads);
    const struct node one = scalar(g, ATTENTION_ONE);
    const struct node product = packed(g, INSIDE, FP32, key, s, key->dim);
    const struct node sum = packed(g, INSIDE, FP32, key, s, 1);
    const struct node delta = packed(g, ATTENTION_DELTA, FP32, key, s, 1);

    pointwise_to(g,
                 &(struct pointwise){.mode = CUDNN_POINTWISE_MUL, .math = FP32, .x = dout, .b = &o},
                 &product);
    reduce(g, CUDNN_REDUCE_TENSOR_ADD, &product, &sum);
    pointwise_to(
        g, &(struct pointwise){.mode = CUDNN_POINTWISE_MUL, .math = FP32, .x = &sum, .b = &one},
        &delta);
    return delta;
}

static struct node probabilities(struct attention_graph *g, const struct attention_key *key,
                                 const struct node *q, const struct node *k_turned,
                                 const struct node *scale)
{
    const struct node lse = lse_of(g, key), hidden = scalar(g, ATTENTION_HIDDEN);
    struct node x = scores(g, FP32, key);

    multiply(g, q, k_turned, &x);
    x = of_scores(g, key, CUDNN_POINTWISE_MUL, FP32, &x, scale);
    x = of_scores(g, key, CUDNN_POINTWISE_SUB, FP32, &x, &lse);
    x = hide_later(g, key, &x, &hidden);
    return of_scores(g, key, CUDNN_POINTWISE_EXP, FP32, &x, NULL);
}

/* The tensor `id` of the kv heads = x^T y, where heads share one summed over them. */
static void sum_over_queries(struct attention_graph *g, const struct attention_key *key,
                             const struct node *x, const struct node *y, int64_t id)
{
    const int64_t s = key->seq_length;
    const int64_t dims[4] = {key->seq_count, key->heads, s, s};
    const int64_t strides[4] = {key->heads * s * s, s * s, 1, s};
    const struct node turned = tensor(g, INSIDE, stored_type(key), dims, strides);
    const struct node out = heads_of(g, id, key, key->kv_heads);

    reshape(g, x, &turned);
    if (key->heads == key->kv_heads) {
        multiply(g, &turned, y, &out);
    } else {
        const struct node of_heads = packed(g, INSIDE, stored_type(key), key, s, key->dim);

        multiply(g, &turned, y, &of_heads);
        reduce(g, CUDNN_REDUCE_TENSOR_ADD, &of_heads, &out);
    }
}

/* ds = scale * p * (do v - delta) */
static struct node slopes(struct attention_graph *g, const struct attention_key *key,
                          const struct node *p, const struct node *dout, const struct node *delta,
                          const struct node *scale)
{
    const struct node v_turned = turned_keys(g, ATTENTION_V, key);
    struct node x = scores(g, FP32, key);

    multiply(g, dout, &v_turned, &x);
    x = of_scores(g, key, CUDNN_POINTWISE_SUB, FP32, &x, delta);
    x = of_scores(g, key, CUDNN_POINTWISE_MUL, FP32, &x, p);
    return of_scores(g, key, CUDNN_POINTWISE_MUL, stored_type(key), &x, scale);
}

/* dq = ds k, by way of fp32 sums in memory */
static void sum_over_keys(struct attention_graph *g, const struct attention_key *key,
                          const struct node *ds, const struct node *k_turned)
{
    const int64_t *from = k_turned->strides;
    const int64_t dims[4] = {key->seq_count, key->kv_heads, key->seq_length, key->dim};
    const int64_t strides[4] = {from[0], from[1], from[3], from[2]};
    const struct node k = tensor(g, INSIDE, stored_type(key), dims, strides);
    const struct node sums = packed(g, ATTENTION_DQ_SUMS, FP32, key, key->seq_length, key->dim);
    const struct node dq = heads_of(g, ATTENTION_DQ, key, key->heads);

    reshape(g, k_turned, &k);
    multiply(g, ds, &k, &sums);
    pointwise_to(g, &(struct pointwise){.mode = CUDNN_POINTWISE_IDENTITY, .math = FP32, .x = &sums},
                 &dq);
}

void graph_backward(struct attention_graph *g, const struct attention_key *key)
{
    const struct node q = heads_of(g, ATTENTION_Q, key, key->heads);
    const struct node k_turned = turned_keys(g, ATTENTION_K, key);
    const struct node dout = heads_of(g, ATTENTION_DO, key, key->heads);
    const struct node scale = scalar(g, ATTENTION_SCALE);
    const struct node delta = delta_of(g, key, &dout);
    const struct node p = probabilities(g, key, &q, &k_turned, &scale);
    struct node ds;

    sum_over_queries(g, key, &p, &dout, ATTENTION_DV);
    ds = slopes(g, key, &p, &dout, &delta, &scale);
    sum_over_queries(g, key, &ds, &q, ATTENTION_DK);
    sum_over_keys(g, key, &ds, &k_turned);
}
