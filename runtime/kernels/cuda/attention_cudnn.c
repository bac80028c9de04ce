/* attention_cudnn.c - attention through cuDNN: which calls it can take, a plan for each shape, execution.
 *
 * A call whose workspace would not fit the stream's scratch memory is cut into groups of sequences. */
#include "attention_cudnn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PLANS_MAX 32 /* shapes of a run, of both directions and of pieces */

struct planned {
    struct attention_key key;
    struct attention_plan plan;
    cudnnStatus_t status; /* of making it */
};

struct attention_cudnn {
    struct cudnn_library library;
    cudnnHandle_t handle; /* owned */
    cudaStream_t stream;  /* the handle's */
    int major;            /* of the GPU */
    int planned_count;
    struct planned planned[PLANS_MAX];
};

/* ---- a device's state */

static ds_status start(struct attention_cudnn *cudnn)
{
    const cudnnStatus_t status = cudnn->library.cudnnCreate(&cudnn->handle);

    if (status != CUDNN_STATUS_SUCCESS)
        return ds_fail(DS_ERR_DEVICE, "cuDNN %zu does not start: %s",
                       cudnn->library.cudnnGetVersion(),
                       cudnn->library.cudnnGetErrorString(status));
    return DS_OK;
}

ds_status attention_cudnn_open(struct cuda_device *device, struct attention_cudnn **out)
{
    struct attention_cudnn *cudnn = calloc(1, sizeof *cudnn);
    const char *why = NULL;
    ds_status st;

    if (!cudnn)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for attention plans");
    cudnn->major = device->major;
    if (!cudnn_library_open(&cudnn->library, (const void *)(uintptr_t)cudaGetDeviceCount, &why)) {
        ds_info("attention: own kernels; cuDNN 9 would be faster but is not here (%s)", why);
        free(cudnn);
        return DS_OK;
    }
    st = start(cudnn);
    if (st != DS_OK) {
        attention_cudnn_close(cudnn);
        return st;
    }
    *out = cudnn;
    return DS_OK;
}

void attention_cudnn_close(struct attention_cudnn *cudnn)
{
    if (!cudnn)
        return;
    while (cudnn->planned_count > 0)
        attention_plan_close(&cudnn->planned[--cudnn->planned_count].plan);
    if (cudnn->handle)
        (void)cudnn->library.cudnnDestroy(cudnn->handle);
    cudnn_library_close(&cudnn->library);
    free(cudnn);
}

/* ---- which calls */

/* Lengths that are no multiple of 128 have given NaN in some versions, and are rare in training. */
static int may_take(const struct attention_cudnn *cudnn, const struct ds_attention_args *a)
{
    const enum ds_dtype dtype = a->q_THD.dtype;
    const uint64_t dim = a->q_THD.shape[2], dim_max = cudnn->major == 9 ? 256 : 128;

    return a->one_document && (dtype == DS_BF16 || dtype == DS_F16) && dim % 8 == 0 && dim >= 64 &&
           dim <= dim_max && a->seq_length % 128 == 0;
}

static int are_aligned(const struct ds_tensor *const *tensors, int count)
{
    uintptr_t bits = 0;

    for (int i = 0; i < count; i++)
        bits |= (uintptr_t)tensors[i]->data;
    return bits % 16 == 0;
}

static struct attention_key key_of(const struct ds_attention_args *a, uint64_t seq_count,
                                   int is_backward)
{
    return (struct attention_key){.seq_count = (int32_t)seq_count,
                                  .seq_length = (int32_t)a->seq_length,
                                  .heads = (int32_t)a->q_THD.shape[1],
                                  .kv_heads = (int32_t)a->k_TGD.shape[1],
                                  .dim = (int32_t)a->q_THD.shape[2],
                                  .dtype = (uint16_t)a->q_THD.dtype,
                                  .is_backward = (uint16_t)is_backward};
}

/* ---- plans */

/* What backward keeps in scratch memory beside cuDNN's workspace: sums of dq, then delta. */
struct scratch_sizes {
    size_t workspace, sums, delta;
};

static size_t round_up(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static struct scratch_sizes sizes_of(const struct attention_key *key, int64_t workspace_bytes)
{
    const size_t rows = (size_t)key->seq_count * (size_t)key->seq_length * (size_t)key->heads;
    struct scratch_sizes sizes = {.workspace = round_up((size_t)workspace_bytes)};

    if (key->is_backward) {
        sizes.sums = round_up(rows * (size_t)key->dim * sizeof(float));
        sizes.delta = round_up(rows * sizeof(float));
    }
    return sizes;
}

static size_t total_of(const struct attention_key *key, int64_t workspace_bytes)
{
    const struct scratch_sizes sizes = sizes_of(key, workspace_bytes);

    return sizes.workspace + sizes.sums + sizes.delta;
}

static void tell_refused(struct attention_cudnn *cudnn, const struct planned *p)
{
    char why[512] = "";

    cudnn->library.cudnnGetLastErrorString(why, sizeof why);
    why[strcspn(why, "\n")] = '\0';
    ds_info("attention %s of %d heads of %d by own kernels; cuDNN: %s %s",
            p->key.is_backward ? "backward" : "forward", p->key.heads, p->key.dim,
            cudnn->library.cudnnGetErrorString(p->status), why);
}

/* NULL: cuDNN does not take the shape, or there have been too many of them. */
static struct planned *find_plan(struct attention_cudnn *cudnn, const struct attention_key *key)
{
    const struct attention_target target = {.handle = cudnn->handle};
    struct planned *p = cudnn->planned;

    for (; p < cudnn->planned + cudnn->planned_count; p++)
        if (memcmp(&p->key, key, sizeof *key) == 0)
            return p->status == CUDNN_STATUS_SUCCESS ? p : NULL;
    if (cudnn->planned_count == PLANS_MAX)
        return NULL;
    if (++cudnn->planned_count == PLANS_MAX)
        ds_info("attention: %d shapes have a plan of cuDNN; others will take own kernels",
                PLANS_MAX);
    p->key = *key;
    p->status = attention_plan_open(&p->plan, &cudnn->library, key, &target);
    if (p->status == CUDNN_STATUS_SUCCESS)
        return p;
    tell_refused(cudnn, p);
    attention_plan_close(&p->plan);
    return NULL;
}

static const struct planned *find_plan_of(struct attention_cudnn *cudnn,
                                          const struct ds_attention_args *a, uint64_t seq_count,
                                          int is_backward)
{
    const struct attention_key key = key_of(a, seq_count, is_backward);

    return find_plan(cudnn, &key);
}

/* As many sequences at once as fit the scratch memory, in pieces of the same size but for the last. 0: not even
 * one, or cuDNN does not take them. */
static uint64_t find_piece(struct attention_cudnn *cudnn, const struct ds_attention_args *a,
                           int is_backward)
{
    const uint64_t seq_count = a->q_THD.shape[0] / a->seq_length;

    for (uint64_t pieces = 1; pieces <= seq_count; pieces++) {
        const uint64_t at_once = (seq_count + pieces - 1) / pieces, last = seq_count % at_once;
        const struct attention_key key = key_of(a, at_once, is_backward);
        const struct planned *p;

        if (total_of(&key, 0) > CUDA_SCRATCH_BYTES)
            continue;
        p = find_plan(cudnn, &key);
        if (!p || (last > 0 && !find_plan_of(cudnn, a, last, is_backward)))
            return 0;
        if (total_of(&key, p->plan.workspace_bytes) <= CUDA_SCRATCH_BYTES)
            return at_once;
    }
    return 0;
}

/* ---- execution */

struct binding {
    int64_t ids[ATTENTION_ID_END];
    void *at[ATTENTION_ID_END];
    int count;
    float scale, hidden, one;
};

static void bind(struct binding *b, enum attention_id id, void *at)
{
    b->ids[b->count] = id;
    b->at[b->count++] = at;
}

/* From sequence `first` on. */
static void bind_rows(struct binding *b, enum attention_id id, const struct ds_tensor *tensor,
                      uint64_t first_token)
{
    const uint64_t row = tensor->shape[1] * (tensor->dim_count > 2 ? tensor->shape[2] : 1);

    bind(b, id, (char *)tensor->data + first_token * row * ds_dtype_bytes(tensor->dtype));
}

static void bind_forward(struct binding *b, const struct ds_attention_args *a, uint64_t first_token)
{
    b->scale = a->scale;
    b->hidden = -INFINITY;
    b->one = 1.0f;
    bind(b, ATTENTION_SCALE, &b->scale);
    bind(b, ATTENTION_HIDDEN, &b->hidden);
    bind_rows(b, ATTENTION_Q, &a->q_THD, first_token);
    bind_rows(b, ATTENTION_K, &a->k_TGD, first_token);
    bind_rows(b, ATTENTION_V, &a->v_TGD, first_token);
    bind_rows(b, ATTENTION_O, &a->o_THD, first_token);
    bind_rows(b, ATTENTION_LSE, &a->lse_TH, first_token);
}

static void bind_backward(struct binding *b, const struct ds_attention_backward_args *a,
                          uint64_t first_token, const struct scratch_sizes *sizes, char *scratch)
{
    bind_forward(b, &a->forward, first_token);
    bind(b, ATTENTION_ONE, &b->one);
    bind_rows(b, ATTENTION_DO, &a->do_THD, first_token);
    bind_rows(b, ATTENTION_DQ, &a->dq_THD, first_token);
    bind_rows(b, ATTENTION_DK, &a->dk_TGD, first_token);
    bind_rows(b, ATTENTION_DV, &a->dv_TGD, first_token);
    bind(b, ATTENTION_DQ_SUMS, scratch + sizes->workspace);
    bind(b, ATTENTION_DELTA, scratch + sizes->workspace + sizes->sums);
}

static cudnnStatus_t execute(struct attention_cudnn *cudnn, const struct planned *p,
                             const struct binding *b, void *workspace)
{
    struct attention_graph g = {.cudnn = &cudnn->library};
    const cudnnBackendDescriptor_t pack = graph_make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);

    graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b->count, b->ids);
    graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b->count,
              b->at);
    graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    graph_finish(&g, pack);
    if (g.status == CUDNN_STATUS_SUCCESS)
        g.status = cudnn->library.cudnnBackendExecute(cudnn->handle, p->plan.plan, pack);
    if (pack)
        (void)cudnn->library.cudnnBackendDestroyDescriptor(pack);
    return g.status;
}

static ds_status tell_failed(const struct attention_cudnn *cudnn, const char *what,
                             cudnnStatus_t status)
{
    char why[512] = "";

    cudnn->library.cudnnGetLastErrorString(why, sizeof why);
    why[strcspn(why, "\n")] = '\0';
    return ds_fail(DS_ERR_DEVICE, "cuDNN, %s: %s %s", what,
                   cudnn->library.cudnnGetErrorString(status), why);
}

static ds_status use_stream(struct attention_cudnn *cudnn, struct ds_stream *stream)
{
    const cudaStream_t wanted = cuda_stream_of(stream);
    cudnnStatus_t status;

    if (cudnn->stream == wanted)
        return DS_OK;
    status = cudnn->library.cudnnSetStream(cudnn->handle, wanted);
    if (status != CUDNN_STATUS_SUCCESS)
        return tell_failed(cudnn, "cudnnSetStream", status);
    cudnn->stream = wanted;
    return DS_OK;
}

/* Sequences from `first` on; `backward` is NULL in forward. */
static ds_status run_piece(struct attention_cudnn *cudnn, struct ds_stream *stream,
                           const struct ds_attention_args *a,
                           const struct ds_attention_backward_args *backward, uint64_t first,
                           uint64_t count)
{
    const struct planned *p = find_plan_of(cudnn, a, count, backward != NULL);
    struct binding binding = {.count = 0};
    struct scratch_sizes sizes;
    void *scratch;
    cudnnStatus_t status;

    DS_ASSERT(p); /* find_piece has seen it */
    sizes = sizes_of(&p->key, p->plan.workspace_bytes);
    DS_TRY(cuda_scratch(stream, total_of(&p->key, p->plan.workspace_bytes), &scratch));
    if (backward)
        bind_backward(&binding, backward, first * a->seq_length, &sizes, scratch);
    else
        bind_forward(&binding, a, first * a->seq_length);
    status = execute(cudnn, p, &binding, scratch);
    return status == CUDNN_STATUS_SUCCESS
               ? DS_OK
               : tell_failed(cudnn, backward ? "attention backward" : "attention forward", status);
}

static ds_status run(struct attention_cudnn *cudnn, struct ds_stream *stream,
                     const struct ds_attention_args *a,
                     const struct ds_attention_backward_args *backward, int *is_done)
{
    const uint64_t seq_count = a->q_THD.shape[0] / a->seq_length;
    const uint64_t at_once = find_piece(cudnn, a, backward != NULL);

    if (at_once == 0)
        return DS_OK;
    DS_TRY(use_stream(cudnn, stream));
    for (uint64_t first = 0; first < seq_count; first += at_once) {
        const uint64_t left = seq_count - first;

        DS_TRY(run_piece(cudnn, stream, a, backward, first, left < at_once ? left : at_once));
    }
    *is_done = 1;
    return DS_OK;
}

ds_status attention_cudnn_forward(struct attention_cudnn *cudnn, struct ds_stream *stream,
                                  const struct ds_attention_args *a, int *is_done)
{
    const struct ds_tensor *const tensors[] = {&a->q_THD, &a->k_TGD, &a->v_TGD, &a->o_THD,
                                               &a->lse_TH};

    if (!may_take(cudnn, a) || !are_aligned(tensors, 5))
        return DS_OK;
    return run(cudnn, stream, a, NULL, is_done);
}

ds_status attention_cudnn_backward(struct attention_cudnn *cudnn, struct ds_stream *stream,
                                   const struct ds_attention_backward_args *a, int *is_done)
{
    const struct ds_attention_args *f = &a->forward;
    const struct ds_tensor *const tensors[] = {&f->q_THD,  &f->k_TGD,  &f->v_TGD,
                                               &f->o_THD,  &f->lse_TH, &a->do_THD,
                                               &a->dq_THD, &a->dk_TGD, &a->dv_TGD};

    if (!may_take(cudnn, f) || !are_aligned(tensors, 9))
        return DS_OK;
    return run(cudnn, stream, f, a, is_done);
}
