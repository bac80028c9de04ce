/* wait.c - the host waits. While it does, it drives the streams that nobody else drives: a collective
 * that stayed open on one of them may be what the awaited work, here or on another rank, waits for. */
#include "cpu.h"

#include <sched.h>

#define SPINS           64 /* tries at once; each may be a call into MPI, so it is a pause of its own */
#define YIELDS          256
#define SLEEP_NS        20000
#define SLEEP_NS_MAX    200000
#define PAUSES_A_LENGTH 8 /* sleeps before they double */

int ds_cpu_pause_is_long(const struct cpu_pause *pause)
{
    return pause->count >= SPINS + YIELDS;
}

void ds_cpu_pause(struct cpu_pause *pause, const struct ds_clock *clock)
{
    uint32_t count = pause->count++;
    uint64_t sleep_ns = SLEEP_NS;

    if (count < SPINS)
        return;
    if (count < SPINS + YIELDS) {
        sched_yield();
        return;
    }
    for (count -= SPINS + YIELDS; count >= PAUSES_A_LENGTH && sleep_ns < SLEEP_NS_MAX;
         count -= PAUSES_A_LENGTH)
        sleep_ns *= 2;
    ds_clock_sleep_ns(clock, sleep_ns < SLEEP_NS_MAX ? sleep_ns : SLEEP_NS_MAX);
}

enum cpu_step ds_cpu_poll(struct cpu_device *device)
{
    enum cpu_step all = CPU_STEP_EMPTY;

    for (struct cpu_stream *s = device->streams; s != NULL; s = s->next) {
        if (s->driver != CPU_DRIVER_CALLER || ds_cpu_stream_reached(s, s->queued))
            continue;
        enum cpu_step step = ds_cpu_stream_step(s);
        if (all != CPU_STEP_MOVED)
            all = step;
        while (step == CPU_STEP_MOVED)
            step = ds_cpu_stream_step(s);
    }
    return all;
}

static void wait_inline(struct cpu_stream *stream, uint64_t position)
{
    struct cpu_device *device = stream->device;
    struct cpu_pause pause = {0};

    while (!ds_cpu_stream_reached(stream, position)) {
        enum cpu_step step = ds_cpu_poll(device);

        if (step == CPU_STEP_MOVED)
            pause.count = 0;
        else if (step == CPU_STEP_EMPTY && ds_cpu_pause_is_long(&pause))
            ds_cpu_worker_await(stream, position); /* only workers have work left */
        else
            ds_cpu_pause(&pause, device->options.clock);
    }
}

ds_status ds_cpu_wait(struct cpu_stream *stream, uint64_t position)
{
    if (stream->device->options.mode == DS_DEVICE_DEFERRED)
        ds_cpu_deferred_run(stream, position);
    else
        wait_inline(stream, position);
    return ds_cpu_stream_status(stream);
}
