/* trace_clock.c - see trace_clock.h. */
#include "trace_clock.h"

#define MEETINGS 16

void ds_trace_bounds_narrow(struct ds_trace_bounds *bounds, struct ds_trace_meeting own,
                            struct ds_trace_meeting root)
{
    const int64_t low_ns = (int64_t)(own.come_ns - root.left_ns);
    const int64_t high_ns = (int64_t)(own.left_ns - root.come_ns);

    bounds->low_ns = low_ns > bounds->low_ns ? low_ns : bounds->low_ns;
    bounds->high_ns = high_ns < bounds->high_ns ? high_ns : bounds->high_ns;
}

void ds_trace_clock_of(struct ds_trace_bounds bounds, struct ds_trace_clock *clock)
{
    const int64_t width_ns = bounds.high_ns - bounds.low_ns;
    const int is_one = bounds.low_ns <= 0 && bounds.high_ns >= 0;

    clock->offset_ns = is_one ? 0 : bounds.low_ns + width_ns / 2;
    clock->error_ns = is_one ? 0 : (uint64_t)(width_ns + 1) / 2;
}

/* Rank 0's times come with the next meeting: it leaves one only when it is over. */
ds_status ds_trace_clock_measure(struct ds_comm *world, const struct ds_clock *clock,
                                 struct ds_trace_clock *out)
{
    struct ds_trace_bounds bounds = {INT64_MIN, INT64_MAX};
    struct ds_trace_meeting own = {0, 0}, root = {0, 0};

    for (int i = 0; i <= MEETINGS; i++) {
        const uint64_t come_ns = ds_clock_mono_ns(clock);
        uint64_t told[2] = {0, 0}; /* by rank 0: when it came now, when it left the last time */

        if (world->rank == 0) {
            told[0] = come_ns;
            told[1] = own.left_ns;
        }
        DS_TRY(ds_comm_all_reduce(world, told, 2, DS_U64, DS_REDUCE_MAX, NULL));
        root.left_ns = told[1];
        if (i > 0)
            ds_trace_bounds_narrow(&bounds, own, root);
        else
            out->start_ns = told[0];
        root.come_ns = told[0];
        own = (struct ds_trace_meeting){come_ns, ds_clock_mono_ns(clock)};
    }
    ds_trace_clock_of(bounds, out);
    return DS_OK;
}
