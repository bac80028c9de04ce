/* matmul_choice.c - the algorithm for a shape that is met for the first time: of the first few that
 * cuBLASLt's heuristics name, the fastest on the caller's own operands.
 *
 * Trials leave no trace. They write what the call itself will write again, but where C is added to: then
 * to scratch memory, and a result that is too large for that is not timed (a gradient's first micro-batch
 * has no `add`, and both share an entry of the table). */
#include "matmul.h"

#include <string.h>

#define COUNT  8
#define TRIALS 3
#define LARGE_FLOP \
    0x1p37 /* a fifth of a millisecond and more: fewer of both, or the start waits for it */
#define LARGE_COUNT  6
#define LARGE_TRIALS 2
#define LONG_MS      5.0f  /* of one product: then one trial tells enough */
#define BETTER_THAN  0.99f /* of a candidate's time that the heuristics rank higher: less is noise */

struct candidates {
    struct gemm_candidate all[GEMM_CANDIDATES_MAX]; /* as the library ranks them */
    int count, best;
    enum gemm_known known;
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

static int count_max(const struct gemm_call *call)
{
    if (call->gemm->load_left_ns > 0)
        return GEMM_CANDIDATES_MAX;
    return is_large(&call->key) ? LARGE_COUNT : COUNT;
}

static ds_status ask(const struct gemm_call *call, struct gemm_plan *plan, int most,
                     struct candidates *c)
{
    cublasLtMatmulHeuristicResult_t results[GEMM_CANDIDATES_MAX];
    cublasLtMatmulPreferenceOpaque_t preference;
    int count = 0;

    GEMM_TRY(set_preference(&preference, &call->key), &call->key);
    GEMM_TRY(cublasLtMatmulAlgoGetHeuristic(call->gemm->handle, &plan->product, &plan->x, &plan->y,
                                            &plan->c, &plan->c, &preference, most, results, &count),
             &call->key);
    for (int i = 0; i < count; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            c->all[c->count++] = (struct gemm_candidate){results[i].algo, GEMM_NEVER_MS};
    if (c->count == 0)
        return gemm_fail_at(CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt names no algorithm", &call->key,
                            __FILE__, __LINE__);
    return DS_OK;
}

ds_status gemm_time(const struct gemm_call *call, struct gemm_plan *plan,
                    const cublasLtMatmulAlgo_t *algo, void *workspace, void *to, int ahead,
                    int trials, float *ms)
{
    const cudaStream_t stream = cuda_stream_of(call->stream);
    float all_ms = 0.0f;

    for (int i = 0; i < ahead; i++)
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

/* One untimed product loads the kernel. When the time runs out the best so far is taken, and counts as a guess. */
static ds_status time_all(const struct gemm_call *call, struct gemm_plan *plan,
                          struct candidates *c, void *workspace, void *to)
{
    struct cuda_gemm *gemm = call->gemm;
    const int trials_max = is_large(&call->key) ? LARGE_TRIALS : TRIALS;
    float best_ms = GEMM_NEVER_MS;
    int i;

    CUDA_TRY(cudaStreamSynchronize(cuda_stream_of(call->stream))); /* work before it is not ours */
    for (i = 0; i < c->count && gemm->timing_left_ns > 0; i++) {
        const uint64_t since_ns = ds_clock_mono_ns(gemm->clock);
        const int trials = i > 0 && best_ms > LONG_MS ? 1 : trials_max;
        struct gemm_candidate *it = &c->all[i];

        DS_TRY(gemm_time(call, plan, &it->algo, workspace, to, 1, trials, &it->ms));
        spend(gemm, since_ns);
        if (it->ms < best_ms * BETTER_THAN) {
            best_ms = it->ms;
            c->best = i;
        }
    }
    if (i == c->count && best_ms < GEMM_NEVER_MS)
        c->known = GEMM_TIMED;
    return DS_OK;
}

static ds_status time_longer(const struct gemm_call *call, struct gemm_plan *plan,
                             struct candidates *c, void *workspace, void *to)
{
    if (c->known != GEMM_TIMED || call->gemm->load_left_ns == 0)
        return DS_OK;
    DS_TRY(gemm_time_under_load(call, plan, c->all, c->count, workspace, to));
    c->best = 0;
    c->known = GEMM_TIMED_UNDER_LOAD;
    return DS_OK;
}

static void say(const struct gemm_key *key, const struct candidates *c)
{
    static const char *const found[] = {"guessed", "timed", "timed under load"};

    ds_debug("product of %llu x %llu x %llu, %s to %s, transposed %d %d: %s, %.1f us",
             (unsigned long long)key->m, (unsigned long long)key->n, (unsigned long long)key->k,
             ds_dtype_name((enum ds_dtype)key->in), ds_dtype_name((enum ds_dtype)key->out),
             key->trans_a, key->trans_b, found[c->known], (double)c->all[c->best].ms * 1e3);
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

int gemm_may_improve(const struct gemm_call *call, enum gemm_known known)
{
    return known < GEMM_TIMED_UNDER_LOAD && call->gemm->load_left_ns > 0 && may_time(call) &&
           room_for_trials(call, NULL);
}

ds_status gemm_choose(const struct gemm_call *call, struct gemm_plan *plan, enum gemm_known *known)
{
    struct candidates candidates = {0};
    void *scratch, *room;

    DS_TRY(cuda_scratch(call->stream, CUDA_SCRATCH_BYTES, &scratch));
    room = may_time(call) ? room_for_trials(call, scratch) : NULL;
    DS_TRY(ask(call, plan, room ? count_max(call) : 1, &candidates));
    if (room) {
        DS_TRY(time_all(call, plan, &candidates, scratch, room));
        DS_TRY(time_longer(call, plan, &candidates, scratch, room));
        say(&call->key, &candidates);
    }
    plan->algo = candidates.all[candidates.best].algo;
    *known = candidates.known;
    return DS_OK;
}
