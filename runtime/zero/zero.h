/* zero.h (private) - what the files of this folder share: the state of units and slots. */
#ifndef DSTRAIN_ZERO_PRIVATE_H
#define DSTRAIN_ZERO_PRIVATE_H

#include "dstrain/zero.h"

enum { NO_SLOT = UINT32_MAX };

/* A place that units use in turn. `idle` is recorded on the stream that used it last. */
struct zero_slot {
    uint8_t *at;
    struct ds_event *idle;
    uint32_t holder; /* unit, or NO_SLOT */
};

struct zero_slots {
    struct zero_slot *slots;
    uint32_t count;
};

struct zero_unit {
    struct ds_zero_layout layout;
    uint32_t slot_class;
    struct ds_span *gaps; /* between and behind parameters, up to full_elems */
    uint32_t gap_count;
    /* device memory; `whole` views hold full_elems, `shard` views shard_elems */
    float *param_shard, *param_whole; /* whole: NULL in stage 3 of several ranks */
    float *grad_shard, *grad_whole;   /* the accumulator; whole: stage 0 */
    float *exp_avg, *exp_avg_sq;      /* whole in stage 0, else the shard's */
    /* where it is now */
    uint32_t weight_slot, grad_slot; /* NO_SLOT: in none */
    uint32_t holds;                  /* how many have acquired the weights */
    uint8_t is_gathering, is_grad_started, is_grad_gathered, is_reduced;
    struct ds_event *ready;   /* on comm: whole weights are there */
    struct ds_event *updated; /* on compute: the shard has its new values */
};

struct ds_zero {
    /* owns */
    struct zero_unit *units;
    struct zero_slots weight_slots[DS_ZERO_SLOT_CLASSES], grad_slots[DS_ZERO_SLOT_CLASSES];
    struct ds_event *handover; /* one-time: compute to comm and back */
    double *piece_sums;        /* device; of all owned shards, in order of units */
    uint64_t piece_count;
    /* borrows */
    struct ds_zero_options options;
    const struct ds_device_ops *device_ops;
    const struct ds_kernel_ops *kernels;
    uint32_t shard_rank, shard_count;
    uint64_t waited_ns;
};

static inline size_t f32_bytes(uint64_t elems)
{
    return (size_t)elems * sizeof(float);
}

/* Are whole weights always here? Stages 0-2, and wherever nobody shares them out. */
static inline int weights_stay(const struct ds_zero *zero)
{
    return zero->options.stage < 3 || zero->shard_count == 1;
}

static inline struct zero_unit *unit_at(const struct ds_zero *zero, uint32_t unit)
{
    DS_ASSERT(unit < zero->options.unit_count);
    return &zero->units[unit];
}

/* the comm stream goes on after what the compute stream has so far, and the other way round */
DS_CHECKED ds_status zero_comm_after_compute(struct ds_zero *zero);
DS_CHECKED ds_status zero_compute_after_comm(struct ds_zero *zero);

#endif
