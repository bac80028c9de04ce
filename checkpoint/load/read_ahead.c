/* read_ahead.c - see read_ahead.h. The thread is up to READ_AHEAD_SLOTS chunks ahead of who asks; it ends with the last
 * chunk, or the first that cannot be read. */
#include "read_ahead.h"

#include <signal.h>
#include <string.h>

static ds_status read_chunk(struct read_ahead *r, size_t number)
{
    const struct read_ahead_chunk *chunk = &r->chunks[number];

    if (r->pack && r->pack_at != chunk->pack) {
        ds_pack_close(r->pack);
        r->pack = NULL;
    }
    if (!r->pack)
        DS_TRY(ds_checkpoint_open_pack(r->fs, r->root, r->manifest, chunk->pack, &r->pack));
    r->pack_at = chunk->pack;
    return ds_checkpoint_read_chunk(r->fs, r->root, r->manifest, r->pack, chunk->index,
                                    r->buffers + number % READ_AHEAD_SLOTS * r->buffer_bytes,
                                    r->missed);
}

/* Under the lock. 0: there is nothing more to read. */
static int wait_for_room(struct read_ahead *r)
{
    while (!r->is_over && r->read - r->back == READ_AHEAD_SLOTS)
        pthread_cond_wait(&r->changed, &r->lock);
    return !r->is_over && r->read < r->count;
}

static void *run(void *user)
{
    struct read_ahead *r = user;
    ds_status st = DS_OK;

    pthread_mutex_lock(&r->lock);
    while (st == DS_OK && wait_for_room(r)) {
        const size_t number = r->read;

        pthread_mutex_unlock(&r->lock);
        st = read_chunk(r, number);
        pthread_mutex_lock(&r->lock);
        r->status[number % READ_AHEAD_SLOTS] = st;
        r->read++;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    ds_pack_close(r->pack);
    return NULL;
}

ds_status read_ahead_start(struct read_ahead *r)
{
    sigset_t all, before;

    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int code = pthread_create(&r->thread, NULL, run, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) {
        pthread_cond_destroy(&r->changed);
        pthread_mutex_destroy(&r->lock);
        return ds_fail(DS_ERR_NO_MEMORY, "start a thread that reads checkpoints: %s",
                       strerror(code));
    }
    r->is_started = 1;
    return DS_OK;
}

ds_status read_ahead_next(struct read_ahead *r, uint8_t **bytes)
{
    pthread_mutex_lock(&r->lock);
    const size_t number = r->asked++;
    DS_ASSERT(number < r->count && number - r->back < READ_AHEAD_SLOTS);
    while (r->read <= number)
        pthread_cond_wait(&r->changed, &r->lock);
    const ds_status st = r->status[number % READ_AHEAD_SLOTS];
    pthread_mutex_unlock(&r->lock);
    *bytes = r->buffers + number % READ_AHEAD_SLOTS * r->buffer_bytes;
    return st;
}

void read_ahead_give_back(struct read_ahead *r, size_t count)
{
    if (count == 0)
        return;
    pthread_mutex_lock(&r->lock);
    r->back += count;
    DS_ASSERT(r->back <= r->asked);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void read_ahead_stop(struct read_ahead *r)
{
    if (!r->is_started)
        return;
    pthread_mutex_lock(&r->lock);
    r->is_over = 1;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    r->is_started = 0;
}
