/* executor_private.h (private to parallel) - the executor between its files: its memory (executor_memory), arithmetic on
 * blocks (executor_arithmetic), the list and all other actions (executor), and steps as graphs (executor_graph). */
#ifndef DSTRAIN_EXECUTOR_PRIVATE_H
#define DSTRAIN_EXECUTOR_PRIVATE_H

#include "executor_kept.h"

#include "dstrain/executor.h"

/* What of a list is done: where updates are late, these two are done apart where two steps do not follow each other. */
enum executor_part { PART_ALL, PART_STEP, PART_UPDATES };

struct ds_executor {
    /* owns: device memory of the run's ledger, borrowed from it */
    struct places saved;   /* [plan->saved_slot_count] what decoder layers keep */
    struct places held;    /* [plan->held_slot_count] what a backward in two parts keeps */
    struct places streams; /* [plan->stream_slot_count] the residual stream, [tokens here, C] in the
                              compute dtype */
    struct kept kept;      /* [plan->home_count] what decoder layers keep elsewhere */
    void **derived; /* [block_count] what a block makes of its weights once a list; NULL: nothing */
    uint8_t *workspace;
    float *logits;                         /* of one token; NULL while training */
    struct ds_event *handover;             /* compute to comm, or to updates and back */
    struct ds_tensor_stream tensor_stream; /* where there are tensor ranks */
    struct ds_graph *graphs[2];            /* of a turn's steps; NULL: not captured yet */
    int is_behind_graph;                   /* the last list was launched as one */
    struct ds_step_record *decided;        /* what late updates go by: the last step's verdict */
    const struct ds_schedule *pending;     /* whose late updates are to come; NULL: none */
    /* borrows */
    struct ds_executor_options options;
    const struct ds_kernel_ops *kernels;
    /* of the graphs */
    enum ds_timeline_marks graph_marks[2];
    /* of the list being run */
    const struct ds_schedule *list;
    enum executor_part part;
    int updates_beside; /* the stream of updates has taken over in this list */
    uint64_t predict_row;
    int is_predicting;
    uint8_t grads_add[DS_BLOCK_UNITS_MAX];
};

static inline const struct ds_block *block_of(const struct ds_executor *x,
                                              const struct ds_action *action)
{
    return &x->options.model->blocks[action->block];
}

static inline int has_tensor_ranks(const struct ds_executor *x)
{
    return x->options.tensor && x->options.tensor->size > 1;
}

static inline int is_late(const struct ds_schedule *list)
{
    return list->updates == DS_UPDATES_LATE;
}

/* Does a block make here what it derives of its weights? */
static inline int derives(const struct ds_action *action)
{
    return action->kind == DS_ACTION_FORWARD && action->micro == 0;
}

/* executor_memory.c. pure: of the residual stream of a micro-batch; what the action's block keeps for its backward */
size_t executor_stream_bytes(const struct ds_executor *x);
size_t executor_saved_bytes(const struct ds_executor *x, const struct ds_action *action);

/* executor_arithmetic.c. collective: pieces of arithmetic, queued */
typedef ds_status executor_do(struct ds_executor *x, const struct ds_action *action);
executor_do executor_forward, executor_loss, executor_backward, executor_backward_input,
    executor_backward_weight;

/* executor.c. collective: a step with its spans, and with the updates of the step before if that has left any */
DS_CHECKED ds_status executor_obey_marked(struct ds_executor *x,
                                          const struct ds_executor_step *step);

/* executor_graph.c. local: what is queued next comes behind a graph that was launched, or inside of one */
DS_CHECKED ds_status executor_leave_graph(struct ds_executor *x);
void executor_close_graphs(struct ds_executor *x);

#endif
