/* plan.h (private to launch) - what a run takes, known without running it: the real trainer, assembled on
 * the null device and the null communicator, and its ledger read. Ranks that hold the same stage and the
 * same part of its matrices have one role; roles are what there is to measure. */
#ifndef DSTRAIN_LAUNCH_PLAN_H
#define DSTRAIN_LAUNCH_PLAN_H

#include "config/config.h"
#include "plan_time.h"

#include "dstrain/fs.h"
#include "dstrain/memory.h"
#include "dstrain/trainer.h"
#include "dstrain/zero.h"

struct ds_plan {
    uint64_t bytes[DS_MEMORY_KIND_COUNT][DS_MEMORY_LABEL_COUNT]; /* of one rank */
    /* of the device, beside them: a driver's context, libraries, communicators, scratch, whole pages; 0 on the cpu */
    uint64_t library_bytes;
    uint64_t filed_bytes[DS_ZERO_KIND_COUNT]; /* of each kind of state, in files */
    uint64_t filed_kept_bytes;                /* and of what layers keep for their backward */
    struct ds_step_work work[DS_STEP_PARTS];  /* of a step; of an evaluation 0 */
    /* of a checkpoint: what the rank copies, and how often training stops until the disk has what was copied */
    uint64_t saved_bytes, save_stops;
};

/* What a rank may take where no limit says so, of all ranks the least; 0: not known. */
struct ds_plan_room {
    uint64_t device_bytes, host_bytes;
    int is_one; /* the device's memory is the host's: what leaves one is in the other */
};

/* The ranks that plan, and which of its host's this one is. */
struct ds_plan_ranks {
    struct ds_comm *world;
    struct ds_fs *fs;
    const struct ds_clock *clock;
    uint32_t local_rank;
    int local_count, thread_count;
};

/* What is planned: training, or an evaluation; `config` resolved and validated for it and for `size` ranks. */
struct ds_plan_question {
    const struct ds_config *config;
    enum ds_config_use use; /* TRAIN or EVAL */
    struct ds_fs *fs;
    const struct ds_clock *clock;
    uint32_t size;
    struct ds_plan_room room; /* for what is left to the plan */
    const struct ds_speeds
        *speeds; /* that times are predicted with; NULL: those assumed for the device */
    int is_answer; /* tables are what a person has asked for: on stdout; else they are lines of the log */
    void (*alive)(void *user); /* or NULL: called after every role that was looked at */
    void *user;
};

/* ---- measuring (plan.c). local: everything here */

/* the plan of rank `rank` */
DS_CHECKED ds_status ds_plan_measure(const struct ds_plan_question *question, uint32_t rank,
                                     struct ds_plan *out);
/* pure: how many roles there are, and the first rank that has each: stages slowest, then tensor ranks */
uint32_t ds_plan_role_count(const struct ds_config *config);
uint32_t ds_plan_role_rank(const struct ds_config *config, uint32_t role);
/* which tensor rank takes what rank i takes: i, or an earlier one; [parallel.tensor], malloc'ed */
DS_CHECKED ds_status ds_plan_twins(const struct ds_plan_question *question, uint32_t **out);
/* the role that takes the most of the device (of equals: of host memory, then the first), and its plan; one
 * that does not fit is before those that do */
DS_CHECKED ds_status ds_plan_worst(const struct ds_plan_question *question, struct ds_plan *out,
                                   uint32_t *role);
uint64_t ds_plan_device_bytes(const struct ds_plan *plan);
uint64_t ds_plan_process_bytes(const struct ds_plan *plan); /* of the device, with the libraries */
uint64_t ds_plan_host_bytes(const struct ds_plan *plan);    /* pinned, and other host memory */
int ds_plan_fits(const struct ds_config *config, const struct ds_plan *plan);
/* what the configuration leaves to the plan: memory.logits and run.deterministic, by the device; homes, and
 * offload.optimizer_compute (plan_homes.c); zero.reshard_after_forward and zero.window: the fewest gathers that memory.device_limit has room for; without a limit, or without anything
 * gathered: always, 1 */
DS_CHECKED ds_status ds_plan_settle(const struct ds_plan_question *question,
                                    struct ds_config *config);

/* ---- homes (plan_homes.c) */

/* pure: is one left to the plan, or who updates them? */
int ds_plan_leaves_homes(const struct ds_config *config);
/* into `config` the homes that take the least time of those that fit the limits, and the room where there is no limit;
 * a line for each that was tried where it is the answer to a person. Equal questions get equal answers. */
DS_CHECKED ds_status ds_plan_choose_homes(const struct ds_plan_question *question,
                                          struct ds_config *config);

/* ---- speeds (plan_speeds.c) */

/* pure: of one of so many ranks of a host, which updates with so many threads (0: not known), by what was kept there */
struct ds_speeds ds_plan_speeds_of(const struct ds_config *config, double peak_flops,
                                   const struct ds_speeds_kept *kept, int local_count, int threads);
/* local: of this rank; where homes are left to the plan the link of a GPU that is here is measured, and kept, if nobody
 * has */
DS_CHECKED ds_status ds_plan_find_speeds(const struct ds_plan_ranks *ranks,
                                         const struct ds_config *config, struct ds_speeds *out);
/* collective: the least of any rank, where homes are left to the plan; else nothing */
DS_CHECKED ds_status ds_plan_agree_on_speeds(const struct ds_plan_ranks *ranks,
                                             const struct ds_config *config, struct ds_speeds *out);
void ds_plan_show_speeds(const struct ds_plan_question *question, const struct ds_speeds *speeds);

/* pure: does it compute on a GPU, as far as can be told here? */
int ds_plan_is_gpu(const struct ds_config *config);

/* ---- levers (plan_levers.c) */

/* prints what one key, changed alone, makes of the worst role: of its device memory, or, with `of_host`, of
 * what it takes of the host's */
DS_CHECKED ds_status ds_plan_show_levers(const struct ds_plan_question *question, int of_host);

/* pure: do parameters come together for their use and go again? In stage 3, where ranks share them or they are away */
int ds_plan_gathers(const struct ds_config *config);

/* ---- tables (plan_show.c) */

/* a line of a table, without its end */
void ds_plan_say(const struct ds_plan_question *question, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* DS_OK where the run fits memory.device_limit and host_limit, or has none; else DS_ERR_CONFIG, after a
 * table of what wants how much and of what would make it fit */
DS_CHECKED ds_status ds_plan_check(const struct ds_plan_question *question);

/* ---- in a run (plan_room.c, plan_together.c) */

/* pure: bytes that a control group has left, by its memory.max, memory.current and memory.stat; what it could drop of
 * files counts as left. UINT64_MAX: it has no limit */
uint64_t ds_plan_group_left(const char *max, const char *current, const char *stat);
/* local: what this rank finds; of a device that is not here nothing */
DS_CHECKED ds_status ds_plan_look_for_room(const struct ds_plan_ranks *ranks,
                                           const struct ds_config *config,
                                           struct ds_plan_room *out);
/* collective: the least that any rank finds, where homes are left to the plan and a limit is not set; else nothing */
DS_CHECKED ds_status ds_plan_agree_on_room(const struct ds_plan_ranks *ranks,
                                           const struct ds_config *config,
                                           struct ds_plan_room *out);

/* collective: settle and check; every rank has the verdict and what was settled. However long rank 0 needs,
 * no wait of the others is too long. */
DS_CHECKED ds_status ds_plan_together(const struct ds_plan_ranks *ranks, enum ds_config_use use,
                                      struct ds_config *config);

#endif
