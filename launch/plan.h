/* plan.h (private to launch) - what a run takes, known without running it: the real trainer, assembled on
 * the null device and the null communicator, and its ledger read. */
#ifndef DSTRAIN_LAUNCH_PLAN_H
#define DSTRAIN_LAUNCH_PLAN_H

#include "dstrain/config.h"
#include "dstrain/fs.h"
#include "dstrain/memory.h"

struct ds_plan {
    uint64_t bytes[DS_MEMORY_KIND_COUNT][DS_MEMORY_LABEL_COUNT]; /* of one rank */
};

/* local: the plan of rank `rank` of `size`; `config` resolved and validated for `size` ranks */
DS_CHECKED ds_status ds_plan_measure(const struct ds_config *config, struct ds_fs *fs,
                                     const struct ds_clock *clock, uint32_t rank, uint32_t size,
                                     struct ds_plan *out);
uint64_t ds_plan_total(const struct ds_plan *plan, enum ds_memory_kind kind);
/* local: DS_OK where the run fits memory.device_limit and host_limit, or has none; else DS_ERR_CONFIG, after
 * a table of what wants how much and of what would make it fit */
DS_CHECKED ds_status ds_plan_check(const struct ds_config *config, struct ds_fs *fs,
                                   const struct ds_clock *clock, uint32_t rank, uint32_t size);

#endif
