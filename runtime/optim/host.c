/* host.c - see host.h. The thread sees host memory and words (device.h) only: that a verdict is there, that a job's gradient
 * is, and it says which weights are. Each step has all jobs, so it needs no word on which is next, and a graph can be
 * launched again without it. Between two looks at a word that has not come it naps, shortly at first.
 *
 * Its helpers are OpenMP's, a team of the thread's own; all of them run on the node of the host that the device hangs on,
 * if that is known. They share a job out by elements, and an element is the same whoever updates it. */
#include "host.h"

#include "nodes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PART_ELEMS = 65536, /* what one helper takes at a time */
    NAP_NS = 20000,
    NAP_NS_MAX = 200000,
    LOOKS = 2000 /* before it naps: some tens of microseconds */
};

struct optim_host {
    /* owns */
    struct optim_job *jobs;
    uint32_t job_count;
    pthread_t thread;
    int is_started;
    atomic_int is_abandoned, is_closing;
    /* borrows, of the run's memory */
    struct ds_step_record *record;
    uint32_t *decided;
    /* borrows */
    const struct ds_clock *clock;
    int node; /* that the device hangs on; -1: not known */
    int thread_count;
};

ds_status optim_host_open(const struct ds_optim_options *o, uint32_t job_count,
                          struct optim_host **out)
{
    struct optim_host *host = calloc(1, sizeof *host);
    void *at = NULL;
    ds_status st;

    if (!host)
        return ds_fail(DS_ERR_NO_MEMORY, "updates by the host");
    host->jobs = calloc(job_count, sizeof *host->jobs);
    st = host->jobs ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "%u updates by the host", job_count);
    if (st == DS_OK)
        st = ds_memory_take(o->memory, DS_MEMORY_PINNED, DS_MEMORY_LABEL_WORKSPACE,
                            sizeof *host->record + sizeof *host->decided, &at);
    if (st != DS_OK) {
        optim_host_close(host);
        return st;
    }
    host->record = at;
    host->decided = (uint32_t *)(void *)(host->record + 1);
    host->clock = o->clock;
    host->node = o->device->ops->host_node ? o->device->ops->host_node(o->device) : -1;
    host->thread_count = o->thread_count > 0 ? o->thread_count : 1;
    *out = host;
    return DS_OK;
}

void optim_host_add(struct optim_host *host, const struct optim_job *job)
{
    host->jobs[host->job_count] = *job;
    host->jobs[host->job_count++].args.record = host->record;
}

/* The thread is through with the record of the step before: all its weights have been waited for. */
ds_status optim_host_decided(struct optim_host *host, struct ds_stream *compute,
                             const struct ds_step_record *record)
{
    DS_TRY(compute->device->ops->copy(compute, host->record, record, sizeof *record));
    return ds_stream_signal(compute, host->decided);
}

/* ---- the thread */

/* 0: there is nothing to wait for any more. */
static int wait_for(struct optim_host *host, uint32_t *word)
{
    uint64_t nap_ns = NAP_NS;

    for (uint32_t looks = 0; !ds_word_load(word); looks++) {
        if (atomic_load(&host->is_abandoned))
            return 0;
        if (looks < LOOKS)
            continue;
        ds_clock_sleep_ns(host->clock, nap_ns);
        nap_ns = nap_ns < NAP_NS_MAX ? nap_ns + nap_ns / 8 : nap_ns;
    }
    ds_word_store(word, 0);
    return 1;
}

static void update_part(const struct optim_job *job, uint64_t at)
{
    const uint64_t left = job->count - at;

    ds_adamw_part(&job->args, at, left < PART_ELEMS ? left : PART_ELEMS);
}

static void do_job(const struct optim_host *host, const struct optim_job *job)
{
    if (host->thread_count == 1) {
        for (uint64_t at = 0; at < job->count; at += PART_ELEMS)
            update_part(job, at);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(host->thread_count)
    for (uint64_t at = 0; at < job->count; at += PART_ELEMS)
        update_part(job, at);
}

static int do_step(struct optim_host *host)
{
    if (!wait_for(host, host->decided))
        return 0;
    for (uint32_t i = 0; i < host->job_count; i++) {
        if (!wait_for(host, host->jobs[i].go))
            return 0;
        do_job(host, &host->jobs[i]);
        ds_word_store(host->jobs[i].done, 1);
    }
    return 1;
}

static void *run(void *user)
{
    struct optim_host *host = user;

    nodes_stay_on(host->node);
    while (do_step(host))
        ;
    while (!atomic_load(&host->is_closing)) { /* streams that are drained go on */
        for (uint32_t i = 0; i < host->job_count; i++)
            ds_word_store(host->jobs[i].done, 1);
        ds_clock_sleep_ns(host->clock, NAP_NS);
    }
    return NULL;
}

ds_status optim_host_start(struct optim_host *host)
{
    const int code = pthread_create(&host->thread, NULL, run, host);

    if (code != 0)
        return ds_fail(DS_ERR_NO_MEMORY, "a thread for updates: %s", strerror(code));
    host->is_started = 1;
    return DS_OK;
}

void optim_host_abandon(struct optim_host *host)
{
    atomic_store(&host->is_abandoned, 1);
}

void optim_host_close(struct optim_host *host)
{
    if (!host)
        return;
    atomic_store(&host->is_abandoned, 1);
    atomic_store(&host->is_closing, 1);
    if (host->is_started)
        pthread_join(host->thread, NULL);
    free(host->jobs);
    free(host);
}
