/* bench_bubble.h (private to launch) - how long stages of a pipeline stood still, beside how long they would
 * have: all lists played together with what this run's pieces took.
 *
 * A bubble is the time in which a stage waits for its neighbours until its last arithmetic is done, over the
 * time of its arithmetic. Each rank has one, and the largest is the figure, measured or played. Played,
 * messages and collectives take no time, and every piece of a kind on a block takes their mean: what is left
 * between the two is messages, and pieces that took longer than others.
 *
 * One stage has no bubble. Its actions are not marked, which would cost time in the steps that are measured, so
 * nothing is played. */
#ifndef DSTRAIN_LAUNCH_BENCH_BUBBLE_H
#define DSTRAIN_LAUNCH_BENCH_BUBBLE_H

#include "bench.h"

#include "dstrain/trainer.h"

enum bench_bubble_kind { BENCH_MEASURED, BENCH_PLAYED, BENCH_BUBBLE_COUNT };

struct bench_bubble {
    /* owns */
    uint64_t *ns, *calls; /* ds_schedule_cost_at */
    /* and */
    uint32_t block_count, steps;
    double seconds[BENCH_REPEATS_MAX], shares[BENCH_REPEATS_MAX];
};

struct bench_bubble_figures {
    double largest[BENCH_BUBBLE_COUNT], rank[BENCH_BUBBLE_COUNT]; /* and whose it is */
    double bubble_s; /* of the rank with the largest measured */
    double ideal;    /* of equal pieces: the same on all ranks */
    double played_s; /* until all stages have done their arithmetic; NAN: one stage */
};

DS_CHECKED ds_status bench_bubble_init(struct bench_bubble *bubble, uint32_t block_count);
void bench_bubble_fini(struct bench_bubble *bubble);
/* local: one more step; of several stages its actions are marked (trainer.h) */
void bench_bubble_add(struct bench_bubble *bubble, const struct ds_step_report *report);
/* collective over `world`; the same on every rank */
DS_CHECKED ds_status bench_bubble_figures(struct bench_bubble *bubble, struct ds_comm *world,
                                          const struct ds_trainer *trainer,
                                          struct bench_bubble_figures *out);

#endif
