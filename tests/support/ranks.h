/* ranks.h - runs a body once per rank, ranks being threads of this process. */
#ifndef DSTRAIN_TEST_RANKS_H
#define DSTRAIN_TEST_RANKS_H

#include "dstrain/comm.h"

#include <pthread.h>
#include <stdlib.h>

typedef void ranks_body(struct ds_comm *world, void *user);

struct ranks_thread {
    pthread_t thread;
    struct ds_comm *world;
    ranks_body *body;
    void *user;
};

static void *ranks_main(void *arg)
{
    struct ranks_thread *rank = arg;

    rank->body(rank->world, rank->user);
    return NULL;
}

/* 0: the world could not be made */
static inline int run_ranks(uint32_t size, uint64_t deadline_ns, ranks_body *body, void *user)
{
    struct ranks_thread *ranks = calloc(size, sizeof *ranks);
    struct ds_comm **world = calloc(size, sizeof *world);
    int is_made = ranks && world &&
                  ds_comm_threads_open(size, ds_clock_system(), deadline_ns, world) == DS_OK;

    for (uint32_t i = 0; is_made && i < size; i++) {
        ranks[i] = (struct ranks_thread){.world = world[i], .body = body, .user = user};
        pthread_create(&ranks[i].thread, NULL, ranks_main, &ranks[i]);
    }
    for (uint32_t i = 0; is_made && i < size; i++)
        pthread_join(ranks[i].thread, NULL);
    if (is_made)
        ds_comm_threads_close(world, size);
    free(ranks);
    free(world);
    return is_made;
}

#endif
