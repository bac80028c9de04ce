/* matmul_load.c - the algorithm of a shape that is fastest in a long run.
 *
 * A GPU that multiplies for seconds is held back by its power limit: its clock falls until what it draws fits. An algorithm
 * that is ahead at the clock of a cool GPU may then be behind, by its energy and by its cycles, since memory
 * does not slow down with it. So each candidate keeps the GPU busy until the clock has followed, and is timed
 * behind that. Rounds of growing length leave fewer of them. */
#include "matmul.h"

#define SECOND_NS  1000000000u
#define HOT_NS     (2 * SECOND_NS) /* until a cool GPU has found its clock */
#define COOLING_NS (SECOND_NS / 2) /* an idle one keeps it for so long */
#define SHORT_MS   0.03f           /* a product that launches, not power, hold back */
#define FAR        1.4f            /* of the best: more than a clock that fell meanwhile */
#define TRIALS_MAX 20000

static const struct {
    float ahead_ms, timed_ms;
    int kept;
} rounds[] = {{20, 80, 4}, {100, 200, 2}, {150, 350, 1}};

/* Fastest first; equal ones stay in their order. */
static void sort(struct gemm_candidate *c, int count)
{
    for (int i = 1; i < count; i++) {
        const struct gemm_candidate one = c[i];
        int at = i;

        for (; at > 0 && one.ms < c[at - 1].ms; at--)
            c[at] = c[at - 1];
        c[at] = one;
    }
}

static int fast_ones(const struct gemm_candidate *sorted, int count)
{
    int i = 1;

    while (i < count && sorted[i].ms <= sorted[0].ms * FAR)
        i++;
    return i;
}

static int trials_in(float all_ms, float ms)
{
    const float count = all_ms / ms;

    return count < 1.0f ? 1 : count > TRIALS_MAX ? TRIALS_MAX : (int)count;
}

static int is_cool(const struct cuda_gemm *gemm)
{
    return gemm->hot_until_ns == 0 ||
           ds_clock_mono_ns(gemm->clock) - gemm->hot_until_ns > COOLING_NS;
}

static ds_status heat(const struct gemm_call *call, struct gemm_plan *plan,
                      const struct gemm_candidate *by, void *workspace, void *to)
{
    const uint64_t since_ns = ds_clock_mono_ns(call->gemm->clock);
    float ms;

    while (ds_clock_mono_ns(call->gemm->clock) - since_ns < HOT_NS)
        DS_TRY(gemm_time(call, plan, &by->algo, workspace, to, 1, trials_in(100, by->ms), &ms));
    return DS_OK;
}

static ds_status time_rounds(const struct gemm_call *call, struct gemm_plan *plan,
                             struct gemm_candidate *c, int count, void *workspace, void *to)
{
    for (size_t r = 0; r < sizeof rounds / sizeof rounds[0]; r++) {
        for (int i = 0; i < count; i++)
            DS_TRY(gemm_time(call, plan, &c[i].algo, workspace, to,
                             trials_in(rounds[r].ahead_ms, c[i].ms),
                             trials_in(rounds[r].timed_ms, c[i].ms), &c[i].ms));
        sort(c, count);
        if (count > rounds[r].kept)
            count = rounds[r].kept;
    }
    return DS_OK;
}

ds_status gemm_time_under_load(const struct gemm_call *call, struct gemm_plan *plan,
                               struct gemm_candidate *candidates, int count, void *workspace,
                               void *to)
{
    struct cuda_gemm *gemm = call->gemm;
    const uint64_t since_ns = ds_clock_mono_ns(gemm->clock);
    uint64_t spent_ns;

    sort(candidates, count);
    if (candidates[0].ms < SHORT_MS)
        return DS_OK;
    if (is_cool(gemm))
        DS_TRY(heat(call, plan, &candidates[0], workspace, to));
    DS_TRY(time_rounds(call, plan, candidates, fast_ones(candidates, count), workspace, to));
    gemm->hot_until_ns = ds_clock_mono_ns(gemm->clock);
    spent_ns = gemm->hot_until_ns - since_ns;
    gemm->load_left_ns -= spent_ns < gemm->load_left_ns ? spent_ns : gemm->load_left_ns;
    return DS_OK;
}
