/* trial.h - which of two ways of the same work is faster on this machine just now. The first rounds go
 * both ways in turns. The shortest time of each part counts: what is added to it is somebody else's time
 * slice. Pure: no clock. */
#ifndef DSTRAIN_COMM_TRIAL_H
#define DSTRAIN_COMM_TRIAL_H

#include <stdint.h>

#define TRIAL_WAYS   2
#define TRIAL_ROUNDS 16
#define TRIAL_PARTS  3

struct trial {
    uint64_t shortest_ns[TRIAL_WAYS][TRIAL_PARTS]; /* 0: not yet seen */
};

/* The way of one of the first TRIAL_ROUNDS rounds. */
static inline unsigned trial_way(uint64_t round)
{
    return (unsigned)(round % TRIAL_WAYS);
}

static inline void trial_note(struct trial *trial, uint64_t round, unsigned part, uint64_t took_ns)
{
    uint64_t *shortest_ns = &trial->shortest_ns[trial_way(round)][part];

    if (*shortest_ns == 0 || took_ns < *shortest_ns)
        *shortest_ns = took_ns;
}

/* A whole round this way. */
static inline uint64_t trial_ns(const struct trial *trial, unsigned way)
{
    uint64_t sum_ns = 0;

    for (unsigned part = 0; part < TRIAL_PARTS; part++)
        sum_ns += trial->shortest_ns[way][part];
    return sum_ns;
}

/* The faster way; the first where nothing is known. */
static inline unsigned trial_best(const uint64_t way_ns[TRIAL_WAYS])
{
    return way_ns[1] < way_ns[0];
}

#endif
