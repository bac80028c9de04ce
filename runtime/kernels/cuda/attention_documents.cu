/* attention_documents.cu - packed documents listed for cuDNN, by one block: a warp looks at a stretch of tokens and
 * counts who begins a document; what the warps before it have counted says where its starts go. */
#include "attention_documents.h"

#define LIST_WARPS   32
#define LIST_THREADS (32 * LIST_WARPS)
#define LIST_TURNS   16 /* of a warp, 32 tokens each */
#define LIST_TOKENS  (LIST_THREADS * LIST_TURNS)
#define ALL_LANES    0xffffffffu

struct list_args {
    const int32_t *document;
    uint32_t token_count, seq_length; /* 31 bits: a token behind the end is still a number */
    int32_t slots;
    int64_t query_row, key_row, lse_row; /* elements of a token */
    struct attention_documents to;
};

/* Which of the warp's tokens from `first` on begin a document, a bit each; returns how many. */
__device__ __forceinline__ int32_t find_starts(const list_args &a, uint32_t first,
                                               uint32_t (&begins)[LIST_TURNS])
{
    int32_t count = 0;

#pragma unroll
    for (int k = 0; k < LIST_TURNS; k++) {
        const uint32_t token = first + k * 32 + threadIdx.x % 32;

        begins[k] =
            __ballot_sync(ALL_LANES, token < a.token_count &&
                                         attention_begins(a.document[token], token % a.seq_length));
        count += __popc(begins[k]);
    }
    return count;
}

/* `rank`: of the warp's first start, among all. */
__device__ __forceinline__ void store_starts(int32_t *starts, int32_t slots, uint32_t first,
                                             const uint32_t (&begins)[LIST_TURNS], int32_t rank)
{
    const int lane = threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < LIST_TURNS; k++) {
        const int32_t at = rank + __popc(begins[k] & ((1u << lane) - 1));

        if ((begins[k] >> lane & 1) && at < slots)
            starts[at] = (int32_t)(first + k * 32 + lane);
        rank += __popc(begins[k]);
    }
}

/* Starts in token order; returns how many there are, more than slots perhaps. */
__device__ __forceinline__ int32_t list_starts(const list_args &a, int32_t *starts)
{
    __shared__ int32_t counts[LIST_WARPS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int32_t found = 0;

    for (uint32_t base = 0; base < a.token_count; base += LIST_TOKENS) {
        const uint32_t first = base + warp * (32 * LIST_TURNS);
        uint32_t begins[LIST_TURNS];
        const int32_t count = find_starts(a, first, begins);

        if (lane == 0)
            counts[warp] = count;
        __syncthreads();

        const int32_t theirs = counts[lane];

        store_starts(starts, a.slots, first, begins,
                     found + __reduce_add_sync(ALL_LANES, lane < warp ? theirs : 0));
        found += __reduce_add_sync(ALL_LANES, theirs);
        __syncthreads(); /* counts have been read, starts are there */
    }
    return found;
}

__global__ void __launch_bounds__(LIST_THREADS) list_kernel(list_args a)
{
    __shared__ int32_t starts[DOCUMENT_SLOTS_MAX];
    const int32_t count = list_starts(a, starts);

    for (int32_t i = threadIdx.x; i <= a.slots; i += LIST_THREADS) {
        const attention_document d =
            attention_document_of(starts, count, a.slots, (int32_t)a.token_count, i);

        a.to.queries_at[i] = d.begin * a.query_row;
        a.to.keys_at[i] = d.begin * a.key_row;
        a.to.lse_at[i] = d.begin * a.lse_row;
        if (i < a.slots)
            a.to.lengths[i] = d.length;
    }
    if (threadIdx.x == 0)
        *a.to.is_whole = count <= a.slots;
}

extern "C" ds_status attention_documents_list(struct ds_stream *stream, const ds_attention_args *a,
                                              int32_t slots, struct attention_documents to)
{
    list_args args = {};

    DS_ASSERT(slots > 1 && slots <= DOCUMENT_SLOTS_MAX);
    args.document = (const int32_t *)a->document_T.data;
    args.token_count = (uint32_t)a->q_THD.shape[0];
    args.seq_length = (uint32_t)a->seq_length;
    args.slots = slots;
    args.query_row = (int64_t)(a->q_THD.shape[1] * a->q_THD.shape[2]);
    args.key_row = (int64_t)(a->k_TGD.shape[1] * a->k_TGD.shape[2]);
    args.lse_row = (int64_t)a->lse_TH.shape[1];
    args.to = to;
    list_kernel<<<1, LIST_THREADS, 0, cuda_stream_of(stream)>>>(args);
    CUDA_LAUNCHED("attention, documents");
    return DS_OK;
}
