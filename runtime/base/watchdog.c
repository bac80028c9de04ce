/* watchdog.c - two threads that see to it that a hang ends.
 *
 * The ticker stamps the page, looks at the main thread's beat, and never does anything that may
 * block. The scribe sleeps until a deadline passes; then it writes the line and the incident file,
 * and may get stuck on a full pipe or a lost file system: the ticker waits for it for a while only,
 * leaves its mark and ends the process. Both threads and all they need exist from the start: a
 * process that hangs may no longer be able to make them. */
#include "recorder_page.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DUMP_NS_MAX UINT64_C(2000000000) /* what the scribe is waited for */
#define GAP_NS_MIN  UINT64_C(300000000)  /* a tick later than that, and than 3 ticks: was stopped */
#define GAP_TICKS   3

struct watchdog {
    struct ds_recorder *recorder;
    void (*end)(int code);
    uint64_t tick_ns;
    /* the ticker's */
    uint64_t last_tick_ns, armed_ns; /* armed_ns: a deadline counts from here or from the beat */
    /* both, under the lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_stopping, is_late, is_written;
    struct incident incident; /* filled by the ticker before is_late, the scribe's from then on */
    pthread_t ticker, scribe;
};

/* Was the process stopped (SIGSTOP, a suspended machine)? Then the time that passed says nothing
 * about the main thread. The gap is evidence for whoever reads the page. */
static void tick(struct watchdog *watchdog, uint64_t now_ns)
{
    struct recorder_page *page = watchdog->recorder->page;
    const uint64_t gap_ns = now_ns - watchdog->last_tick_ns;

    watchdog->last_tick_ns = now_ns;
    PAGE_STORE(&page->wtick_ns, now_ns);
    if (gap_ns > GAP_NS_MIN && gap_ns > GAP_TICKS * watchdog->tick_ns) {
        PAGE_STORE(&page->gap_ns, gap_ns);
        PAGE_STORE(&page->gap_at_ns, now_ns);
        watchdog->armed_ns = now_ns;
    }
}

/* Is the main thread later than its section allows? Then the incident is begun. */
static int is_late(struct watchdog *watchdog, uint64_t now_ns)
{
    const struct recorder_page *page = watchdog->recorder->page;
    struct incident *incident = &watchdog->incident;
    uint64_t since_ns;

    if (!page_section_load(page, &incident->section) || incident->section.deadline_ns == 0)
        return 0;
    since_ns = PAGE_LOAD(&page->beat_ns);
    if (since_ns < watchdog->armed_ns)
        since_ns = watchdog->armed_ns;
    incident->now_ns = now_ns;
    incident->code = ds_status_exit_code(DS_ERR_DEADLINE);
    incident->late_ns = now_ns > since_ns ? now_ns - since_ns : 0;
    return incident->late_ns > incident->section.deadline_ns;
}

/* Waits on the real clock, whatever clock the run has: a wait must end when the run stops. 0: time
 * is up. The lock is held. */
static int wait_changed(struct watchdog *watchdog, const struct timespec *until)
{
    return pthread_cond_timedwait(&watchdog->changed, &watchdog->lock, until) != ETIMEDOUT;
}

static struct timespec real_time_after(uint64_t ns)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    ns += (uint64_t)at.tv_nsec;
    at.tv_sec += (time_t)(ns / 1000000000u);
    at.tv_nsec = (long)(ns % 1000000000u);
    return at;
}

/* The last acts of this process. With an `end` that returns, of this thread. */
static void end_late(struct watchdog *watchdog)
{
    const struct timespec until = real_time_after(DUMP_NS_MAX);
    const int code = ds_status_exit_code(DS_ERR_DEADLINE);

    watchdog->is_late = 1;
    pthread_cond_broadcast(&watchdog->changed);
    while (!watchdog->is_written && wait_changed(watchdog, &until)) {
    }
    pthread_mutex_unlock(&watchdog->lock);
    page_leave(watchdog->recorder, code);
    if (!watchdog->end) {
        pthread_detach(watchdog->scribe); /* nobody will join it: not a leak */
        _exit(code);
    }
    watchdog->end(code);
    pthread_mutex_lock(&watchdog->lock);
}

static void *run_ticker(void *args)
{
    struct watchdog *watchdog = args;

    pthread_mutex_lock(&watchdog->lock);
    while (!watchdog->is_stopping && !watchdog->is_late) {
        const struct timespec until = real_time_after(watchdog->tick_ns);
        uint64_t now_ns;

        while (!watchdog->is_stopping && wait_changed(watchdog, &until)) {
        }
        now_ns = ds_clock_mono_ns(watchdog->recorder->clock);
        tick(watchdog, now_ns);
        if (!watchdog->is_stopping && is_late(watchdog, now_ns))
            end_late(watchdog);
    }
    pthread_mutex_unlock(&watchdog->lock);
    return NULL;
}

static void *run_scribe(void *args)
{
    struct watchdog *watchdog = args;
    int has_work;

    pthread_mutex_lock(&watchdog->lock);
    while (!watchdog->is_stopping && !watchdog->is_late)
        pthread_cond_wait(&watchdog->changed, &watchdog->lock);
    has_work = watchdog->is_late;
    pthread_mutex_unlock(&watchdog->lock);
    if (!has_work)
        return NULL;
    if (!PAGE_LOAD(&watchdog->recorder->page->is_told)) {
        incident_log(watchdog->recorder, &watchdog->incident);
        incident_write(watchdog->recorder, &watchdog->incident);
    }
    pthread_mutex_lock(&watchdog->lock);
    watchdog->is_written = 1;
    pthread_cond_broadcast(&watchdog->changed);
    pthread_mutex_unlock(&watchdog->lock);
    return NULL;
}

static void init_lock(struct watchdog *watchdog)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&watchdog->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&watchdog->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void watchdog_free(struct watchdog *watchdog)
{
    pthread_cond_destroy(&watchdog->changed);
    pthread_mutex_destroy(&watchdog->lock);
    free(watchdog);
}

static void tell_to_stop(struct watchdog *watchdog)
{
    pthread_mutex_lock(&watchdog->lock);
    watchdog->is_stopping = 1;
    pthread_cond_broadcast(&watchdog->changed);
    pthread_mutex_unlock(&watchdog->lock);
}

/* Signals are for the main thread: the new threads inherit a mask that blocks all of them. */
static int start_threads(struct watchdog *watchdog)
{
    sigset_t all, before;
    int code;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&watchdog->scribe, NULL, run_scribe, watchdog);
    if (code == 0) {
        code = pthread_create(&watchdog->ticker, NULL, run_ticker, watchdog);
        if (code != 0) {
            tell_to_stop(watchdog);
            pthread_join(watchdog->scribe, NULL);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

ds_status ds_watchdog_start(struct ds_recorder *recorder, uint64_t tick_ns, void (*end)(int code))
{
    struct watchdog *watchdog;
    int code;

    DS_ASSERT(!recorder->watchdog && tick_ns > 0);
    watchdog = calloc(1, sizeof *watchdog);
    if (!watchdog)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for the watchdog");
    watchdog->recorder = recorder;
    watchdog->end = end;
    watchdog->tick_ns = tick_ns;
    watchdog->last_tick_ns = watchdog->armed_ns = ds_clock_mono_ns(recorder->clock);
    init_lock(watchdog);
    code = start_threads(watchdog);
    if (code != 0) {
        watchdog_free(watchdog);
        return ds_fail(DS_ERR_NO_MEMORY, "start the watchdog's threads: %s", strerror(code));
    }
    recorder->watchdog = watchdog;
    return DS_OK;
}

void ds_watchdog_stop(struct ds_recorder *recorder)
{
    struct watchdog *watchdog = recorder->watchdog;

    if (!watchdog)
        return;
    tell_to_stop(watchdog);
    pthread_join(watchdog->ticker, NULL);
    pthread_join(watchdog->scribe, NULL);
    watchdog_free(watchdog);
    recorder->watchdog = NULL;
}
