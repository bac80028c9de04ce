/* worker.c - the thread that drives one stream, so that a collective goes on beside arithmetic. */
#include "cpu.h"

#include <omp.h>
#include <signal.h>
#include <string.h>

static int has_work(struct cpu_stream *stream)
{
    int has;

    pthread_mutex_lock(&stream->lock);
    while (stream->queue.head == NULL && !stream->is_leaving)
        pthread_cond_wait(&stream->filled, &stream->lock);
    has = stream->queue.head != NULL;
    pthread_mutex_unlock(&stream->lock);
    return has;
}

static void *work(void *self)
{
    struct cpu_stream *stream = self;
    const struct ds_device_options *options = &stream->device->options;
    struct cpu_pause pause = {0};

    omp_set_num_threads(options->thread_count); /* a new thread has the machine's count otherwise */
    while (has_work(stream)) {
        if (ds_cpu_stream_step(stream) == CPU_STEP_STUCK)
            ds_cpu_pause(&pause, options->clock);
        else
            pause.count = 0;
    }
    return NULL;
}

/* Signals are for the main thread: the worker is born with all of them blocked. */
ds_status ds_cpu_worker_start(struct cpu_stream *stream)
{
    sigset_t all, before;
    int code;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&stream->worker, NULL, work, stream);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0)
        return ds_fail(DS_ERR_DEVICE, "start the thread of a stream: %s", strerror(code));
    return DS_OK;
}

void ds_cpu_worker_join(struct cpu_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->is_leaving = 1;
    pthread_cond_signal(&stream->filled);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->worker, NULL);
}

/* No deadline here: works have theirs, and a work that gives up counts as done. */
void ds_cpu_worker_await(struct cpu_stream *stream, uint64_t position)
{
    pthread_mutex_lock(&stream->lock);
    while (!ds_cpu_stream_reached(stream, position))
        pthread_cond_wait(&stream->moved, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}
