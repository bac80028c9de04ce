/* storage_threads.c - asynchronous I/O by a few threads that call pread and pwrite of ds_fs. Runs on any
 * file system, the simulated one included, and is as fast as io_uring at the block sizes we use.
 * Threads see files and host memory only; requests go through two lists under one lock. */
#include "storage_private.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#define THREADS_MAX 4

struct request_list {
    struct ds_storage_request *first, *last;
};

struct threads {
    struct ds_fs *fs;
    const struct ds_storage_options *options;
    pthread_mutex_t lock;
    pthread_cond_t has_work, has_done;
    struct request_list work, done;
    int must_end;
    pthread_t threads[THREADS_MAX];
    uint32_t thread_count;
};

static void list_push(struct request_list *list, struct ds_storage_request *request)
{
    request->next = NULL;
    if (list->last)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

static struct ds_storage_request *list_pop(struct request_list *list)
{
    struct ds_storage_request *request = list->first;

    list->first = request->next;
    if (!list->first)
        list->last = NULL;
    return request;
}

static void transfer(const struct threads *self, struct ds_storage_request *request)
{
    int64_t moved;

    do {
        uint8_t *at = (uint8_t *)request->data + request->done_bytes;
        const size_t part = storage_part(self->options, request);
        const uint64_t offset = request->offset + request->done_bytes;

        if (request->stalls > 0)
            sched_yield();
        moved = request->is_write ? ds_fs_pwrite(self->fs, request->file, at, part, offset)
                                  : ds_fs_pread(self->fs, request->file, at, part, offset);
    } while (!storage_absorb(self->options, request, moved));
}

static void *threads_main(void *arg)
{
    struct threads *self = arg;

    pthread_mutex_lock(&self->lock);
    for (;;) {
        while (!self->work.first && !self->must_end)
            pthread_cond_wait(&self->has_work, &self->lock);
        if (!self->work.first)
            break;
        struct ds_storage_request *request = list_pop(&self->work);
        pthread_mutex_unlock(&self->lock);
        transfer(self, request);
        pthread_mutex_lock(&self->lock);
        list_push(&self->done, request);
        pthread_cond_signal(&self->has_done);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static void threads_close(void *at)
{
    struct threads *self = at;

    pthread_mutex_lock(&self->lock);
    self->must_end = 1;
    pthread_cond_broadcast(&self->has_work);
    pthread_mutex_unlock(&self->lock);
    for (uint32_t i = 0; i < self->thread_count; i++)
        pthread_join(self->threads[i], NULL);
    pthread_cond_destroy(&self->has_done);
    pthread_cond_destroy(&self->has_work);
    pthread_mutex_destroy(&self->lock);
}

/* Signals are the main thread's: a worker starts with all of them blocked. */
static int start_threads(struct threads *self, uint32_t count)
{
    sigset_t all, before;
    int code = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (self->thread_count < count && code == 0) {
        code = pthread_create(&self->threads[self->thread_count], NULL, threads_main, self);
        self->thread_count += code == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static int threads_open(void *at, struct ds_fs *fs, const struct ds_storage_options *options,
                        struct storage_refusal *refusal)
{
    struct threads *self = at;

    self->fs = fs;
    self->options = options;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->has_work, NULL);
    pthread_cond_init(&self->has_done, NULL);
    int code = start_threads(self, options->depth < THREADS_MAX ? options->depth : THREADS_MAX);
    if (code != 0) {
        threads_close(self);
        *refusal = (struct storage_refusal){"start a thread", -code};
    }
    return code != 0;
}

static ds_status threads_submit(void *at, struct ds_storage_request *request)
{
    struct threads *self = at;

    pthread_mutex_lock(&self->lock);
    list_push(&self->work, request);
    pthread_cond_signal(&self->has_work);
    pthread_mutex_unlock(&self->lock);
    return DS_OK;
}

static ds_status threads_reap(void *at, int waits, struct ds_storage_request **done)
{
    struct threads *self = at;

    pthread_mutex_lock(&self->lock);
    while (waits && !self->done.first)
        pthread_cond_wait(&self->has_done, &self->lock);
    *done = self->done.first ? list_pop(&self->done) : NULL;
    pthread_mutex_unlock(&self->lock);
    return DS_OK;
}

const struct storage_ops storage_threads_ops = {
    .name = "threads",
    .text = "pread and pwrite",
    .self_bytes = sizeof(struct threads),
    .open = threads_open,
    .close = threads_close,
    .submit = threads_submit,
    .reap = threads_reap,
};
