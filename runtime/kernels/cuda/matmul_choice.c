/* matmul_choice.c - the algorithm for a shape that is met for the first time: of the first few that
 * cuBLASLt's heuristics name, the fastest on the caller's own operands.
 *
 * Trials leave no trace. They write what the call itself will write again, but where C is added to: then
 * to scratch memory, and a result that is too large for that is not timed (a gradient's first micro-batch
 * has no `add`, and both share an entry of the table). */
#include "matmul.h"

#include <string.h>

#define CANDIDATES 8
#define TRIALS     3
#define LARGE_FLOP \
    0x1p37 /* a fifth of a millisecond and more: fewer of both, or the start waits for it */
#define LARGE_COUNT  6
#define LARGE_TRIALS 2
#define NEVER_MS     1e30f
#define LONG_MS      5.0f  /* of one product: then one trial tells enough */
#define BETTER_THAN  0.99f /* of a candidate's time that the heuristics rank higher: less is noise */

struct candidates {
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int count, best;
    int is_timed; /* each of them */
};

static cublasStatus_t set_preference(cublasLtMatmulPreferenceOpaque_t *to,
                                     const struct gemm_key *key)
{
    const uint64_t workspace_bytes = GEMM_WORKSPACE_BYTES;
    const uint32_t schemes =
        CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align_x = key->align_b, align_y = key->align_a, align_c = key->align_c;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } rows[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof workspace_bytes},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_x, sizeof align_x},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_y, sizeof align_y},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c},
    };
    cublasStatus_t status = cublasLtMatmulPreferenceInit(to);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && status == CUBLAS_STATUS_SUCCESS; i++)
        status =
            cublasLtMatmulPreferenceSetAttribute(to, rows[i].name, rows[i].value, rows[i].bytes);
    return status;
}

static int is_large(const struct gemm_key *key)
{
    return 2.0 * (double)key->m * (double)key->n * (double)key->k >= LARGE_FLOP;
}

static ds_status ask(const struct gemm_call *call, struct gemm_plan *plan, int count_max,
                     struct candidates *c)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    int count = 0;

    GEMM_TRY(set_preference(&preference, &call->key), &call->key);
    GEMM_TRY(cublasLtMatmulAlgoGetHeuristic(call->gemm->handle, &plan->product, &plan->x, &plan->y,
                                            &plan->c, &plan->c, &preference, count_max, c->results,
                                            &count),
             &call->key);
    c->count = 0;
    for (int i = 0; i < count; i++)
        if (c->results[i].state == CUBLAS_STATUS_SUCCESS)
            c->results[c->count++] = c->results[i];
    if (c->count == 0)
        return gemm_fail_at(CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt names no algorithm", &call->key,
                            __FILE__, __LINE__);
    return DS_OK;
}

/* One untimed product loads the kernel. *ms stays as it is where the library refuses the algorithm. */
static ds_status time_one(const struct gemm_call *call, struct gemm_plan *plan,
                          const cublasLtMatmulAlgo_t *algo, void *workspace, void *to, int trials,
                          float *ms)
{
    const cudaStream_t stream = cuda_stream_of(call->stream);
    float all_ms = 0.0f;

    if (gemm_launch(call, plan, algo, workspace, to) != CUBLAS_STATUS_SUCCESS)
        return DS_OK;
    CUDA_TRY(cudaEventRecord(call->gemm->begin, stream));
    for (int i = 0; i < trials; i++)
        GEMM_TRY(gemm_launch(call, plan, algo, workspace, to), &call->key);
    CUDA_TRY(cudaEventRecord(call->gemm->end, stream));
    CUDA_TRY(cudaEventSynchronize(call->gemm->end));
    CUDA_TRY(cudaEventElapsedTime(&all_ms, call->gemm->begin, call->gemm->end));
    *ms = all_ms / (float)trials;
    return DS_OK;
}

static void spend(struct cuda_gemm *gemm, uint64_t since_ns)
{
    const uint64_t spent_ns = ds_clock_mono_ns(gemm->clock) - since_ns;

    gemm->timing_left_ns -= spent_ns < gemm->timing_left_ns ? spent_ns : gemm->timing_left_ns;
}

/* When the time runs out the best so far is taken, and counts as a guess. */
static ds_status time_all(const struct gemm_call *call, struct gemm_plan *plan,
                          struct candidates *c, void *workspace, void *to)
{
    struct cuda_gemm *gemm = call->gemm;
    const int trials_max = is_large(&call->key) ? LARGE_TRIALS : TRIALS;
    float best_ms = NEVER_MS;
    int i;

    CUDA_TRY(cudaStreamSynchronize(cuda_stream_of(call->stream))); /* work before it is not ours */
    for (i = 0; i < c->count && gemm->timing_left_ns > 0; i++) {
        const uint64_t since_ns = ds_clock_mono_ns(gemm->clock);
        const int trials = i > 0 && best_ms > LONG_MS ? 1 : trials_max;
        float ms = NEVER_MS;

        DS_TRY(time_one(call, plan, &c->results[i].algo, workspace, to, trials, &ms));
        spend(gemm, since_ns);
        if (ms < best_ms * BETTER_THAN) {
            best_ms = ms;
            c->best = i;
        }
    }
    c->is_timed = i == c->count && best_ms < NEVER_MS;
    ds_debug("product of %llu x %llu x %llu, %s to %s: algorithm %d of %d, %.1f us",
             (unsigned long long)call->key.m, (unsigned long long)call->key.n,
             (unsigned long long)call->key.k, ds_dtype_name((enum ds_dtype)call->key.in),
             ds_dtype_name((enum ds_dtype)call->key.out), c->best + 1, c->count,
             (double)best_ms * 1e3);
    return DS_OK;
}

/* Where trials may write; NULL: nowhere. */
static void *room_for_trials(const struct gemm_call *call, void *scratch)
{
    const struct gemm_key *key = &call->key;

    if (call->added != call->c)
        return call->c;
    if (key->m * key->c_stride * ds_dtype_bytes((enum ds_dtype)key->out) > GEMM_SPARE_BYTES)
        return NULL;
    return (char *)scratch + GEMM_WORKSPACE_BYTES;
}

static int may_time(const struct gemm_call *call)
{
    const struct cuda_gemm *gemm = call->gemm;
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;

    if (gemm->is_deterministic || gemm->is_sealed || gemm->timing_left_ns == 0 ||
        !gemm_table_has_room(&gemm->table)) /* it would be timed at each call */
        return 0;
    return cudaStreamIsCapturing(cuda_stream_of(call->stream), &capture) == cudaSuccess &&
           capture == cudaStreamCaptureStatusNone;
}

ds_status gemm_choose(const struct gemm_call *call, struct gemm_plan *plan, int *is_timed)
{
    const int count_max = is_large(&call->key) ? LARGE_COUNT : CANDIDATES;
    struct candidates candidates = {0};
    void *scratch, *room;

    DS_TRY(cuda_scratch(call->stream, CUDA_SCRATCH_BYTES, &scratch));
    room = may_time(call) ? room_for_trials(call, scratch) : NULL;
    DS_TRY(ask(call, plan, room ? count_max : 1, &candidates));
    if (room)
        DS_TRY(time_all(call, plan, &candidates, scratch, room));
    plan->algo = candidates.results[candidates.best].algo;
    *is_timed = candidates.is_timed;
    return DS_OK;
}
