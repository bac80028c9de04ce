/* trace_clock.h (private to launch) - by how much the clocks of hosts differ. Monotonic clocks begin when a
 * host does, so a picture of several hosts needs their differences; inside one host there is none.
 *
 * All ranks meet again and again in a call that nobody leaves before everybody has come. So on every clock, a
 * rank has come before rank 0 leaves, and rank 0 has come before the rank leaves: bounds from both sides,
 * which the fastest meeting makes narrow. */
#ifndef DSTRAIN_LAUNCH_TRACE_CLOCK_H
#define DSTRAIN_LAUNCH_TRACE_CLOCK_H

#include "dstrain/comm.h"

/* One meeting, on one rank's clock. */
struct ds_trace_meeting {
    uint64_t come_ns, left_ns;
};

struct ds_trace_bounds {
    int64_t low_ns, high_ns; /* of own clock minus rank 0's */
};

struct ds_trace_clock {
    uint64_t start_ns; /* rank 0's clock at the first meeting */
    int64_t offset_ns; /* of this rank's clock, which is that much ahead of rank 0's */
    uint64_t error_ns; /* at most; 0 where the clocks cannot be told apart */
};

/* pure, both: what a meeting adds; and the midpoint, or 0 where that is possible: clocks of one host are one */
void ds_trace_bounds_narrow(struct ds_trace_bounds *bounds, struct ds_trace_meeting own,
                            struct ds_trace_meeting root);
void ds_trace_clock_of(struct ds_trace_bounds bounds, struct ds_trace_clock *clock);
/* collective */
DS_CHECKED ds_status ds_trace_clock_measure(struct ds_comm *world, const struct ds_clock *clock,
                                            struct ds_trace_clock *out);

#endif
