/* attention_documents.h - packed documents as cuDNN wants them told: where each begins and how long it is. The lists
 * have a fixed number of slots and are made on the device, from where each token's document starts: how many
 * documents a step brings is never known to the host. Plain arithmetic is read by C, too: a test on the host
 * checks it. */
#ifndef KERNELS_CUDA_ATTENTION_DOCUMENTS_H
#define KERNELS_CUDA_ATTENTION_DOCUMENTS_H

#include "attention_index.h"
#include "kernels_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DOCUMENT_SLOTS_MAX 2048 /* of a call: a block keeps their starts in shared memory */

/* In device memory. Behind the last document there are slots of length 0 that begin at the end. */
struct attention_documents {
    int64_t *queries_at, *keys_at, *lse_at; /* [slots + 1], in elements of q, k and lse */
    int32_t *lengths;                       /* [slots] */
    int32_t *
        is_whole; /* 1: all documents are there; 0: they are more than slots, and the first alone is there */
};

static inline size_t attention_documents_aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static inline size_t attention_documents_bytes(size_t slots)
{
    return 3 * attention_documents_aligned((slots + 1) * sizeof(int64_t)) +
           attention_documents_aligned(slots * sizeof(int32_t)) +
           attention_documents_aligned(sizeof(int32_t));
}

/* In attention_documents_bytes(slots) from `at` on, which is aligned to 256. */
static inline struct attention_documents attention_documents_in(void *at, size_t slots)
{
    const size_t list = attention_documents_aligned((slots + 1) * sizeof(int64_t));
    char *const from = (char *)at;
    struct attention_documents d;

    d.queries_at = (int64_t *)from;
    d.keys_at = (int64_t *)(from + list);
    d.lse_at = (int64_t *)(from + 2 * list);
    d.lengths = (int32_t *)(from + 3 * list);
    d.is_whole =
        (int32_t *)(from + 3 * list + attention_documents_aligned(slots * sizeof(int32_t)));
    return d;
}

/* Does a document begin with the token at this position of its sequence, whose document starts at `start`? */
ATTENTION_INLINE int attention_begins(int32_t start, uint32_t position)
{
    return position == 0 || (uint32_t)start == position;
}

/* What slot `i` holds. starts: the first `slots` of `count` documents of `token_count` tokens; slots > 1. */
struct attention_document {
    int32_t begin, length;
};
ATTENTION_INLINE struct attention_document attention_document_of(const int32_t *starts,
                                                                 int32_t count, int32_t slots,
                                                                 int32_t token_count, int32_t i)
{
    const int32_t used = count <= slots ? count : 1;
    const int32_t end = count <= slots ? token_count : starts[1];
    struct attention_document d;

    d.begin = i < used ? starts[i] : end;
    d.length = (i + 1 < used ? starts[i + 1] : end) - d.begin;
    return d;
}

/* local: `to` is filled for these tokens */
ds_status attention_documents_list(struct ds_stream *stream, const struct ds_attention_args *a,
                                   int32_t slots, struct attention_documents to);

#ifdef __cplusplus
}
#endif
#endif
