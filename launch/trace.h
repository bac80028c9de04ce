/* trace.h (private to launch) - the picture of some steps: log.trace = first..last writes trace.json into the
 * run's directory, for chrome://tracing or Perfetto, a process for every rank and a row for each of its
 * streams.
 *
 * Every rank appends its spans to a file of its own, trace/rank-NNNN.json, which can be opened as it is; after
 * the last step rank 0 makes one of them, whole or absent. What goes wrong with files costs the trace, a line
 * of warning, and nothing else. */
#ifndef DSTRAIN_LAUNCH_TRACE_H
#define DSTRAIN_LAUNCH_TRACE_H

#include "dstrain/comm.h"
#include "dstrain/fs.h"
#include "dstrain/trainer.h"

struct ds_trace_options {
    struct ds_comm *world; /* control */
    struct ds_fs *fs;
    const struct ds_clock *clock;
    const char *dir;      /* of the run; must outlive the trace */
    uint64_t first, last; /* steps; the run gets to the last */
};

struct ds_trace;

/* collective: compares the clocks; fails only where ranks cannot talk or have no memory */
DS_CHECKED ds_status ds_trace_open(const struct ds_trace_options *options, struct ds_trace **out);
/* local, every finished step; of step `last` collective: settle_step of the trainer's options */
DS_CHECKED ds_status ds_trace_step(struct ds_trace *trace, const struct ds_step_report *report);
/* local; NULL is allowed */
void ds_trace_close(struct ds_trace *trace);

#endif
