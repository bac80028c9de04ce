/* clock.c - the system's clock, and one for tests that moves when it is told to. */
#include "dstrain/clock.h"

#include "dstrain/status.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

static uint64_t read_ns(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t system_mono_ns(void *self)
{
    (void)self;
    return read_ns(CLOCK_MONOTONIC);
}

static uint64_t system_real_ns(void *self)
{
    (void)self;
    return read_ns(CLOCK_REALTIME);
}

static void system_sleep_ns(void *self, uint64_t ns)
{
    struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

    (void)self;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static const struct ds_clock system_clock = {system_mono_ns, system_real_ns, system_sleep_ns, NULL};

const struct ds_clock *ds_clock_system(void)
{
    return &system_clock;
}

static uint64_t manual_now_ns(void *self)
{
    return __atomic_load_n(&((struct ds_clock_manual *)self)->now_ns, __ATOMIC_ACQUIRE);
}

static void manual_sleep_ns(void *self, uint64_t ns)
{
    ds_clock_manual_advance(self, ns);
}

void ds_clock_manual_init(struct ds_clock_manual *manual)
{
    manual->now_ns = 1000000000u;
    manual->clock = (struct ds_clock){manual_now_ns, manual_now_ns, manual_sleep_ns, manual};
}

void ds_clock_manual_advance(struct ds_clock_manual *manual, uint64_t ns)
{
    __atomic_add_fetch(&manual->now_ns, ns, __ATOMIC_ACQ_REL);
}

void ds_clock_tell_start(const struct ds_clock *clock, const char *part, uint64_t *since_ns)
{
    const uint64_t now_ns = ds_clock_mono_ns(clock);

    ds_debug("start: %s: %.3f s", part, (double)(now_ns - *since_ns) * 1e-9);
    *since_ns = now_ns;
}
