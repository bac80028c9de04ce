/* wait.c - a blocking call polls its work. Cores are often fewer than ranks: it spins for a moment
 * only, then lets the peers run, and after about a millisecond it sleeps between two looks. */
#include "wait.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#define SPIN_TURNS  64   /* pauses: some microseconds */
#define YIELD_TURNS 1500 /* about a millisecond where nobody takes the core */
#define SLEEP_NS    50000
#define NAP_NS      5000    /* instead of yields, where they cost too much */
#define LONG_NS     1500000 /* peers come back sooner: their turns are pieces that fit a cache */

void comm_yield(const struct ds_comm *comm, struct comm_work *work)
{
    uint64_t begin_ns = ds_clock_mono_ns(comm->clock);

    sched_yield();
    if (ds_clock_mono_ns(comm->clock) - begin_ns > LONG_NS)
        work->is_crowded = 1;
}

static void relax(const struct ds_comm *comm, struct comm_work *work, uint32_t turn)
{
    if (turn >= SPIN_TURNS + YIELD_TURNS) {
        ds_clock_sleep_ns(comm->clock, SLEEP_NS);
    } else if (work->is_crowded) {
        ds_clock_sleep_ns(comm->clock, NAP_NS);
    } else if (turn >= SPIN_TURNS) {
        comm_yield(comm, work);
    } else {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

ds_status comm_drive(struct ds_comm *comm, ds_work_fn work, struct comm_work *args)
{
    uint64_t seen = 0;
    uint32_t turn = 0;
    int done = 0;

    for (;;) {
        DS_TRY(work(args, &done));
        if (done)
            return DS_OK;
        turn = args->progress != seen ? 0 : turn + 1;
        seen = args->progress;
        relax(comm, args, turn);
    }
}

ds_status comm_submit(struct ds_comm *comm, struct ds_stream *stream, ds_work_fn work,
                      struct comm_work *args, size_t args_bytes)
{
    if (stream == NULL)
        return comm_drive(comm, work, args);
    if (stream->device->ops->call == NULL)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s group: %s works on host memory; device %s has none",
                       comm->group, comm->ops->name, stream->device->ops->name);
    return stream->device->ops->call(stream, work, args, args_bytes);
}

int comm_is_late(const struct ds_comm *comm, const struct comm_work *work)
{
    return ds_clock_mono_ns(comm->clock) - work->started_ns > comm->deadline_ns;
}

void comm_names_add(struct comm_names *names, uint32_t rank)
{
    size_t left = sizeof names->text - names->length;
    const char *gap = names->count > 0 ? ", " : "";
    int length = 0;

    if (names->count++ == 0)
        names->first = rank;
    if (left > 24)
        length = snprintf(names->text + names->length, left, "%s%u", gap, rank);
    else if (names->has_more++ == 0)
        length = snprintf(names->text + names->length, left, ", ...");
    names->length += (size_t)length;
}

ds_status comm_fail_late(struct ds_comm *comm, const struct comm_work *work,
                         const struct comm_names *missing)
{
    double waited_s = (double)(ds_clock_mono_ns(comm->clock) - work->started_ns) * 1e-9;

    comm->missing = missing->count == 1 ? missing->first : DS_COMM_NOBODY;
    if (missing->count == 0)
        return ds_fail(DS_ERR_DEADLINE, "%s group: %s: waited %.3g s (rank %u of %u)", comm->group,
                       work->call, waited_s, comm->rank, comm->size);
    return ds_fail(DS_ERR_DEADLINE, "%s group: %s: waited %.3g s for rank%s %s (of %u)",
                   comm->group, work->call, waited_s, missing->count > 1 ? "s" : "", missing->text,
                   comm->size);
}

void comm_init(struct ds_comm *comm, const struct ds_comm_ops *ops, uint32_t rank, uint32_t size,
               const struct ds_clock *clock, uint64_t deadline_ns, const char *group)
{
    DS_ASSERT(size > 0 && rank < size);
    *comm = (struct ds_comm){ops, rank, size, deadline_ns, clock, "", DS_COMM_NOBODY};
    snprintf(comm->group, sizeof comm->group, "%s", group);
}
