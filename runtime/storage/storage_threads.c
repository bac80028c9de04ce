/* storage_threads.c - asynchronous I/O by a few threads that call pread and pwrite of ds_fs. Runs on any
 * file system, the simulated one included, and is as fast as io_uring at the block sizes we use.
 * Threads see files and host memory only; requests go through two lists under one lock. */
#include "storage_private.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#define THREADS_MAX 4

struct request_list {
    struct ds_storage_request *first, *last;
};

struct threads {
    struct ds_fs *fs;
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

static void transfer(struct ds_fs *fs, struct ds_storage_request *request)
{
    while (request->done_bytes < request->bytes) {
        uint8_t *at = (uint8_t *)request->data + request->done_bytes;
        size_t left = request->bytes - request->done_bytes;
        uint64_t offset = request->offset + request->done_bytes;
        int64_t moved = request->is_write ? ds_fs_pwrite(fs, request->file, at, left, offset)
                                          : ds_fs_pread(fs, request->file, at, left, offset);

        if (moved <= 0) {
            request->status = storage_request_failed(request, (int)moved);
            return;
        }
        request->done_bytes += (size_t)moved;
    }
    request->status = DS_OK;
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
        transfer(self->fs, request);
        pthread_mutex_lock(&self->lock);
        list_push(&self->done, request);
        pthread_cond_signal(&self->has_done);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static int threads_score(void)
{
    return 1;
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

static ds_status threads_open(void *at, struct ds_fs *fs, uint32_t depth)
{
    struct threads *self = at;

    self->fs = fs;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->has_work, NULL);
    pthread_cond_init(&self->has_done, NULL);
    int code = start_threads(self, depth < THREADS_MAX ? depth : THREADS_MAX);
    if (code != 0) {
        threads_close(self);
        return ds_fail(DS_ERR_NO_MEMORY, "start a storage thread: %s", strerror(code));
    }
    return DS_OK;
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

static ds_status threads_reap(void *at, struct ds_storage_request **done)
{
    struct threads *self = at;

    pthread_mutex_lock(&self->lock);
    while (!self->done.first)
        pthread_cond_wait(&self->has_done, &self->lock);
    *done = list_pop(&self->done);
    pthread_mutex_unlock(&self->lock);
    return DS_OK;
}

const struct ds_storage_ops ds_storage_threads_ops = {
    .name = "threads",
    .self_bytes = sizeof(struct threads),
    .score = threads_score,
    .open = threads_open,
    .close = threads_close,
    .submit = threads_submit,
    .reap = threads_reap,
};
