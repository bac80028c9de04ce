/* accounts.c - see accounts.h. Pure. */
#include "dstrain/accounts.h"

int ds_action_is_arithmetic(enum ds_action_kind kind)
{
    return kind == DS_ACTION_FORWARD || kind == DS_ACTION_LOSS || kind == DS_ACTION_RECOMPUTE ||
           kind == DS_ACTION_BACKWARD || kind == DS_ACTION_BACKWARD_INPUT ||
           kind == DS_ACTION_BACKWARD_WEIGHT;
}

enum ds_timeline_row ds_action_row(enum ds_action_kind kind)
{
    return kind == DS_ACTION_PREFETCH || kind == DS_ACTION_REDUCE || kind == DS_ACTION_EXCHANGE ||
                   kind == DS_ACTION_TIED_REDUCE
               ? DS_TIMELINE_COMM
               : DS_TIMELINE_COMPUTE;
}

double ds_accounts_ideal_bubble(const struct ds_schedule *list)
{
    return (double)(list->ticks - list->busy_ticks) / (double)list->busy_ticks;
}

static void add(const struct ds_schedule *list, const struct ds_timeline_span *span,
                struct ds_accounts *accounts)
{
    const uint64_t ns = span->end_ns - span->begin_ns;
    const int is_arithmetic = ds_action_is_arithmetic(list->actions[span->action].kind);

    switch ((enum ds_timeline_what)span->what) {
    case DS_TIMELINE_ACTION:
        accounts->arithmetic_ns += is_arithmetic ? ns : 0;
        return;
    case DS_TIMELINE_WAIT_COMM:
    case DS_TIMELINE_COLLECTIVE:
        accounts->wait_comm_ns += ns;
        break;
    case DS_TIMELINE_WAIT_STAGE:
        accounts->bubble_ns += ns;
        break;
    case DS_TIMELINE_WAIT_COMPUTE:
    case DS_TIMELINE_WHAT_COUNT:
        return;
    }
    accounts->arithmetic_ns -=
        is_arithmetic ? ns : 0; /* the action around the wait is added, too */
}

struct ds_accounts ds_accounts_of(const struct ds_schedule *list,
                                  const struct ds_timeline_span *spans, uint32_t count)
{
    struct ds_accounts accounts = {0};

    for (uint32_t i = 0; i < count; i++)
        if (spans[i].row == DS_TIMELINE_COMPUTE)
            add(list, &spans[i], &accounts);
    return accounts;
}

void ds_accounts_add_costs(const struct ds_action *actions, const struct ds_timeline_span *spans,
                           uint32_t count, uint64_t *ns, uint64_t *calls)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct ds_timeline_span *span = &spans[i];
        const struct ds_action *action = &actions[span->action];
        const uint64_t length_ns = span->end_ns - span->begin_ns;
        const size_t at = ds_schedule_cost_at(action->block, action->kind);

        if (span->row != DS_TIMELINE_COMPUTE || !ds_action_is_arithmetic(action->kind))
            continue;
        calls[at] += span->what == DS_TIMELINE_ACTION;
        ns[at] += span->what == DS_TIMELINE_ACTION ? length_ns : -length_ns;
    }
}
