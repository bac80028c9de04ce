/* bench_bubble.c - see bench_bubble.h. */
#include "bench_bubble.h"

#include "dstrain/accounts.h"

#include <math.h>
#include <stdlib.h>

static size_t cost_count(const struct bench_bubble *bubble)
{
    return ds_schedule_cost_at(bubble->block_count, 0);
}

ds_status bench_bubble_init(struct bench_bubble *bubble, uint32_t block_count)
{
    bubble->block_count = block_count;
    bubble->ns = calloc(cost_count(bubble), sizeof *bubble->ns);
    bubble->calls = calloc(cost_count(bubble), sizeof *bubble->calls);
    return bubble->ns && bubble->calls
               ? DS_OK
               : ds_fail(DS_ERR_NO_MEMORY, "what %u blocks take", block_count);
}

void bench_bubble_fini(struct bench_bubble *bubble)
{
    free(bubble->ns);
    free(bubble->calls);
}

void bench_bubble_add(struct bench_bubble *bubble, const struct ds_step_report *report)
{
    bubble->seconds[bubble->steps] = report->bubble_s;
    bubble->shares[bubble->steps++] =
        report->bubble_s > 0 ? report->bubble_s / report->arithmetic_s : 0;
    ds_accounts_add_costs(report->actions, report->spans, report->span_count, bubble->ns,
                          bubble->calls);
}

/* Every rank knows its own blocks: sums over all ranks, then means in place of the sums. */
static ds_status average(struct bench_bubble *bubble, struct ds_comm *world)
{
    const size_t count = cost_count(bubble);

    DS_TRY(ds_comm_all_reduce(world, bubble->ns, count, DS_U64, DS_REDUCE_SUM, NULL));
    DS_TRY(ds_comm_all_reduce(world, bubble->calls, count, DS_U64, DS_REDUCE_SUM, NULL));
    for (size_t i = 0; i < count; i++)
        bubble->ns[i] = bubble->calls[i] ? bubble->ns[i] / bubble->calls[i] : 0;
    return DS_OK;
}

/* local: this rank's bubble when all stages are played, and when the last of them ends */
static ds_status play(const struct ds_trainer *trainer, const uint64_t *costs, double *bubble,
                      uint64_t *end)
{
    uint32_t stage_count;
    const uint32_t stage = ds_trainer_stage(trainer, &stage_count);
    struct ds_schedule_played *stages = calloc(stage_count, sizeof *stages);
    ds_status st;

    if (!stages)
        return ds_fail(DS_ERR_NO_MEMORY, "to play %u stages", stage_count);
    st = ds_trainer_play(trainer, costs, stages);
    if (st == DS_OK) {
        const struct ds_schedule_played *own = &stages[stage];
        *bubble = own->busy ? (double)(own->end - own->busy) / (double)own->busy : 0;
        *end = 0;
        for (uint32_t i = 0; i < stage_count; i++)
            *end = stages[i].end > *end ? stages[i].end : *end;
    }
    free(stages);
    return st;
}

/* The largest of every column, and whose it is. */
static void find_largest(const double *all, uint32_t ranks, struct bench_bubble_figures *out)
{
    for (uint32_t rank = 0; rank < ranks; rank++) {
        const double *of_rank = &all[(size_t)rank * (BENCH_BUBBLE_COUNT + 1)];
        for (int k = 0; k < BENCH_BUBBLE_COUNT; k++) {
            if (rank > 0 && !(of_rank[k] > out->largest[k]))
                continue;
            out->largest[k] = of_rank[k];
            out->rank[k] = rank;
            if (k == BENCH_MEASURED)
                out->bubble_s = of_rank[BENCH_BUBBLE_COUNT];
        }
    }
}

ds_status bench_bubble_figures(struct bench_bubble *bubble, struct ds_comm *world,
                               const struct ds_trainer *trainer, struct bench_bubble_figures *out)
{
    double own[BENCH_BUBBLE_COUNT + 1];
    double *all = calloc(world->size, sizeof own);
    uint64_t end = 0;
    ds_status st = all ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "the bubbles of %u ranks", world->size);

    if (st == DS_OK)
        st = ds_trainer_ideal_bubble(trainer, &out->ideal);
    DS_TRY_GOTO(st, ds_comm_agreed(world, st), done);
    DS_TRY_GOTO(st, average(bubble, world), done);
    st = play(trainer, bubble->ns, &own[BENCH_PLAYED], &end);
    DS_TRY_GOTO(st, ds_comm_agreed(world, st), done);
    own[BENCH_MEASURED] = bench_spread_of(bubble->shares, bubble->steps).median;
    own[BENCH_BUBBLE_COUNT] = bench_spread_of(bubble->seconds, bubble->steps).median;
    DS_TRY_GOTO(st, ds_comm_all_gather(world, own, all, BENCH_BUBBLE_COUNT + 1, DS_F64, NULL),
                done);
    find_largest(all, world->size, out);
    out->played_s = end > 0 ? (double)end * 1e-9 : NAN;
done:
    free(all);
    return st;
}
