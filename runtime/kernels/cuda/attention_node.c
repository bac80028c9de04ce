/* attention_node.c - descriptors of cuDNN made, filled and finished, and from them tensors and operations. */
#include "attention_node.h"

#include <stdbool.h>
#include <string.h>

/* ---- descriptors: the first failure stays */

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

static void set_node(struct attention_graph *g, cudnnBackendDescriptor_t of,
                     cudnnBackendAttributeName_t name, const struct node *part)
{
    if (part)
        set_part(g, of, name, part->descriptor);
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

static int is_of_host(int64_t id)
{
    return id == ATTENTION_SCALE || id == ATTENTION_HIDDEN || id == ATTENTION_ONE;
}

struct node node_tensor(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                        const int64_t dims[4], const int64_t strides[4], const struct node *offsets)
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
    set_node(g, x.descriptor, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
    graph_finish(g, x.descriptor);
    return x;
}

struct node node_list(struct attention_graph *g, int64_t id, cudnnDataType_t type, int64_t count)
{
    const int64_t dims[4] = {count, 1, 1, 1}, strides[4] = {1, 1, 1, 1};

    return node_tensor(g, id, type, dims, strides, NULL);
}

struct node node_scalar(struct attention_graph *g, int64_t id)
{
    return node_list(g, id, FP32, 1);
}

cudnnDataType_t node_stored_type(const struct attention_key *key)
{
    return key->dtype == DS_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

int64_t node_batch(const struct attention_key *key)
{
    return key->documents > 0 ? key->documents : key->seq_count;
}

struct node node_square(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                        const struct attention_key *key, int64_t rows, int64_t columns)
{
    const int64_t dims[4] = {node_batch(key), key->heads, rows, columns};
    const int64_t strides[4] = {key->heads * rows * columns, rows * columns, columns, 1};

    return node_tensor(g, id, type, dims, strides, NULL);
}

struct node node_scores(struct attention_graph *g, cudnnDataType_t type,
                        const struct attention_key *key)
{
    return node_square(g, INSIDE, type, key, key->seq_length, key->seq_length);
}

struct node node_heads(struct attention_graph *g, int64_t id, cudnnDataType_t type,
                       const struct attention_key *key, int32_t heads, const struct node *offsets)
{
    const int64_t row = (int64_t)heads * key->dim;
    const int64_t dims[4] = {node_batch(key), heads, key->seq_length, key->dim};
    const int64_t strides[4] = {key->seq_length * row, key->dim, row, 1};

    return node_tensor(g, id, type, dims, strides, offsets);
}

struct node node_turned_keys(struct attention_graph *g, int64_t id, const struct attention_key *key,
                             const struct node *offsets)
{
    const int64_t row = (int64_t)key->kv_heads * key->dim;
    const int64_t dims[4] = {node_batch(key), key->kv_heads, key->dim, key->seq_length};
    const int64_t strides[4] = {key->seq_length * row, key->dim, 1, row};

    return node_tensor(g, id, node_stored_type(key), dims, strides, offsets);
}

struct node node_per_query(struct attention_graph *g, int64_t id, const struct attention_key *key,
                           const struct node *offsets)
{
    const int64_t dims[4] = {node_batch(key), key->heads, key->seq_length, 1};
    const int64_t strides[4] = {(int64_t)key->heads * key->seq_length, 1, key->heads, 1};

    return node_tensor(g, id, FP32, dims, strides, offsets);
}

/* ---- operations */

void node_multiply(struct attention_graph *g, const struct product *p)
{
    const cudnnBackendDescriptor_t how = graph_make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    cudnnBackendDescriptor_t product;

    set_type(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, FP32);
    graph_finish(g, how);
    product = graph_make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_node(g, product, CUDNN_ATTR_OPERATION_MATMUL_ADESC, p->a);
    set_node(g, product, CUDNN_ATTR_OPERATION_MATMUL_BDESC, p->b);
    set_node(g, product, CUDNN_ATTR_OPERATION_MATMUL_CDESC, p->c);
    set_part(g, product, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    set_node(g, product, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, p->rows);
    set_node(g, product, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, p->columns);
    set_node(g, product, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, p->sums);
    add_operation(g, product);
}

void node_reduce(struct attention_graph *g, cudnnReduceTensorOp_t how_to, const struct node *x,
                 const struct node *y)
{
    const cudnnBackendDescriptor_t how = graph_make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    cudnnBackendDescriptor_t reduction;

    graph_set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
              &how_to);
    set_type(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, FP32);
    graph_finish(g, how);
    reduction = graph_make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_node(g, reduction, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_node(g, reduction, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    set_part(g, reduction, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    add_operation(g, reduction);
}

void node_reshape(struct attention_graph *g, const struct node *x, const struct node *y)
{
    const cudnnBackendDescriptor_t operation =
        graph_make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);

    set_node(g, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_node(g, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_operation(g, operation);
}

void node_pointwise(struct attention_graph *g, const struct pointwise *p, const struct node *y)
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
    set_node(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p->x);
    set_node(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p->b);
    set_node(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, p->by);
    set_node(g, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_operation(g, operation);
}

struct node node_of_scores(struct attention_graph *g, const struct attention_key *key,
                           cudnnPointwiseMode_t mode, cudnnDataType_t type, const struct node *x,
                           const struct node *b)
{
    const struct node y = node_scores(g, type, key);

    node_pointwise(g, &(struct pointwise){.mode = mode, .math = FP32, .x = x, .b = b}, &y);
    return y;
}
