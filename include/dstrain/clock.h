/* clock.h - everything that asks for the time or sleeps goes through here, so that tests can own
 * the time. A clock is a table with state; ds_clock_system() is the real one. local: everything here, from
 * any thread. */
#ifndef DSTRAIN_CLOCK_H
#define DSTRAIN_CLOCK_H

#include <stdint.h>

struct ds_clock {
    uint64_t (*mono_ns)(void *self); /* never goes back; comparable inside one host */
    uint64_t (*real_ns)(void *self); /* since 1970, for people */
    void (*sleep_ns)(void *self, uint64_t ns);
    void *self;
};

const struct ds_clock *ds_clock_system(void);

static inline uint64_t ds_clock_mono_ns(const struct ds_clock *clock)
{
    return clock->mono_ns(clock->self);
}
static inline uint64_t ds_clock_real_ns(const struct ds_clock *clock)
{
    return clock->real_ns(clock->self);
}
static inline void ds_clock_sleep_ns(const struct ds_clock *clock, uint64_t ns)
{
    clock->sleep_ns(clock->self, ns);
}

/* A line at DEBUG: what a part of the start took, from *since_ns until now, which *since_ns becomes. */
void ds_clock_tell_start(const struct ds_clock *clock, const char *part, uint64_t *since_ns);

/* A clock for tests: time moves when somebody sleeps or the test says so. Safe for threads. */
struct ds_clock_manual {
    struct ds_clock clock;
    uint64_t now_ns; /* atomic */
};
void ds_clock_manual_init(struct ds_clock_manual *manual);
void ds_clock_manual_advance(struct ds_clock_manual *manual, uint64_t ns);

#endif
