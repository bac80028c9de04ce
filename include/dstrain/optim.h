/* optim.h - AdamW on shards wherever they live, the verdict, learning rate schedules. */
#ifndef DSTRAIN_OPTIM_H
#define DSTRAIN_OPTIM_H

#include "dstrain/kernels.h"
#include "dstrain/memory.h"
#include "dstrain/zero.h"

/* A strip of what this rank updates of a unit (zero.h); slot: DS_ZERO_NO_SLOT where it is near. */
struct ds_optim_strip {
    uint32_t unit, strip, slot;
};

enum ds_lr_kind { DS_LR_CONSTANT, DS_LR_LINEAR, DS_LR_COSINE, DS_LR_WSD };

struct ds_lr_schedule {
    enum ds_lr_kind kind;
    double peak, min;
    uint64_t warmup_steps, decay_steps, total_steps;
};

/* pure: the learning rate of 1-based step `step`. Warm-up is (step)/(warmup_steps), so the first step
 * is not lost; the rest as Hugging Face has it, with step - 1 for their s (models.md 6.3). */
double ds_lr_at(const struct ds_lr_schedule *schedule, uint64_t step);

/* A run of elements of a unit with one weight decay. Where updates are rounded stochastically, `random` is
 * the name of the whole of which it is a part, and an element rounds by its place there: alike on every
 * rank that has it, wherever in their units it lies, however the whole is cut. */
struct ds_optim_range {
    struct ds_span span; /* unit coordinates */
    float weight_decay;
    uint32_t random;
    uint64_t whole_start;            /* of its first element */
    uint64_t columns, whole_columns; /* of rows that are parts of longer ones; columns 0: of none */
};

struct ds_optim_options {
    float beta1, beta2, epsilon, grad_clip;
    const struct ds_optim_range *const *ranges; /* [unit][...], in order */
    const uint32_t *range_counts;
    uint32_t unit_count;
    uint64_t seed; /* of the run; for stochastic rounding */
    /* what is away, as the list updates it (each with its slot): of these the host updates those that are its own
     * (zero.h), on a thread that is `thread_count` with its helpers. Borrowed for the open. */
    const struct ds_optim_strip *order;
    uint32_t order_count;
    int thread_count;
    const struct ds_clock *clock;
    struct ds_zero *zero;
    struct ds_device *device; /* near whose memory that thread shall run */
    struct ds_stream *compute;
    const struct ds_kernel_ops *kernels;
    struct ds_memory *memory;
};
struct ds_optim;

/* local: take the memory */
DS_CHECKED ds_status ds_optim_open(const struct ds_optim_options *options, struct ds_optim **out);
/* local: the host's thread begins, where it has anything to do. Not for a plan: it touches the memory. */
DS_CHECKED ds_status ds_optim_start(struct ds_optim *optim);
/* local: before streams are closed that may not have come to the end of what was queued: none waits for that thread any
 * more. NULL is allowed. */
void ds_optim_abandon(struct ds_optim *optim);
/* local: the memory goes back with the ledger; NULL is allowed */
void ds_optim_close(struct ds_optim *optim);
/* collective: the verdict of the step in `record`, on every rank */
DS_CHECKED ds_status ds_optim_verdict(struct ds_optim *optim, struct ds_step_record *record);
/* collective: update it, unless the host does, which has begun when it was fetched. `stream`: see ds_zero_update_begin */
DS_CHECKED ds_status ds_optim_update(struct ds_optim *optim, struct ds_stream *stream,
                                     const struct ds_optim_strip *strip,
                                     const struct ds_step_record *record);

#endif
