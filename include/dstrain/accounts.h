/* accounts.h - what became of a step's time on this rank, from its list and the spans of its timeline. */
#ifndef DSTRAIN_ACCOUNTS_H
#define DSTRAIN_ACCOUNTS_H

#include "dstrain/schedule.h"
#include "dstrain/timeline.h"

struct ds_accounts {
    /* of blocks: forward, loss, recomputation, backward; without waits. 0 where actions are not marked */
    uint64_t arithmetic_ns;
    uint64_t wait_comm_ns;    /* arithmetic stood still for a collective, inside of a block, too */
    uint64_t bubble_ns;       /* and for what a neighbour stage sends */
    uint64_t wait_copy_ns;    /* and for a checkpoint's copy of what it changes */
    uint64_t wait_offload_ns; /* and for what comes from its home, or goes there */
};

/* pure: is it the work of a block? */
int ds_action_is_arithmetic(enum ds_action_kind kind);
/* pure: how long a stage stands still in the list's own order of time, over how long it works: what a measured
 * bubble_ns / arithmetic_ns is to be compared with. The same on all stages where pieces are equal; 0 of one. */
double ds_accounts_ideal_bubble(const struct ds_schedule *list);
/* pure: on which stream an action of this kind works; DS_TIMELINE_ROW_COUNT: on none that it marks itself */
enum ds_timeline_row ds_action_row(enum ds_action_kind kind);
/* pure: waits of the comm stream are nobody's: arithmetic goes on beside them */
struct ds_accounts ds_accounts_of(const struct ds_schedule *list,
                                  const struct ds_timeline_span *spans, uint32_t count);
/* pure: adds what every piece of arithmetic took, without its waits, to `ns` of its block and kind
 * (ds_schedule_cost_at), and how many there were to `calls` */
void ds_accounts_add_costs(const struct ds_action *actions, const struct ds_timeline_span *spans,
                           uint32_t count, uint64_t *ns, uint64_t *calls);

#endif
