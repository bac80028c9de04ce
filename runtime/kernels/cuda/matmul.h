/* matmul.h - what the files of the matrix product share.
 *
 * Which algorithm multiplies is decided at the first call with a shape (struct gemm_key) and then kept:
 *   in deterministic mode the first that cuBLASLt's heuristics name;
 *   else the one that the table was loaded with, if cuBLASLt accepts it here and nothing better is wanted;
 *   else the fastest of the first few, timed on the caller's operands, in a moment or, where there is time for
 *   it (load_left_ns), under load. Timing waits for the stream. It is over when timing_left_ns are spent, when the table is sealed or full, and while a graph is captured:
 *   then the first of the heuristics is taken.
 * Every algorithm adds its partial sums in fp32 and in a fixed order: schemes that reduce in the output's
 * dtype are not asked for. So a choice repeats its bits, two choices agree to rounding. */
#ifndef KERNELS_CUDA_MATMUL_H
#define KERNELS_CUDA_MATMUL_H

#include "gemm_table.h"
#include "kernels_cuda.h"

#include <cublasLt.h>

/* of the stream's scratch: cuBLASLt's, then a result in fp32 or one that is thrown away */
#define GEMM_WORKSPACE_BYTES ((size_t)64 << 20)
#define GEMM_SPARE_BYTES     (CUDA_SCRATCH_BYTES - GEMM_WORKSPACE_BYTES)

/* cuBLASLt's view is column-major, where C' = op(B)' op(A)': so `x` is B and `y` is A. */
struct gemm_plan {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t x, y, c;
    cublasLtMatmulAlgo_t algo;
};

struct cuda_gemm {
    cublasLtHandle_t handle; /* owned */
    cudaEvent_t begin, end;  /* owned */
    const struct ds_clock *clock;
    int is_deterministic, is_sealed;
    uint64_t timing_left_ns; /* for moments */
    uint64_t load_left_ns;   /* for load; 0 from the start: none is wanted */
    uint64_t hot_until_ns;   /* when load ended; 0: there was none */
    char made_for[GEMM_MADE_FOR_BYTES];
    struct gemm_table table;
    struct gemm_plan plans[GEMM_ENTRIES_MAX]; /* of the table's entries */
    struct gemm_plan plan_aside; /* while a shape is new; where the table is full, it stays */
};

/* One product, its operands in place. */
struct gemm_call {
    struct cuda_gemm *gemm;
    struct ds_stream *stream;
    struct gemm_key key;
    const void *a, *b;
    const void *added; /* to the product: C itself, an addend, or NULL */
    void *c;
    float scale; /* of the product */
};

/* Queue it with `algo`; `to` is call->c but in a trial. */
cublasStatus_t gemm_launch(const struct gemm_call *call, struct gemm_plan *plan,
                           const cublasLtMatmulAlgo_t *algo, void *workspace, void *to);
ds_status gemm_fail_at(cublasStatus_t status, const char *what, const struct gemm_key *key,
                       const char *file, int line);
#define GEMM_TRY(call, key)                                                    \
    do {                                                                       \
        cublasStatus_t gemm_status_ = (call);                                  \
        if (gemm_status_ != CUBLAS_STATUS_SUCCESS)                             \
            return gemm_fail_at(gemm_status_, #call, key, __FILE__, __LINE__); \
    } while (0)

#define GEMM_CANDIDATES_MAX 12

struct gemm_candidate {
    cublasLtMatmulAlgo_t algo;
    float ms; /* of a product; GEMM_NEVER_MS: refused, or not timed yet */
};
#define GEMM_NEVER_MS 1e30f

/* matmul_choice.c: plan->algo for a shape that has none yet, and how it was found. */
ds_status gemm_choose(const struct gemm_call *call, struct gemm_plan *plan, enum gemm_known *known);
#define GEMM_TIMING_NS 1500000000u /* of a device in all */
/* Would gemm_choose find better than `known`? */
int gemm_may_improve(const struct gemm_call *call, enum gemm_known known);
/* The mean of `trials` products behind `ahead` untimed ones, in *ms, which stays as it is where the library refuses the
 * algorithm. */
ds_status gemm_time(const struct gemm_call *call, struct gemm_plan *plan,
                    const cublasLtMatmulAlgo_t *algo, void *workspace, void *to, int ahead,
                    int trials, float *ms);

/* matmul_load.c: the first of them becomes what is fastest on a GPU that has been busy with it for a while. */
ds_status gemm_time_under_load(const struct gemm_call *call, struct gemm_plan *plan,
                               struct gemm_candidate *candidates, int count, void *workspace,
                               void *to);

#endif
