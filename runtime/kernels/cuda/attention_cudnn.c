/* attention_cudnn.c - attention through cuDNN: which calls it can take, a plan for each shape, execution.
 *
 * A call whose workspace would not fit the stream's scratch memory is cut into groups of sequences. Packed documents
 * are listed on the device, into a number of slots that is chosen from how many the host expects. Where a call has
 * more of them than slots, which only the device knows, own kernels do it: they are queued behind cuDNN's and leave
 * at once where it has done all. */
#include "attention_cudnn.h"
#include "attention_documents.h"
#include "attention_own.h"
#include "attention_pack.h"
#include "attention_plans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Slots take time whether they are used or not: so many tokens the mean document has at least for each slot of a
 * sequence, or own kernels do it. A guess, to be measured. */
#define SLOT_TOKENS 32

struct attention_cudnn {
    struct cudnn_library library;
    cudnnHandle_t handle; /* owned */
    cudaStream_t stream;  /* the handle's */
    int major;            /* of the GPU */
    size_t version;       /* of cuDNN */
    struct attention_plans plans;
    struct attention_packs packs;
};

/* ---- a device's state */

static ds_status start(struct attention_cudnn *cudnn)
{
    const cudnnStatus_t status = cudnn->library.cudnnCreate(&cudnn->handle);

    if (status != CUDNN_STATUS_SUCCESS)
        return ds_fail(DS_ERR_DEVICE, "cuDNN %zu does not start: %s", cudnn->version,
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
    cudnn->version = cudnn->library.cudnnGetVersion();
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
    attention_packs_close(&cudnn->packs, &cudnn->library);
    attention_plans_close(&cudnn->plans);
    if (cudnn->handle)
        (void)cudnn->library.cudnnDestroy(cudnn->handle);
    cudnn_library_close(&cudnn->library);
    free(cudnn);
}

/* ---- which calls */

static uint64_t sequences_of(const struct ds_attention_args *a)
{
    return a->q_THD.shape[0] / a->seq_length;
}

/* Three standard deviations more than the host expects; all the same if there are too many. */
static uint64_t slots_of(uint64_t documents)
{
    return documents > DOCUMENT_SLOTS_MAX
               ? documents
               : documents + (uint64_t)ceil(3.0 * sqrt((double)documents));
}

/* Lists of documents are right since 9.6, with heads of a multiple of 16, and not on GPUs of the kinds 8 and 12,
 * whose backward wants an lse of whole sequences. Slots are paid for whether they are used or not. */
static int may_take_documents(const struct attention_cudnn *cudnn,
                              const struct ds_attention_args *a)
{
    const uint64_t slots = slots_of(a->document_count);

    return (cudnn->major == 9 || cudnn->major == 10) && cudnn->version >= 90600 &&
           a->q_THD.shape[2] % 16 == 0 && a->document_count > 0 && slots <= DOCUMENT_SLOTS_MAX &&
           slots * a->document_count * SLOT_TOKENS <= sequences_of(a) * a->q_THD.shape[0];
}

/* Lengths that are no multiple of 128 have given NaN in some versions, and are rare in training. */
static int may_take(const struct attention_cudnn *cudnn, const struct ds_attention_args *a)
{
    const enum ds_dtype dtype = a->q_THD.dtype;
    const uint64_t dim = a->q_THD.shape[2], dim_max = cudnn->major == 9 ? 256 : 128;

    return (dtype == DS_BF16 || dtype == DS_F16) && dim % 8 == 0 && dim >= 64 && dim <= dim_max &&
           a->seq_length % 128 == 0 && (a->one_document || may_take_documents(cudnn, a));
}

static int are_aligned(const struct ds_tensor *const *tensors, int count)
{
    uintptr_t bits = 0;

    for (int i = 0; i < count; i++)
        bits |= (uintptr_t)tensors[i]->data;
    return bits % 16 == 0;
}

/* Of `seq_count` of the call's sequences. */
static struct attention_key key_of(const struct ds_attention_args *a, uint64_t seq_count,
                                   int is_backward)
{
    const uint64_t all = sequences_of(a),
                   expected = (a->document_count * seq_count + all - 1) / all;

    return (struct attention_key){.seq_count = (int32_t)seq_count,
                                  .seq_length = (int32_t)a->seq_length,
                                  .heads = (int32_t)a->q_THD.shape[1],
                                  .kv_heads = (int32_t)a->k_TGD.shape[1],
                                  .dim = (int32_t)a->q_THD.shape[2],
                                  .documents = a->one_document ? 0 : (int32_t)slots_of(expected),
                                  .dtype = (uint16_t)a->q_THD.dtype,
                                  .is_backward = (uint16_t)is_backward};
}

/* ---- scratch memory beside cuDNN's workspace */

/* Lists of documents; in backward sums of dq, then delta, then what query heads add to shared keys. */
struct scratch_sizes {
    size_t workspace, documents, sums, delta, of_heads;
};

static size_t round_up(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static struct scratch_sizes sizes_of(const struct attention_key *key, int64_t workspace_bytes)
{
    const size_t rows = (size_t)key->seq_count * (size_t)key->seq_length * (size_t)key->heads;
    const size_t elems = rows * (size_t)key->dim;
    struct scratch_sizes sizes = {.workspace = round_up((size_t)workspace_bytes)};

    if (key->documents > 0)
        sizes.documents = attention_documents_bytes((size_t)key->documents);
    if (!key->is_backward)
        return sizes;
    sizes.sums = round_up(elems * sizeof(float));
    sizes.delta = round_up(rows * sizeof(float));
    if (key->documents > 0 && key->heads != key->kv_heads)
        sizes.of_heads = round_up(elems * ds_dtype_bytes((enum ds_dtype)key->dtype));
    return sizes;
}

static size_t total_of(const struct attention_key *key, int64_t workspace_bytes)
{
    const struct scratch_sizes sizes = sizes_of(key, workspace_bytes);

    return sizes.workspace + sizes.documents + sizes.sums + sizes.delta + 2 * sizes.of_heads;
}

/* The next piece of it. */
static void *cut(char **at, size_t bytes)
{
    char *const piece = *at;

    *at += bytes;
    return piece;
}

/* ---- plans */

static const struct attention_planned *find_plan(struct attention_cudnn *cudnn,
                                                 const struct ds_attention_args *a,
                                                 uint64_t seq_count, int is_backward)
{
    const struct attention_key key = key_of(a, seq_count, is_backward);

    return attention_plans_find(&cudnn->plans, &key, &cudnn->library, cudnn->handle);
}

/* As many sequences at once as fit the scratch memory, in pieces of the same size but for the last. 0: not even
 * one, or cuDNN does not take them. */
static uint64_t find_piece(struct attention_cudnn *cudnn, const struct ds_attention_args *a,
                           int is_backward)
{
    const uint64_t seq_count = sequences_of(a);

    for (uint64_t pieces = 1; pieces <= seq_count; pieces++) {
        const uint64_t at_once = (seq_count + pieces - 1) / pieces, last = seq_count % at_once;
        const struct attention_key key = key_of(a, at_once, is_backward);
        const struct attention_planned *p;

        if (total_of(&key, 0) > CUDA_SCRATCH_BYTES)
            continue;
        p = find_plan(cudnn, a, at_once, is_backward);
        if (!p || (last > 0 && !find_plan(cudnn, a, last, is_backward)))
            return 0;
        if (total_of(&key, p->plan.workspace_bytes) <= CUDA_SCRATCH_BYTES)
            return at_once;
    }
    return 0;
}

/* ---- execution */

static void bind_tensor(struct attention_binding *b, enum attention_id id,
                        const struct ds_tensor *tensor)
{
    attention_bind(b, id, tensor->data);
}

static void bind_forward(struct attention_binding *b, const struct ds_attention_args *a)
{
    b->scale = a->scale;
    b->hidden = -INFINITY;
    b->one = 1.0f;
    bind_tensor(b, ATTENTION_Q, &a->q_THD);
    bind_tensor(b, ATTENTION_K, &a->k_TGD);
    bind_tensor(b, ATTENTION_V, &a->v_TGD);
    bind_tensor(b, ATTENTION_O, &a->o_THD);
    bind_tensor(b, ATTENTION_LSE, &a->lse_TH);
}

static void bind_documents(struct attention_binding *b, const struct attention_documents *d)
{
    attention_bind(b, ATTENTION_QUERIES_AT, d->queries_at);
    attention_bind(b, ATTENTION_KEYS_AT, d->keys_at);
    attention_bind(b, ATTENTION_LSE_AT, d->lse_at);
    attention_bind(b, ATTENTION_QUERY_LENGTHS, d->lengths);
    attention_bind(b, ATTENTION_KEY_LENGTHS, d->lengths);
}

static void bind_backward(struct attention_binding *b, const struct ds_attention_backward_args *a,
                          const struct scratch_sizes *sizes, char *scratch)
{
    b->is_backward = 1;
    bind_tensor(b, ATTENTION_DO, &a->do_THD);
    bind_tensor(b, ATTENTION_DQ, &a->dq_THD);
    bind_tensor(b, ATTENTION_DK, &a->dk_TGD);
    bind_tensor(b, ATTENTION_DV, &a->dv_TGD);
    attention_bind(b, ATTENTION_DQ_SUMS, cut(&scratch, sizes->sums));
    attention_bind(b, ATTENTION_DELTA, cut(&scratch, sizes->delta));
    if (sizes->of_heads == 0)
        return;
    attention_bind(b, ATTENTION_DK_HEADS, cut(&scratch, sizes->of_heads));
    attention_bind(b, ATTENTION_DV_HEADS, cut(&scratch, sizes->of_heads));
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

static ds_status execute(struct attention_cudnn *cudnn, const struct attention_binding *b)
{
    cudnnBackendDescriptor_t pack;
    cudnnStatus_t status = attention_packs_find(&cudnn->packs, &cudnn->library, b, &pack);

    if (status == CUDNN_STATUS_SUCCESS)
        status = cudnn->library.cudnnBackendExecute(cudnn->handle, b->plan, pack);
    return status == CUDNN_STATUS_SUCCESS
               ? DS_OK
               : tell_failed(cudnn, b->is_backward ? "attention backward" : "attention forward",
                             status);
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

/* Documents are listed, attended to, and if there were too many, attended to again. */
static ds_status run_documents(struct attention_cudnn *cudnn, struct ds_stream *stream,
                               const struct ds_attention_backward_args *a,
                               const struct attention_documents *documents, int32_t slots,
                               const struct attention_binding *b)
{
    DS_TRY(attention_documents_list(stream, &a->forward, slots, *documents));
    DS_TRY(execute(cudnn, b));
    return b->is_backward ? attention_own_backward(stream, a, documents->is_whole)
                          : attention_own_forward(stream, &a->forward, documents->is_whole);
}

/* All sequences of `a`, which fit; forward where its gradients are nowhere. */
static ds_status run_piece(struct attention_cudnn *cudnn, struct ds_stream *stream,
                           const struct ds_attention_backward_args *a)
{
    const int is_backward = a->dq_THD.data != NULL;
    const struct attention_planned *p =
        find_plan(cudnn, &a->forward, sequences_of(&a->forward), is_backward);
    struct attention_documents documents;
    struct attention_binding binding = {.count = 0};
    struct scratch_sizes sizes;
    void *scratch;
    char *at;

    DS_ASSERT(p); /* find_piece has seen it */
    sizes = sizes_of(&p->key, p->plan.workspace_bytes);
    DS_TRY(cuda_scratch(stream, total_of(&p->key, p->plan.workspace_bytes), &scratch));
    at = scratch;
    binding.plan = p->plan.plan;
    binding.workspace = cut(&at, sizes.workspace);
    bind_forward(&binding, &a->forward);
    documents = attention_documents_in(cut(&at, sizes.documents), (size_t)p->key.documents);
    if (is_backward)
        bind_backward(&binding, a, &sizes, at);
    if (p->key.documents == 0)
        return execute(cudnn, &binding);
    bind_documents(&binding, &documents);
    return run_documents(cudnn, stream, a, &documents, p->key.documents, &binding);
}

static void take_tokens(struct ds_tensor *tensor, uint64_t first, uint64_t count)
{
    uint64_t row_bytes = ds_dtype_bytes(tensor->dtype);

    if (!tensor->data)
        return;
    for (uint32_t i = 1; i < tensor->dim_count; i++)
        row_bytes *= tensor->shape[i];
    tensor->data = (char *)tensor->data + first * row_bytes;
    tensor->shape[0] = count;
}

/* The same of some of its tokens, which are whole sequences. */
static struct ds_attention_backward_args part_of(const struct ds_attention_backward_args *a,
                                                 uint64_t first, uint64_t count)
{
    struct ds_attention_backward_args part = *a;
    struct ds_attention_args *f = &part.forward;
    struct ds_tensor *const tensors[] = {&f->q_THD,    &f->k_TGD,    &f->v_TGD,     &f->document_T,
                                         &f->o_THD,    &f->lse_TH,   &part.do_THD,  &part.dq_THD,
                                         &part.dk_TGD, &part.dv_TGD, &part.delta_TH};
    const uint64_t all = f->q_THD.shape[0];

    f->document_count = (f->document_count * count + all - 1) / all;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        take_tokens(tensors[i], first, count);
    return part;
}

static ds_status run(struct attention_cudnn *cudnn, struct ds_stream *stream,
                     const struct ds_attention_backward_args *a, int *is_done)
{
    const uint64_t s = a->forward.seq_length, tokens = a->forward.q_THD.shape[0];
    const uint64_t at_once = s * find_piece(cudnn, &a->forward, a->dq_THD.data != NULL);

    if (at_once == 0)
        return DS_OK;
    DS_TRY(use_stream(cudnn, stream));
    for (uint64_t first = 0; first < tokens; first += at_once) {
        const uint64_t left = tokens - first;
        const struct ds_attention_backward_args part =
            part_of(a, first, left < at_once ? left : at_once);

        DS_TRY(run_piece(cudnn, stream, &part));
    }
    *is_done = 1;
    return DS_OK;
}

ds_status attention_cudnn_forward(struct attention_cudnn *cudnn, struct ds_stream *stream,
                                  const struct ds_attention_args *a, int *is_done)
{
    const struct ds_attention_backward_args forward = {.forward = *a};
    const struct ds_tensor *const tensors[] = {&a->q_THD, &a->k_TGD, &a->v_TGD, &a->o_THD,
                                               &a->lse_TH};

    if (!may_take(cudnn, a) || !are_aligned(tensors, 5))
        return DS_OK;
    return run(cudnn, stream, &forward, is_done);
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
    return run(cudnn, stream, a, is_done);
}
