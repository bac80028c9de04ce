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
    if (kind == DS_ACTION_FETCH || kind == DS_ACTION_EVICT || kind == DS_ACTION_EVICT_KEPT ||
        kind == DS_ACTION_FETCH_KEPT)
        return DS_TIMELINE_ROW_COUNT;
    return kind == DS_ACTION_PREFETCH || kind == DS_ACTION_REDUCE || kind == DS_ACTION_EXCHANGE ||
                   kind == DS_ACTION_TIED_REDUCE
               ? DS_TIMELINE_COMM
               : DS_TIMELINE_COMPUTE;
}

double ds_accounts_ideal_bubble(const struct ds_schedule *list)
{
    return (double)(list->ticks - list->busy_ticks) / (double)list->busy_ticks;
}

/* Is it a piece of arithmetic, or a wait in one that has left a span, too? `*last`: the action before it on the
 * compute row, or NULL; kept for the next one. */
static int is_of_arithmetic(const struct ds_action *actions, const struct ds_timeline_span *span,
                            const struct ds_timeline_span **last)
{
    if (span->what == DS_TIMELINE_ACTION)
        *last = span;
    return *last && (*last)->action == span->action &&
           ds_action_is_arithmetic(actions[span->action].kind);
}

static void add_wait(const struct ds_timeline_span *span, struct ds_accounts *accounts)
{
    const uint64_t ns = span->end_ns - span->begin_ns;

    if (span->what == DS_TIMELINE_WAIT_STAGE)
        accounts->bubble_ns += ns;
    else if (span->what == DS_TIMELINE_WAIT_COPY)
        accounts->wait_copy_ns += ns;
    else if (span->what == DS_TIMELINE_WAIT_OFFLOAD)
        accounts->wait_offload_ns += ns;
    else
        accounts->wait_comm_ns += ns;
}

struct ds_accounts ds_accounts_of(const struct ds_schedule *list,
                                  const struct ds_timeline_span *spans, uint32_t count)
{
    struct ds_accounts accounts = {0};
    const struct ds_timeline_span *last = NULL;

    for (uint32_t i = 0; i < count; i++) {
        const struct ds_timeline_span *span = &spans[i];
        const uint64_t ns = span->end_ns - span->begin_ns;
        const int is_action = span->what == DS_TIMELINE_ACTION;

        if (span->row != DS_TIMELINE_COMPUTE)
            continue;
        if (is_of_arithmetic(list->actions, span, &last))
            accounts.arithmetic_ns += is_action ? ns : -ns;
        if (!is_action)
            add_wait(span, &accounts);
    }
    return accounts;
}

void ds_accounts_add_costs(const struct ds_action *actions, const struct ds_timeline_span *spans,
                           uint32_t count, uint64_t *ns, uint64_t *calls)
{
    const struct ds_timeline_span *last = NULL;

    for (uint32_t i = 0; i < count; i++) {
        const struct ds_timeline_span *span = &spans[i];
        const struct ds_action *action = &actions[span->action];
        const uint64_t length_ns = span->end_ns - span->begin_ns;
        const size_t at = ds_schedule_cost_at(action->block, action->kind);

        if (span->row != DS_TIMELINE_COMPUTE || !is_of_arithmetic(actions, span, &last))
            continue;
        calls[at] += span->what == DS_TIMELINE_ACTION;
        ns[at] += span->what == DS_TIMELINE_ACTION ? length_ns : -length_ns;
    }
}
